//! An image that may be loaded, without its bytes: what a load keeps while others are before it.
//!
//! The bytes lie among the objects. They are read again, and hashed again, when there is room for them; the proof is here all the
//! time. Must never be made of anything but a judged image, or give out bytes that do not hash to what was in it.

use bpfd_core::state::ObjectDigest;
use bytecode_image::reference::Reference;
use bytecode_image::store::NamedRelease;
use bytecode_image::verify::Verified;

use super::judge::Judged;
use crate::objects::Objects;
use crate::source::{Bytecode, ImageWords, UploadError};

/// See the module.
#[derive(Debug)]
pub struct Acquired {
    verified: Verified,
    object: ObjectDigest,
    words: ImageWords,
    release: NamedRelease,
}

impl Acquired {
    /// The object is among the objects already.
    pub(super) fn new(judged: Judged, object: ObjectDigest, words: ImageWords, release: NamedRelease) -> Self {
        Self { verified: judged.verified, object, words, release }
    }

    /// What was verified.
    pub fn digest(&self) -> String {
        self.verified.digest().to_string()
    }

    /// What is remembered once it is loaded.
    pub fn release(&self) -> (Reference, NamedRelease) {
        (self.verified.reference().clone(), self.release.clone())
    }

    /// With its bytes.
    ///
    /// # Errors
    /// [`UploadError::Read`]: nobody uploaded it, so it is not absent but lost.
    pub fn bytecode(self, objects: &Objects) -> Result<Bytecode, UploadError> {
        let Self { verified, object, words, release: _ } = self;
        let bytes = objects.read(&object).map_err(|source| UploadError::Read { object, source })?;
        Ok(Bytecode::verified(verified, object, bytes, words))
    }
}
