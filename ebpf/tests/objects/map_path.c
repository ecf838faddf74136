// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A map named like a pin of bpfd's.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} stolen __asm__("/sys/fs/bpf/bpfd/v1/app/map_secrets") SEC(".maps");

SEC("xdp") int read_it(struct xdp_md *ctx)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&stolen, &zero) ? XDP_DROP : XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
