//! Objects, honest and not: through the parse worker and the loader.

use std::collections::BTreeMap;

use std::os::fd::AsFd;
use std::path::PathBuf;

use bpfd::worker::Workers;
use bpfd::worker::parse::{self, ParseError};
use bpfd_core::ident::KernelId;
use bpfd_core::kernel::{Kernel, Recipe, Step, StepError};
use bpfd_core::state::{ProgramKind, Reach};
use bpfd_sys::bpf::{self, Map, MapId, ProgId, Update};

use crate::world::{Steps, World, app, workers};

const XDP: ProgramKind = ProgramKind::Xdp;

#[test]
fn an_object_is_inspected_by_the_worker() {
    let world = World::new();
    let object = parse::inspect(&workers(), &world.example("xdp-counter")).unwrap();
    let programs: Vec<_> = object.programs.iter().map(|program| program.function.as_str()).collect();
    let maps: Vec<_> = object.maps.iter().map(|map| map.name.as_str()).collect();
    assert_eq!((programs, maps), (vec!["count"], vec!["packets"]));
}

#[test]
fn a_loaded_app_says_what_the_kernel_made_of_it() {
    let world = World::new();
    let mut kernel = world.kernel();
    let recipe = world.counter(1);
    let staged = kernel.loader().prepare(&world.bytes(&recipe), &recipe, BTreeMap::new(), &|| true).unwrap();
    assert_eq!(staged.maps(), [".rodata", "packets"]);
    let [program] = staged.programs().try_into().unwrap();
    assert_eq!((program.function.as_str(), program.section.as_str(), program.kind), ("count", "xdp", XDP));
    assert!(program.load_time > 0 && program.tag != [0; 8]);

    let app = app();
    kernel.stage(app, staged);
    kernel.step(&Step::PinApp(app)).unwrap();
    let pinned = kernel.look(&[]).apps.remove(&app).unwrap();
    // The kernel knows them by these numbers.
    let named = |(name, id): (&String, &KernelId)| {
        let map = bpf::map_by_id(MapId(id.0)).unwrap();
        (name.clone(), bpf::map_info(map.as_fd()).unwrap().name)
    };
    let maps: Vec<(String, String)> = pinned.maps.iter().map(named).collect();
    assert_eq!(maps, [".rodata", "packets"].map(|name| (name.to_owned(), name.to_owned())));
    // What the verifier took for constant stays so; the other one may be written.
    let [rodata, packets] = [".rodata", "packets"].map(|name| {
        let map = Map::from_fd(bpf::map_by_id(MapId(pinned.maps[name].0)).unwrap()).unwrap();
        map.update(&[0; 4], &map.lookup(&[0; 4]).unwrap().unwrap(), Update::Any)
    });
    assert_eq!(rodata.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    packets.unwrap();
    assert_eq!(pinned.programs.keys().collect::<Vec<_>>(), ["count"]);
    let count = bpf::prog_by_id(ProgId(pinned.programs["count"].0)).unwrap();
    let info = bpf::prog_info(count.as_fd()).unwrap();
    assert_eq!((info.name.as_str(), info.verified_insns), ("count", pinned.verified["count"]));
    assert!(info.verified_insns >= 2, "{info:?}");
}

#[test]
fn every_kind_of_map_that_needs_care_is_made() {
    let world = World::new();
    let mut kernel = world.kernel();
    let source = r#"
struct { __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY); __uint(key_size, 4); __uint(value_size, 4); } perf SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 5000); } ring SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_LPM_TRIE); __uint(max_entries, 8); __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(key_size, 8); __uint(value_size, 4); } trie SEC(".maps");
struct inner { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u32); };
struct { __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); __uint(max_entries, 4); __type(key, __u32); __array(values, struct inner); } outer SEC(".maps");
__u64 zeroed; __u64 filled = 7;
SEC("xdp") int all(struct xdp_md *ctx) {
  __u32 key = 0; __u64 lpm = 0;
  bpf_perf_event_output(ctx, &perf, BPF_F_CURRENT_CPU, &key, sizeof key);
  bpf_ringbuf_output(&ring, &key, sizeof key, 0);
  bpf_map_lookup_elem(&trie, &lpm);
  void *in = bpf_map_lookup_elem(&outer, &key);
  if (in) bpf_map_lookup_elem(in, &key);
  zeroed += filled; return XDP_PASS; }
char L[] SEC("license") = "GPL";"#;
    let (app, _) = kernel.load(&world, world.recipe(world.source(source), &[("all", XDP)]));
    let pinned = kernel.look(&[]).apps.remove(&app).unwrap();
    assert_eq!(pinned.maps.into_keys().collect::<Vec<_>>(), [".bss", ".data", "outer", "perf", "ring", "trie"]);
    assert_eq!(world.count(app, "-data"), 7);
}

#[test]
fn the_verifiers_log_is_kept() {
    let world = World::new();
    let mut kernel = world.kernel();
    let source = r#"SEC("xdp") int wild(struct xdp_md *ctx) { return *(int *)(long)ctx->data; } char L[] SEC("license") = "GPL";"#;
    let refused = kernel.try_load(&world, app(), &world.recipe(world.source(source), &[("wild", XDP)])).unwrap_err();
    let StepError::Verifier { program, log, .. } = refused else { panic!("{refused}") };
    assert_eq!(program, "wild");
    assert!(log.contains("invalid access to packet"), "{log}");
    assert_eq!(kernel.look(&[]).apps.len(), 0);
}

#[test]
fn a_number_of_a_map_in_the_bytes_is_refused_by_worker_and_loader() {
    let world = World::new();
    let mut kernel = world.kernel();
    // ld_imm64 r1, map fd 7
    let source = r#"SEC("xdp") int thief(struct xdp_md *ctx) {
  asm volatile(".byte 0x18, 0x11, 0, 0, 7, 0, 0, 0; .quad 0" ::: "r1"); return XDP_PASS; } char L[] SEC("license") = "GPL";"#;
    let recipe = world.recipe(world.source(source), &[("thief", XDP)]);
    let elf = world.bytes(&recipe);
    let by_worker = parse::rehearse(&workers(), &kernel.loader(), &elf, &recipe).unwrap_err();
    let Err(StepError::Object { why }) = kernel.loader().prepare(&elf, &recipe, BTreeMap::new(), &|| true) else {
        panic!("loaded")
    };
    assert_eq!(by_worker.to_string(), why);
    assert!(why.contains("literal number"), "{why}");
    assert!(kernel.try_load(&world, app(), &recipe).is_err());
}

#[test]
fn content_that_nobody_vouches_for_reaches_packets_alone() {
    let world = World::new();
    let mut kernel = world.kernel();
    let packet = |recipe: Recipe| Recipe { reach: Reach::Packet, ..recipe };
    kernel.load(&world, packet(world.counter(1)));

    let source = r#"SEC("xdp") int spy(struct xdp_md *ctx) { __u64 word = 0;
  bpf_probe_read_kernel(&word, sizeof word, ctx); return word & 1 ? XDP_DROP : XDP_PASS; } char L[] SEC("license") = "GPL";"#;
    let spy = world.recipe(world.source(source), &[("spy", XDP)]);
    kernel.try_load(&world, app(), &spy).unwrap();
    let refused = kernel.try_load(&world, app(), &packet(spy)).unwrap_err();
    assert!(matches!(&refused, StepError::Verifier { program, .. } if program == "spy"), "{refused}");

    let functions = [("on_switch", ProgramKind::Tracepoint)];
    let tracer = packet(world.recipe(world.example("tracepoint-count"), &functions));
    let refused = kernel.try_load(&world, app(), &tracer).unwrap_err();
    assert!(matches!(&refused, StepError::Object { why } if why.contains("tracepoint")), "{refused}");
}

#[test]
fn a_kernel_type_is_found_by_relocation() {
    let world = World::new();
    let mut kernel = world.kernel();
    let source = r#"#include <bpf/bpf_core_read.h>
struct task_struct { int pid; } __attribute__((preserve_access_index));
__u64 where;
SEC("tracepoint/sched/sched_switch") int on_switch(void *ctx) {
  where = bpf_core_field_offset(struct task_struct, pid); return 0; }
char L[] SEC("license") = "GPL";"#;
    kernel.load(&world, world.recipe(world.source(source), &[("on_switch", ProgramKind::Tracepoint)]));
}

#[test]
fn noise_and_a_broken_reader_are_told_apart() {
    assert!(matches!(parse::inspect(&workers(), b"\x7fELF noise"), Err(ParseError::Refused(_))));
    let dead = parse::inspect(&Workers::of(PathBuf::from("/bin/false")), b"x").unwrap_err();
    assert!(matches!(dead, ParseError::Died { .. }), "{dead}");
    let absent = parse::inspect(&Workers::of(PathBuf::from("/no/such/file")), b"x").unwrap_err();
    assert!(matches!(absent, ParseError::Worker(_)), "{absent}");
}

#[test]
fn an_app_made_again_is_staged_under_its_own_name() {
    let world = World::new();
    let mut kernel = world.kernel();
    let app = app();
    let recipe = world.counter(1);
    let programs = kernel.prepare(app, &recipe).unwrap();
    assert_eq!(programs.len(), 1);
    kernel.discard(app);
    assert!(kernel.step(&Step::PinApp(app)).is_err(), "let go of");
    kernel.prepare(app, &recipe).unwrap();
    kernel.step(&Step::PinApp(app)).unwrap();
    assert!(kernel.look(&[]).apps.contains_key(&app));
}
