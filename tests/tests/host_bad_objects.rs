//! Objects that bpfd must not load: each refused with a clear error, and nothing changed.
#![expect(clippy::unwrap_used, reason = "the lints exempt test functions, not what they share")]

use std::fs;

use bpfd_tests::{Host, broken, example};
use insta::assert_snapshot;

/// A path of the case with these bytes.
fn file(host: &Host, name: &str, bytes: &[u8]) -> String {
    let inside = format!("/run/{name}");
    fs::write(host.path(&inside), bytes).unwrap();
    inside
}

/// What loading an object of `ebpf/tests/objects` is refused with.
#[track_caller]
fn refused(code: i32, name: &str) -> String {
    Host::new().refuses(code, &format!("load --path {} xdp -i uplink", broken(name)))
}

/// The line that loads an object with globals of all types, and sets one.
fn setting(global: &str) -> String {
    format!("load --path {} --set {global} xdp -i uplink", broken("globals"))
}

#[test]
fn bytes_that_are_not_elf_are_refused() {
    let host = Host::new();
    let text = file(&host, "text", b"#!/bin/sh\necho this is no object\n");
    assert_snapshot!(host.refuses(1, &format!("load --path {text} xdp -i uplink")), @"
    reading the object
    error: cannot load `text`
    cause: not an ELF object: what `clang -target bpf -c` writes is one
    ");
    let empty = file(&host, "empty", b"");
    assert_snapshot!(host.refuses(2, &format!("load --path {empty} xdp -i uplink")), @"
    error: cannot read `/run/empty`
    cause: the file is empty
    ");
    assert_snapshot!(host.refuses(3, "load --path /run/nowhere xdp -i uplink"), @"
    error: cannot read `/run/nowhere`
    cause: there is no such file
    ");
    // The control: a file of the same way that is one.
    let object = file(&host, "object", &fs::read(example("xdp-counter")).unwrap());
    host.bpfctl(&format!("load --path {object} xdp -i uplink")).ok();
}

#[test]
fn a_program_for_the_host_is_refused() {
    let host = Host::new();
    let program = file(&host, "program", &fs::read("/bin/true").unwrap());
    assert_snapshot!(host.refuses(1, &format!("load --path {program}")), @"
    reading the object
    error: cannot load `program`
    cause: object is for x86-64 (machine 62), not BPF: compile with `-target bpf`
    ");
}

#[test]
fn an_object_that_is_cut_short_is_refused() {
    let host = Host::new();
    let whole = fs::read(example("xdp-counter")).unwrap();
    let half = file(&host, "half.o", &whole[..whole.len() / 2]);
    assert_snapshot!(host.refuses(1, &format!("load --path {half} xdp -i uplink")), @"
    reading the object
    error: cannot load `half`
    cause: ELF object is truncated: section header table (Invalid ELF section header offset/size/alignment) lies past its end
    ");
    let header = file(&host, "header.o", &whole[..40]);
    assert_snapshot!(host.refuses(1, &format!("load --path {header} xdp -i uplink")), @"
    reading the object
    error: cannot load `header`
    cause: ELF object is truncated: file header (Invalid ELF header size or alignment) lies past its end
    ");
    // The control: nothing cut off.
    let whole = file(&host, "whole.o", &whole);
    host.bpfctl(&format!("load --path {whole} xdp -i uplink")).ok();
}

#[test]
fn an_object_of_the_other_endianness_is_refused() {
    assert_snapshot!(refused(1, "big_endian"), @"
    reading the object
    error: cannot load `big_endian`
    cause: object is big-endian; this host is little-endian: compile with `-target bpfel`
    ");
}

#[test]
fn a_literal_map_descriptor_in_an_instruction_is_refused() {
    assert_snapshot!(refused(1, "literal_fd"), @"
    reading the object
    error: cannot load `literal_fd`
    cause: refused before anything is loaded: `steal`, instruction 2: names a kernel object by a literal number (source register 1)
    ");
}

#[test]
fn a_map_named_like_a_pin_is_refused() {
    assert_snapshot!(refused(1, "map_path"), @"
    reading the object
    error: cannot load `map_path`
    cause: map name `/sys/fs/bpf/bpfd/v1/app/map_secrets` is a path; a map is named by letters, digits, `_` and `.`
    ");
}

#[test]
fn a_run_config_that_libxdp_refuses_is_refused() {
    assert_snapshot!(refused(1, "run_config_unknown"), @"
    reading the object
    error: cannot load `run_config_unknown`
    cause: run config of `typo` has an unknown member `prioritee`
    ");
}

#[test]
fn a_program_that_the_verifier_rejects_is_shown_in_its_source_and_its_log_is_kept() {
    let host = Host::new();
    let load = format!("load --path {} --program direct xdp -i uplink", broken("rejected"));
    let rejected = host.unchanged(|| host.bpfctl(&load));
    let (_, hint) = rejected.stderr.split_once("`bpfctl get log ").unwrap();
    let log = format!("get log {}", hint.split_once('`').unwrap().0);
    assert_snapshot!(rejected.refused(5), @"
    reading the object
    loading programs
    error: the kernel's verifier rejected `direct`
      --> ./rejected.c:18:11, instruction 1
       |
    18 | if (eth->h_proto == 8)
       = invalid access to packet, off=12 size=1, R1(id=0,off=12,r=0); R1 offset is outside of the packet
       = that is: bytes of the packet are used that may be behind its end
    cause: ./rejected.c:18:11: invalid access to packet, off=12 size=1, R1(id=0,off=12,r=0); R1 offset is outside of the packet
    hint: compare the end of what you use with `data_end` first, on the same pointer: `if ((void *)(eth + 1) > data_end) return XDP_PASS;`
    hint: `bpfctl get log UID` prints the whole log
    ");
    // The hint is true.
    let log = host.bpfctl(&log).ok();
    assert!(log.contains("invalid access to packet") && log.lines().count() > 3, "{log}");
    assert_snapshot!(host.refuses(3, "get log 00000000"), @"
    error: no such log
    hint: the daemon keeps the last 32 logs in memory; repeat the load to get a new one
    ");
}

#[test]
fn an_unknown_section_is_refused_with_those_there_are() {
    let host = Host::new();
    let many = broken("all_kinds");
    assert_snapshot!(host.refuses(3, &format!("load --path {many} --section-name nosuch xdp -i uplink")), @"
    reading the object
    error: cannot load `all_kinds`
    cause: object has no section or function `nosuch`; it has `xdp_first` (section `xdp`), `xdp_second` (section `xdp`), `xdp_named` (section `xdp/foo`), `xdp_frags` (section `xdp.frags`), `xdp_optional` (section `?xdp`), `xdp_in_devmap` (section `xdp/devmap`), `xdp_pass_func` (section `pass`), `tc_plain` (section `tc`), `tc_in` (section `tcx/ingress`), `tc_out` (section `classifier/egress`), `on_switch` (section `tracepoint/sched/sched_switch`), `on_kill` (section `tp/syscalls/sys_enter_kill`), `on_vfs…
    ");
    host.bpfctl(&format!("load --path {many} --section-name xdp/foo xdp -i uplink")).ok();
}

#[test]
fn an_unknown_program_is_refused_with_those_there_are() {
    let host = Host::new();
    let many = broken("all_kinds");
    assert_snapshot!(host.refuses(3, &format!("load --path {many} --program nosuch xdp -i uplink")), @"
    reading the object
    error: cannot load `all_kinds`
    cause: object has no program `nosuch`; it has `xdp_first` (section `xdp`), `xdp_second` (section `xdp`), `xdp_named` (section `xdp/foo`), `xdp_frags` (section `xdp.frags`), `xdp_optional` (section `?xdp`), `xdp_in_devmap` (section `xdp/devmap`), `xdp_pass_func` (section `pass`), `tc_plain` (section `tc`), `tc_in` (section `tcx/ingress`), `tc_out` (section `classifier/egress`), `on_switch` (section `tracepoint/sched/sched_switch`), `on_kill` (section `tp/syscalls/sys_enter_kill`), `on_vfs` (section `…
    ");
    host.bpfctl(&format!("load --path {many} --program xdp_first xdp -i uplink")).ok();
}

#[test]
fn a_section_of_two_programs_and_a_program_of_another_type_are_refused() {
    let host = Host::new();
    let many = broken("all_kinds");
    assert_snapshot!(host.refuses(2, &format!("load --path {many} --section-name xdp xdp -i uplink")), @"
    reading the object
    error: cannot load `all_kinds`
    cause: more than one program fits: `xdp_first` (section `xdp`), `xdp_second` (section `xdp`)
    hint: name one: `--program FUNCTION`
    ");
    assert_snapshot!(host.refuses(3, &format!("load --path {many} --program tc_plain xdp -i uplink")), @"
    reading the object
    error: cannot load `all_kinds`
    cause: object has no xdp program; it has `tc_plain` (section `tc`)
    ");
}

#[test]
fn a_global_of_the_wrong_type_is_refused() {
    let host = Host::new();
    let refuse = |set: &str, code| host.refuses(code, &setting(set));
    assert_snapshot!(refuse("port=http", 2), @"
    reading the object
    error: cannot set `port`
    cause: `http` is not a number for `u16 port`
    ");
    assert_snapshot!(refuse("mode=MODE_WARP", 2), @"
    reading the object
    error: cannot set `mode`
    cause: `MODE_WARP` is not a value of `enum mode mode`
    hint: a number, or one of `MODE_SLOW`, `MODE_FAST`
    ");
    assert_snapshot!(refuse("key=1", 2), @r#"
    reading the object
    error: cannot set `key`
    cause: `struct key key` is set by JSON: `{"member": value}`; or by its bytes, `hex:…`
    "#);
    assert_snapshot!(refuse("nosuch", 2), @"
    error: invalid value 'nosuch' for '--set <NAME=VALUE>': write NAME=VALUE

    For more information, try '--help'.
    ");
    host.bpfctl(&setting("port=443")).ok();
}

#[test]
fn a_global_out_of_range_is_refused() {
    let host = Host::new();
    let refuse = |set: &str, code| host.refuses(code, &setting(set));
    assert_snapshot!(refuse("port=65536", 2), @"
    reading the object
    error: cannot set `port`
    cause: `65536` is out of range for `u16 port`: 0 to 65535
    ");
    assert_snapshot!(refuse("shift=-129", 2), @"
    reading the object
    error: cannot set `shift`
    cause: `-129` is out of range for `signed char shift`: -128 to 127
    ");
    assert_snapshot!(refuse("device=a-name-longer-than-fifteen", 2), @"
    reading the object
    error: cannot set `device`
    cause: 26 bytes do not fit `char device[16]`: at most 15 and a NUL
    ");
    // What is quoted of a value is short.
    assert_snapshot!(refuse(&format!("port={}", "9".repeat(1025)), 2), @"
    error: the request is not valid
    cause: a value has at most 1024 bytes; that of `port` has 1025
    ");
    assert_snapshot!(refuse(&format!("port={}", "9".repeat(1024)), 2), @"
    reading the object
    error: cannot set `port`
    cause: `999999999999999999999999999999999999999999999999999999999999…` is out of range for `u16 port`: 0 to 65535
    ");
    host.bpfctl(&setting("port=65535")).ok();
    host.bpfctl(&setting("shift=-128")).ok();
}

#[test]
fn an_unknown_global_is_refused() {
    let host = Host::new();
    let refuse = |set: &str, code| host.refuses(code, &setting(set));
    assert_snapshot!(refuse("nosuch=1", 3), @"
    reading the object
    error: cannot set `nosuch`
    cause: no global `nosuch` in the object
    hint: the object has `packets`, `limit`, `buffer`, `hidden`, `custom`, `port`, `rate`, `enabled`, … (15 in all)
    ");
    host.bpfctl(&setting("port=1")).ok();
}
