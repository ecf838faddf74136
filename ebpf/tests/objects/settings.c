// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Variables with parts, in sections of their own too; the program adds up what they were set to.
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

enum mode { OFF, SOFT = 3, HARD = 7 };

struct limits {
	__u32 low;
	__u32 high;
	struct {
		bool strict;
	};
	union {
		__u32 word;
		__u16 half;
	} either;
	__u32 flag : 1;
	enum mode mode;
};

volatile const struct limits limits = { 1, 2 };
volatile const struct limits pairs[2];
SEC(".rodata.config") volatile const bool flags[4];
SEC(".data.state") volatile __u8 grid[2][3];
volatile const char names[2][8];
volatile const union {
	__u32 word;
	__u16 half;
} whole;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

SEC("xdp") int sum(struct xdp_md *ctx)
{
	__u32 key = 0;
	__u64 *slot = bpf_map_lookup_elem(&seen, &key);

	if (slot)
		*slot = limits.high + limits.strict + 10 * pairs[1].low + 100 * pairs[1].mode + 1000 * flags[2] + 10000 * grid[1][2]
			+ 100000 * (names[1][0] == 'b') + 1000000 * whole.half;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
