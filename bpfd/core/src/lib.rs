//! What bpfd decides: requests, hooks, policy, state, plans. Facts go in, values come out.
//!
//! Invariant: no I/O, no clock, no async, no `unsafe`; own `clippy.toml`, checked by `cargo xtask tidy`.

pub mod adopt;
pub mod ask;
pub mod audit;
pub mod chain;
pub mod changes;
pub mod config;
pub mod cow;
pub mod describe;
pub mod facts;
pub mod hook;
pub mod ident;
pub mod invariants;
pub mod journal;
pub mod kernel;
pub mod labels;
pub mod maps;
pub mod mode;
pub mod names;
pub mod object_digest;
pub mod order;
pub mod ordering;
pub mod plan;
pub mod policy;
pub mod programs;
pub mod quota;
pub mod reboot;
pub mod record;
pub mod report;
pub mod request;
pub mod seat;
pub mod selection;
pub mod sharing;
pub mod snapshot;
pub mod stamp;
pub mod state;
#[cfg(test)]
mod testing;
pub mod unauthorised;
pub mod watched;
