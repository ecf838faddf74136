//! Why an image cannot be had, or not be used.

use std::io;

use bpfd_core::policy::Denied;
use bpfd_policy::downgrade::Downgrade;
use bytecode_image::archive::ArchiveError;
use bytecode_image::config::ConfigError;
use bytecode_image::digest::Digest;
use bytecode_image::label::{LabelError, LabelMismatch};
use bytecode_image::limits;
use bytecode_image::reference::{Reference, ReferenceError};
use bytecode_image::store::StoreError;
use bytecode_image::unpack::UnpackError;
use bytecode_image::verify::{Reason, Refusal};

use crate::causes::error_chain;
use crate::objects::IncomingError;
use crate::registries::RegistryFilesError;
use crate::waiter::GivenUp;
use crate::worker::WorkerError;
use crate::worker::fetch::FetchFailure;
use crate::worker::parse::ParseError;

/// See the module. Nothing was loaded; the store may have an image more.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Not a reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A rule about callers, once it was known what was asked for.
    #[error(transparent)]
    Denied(#[from] Box<Denied>),
    /// Somebody who is not root asks for what the policy says nothing of.
    #[error("bpfd does not pull `{0}`")]
    NotCovered(Reference),
    /// The daemon's own files about registries.
    #[error(transparent)]
    Registries(#[from] RegistryFilesError),
    /// The pull: the registry, or the policy before anything was fetched.
    #[error(transparent)]
    Fetch(#[from] FetchFailure),
    /// The fetch worker.
    #[error("the fetch worker failed")]
    Worker(#[source] WorkerError),
    /// The worker brought something that nobody asked for.
    #[error("the fetch worker returned `{brought}` instead of `{asked}`")]
    OtherName {
        /// What was asked for.
        asked: Reference,
        /// What it says that it brought.
        brought: Reference,
    },
    /// All of it took too long.
    #[error("the pull did not finish within {} s", limits::DEADLINE.as_secs())]
    Timeout,
    /// Nobody waits for it any more.
    #[error(transparent)]
    GivenUp(#[from] GivenUp),
    /// The directory for new parts cannot be given to the worker.
    #[error("cannot prepare the image store for pulls")]
    Ingest(#[source] io::Error),
    /// The store: it is not there, or damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nothing in the store is called so.
    #[error("the image store has no `{0}`")]
    NotStored(String),
    /// The policy of now.
    #[error(transparent)]
    Refused(#[from] Box<Refusal>),
    /// The policy of now, by what was let through before.
    #[error(transparent)]
    Downgrade(#[from] Box<Older>),
    /// The layer.
    #[error("cannot take the object from the image's layer")]
    Unpack(#[from] UnpackError),
    /// The configuration.
    #[error("the image's configuration is refused")]
    Config(#[from] ConfigError),
    /// The labels.
    #[error("the image's labels are refused")]
    Label(#[from] LabelError),
    /// The labels and the object.
    #[error("the image does not match its labels")]
    Mismatch(#[from] LabelMismatch),
    /// The object.
    #[error("the object in the image is refused")]
    Parse(#[from] ParseError),
    /// The object cannot be kept.
    #[error("cannot keep the image's object")]
    Object(#[from] IncomingError),
    /// What a caller sent as an archive, or what is in it.
    #[error("the archive is refused")]
    Archive(#[from] ArchiveError),
    /// It cannot be kept while it is received.
    #[error("cannot receive the archive")]
    Upload {
        /// Why.
        source: io::Error,
    },
    /// Somebody who is not root brings what nobody signed.
    #[error("only root may bring `{0}`: its scope of the policy asks for no signature, and no registry vouches for it")]
    NobodyVouches(Reference),
    /// Somebody who is not root brings something else than what the name leads to.
    #[error("only root may let `{name}` lead to another image than {from}: no registry says that it does")]
    MovesName {
        /// The name.
        name: Reference,
        /// What it leads to.
        from: Digest,
    },
    /// An app came from it.
    #[error("image `{reference}` is used by {}", users.join(", "))]
    InUse {
        /// Which.
        reference: Reference,
        /// Names of apps.
        users: Vec<String>,
    },
    /// A thread ended without an answer: it panicked, and said so on stderr.
    #[error("the task that handled the image ended unexpectedly")]
    Lost,
}

/// An image that is older than the last one of its name, where the policy forbids that.
#[derive(Debug, thiserror::Error)]
#[error("image `{reference}` ({digest}) is refused by policy: it is a downgrade")]
pub struct Older {
    /// What was asked for.
    pub reference: Reference,
    /// What it was resolved to.
    pub digest: Digest,
    /// Why it is one.
    #[source]
    pub why: Downgrade,
}

impl Older {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self.why {
            Downgrade::NoVersion | Downgrade::NotSemver(_) => {
                "write `version = \"MAJOR.MINOR.PATCH\"` into bytecode.toml, and build the image again".to_owned()
            }
            Downgrade::Older { .. } | Downgrade::OtherImage { .. } => {
                "to go back, take `forbid_downgrade` out of its `[[image]]`, load the image, and write it in again"
                    .to_owned()
            }
        }
    }
}

impl ImageError {
    /// If it is the image policy that refused: the digest that it decided on, if it came so far, and why.
    pub fn refused(&self) -> Option<(Option<Digest>, String)> {
        match self {
            Self::Fetch(failure) => failure.refused.map(|digest| (Some(digest), failure.cause.clone())),
            Self::Refused(refusal) => Some((Some(refusal.digest), error_chain(&refusal.reason))),
            Self::Downgrade(older) => Some((Some(older.digest), format!("it is a downgrade: {}", older.why))),
            Self::NotCovered(_) => Some((None, Reason::NoScope.to_string())),
            _ => None,
        }
    }
}
