//! The host kernel on the real one. Needs root, clang and iproute2, and fails without. Each test has a host of its own (`world`).
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the lints exempt test functions, not what they share"
)]

mod dispatchers;
mod interruptions;
mod objects;
mod own_hooks;
mod shared_hooks;
mod verifier_words;
mod world;
