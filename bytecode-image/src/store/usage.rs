//! How much the store holds, and what was used when: for whoever keeps it small. No lock is held: what is counted may change meanwhile.

use std::time::SystemTime;

use super::{Store, StoreError};
use crate::digest::Digest;

impl Store {
    /// Bytes of all blobs.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn bytes(&self) -> Result<u64, StoreError> {
        Ok(self.sizes()?.iter().map(|(_, size)| size).sum())
    }

    /// Says that an image is used now. Kept as well as the file system keeps it: after a crash an image may look older than it is.
    pub fn used(&self, image: Digest) {
        let touched = self.blobs.touch(&image.hex());
        // A file system that is read-only, or a blob that just went: then it looks as old as it is.
        touched.unwrap_or_default();
    }

    /// When an image was used last; `None` if it is not here.
    #[must_use]
    pub fn last_used(&self, image: Digest) -> Option<SystemTime> {
        self.blobs.open(&image.hex()).and_then(|file| file.metadata()).and_then(|data| data.accessed()).ok()
    }
}
