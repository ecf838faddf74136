// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What an object asks for in a chain, as libxdp's XDP_RUN_CONFIG writes it.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(priority, 10);
	__uint(XDP_PASS, 1);
	__uint(XDP_DROP, 1);
} _chained SEC(".xdp_run_config");

struct {
	__uint(XDP_PASS, 0);
} _last SEC(".xdp_run_config");

struct {
	__uint(XDP_DROP, 1);
} _also SEC(".xdp_run_config");

SEC("xdp") int chained(struct xdp_md *ctx) { return XDP_PASS; }
SEC("xdp") int last(struct xdp_md *ctx) { return XDP_PASS; }
SEC("xdp") int also(struct xdp_md *ctx) { return XDP_PASS; }
SEC("xdp") int silent(struct xdp_md *ctx) { return XDP_PASS; }

char LICENSE[] SEC("license") = "GPL";
