// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Counts context switches by process, priority and CPU: of the size of a small real tracer. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct switched {
	__u64 pad;
	char prev_comm[16];
	__s32 prev_pid;
	__s32 prev_prio;
	__s64 prev_state;
	char next_comm[16];
	__s32 next_pid;
	__s32 next_prio;
};

struct totals {
	__u64 switches;
	__u64 voluntary;
	__u64 slots[16];
};

#define COUNTER(NAME, KEY)                         \
	struct {                                   \
		__uint(type, BPF_MAP_TYPE_HASH);   \
		__uint(max_entries, 64);           \
		__type(key, KEY);                  \
		__type(value, struct totals);      \
	} NAME SEC(".maps")

COUNTER(by_process, __s32);
COUNTER(by_priority, __s32);
COUNTER(by_cpu, __u32);

const volatile __s32 only = 0;

#define ADD(MAP, KEY)                                                                  \
	do {                                                                           \
		struct totals *found = bpf_map_lookup_elem(&MAP, KEY), fresh = {};     \
		if (!found) {                                                          \
			bpf_map_update_elem(&MAP, KEY, &fresh, BPF_NOEXIST);           \
			found = bpf_map_lookup_elem(&MAP, KEY);                        \
		}                                                                      \
		if (found) {                                                           \
			__sync_fetch_and_add(&found->switches, 1);                     \
			if (context->prev_state)                                       \
				__sync_fetch_and_add(&found->voluntary, 1);            \
			__sync_fetch_and_add(&found->slots[context->next_prio & 15], 1); \
		}                                                                      \
	} while (0)

SEC("tracepoint/sched/sched_switch")
int on_switch(struct switched *context)
{
	__s32 pid = context->prev_pid, priority = context->prev_prio;
	__u32 cpu = bpf_get_smp_processor_id();

	if (only && pid != only)
		return 0;
	ADD(by_process, &pid);
	ADD(by_priority, &priority);
	ADD(by_cpu, &cpu);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
