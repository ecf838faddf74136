//! Broken types and records: 20,000 seeded mutants each of the type information in objects and of dispatchers' configurations,
//! through what reads them. None may panic, and what passes is read the same again. The seeds are fixed, so that a failure repeats.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "test helpers stop the test, as a test function may")]

use std::ops::Range;

use ebpf::actions::ActionMask;
use ebpf::dispatch_config::{DispatcherConfig, SLOTS, Slot, Version};
use ebpf::inspect::inspect;
use ebpf::kconfig::KernelConfig;
use ebpf::kind::{DeclaredKind, ProgramKind};
use ebpf::normalise::{Wanted, normalise};
use ebpf::relocate::KernelBtf;
use object::{Object as _, ObjectSection as _};

#[path = "../../tests/src/mutants.rs"]
#[expect(dead_code, unreachable_pub, reason = "only some mutants are made here")]
mod mutants;

use mutants::Random;

const MUTANTS: usize = 20_000;

/// Changes up to four numbers or bytes of a part: BTF is made of aligned 32-bit numbers, so most changes are of these.
fn spoil(random: &mut Random, part: &mut [u8]) {
    for _ in 0..=random.below(4) {
        let at = random.below(part.len());
        if random.below(4) == 0 {
            part[at] = random.byte();
            continue;
        }
        let number = match random.below(5) {
            0 => u64::from(u32::MAX),
            1 => 1 << random.below(32),
            2 => random.draw() % 64,
            3 => 0,
            _ => random.draw(),
        };
        for (byte, new) in part.iter_mut().skip(at & !3).zip(number.to_le_bytes().into_iter().take(4)) {
            *byte = new;
        }
    }
}

/// Where a section's bytes are in an object's file.
fn section(object: &[u8], name: &str) -> Range<usize> {
    let parsed = object::File::parse(object).unwrap();
    let (at, length) = parsed.section_by_name(name).unwrap().file_range().unwrap();
    let at = usize::try_from(at).unwrap();
    at..at + usize::try_from(length).unwrap()
}

#[test]
fn twenty_thousand_broken_types_of_an_object_never_break_the_reader() {
    let objects: [&[u8]; 3] =
        [include_bytes!("objects/all_kinds.o"), include_bytes!("objects/core.o"), include_bytes!("objects/globals.o")];
    let parts: Vec<(&[u8], Range<usize>)> =
        objects.iter().flat_map(|object| [".BTF", ".BTF.ext"].map(|name| (*object, section(object, name)))).collect();
    let mut random = Random(0x6274_6600);
    let [mut refused, mut read, mut normalised] = [0; 3];
    for _ in 0..MUTANTS {
        let (object, part) = &parts[random.below(parts.len())];
        let mut bytes = object.to_vec();
        spoil(&mut random, &mut bytes[part.clone()]);
        // The same parser serves the kernel's own types.
        let _types = KernelBtf::parse(&bytes[part.clone()]);
        let Ok(object) = inspect(&bytes) else {
            refused += 1;
            continue;
        };
        let wanted = object.programs.iter().filter_map(|program| match &program.kind {
            DeclaredKind::Known(kind) => Some(Wanted { function: program.function.clone(), kind: *kind }),
            DeclaredKind::Unstated => Some(Wanted { function: program.function.clone(), kind: ProgramKind::Xdp }),
            DeclaredKind::Unsupported(_) => None,
        });
        let wanted: Vec<Wanted> = wanted.collect();
        match normalise(&bytes, &wanted, &KernelConfig::default()) {
            Ok(new) => {
                assert!(inspect(&new).is_ok(), "a normalised object can be read");
                normalised += 1;
            }
            Err(_refusal) => read += 1,
        }
    }
    // A generator whose mutants all fare alike would prove nothing.
    let fates = [refused, read, normalised];
    assert!(fates.iter().all(|fate| *fate > MUTANTS / 100), "{fates:?}");
}

/// One configuration of each version, full and not.
fn configurations() -> Vec<DispatcherConfig> {
    let slot = |number: usize| Slot {
        priority: u32::try_from(number * 10).unwrap(),
        actions: ActionMask::from_bits(4),
        flags: 0,
    };
    let versions = [Version::V1, Version::V2, Version::V3];
    let config = |version, count: usize| DispatcherConfig {
        version,
        frags: false,
        device_bound: false,
        slots: (0..count).map(slot).collect(),
    };
    versions.into_iter().flat_map(|version| [1, 3, SLOTS].map(|count| config(version, count))).collect()
}

#[test]
fn twenty_thousand_broken_dispatcher_configurations_are_refused_or_read_alike_twice() {
    let seeds: Vec<Vec<u8>> = configurations().iter().map(|config| config.encode().unwrap()).collect();
    let mut random = Random(0x6469_7370);
    let [mut refused, mut read] = [0; 2];
    for _ in 0..MUTANTS {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        // Most bytes are of slots: without more changes at the head, few mutants would be refused.
        let part = if random.below(3) == 0 { 4 } else { bytes.len() };
        spoil(&mut random, &mut bytes[..part]);
        if random.below(8) == 0 {
            bytes.truncate(random.below(bytes.len()));
        }
        let version = [None, Some(1), Some(2), Some(3), Some(4)][random.below(5)];
        let Ok(config) = DispatcherConfig::decode(&bytes, version) else {
            refused += 1;
            continue;
        };
        read += 1;
        assert!(config.slots.len() <= SLOTS, "{bytes:?}");
        // What was read can be written, unless it asks for what its version cannot say; and is then read alike.
        if let Ok(again) = config.encode() {
            let number = u32::from(config.version.number());
            assert_eq!(DispatcherConfig::decode(&again, Some(number)), Ok(config), "{bytes:?}");
        }
    }
    assert!(refused > MUTANTS / 10 && read > MUTANTS / 10, "{refused} refused, {read} read");
}
