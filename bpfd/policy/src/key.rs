//! A public key as a policy holds it: bytes to compare and to hand to whoever checks signatures. Must never look inside.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// DER of a SubjectPublicKeyInfo (RFC 5280 §4.1.2.7). Whoever reads key files makes it, of a key that it could use.
#[derive(Clone, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct PublicKey(Vec<u8>);

impl PublicKey {
    /// The DER form.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for PublicKey {
    fn from(spki: Vec<u8>) -> Self {
        Self(spki)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}", Digest::of(&self.0))
    }
}
