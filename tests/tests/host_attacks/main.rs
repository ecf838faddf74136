//! What members, viewers, registries and workers do to others, and must not: each file makes one kind of attack on the built daemon.
#![expect(clippy::unwrap_used, reason = "the lints exempt test functions, not what they share")]

mod workers_identity;
#[path = "../host_bad_images/world.rs"]
#[expect(dead_code, reason = "of that page only what these attacks need")]
mod world;
