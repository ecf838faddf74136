// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// CO-RE relocations that ask for the number of a type of the kernel, whether there is one, and how large it is.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

struct task_struct___ours {
	int pid;
} __attribute__((preserve_access_index));

struct nowhere {
	int pid;
} __attribute__((preserve_access_index));

volatile long id, size;
volatile int there, absent;

SEC("tracepoint/sched/sched_switch") int on_switch(void *ctx)
{
	id = bpf_core_type_id_kernel(struct task_struct___ours);
	size = bpf_core_type_size(struct task_struct___ours);
	there = bpf_core_type_exists(struct task_struct___ours);
	absent = bpf_core_type_exists(struct nowhere);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
