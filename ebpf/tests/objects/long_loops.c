// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Short programs that the verifier follows for long: it takes a million steps through one at most.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define LOOP(name, thousands)                                                                      \
	SEC("xdp") int name(struct xdp_md *ctx)                                                    \
	{                                                                                          \
		int zero;                                                                          \
                                                                                                   \
		_Pragma("clang loop unroll(disable)") for (int i = 0; i < thousands; i++)          \
			asm volatile(".rept 996\n%0 = 0\n.endr" : "=r"(zero));                     \
		return XDP_PASS;                                                                   \
	}

LOOP(steps_200k, 200)
LOOP(steps_700k, 700)
LOOP(steps_800k, 800)

char LICENSE[] SEC("license") = "GPL";
