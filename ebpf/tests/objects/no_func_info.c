// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A function written in assembly, which has no type information: programs that call it, one of which needs that of all functions.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

asm(".text\n"
    ".globl bare\n"
    ".type bare, @function\n"
    "bare:\n"
    "r0 = 2\n"
    "exit\n"
    ".size bare, . - bare\n");
int bare(void);

volatile __u64 turns;

static long each(__u32 index, void *data) { turns += index; return 0; }

SEC("xdp") int calls(struct xdp_md *ctx) { turns += 1; return bare(); }
SEC("xdp") int loops(struct xdp_md *ctx) { bpf_loop(4, each, 0, 0); return bare(); }

char LICENSE[] SEC("license") = "GPL";
