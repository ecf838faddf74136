//! The pull: what a reference names now, may it be used, and its parts into the store's `ingest/`.
//!
//! ```text
//! pull ─ ask or not (policy, what is cached)
//!      ─ select            top manifest by tag or digest → this platform's image; and at the same time
//!      ─ signatures        what is beside both; absent = none, could not ask = an error
//!      ─ decide            the caller's: → Verified, or no byte of configuration and layer is fetched
//!      ─ fetch(&Verified)  configuration and layer, hashed as they stream
//! ```
//! Runs on a current-thread runtime in a process that may see nothing but a socket and one directory: request and answer
//! serialise, progress is a trait, nothing is global. Must never name an image in the store (the store does, after hashing
//! again), nor take "could not ask" for "there is none".

mod select;
mod signatures;

use std::io;

use serde::{Deserialize, Serialize};

use self::{
    select::Chosen,
    signatures::{add_attestations, ask_beside, read_beside},
};
pub use self::{
    select::select,
    signatures::{SignatureSet, SignaturesFound, fetch_attached, fetch_signatures},
};
use crate::{
    candidate::Candidate,
    digest::{Descriptor, Digest},
    document::{Document, DocumentError},
    limits,
    reference::{Reference, in_full},
    resolve::{Platform, ResolveError, Selected},
    store::{Fetched, Ingest, Landed, Signatures},
    transport::{Remote, TransportConfig, TransportError, Wait},
    verify::Verified,
};

/// Everything that a pull needs to know; with the transport's secrets in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullRequest {
    /// What to pull.
    pub reference: Reference,
    /// What the store has under that name, undamaged ([`crate::store::Store::cached`]), and may be used if the registry names the same
    /// or does not answer. `None`: the image is fetched, whatever the store has.
    pub cached: Option<Digest>,
    /// Which image of an index.
    pub platform: Platform,
    /// How to ask.
    pub transport: TransportConfig,
}

/// What came of a pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pulled {
    /// What the store has is right, or as good as can be had.
    Cached {
        /// Its digest.
        digest: Digest,
        /// Why it may be old.
        warning: Option<String>,
    },
    /// New parts are in `ingest/`, to be committed.
    Fetched {
        /// The parts.
        fetched: Fetched,
        /// What is beside the image in place of signatures, which nobody asked for.
        warning: Option<String>,
    },
}

/// What is being done, for somebody who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Asking what the reference names.
    Resolve,
    /// Reading manifests.
    Manifest,
    /// Reading signatures.
    Signatures,
    /// Deciding.
    Verify,
    /// Streaming the configuration.
    Config,
    /// Streaming the layer.
    Layer,
}

/// Hears how far a pull is.
pub trait Progress: Sync {
    /// `done` of `total` bytes; of signatures their count. A phase without a size reports 0 when it begins.
    fn report(&self, phase: Phase, done: u64, total: Option<u64>);

    /// A request is sent again after a pause.
    fn waits(&self, wait: &Wait);
}

/// Hears nothing.
impl Progress for () {
    fn report(&self, _phase: Phase, _done: u64, _total: Option<u64>) {}

    fn waits(&self, _wait: &Wait) {}
}

/// Why nothing was pulled.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The registry has no such image.
    #[error("the registry has no image `{0}`")]
    NoSuchImage(Box<Reference>, #[source] Box<TransportError>),
    /// What the reference names could not be found out.
    #[error("cannot resolve `{0}`")]
    Resolve(Box<Reference>, #[source] Box<TransportError>),
    /// The manifest of the image for this platform.
    #[error("cannot read the manifest of `{0}` for this platform")]
    Manifest(Box<Reference>, #[source] Box<TransportError>),
    /// Nothing in it is for this platform, or it is no bytecode image.
    #[error("`{0}` cannot be used here")]
    Unusable(Box<Reference>, #[source] ResolveError),
    /// Whether there are signatures could not be found out: nobody says that there are none.
    #[error("cannot read the signatures of `{0}`")]
    Signatures(Box<Reference>, #[source] Box<TransportError>),
    /// What is there instead of signatures.
    #[error("the signature tag of `{0}` does not contain a signature manifest")]
    SignatureManifest(Box<Reference>, #[source] DocumentError),
    /// More than are looked at.
    #[error("`{reference}` has more than {limit} signatures", limit = limits::SIGNATURES)]
    TooManySignatures {
        /// Of what.
        reference: Box<Reference>,
    },
    /// The configuration.
    #[error("cannot fetch the configuration of `{0}`")]
    Config(Box<Reference>, #[source] Box<TransportError>),
    /// The layer.
    #[error("cannot fetch the layer of `{0}`")]
    Layer(Box<Reference>, #[source] Box<TransportError>),
    /// Received, but not written.
    #[error("cannot write what was received into the image store")]
    Ingest(#[source] io::Error),
    /// The proof is about something else.
    #[error("`{verified}` was verified, but `{selected}` was to be fetched")]
    NotWhatWasVerified {
        /// By the proof.
        verified: Digest,
        /// What was resolved.
        selected: Digest,
    },
}

/// Why a pull ended.
#[derive(Debug, thiserror::Error)]
pub enum PullError<E: std::error::Error + 'static> {
    /// It could not be done.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It may not be done.
    #[error(transparent)]
    Refused(E),
}

/// Pulls an image, if it is not here already and if `decide` lets it through.
///
/// # Errors
/// [`PullError`]; then nothing of it is left in `ingest/`.
pub async fn pull<E: std::error::Error + 'static>(
    request: &PullRequest,
    ingest: &Ingest,
    decide: impl Fn(&Selected, &[Candidate]) -> Result<Verified, E>,
    progress: &dyn Progress,
) -> Result<Pulled, PullError<E>> {
    let PullRequest { reference, cached, platform, transport } = request;
    let waits = |wait: &Wait| progress.waits(wait);
    let remote = Remote::new(transport, reference).telling(&waits);
    progress.report(Phase::Resolve, 0, None);
    let top = match ask(&remote, *cached).await? {
        Answer::Same { digest, warning } => return Ok(Pulled::Cached { digest, warning }),
        Answer::Other(top) => top,
    };
    progress.report(Phase::Manifest, 0, None);
    let chosen = Chosen::of(&remote, top, platform)?;
    // What is beside an index and its image can be asked for with the image: both digests are known.
    let beside = ask_beside(&remote, chosen.signable(), progress);
    let (selected, beside) = tokio::join!(chosen.selected(&remote), beside);
    let selected = selected?;
    let mut found = read_beside(&remote, beside, progress).await?;
    progress.report(Phase::Verify, 0, None);
    let decided = decide(&selected, &found.candidates());
    let decided = match decided {
        Ok(verified) => Ok(verified),
        Err(refused) => {
            let before = found.sets.len();
            add_attestations(&remote, &selected.signable(), &mut found, progress).await?;
            if found.sets.len() > before { decide(&selected, &found.candidates()) } else { Err(refused) }
        }
    };
    let SignaturesFound { sets, unreadable } = found;
    let asks_nothing = decided.as_ref().is_ok_and(|verified| verified.judged().is_empty());
    let warning = match unreadable {
        // Nobody asked for a signature, so none is missing.
        Some(error) if asks_nothing => Some(in_full(&error)),
        Some(error) => return Err(error.into()),
        None => None,
    };
    let verified = decided.map_err(PullError::Refused)?;
    let fetched = fetch(&remote, &verified, &selected, &sets, ingest, progress).await?;
    Ok(Pulled::Fetched { fetched, warning })
}

enum Answer {
    Same { digest: Digest, warning: Option<String> },
    Other(Document),
}

/// What the reference names now, with as little traffic as that takes.
async fn ask(remote: &Remote<'_>, cached: Option<Digest>) -> Result<Answer, FetchError> {
    let reference = remote.reference();
    let same = |digest| Ok(Answer::Same { digest, warning: None });
    let failed = |error: TransportError| match error.is_not_found() {
        true => FetchError::NoSuchImage(reference.clone().into(), error.into()),
        false => FetchError::Resolve(reference.clone().into(), error.into()),
    };
    let tag = match (cached, reference.digest()) {
        // A digest cannot come to mean something else.
        (Some(cached), Some(digest)) if cached == digest => return same(cached),
        (_, Some(digest)) => return remote.manifest(digest).await.map(Answer::Other).map_err(failed),
        (_, None) => reference.tag().unwrap_or(crate::reference::DEFAULT_TAG),
    };
    let Some(cached) = cached else { return remote.tagged(tag).await.map(Answer::Other).map_err(failed) };
    match remote.resolve(tag).await {
        Ok(resolved) if resolved.digest == cached => same(cached),
        Ok(resolved) => remote.manifest(resolved.digest).await.map(Answer::Other).map_err(failed),
        Err(error) if error.is_unreachable() => {
            let warning = Some(format!("{error}: using what was pulled before, which may be old"));
            Ok(Answer::Same { digest: cached, warning })
        }
        Err(error) => Err(failed(error)),
    }
}

/// Streams what was verified into `ingest/`: configuration and layer side by side, then the documents and signatures.
///
/// # Errors
/// [`FetchError`]; then nothing of it is left in `ingest/`.
pub async fn fetch(
    remote: &Remote<'_>,
    verified: &Verified,
    selected: &Selected,
    signatures: &[SignatureSet],
    ingest: &Ingest,
    progress: &dyn Progress,
) -> Result<Fetched, FetchError> {
    let reference = selected.reference().clone();
    if verified.digest() != selected.digest() {
        return Err(FetchError::NotWhatWasVerified { verified: verified.digest(), selected: selected.digest() });
    }
    let unusable = |error| FetchError::Unusable(reference.clone().into(), error);
    let layer = selected.layer().map_err(unusable)?;
    let (config, layer) = tokio::join!(
        part(remote, selected.config(), limits::CONFIG, ingest, progress, Phase::Config),
        part(remote, layer, limits::LAYER, ingest, progress, Phase::Layer),
    );
    let mut landed = Parts::new(ingest);
    // Both are kept track of before either error is returned, so that the other's file goes too.
    let config = config.map(|part| landed.keep(part));
    let layer = layer.map(|part| landed.keep(part));
    config.map_err(|failed| failed.into_error(|error| FetchError::Config(reference.clone().into(), error.into())))?;
    layer.map_err(|failed| failed.into_error(|error| FetchError::Layer(reference.clone().into(), error.into())))?;
    for document in selected.index().into_iter().chain([selected.manifest()]) {
        landed.put(document.descriptor(), document.bytes()).map_err(FetchError::Ingest)?;
    }
    let mut kept = Vec::new();
    for set in signatures {
        for (descriptor, bytes) in set.parts() {
            landed.put(descriptor, bytes).map_err(FetchError::Ingest)?;
        }
        kept.push(Signatures { over: set.over(), manifest: set.manifest().descriptor().clone() });
    }
    let image = selected.top().descriptor().clone();
    Ok(Fetched { reference, image, landed: landed.done(), signatures: kept })
}

/// Parts that are in `ingest/`; dropped before [`Parts::done`], they are removed.
pub(crate) struct Parts<'a> {
    ingest: &'a Ingest,
    landed: Vec<Landed>,
}

impl<'a> Parts<'a> {
    pub(crate) fn new(ingest: &'a Ingest) -> Self {
        Self { ingest, landed: Vec::new() }
    }

    pub(crate) fn keep(&mut self, part: Landed) {
        // The same blob twice, for example two signatures with one payload: one file is enough.
        match self.landed.iter().any(|known| known.descriptor.digest == part.descriptor.digest) {
            true => self.ingest.remove(&part),
            false => self.landed.push(part),
        }
    }

    pub(crate) fn put(&mut self, descriptor: &Descriptor, bytes: &[u8]) -> io::Result<()> {
        let part = self.ingest.put(descriptor, bytes)?;
        self.keep(part);
        Ok(())
    }

    pub(crate) fn done(mut self) -> Vec<Landed> {
        std::mem::take(&mut self.landed)
    }
}

impl Drop for Parts<'_> {
    fn drop(&mut self) {
        self.landed.iter().for_each(|part| self.ingest.remove(part));
    }
}

enum PartError {
    Transport(TransportError),
    Ingest(io::Error),
}

impl PartError {
    fn into_error(self, named: impl FnOnce(TransportError) -> FetchError) -> FetchError {
        match self {
            Self::Transport(TransportError::Sink(error)) | Self::Ingest(error) => FetchError::Ingest(error),
            Self::Transport(error) => named(error),
        }
    }
}

async fn part(
    remote: &Remote<'_>,
    wanted: &Descriptor,
    limit: u64,
    ingest: &Ingest,
    progress: &dyn Progress,
    phase: Phase,
) -> Result<Landed, PartError> {
    progress.report(phase, 0, Some(wanted.size));
    let mut file = ingest.begin(wanted).map_err(PartError::Ingest)?;
    let told = |done| progress.report(phase, done, Some(wanted.size));
    remote.blob(wanted, limit, &mut file, &told).await.map_err(PartError::Transport)?;
    Ok(file.land())
}
