//! The example that counts calls of a kernel function. Guests only: what the host's kernel was built with is its own business.
#![expect(clippy::unwrap_used, clippy::panic, reason = "the lints exempt test functions, not what they share")]

#[path = "host_examples/counter.rs"]
mod counter;

use bpfd_tests::{Host, example, example_program};

use counter::counts;

#[test]
fn the_kprobe_counter_in_go_prints_calls_of_a_kernel_function() {
    let Some(program) = example_program("go-kprobe-counter") else { return };
    let host = Host::new();
    let removals = || {
        for _ in 0..1000 {
            std::fs::remove_file("/no/such/file").unwrap_err();
        }
    };
    counts(&host, &[&program, "-object", &example("kprobe-count")], "calls", removals);
}
