//! What tests of this and other crates share: a registry that can lie. Only with the feature `test-registry`.
//!
//! Must never be part of a program that is shipped.

pub mod registry;
