//! Digests of blobs as bytes stream by, and what a manifest says about a blob.
//!
//! [`Digest`] itself is `bpfd-policy`'s, which decides about digests. Must never take a digest from a header or a label for the hash of
//! bytes: only [`Hasher`] and [`Digest::of`] make one from bytes.

pub use bpfd_policy::digest::{Digest, DigestError};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Hashes and counts bytes as they stream by.
#[derive(Debug, Clone, Default)]
pub struct Hasher {
    state: Sha256,
    length: u64,
}

impl Hasher {
    /// Nothing hashed yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.length = self.length.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    }

    /// How many bytes went in so far.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The digest of all bytes that went in.
    #[must_use]
    pub fn finish(self) -> Digest {
        <[u8; 32]>::from(self.state.finalize()).into()
    }
}

/// What a manifest says about a blob (image-spec 1.1 descriptor.md): type, digest and size in bytes. Foreign `urls` are not
/// read: a blob comes from the registry that the reference names, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The blob's media type.
    pub media_type: String,
    /// The digest that its bytes must have.
    pub digest: Digest,
    /// Its length in bytes, exactly.
    pub size: u64,
}

impl Descriptor {
    /// Describes bytes.
    #[must_use]
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Self { media_type: media_type.to_owned(), digest: Digest::of(bytes), size }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streamed_hash_equals_the_hash_of_the_whole() {
        let mut hasher = Hasher::new();
        hasher.update(b"ab");
        hasher.update(b"");
        hasher.update(b"c");
        assert_eq!(hasher.length(), 3);
        assert_eq!(hasher.finish(), Digest::of(b"abc"));
    }
}
