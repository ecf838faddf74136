// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// 64 small maps.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define MAP(name)                                                                                  \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                  \
		__uint(max_entries, 1);                                                            \
		__type(key, __u32);                                                                \
		__type(value, __u32);                                                              \
	} name SEC(".maps");
#define EIGHT(name) MAP(name##0) MAP(name##1) MAP(name##2) MAP(name##3) MAP(name##4) MAP(name##5) MAP(name##6) MAP(name##7)

EIGHT(a) EIGHT(b) EIGHT(c) EIGHT(d) EIGHT(e) EIGHT(f) EIGHT(g) EIGHT(h)

SEC("xdp") int pass(struct xdp_md *ctx)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&a0, &key) ? XDP_PASS : XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
