//! Signatures as they lie beside an image: of cosign's legacy form at the tag `sha256-<hex>.sig`, one layer a signature (cosign
//! `specs/SIGNATURE_SPEC.md`), and its attestations at `sha256-<hex>.att` (`specs/ATTESTATION_SPEC.md`); of other forms in manifests that
//! refer to it (`specs/BUNDLE_SPEC.md`).
//!
//! Must never say that there are none unless the registry did.

use std::mem;

use futures_util::future::join_all;

use super::{FetchError, Phase, Progress};
use crate::{
    candidate::{Candidate, is_signatures, may_be_signatures},
    digest::{Descriptor, Digest},
    document::{Document, DocumentError, ImageManifest, IndexEntry, Layer, Manifest},
    limits, media,
    reference::Reference,
    resolve::Selected,
    sign,
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
    /// Each blob was hashed.
    pub(crate) fn of(
        over: Digest,
        manifest: Document,
        config: (Descriptor, Vec<u8>),
        payloads: Vec<(Layer, Vec<u8>)>,
    ) -> Self {
        Self { over, manifest, config, payloads }
    }

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
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&Descriptor, &[u8])> {
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

impl SignaturesFound {
    /// What a verifier needs.
    #[must_use]
    pub fn candidates(&self) -> Vec<Candidate> {
        self.sets.iter().flat_map(SignatureSet::candidates).collect()
    }
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
    let beside = ask_beside(remote, selected.signable(), progress).await;
    let mut found = read_beside(remote, beside, progress).await?;
    add_attestations(remote, &selected.signable(), &mut found, progress).await?;
    Ok(found)
}

/// The attestations of cosign's legacy form too. A registry is asked for them apart: nobody needs them if the rest is enough.
pub(super) async fn add_attestations(
    remote: &Remote<'_>,
    over: &[Digest],
    found: &mut SignaturesFound,
    progress: &dyn Progress,
) -> Result<(), FetchError> {
    let SignaturesFound { sets, unreadable } = found;
    let count = sets.iter().map(|set| set.payloads.len()).sum();
    let mut reading = Reading { remote, progress, count, sets: mem::take(sets) };
    for over in over {
        let legacy = tagged(remote, &remote.reference().attestations(*over)).await;
        *unreadable = reading.at_tag(*over, legacy, media::ENVELOPE).await?.or(unreadable.take());
    }
    *sets = reading.sets;
    Ok(())
}

/// What the registry says is beside a manifest.
pub(super) struct Beside {
    over: Digest,
    legacy: Result<Option<Document>, FetchError>,
    referrers: Result<Vec<IndexEntry>, TransportError>,
}

/// Asks what is beside manifests, all at once.
pub(super) async fn ask_beside(remote: &Remote<'_>, over: Vec<Digest>, progress: &dyn Progress) -> Vec<Beside> {
    progress.report(Phase::Signatures, 0, None);
    let asked = over.into_iter().map(|over| async move {
        let place = remote.reference().signatures(over);
        let (legacy, referrers) = tokio::join!(tagged(remote, &place), remote.referrers(over));
        Beside { over, legacy, referrers }
    });
    join_all(asked).await
}

/// Reads the signatures in what is beside manifests.
pub(super) async fn read_beside(
    remote: &Remote<'_>,
    beside: Vec<Beside>,
    progress: &dyn Progress,
) -> Result<SignaturesFound, FetchError> {
    let mut reading = Reading { remote, progress, count: 0, sets: Vec::new() };
    let mut unreadable = None;
    for Beside { over, legacy, referrers } in beside {
        unreadable = reading.at_tag(over, legacy, media::SIMPLE_SIGNING).await?.or(unreadable);
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
    /// What is at a tag for them. Gives the reason if something else is there.
    async fn at_tag(
        &mut self,
        over: Digest,
        there: Result<Option<Document>, FetchError>,
        kind: &str,
    ) -> Result<Option<FetchError>, FetchError> {
        let read = match there {
            Ok(Some(manifest)) => self.legacy(over, manifest, kind).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        match read {
            Err(error @ FetchError::SignatureManifest(..)) => Ok(Some(error)),
            read => read.map(|()| None),
        }
    }

    /// `kind` is the type that every layer must have.
    async fn legacy(&mut self, over: Digest, manifest: Document, kind: &str) -> Result<(), FetchError> {
        let refused = |error| FetchError::SignatureManifest(self.remote.reference().clone().into(), error);
        let image = image(&manifest).map_err(refused)?;
        match image.layers.iter().find(|layer| layer.descriptor.media_type != kind) {
            Some(other) => Err(refused(DocumentError::MediaType(other.descriptor.media_type.clone()))),
            None => self.read(over, vec![(manifest, image)]).await,
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
        let listed: Vec<IndexEntry> = listed.map_err(failed)?.into_iter().filter(may_be).collect();
        for some in listed.chunks(remote.parallel()) {
            let manifests = join_all(some.iter().map(|entry| remote.described(&entry.descriptor))).await;
            let mut found = Vec::new();
            for manifest in manifests {
                let manifest = manifest.map_err(failed)?;
                // A list may name anything: what is not about this manifest, or no signature, is no part of the decision.
                match image(&manifest) {
                    Ok(image) if is_signatures(&image, over) => found.push((manifest, image)),
                    Ok(_) | Err(_) => {}
                }
            }
            self.read(over, found).await?;
        }
        Ok(())
    }

    /// Reads manifests of signatures side by side.
    async fn read(&mut self, over: Digest, found: Vec<(Document, ImageManifest)>) -> Result<(), FetchError> {
        let (remote, progress) = (self.remote, self.progress);
        // Layers of other kinds count too: the store keeps the manifest whole.
        let all = self.count + found.iter().map(|(_, image)| image.layers.len()).sum::<usize>();
        if all > limits::SIGNATURES {
            return Err(FetchError::TooManySignatures { reference: remote.reference().clone().into() });
        }
        let sets = found.into_iter().map(|(manifest, image)| set(remote, over, manifest, image));
        for set in join_all(sets).await {
            self.sets.push(set?);
        }
        self.count = all;
        progress.report(Phase::Signatures, u64::try_from(all).unwrap_or(u64::MAX), u64::try_from(all).ok());
        Ok(())
    }
}

/// The blobs of a manifest of signatures.
async fn set(
    remote: &Remote<'_>,
    over: Digest,
    manifest: Document,
    image: ImageManifest,
) -> Result<SignatureSet, FetchError> {
    let known = Known::of(remote.reference(), over, &image);
    let payload = |layer: &Layer| known.get(remote, layer.descriptor.clone(), limits::SIGNATURE);
    let payloads = join_all(image.layers.iter().map(payload));
    let (config, payloads) = tokio::join!(known.get(remote, image.config.clone(), limits::CONFIG), payloads);
    let payloads: Vec<Vec<u8>> = payloads.into_iter().collect::<Result<_, _>>()?;
    let payloads = image.layers.into_iter().zip(payloads).collect();
    Ok(SignatureSet { over, manifest, config: (image.config, config?), payloads })
}

/// Blobs beside an image that need not be asked for: their bytes follow from what is signed, and a digest says that they are these.
struct Known(Vec<Vec<u8>>);

impl Known {
    fn of(reference: &Reference, over: Digest, image: &ImageManifest) -> Self {
        let layers: Vec<Digest> = image.layers.iter().map(|layer| layer.descriptor.digest).collect();
        let mut known = sign::usual_payloads(reference, over);
        known.extend(sign::usual_config(&layers));
        known.push(media::EMPTY_BYTES.to_vec());
        Self(known)
    }

    async fn get(&self, remote: &Remote<'_>, wanted: Descriptor, limit: u64) -> Result<Vec<u8>, FetchError> {
        if let Some(bytes) = self.0.iter().find(|bytes| Descriptor::of(&wanted.media_type, bytes) == wanted) {
            return Ok(bytes.clone());
        }
        let failed = |error: TransportError| FetchError::Signatures(remote.reference().clone().into(), error.into());
        remote.bytes(&wanted, limit).await.map_err(failed)
    }
}
