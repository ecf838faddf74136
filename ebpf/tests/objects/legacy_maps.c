// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Maps as old objects define them, one of them with iproute2's wish to be pinned.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct legacy {
	__u32 type, key_size, value_size, max_entries, map_flags, id, pinning;
};

struct legacy first SEC("maps") = { BPF_MAP_TYPE_ARRAY, 4, 8, 2 };
struct legacy second SEC("maps") = { BPF_MAP_TYPE_HASH, 4, 8, 16, BPF_F_NO_PREALLOC, 0, 2 };

SEC("xdp") int count(struct xdp_md *ctx)
{
	__u32 zero = 0;
	__u64 *packets = bpf_map_lookup_elem(&first, &zero);

	if (packets && bpf_map_lookup_elem(&second, &zero))
		*packets += 1;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
