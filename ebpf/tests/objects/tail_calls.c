// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A program array and a map of maps that start with contents; the array leads on from one program to the next, and from a function.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct counter {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} entries SEC(".maps"), firsts SEC(".maps"), seconds SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 3);
	__type(key, __u32);
	__array(values, struct counter);
} counters SEC(".maps") = { .values = { [0] = &entries, [2] = &seconds } };

int first(struct xdp_md *ctx);
int second(struct xdp_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__array(values, int(void *));
} table SEC(".maps") = { .values = { [1] = (void *)&first, [3] = (void *)&second } };

static __always_inline void count(__u32 which)
{
	__u32 zero = 0;
	void *inner = bpf_map_lookup_elem(&counters, &which);
	__u64 *count = inner ? bpf_map_lookup_elem(inner, &zero) : 0;

	if (count)
		__sync_fetch_and_add(count, 1);
}

static __attribute__((noinline)) int leave(struct xdp_md *ctx)
{
	int verdict = XDP_DROP;

	bpf_tail_call(ctx, &table, 3);
	/* Not for the compiler to know: the tail call's verdict is this function's. */
	asm volatile("" : "+r"(verdict));
	return verdict;
}

SEC("xdp") int entry(struct xdp_md *ctx)
{
	count(0);
	bpf_tail_call(ctx, &table, 1);
	return XDP_DROP;
}

SEC("xdp") int first(struct xdp_md *ctx)
{
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&firsts, &zero);

	if (count)
		__sync_fetch_and_add(count, 1);
	return leave(ctx);
}

SEC("xdp") int second(struct xdp_md *ctx)
{
	count(2);
	return XDP_PASS;
}

SEC("xdp") int plain(struct xdp_md *ctx) { return XDP_PASS; }

char LICENSE[] SEC("license") = "GPL";
