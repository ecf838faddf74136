//! Normalised, then linked: what programs of one object share and what they must not.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which the lint does not take for tests")]

use std::collections::BTreeMap;

use ebpf::kconfig::KernelConfig;
use ebpf::kind::ProgramKind;
use ebpf::load_type::LoadType;
use ebpf::normalise::{Wanted, normalise};
use ebpf::relocate::{Chosen, Finished, KernelFacts, RelocateError, Unlinked};

const SUBPROGRAMS: &[u8] = include_bytes!("objects/subprograms.o");
/// 100 programs that call one function of 10,000 instructions.
const MANY_CALLS: &[u8] = include_bytes!("objects/many_calls.o");

fn wanted(function: &str) -> Wanted {
    Wanted { function: function.parse().unwrap(), kind: ProgramKind::Xdp }
}

/// The functions of `subprograms` linked together, or each from an object of its own.
fn link(functions: &[&str]) -> Vec<Finished> {
    link_of(SUBPROGRAMS, functions).unwrap()
}

fn link_of(object: &[u8], functions: &[&str]) -> Result<Vec<Finished>, RelocateError> {
    let wanted: Vec<Wanted> = functions.iter().map(|function| wanted(function)).collect();
    let object = normalise(object, &wanted, &KernelConfig::default()).unwrap();
    let chosen: Vec<Chosen> =
        functions.iter().map(|function| Chosen { function: (*function).to_owned(), load: LoadType::XDP }).collect();
    let unlinked = Unlinked::parse(&object, &chosen, &BTreeMap::new(), None, &KernelFacts::default()).unwrap();
    let fds = unlinked.maps().iter().map(|map| map.name().to_owned()).zip(100..).collect();
    unlinked.finish(&fds)
}

#[test]
fn programs_of_one_load_have_a_million_instructions_together_at_most() {
    let names: Vec<String> = (0..100).map(|number| format!("p{number:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let finished = link_of(MANY_CALLS, &names[..99]).unwrap();
    let total: usize = finished.iter().map(|program| program.insns.len()).sum();
    assert!((990_000..1_000_000).contains(&total), "{total}");
    let refused = link_of(MANY_CALLS, &names).unwrap_err().to_string();
    assert_eq!(
        refused,
        format!(
            "with `p99`, the programs have {} instructions, callees included; 1000000 is the limit for all together: load fewer of them",
            total + total / 99
        )
    );
}

#[test]
fn programs_linked_together_are_those_linked_alone() {
    let together = link(&["calls_both", "loops", "calls_outer"]);
    for finished in &together {
        let [alone] = <[Finished; 1]>::try_from(link(&[finished.function.as_str()])).unwrap();
        assert_eq!(finished.insns, alone.insns, "{}", finished.function);
    }
}

#[test]
fn a_program_carries_each_function_it_calls_once_with_its_func_info() {
    for (finished, functions) in link(&["calls_both", "loops", "calls_outer"]).iter().zip([3, 2, 3]) {
        let starts: Vec<u32> = finished
            .func_info
            .as_chunks::<8>()
            .0
            .iter()
            .map(|record| u32::from_le_bytes([record[0], record[1], record[2], record[3]]))
            .collect();
        assert_eq!(starts.len(), functions, "{}", finished.function);
        assert!(starts.is_sorted() && starts[0] == 0);
    }
}
