//! Signatures as they lie beside an image: of cosign's legacy form at the tag `sha256-<hex>.sig`, one layer a signature (cosign
//! `specs/SIGNATURE_SPEC.md`), and its attestations at `sha256-<hex>.att` (`specs/ATTESTATION_SPEC.md`); of other forms in manifests that
//! refer to it (`specs/BUNDLE_SPEC.md`).
//!
//! Must never say that there are none unless the registry did.

use super::{FetchError, Phase, Progress};
use crate::{
    candidate::{Candidate, is_signatures, may_be_signatures},
    digest::{Descriptor, Digest},
    document::{Document, DocumentError, ImageManifest, IndexEntry, Layer, Manifest},
    limits, media,
    reference::Reference,
    resolve::Selected,
    transport::{Remote, TransportError},
};

/// A manifest of signatures over another manifest.
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
        self.payloads.iter().map(|(layer, payload)| Candidate::new(self.over, layer, payload.clone()))
    }

    /// Every blob of it, to be kept.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&Descriptor, &[u8])> {
        let payloads = self.payloads.iter().map(|(layer, payload)| (&layer.descriptor, payload.as_slice()));
        let config = (&self.config.0, self.config.1.as_slice());
        payloads.chain([config, (self.manifest.descriptor(), self.manifest.bytes())])
    }
}

/// What was found beside an image.
#[derive(Debug)]
pub struct SignaturesFound {
    /// Signatures, by the manifest that they are in.
    pub sets: Vec<SignatureSet>,
    /// A tag for signatures that names something else ([`FetchError::SignatureManifest`]): an error, unless no signature is asked for.
    pub unreadable: Option<FetchError>,
}

/// The signatures over an image's index and over the image itself.
///
/// # Errors
/// [`FetchError::Signatures`], [`FetchError::TooManySignatures`].
pub async fn fetch_signatures(
    remote: &Remote<'_>,
    selected: &Selected,
    progress: &dyn Progress,
) -> Result<SignaturesFound, FetchError> {
    progress.report(Phase::Signatures, 0, None);
    let mut reading = Reading { remote, progress, count: 0, sets: Vec::new() };
    let mut unreadable = None;
    for over in selected.signable() {
        let (signatures, attestations) = (remote.reference().signatures(over), remote.reference().attestations(over));
        let (signatures, attestations, referrers) =
            tokio::join!(tagged(remote, &signatures), tagged(remote, &attestations), remote.referrers(over));
        for (legacy, kind) in [(signatures, media::SIMPLE_SIGNING), (attestations, media::ENVELOPE)] {
            let read = match legacy {
                Ok(Some(manifest)) => reading.legacy(over, manifest, kind).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            match read {
                Err(error @ FetchError::SignatureManifest(..)) => unreadable = Some(error),
                read => read?,
            }
        }
        reading.attached(over, referrers).await?;
    }
    Ok(SignaturesFound { sets: reading.sets, unreadable })
}

/// The signatures in manifests that refer to a manifest.
///
/// # Errors
/// [`FetchError::Signatures`], [`FetchError::TooManySignatures`].
pub async fn fetch_attached(remote: &Remote<'_>, over: Digest) -> Result<Vec<SignatureSet>, FetchError> {
    let mut reading = Reading { remote, progress: &(), count: 0, sets: Vec::new() };
    reading.attached(over, remote.referrers(over).await).await?;
    Ok(reading.sets)
}

async fn tagged(remote: &Remote<'_>, place: &Reference) -> Result<Option<Document>, FetchError> {
    match remote.tagged(place.tag().unwrap_or_default()).await {
        Ok(manifest) => Ok(Some(manifest)),
        Err(error) if error.is_not_found() => Ok(None),
        // It came as its registry says it is, and is no manifest of any kind.
        Err(TransportError::Document(
            error @ (DocumentError::Json(_)
            | DocumentError::MediaType(_)
            | DocumentError::MediaTypeDiffers { .. }
            | DocumentError::Ambiguous
            | DocumentError::Schema(_)),
        )) => Err(FetchError::SignatureManifest(remote.reference().clone().into(), error)),
        Err(error) => Err(FetchError::Signatures(remote.reference().clone().into(), error.into())),
    }
}

fn image(manifest: &Document) -> Result<ImageManifest, DocumentError> {
    match manifest.parse()? {
        Manifest::Image(image) => Ok(image),
        Manifest::Index(_) => Err(DocumentError::MediaType(manifest.media_type().to_owned())),
    }
}

/// What was read so far, of all manifests together.
struct Reading<'a> {
    remote: &'a Remote<'a>,
    progress: &'a dyn Progress,
    count: usize,
    sets: Vec<SignatureSet>,
}

impl Reading<'_> {
    /// `kind` is the type that every layer must have.
    async fn legacy(&mut self, over: Digest, manifest: Document, kind: &str) -> Result<(), FetchError> {
        let refused = |error| FetchError::SignatureManifest(self.remote.reference().clone().into(), error);
        let image = image(&manifest).map_err(refused)?;
        match image.layers.iter().find(|layer| layer.descriptor.media_type != kind) {
            Some(other) => Err(refused(DocumentError::MediaType(other.descriptor.media_type.clone()))),
            None => self.read(over, manifest, image).await,
        }
    }

    async fn attached(
        &mut self,
        over: Digest,
        listed: Result<Vec<IndexEntry>, TransportError>,
    ) -> Result<(), FetchError> {
        let remote = self.remote;
        let failed = |error: TransportError| FetchError::Signatures(remote.reference().clone().into(), error.into());
        let may_be = |entry: &IndexEntry| may_be_signatures(entry.artifact_type.as_deref());
        for entry in listed.map_err(failed)?.into_iter().filter(may_be) {
            let manifest = remote.described(&entry.descriptor).await.map_err(failed)?;
            // A list may name anything: what is not about this manifest, or no signature, is no part of the decision.
            match image(&manifest) {
                Ok(image) if is_signatures(&image, over) => self.read(over, manifest, image).await?,
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    async fn read(&mut self, over: Digest, manifest: Document, image: ImageManifest) -> Result<(), FetchError> {
        let Self { remote, progress, .. } = self;
        let reference = remote.reference();
        let failed = |error: TransportError| FetchError::Signatures(reference.clone().into(), error.into());
        // Layers of other kinds count too: the store keeps the manifest whole.
        let all = self.count + image.layers.len();
        if all > limits::SIGNATURES {
            return Err(FetchError::TooManySignatures { reference: reference.clone().into() });
        }
        let mut payloads = Vec::new();
        for layer in image.layers {
            let payload = remote.bytes(&layer.descriptor, limits::SIGNATURE).await.map_err(failed)?;
            payloads.push((layer, payload));
            self.count += 1;
            progress.report(Phase::Signatures, u64::try_from(self.count).unwrap_or(u64::MAX), u64::try_from(all).ok());
        }
        // The empty one is known without asking.
        let config = match image.config == Descriptor::of(media::EMPTY, media::EMPTY_BYTES) {
            true => media::EMPTY_BYTES.to_vec(),
            false => remote.bytes(&image.config, limits::CONFIG).await.map_err(failed)?,
        };
        self.sets.push(SignatureSet { over, manifest, config: (image.config, config), payloads });
        Ok(())
    }
}
