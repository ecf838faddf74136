// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What comes from outside: the kernel's configuration, its functions and variables, another object's functions; each in a program of its own.
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

struct counter {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

/* Arrays of programs take programs: one that reaches this map cannot be loaded, the others can. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__uint(key_size, sizeof(__u32));
	__array(values, int(void *));
} wrong SEC(".maps") = { .values = { [0] = (void *)&seen } };

extern int LINUX_KERNEL_VERSION __kconfig;
extern bool LINUX_HAS_BPF_COOKIE __kconfig __weak;
extern unsigned long CONFIG_HZ __kconfig;
extern unsigned int CONFIG_THAT_NOBODY_SETS __kconfig __weak;
extern bool CONFIG_BPF __kconfig;
extern char CONFIG_CC_VERSION_TEXT[64] __kconfig __weak;
extern int CONFIG_THAT_IS_NEEDED __kconfig;

extern int bpf_xdp_metadata_of_tomorrow(const struct xdp_md *ctx, __u32 *hash) __ksym;
extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;
extern int bpf_dynptr_from_xdp(struct xdp_md *ctx, __u64 flags, struct bpf_dynptr *ptr) __ksym __weak;
extern int bpf_function_of_tomorrow(struct xdp_md *ctx) __ksym __weak;
extern const void variable_of_tomorrow __ksym __weak;
extern long elapsed(int which, void *where);

static __always_inline void put(__u64 value)
{
	__u32 key = 0;
	__u64 *slot = bpf_map_lookup_elem(&seen, &key);

	if (slot)
		*slot = value;
}

SEC("xdp") int configured(struct xdp_md *ctx)
{
	put((__u64)LINUX_KERNEL_VERSION << 8 | LINUX_HAS_BPF_COOKIE << 1 | (CONFIG_THAT_NOBODY_SETS == 0));
	return XDP_PASS;
}

SEC("xdp") int tuned(struct xdp_md *ctx)
{
	put(CONFIG_HZ << 16 | CONFIG_BPF << 8 | CONFIG_CC_VERSION_TEXT[0]);
	return XDP_PASS;
}

SEC("xdp") int demanding(struct xdp_md *ctx)
{
	return CONFIG_THAT_IS_NEEDED ? XDP_PASS : XDP_DROP;
}

SEC("xdp") int careful(struct xdp_md *ctx)
{
	if (bpf_function_of_tomorrow)
		return bpf_function_of_tomorrow(ctx);
	put(&variable_of_tomorrow ? 1 : 2);
	return XDP_PASS;
}

SEC("xdp") int careless(struct xdp_md *ctx)
{
	return bpf_function_of_tomorrow(ctx);
}

/* Since Linux 6.2. */
SEC("xdp") int locks(struct xdp_md *ctx)
{
	bpf_rcu_read_lock();
	put(7);
	bpf_rcu_read_unlock();
	return XDP_PASS;
}

/* Since Linux 6.4; does without. */
SEC("xdp") int adapts(struct xdp_md *ctx)
{
	struct bpf_dynptr packet;
	int wrong = 3;

	if (bpf_dynptr_from_xdp)
		wrong = bpf_dynptr_from_xdp(ctx, 0, &packet);
	put(wrong ? 3 : 4);
	return XDP_PASS;
}

SEC("xdp") int hash(struct xdp_md *ctx)
{
	__u32 hash = 0;

	bpf_xdp_metadata_of_tomorrow(ctx, &hash);
	return hash & 1 ? XDP_PASS : XDP_DROP;
}

SEC("xdp") int asks(struct xdp_md *ctx)
{
	long t[2];

	return elapsed(1, t) ? XDP_DROP : XDP_PASS;
}

SEC("xdp") int jumps(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &wrong, 0);
	return XDP_PASS;
}

SEC("xdp") int plain(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
