// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Every section name that bpfd reads: kinds, hooks, frags, optional, silent, unsupported; two programs in one section.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp") int xdp_first(struct xdp_md *ctx) { return XDP_PASS; }
SEC("xdp") int xdp_second(struct xdp_md *ctx) { return XDP_DROP; }
SEC("xdp/foo") int xdp_named(struct xdp_md *ctx) { return XDP_TX; }
SEC("xdp.frags") int xdp_frags(struct xdp_md *ctx) { return XDP_PASS; }
SEC("?xdp") int xdp_optional(struct xdp_md *ctx) { return XDP_ABORTED; }
SEC("xdp/devmap") int xdp_in_devmap(struct xdp_md *ctx) { return XDP_PASS; }
SEC("pass") int xdp_pass_func(struct xdp_md *ctx) { return XDP_PASS; }
SEC("tc") int tc_plain(struct __sk_buff *skb) { return 0; }
SEC("tcx/ingress") int tc_in(struct __sk_buff *skb) { return -1; }
SEC("classifier/egress") int tc_out(struct __sk_buff *skb) { return 0; }
SEC("tracepoint/sched/sched_switch") int on_switch(void *ctx) { return 0; }
SEC("tp/syscalls/sys_enter_kill") int on_kill(void *ctx) { return 0; }
SEC("kprobe.multi/vfs_*") int on_vfs(void *ctx) { return 0; }

char LICENSE[] SEC("license") = "Dual BSD/GPL";
