// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Counts packets into the map `packets`, one slot a CPU: `count` lets the next
 * program of the hook see them too, `stop` drops them.
 *
 * `step` is what each packet adds: set it at load to tell several copies of this
 * program on one interface apart by their counters.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

volatile const __u32 step = 1;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} packets SEC(".maps");

static __always_inline void add(void)
{
	__u32 key = 0;
	__u64 *slot = bpf_map_lookup_elem(&packets, &key);

	if (slot)
		*slot += step;
}

SEC("tc")
int count(struct __sk_buff *skb)
{
	add();
	return TC_ACT_UNSPEC;
}

SEC("tc")
int stop(struct __sk_buff *skb)
{
	add();
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
