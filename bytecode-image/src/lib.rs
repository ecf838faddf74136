//! BPF bytecode in OCI images: format, transport, store, signatures.

pub mod digest;
pub mod media;
pub mod reference;
pub mod scope;
