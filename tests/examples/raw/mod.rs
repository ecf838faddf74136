//! What an object takes by system calls alone: what a daemon gave to the kernel when it loaded it, made again.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "part of a tool: what it cannot do ends it"
)]

#[path = "../../tests/host_state_layouts/kernel.rs"]
#[expect(dead_code, reason = "only what an object is loaded with is made here")]
pub(crate) mod kernel;

use std::collections::BTreeSet;
use std::fs;

use bpfd_tests::{Host, example};
use serde_json::Value;

use self::kernel::Step;

/// The steps of an object of one program, as a daemon takes them that `notes` (tests/layouts/notes.c) listens to.
pub(crate) fn steps(object: &str, notes: &str) -> Vec<Step> {
    let mut host = Host::without_daemon();
    host.start_with(&[("LD_PRELOAD", notes), ("BPF_NOTES", "/run/notes")]);
    host.bpfctl(&format!("load --path {} --name watched", example(object))).ok();
    let steps = made_of(&fs::read_to_string(host.path("/run/notes")).unwrap());
    assert!(steps.iter().any(|step| matches!(step, Step::Program { .. })), "no program was loaded");
    steps
}

/// The steps that made the last program: what went before was the daemon's own trial of the kernel.
fn made_of(notes: &str) -> Vec<Step> {
    let notes: Vec<Value> = notes.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let types = |note: &Value| note.pointer("/types/id").and_then(Value::as_str).map(str::to_owned);
    let last = notes.iter().rposition(|note| note["what"] == "program").unwrap();
    let wanted = types(&notes[last]);
    let of_object = |note: &Value| types(note) == wanted || note["id"].as_str() == wanted.as_deref();
    let first = notes.iter().position(of_object).unwrap();
    let maps: BTreeSet<&str> = notes[first..last].iter().filter_map(|note| note["id"].as_str()).collect();
    let own = |note: &&Value| note["what"] != "program" && note["map"].as_str().is_none_or(|map| maps.contains(map));
    let steps = notes[first..last].iter().filter(own).chain([&notes[last]]);
    steps.map(|note| serde_json::from_value(note.clone()).unwrap()).collect()
}
