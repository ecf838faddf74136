// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Lets packets through, after a loop that the verifier walks round by round: close to its limit of a million instructions. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int slow(struct xdp_md *ctx)
{
	__u64 seen[32] = {};
	__u64 sum = 0;

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < 25000; i++) {
		asm volatile("" : "+r"(i));
		seen[i % 32] = bpf_get_prandom_u32();
		sum += seen[(i + 7) % 32];
	}
	return sum == 1 ? XDP_DROP : XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
