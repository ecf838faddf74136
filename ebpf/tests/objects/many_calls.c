// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// 100 programs that call one long function. Each has a copy of it when it is loaded: more than a million instructions together.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

static __attribute__((noinline)) int longest(void)
{
	int zero;

	asm volatile(".rept 10000\n%0 = 0\n.endr" : "=r"(zero));
	return zero;
}

#define PROGRAM(name)                                                                              \
	SEC("xdp") int name(struct xdp_md *ctx)                                                    \
	{                                                                                          \
		return longest() + XDP_PASS;                                                       \
	}
#define TEN(name)                                                                                  \
	PROGRAM(name##0) PROGRAM(name##1) PROGRAM(name##2) PROGRAM(name##3) PROGRAM(name##4)       \
	PROGRAM(name##5) PROGRAM(name##6) PROGRAM(name##7) PROGRAM(name##8) PROGRAM(name##9)

TEN(p0) TEN(p1) TEN(p2) TEN(p3) TEN(p4) TEN(p5) TEN(p6) TEN(p7) TEN(p8) TEN(p9)

char LICENSE[] SEC("license") = "GPL";
