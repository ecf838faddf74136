//! A host of a case's own, and what a case asks of it: the built `bpfd` and `bpfctl` in network and mount namespaces, packets
//! that can be counted, and what must hold at the end.
//!
//! Nothing here is part of bpfd, and nothing here knows how bpfd does what it does: it sees the programs, their output, the pins
//! and the kernel. Whatever goes wrong ends the case, with the daemon's log.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a harness of tests: what it cannot do fails the test"
)]

mod audit;
mod calls;
mod census;
mod host;
pub mod mutants;
mod namespaces;
mod objects;
mod opens;
mod output;
pub mod page;
pub mod picture;
pub mod points;
mod traffic;

pub use audit::Audit;
pub use calls::Calls;
pub use census::Census;
pub use host::{Daemon, Host, eventually};
pub use objects::{broken, example, example_program, proprietary, rust_example};
pub use opens::Opens;
pub use output::Output;
pub use traffic::Flood;
