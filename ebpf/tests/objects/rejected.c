// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Programs that the verifier refuses: a packet read without a bounds check, in a program and in a function it calls.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

static __attribute__((noinline)) int protocol(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	return eth->h_proto;
}

SEC("xdp") int direct(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	if (eth->h_proto == 8)
		return XDP_DROP;
	return XDP_PASS;
}

SEC("xdp") int by_call(struct xdp_md *ctx)
{
	if (ctx->rx_queue_index > 3)
		return XDP_PASS;
	return protocol(ctx) == 8 ? XDP_DROP : XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
