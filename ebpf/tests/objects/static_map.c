// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A static map: its relocation may name the section alone.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

static struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} inside SEC(".maps");

SEC("xdp") int count(struct xdp_md *ctx)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&inside, &zero) ? XDP_DROP : XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
