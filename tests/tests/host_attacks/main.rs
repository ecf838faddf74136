//! What members, viewers, registries and workers do to others, and must not: each file makes one kind of attack on the built daemon.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "the lints exempt test functions, not what they share")]

mod half_sent_messages;
mod names_of_identities;
mod owners_of_paths;
mod raw;
mod silent_connections;
mod workers_identity;
#[path = "../host_bad_images/world.rs"]
#[expect(dead_code, reason = "of that page only what these attacks need")]
mod world;
