//! Why a pull failed, on its way from the worker: the API's reason, in words, and what to do. Owns the table from errors of the
//! transport and of the policy to reasons, so that each refusal keeps its own; must never turn "could not ask" into "there is none".

use std::error::Error;
use std::fmt;
use std::path::Path;

use bpfd_proto::v1::ErrorReason;
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

/// A failure of a pull.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FetchFailure {
    /// What kind, in the API's words.
    #[serde(with = "word")]
    pub reason: ErrorReason,
    /// What could not be done.
    pub what: String,
    /// Why, the causes in one line; may be empty.
    pub cause: String,
    /// What to do.
    pub hint: Option<String>,
    /// What the reference was resolved to, if it was the policy that refused it.
    pub refused: Option<Digest>,
    /// Whether it was found out what the reference names: until then another endpoint may be asked.
    pub resolved: bool,
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
                reason: reason_of(&refusal.reason),
                what: refusal.to_string(),
                cause: causes(refusal.source()),
                hint: Some(refusal.hint()),
                refused: Some(refusal.digest),
                resolved: true,
            },
            PullError::Fetch(error) => {
                let Class(reason, hint) = Class::from(error);
                let (what, cause, hint) = (error.to_string(), causes(error.source()), hint.map(str::to_owned));
                let resolved = !matches!(error, FetchError::NoSuchImage(..) | FetchError::Resolve(..));
                Self { reason, what, cause, hint, refused: None, resolved }
            }
        }
    }

    /// The same with a hint at a proxy that only the environment names, if that may be why nobody was reached.
    pub(crate) fn with_variable(self, variable: Option<&str>) -> Self {
        match variable {
            Some(variable) if self.reason == ErrorReason::RegistryUnreachable => {
                let hint = format!(
                    "{variable} is set in the daemon's environment, and bpfd does not read it: name the proxy in `[proxy]` in \
                     /etc/bpfd/registries.toml"
                );
                Self { hint: Some(hint), ..self }
            }
            Some(_) | None => self,
        }
    }

    /// The same with the names that the daemon's own files have: a daemon under `--root` reads none in /etc.
    pub(crate) fn with_files_in(self, etc: &Path) -> Self {
        let moved = |hint: String| hint.replace("/etc/bpfd/", &format!("{}/", etc.display()));
        Self { hint: self.hint.map(moved), ..self }
    }

    /// A worker's words, short and without control characters.
    pub(super) fn bounded(self) -> Self {
        let Self { reason, what, cause, hint, refused, resolved } = self;
        let clean = |text: String| text.chars().filter(|c| !c.is_control()).take(TEXT).collect();
        Self { reason, what: clean(what), cause: clean(cause), hint: hint.map(clean), refused, resolved }
    }
}

fn causes(first: Option<&(dyn Error + 'static)>) -> String {
    first.map(error_chain).unwrap_or_default()
}

/// An [`ErrorReason`] as its word, between processes.
mod word {
    use bpfd_proto::v1::ErrorReason;
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(reason: &ErrorReason, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(reason.word())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ErrorReason, D::Error> {
        let word = String::deserialize(deserializer)?;
        ErrorReason::from_word(&word).ok_or_else(|| D::Error::custom("no reason of an error"))
    }
}

/// Why an image is refused, in the API's words.
pub(crate) fn reason_of(reason: &Reason) -> ErrorReason {
    match reason {
        Reason::NoScope | Reason::NotPinned { .. } => ErrorReason::ImageNotTrusted,
        Reason::OtherDigest => ErrorReason::DigestMismatch,
        Reason::DigestRequired { .. } => ErrorReason::DigestRequired,
        Reason::Unsigned { .. } => ErrorReason::SignatureRequired,
        Reason::Unattested { judged, .. } if judged.is_empty() => ErrorReason::SignatureRequired,
        Reason::TooManySignatures { .. } | Reason::NotEnough { .. } | Reason::Unattested { .. } => {
            ErrorReason::SignatureInvalid
        }
    }
}

/// What kind of failure of the transport it is, and what to do where its text does not say so.
struct Class(ErrorReason, Option<&'static str>);

const AGAIN: &str = "try again; a mirror nearer by can be named in /etc/bpfd/registries.toml";

impl Class {
    const NOT_FOUND: Self = Self(
        ErrorReason::RegistryNotFound,
        Some("is the tag right, and does the image exist? `skopeo list-tags docker://HOST/REPOSITORY`"),
    );
    const UNREACHABLE: Self = Self(
        ErrorReason::RegistryUnreachable,
        Some(
            "is the host's name right? a registry without TLS, or at another address, needs an entry in \
             /etc/bpfd/registries.toml",
        ),
    );
    const PROXY: Self = Self(
        ErrorReason::RegistryUnreachable,
        Some("does the proxy run, and does it let bpfd through? `[proxy]` in /etc/bpfd/registries.toml names it"),
    );
    /// It began to answer, and stopped, again and again.
    const BROKEN_OFF: Self = Self(ErrorReason::RegistryUnreachable, Some(AGAIN));
    const TIMEOUT: Self = Self(ErrorReason::Timeout, Some(AGAIN));
    const DENIED: Self =
        Self(ErrorReason::RegistryDenied, Some("log the daemon in: `bpfctl login --system --username USER HOST`"));
    const REDIRECT: Self = Self(
        ErrorReason::RegistryRedirect,
        Some(
            "if that is right, name host and port in the registry's entry in /etc/bpfd/registries.toml, as \
             `redirects` or as `endpoint`",
        ),
    );
    const DIGEST_MISMATCH: Self = Self(
        ErrorReason::DigestMismatch,
        Some("the registry, or something before it, changes what it serves: do not use the image"),
    );
    const OVERSIZED: Self =
        Self(ErrorReason::RegistryInvalid, Some("no image of bytecode is that large: is the reference right?"));
    const INVALID_IMAGE: Self = Self(ErrorReason::InvalidImage, Some("build it with `bpfctl image build`"));
    const NO_PLATFORM: Self = Self(ErrorReason::NoPlatform, None);
    const SIGNATURE: Self = Self(ErrorReason::SignatureInvalid, None);
    /// Credentials were to go to somebody else.
    const FOREIGN_REALM: Self = Self(ErrorReason::RegistryRedirect, None);
    const PROTOCOL: Self = Self(ErrorReason::RegistryInvalid, None);
    /// This host: the disk, TLS set-up.
    const LOCAL: Self = Self(ErrorReason::Internal, None);
}

impl From<&FetchError> for Class {
    fn from(error: &FetchError) -> Self {
        match error {
            FetchError::NoSuchImage(..) => Self::NOT_FOUND,
            FetchError::Resolve(_, error)
            | FetchError::Manifest(_, error)
            | FetchError::Signatures(_, error)
            | FetchError::Config(_, error)
            | FetchError::Layer(_, error) => Self::from(error.as_ref()),
            FetchError::Unusable(_, error) => Self::from(error),
            FetchError::SignatureManifest(..) | FetchError::TooManySignatures { .. } => Self::SIGNATURE,
            FetchError::Ingest(_) | FetchError::NotWhatWasVerified { .. } => Self::LOCAL,
        }
    }
}

impl From<&ResolveError> for Class {
    fn from(error: &ResolveError) -> Self {
        match error {
            ResolveError::NoPlatform { .. } => Self::NO_PLATFORM,
            ResolveError::Nested | ResolveError::OtherKind { .. } | ResolveError::Layers(_) => Self::INVALID_IMAGE,
            ResolveError::Document(error) => Self::from(error),
        }
    }
}

impl From<&DocumentError> for Class {
    fn from(error: &DocumentError) -> Self {
        match error {
            DocumentError::Digest { .. } | DocumentError::Size { .. } => Self::DIGEST_MISMATCH,
            DocumentError::MediaType(_)
            | DocumentError::MediaTypeDiffers { .. }
            | DocumentError::Ambiguous
            | DocumentError::Schema(_)
            | DocumentError::Json(_) => Self::PROTOCOL,
        }
    }
}

impl From<&TransportError> for Class {
    fn from(error: &TransportError) -> Self {
        match error {
            TransportError::Unreachable { .. } | TransportError::Unavailable { .. } => Self::UNREACHABLE,
            TransportError::Proxy { .. } => Self::PROXY,
            TransportError::BrokenOff { .. } => Self::BROKEN_OFF,
            TransportError::Deadline { .. } => Self::TIMEOUT,
            TransportError::Denied { .. } | TransportError::NoCredentials { .. } => Self::DENIED,
            TransportError::TooLarge { .. } => Self::OVERSIZED,
            TransportError::WrongLength { .. }
            | TransportError::WrongDigest { .. }
            | TransportError::Announced { .. }
            | TransportError::Stored { .. } => Self::DIGEST_MISMATCH,
            TransportError::Document(error) => Self::from(error),
            TransportError::Redirects(_)
            | TransportError::Location(_)
            | TransportError::Insecure { .. }
            | TransportError::PrivateHost(_)
            | TransportError::Elsewhere { .. }
            | TransportError::PrivateAddress { .. } => Self::REDIRECT,
            TransportError::ForeignRealm { .. } => Self::FOREIGN_REALM,
            // Of a part that a manifest names: the image itself is there, see `FetchError::NoSuchImage`.
            TransportError::NotFound { .. }
            | TransportError::Status { .. }
            | TransportError::Challenge { .. }
            | TransportError::Realm(_)
            | TransportError::Token(_) => Self::PROTOCOL,
            TransportError::Sink(_) | TransportError::Client { .. } | TransportError::Url(_) => Self::LOCAL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_of_the_environment_is_named_only_if_nobody_was_reached() {
        let failure = |reason| FetchFailure {
            reason,
            what: String::new(),
            cause: String::new(),
            hint: Some("another".to_owned()),
            refused: None,
            resolved: false,
        };
        let hint = |reason, variable| failure(reason).with_variable(variable).hint;
        let unread = "HTTPS_PROXY is set in the daemon's environment, and bpfd does not read it: name the proxy in `[proxy]` in \
                      /etc/bpfd/registries.toml";
        assert_eq!(hint(ErrorReason::RegistryUnreachable, Some("HTTPS_PROXY")).as_deref(), Some(unread));
        assert_eq!(hint(ErrorReason::RegistryUnreachable, None).as_deref(), Some("another"));
        assert_eq!(hint(ErrorReason::RegistryDenied, Some("HTTPS_PROXY")).as_deref(), Some("another"));
    }
}
