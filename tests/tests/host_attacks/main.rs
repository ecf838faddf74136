//! Attacks on the built daemon: what a member, a viewer, a registry or a worker could do to others, and must not. A file for each kind.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unreachable,
    reason = "the lints exempt test functions, not what they share"
)]

mod every_method;
mod floods;
mod fuzz;
mod half_sent_messages;
mod index_bomb;
mod keys_and_layers;
mod list_pages;
mod long_programs;
mod many_relocations;
mod matrix;
mod metadata;
mod moving_tags;
mod names_of_identities;
mod namespaces;
mod oracles;
mod owners_of_paths;
mod priorities;
mod private_addresses;
mod program_arrays;
mod quotas;
mod raw;
mod room;
mod silent_connections;
mod slow_pulls;
mod socket_paths;
mod still_workers;
mod unread_answers;
mod workers_identity;
#[path = "../host_bad_images/world.rs"]
mod world;
