//! Images from a registry that may lie, through real workers, into an app's bytes. Needs root (workers run as nobody) and loopback,
//! and fails without. Each test has a registry and a host of its own (`world`).
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the lints exempt test functions, not what they share"
)]

mod acquire;
mod refusals;
mod store;
mod world;
