// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Callees at the same offset of two sections.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

volatile __u32 calls;

static __attribute__((noinline)) int warm(void) { return ++calls; }
static __attribute__((noinline, section(".text.cold"))) int cold(void) { return --calls; }

SEC("xdp") int calls_one(struct xdp_md *ctx) { return warm() ? XDP_PASS : XDP_DROP; }
SEC("xdp") int calls_two(struct xdp_md *ctx) { return warm() + cold() ? XDP_PASS : XDP_DROP; }

char LICENSE[] SEC("license") = "GPL";
