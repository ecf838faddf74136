//! Whether what landed in `ingest/` is what it says, and a whole image: checked before the store's lock is taken, because what a
//! registry sent decides how long it takes.
//!
//! An image is a tree of two levels: an index and images, or one image. Each document is read once and has a bounded number of entries
//! ([`limits::ENTRIES`]); nothing is followed but what landed with it. Must never change anything.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use super::{Fetched, HashedSink, Landed, Signatures, Store, StoreError};
use crate::{
    digest::{Descriptor, Digest, Hasher},
    document::{Document, ImageManifest, Manifest},
    limits,
    resolve::ResolveError,
};

/// What is in `ingest/`, by digest.
type Parts<'a> = BTreeMap<Digest, &'a Landed>;

impl Store {
    /// Hashes every part.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was moved.
    pub(super) fn check_parts(&self, landed: &[Landed]) -> Result<(), StoreError> {
        check_number(landed)?;
        landed.iter().try_for_each(|part| self.check_part(part))
    }

    /// Follows the image and its signatures down to their blobs.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was moved.
    pub(super) fn check_tree(&self, fetched: &Fetched) -> Result<(), StoreError> {
        let Fetched { reference: _, image, landed, signatures } = fetched;
        let parts: Parts<'_> = landed.iter().map(|part| (part.descriptor.digest, part)).collect();
        match self.landed(image, &parts)?.parse()? {
            Manifest::Image(manifest) => self.check_blobs(&manifest, &parts)?,
            Manifest::Index(index) => {
                // One image of an index is enough: of a registry's only one was pulled.
                let came =
                    |wanted: &Descriptor| parts.get(&wanted.digest).is_some_and(|part| part.descriptor == *wanted);
                let mut images =
                    index.manifests.iter().map(|entry| &entry.descriptor).filter(|entry| came(entry)).peekable();
                if images.peek().is_none() {
                    return Err(StoreError::Missing(image.digest));
                }
                images.try_for_each(|entry| self.check_blobs(&self.landed_image(entry, &parts)?, &parts))?;
            }
        }
        signatures.iter().try_for_each(|Signatures { over: _, manifest }| {
            self.check_blobs(&self.landed_image(manifest, &parts)?, &parts)
        })
    }

    /// Whether a part is what it says.
    fn check_part(&self, part: &Landed) -> Result<(), StoreError> {
        let Landed { file, descriptor } = part;
        let Descriptor { digest, size, media_type: _ } = descriptor;
        if *size > limits::LAYER {
            return Err(StoreError::TooLarge { digest: *digest, size: *size, limit: limits::LAYER });
        }
        let doing = |source| self.failed("take in a blob", source);
        let mut opened = self.ingest.open(file.as_str()).map_err(doing)?;
        let mut hashed = HashedSink(Hasher::new());
        io::copy(&mut Read::take(&mut opened, size.saturating_add(1)), &mut hashed).map_err(doing)?;
        let (length, got) = (hashed.0.length(), hashed.0.finish());
        if got != *digest || length != *size {
            return Err(StoreError::NotWhatItSays { wanted: *digest, got });
        }
        Ok(())
    }

    /// The bytes of a part, hashed again.
    pub(super) fn read_part(&self, part: &Landed, wanted: &Descriptor, limit: u64) -> Result<Vec<u8>, StoreError> {
        let Descriptor { digest, size, media_type: _ } = wanted;
        if *size > limit {
            return Err(StoreError::TooLarge { digest: *digest, size: *size, limit });
        }
        let doing = |source| self.failed("read a received blob", source);
        let mut bytes = Vec::new();
        let file = self.ingest.open(part.file.as_str()).map_err(doing)?;
        file.take(size.saturating_add(1)).read_to_end(&mut bytes).map_err(doing)?;
        let intact = u64::try_from(bytes.len()).is_ok_and(|length| length == *size) && Digest::of(&bytes) == *digest;
        if intact { Ok(bytes) } else { Err(StoreError::Corrupt(*digest)) }
    }

    /// A document that landed, or that the store has.
    fn landed(&self, wanted: &Descriptor, parts: &Parts<'_>) -> Result<Document, StoreError> {
        let Some(part) = parts.get(&wanted.digest) else { return self.document(wanted) };
        let doing = |source| self.failed("take in a blob", source);
        let mut bytes = Vec::new();
        let file = self.ingest.open(part.file.as_str()).map_err(doing)?;
        file.take(limits::MANIFEST + 1).read_to_end(&mut bytes).map_err(doing)?;
        Ok(Document::check(wanted, bytes)?)
    }

    /// The same, if it is no index: there is no third level.
    fn landed_image(&self, wanted: &Descriptor, parts: &Parts<'_>) -> Result<ImageManifest, StoreError> {
        match self.landed(wanted, parts)?.parse()? {
            Manifest::Image(image) => Ok(image),
            Manifest::Index(_) => Err(ResolveError::Nested.into()),
        }
    }

    /// Whether an image's blobs landed, or are here.
    fn check_blobs(&self, image: &ImageManifest, parts: &Parts<'_>) -> Result<(), StoreError> {
        let blobs = image.layers.iter().map(|layer| &layer.descriptor).chain([&image.config]);
        blobs.map(|blob| blob.digest).filter(|blob| !parts.contains_key(blob)).try_for_each(|blob| self.exists(blob))
    }
}

/// Whether there are no more parts than an image can have.
pub(super) fn check_number(landed: &[Landed]) -> Result<(), StoreError> {
    if landed.len() > limits::PARTS { Err(StoreError::Parts(landed.len())) } else { Ok(()) }
}
