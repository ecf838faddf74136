// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Passes every packet. The object is as large as PADDING, in a section that nothing loads: as large ones are, by what debuggers read. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

__asm__(".section .debug_padding,\"\",@progbits\n"
	".incbin \"" PADDING "\"\n"
	".text\n");

SEC("xdp")
int pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
