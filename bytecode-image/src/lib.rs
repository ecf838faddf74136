//! BPF bytecode in OCI images: format, transport, store, signatures.

pub mod auth;
pub mod build;
pub mod candidate;
pub mod describe;
pub mod digest;
pub mod document;
pub mod fetch;
pub mod key;
pub mod label;
pub mod limits;
pub mod media;
pub mod metadata;
pub mod name;
pub mod policy;
pub mod reference;
pub mod registries;
pub mod resolve;
pub mod scope;
pub mod sign;
pub mod store;
pub mod summary;
#[cfg(feature = "test-registry")]
pub mod testing;
pub mod transport;
pub mod unpack;
pub mod verify;
