// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A text that has room for more than a request may set.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

volatile char note[200000];

SEC("xdp") int pass(struct xdp_md *ctx)
{
	return note[ctx->rx_queue_index & 1023] == 'x' ? XDP_DROP : XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
