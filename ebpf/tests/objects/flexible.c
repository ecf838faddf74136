// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// CO-RE relocations of elements of a flexible array, which the kernel's own struct declares with a length: some that it has, one that
// it does not have, one of a struct inside another one.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct trace_event_raw_sys_enter {
	long id;
	unsigned long args[];
} __attribute__((preserve_access_index));

struct nested {
	int first;
	struct trace_event_raw_sys_enter inner;
} __attribute__((preserve_access_index));

volatile unsigned long last;

SEC("tracepoint/raw_syscalls/sys_enter") int on_enter(struct trace_event_raw_sys_enter *ctx)
{
	last = ctx->args[0] + ctx->args[3];
	return 0;
}

SEC("tracepoint/raw_syscalls/sys_enter") int beyond(struct trace_event_raw_sys_enter *ctx)
{
	last = __builtin_preserve_field_info(ctx->args[9], 2 /* BPF_FIELD_EXISTS */);
	return 0;
}

SEC("tracepoint/raw_syscalls/sys_enter") int in_a_struct(struct nested *ctx)
{
	last = __builtin_preserve_field_info(ctx->inner.args[2], 2 /* BPF_FIELD_EXISTS */);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
