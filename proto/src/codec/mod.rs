//! From messages to the types of `bpfd-core` and back, one module for each version of the API. It must never decide anything.

pub mod v1;
