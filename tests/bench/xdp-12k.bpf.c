// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Counts packets by protocol, length and processor: of the size of a small real program. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

struct totals {
	__u64 packets;
	__u64 bytes;
	__u64 slots[16];
};

#define COUNTER(NAME, KEY)                         \
	struct {                                   \
		__uint(type, BPF_MAP_TYPE_HASH);   \
		__uint(max_entries, 64);           \
		__type(key, KEY);                  \
		__type(value, struct totals);      \
	} NAME SEC(".maps")

COUNTER(by_protocol, __u16);
COUNTER(by_length, __u32);
COUNTER(by_cpu, __u32);

const volatile __u16 only = 0;

#define ADD(MAP, KEY)                                                                  \
	do {                                                                           \
		struct totals *found = bpf_map_lookup_elem(&MAP, KEY), fresh = {};     \
		if (!found) {                                                          \
			bpf_map_update_elem(&MAP, KEY, &fresh, BPF_NOEXIST);           \
			found = bpf_map_lookup_elem(&MAP, KEY);                        \
		}                                                                      \
		if (found) {                                                           \
			__sync_fetch_and_add(&found->packets, 1);                      \
			__sync_fetch_and_add(&found->bytes, length);                   \
			__sync_fetch_and_add(&found->slots[length & 15], 1);           \
		}                                                                      \
	} while (0)

SEC("xdp")
int by_many(struct xdp_md *context)
{
	void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
	struct ethhdr *header = data;
	__u32 length = end - data, cpu = bpf_get_smp_processor_id();
	__u16 protocol;

	if (header + 1 > (struct ethhdr *)end)
		return XDP_PASS;
	protocol = header->h_proto;
	if (only && protocol != only)
		return XDP_PASS;
	ADD(by_protocol, &protocol);
	ADD(by_length, &length);
	ADD(by_cpu, &cpu);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
