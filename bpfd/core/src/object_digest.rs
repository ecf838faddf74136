//! The name of an object: the sha256 of its bytes. This file must never hash: it only carries and prints.

use std::fmt;

use bpfd_policy::digest::Digest;
use serde::{Deserialize, Serialize};

/// sha256 of an object's bytes, written as its digits alone.
#[derive(Clone, Copy, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectDigest(pub Digest);

impl From<[u8; 32]> for ObjectDigest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes.into())
    }
}

impl From<Digest> for ObjectDigest {
    fn from(digest: Digest) -> Self {
        Self(digest)
    }
}

/// A text that is no sha256.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a digest is 64 lower-case hexadecimal digits")]
pub struct BadDigest;

impl fmt::Display for ObjectDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.hex())
    }
}

impl fmt::Debug for ObjectDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for ObjectDigest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        format!("sha256:{text}").parse().map(Self).map_err(|_| BadDigest)
    }
}

impl TryFrom<String> for ObjectDigest {
    type Error = BadDigest;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ObjectDigest> for String {
    fn from(digest: ObjectDigest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_reads_what_it_writes() {
        let digest = ObjectDigest::from(std::array::from_fn(|at| u8::try_from(at * 8).unwrap()));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for bad in ["", "ab", &"a".repeat(63), &"A".repeat(64), &"g".repeat(64), &"0".repeat(66)] {
            assert_eq!(bad.parse::<ObjectDigest>(), Err(BadDigest), "{bad:?}");
        }
    }
}
