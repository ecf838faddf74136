// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// No license section: a program that needs none, and one whose helper is for GPL-compatible programs only.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp") int pass(struct xdp_md *ctx) { return XDP_PASS; }

SEC("xdp") int reads(struct xdp_md *ctx)
{
	__u32 word = 0;

	bpf_probe_read_kernel(&word, sizeof(word), ctx);
	return word ? XDP_DROP : XDP_PASS;
}
