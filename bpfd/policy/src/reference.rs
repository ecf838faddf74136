//! What names an image: `HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`.
//!
//! The first component is always the registry's host: there is no default registry and there are no short names, so what
//! policy matches is what the user wrote. Without a tag and a digest the tag is `latest`. Must never resolve, normalise a
//! name into another one, or accept what a URL parser would read as another host (`127.1` is a name to nobody but it).
//!
//! Grammar: distribution-spec 1.1 spec.md "Pulling manifests" for repository and tag; the host is a DNS name, an IPv4
//! address or an IPv6 address in brackets.

// `core::net` has addresses only, no sockets.
use core::net::{Ipv4Addr, Ipv6Addr};
use std::{error::Error, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::digest::{Digest, DigestError};

/// Longest `HOST[:PORT]/REPOSITORY`, in bytes: what registries store (distribution-spec 1.1, "Pulling manifests").
pub const MAX_NAME: usize = 255;
/// Longest tag, in bytes (distribution-spec 1.1).
pub const MAX_TAG: usize = 128;
/// Longest reference: name, `:`, tag, `@`, `sha256:` and 64 digits.
pub const MAX_REFERENCE: usize = MAX_NAME + 1 + MAX_TAG + 1 + 71;
/// The tag when there is neither a tag nor a digest.
pub const DEFAULT_TAG: &str = "latest";

/// A registry: host and, if written, port. Two registries are the same only if both agree: `r` is not `r:443`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Registry {
    host: String,
    port: Option<u16>,
}

/// Where an image is: a registry, a repository, and a tag, a digest or both. With a digest the tag is only a comment:
/// nobody asks the registry for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: Registry,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing written.
    #[error("an image reference is empty: write `HOST[:PORT]/REPOSITORY[:TAG]`")]
    Empty,
    /// Longer than any reference can be.
    #[error("an image reference has {0} bytes; at most {MAX_REFERENCE} are allowed")]
    TooLong(usize),
    /// Neither a letter nor anything else that any part may have: it could steer a terminal, or look like another.
    #[error("`{}` is in no image reference: it is written in ASCII, without control characters", .0.escape_default())]
    Character(char),
    /// `https://…`: a URL.
    #[error("`{0}` is a URL: write the reference without `{scheme}://`", scheme = .0.split("://").next().unwrap_or_default())]
    Url(String),
    /// `foo:tag`: a repository without a registry.
    #[error("`{written}` names no registry: write it in full, for example `registry.example/{full}`")]
    NoRegistry {
        /// As written.
        written: String,
        /// Repository and tag as they follow a registry's host.
        full: String,
    },
    /// There is a `/` with nothing before it.
    #[error("`{0}` has no host before the first `/`")]
    EmptyHost(String),
    /// Not a DNS name.
    #[error("`{0}` is not a registry host: DNS labels of `a-z`, `0-9` and `-`, or an IP address")]
    Host(String),
    /// A host is one name, so that policy can compare it.
    #[error("registry host `{0}` has upper-case letters: write `{lower}`", lower = .0.to_ascii_lowercase())]
    HostCase(String),
    /// Ends in a number but is not four decimal numbers: programs disagree on what it means.
    #[error("`{0}` looks like an IPv4 address but is not four decimal numbers from 0 to 255")]
    Ipv4(String),
    /// `[..]` without an IPv6 address.
    #[error("`{0}` is not an IPv6 address in brackets")]
    Ipv6(String),
    /// A port that is not 1–65535.
    #[error("`{0}` is not a port from 1 to 65535")]
    Port(String),
    /// There is nothing after the host.
    #[error("`{0}` has no repository after the registry host")]
    NoRepository(String),
    /// One path component of the repository is wrong.
    #[error("`{0}` is not part of a repository name: `a-z` and `0-9`, with single `.`, `_`, `__` or dashes between")]
    Repository(String),
    /// Repositories have no upper case anywhere.
    #[error("repository `{0}` has upper-case letters: write `{lower}`", lower = .0.to_ascii_lowercase())]
    RepositoryCase(String),
    /// Host and repository are too long together.
    #[error("registry and repository have {0} bytes together; at most {MAX_NAME} are allowed")]
    NameTooLong(usize),
    /// A `:` with nothing behind it.
    #[error("`{0}` ends in `:` without a tag: write one, or leave the `:` out for `{DEFAULT_TAG}`")]
    EmptyTag(String),
    /// Not a tag.
    #[error("`{0}` is not a tag: up to {MAX_TAG} of `A-Za-z0-9_.-`, not starting with `.` or `-`")]
    Tag(String),
    /// The part after `@`.
    #[error("the part after `@` is not a digest")]
    Digest(#[source] DigestError),
}

impl Registry {
    /// The host: a DNS name, an IPv4 address, or an IPv6 address in brackets as in a URL.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port if one is written.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl FromStr for Registry {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.len() > MAX_NAME {
            return Err(ReferenceError::NameTooLong(text.len()));
        }
        check_characters(text)?;
        if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']').ok_or_else(|| ReferenceError::Ipv6(text.to_owned()))?;
            let address: Ipv6Addr = address.parse().map_err(|_not| ReferenceError::Ipv6(text.to_owned()))?;
            let port = match port.strip_prefix(':') {
                Some(port) => Some(parse_port(port)?),
                None if port.is_empty() => None,
                None => return Err(ReferenceError::Ipv6(text.to_owned())),
            };
            return Ok(Self { host: format!("[{address}]"), port });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(parse_port(port)?)),
            None => (text, None),
        };
        check_host(host)?;
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Errors quote what they refuse, on terminals and in logs: what cannot be quoted is refused first.
pub(crate) fn check_characters(text: &str) -> Result<(), ReferenceError> {
    let strange = text.chars().find(|c| c.is_control() || !c.is_ascii());
    strange.map_or(Ok(()), |c| Err(ReferenceError::Character(c)))
}

fn parse_port(text: &str) -> Result<u16, ReferenceError> {
    let wrong = || ReferenceError::Port(text.to_owned());
    if text.starts_with('0') || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    text.parse().map_err(|_not| wrong())
}

fn check_host(host: &str) -> Result<(), ReferenceError> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !host.split('.').all(label) {
        return Err(ReferenceError::Host(host.to_owned()));
    }
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(ReferenceError::HostCase(host.to_owned()));
    }
    // WHATWG URL "ends in a number": a URL parser makes 127.0.0.1 of `127.1`, `0x7f000001` and `2130706433`.
    let last = host.rsplit('.').next().unwrap_or(host);
    let digits = last.bytes().all(|byte| byte.is_ascii_digit());
    let numeric = digits || last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
    if numeric && host.parse::<Ipv4Addr>().is_err() {
        return Err(ReferenceError::Ipv4(host.to_owned()));
    }
    Ok(())
}

/// Checks a repository path: components of the distribution-spec, separated by `/`.
pub(crate) fn check_repository(path: &str) -> Result<(), ReferenceError> {
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(ReferenceError::RepositoryCase(path.to_owned()));
    }
    path.split('/')
        .try_for_each(|part| component(part).then_some(()).ok_or_else(|| ReferenceError::Repository(part.to_owned())))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn component(part: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends_in_words = part.bytes().next().is_some_and(word) && part.bytes().next_back().is_some_and(word);
    let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends_in_words
        && separators
            .filter(|run| !run.is_empty())
            .all(|run| matches!(run, "." | "_" | "__") || run.bytes().all(|byte| byte == b'-'))
}

/// Checks a tag of the distribution-spec.
pub(crate) fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let good = tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-');
    good.then_some(()).ok_or_else(|| ReferenceError::Tag(tag.to_owned()))
}

impl Reference {
    /// Host and port.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The repository below the registry, without slashes at its ends.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` if neither a tag nor a digest was written.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest if one was written.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// `HOST[:PORT]/REPOSITORY`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same repository, by digest alone.
    #[must_use]
    pub fn by_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The same repository, by tag alone.
    ///
    /// # Errors
    /// [`ReferenceError::Tag`].
    pub fn by_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        check_tag(tag)?;
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// Where cosign's legacy form keeps the signatures of a manifest of this repository: the tag `sha256-<hex>.sig`
    /// (cosign `specs/SIGNATURE_SPEC.md`, "Storage").
    #[must_use]
    pub fn signatures(&self, manifest: Digest) -> Self {
        Self { tag: Some(format!("sha256-{}.sig", manifest.hex())), digest: None, ..self.clone() }
    }

    /// The same for attestations: the tag `sha256-<hex>.att` (cosign `specs/ATTESTATION_SPEC.md`).
    #[must_use]
    pub fn attestations(&self, manifest: Digest) -> Self {
        Self { tag: Some(format!("sha256-{}.att", manifest.hex())), digest: None, ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() > MAX_REFERENCE {
            return Err(ReferenceError::TooLong(text.len()));
        }
        check_characters(text)?;
        if text.contains("://") {
            return Err(ReferenceError::Url(text.to_owned()));
        }
        let (named, digest) = match text.split_once('@') {
            Some((named, digest)) => (named, Some(digest.parse().map_err(ReferenceError::Digest)?)),
            None => (text, None),
        };
        let Some((registry, path)) = named.split_once('/') else {
            return Err(without_registry(text, named));
        };
        if registry.is_empty() {
            return Err(ReferenceError::EmptyHost(text.to_owned()));
        }
        let registry: Registry = registry.parse()?;
        let (repository, tag) = match path.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if repository.is_empty() {
            return Err(ReferenceError::NoRepository(text.to_owned()));
        }
        check_repository(repository)?;
        let name = registry.to_string().len() + 1 + repository.len();
        if name > MAX_NAME {
            return Err(ReferenceError::NameTooLong(name));
        }
        if tag.is_some_and(str::is_empty) {
            return Err(ReferenceError::EmptyTag(text.to_owned()));
        }
        tag.map_or(Ok(()), check_tag)?;
        let tag = match (tag, digest) {
            (None, None) => Some(DEFAULT_TAG),
            (tag, _) => tag,
        };
        Ok(Self { registry, repository: repository.to_owned(), tag: tag.map(str::to_owned), digest })
    }
}

/// A name without `/`: a short name, or a registry alone.
fn without_registry(text: &str, named: &str) -> ReferenceError {
    let port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let registry_alone = match named.split_once(':') {
        Some((host, rest)) => port(rest) && (host.contains('.') || host == "localhost"),
        None => named.starts_with('['),
    };
    if registry_alone {
        return ReferenceError::NoRepository(text.to_owned());
    }
    let tagged = text.contains(':') || text.contains('@');
    let full = if tagged { text.to_owned() } else { format!("{text}:{DEFAULT_TAG}") };
    ReferenceError::NoRegistry { written: text.to_owned(), full }
}

/// An error and its causes in one line, for a deserialiser that keeps only a text.
#[must_use]
pub fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

macro_rules! serde_as_text {
    ($($type:ty),+) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let parsed: Result<Self, _> = String::deserialize(deserializer)?.parse();
                parsed.map_err(|error| de::Error::custom(in_full(&error)))
            }
        }
    )+};
}
serde_as_text!(Registry, Reference);
