//! Reading back: each blob hashed again, images chosen again, signatures beside them.
//!
//! Must never hand out bytes that do not hash to their name.

use std::io::Read;

use super::{Store, StoreError};
use crate::{
    candidate::Candidate,
    digest::{Descriptor, Digest},
    document::{Document, Manifest},
    limits,
    reference::Reference,
    resolve::{Platform, ResolveError, Selected, choose},
};

/// Where the blobs of an image are.
pub trait Blobs {
    /// A blob, hashed again.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Missing`], [`StoreError::TooLarge`].
    fn blob(&self, wanted: &Descriptor, limit: u64) -> Result<Vec<u8>, StoreError>;
}

impl Blobs for Store {
    fn blob(&self, wanted: &Descriptor, limit: u64) -> Result<Vec<u8>, StoreError> {
        self.read(wanted, limit)
    }
}

/// The image for a platform of what a name leads to.
pub(super) fn selected(
    blobs: &impl Blobs,
    reference: &Reference,
    top: &Descriptor,
    platform: &Platform,
) -> Result<Selected, StoreError> {
    let document =
        |wanted: &Descriptor| Ok::<_, StoreError>(Document::check(wanted, blobs.blob(wanted, limits::MANIFEST)?)?);
    let top = document(top)?;
    Ok(match top.parse()? {
        Manifest::Image(_) => Selected::alone(reference, top)?,
        Manifest::Index(index) => {
            let manifest = document(&choose(&index, platform)?.descriptor)?;
            Selected::of_index(reference, top, manifest)?
        }
    })
}

/// The signatures in manifests, each with what it is over.
pub(super) fn candidates(blobs: &impl Blobs, manifests: &[(Digest, Descriptor)]) -> Result<Vec<Candidate>, StoreError> {
    let mut found = Vec::new();
    for (over, manifest) in manifests {
        let document = Document::check(manifest, blobs.blob(manifest, limits::MANIFEST)?)?;
        let Manifest::Image(manifest) = document.parse()? else { return Err(ResolveError::Nested.into()) };
        for layer in &manifest.layers {
            found.push(Candidate::new(*over, layer, blobs.blob(&layer.descriptor, limits::SIGNATURE)?));
        }
    }
    Ok(found)
}

impl Store {
    /// A blob, hashed again.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Missing`], [`StoreError::TooLarge`].
    pub fn read(&self, wanted: &Descriptor, limit: u64) -> Result<Vec<u8>, StoreError> {
        let Descriptor { digest, size, media_type: _ } = wanted;
        if *size > limit {
            return Err(StoreError::TooLarge { digest: *digest, size: *size, limit });
        }
        let bytes = self.raw(*digest, *size)?;
        let intact = u64::try_from(bytes.len()).is_ok_and(|length| length == *size) && Digest::of(&bytes) == *digest;
        if intact { Ok(bytes) } else { Err(StoreError::Corrupt(*digest)) }
    }

    /// The image that a stored name means on a platform.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn selected(&self, reference: &Reference, platform: &Platform) -> Result<Selected, StoreError> {
        selected(self, reference, &self.find(reference)?, platform)
    }

    /// The signatures that were kept with an image, of the resolved manifest first.
    ///
    /// # Errors
    /// [`StoreError`]; none kept is not one.
    pub fn signatures(&self, selected: &Selected) -> Result<Vec<Candidate>, StoreError> {
        let names = self.read_names()?;
        let of = |over| names.signatures(selected.reference(), over).into_iter().map(move |manifest| (over, manifest));
        let manifests: Vec<(Digest, Descriptor)> = selected.signable().into_iter().flat_map(of).collect();
        candidates(self, &manifests)
    }

    /// The digest that a name stands for, if the whole image is here and undamaged for a platform: what a pull may be
    /// told it has. `None` leads to a fresh download, which repairs what is damaged.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::Index`].
    pub fn cached(&self, reference: &Reference, platform: &Platform) -> Result<Option<Digest>, StoreError> {
        let whole = self.selected(reference, platform).and_then(|selected| {
            self.read(selected.config(), limits::CONFIG)?;
            self.read(selected.layer()?, limits::LAYER)?;
            self.signatures(&selected)?;
            Ok(selected.digest())
        });
        match whole {
            Ok(digest) => Ok(Some(digest)),
            Err(error @ (StoreError::Io { .. } | StoreError::Index(_))) => Err(error),
            Err(_not_whole) => Ok(None),
        }
    }

    /// A manifest or an index.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn document(&self, wanted: &Descriptor) -> Result<Document, StoreError> {
        let bytes = self.read(wanted, limits::MANIFEST)?;
        Ok(Document::check(wanted, bytes)?)
    }

    pub(super) fn exists(&self, digest: Digest) -> Result<(), StoreError> {
        self.blobs.open(&digest.hex()).map(drop).map_err(|error| self.unread(digest, error))
    }

    /// Up to one byte more than `size` of a blob's file.
    pub(super) fn raw(&self, digest: Digest, size: u64) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        let file = self.blobs.open(&digest.hex());
        let read = file.and_then(|file| file.take(size.saturating_add(1)).read_to_end(&mut bytes));
        read.map_err(|error| self.unread(digest, error))?;
        Ok(bytes)
    }

    fn unread(&self, digest: Digest, error: std::io::Error) -> StoreError {
        if error.kind() == std::io::ErrorKind::NotFound {
            StoreError::Missing(digest)
        } else {
            self.failed(&format!("read blob `{digest}`"), error)
        }
    }
}
