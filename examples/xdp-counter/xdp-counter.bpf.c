// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Counts packets into the map `packets`, one slot a CPU, and lets them through.
 *
 * `step` is what each packet adds: set it at load to tell several copies of this
 * program on one interface apart by their counters.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

volatile const __u32 step = 1;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} packets SEC(".maps");

SEC("xdp")
int count(struct xdp_md *ctx)
{
	__u32 key = 0;
	__u64 *slot = bpf_map_lookup_elem(&packets, &key);

	if (slot)
		*slot += step;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
