//! `cargo xtask prove attacks`: random input at each door of a daemon, for as many seconds as the first word says, made of the seed that
//! the second one is; with a third and a fourth, that door's input of that number alone. Prints one figure a line, as JSON; what did harm
//! goes to standard error.
//!
//! The inputs and the doors are those of the test `host_attacks`. Must never fail on a time: xtask judges.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool: what it cannot do ends it, and what it prints is its result"
)]

#[path = "../tests/host_attacks/fuzz/mod.rs"]
mod fuzz;
#[path = "../tests/host_attacks/raw.rs"]
#[expect(dead_code, reason = "only whole calls are made")]
mod raw;
#[path = "../tests/host_bad_images/world.rs"]
#[expect(dead_code, reason = "only hosts with images are made")]
mod world;

use std::time::Duration;

use fuzz::{Length, PEAK, Report, Tally};
use serde_json::json;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |word: &str| word.parse::<u64>().expect("a number");
    let (seed, length) = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [seconds, seed] => (number(seed), Length::Whole(Duration::from_secs(number(seconds)))),
        [_seconds, seed, door, input] => (number(seed), Length::One((*door).to_owned(), number(input))),
        other => panic!("not seconds, a seed, and maybe a door and the number of an input: {other:?}"),
    };
    let mut images = fuzz::host();
    let report = fuzz::run(&mut images, seed, &length);
    show(&report, seed);
    if !report.is_clean() {
        // Nothing more is asked of a daemon that came to harm. What it has ends with this process.
        std::mem::forget(images);
    }
}

fn show(report: &Report, seed: u64) {
    let Report { tallies, peak, deaths, hangs, panics } = report;
    for Tally { door, inputs, taken, slowest, number } in tallies {
        figure(&format!("{door}_inputs"), *inputs, "inputs", None);
        figure(&format!("{door}_taken"), *taken, "inputs", None);
        figure(&format!("{door}_slowest"), slowest.as_secs_f64() * 1e3, "ms", None);
        eprintln!("{door}:{number} of seed {seed} took longest");
    }
    figure("inputs", tallies.iter().map(|tally| tally.inputs).sum::<u64>(), "inputs", None);
    figure("peak_memory", *peak, "MiB", Some(&format!("<={PEAK}")));
    for (what, found) in [("deaths", deaths), ("hangs", hangs), ("panics", panics)] {
        found.iter().for_each(|one| eprintln!("{what}: {one}"));
        figure(what, found.len(), "", Some("<=0"));
    }
}

/// `bound` as in `<=3`.
fn figure(name: &str, value: impl serde::Serialize, unit: &str, bound: Option<&str>) {
    println!("{}", json!({"name": name, "value": value, "unit": unit, "bound": bound}));
}
