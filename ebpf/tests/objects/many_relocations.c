// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// 1,500 CO-RE relocations, each of a flavour of its own of a large kernel struct: each could be looked for among all of the kernel's types.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define TEN(what, n) what(n##0) what(n##1) what(n##2) what(n##3) what(n##4) what(n##5) what(n##6) what(n##7) what(n##8) what(n##9)
#define HUNDRED(what, n) \
	TEN(what, n##0) TEN(what, n##1) TEN(what, n##2) TEN(what, n##3) TEN(what, n##4) \
	TEN(what, n##5) TEN(what, n##6) TEN(what, n##7) TEN(what, n##8) TEN(what, n##9)
#define ALL(what) \
	HUNDRED(what, _0) HUNDRED(what, _1) HUNDRED(what, _2) HUNDRED(what, _3) HUNDRED(what, _4) \
	HUNDRED(what, _5) HUNDRED(what, _6) HUNDRED(what, _7) HUNDRED(what, _8) HUNDRED(what, _9) \
	HUNDRED(what, _10) HUNDRED(what, _11) HUNDRED(what, _12) HUNDRED(what, _13) HUNDRED(what, _14)

#define FLAVOUR(n) struct task_struct__##n { int pid; } __attribute__((preserve_access_index));
ALL(FLAVOUR)

#define OFFSET(n) sum += __builtin_preserve_field_info(((struct task_struct__##n *)0)->pid, 0);

SEC("xdp") int many(struct xdp_md *ctx)
{
	int sum = 0;

	ALL(OFFSET)
	return sum == 5 ? XDP_DROP : XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
