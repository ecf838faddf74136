// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A map that takes 300 MiB when it is full, and next to nothing before.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct value {
	char bytes[1024];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 280000);
	__type(key, __u32);
	__type(value, struct value);
} large SEC(".maps");

SEC("xdp") int pass(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;

	return bpf_map_lookup_elem(&large, &key) ? XDP_DROP : XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
