// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A run config with a member that libxdp refuses.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(prioritee, 10);
} _typo SEC(".xdp_run_config");

SEC("xdp") int typo(struct xdp_md *ctx) { return XDP_PASS; }

char LICENSE[] SEC("license") = "GPL";
