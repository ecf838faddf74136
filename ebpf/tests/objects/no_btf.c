// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Compiled without -g: no .BTF, no .BTF.ext.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

__u32 drops;

SEC("xdp") int pass(struct xdp_md *ctx) { drops += 1; return XDP_PASS; }

char LICENSE[] SEC("license") = "GPL";
