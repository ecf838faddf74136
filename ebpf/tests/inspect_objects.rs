//! What `inspect` says of compiled objects: whole answers, by snapshot. The objects are in `tests/objects`, made by
//! `make.sh` there, so no compiler is needed here.

#![expect(clippy::unwrap_used, clippy::panic, reason = "test helpers stop the test, as a test function may")]

use ebpf::inspect::{Object, inspect};

fn bytes(name: &str) -> &'static [u8] {
    match name {
        "all_kinds" => include_bytes!("objects/all_kinds.o"),
        "big_endian" => include_bytes!("objects/big_endian.o"),
        "core" => include_bytes!("objects/core.o"),
        "externs" => include_bytes!("objects/externs.o"),
        "globals" => include_bytes!("objects/globals.o"),
        "hidden" => include_bytes!("objects/hidden.o"),
        "legacy_maps" => include_bytes!("objects/legacy_maps.o"),
        "map_path" => include_bytes!("objects/map_path.o"),
        "maps" => include_bytes!("objects/maps.o"),
        "no_btf" => include_bytes!("objects/no_btf.o"),
        "no_license" => include_bytes!("objects/no_license.o"),
        "run_config" => include_bytes!("objects/run_config.o"),
        "run_config_unknown" => include_bytes!("objects/run_config_unknown.o"),
        "subprograms" => include_bytes!("objects/subprograms.o"),
        other => panic!("no object {other}"),
    }
}

fn object(name: &str) -> Object {
    inspect(bytes(name)).unwrap()
}

fn refused(bytes: &[u8]) -> String {
    let error = inspect(bytes).unwrap_err();
    match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[test]
fn section_names_give_kinds_targets_and_options() {
    let rows: Vec<String> = object("all_kinds")
        .programs
        .iter()
        .map(|p| {
            let target = &p.target;
            format!("{} {} {:?} {target:?} frags={} optional={}", p.function, p.section, p.kind, p.frags, p.optional)
        })
        .collect();
    insta::assert_debug_snapshot!(rows);
}

#[test]
fn maps_are_read_from_btf_and_from_legacy_definitions() {
    insta::assert_debug_snapshot!("btf_maps", object("maps").maps);
    insta::assert_debug_snapshot!("legacy_maps", object("legacy_maps").maps);
}

#[test]
fn globals_have_types_places_and_values() {
    insta::assert_debug_snapshot!("globals", object("globals").globals);
    insta::assert_debug_snapshot!("data", object("globals").data);
    insta::assert_debug_snapshot!("without_types", object("no_btf").globals);
}

#[test]
fn a_run_config_is_read_as_libxdp_reads_it() {
    let configs: Vec<_> =
        object("run_config").programs.into_iter().map(|program| (program.function, program.run_config)).collect();
    insta::assert_debug_snapshot!(configs);
    assert_eq!(refused(bytes("run_config_unknown")), "run config of `typo` has an unknown member `prioritee`");
}

#[test]
fn subprograms_are_not_programs() {
    let names: Vec<String> = object("subprograms").programs.iter().map(|p| p.function.to_string()).collect();
    assert_eq!(names, ["calls_outer", "calls_both", "loops", "unwanted"]);
}

#[test]
fn what_a_load_needs_is_told_apart_from_what_can_be_read() {
    let unresolved = |name: &str| object(name).unresolved().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        unresolved("externs"),
        ["bpf_rcu_read_lock", "bpf_rcu_read_unlock", "bpf_xdp_metadata_of_tomorrow", "elapsed"]
    );
    for name in ["core", "no_license", "no_btf"] {
        assert_eq!(unresolved(name), [""; 0], "{name}");
    }
    assert_eq!(object("no_license").license, None);
    assert_eq!(object("core").core_relocations, 1);
    assert_eq!(object("hidden").decl_tags, ["arg:nonnull"]);
    assert_eq!(object("all_kinds").license.as_deref(), Some("Dual BSD/GPL"));
}

#[test]
fn bytes_that_are_no_object_for_this_host_are_refused_each_with_its_reason() {
    let good = bytes("all_kinds");
    assert_eq!(refused(b""), "not an ELF object: what `clang -target bpf -c` writes is one");
    assert_eq!(refused(b"#!/bin/sh\nexit 0\n"), "not an ELF object: what `clang -target bpf -c` writes is one");
    assert_eq!(
        refused(b"\x7fELF"),
        "ELF object is truncated: file header (Invalid ELF header size or alignment) lies past its end"
    );
    assert_eq!(
        refused(&good[..good.len() / 2]),
        "ELF object is truncated: section header table (Invalid ELF section header offset/size/alignment) lies past its end"
    );
    assert_eq!(
        refused(bytes("big_endian")),
        "object is big-endian; this host is little-endian: compile with `-target bpfel`"
    );
    assert_eq!(
        refused(&vec![0; ebpf::elf::MAX_OBJECT + 1]),
        "object of 16777217 bytes is larger than the limit of 16777216"
    );
    // e_machine is at byte 18, e_type at 16.
    let changed = |at: usize, value: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = value;
        bytes
    };
    assert_eq!(refused(&changed(18, 62)), "object is for x86-64 (machine 62), not BPF: compile with `-target bpf`");
    assert_eq!(refused(&changed(16, 2)), "ELF type 2 is not a relocatable object");
    assert_eq!(refused(&changed(4, 1)), "object is 32-bit ELF; BPF objects are 64-bit");
    assert_eq!(
        refused(bytes("map_path")),
        "map name `/sys/fs/bpf/bpfd/v1/app/map_secrets` is a path; a map is named by letters, digits, `_` and `.`"
    );
}

#[test]
fn an_object_is_read_at_any_alignment() {
    let mut shifted = vec![0];
    shifted.extend_from_slice(bytes("globals"));
    assert_eq!(inspect(&shifted[1..]).unwrap(), object("globals"));
}

#[test]
fn an_object_survives_the_worker_boundary() {
    for name in ["all_kinds", "globals", "maps", "run_config", "core"] {
        let object = object(name);
        let json = serde_json::to_vec(&object).unwrap();
        assert_eq!(serde_json::from_slice::<Object>(&json).unwrap(), object, "{name}");
    }
    let hostile = r#"{"name":"../x"}"#;
    assert!(serde_json::from_str::<ebpf::maps::Map>(hostile).is_err());
}
