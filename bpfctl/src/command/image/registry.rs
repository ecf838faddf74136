//! Registries, with the caller's own configuration and credentials. Nothing read here is ever sent to the daemon.

use std::env;
use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytecode_image::document::{Document, DocumentError};
use bytecode_image::fetch::FetchError;
use bytecode_image::reference::Reference;
use bytecode_image::registries::{Author, Registries, VARIABLES, plain_file};
use bytecode_image::resolve::ResolveError;
use bytecode_image::transport::{Remote, TransportConfig, TransportError, Wait};
use clap::Args;

use crate::client::Session;
use crate::credentials::{self, directory};
use crate::error::{Exit, Failure, Local, error_chain, note};

const SYSTEM_REGISTRIES: &str = "/etc/bpfd/registries.toml";

const NO_SUCH_IMAGE: &str = "is the tag right, and does the image exist? `skopeo list-tags docker://HOST/REPOSITORY`";

/// Where registries are and what they are told.
#[derive(Debug, Args)]
pub(super) struct Registry {
    /// How to reach registries [default: ~/.config/bpfd/registries.toml, else /etc/bpfd/registries.toml]
    #[arg(long, value_name = "FILE")]
    registries: Option<PathBuf>,
    /// Credentials, as podman and docker write them [default: $REGISTRY_AUTH_FILE, else theirs]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
}

impl Registry {
    /// The repository of a reference; connects nowhere yet.
    pub(super) fn remote(&self, session: &Session, reference: &Reference) -> Result<Remote<'static>, Failure> {
        let registries = registries(self.registries.as_ref(), Place::Users)?;
        let auth = credentials::of(&registries, reference, self.authfile.as_deref())?;
        let config = TransportConfig { registries, auth, author: Author::Trusted, ..TransportConfig::default() };
        let told: &'static (dyn Fn(&Wait) + Sync) =
            if session.printer.is_quiet() { &|_wait| () } else { &|wait| note(&wait.to_string()) };
        Ok(Remote::new(&config, reference).telling(told))
    }
}

/// Whose registries.toml counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The user's; without one, the system's.
    Users,
    /// The daemon's.
    System,
}

/// Where registries are: by the file that was given, else by the usual ones.
pub(crate) fn registries(given: Option<&PathBuf>, place: Place) -> Result<Registries, Failure> {
    let usual = match place {
        Place::Users => registries_files(),
        Place::System => vec![PathBuf::from(SYSTEM_REGISTRIES)],
    };
    let mut registries = match given.cloned().or_else(|| usual.into_iter().find(|path| path.is_file())) {
        Some(path) => read_registries(&path)?,
        None => Registries::default(),
    };
    registries.read_certificates(plain_file).map_err(|error| unusable("cannot read a certificate", &error))?;
    Ok(registries)
}

/// What a reference names now: by digest if it has one, else by its tag.
pub(super) async fn top(remote: &Remote<'_>) -> Result<Document, Failure> {
    let reference = remote.reference();
    let document = match reference.digest() {
        Some(digest) => remote.manifest(digest).await,
        None => remote.tagged(reference.tag().unwrap_or("latest")).await,
    };
    document.map_err(|error| {
        let hint = if error.is_not_found() { Some(NO_SUCH_IMAGE) } else { hint(&error) };
        explained(&format!("cannot read `{reference}`"), &error, exit(&error), hint)
    })
}

fn read_registries(path: &Path) -> Result<Registries, Failure> {
    let message = format!("cannot use `{}`", path.display());
    let text = fs::read_to_string(path).map_err(|error| unusable(&message, &error))?;
    Registries::parse(&text, &path.display().to_string()).map_err(|error| unusable(&message, &error))
}

fn registries_files() -> Vec<PathBuf> {
    let own = directory("XDG_CONFIG_HOME", ".config").map(|config| config.join("bpfd/registries.toml"));
    own.into_iter().chain([PathBuf::from(SYSTEM_REGISTRIES)]).collect()
}

/// A registry's failure.
pub(crate) fn failed(message: &str, error: &TransportError) -> Failure {
    explained(message, error, exit(error), hint(error))
}

fn explained(message: &str, error: &(dyn Error + 'static), exit: Exit, hint: Option<&str>) -> Failure {
    let local = Local::new(exit, message).cause(error_chain(error));
    match hint {
        Some(hint) => local.hint(hint).into(),
        None => local.into(),
    }
}

/// What to do about a registry's failure: the daemon's words, with the caller's own files (bpfd's `worker/fetch/failure.rs`).
fn hint(error: &TransportError) -> Option<&'static str> {
    match error {
        TransportError::Unreachable { .. } if proxy_variable() => Some(
            "HTTPS_PROXY and its like are not read: name the proxy in `[proxy]` in ~/.config/bpfd/registries.toml",
        ),
        TransportError::Proxy { .. } => Some(
            "does the proxy run, and does it let you through? `[proxy]` in registries.toml names it",
        ),
        TransportError::Unreachable { .. } | TransportError::Unavailable { .. } => Some(
            "is the host's name right? a registry without TLS, or at another address, needs an entry in \
             ~/.config/bpfd/registries.toml",
        ),
        TransportError::Insecure { .. } => {
            Some("add the registry to ~/.config/bpfd/registries.toml with `http = true`, if plain HTTP is right")
        }
        TransportError::Redirects(_)
        | TransportError::Location(_)
        | TransportError::PrivateHost(_)
        | TransportError::PrivateAddress { .. } => Some(
            "if that is right, name host and port in the registry's entry in ~/.config/bpfd/registries.toml, as \
             `redirects` or as `endpoint`",
        ),
        TransportError::Denied { .. } | TransportError::NoCredentials { .. } => {
            Some("log in with `bpfctl login`, podman or docker, or give --authfile")
        }
        TransportError::WrongLength { .. }
        | TransportError::WrongDigest { .. }
        | TransportError::Announced { .. }
        | TransportError::Stored { .. }
        | TransportError::Document(DocumentError::Digest { .. } | DocumentError::Size { .. }) => {
            Some("the registry, or something before it, changes what it serves: do not use the image")
        }
        TransportError::BrokenOff { .. } | TransportError::Deadline { .. } => {
            Some("try again; a mirror nearer by can be named in ~/.config/bpfd/registries.toml")
        }
        TransportError::TooLarge { .. } => Some("no image of bytecode is that large: is the reference right?"),
        // The text itself says what to write, or there is nothing to do here.
        TransportError::ForeignRealm { .. }
        | TransportError::Document(
            DocumentError::MediaType(_)
            | DocumentError::MediaTypeDiffers { .. }
            | DocumentError::Ambiguous
            | DocumentError::Schema(_)
            | DocumentError::Json(_),
        )
        // Of a part that a manifest names: the image itself is there, see `top`.
        | TransportError::NotFound { .. }
        | TransportError::Status { .. }
        | TransportError::Challenge { .. }
        | TransportError::Realm(_)
        | TransportError::Elsewhere { .. }
        | TransportError::Token(_)
        | TransportError::Sink(_)
        | TransportError::Client { .. }
        | TransportError::Url(_) => None,
    }
}

/// Whether the environment names a proxy, as other programs read it.
fn proxy_variable() -> bool {
    VARIABLES.iter().any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// A failure on the way to an image.
pub(super) fn fetch_failed(message: &str, error: &FetchError) -> Failure {
    let (exit, hint) = match error {
        FetchError::NoSuchImage(_, source) => (exit(source), Some(NO_SUCH_IMAGE)),
        FetchError::Resolve(_, source)
        | FetchError::Manifest(_, source)
        | FetchError::Signatures(_, source)
        | FetchError::Config(_, source)
        | FetchError::Layer(_, source) => (exit(source), hint(source)),
        FetchError::Unusable(_, ResolveError::Nested | ResolveError::OtherKind { .. } | ResolveError::Layers(_)) => {
            (Exit::NotFound, Some("build it with `bpfctl image build`"))
        }
        FetchError::Unusable(_, ResolveError::NoPlatform { .. } | ResolveError::Document(_)) => (Exit::NotFound, None),
        FetchError::SignatureManifest(..)
        | FetchError::TooManySignatures { .. }
        | FetchError::NotWhatWasVerified { .. } => (Exit::Signature, None),
        FetchError::Ingest(_) => (Exit::Other, None),
    };
    explained(message, error, exit, hint)
}

fn exit(error: &TransportError) -> Exit {
    match error {
        TransportError::NotFound { .. } => Exit::NotFound,
        TransportError::WrongDigest { .. }
        | TransportError::Announced { .. }
        | TransportError::WrongLength { .. }
        | TransportError::Document(DocumentError::Digest { .. } | DocumentError::Size { .. }) => Exit::Signature,
        _ => Exit::Registry,
    }
}

/// Something of the caller's own that cannot be used.
pub(super) fn unusable(message: &str, error: &(dyn Error + 'static)) -> Failure {
    let missing = error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound);
    Local::new(if missing { Exit::NotFound } else { Exit::Usage }, message).cause(error_chain(error)).into()
}
