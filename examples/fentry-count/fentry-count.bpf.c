// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Counts removals of files, one slot a CPU: entries to the kernel's function into the map `entries`, returns into `exits`. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct counter {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
};

struct counter entries SEC(".maps");
struct counter exits SEC(".maps");

static int count(void *map)
{
	__u32 key = 0;
	__u64 *count = bpf_map_lookup_elem(map, &key);

	if (count)
		*count += 1;
	return 0;
}

SEC("fentry/do_unlinkat")
int on_entry(void *ctx)
{
	return count(&entries);
}

SEC("fexit/do_unlinkat")
int on_exit(void *ctx)
{
	return count(&exits);
}

/* For the function that a load names; not loaded otherwise. */
SEC("?fentry")
int on_any(void *ctx)
{
	return count(&entries);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
