//! Broken objects: 20 000 seeded mutants of the compiled ones, through everything that reads them. None may panic, and what
//! passes must stay within its limits. The seed is fixed, so a failure repeats; it is printed with the mutant's number.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test helpers stop the test, as a test function may")]

use std::collections::BTreeMap;

use ebpf::inspect::{Object, inspect};
use ebpf::kconfig::KernelConfig;
use ebpf::kind::{DeclaredKind, ProgramKind};
use ebpf::line_info::LineTable;
use ebpf::load_type::LoadType;
use ebpf::normalise::{Wanted, normalise};
use ebpf::relocate::{Chosen, KernelBtf, KernelFacts, Unlinked};
use ebpf::{globals, select};
use object::{Object as _, ObjectSection as _};

#[path = "../../tests/src/mutants.rs"]
#[expect(dead_code, unreachable_pub, reason = "only some mutants are made here")]
mod mutants;

use mutants::Random;

const MUTANTS: u64 = 20_000;
const SEED: u64 = 0x6270_6664;

const OBJECTS: [&[u8]; 10] = [
    include_bytes!("objects/all_kinds.o"),
    include_bytes!("objects/core.o"),
    include_bytes!("objects/flexible.o"),
    include_bytes!("objects/globals.o"),
    include_bytes!("objects/legacy_maps.o"),
    include_bytes!("objects/maps.o"),
    include_bytes!("objects/no_btf.o"),
    include_bytes!("objects/run_config.o"),
    include_bytes!("objects/subprograms.o"),
    include_bytes!("objects/tail_calls.o"),
];

/// Stands in for the kernel's types: those that the CO-RE object was compiled with.
fn kernel() -> KernelBtf {
    let object = object::File::parse(OBJECTS[1]).unwrap();
    KernelBtf::parse(object.section_by_name(".BTF").unwrap().data().unwrap()).unwrap()
}

fn wanted(object: &Object) -> Vec<Wanted> {
    let kind = |declared: &DeclaredKind| match declared {
        DeclaredKind::Known(kind) => Some(*kind),
        DeclaredKind::Unsupported(_) => None,
        DeclaredKind::Unstated => Some(ProgramKind::Xdp),
    };
    let programs = object.programs.iter();
    programs.filter_map(|p| Some(Wanted { function: p.function.clone(), kind: kind(&p.kind)? })).collect()
}

/// Everything that reads an object; what it came to, for the count.
fn exercise(bytes: &[u8], kernel: &KernelBtf) -> &'static str {
    let lines = LineTable::read(bytes);
    let Ok(object) = inspect(bytes) else { return "refused by inspect" };
    assert!(lines.is_ok(), "what inspect reads has readable lines");
    assert!(object.programs.len() <= ebpf::functions::MAX_PROGRAMS);
    assert!(object.maps.len() <= ebpf::maps::MAX_MAPS);
    assert!(object.data.iter().map(|data| u64::from(data.size)).sum::<u64>() <= 2 * (16 << 20));
    for global in &object.globals {
        let section = object.data.iter().find(|data| data.name == global.section).expect("a global lies in a section");
        assert!(u64::from(global.offset) + u64::from(global.size) <= u64::from(section.size));
        if let Ok(value) = globals::encode(global, "1") {
            assert_eq!(value.len(), usize::try_from(global.size).unwrap());
        }
    }
    let _chosen = select::one(&object, None, ProgramKind::Xdp);
    let Ok(new) = normalise(bytes, &wanted(&object), &KernelConfig::default()) else { return "refused by normalise" };
    let again = inspect(&new).expect("a normalised object can be read");
    assert_eq!(again.globals, object.globals, "globals stay where they are");
    assert!(again.maps.iter().all(|map| !map.pin_by_name), "no map is pinned");
    assert_eq!(
        normalise(bytes, &wanted(&object), &KernelConfig::default()).as_ref(),
        Ok(&new),
        "the same input gives the same bytes"
    );
    link(&new, &wanted(&object), kernel);
    "normalised"
}

/// The loader library trusts what it is given: it must find nothing to stumble over in what was normalised.
fn link(normalised: &[u8], wanted: &[Wanted], kernel: &KernelBtf) {
    let chosen: Vec<Chosen> =
        wanted.iter().map(|w| Chosen { function: w.function.to_string(), load: LoadType::XDP }).collect();
    let parsed = Unlinked::parse(normalised, &chosen, &BTreeMap::new(), Some(kernel), &KernelFacts::default());
    let Ok(unlinked) = parsed else { return };
    let fds = unlinked.maps().iter().zip(100..).map(|(map, fd)| (map.name().to_owned(), fd)).collect();
    let _finished = unlinked.finish(&fds);
}

#[test]
fn twenty_thousand_broken_objects_never_break_the_reader() {
    let seeds: Vec<Vec<u8>> = OBJECTS.iter().map(|object| object.to_vec()).collect();
    let kernel = kernel();
    let mut random = Random(SEED);
    let mut outcomes = BTreeMap::<&str, u64>::new();
    for number in 0..MUTANTS {
        let bytes = random.binary(&seeds);
        let outcome = std::panic::catch_unwind(|| exercise(&bytes, &kernel));
        match outcome {
            Ok(outcome) => *outcomes.entry(outcome).or_default() += 1,
            Err(_panic) => panic!("mutant {number} of seed {SEED:#x} breaks the reader"),
        }
    }
    // A generator whose mutants all die at the first check would prove nothing.
    for outcome in ["refused by inspect", "refused by normalise", "normalised"] {
        assert!(outcomes.get(outcome).copied().unwrap_or_default() > MUTANTS / 50, "{outcomes:?}");
    }
}

#[test]
fn every_truncation_of_an_object_is_refused_or_read() {
    let kernel = kernel();
    for object in OBJECTS {
        for end in 0..object.len() {
            exercise(&object[..end], &kernel);
        }
    }
}

#[test]
fn an_unchanged_object_passes() {
    let kernel = kernel();
    for object in OBJECTS {
        assert_eq!(exercise(object, &kernel), "normalised");
    }
}
