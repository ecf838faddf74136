// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// BTF maps: sizes by type and by number, a wish to be pinned beside a map whose max_entries shares its BTF type, a map of
// maps, a ring buffer.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct key { __u32 source; __u16 port; };
struct value { __u64 packets, bytes; };

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct key);
	__type(value, struct value);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_COMMON_LRU);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 8);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} pinned SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 2);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(key_size, 4);
	__uint(max_entries, 3);
	__array(values, struct inner);
} outer SEC(".maps");

SEC("xdp") int count(struct xdp_md *ctx)
{
	struct key key = { .source = ctx->ingress_ifindex };
	__u32 zero = 0;
	__u64 *packets = bpf_map_lookup_elem(&pinned, &zero);
	struct value *value = bpf_map_lookup_elem(&flows, &key);

	if (packets)
		*packets += 1;
	if (value)
		value->packets += 1;
	if (bpf_map_lookup_elem(&outer, &zero))
		bpf_ringbuf_output(&events, &zero, sizeof(zero), 0);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
