//! BPF bytecode in OCI images: format, transport, store, signatures.

pub mod auth;
pub mod candidate;
pub mod digest;
pub mod document;
pub mod key;
pub mod limits;
pub mod media;
pub mod policy;
pub mod reference;
pub mod registries;
pub mod resolve;
pub mod scope;
pub mod sign;
#[cfg(feature = "test-registry")]
pub mod testing;
pub mod transport;
pub mod unpack;
pub mod verify;
