//! What the loader library makes of normalised objects. In the crate itself only `relocate` may name that library.

#![expect(clippy::unwrap_used, reason = "test helpers stop the test, as a test function may")]

use std::collections::BTreeSet;

use aya_obj::Object as Loaded;
use aya_obj::maps::PinningType;

use ebpf::contents::{Content, Held};
use ebpf::inspect::inspect;
use ebpf::kconfig::KernelConfig;
use ebpf::kind::ProgramKind;
use ebpf::normalise::{Wanted, callees, normalise};

const ALL_KINDS: &[u8] = include_bytes!("objects/all_kinds.o");
const EXTERNS: &[u8] = include_bytes!("objects/externs.o");
const CORE: &[u8] = include_bytes!("objects/core.o");
const GLOBALS: &[u8] = include_bytes!("objects/globals.o");
const LEGACY_MAPS: &[u8] = include_bytes!("objects/legacy_maps.o");
const MAPS: &[u8] = include_bytes!("objects/maps.o");
const RUN_CONFIG: &[u8] = include_bytes!("objects/run_config.o");
const SUBPROGRAMS: &[u8] = include_bytes!("objects/subprograms.o");
const TAIL_CALLS: &[u8] = include_bytes!("objects/tail_calls.o");

fn wanted(function: &str, kind: ProgramKind) -> Wanted {
    Wanted { function: function.parse().unwrap(), kind }
}

fn xdp(functions: &[&str]) -> Vec<Wanted> {
    functions.iter().map(|function| wanted(function, ProgramKind::Xdp)).collect()
}

/// Normalises, loads, and gives the names of all functions the loader sees.
fn load(elf: &[u8], wanted: &[Wanted]) -> (Loaded, Vec<String>) {
    let bytes = normalise(elf, wanted, &KernelConfig::default()).unwrap();
    let object = Loaded::parse(&bytes).unwrap();
    let mut names: Vec<String> = object.functions.values().map(|function| function.name.clone()).collect();
    names.sort();
    (object, names)
}

fn refused(elf: &[u8], wanted: &[Wanted]) -> String {
    normalise(elf, wanted, &KernelConfig::default()).unwrap_err().to_string()
}

/// Instructions, function records and line records of one function, as the loader has them.
fn records(object: &Loaded, function: &str) -> (usize, usize, usize) {
    let found = object.functions.values().find(|f| f.name == function).unwrap();
    (found.instructions.len(), found.func_info.len(), found.line_info.len())
}

#[test]
fn the_loader_refuses_the_object_as_it_was_written() {
    assert!(Loaded::parse(ALL_KINDS).is_err());
}

#[test]
fn each_program_loads_whatever_its_section_is_called_and_alone() {
    use ProgramKind::{Tc, Tracepoint, Xdp};
    for (function, kind) in [
        ("xdp_first", Xdp),
        ("xdp_second", Xdp),
        ("xdp_named", Xdp),
        ("xdp_frags", Xdp),
        ("xdp_optional", Xdp),
        ("xdp_pass_func", Xdp),
        ("xdp_pass_func", Tc),
        ("tc_plain", Tc),
        ("tc_in", Tc),
        ("tc_out", Tc),
        ("on_switch", Tracepoint),
        ("on_kill", Tracepoint),
    ] {
        let (object, names) = load(ALL_KINDS, &[wanted(function, kind)]);
        assert_eq!(names, [function]);
        let (instructions, functions, lines) = records(&object, function);
        let said = inspect(ALL_KINDS).unwrap().programs.into_iter().find(|p| p.function.as_str() == function).unwrap();
        assert_eq!((u32::try_from(instructions).unwrap(), functions), (said.instructions, 1), "{function}");
        assert!(lines > 0, "{function}");
    }
}

#[test]
fn several_programs_of_several_sections_load_together_with_their_own_records() {
    let names = ["xdp_first", "xdp_named", "xdp_second"];
    let (object, found) = load(ALL_KINDS, &xdp(&names));
    assert_eq!(found, names);
    // Each returns another number: its own instructions, not its neighbour's.
    let verdict = |name: &str| object.functions.values().find(|f| f.name == name).unwrap().instructions[0].imm;
    assert_eq!(names.map(verdict), [2, 3, 1]);
    let types: BTreeSet<u32> =
        object.functions.values().map(|function| function.func_info.func_info[0].type_id).collect();
    assert_eq!(types.len(), 3);
}

#[test]
fn callees_come_along_and_nothing_else_does() {
    let (_, names) = load(SUBPROGRAMS, &xdp(&["calls_outer"]));
    assert_eq!(names, ["calls_outer", "inner", "outer"]);
    let (_, names) = load(SUBPROGRAMS, &xdp(&["loops"]));
    assert_eq!(names, ["each", "loops"]);
    let (object, names) = load(SUBPROGRAMS, &xdp(&["calls_both", "calls_outer", "loops"]));
    assert_eq!(names, ["calls_both", "calls_outer", "each", "inner", "loops", "outer"]);
    for name in names {
        assert_eq!(records(&object, &name).1, 1, "{name}");
    }
}

#[test]
fn a_linked_program_holds_its_callees_once() {
    let bytes = normalise(SUBPROGRAMS, &xdp(&["calls_outer", "loops"]), &KernelConfig::default()).unwrap();
    let mut object = Loaded::parse(&bytes).unwrap();
    let sections = object.functions.keys().map(|(section, _)| *section).collect();
    let alone = |object: &Loaded, name: &str| records(object, name).0;
    let sum = ["calls_outer", "outer", "inner"].map(|name| alone(&object, name)).iter().sum::<usize>();
    let maps: Vec<_> = object.maps.clone().into_iter().collect();
    object.relocate_maps(maps.iter().map(|(name, map)| (name.as_str(), 9, map)), &sections).unwrap();
    // Callees count as programs to the library; linked one after another they would hold each other's copies.
    object.programs.retain(|name, _| name == "calls_outer");
    object.relocate_calls(&sections).unwrap();
    let (instructions, functions, _) = records(&object, "calls_outer");
    assert_eq!((instructions, functions), (sum, 3));
}

#[test]
fn maps_and_data_stay_and_no_map_is_pinned() {
    let (object, _) = load(MAPS, &xdp(&["count"]));
    let mut maps: Vec<&String> = object.maps.keys().collect();
    maps.sort();
    assert_eq!(maps, ["events", "flows", "outer", "pinned"]);
    assert!(inspect(MAPS).unwrap().maps.iter().any(|map| map.pin_by_name));
    assert!(object.maps.values().all(|map| map.pinning() == PinningType::None));
    // The wish shared its BTF type with a size of 1: that one stays.
    assert_eq!(object.maps.get("pinned").unwrap().max_entries(), 1);

    let (object, _) = load(LEGACY_MAPS, &xdp(&["count"]));
    assert_eq!(object.maps.len(), 2);
    assert!(object.maps.values().all(|map| map.pinning() == PinningType::None));
    assert_eq!(object.maps.get("second").unwrap().max_entries(), 16);

    let (object, _) = load(GLOBALS, &xdp(&["use"]));
    let mut maps: Vec<&String> = object.maps.keys().collect();
    maps.sort();
    assert_eq!(maps, [".bss", ".data", ".data.custom", ".rodata"]);
}

#[test]
fn what_was_normalised_reads_as_before_and_normalises_to_itself() {
    for (elf, functions) in [(MAPS, ["count"]), (GLOBALS, ["use"]), (RUN_CONFIG, ["chained"])] {
        let before = inspect(elf).unwrap();
        let bytes = normalise(elf, &xdp(&functions), &KernelConfig::default()).unwrap();
        let after = inspect(&bytes).unwrap();
        assert_eq!(after.globals, before.globals);
        assert_eq!(after.license, before.license);
        assert_eq!(after.maps.len(), before.maps.len());
        assert_eq!(after.programs[0].run_config, before.programs[0].run_config);
    }
}

#[test]
fn the_run_config_and_the_types_stay_for_peers_to_read() {
    let (object, _) = load(RUN_CONFIG, &xdp(&["chained"]));
    let btf = object.btf.unwrap();
    assert!(btf.id_by_type_name_kind(".xdp_run_config", aya_obj::btf::BtfKind::DataSec).is_ok());
    assert!(btf.id_by_type_name_kind("chained", aya_obj::btf::BtfKind::Func).is_ok());
}

#[test]
fn core_relocations_stay() {
    let (object, _) = load(CORE, &[wanted("on_switch", ProgramKind::Tracepoint)]);
    assert!(object.has_btf_relocations());
}

#[test]
fn what_cannot_be_loaded_is_refused_with_its_reason() {
    assert_eq!(refused(ALL_KINDS, &[]), "no program is asked for");
    assert_eq!(refused(ALL_KINDS, &xdp(&["nobody"])), "object has no program `nobody`");
    assert_eq!(refused(ALL_KINDS, &xdp(&["xdp_first", "xdp_first"])), "program `xdp_first` is asked for twice");
    assert_eq!(refused(ALL_KINDS, &xdp(&["tc_in"])), "`tc_in` is in section `tcx/ingress`, which is not xdp");
    assert_eq!(refused(ALL_KINDS, &xdp(&["on_vfs"])), "`on_vfs` is in section `kprobe.multi/vfs_*`, which is not xdp");
    assert_eq!(refused(SUBPROGRAMS, &xdp(&["outer"])), "object has no program `outer`");
}

#[test]
fn only_what_the_wanted_programs_reach_is_judged() {
    let why = |function: &str| refused(EXTERNS, &xdp(&[function])).split(": ").next().unwrap().to_owned();
    assert_eq!(
        why("hash"),
        "`hash` needs `bpf_xdp_metadata_of_tomorrow`, which the object does not define, nor this kernel as a function"
    );
    assert_eq!(why("asks"), "`asks` needs `elapsed`, which the object does not define, nor this kernel as a function");
    assert_eq!(why("jumps"), "the initial values of map `wrong` cannot be used");
    assert!(why("demanding").starts_with("the object needs `CONFIG_THAT_IS_NEEDED` of the kernel's configuration"));
    for function in ["plain", "careful", "configured"] {
        assert_eq!(load(EXTERNS, &xdp(&[function])).1, [function]);
    }
}

#[test]
fn options_of_the_kernel_are_constants_of_a_section_of_their_own() {
    let options = "CONFIG_HZ=1000\nCONFIG_BPF=y\nCONFIG_CC_VERSION_TEXT=\"gcc\"\n";
    let kernel = KernelConfig { version: 0x0006_0c03, bpf_cookie: true, options: Some(options), ..Default::default() };
    let object = Loaded::parse(&normalise(EXTERNS, &xdp(&["configured", "tuned"]), &kernel).unwrap()).unwrap();
    let mut expected = vec![0; 96];
    for (offset, bytes) in [(0, &[3, 12, 6, 0][..]), (4, &[1]), (16, &[0xe8, 3]), (24, &[1]), (25, b"gcc")] {
        expected[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
    assert_eq!(object.maps[".rodata.kconfig"].data(), expected);
    // None of them has a value that no wanted program asks for.
    let object = Loaded::parse(&normalise(EXTERNS, &xdp(&["plain"]), &kernel).unwrap()).unwrap();
    assert_eq!(object.maps[".rodata.kconfig"].data(), [0; 96]);
}

#[test]
fn what_maps_hold_from_the_start_is_read_and_kept_from_the_loader() {
    let object = inspect(TAIL_CALLS).unwrap();
    let contents: Vec<String> = object
        .contents
        .iter()
        .map(|Content { map, slot, holds }| match holds {
            Held::Map(inner) => format!("{map}[{slot}] = map {inner}"),
            Held::Program(program) => format!("{map}[{slot}] = program {program}"),
        })
        .collect();
    let expected = [
        "counters[0] = map entries",
        "counters[2] = map seconds",
        "table[1] = program first",
        "table[3] = program second",
    ];
    assert_eq!(contents, expected);
    let (loaded, _) = load(TAIL_CALLS, &xdp(&["entry", "first", "second"]));
    assert!(loaded.maps["counters"].inner().is_some() && loaded.maps["table"].inner().is_none());
}

#[test]
fn programs_that_tail_calls_lead_to_come_along() {
    let object = inspect(TAIL_CALLS).unwrap();
    let of = |name: &str| {
        let found = callees(TAIL_CALLS, &object, &[name.parse().unwrap()], None).unwrap();
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(of("entry"), ["first", "second"]);
    // Its own function tail-calls.
    assert_eq!(of("first"), ["second"]);
    assert_eq!(of("plain"), [""; 0]);
}

#[test]
fn what_the_loader_would_get_wrong_is_refused() {
    assert_eq!(
        refused(include_bytes!("objects/static_map.o"), &xdp(&["count"])),
        "instruction 4 of `count`: a map that is static or has no name"
    );
    let two_texts = include_bytes!("objects/two_texts.o");
    assert_eq!(load(two_texts, &xdp(&["calls_one"])).1, ["calls_one", "warm"]);
    assert_eq!(
        refused(two_texts, &xdp(&["calls_two"])),
        "program `calls_two` calls functions at the same offset of two sections: put them in one section"
    );
}
