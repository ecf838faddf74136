// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A program array that starts with contents.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

int target(struct xdp_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__array(values, int(void *));
} table SEC(".maps") = { .values = { (void *)&target } };

SEC("xdp") int target(struct xdp_md *ctx) { return XDP_DROP; }

SEC("xdp") int jumps(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &table, 0);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
