// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// An ld_imm64 whose pseudo source register names map fd 7: a number that the loader never wrote.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp") int steal(struct xdp_md *ctx)
{
	__u32 zero = 0;
	void *map;

	asm volatile(".byte 0x18, 0x10, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0\n\t%0 = r0" : "=r"(map) : : "r0");
	return bpf_map_lookup_elem(map, &zero) ? XDP_DROP : XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
