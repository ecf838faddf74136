// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Calls as deep as the kernel allows a program of its own: one level more is too much.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define FUNCTION static __attribute__((noinline)) int

FUNCTION d7(struct xdp_md *ctx) { return ctx->rx_queue_index == 99 ? XDP_DROP : XDP_PASS; }
FUNCTION d6(struct xdp_md *ctx) { return d7(ctx) + (ctx->ingress_ifindex == 9999); }
FUNCTION d5(struct xdp_md *ctx) { return d6(ctx) + (ctx->ingress_ifindex == 9998); }
FUNCTION d4(struct xdp_md *ctx) { return d5(ctx) + (ctx->ingress_ifindex == 9997); }
FUNCTION d3(struct xdp_md *ctx) { return d4(ctx) + (ctx->ingress_ifindex == 9996); }
FUNCTION d2(struct xdp_md *ctx) { return d3(ctx) + (ctx->ingress_ifindex == 9995); }
FUNCTION d1(struct xdp_md *ctx) { return d2(ctx) + (ctx->ingress_ifindex == 9994); }

SEC("xdp") int deepest(struct xdp_md *ctx)
{
	return d1(ctx) + (ctx->ingress_ifindex == 9993);
}

char LICENSE[] SEC("license") = "GPL";
