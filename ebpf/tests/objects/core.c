// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A CO-RE relocation: the offset of a member of a kernel struct.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

struct task_struct {
	int pid;
} __attribute__((preserve_access_index));

volatile int last_pid;

SEC("tracepoint/sched/sched_switch") int on_switch(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	last_pid = BPF_CORE_READ(task, pid);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
