//! What is there after a reboot: what was asked to persist and what files declare, and nothing else that a request made.
//!
//! A reboot is made of what bpfd can tell of one; see `Host::reboot`.
#![expect(clippy::unwrap_used, reason = "the lints exempt test functions, not what they share")]

mod persist;
mod programs;
#[expect(dead_code, reason = "the world of other cases too")]
#[path = "../host_bad_images/world.rs"]
mod world;
