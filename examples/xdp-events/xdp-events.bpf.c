// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Puts a record for each packet into the ring buffer `events`, and lets the packet through.
 *
 * The `value` of the map says what a record is. bpfd reads it, and makes the map without it, as the kernel wants.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

enum size { SMALL, LARGE };

struct event {
	__u32 interface;
	__u32 length;
	enum size size;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
	__type(value, struct event);
} events SEC(".maps");

/* What had no room: nobody read the buffer in time. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

SEC("xdp")
int report(struct xdp_md *ctx)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	__u32 key = 0;

	if (!event) {
		__u64 *count = bpf_map_lookup_elem(&lost, &key);

		if (count)
			*count += 1;
		return XDP_PASS;
	}
	event->interface = ctx->ingress_ifindex;
	event->length = ctx->data_end - ctx->data;
	event->size = event->length > 1000 ? LARGE : SMALL;
	bpf_ringbuf_submit(event, 0);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
