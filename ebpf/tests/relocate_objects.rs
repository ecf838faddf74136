//! From compiled objects to finished programs, without a kernel: what is linked, fitted and refused. The objects are in
//! `tests/objects`, made by `make.sh` there; the kernel's types are made here.
//!
//! Long because each kind of reference is a case of its own.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, which the lint does not take for tests"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ebpf::btf_build::BtfBuilder;
use ebpf::externs::KernelFunctions;
use ebpf::guard::GuardError;
use ebpf::insn::{Insn, PSEUDO_FUNC, PSEUDO_KFUNC_CALL, PSEUDO_MAP_FD, PSEUDO_MAP_VALUE};
use ebpf::kconfig::KernelConfig;
use ebpf::kind::ProgramKind;
use ebpf::license::is_gpl_compatible;
use ebpf::load_type::LoadType;
use ebpf::normalise::{Wanted, normalise};
use ebpf::relocate::{Chosen, Finished, KernelBtf, KernelFacts, RelocateError, Unlinked};

const CORE: &[u8] = include_bytes!("objects/core.o");
const CORE_TYPE_ID: &[u8] = include_bytes!("objects/core_type_id.o");
const EXTERNS: &[u8] = include_bytes!("objects/externs.o");
const FLEXIBLE: &[u8] = include_bytes!("objects/flexible.o");
const GLOBALS: &[u8] = include_bytes!("objects/globals.o");
const LITERAL_FD: &[u8] = include_bytes!("objects/literal_fd.o");
const MAPS: &[u8] = include_bytes!("objects/maps.o");
const NO_BTF: &[u8] = include_bytes!("objects/no_btf.o");
const NO_FUNC_INFO: &[u8] = include_bytes!("objects/no_func_info.o");
const NO_LICENSE: &[u8] = include_bytes!("objects/no_license.o");
const SUBPROGRAMS: &[u8] = include_bytes!("objects/subprograms.o");
const TAIL_CALLS: &[u8] = include_bytes!("objects/tail_calls.o");

type Globals<'a> = &'a [(&'a str, &'a [u8])];

fn parse(
    object: &[u8],
    function: &str,
    globals: Globals<'_>,
    kernel: Option<&KernelBtf>,
) -> Result<Unlinked, RelocateError> {
    let chosen = [Chosen { function: function.to_owned(), load: LoadType::XDP }];
    let globals = globals.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
    Unlinked::parse(object, &chosen, &globals, kernel, &KernelFacts::default())
}

/// One number a map, from 100 on, in the order the maps are to be made.
fn fds(unlinked: &Unlinked) -> BTreeMap<String, RawFd> {
    unlinked.maps().iter().map(|map| map.name().to_owned()).zip(100..).collect()
}

fn finish(unlinked: &Unlinked) -> Finished {
    let [finished] = <[Finished; 1]>::try_from(unlinked.finish(&fds(unlinked)).unwrap()).unwrap();
    finished
}

/// The fds a program names, with the offset for a value.
fn named(finished: &Finished) -> Vec<(u8, RawFd, i32)> {
    let pairs = finished.insns.windows(2);
    let loads = pairs.filter(|pair| pair[0].is_ld_imm64() && pair[0].src != 0);
    loads.map(|pair| (pair[0].src, pair[0].imm, pair[1].imm)).collect()
}

#[test]
fn maps_are_listed_with_the_sizes_the_kernel_wants_and_maps_of_maps_last() {
    let unlinked = parse(MAPS, "count", &[], None).unwrap();
    let rows: Vec<String> = unlinked
        .maps()
        .iter()
        .map(|map| {
            format!(
                "{} type {} key {} value {} entries {} flags {} types {:?} pin {} inner {:?}",
                map.name(),
                map.map_type(),
                map.key_size(),
                map.value_size(),
                map.max_entries(),
                map.flags(),
                map.btf_types().is_some(),
                map.wants_pin_by_name(),
                map.inner().map(|inner| (inner.name().to_owned(), inner.map_type(), inner.max_entries())),
            )
        })
        .collect();
    insta::assert_snapshot!(rows.join("\n"));
}

#[test]
fn each_reference_to_a_map_names_that_maps_fd() {
    let unlinked = parse(MAPS, "count", &[], None).unwrap();
    let fds = fds(&unlinked);
    let names = named(&finish(&unlinked));
    let expected = ["pinned", "flows", "outer", "events"].map(|name| (PSEUDO_MAP_FD, fds[name], 0));
    assert_eq!(names, expected);
}

#[test]
fn a_map_without_an_fd_is_named() {
    let unlinked = parse(MAPS, "count", &[], None).unwrap();
    let mut fds = fds(&unlinked);
    fds.remove("outer");
    let error = unlinked.finish(&fds).unwrap_err();
    assert_eq!(error.to_string(), "no file descriptor was given for map `outer`");
}

#[test]
fn globals_get_their_values_and_constants_are_frozen() {
    let globals: Globals<'_> = &[("port", &[0x39, 0x30]), ("limit", &[1, 0, 0, 0, 0, 0, 0, 0])];
    let unlinked = parse(GLOBALS, "use", globals, None).unwrap();
    let untouched = parse(GLOBALS, "use", &[], None).unwrap();
    let changed: Vec<_> = unlinked
        .maps()
        .iter()
        .zip(untouched.maps())
        .flat_map(|(map, before)| {
            assert_eq!(map.freeze(), map.name() == ".rodata");
            assert_eq!(usize::try_from(map.value_size()).unwrap(), map.initial().unwrap().len());
            let bytes = map.initial().unwrap().iter().zip(before.initial().unwrap());
            bytes.filter(|(now, before)| now != before).map(|(now, _)| (map.name(), *now)).collect::<Vec<_>>()
        })
        .collect();
    // 12345 for 53, and 1 for 0x1122334455667788.
    let data = [1, 0, 0, 0, 0, 0, 0, 0].map(|byte| (".data", byte));
    assert_eq!(changed, [data.as_slice(), &[(".rodata", 0x39), (".rodata", 0x30)]].concat());
    assert!(named(&finish(&unlinked)).iter().all(|(pseudo, ..)| *pseudo == PSEUDO_MAP_VALUE));
}

#[test]
fn a_global_that_is_missing_or_of_another_size_is_refused() {
    for globals in [&[("nothing", &[1_u8][..])][..], &[("port", &[1_u8][..])]] {
        assert!(matches!(parse(GLOBALS, "use", globals, None), Err(RelocateError::Parse(_))), "{globals:?}");
    }
}

#[test]
fn the_same_object_can_be_linked_again_to_other_maps() {
    let unlinked = parse(MAPS, "count", &[], None).unwrap();
    let first = finish(&unlinked);
    let shifted = fds(&unlinked).into_iter().map(|(name, fd)| (name, fd + 50)).collect();
    let [second] = <[Finished; 1]>::try_from(unlinked.finish(&shifted).unwrap()).unwrap();
    let moved: Vec<_> = named(&first).into_iter().map(|(pseudo, fd, offset)| (pseudo, fd + 50, offset)).collect();
    assert_eq!(named(&second), moved);
    assert_eq!(finish(&unlinked), first);
}

/// A kernel whose `task_struct` has `pid` at byte `offset`.
fn kernel(offset: u32) -> KernelBtf {
    let mut btf = BtfBuilder::new();
    let int = btf.signed("int", 4);
    btf.structure("task_struct", offset + 4, &[("pid", int, offset)]);
    KernelBtf::parse(&btf.finish()).unwrap()
}

#[test]
fn a_member_is_read_where_this_kernel_has_it() {
    let at = |offset| finish(&parse(CORE, "on_switch", &[], Some(&kernel(offset))).unwrap()).insns;
    let (near, far): (Vec<Insn>, Vec<Insn>) = (at(8), at(1234));
    let differing: Vec<_> = near.iter().zip(&far).filter(|(near, far)| near != far).collect();
    let [(near, far)] = differing.as_slice() else { panic!("{differing:?}") };
    assert_eq!((near.imm, far.imm), (8, 1234));
}

/// The instructions of a program of `flexible.o`, on a kernel whose struct has six elements at byte `offset`.
fn on_enter(function: &str, offset: u32) -> Vec<Insn> {
    let mut btf = BtfBuilder::new();
    let (long, int) = (btf.unsigned("long unsigned int", 8), btf.signed("int", 4));
    let args = btf.array(long, int, 6);
    btf.structure("trace_event_raw_sys_enter", offset + 48, &[("id", long, offset - 8), ("args", args, offset)]);
    let wanted = Wanted { function: function.parse().unwrap(), kind: ProgramKind::Tracepoint };
    let object = normalise(FLEXIBLE, &[wanted], &KernelConfig::default()).unwrap();
    finish(&parse(&object, function, &[], Some(&KernelBtf::parse(&btf.finish()).unwrap())).unwrap()).insns
}

#[test]
fn elements_of_a_flexible_array_are_read_where_this_kernel_has_them() {
    let offsets =
        |insns: &[Insn]| insns.iter().filter(|insn| insn.code == 0x79).map(|insn| insn.off).collect::<Vec<_>>();
    assert_eq!(offsets(&on_enter("on_enter", 16)), [16, 40]);
    assert_eq!(offsets(&on_enter("on_enter", 24)), [24, 48]);
    // Whether there is an element that this kernel's array does not have, and one of a struct that it does not have.
    for (function, at) in [("beyond", 0), ("in_a_struct", 0)] {
        assert_eq!(on_enter(function, 16)[at].imm, 0, "{function}");
    }
}

/// A program of an object that `normalise` wrote.
fn linked(object: &[u8], function: &str) -> Result<Finished, RelocateError> {
    let wanted = Wanted { function: function.parse().unwrap(), kind: ProgramKind::Xdp };
    let unlinked = parse(&normalise(object, &[wanted], &KernelConfig::default()).unwrap(), function, &[], None)?;
    unlinked.finish(&fds(&unlinked)).map(|programs| programs.into_iter().next().unwrap())
}

#[test]
fn programs_of_an_object_that_tail_calls_have_no_expected_attach_type() {
    let wanted = ["entry", "second"].map(|name| Wanted { function: name.parse().unwrap(), kind: ProgramKind::Xdp });
    let chosen = ["entry", "second"].map(|name| Chosen { function: name.to_owned(), load: LoadType::XDP });
    let object = normalise(TAIL_CALLS, &wanted, &KernelConfig::default()).unwrap();
    let unlinked = Unlinked::parse(&object, &chosen, &BTreeMap::new(), None, &KernelFacts::default()).unwrap();
    let loads: Vec<_> = unlinked.finish(&fds(&unlinked)).unwrap().iter().map(|program| program.load).collect();
    assert_eq!(loads, [LoadType::XDP.for_tail_calls(); 2]);
    assert_eq!(linked(TAIL_CALLS, "plain").unwrap().load, LoadType::XDP);
}

#[test]
fn an_object_without_a_licence_gets_none() {
    assert_eq!(linked(NO_LICENSE, "pass").unwrap().license, "");
    // Nothing before the text's end: as little of a licence.
    let mut blank = CORE.to_vec();
    let at = blank.windows(4).position(|text| text == b"GPL\0").unwrap();
    blank[at..at + 3].fill(0);
    let wanted = Wanted { function: "on_switch".parse().unwrap(), kind: ProgramKind::Tracepoint };
    let unlinked =
        parse(&normalise(&blank, &[wanted], &KernelConfig::default()).unwrap(), "on_switch", &[], Some(&kernel(8)))
            .unwrap();
    assert!(!is_gpl_compatible(unlinked.license()), "`{}`", unlinked.license());
}

#[test]
fn records_that_do_not_cover_all_functions_are_left_out() {
    for (object, function) in [(NO_FUNC_INFO, "calls"), (NO_BTF, "pass")] {
        let finished = linked(object, function).unwrap();
        assert_eq!((finished.func_info.as_slice(), finished.line_info.as_slice()), (&[][..], &[][..]), "{function}");
    }
    // The control: all functions have one.
    assert_eq!(linked(SUBPROGRAMS, "calls_outer").unwrap().func_info.len(), 3 * 8);
    assert_eq!(
        refusal(&linked(NO_FUNC_INFO, "loops").unwrap_err()),
        "`loops` hands a callback to the kernel, which needs type information of all functions; `bare` has none: compile it with `-g`"
    );
}

#[test]
fn numbers_of_types_are_the_kernels_however_few_of_its_types_are_looked_at() {
    let kernel = |others: u32| {
        let mut btf = BtfBuilder::new();
        let int = btf.signed("int", 4);
        for number in 0..others {
            btf.structure(&format!("other{number}"), 4, &[("first", int, 0)]);
        }
        let task = btf.structure("task_struct", 24, &[("pid", int, 8)]);
        (KernelBtf::parse(&btf.finish()).unwrap(), task.number())
    };
    let numbers = |others| {
        let (kernel, task) = kernel(others);
        let insns = finish(&parse(CORE_TYPE_ID, "on_switch", &[], Some(&kernel)).unwrap()).insns;
        let loads =
            insns.iter().filter(|insn| (insn.is_ld_imm64() && insn.src == 0) || matches!(insn.code, 0xb7 | 0xb4));
        (loads.map(|insn| insn.imm).collect::<Vec<i32>>(), task)
    };
    // Its number, its size, that it is there, that the other is not; and the program's verdict.
    for (found, task) in [numbers(0), numbers(70_000)] {
        assert_eq!(found, [task.cast_signed(), 24, 1, 0, 0]);
    }
}

#[test]
fn an_object_that_needs_kernel_types_says_so_without_them() {
    assert!(matches!(parse(CORE, "on_switch", &[], None), Err(RelocateError::NeedsKernelBtf)));
}

#[test]
fn func_info_and_line_info_are_whole_records() {
    let finished = finish(&parse(MAPS, "count", &[], None).unwrap());
    assert_eq!(finished.func_info.len(), 8);
    assert!(!finished.line_info.is_empty() && finished.line_info.len().is_multiple_of(16));
    assert_eq!((finished.name.as_str(), finished.license.as_str()), ("count", "GPL"));
}

fn refusal(error: &RelocateError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[test]
fn what_must_not_be_loaded_is_refused_with_the_place() {
    let rows: Vec<String> = [
        parse(LITERAL_FD, "steal", &[], None),
        parse(EXTERNS, "configured", &[], None),
        parse(MAPS, "absent", &[], None),
        parse(b"\x7fELF", "pass", &[], None),
        parse(&MAPS[..MAPS.len() / 2], "count", &[], None),
    ]
    .into_iter()
    .map(|parsed| refusal(&parsed.unwrap_err()))
    .collect();
    insta::assert_snapshot!(rows.join("\n"));
}

#[test]
fn functions_of_the_kernel_are_called_by_their_types_and_others_are_absent() {
    let kernel: KernelFunctions = [("bpf_rcu_read_lock".to_owned(), 70), ("bpf_rcu_read_unlock".to_owned(), 71)].into();
    let told = KernelConfig { functions: Some(&kernel), ..KernelConfig::default() };
    let calls = |function: &str, calling: &KernelFunctions| -> Vec<(u8, i32)> {
        let wanted = Wanted { function: function.parse().unwrap(), kind: ProgramKind::Xdp };
        let object = normalise(EXTERNS, &[wanted], &told).unwrap();
        let unlinked = parse(&object, function, &[], None).unwrap().calling(calling);
        let maps = unlinked.maps().iter().zip(10..).map(|(map, fd)| (map.name().to_owned(), fd)).collect();
        let finished = unlinked.finish(&maps).unwrap();
        finished[0].insns.iter().filter(|insn| insn.is_call()).map(|insn| (insn.src, insn.imm)).collect()
    };
    assert_eq!(calls("locks", &kernel), [(PSEUDO_KFUNC_CALL, 70), (0, 1), (PSEUDO_KFUNC_CALL, 71)]);
    // Its weak function is not among them: neither called nor asked for.
    assert_eq!(calls("adapts", &kernel), [(0, 2_002_000_000), (0, 1)]);
    // Numbers that nobody was told of stay calls of helpers that no kernel has.
    assert_eq!(calls("locks", &KernelFunctions::new()), [(0, 2_003_000_070), (0, 1), (0, 2_003_000_071)]);
}

/// A generator of the numbers that choose the damage; the same on every run.
struct Damage(u64);

impl Damage {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or(0) % below
    }
}

/// The rule must hold for whatever a damaged object becomes. `aya_obj` may panic on it, which the parse worker
/// survives; what it must not do is finish a program that names a foreign fd.
#[test]
fn damaged_objects_never_name_an_fd_that_is_not_theirs() {
    let ours = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|place| place.file().contains("aya-obj")) {
            ours(panic);
        }
    }));
    let mut damage = Damage(0x5eed);
    let (mut finished, mut refused, mut panicked) = (0, 0, 0);
    for (object, function) in [(MAPS, "count"), (GLOBALS, "use")] {
        for _round in 0..1500 {
            let mut bytes = object.to_vec();
            for _byte in 0..=damage.next(4) {
                let at = damage.next(bytes.len());
                bytes[at] = [0, 1, 7, 0x18, 0xff, bytes[at] ^ 1, bytes[at].wrapping_add(8)][damage.next(7)];
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let unlinked = parse(&bytes, function, &[], None)?;
                unlinked.finish(&fds(&unlinked)).map(|programs| (unlinked.maps().len(), programs))
            }));
            match outcome {
                Err(_panic) => panicked += 1,
                Ok(Err(_refused)) => refused += 1,
                Ok(Ok((maps, programs))) => {
                    finished += 1;
                    let own = 100..100 + RawFd::try_from(maps).unwrap();
                    for (pseudo, fd, _) in programs.iter().flat_map(named) {
                        let own_map = matches!(pseudo, PSEUDO_MAP_FD | PSEUDO_MAP_VALUE) && own.contains(&fd);
                        assert!(own_map || pseudo == PSEUDO_FUNC, "pseudo {pseudo}, number {fd}");
                    }
                }
            }
        }
    }
    // The damage is neither too mild nor so heavy that nothing gets as far as the check.
    assert!(finished > 300 && refused > 300, "finished {finished}, refused {refused}, panicked {panicked}");
}

/// `aya_obj` would write the slot after the one that is relocated too: aimed at a helper's call before a load, that is
/// the fd in the load.
#[test]
fn a_relocation_aimed_at_anything_but_a_load_or_a_call_of_a_function_is_refused() {
    let (entry, code) = first_relocation(MAPS);
    let slots: Vec<Insn> = ebpf::insn::decode(code).unwrap();
    let mut helper_calls = 0;
    for (slot, insn) in slots.iter().enumerate() {
        let mut bytes = MAPS.to_vec();
        bytes[entry..entry + 8].copy_from_slice(&u64::try_from(slot * 8).unwrap().to_le_bytes());
        if slot == 9 {
            eprintln!("{:?} {:?} {:?}", slots[8], insn, parse(&bytes, "count", &[], None).map(|_| ()));
        }
        let refused = matches!(
            parse(&bytes, "count", &[], None),
            Err(RelocateError::Guard(GuardError::MisplacedRelocation { .. }))
        );
        assert_eq!(refused, !insn.is_ld_imm64(), "slot {slot}");
        helper_calls += usize::from(insn.is_call());
    }
    assert!(helper_calls > 0);
}

/// Where the first entry of `.relxdp` is in the file, and the code of `xdp`.
fn first_relocation(object: &[u8]) -> (usize, &[u8]) {
    use object::read::elf::{ElfFile64, SectionHeader as _};
    use object::{Object as _, ObjectSection as _};
    let elf = ElfFile64::<object::LittleEndian>::parse(object).unwrap();
    let offset = |name: &str| {
        let header = *elf.section_by_name(name).unwrap().elf_section_header();
        usize::try_from(header.sh_offset(object::LittleEndian)).unwrap()
    };
    let code = elf.section_by_name("xdp").unwrap();
    (offset(".relxdp"), code.data().unwrap())
}
