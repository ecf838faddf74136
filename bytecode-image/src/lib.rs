//! BPF bytecode in OCI images: format, transport, store, signatures.

pub mod auth;
pub mod digest;
pub mod document;
pub mod limits;
pub mod media;
pub mod reference;
pub mod registries;
pub mod resolve;
pub mod scope;
pub mod unpack;
