// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A global function of hidden visibility: loaders treat it as static, else the verifier checks it without its caller.
// Its parameter has a declaration tag that changes what the verifier believes.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct pair { __u32 a, b; };

__attribute__((noinline, visibility("hidden")))
int sum(struct pair *pair __attribute__((btf_decl_tag("arg:nonnull"))))
{
	return pair->a + pair->b;
}

SEC("xdp") int adds(struct xdp_md *ctx)
{
	struct pair pair = { ctx->rx_queue_index, ctx->ingress_ifindex };

	return sum(&pair) & 1 ? XDP_PASS : XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
