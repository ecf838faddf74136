// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The object whose image has golden digests: programs of three kinds and one that states none, a run configuration, a map
// and globals of several types. Made by `clang -O2 -g -target bpf -fdebug-compilation-dir=. -c`, then `llvm-strip-14 -g`.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(priority, 20);
	__uint(XDP_PASS, 1);
	__uint(XDP_TX, 1);
} _xdp_stats SEC(".xdp_run_config");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} xdp_stats_map SEC(".maps");

const volatile __u32 sample_rate = 100;
const volatile __s16 shift = -3;
const volatile __u64 huge = 0xffffffffffffffffULL;
const volatile char device[16] = "eth0";
volatile _Bool enabled = 1;

static __always_inline void count(__u32 slot)
{
	__u64 *packets = bpf_map_lookup_elem(&xdp_stats_map, &slot);

	if (packets && enabled)
		*packets += sample_rate + shift + huge + device[slot & 15];
}

SEC("xdp") int xdp_stats(struct xdp_md *ctx)
{
	count(0);
	return XDP_PASS;
}

SEC("?xdp.frags") int xdp_spare(struct xdp_md *ctx) { return XDP_DROP; }

SEC("tcx/ingress") int tc_count(struct __sk_buff *skb)
{
	count(1);
	return -1;
}

SEC("tracepoint/sched/sched_switch") int on_switch(void *ctx)
{
	count(2);
	return 0;
}

SEC("pass") int let_through(struct xdp_md *ctx) { return XDP_PASS; }

char LICENSE[] SEC("license") = "Dual BSD/GPL";
