//! BPF bytecode in OCI images: format, transport, store, signatures.

pub mod archive;
pub mod auth;
pub mod build;
pub mod bundle;
pub mod candidate;
pub mod config;
pub mod describe;
pub mod digest;
pub mod document;
pub mod fetch;
pub mod key;
pub mod keyless;
pub mod label;
pub mod limits;
pub mod media;
pub mod metadata;
pub mod registries;
pub mod resolve;
pub mod sign;
pub mod store;
pub mod summary;
#[cfg(feature = "test-registry")]
pub mod testing;
pub mod transport;
pub mod unpack;
pub mod verify;

// The words that a policy decides by: this crate reads and writes them, `bpfd-policy` owns them.
pub use bpfd_policy::{name, reference, scope};
