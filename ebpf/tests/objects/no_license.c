// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// No license section.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp") int pass(struct xdp_md *ctx) { return XDP_PASS; }
