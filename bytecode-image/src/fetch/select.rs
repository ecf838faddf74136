//! From what a reference names to the image for one platform.

use super::FetchError;
use crate::{
    document::{Document, Manifest},
    resolve::{Platform, Selected, choose},
    transport::Remote,
};

/// Follows an index, one level, to the image for a platform.
///
/// # Errors
/// [`FetchError::Manifest`], [`FetchError::Unusable`].
pub async fn select(remote: &Remote<'_>, top: Document, platform: &Platform) -> Result<Selected, FetchError> {
    let reference = remote.reference();
    let unusable = |error| FetchError::Unusable(reference.clone().into(), error);
    let manifest = top.parse().map_err(|error| unusable(error.into()))?;
    let selected = match manifest {
        Manifest::Image(_) => Selected::alone(reference, top),
        Manifest::Index(index) => {
            let entry = choose(&index, platform).map_err(unusable)?;
            let fetched = remote.described(&entry.descriptor).await;
            let manifest = fetched.map_err(|error| FetchError::Manifest(reference.clone().into(), error.into()))?;
            Selected::of_index(reference, top, manifest)
        }
    };
    selected.map_err(unusable)
}
