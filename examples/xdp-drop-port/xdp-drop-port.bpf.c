// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Drops UDP datagrams and TCP segments sent to one port, over IPv4 and IPv6.
 *
 * `port` is in host byte order, so that `--set port=53` means port 53; 0 drops
 * nothing. Extension headers and fragments other than the first are let through:
 * this is an example of a typed global, not a firewall. Dropped packets are
 * counted in the map `dropped`.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define IPV4_OFFSET_BITS 0x1fff

volatile const __u16 port = 0;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} dropped SEC(".maps");

/* TCP and UDP both start with source port, destination port. */
struct ports {
	__be16 source;
	__be16 dest;
};

static __always_inline int to_our_port(void *l4, void *end)
{
	struct ports *ports = l4;

	return (void *)(ports + 1) <= end && port && ports->dest == bpf_htons(port);
}

static __always_inline int has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
}

SEC("xdp")
int drop_port(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	void *l4;

	if ((void *)(eth + 1) > end)
		return XDP_PASS;

	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end || ip->ihl < 5 || !has_ports(ip->protocol) ||
		    (ip->frag_off & bpf_htons(IPV4_OFFSET_BITS)))
			return XDP_PASS;
		l4 = (void *)ip + ip->ihl * 4;
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip6 = (void *)(eth + 1);

		if ((void *)(ip6 + 1) > end || !has_ports(ip6->nexthdr))
			return XDP_PASS;
		l4 = ip6 + 1;
	} else {
		return XDP_PASS;
	}

	if (to_our_port(l4, end)) {
		__u32 key = 0;
		__u64 *count = bpf_map_lookup_elem(&dropped, &key);

		if (count)
			*count += 1;
		return XDP_DROP;
	}
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
