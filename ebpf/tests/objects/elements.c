// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Maps of many types, some of which hold something once a packet came.
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

enum verdict { DENY, ALLOW = 3 };

struct flow {
	__u32 source;
	__u16 port;
	bool inner;
};

struct stats {
	__u64 packets;
	__s32 balance;
	enum verdict verdict;
	char name[8];
	__u8 low : 3, high : 5;
	union {
		__u32 word;
		__u16 half;
	};
	struct {
		__u16 pair[2];
	} deep[2];
	void *pointer;
};

struct prefix {
	__u32 prefixlen;
	__u8 addr[4];
};

struct record {
	__u64 number;
	char text[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__type(key, struct flow);
	__type(value, struct stats);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, enum verdict);
} blocked SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct stats);
} per_cpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 3);
	__uint(key_size, 4);
	__uint(value_size, 3);
} plain SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} sealed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 20000);
	__type(key, __u32);
	__type(value, __u32);
} many SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 2);
	__uint(key_size, 4);
	__uint(value_size, 4);
} devices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 2);
	__uint(key_size, 0);
	__type(value, __u32);
} line SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} samples SEC(".maps");

/* So that the type information has the record, which no map names. */
const struct record *shape;
volatile const __u32 limit = 7;
struct stats last;
static volatile __u16 ports[2] = { 80, 443 };

SEC("xdp") int fill(struct xdp_md *ctx)
{
	struct flow flow = { .source = 10, .port = 443, .inner = true };
	struct stats stats = { .packets = limit, .balance = -2, .verdict = ALLOW, .name = "eth0", .low = 5, .high = 17 };
	struct record record = { .number = ctx->data_end - ctx->data, .text = "abc" };
	__u32 key = 1;
	struct stats *slot;

	stats.word = 0x01020304;
	stats.deep[1].pair[1] = ports[1];
	bpf_map_update_elem(&flows, &flow, &stats, BPF_ANY);
	bpf_map_update_elem(&per_cpu, &key, &stats, BPF_NOEXIST);
	slot = bpf_map_lookup_elem(&per_cpu, &key);
	if (slot)
		slot->packets = 1000;
	last.packets += 1;
	ports[0] = last.packets;
	bpf_perf_event_output(ctx, &samples, BPF_F_CURRENT_CPU, &record, sizeof(record));
	bpf_map_lookup_elem(&blocked, &(struct prefix){ .prefixlen = 32 });
	bpf_map_lookup_elem(&plain, &key);
	bpf_map_lookup_elem(&sealed, &key);
	bpf_map_lookup_elem(&many, &key);
	bpf_map_push_elem(&line, &key, BPF_EXIST);
	return bpf_redirect_map(&devices, 0, XDP_PASS);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
