//! Why a pull failed, on its way from the worker: what kind of failure, in words, and what to do. Owns the table from errors of the
//! transport and reasons of the policy to kinds, so that each refusal keeps its own; must never turn "could not ask" into "there is
//! none".

use std::error::Error;
use std::fmt;

use bytecode_image::digest::Digest;
use bytecode_image::document::DocumentError;
use bytecode_image::fetch::{FetchError, PullError};
use bytecode_image::resolve::ResolveError;
use bytecode_image::transport::TransportError;
use bytecode_image::verify::{Reason, Refusal};
use serde::{Deserialize, Serialize};

use crate::causes::error_chain;

/// Characters kept of each text: a status of the API has no room for more.
const TEXT: usize = 1000;

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The registry was asked, and has no such repository, tag or digest.
    NotFound,
    /// The registry is not there, or cannot answer.
    Unreachable,
    /// It began to answer, and stopped, again and again.
    BrokenOff,
    /// It wants other credentials, or none were there.
    Denied,
    /// A redirect or an address that nobody named.
    Redirect,
    /// Credentials were to go to somebody else.
    ForeignRealm,
    /// Bytes do not have the digest that names them.
    DigestMismatch,
    /// More bytes than are ever taken.
    Oversized,
    /// The registry's answer breaks the protocol.
    Protocol,
    /// It is an image, but not one of bytecode.
    InvalidImage,
    /// It has nothing for this machine.
    NoPlatform,
    /// No scope of the policy covers it, or its digest is not one that may pass.
    NotTrusted,
    /// It has no signature, and needs one.
    SignatureMissing,
    /// It has signatures; too few count.
    SignatureInvalid,
    /// The policy wants references by digest.
    DigestRequired,
    /// It took too long.
    Timeout,
    /// This host: the disk, TLS set-up.
    Local,
}

/// A failure of a pull.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FetchFailure {
    /// What kind.
    pub kind: FailureKind,
    /// What could not be done.
    pub what: String,
    /// Why, the causes in one line; may be empty.
    pub cause: String,
    /// What to do.
    pub hint: Option<String>,
    /// What the reference was resolved to, if it was the policy that refused it.
    pub refused: Option<Digest>,
}

impl fmt::Display for FetchFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause.as_str() {
            "" => f.write_str(&self.what),
            cause => write!(f, "{}: {cause}", self.what),
        }
    }
}

impl Error for FetchFailure {}

impl FetchFailure {
    pub(super) fn of(error: &PullError<Box<Refusal>>) -> Self {
        match error {
            PullError::Refused(refusal) => Self {
                kind: FailureKind::from(&refusal.reason),
                what: refusal.to_string(),
                cause: causes(refusal.source()),
                hint: Some(refusal.hint()),
                refused: Some(refusal.digest),
            },
            PullError::Fetch(error) => {
                let kind = FailureKind::from(error);
                let (what, cause) = (error.to_string(), causes(error.source()));
                Self { kind, what, cause, hint: hint(kind), refused: None }
            }
        }
    }

    /// A worker's words, short and without control characters.
    pub(super) fn bounded(self) -> Self {
        let Self { kind, what, cause, hint, refused } = self;
        let clean = |text: String| text.chars().filter(|c| !c.is_control()).take(TEXT).collect();
        Self { kind, what: clean(what), cause: clean(cause), hint: hint.map(clean), refused }
    }
}

fn causes(first: Option<&(dyn Error + 'static)>) -> String {
    first.map(error_chain).unwrap_or_default()
}

fn hint(kind: FailureKind) -> Option<String> {
    let text = match kind {
        FailureKind::NotFound => {
            "is the tag right, and does the image exist? `skopeo list-tags docker://HOST/REPOSITORY`"
        }
        FailureKind::Unreachable => {
            "is the host's name right? a registry without TLS, or at another address, needs an entry in \
             /etc/bpfd/registries.toml"
        }
        FailureKind::Denied => "log the daemon in: `podman login --authfile /etc/bpfd/auth.json HOST`",
        FailureKind::Redirect => {
            "if that is right, name host and port in the registry's entry in /etc/bpfd/registries.toml, as \
             `redirects` or as `endpoint`"
        }
        FailureKind::DigestMismatch => {
            "the registry, or something before it, changes what it serves: do not use the image"
        }
        FailureKind::BrokenOff | FailureKind::Timeout => {
            "try again; a mirror nearer by can be named in /etc/bpfd/registries.toml"
        }
        FailureKind::Oversized => "no image of bytecode is that large: is the reference right?",
        FailureKind::InvalidImage => "build it with `bpfctl image build`",
        // The text itself says what to write, or there is nothing to do here.
        FailureKind::ForeignRealm
        | FailureKind::Protocol
        | FailureKind::NoPlatform
        | FailureKind::NotTrusted
        | FailureKind::SignatureMissing
        | FailureKind::SignatureInvalid
        | FailureKind::DigestRequired
        | FailureKind::Local => return None,
    };
    Some(text.to_owned())
}

impl From<&Reason> for FailureKind {
    fn from(reason: &Reason) -> Self {
        match reason {
            Reason::NoScope | Reason::NotPinned { .. } => Self::NotTrusted,
            Reason::OtherDigest => Self::DigestMismatch,
            Reason::DigestRequired { .. } => Self::DigestRequired,
            Reason::Unsigned { .. } => Self::SignatureMissing,
            Reason::TooManySignatures { .. } | Reason::NotEnough { .. } => Self::SignatureInvalid,
        }
    }
}

impl From<&FetchError> for FailureKind {
    fn from(error: &FetchError) -> Self {
        match error {
            FetchError::NoSuchImage(..) => Self::NotFound,
            FetchError::Resolve(_, error)
            | FetchError::Manifest(_, error)
            | FetchError::Signatures(_, error)
            | FetchError::Config(_, error)
            | FetchError::Layer(_, error) => Self::from(error.as_ref()),
            FetchError::Unusable(_, error) => Self::from(error),
            FetchError::SignatureManifest(..) | FetchError::TooManySignatures { .. } => Self::SignatureInvalid,
            FetchError::Ingest(_) | FetchError::NotCached(_) | FetchError::NotWhatWasVerified { .. } => Self::Local,
        }
    }
}

impl From<&ResolveError> for FailureKind {
    fn from(error: &ResolveError) -> Self {
        match error {
            ResolveError::NoPlatform { .. } => Self::NoPlatform,
            ResolveError::Nested | ResolveError::Layers(_) => Self::InvalidImage,
            ResolveError::Document(error) => Self::from(error),
        }
    }
}

impl From<&DocumentError> for FailureKind {
    fn from(error: &DocumentError) -> Self {
        match error {
            DocumentError::Digest { .. } | DocumentError::Size { .. } => Self::DigestMismatch,
            DocumentError::MediaType(_)
            | DocumentError::MediaTypeDiffers { .. }
            | DocumentError::Ambiguous
            | DocumentError::Schema(_)
            | DocumentError::Json(_) => Self::Protocol,
        }
    }
}

impl From<&TransportError> for FailureKind {
    fn from(error: &TransportError) -> Self {
        match error {
            TransportError::Unreachable { .. } | TransportError::Unavailable { .. } => Self::Unreachable,
            TransportError::BrokenOff { .. } => Self::BrokenOff,
            TransportError::Deadline { .. } => Self::Timeout,
            TransportError::Denied { .. } | TransportError::NoCredentials(_) => Self::Denied,
            TransportError::TooLarge { .. } => Self::Oversized,
            TransportError::WrongLength { .. }
            | TransportError::WrongDigest { .. }
            | TransportError::Announced { .. }
            | TransportError::Stored { .. } => Self::DigestMismatch,
            TransportError::Document(error) => Self::from(error),
            TransportError::Redirects(_)
            | TransportError::Location(_)
            | TransportError::Insecure { .. }
            | TransportError::PrivateHost(_)
            | TransportError::Elsewhere { .. }
            | TransportError::PrivateAddress { .. } => Self::Redirect,
            TransportError::ForeignRealm { .. } => Self::ForeignRealm,
            // Of a part that a manifest names: the image itself is there, see `FetchError::NoSuchImage`.
            TransportError::NotFound { .. }
            | TransportError::Status { .. }
            | TransportError::Challenge(_)
            | TransportError::Token(_) => Self::Protocol,
            TransportError::Sink(_) | TransportError::Client { .. } | TransportError::Url(_) => Self::Local,
        }
    }
}
