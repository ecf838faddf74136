//! From what a reference names to the image for one platform.

use super::FetchError;
use crate::{
    digest::{Descriptor, Digest},
    document::{Document, Manifest},
    resolve::{Platform, Selected, choose},
    transport::Remote,
};

/// Follows an index, one level, to the image for a platform.
///
/// # Errors
/// [`FetchError::Manifest`], [`FetchError::Unusable`].
pub async fn select(remote: &Remote<'_>, top: Document, platform: &Platform) -> Result<Selected, FetchError> {
    Chosen::of(remote, top, platform)?.selected(remote).await
}

/// What is known before the image of an index was asked for.
pub(super) struct Chosen {
    top: Document,
    /// Of an index, its image for the platform.
    image: Option<Descriptor>,
}

impl Chosen {
    pub(super) fn of(remote: &Remote<'_>, top: Document, platform: &Platform) -> Result<Self, FetchError> {
        let unusable = |error| FetchError::Unusable(remote.reference().clone().into(), error);
        let image = match top.parse().map_err(|error| unusable(error.into()))? {
            Manifest::Image(_) => None,
            Manifest::Index(index) => Some(choose(&index, platform).map_err(unusable)?.descriptor.clone()),
        };
        Ok(Self { top, image })
    }

    /// [`Selected::signable`] of what it will be.
    pub(super) fn signable(&self) -> Vec<Digest> {
        [self.top.digest()].into_iter().chain(self.image.as_ref().map(|image| image.digest)).collect()
    }

    pub(super) async fn selected(self, remote: &Remote<'_>) -> Result<Selected, FetchError> {
        let reference = remote.reference();
        let Self { top, image } = self;
        let selected = match image {
            None => Selected::alone(reference, top),
            Some(image) => {
                let fetched = remote.described(&image).await;
                let manifest = fetched.map_err(|error| FetchError::Manifest(reference.clone().into(), error.into()))?;
                Selected::of_index(reference, top, manifest)
            }
        };
        selected.map_err(|error| FetchError::Unusable(reference.clone().into(), error))
    }
}
