//! Signatures of cosign's legacy form, as they lie beside an image: tag `sha256-<hex>.sig`, one layer a signature
//! (cosign `specs/SIGNATURE_SPEC.md`).
//!
//! Must never say that there are none unless the registry did.

use super::{FetchError, Phase, Progress};
use crate::{
    candidate::Candidate,
    digest::{Descriptor, Digest},
    document::{Document, DocumentError, Layer, Manifest},
    limits, media,
    resolve::Selected,
    transport::{Remote, TransportError},
};

/// All signatures over one manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureSet {
    over: Digest,
    manifest: Document,
    config: (Descriptor, Vec<u8>),
    payloads: Vec<(Layer, Vec<u8>)>,
}

impl SignatureSet {
    /// The manifest that they were found beside.
    #[must_use]
    pub fn over(&self) -> Digest {
        self.over
    }

    /// Their own manifest.
    #[must_use]
    pub fn manifest(&self) -> &Document {
        &self.manifest
    }

    /// What a verifier needs.
    pub fn candidates(&self) -> impl Iterator<Item = Candidate> {
        self.payloads.iter().map(|(layer, payload)| Candidate {
            over: self.over,
            payload: payload.clone(),
            annotations: layer.annotations.clone(),
        })
    }

    /// Every blob of it, to be kept.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&Descriptor, &[u8])> {
        let payloads = self.payloads.iter().map(|(layer, payload)| (&layer.descriptor, payload.as_slice()));
        let config = (&self.config.0, self.config.1.as_slice());
        payloads.chain([config, (self.manifest.descriptor(), self.manifest.bytes())])
    }
}

/// The signatures over an image's index and over the image itself.
///
/// # Errors
/// [`FetchError::Signatures`], [`FetchError::SignatureManifest`], [`FetchError::TooManySignatures`].
pub async fn fetch_signatures(
    remote: &Remote<'_>,
    selected: &Selected,
    progress: &dyn Progress,
) -> Result<Vec<SignatureSet>, FetchError> {
    progress.report(Phase::Signatures, 0, None);
    let mut sets = Vec::new();
    let mut count = 0;
    for over in selected.signable() {
        if let Some(manifest) = manifest_of_signatures(remote, over).await? {
            sets.push(read(remote, over, manifest, &mut count, progress).await?);
        }
    }
    Ok(sets)
}

async fn manifest_of_signatures(remote: &Remote<'_>, over: Digest) -> Result<Option<Document>, FetchError> {
    let place = remote.reference().signatures(over);
    match remote.tagged(place.tag().unwrap_or_default()).await {
        Ok(manifest) => Ok(Some(manifest)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(FetchError::Signatures(remote.reference().clone().into(), error.into())),
    }
}

async fn read(
    remote: &Remote<'_>,
    over: Digest,
    manifest: Document,
    count: &mut usize,
    progress: &dyn Progress,
) -> Result<SignatureSet, FetchError> {
    let reference = remote.reference();
    let failed = |error: TransportError| FetchError::Signatures(reference.clone().into(), error.into());
    let refused = |error| FetchError::SignatureManifest(reference.clone().into(), error);
    let image = match manifest.parse().map_err(refused)? {
        Manifest::Image(image) => image,
        Manifest::Index(_) => return Err(refused(DocumentError::MediaType(manifest.media_type().to_owned()))),
    };
    // Layers of other kinds count too: the store keeps the manifest whole.
    if *count + image.layers.len() > limits::SIGNATURES {
        return Err(FetchError::TooManySignatures { reference: reference.clone().into() });
    }
    let total = u64::try_from(*count + image.layers.len()).ok();
    let mut payloads = Vec::new();
    for layer in image.layers {
        if layer.descriptor.media_type != media::SIMPLE_SIGNING {
            return Err(refused(DocumentError::MediaType(layer.descriptor.media_type)));
        }
        let payload = remote.bytes(&layer.descriptor, limits::SIGNATURE).await.map_err(failed)?;
        payloads.push((layer, payload));
        *count += 1;
        progress.report(Phase::Signatures, u64::try_from(*count).unwrap_or(u64::MAX), total);
    }
    let config = remote.bytes(&image.config, limits::CONFIG).await.map_err(failed)?;
    Ok(SignatureSet { over, manifest, config: (image.config, config), payloads })
}
