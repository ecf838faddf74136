// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Counts removals of files, one slot a CPU: calls of the kernel's function into the map `calls`, returns into `returns`. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct counter {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
};

struct counter calls SEC(".maps");
struct counter returns SEC(".maps");

static int count(void *map)
{
	__u32 key = 0;
	__u64 *count = bpf_map_lookup_elem(map, &key);

	if (count)
		*count += 1;
	return 0;
}

SEC("kprobe/do_unlinkat")
int on_call(void *ctx)
{
	return count(&calls);
}

SEC("kretprobe/do_unlinkat")
int on_return(void *ctx)
{
	return count(&returns);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
