//! What the verifier of this kernel says of common mistakes, and that each is explained: the table of `ebpf::verifier_words` speaks
//! about messages that a kernel really writes.
//!
//! One object has all the mistakes, a function each: clang is slow in a guest.

use std::fmt::Write as _;

use bpfd::worker::parse;
use bpfd_core::kernel::{Recipe, StepError};
use bpfd_core::state::{ProgramKind, Reach};
use ebpf::verifier_words::explain;
use insta::assert_snapshot;

use crate::world::{Steps, World, app, workers};

/// Each function makes one mistake.
const MISTAKES: &str = r#"
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64); } numbers SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } ring SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64);
  __uint(map_flags, BPF_F_RDONLY_PROG); } constants SEC(".maps");

SEC("xdp") int packet(struct xdp_md *ctx) { return *(int *)(long)ctx->data; }

SEC("xdp") int null_value(struct xdp_md *ctx) {
  __u32 key = ctx->rx_queue_index;
  __u64 *value = bpf_map_lookup_elem(&numbers, &key);
  return (int)*value; }

SEC("xdp") int beyond_value(struct xdp_md *ctx) {
  __u32 key = 0;
  char *value = bpf_map_lookup_elem(&numbers, &key);
  if (!value) return 0;
  return value[ctx->rx_queue_index & 0xff]; }

SEC("xdp") int any_index(struct xdp_md *ctx) {
  __u32 key = 0;
  char *value = bpf_map_lookup_elem(&numbers, &key);
  if (!value) return 0;
  return value[ctx->rx_queue_index]; }

SEC("xdp") int number_as_pointer(struct xdp_md *ctx) { return *(int *)(long)ctx->rx_queue_index; }

SEC("xdp") int kept_reference(struct xdp_md *ctx) {
  __u64 *slot = bpf_ringbuf_reserve(&ring, 8, 0);
  if (slot) *slot = 1;
  return 0; }

SEC("xdp") int endless(struct xdp_md *ctx) {
  asm volatile("again: if %0 != 7 goto again" :: "r"(ctx->rx_queue_index));
  return 0; }

static __attribute__((noinline)) int deep(int at) { volatile char many[300]; many[at & 255] = 1; return many[0]; }
SEC("xdp") int deep_stack(struct xdp_md *ctx) { volatile char many[300]; many[ctx->rx_queue_index & 255] = 1; return deep(many[1]); }

struct net_device { int no_kernel_has_this; } __attribute__((preserve_access_index));
SEC("xdp") int absent_field(struct xdp_md *ctx) {
  int found = 0;
  bpf_probe_read_kernel(&found, sizeof found, &((struct net_device *)8)->no_kernel_has_this);
  return found; }

SEC("xdp") int beyond_stack(struct xdp_md *ctx) {
  asm volatile("r1 = r10\nr1 += -520\n*(u64 *)(r1 + 0) = r1" ::: "r1", "memory");
  return 0; }

SEC("xdp") __attribute__((naked)) int unset_register(struct xdp_md *ctx) { asm volatile("r0 = r7\nexit"); }

SEC("xdp") __attribute__((naked)) int no_result(struct xdp_md *ctx) { asm volatile("exit"); }

SEC("xdp") __attribute__((naked)) int unreachable(struct xdp_md *ctx) { asm volatile("r0 = 0\nexit\nr0 = 1\nexit"); }

SEC("xdp") int unknown_helper(struct xdp_md *ctx) {
  long (*helper)(void) = (void *)100000;
  return (int)helper(); }

SEC("xdp") int other_types_helper(struct xdp_md *ctx) {
  long (*skb_store)(void *, __u32, void *, __u32, __u64) = (void *)9;
  return (int)skb_store(ctx, 0, ctx, 1, 0); }

SEC("xdp") int wrong_argument(struct xdp_md *ctx) { return bpf_map_lookup_elem(&numbers, (void *)1) != 0; }

SEC("xdp") int any_size(struct xdp_md *ctx) {
  __u64 bytes = 0;
  return bpf_ringbuf_output(&ring, &bytes, ctx->rx_queue_index, 0); }

SEC("xdp") int negative(struct xdp_md *ctx) {
  __u64 bytes = 0;
  __s64 size = (__s32)ctx->rx_queue_index;
  if (size > 8) return 0;
  return bpf_ringbuf_output(&ring, &bytes, size, 0); }

SEC("xdp") int read_only(struct xdp_md *ctx) {
  __u32 key = 0;
  __u64 *value = bpf_map_lookup_elem(&constants, &key);
  if (value) *value = 1;
  return 0; }

SEC("xdp") int bad_context(struct xdp_md *ctx) { return *(int *)((char *)ctx + 400); }

SEC("xdp") int moved_context(struct xdp_md *ctx) {
  asm volatile("%0 += 8" : "+r"(ctx));
  return bpf_xdp_adjust_head(ctx, 0); }

SEC("xdp") int pointer_sum(struct xdp_md *ctx) {
  long sum = (long)ctx->data;
  asm volatile("%0 += %1" : "+r"(sum) : "r"(ctx->data_end));
  return *(int *)sum; }

SEC("xdp") int after_change(struct xdp_md *ctx) {
  char *data = (void *)(long)ctx->data;
  if (data + 1 > (char *)(long)ctx->data_end) return 0;
  if (bpf_xdp_adjust_head(ctx, 0)) return 0;
  return *data; }
char L[] SEC("license") = "GPL";"#;

/// These are mistakes for programs that may reach packets only.
const OF_PACKET_REACH: &str = r#"
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64); } numbers SEC(".maps");
SEC("xdp") int length(struct xdp_md *ctx) { return ctx->data_end - ctx->data > 60; }
SEC("xdp") int uninitialised_stack(struct xdp_md *ctx) {
  asm volatile("%0 = r10\n%0 += -4" : "=r"(ctx));
  return bpf_map_lookup_elem(&numbers, ctx) != 0; }
char L[] SEC("license") = "GPL";"#;

/// And this for those whose licence is another.
const NOT_GPL: &str = r#"
SEC("xdp") int printing(struct xdp_md *ctx) { bpf_trace_printk("a", 2); return 0; }
char L[] SEC("license") = "Proprietary";"#;

/// Each function of the source, and what bpfd says of the verifier's words about it.
fn explained(source: &str, reach: Reach) -> String {
    let world = World::new();
    let mut kernel = world.kernel();
    let elf = world.source(source);
    let object = parse::inspect(&workers(), &elf).unwrap();
    let mut told = String::new();
    for program in &object.programs {
        let function = program.function.as_str();
        let recipe = Recipe { reach, ..world.recipe(elf.clone(), &[(function, ProgramKind::Xdp)]) };
        let means = match kernel.try_load(&world, app(), &recipe) {
            Err(StepError::Verifier { rejection, .. }) => {
                let message = rejection.message.unwrap_or_default();
                explain(&message).map_or(message, |words| words.means.to_owned())
            }
            other => format!("{other:?}"),
        };
        writeln!(told, "{function}: {means}").unwrap();
    }
    told
}

#[test]
fn the_words_of_this_kernel_for_common_mistakes_are_explained() {
    assert_snapshot!(explained(MISTAKES, Reach::Kernel));
}

#[test]
fn the_words_of_this_kernel_for_a_reach_too_far_are_explained() {
    assert_snapshot!(explained(OF_PACKET_REACH, Reach::Packet));
    assert_snapshot!(explained(NOT_GPL, Reach::Kernel));
}
