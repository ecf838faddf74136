// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Static and global subprograms, a callback, and a program that one section shares with one nobody asks for.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

volatile __u64 calls;

static __attribute__((noinline)) int inner(__u32 a) { calls += a; return a & 1; }
__attribute__((noinline)) int outer(struct xdp_md *ctx) { return inner(ctx->rx_queue_index) + 1; }
static long each(__u32 index, void *data) { calls += index; return 0; }

SEC("xdp/a") int calls_outer(struct xdp_md *ctx) { return outer(ctx) ? XDP_PASS : XDP_DROP; }
SEC("xdp/b") int calls_both(struct xdp_md *ctx) { return outer(ctx) + inner(3) ? XDP_PASS : XDP_DROP; }
SEC("xdp/b") int loops(struct xdp_md *ctx) { bpf_loop(4, each, 0, 0); return XDP_PASS; }
SEC("kprobe/vfs_read") int unwanted(void *ctx) { calls += 1; return 0; }

char LICENSE[] SEC("license") = "GPL";
