// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Globals of every type that can be set by text, and of some that cannot.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

typedef unsigned short u16;
enum mode { MODE_SLOW = 1, MODE_FAST = 7 };
enum offset { OFFSET_BELOW = -1, OFFSET_ABOVE = 1 };
struct key { __u32 a, b; };

const volatile u16 port = 53;
const volatile __u32 rate = 1000;
const volatile _Bool enabled = 1;
const volatile char letter = 'x';
const volatile signed char shift = -3;
const volatile enum mode mode = MODE_FAST;
const volatile enum offset direction = OFFSET_BELOW;
const volatile char device[16] = "eth0";
const volatile u16 ports[4] = { 80, 443 };
const volatile struct key key = { 1, 2 };
volatile __u64 limit = 0x1122334455667788ULL;
static volatile int hidden = -5;
volatile __u64 packets;
volatile __u8 buffer[300] = { 1 };
volatile __u32 custom SEC(".data.custom") = 9;

SEC("xdp") int use(struct xdp_md *ctx)
{
	packets += port + rate + enabled + letter + shift + mode + direction + device[ctx->rx_queue_index & 15] +
		   ports[ctx->rx_queue_index & 3] + key.a + limit + hidden + buffer[ctx->rx_queue_index & 255] + custom;
	hidden = 1;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
