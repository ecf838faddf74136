//! Who signs: a key that the policy knows, or an identity that a certificate authority vouches for. Must never check a signature.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::key::PublicKey;

/// Longest glob of identities, in bytes.
const MAX_IDENTITIES: usize = 512;

/// One `[[signer]]`, without its name.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Signer {
    /// `key`: whoever holds the private half.
    Key(PublicKey),
    /// `keyless`: whoever the issuer knew by such an identity.
    Keyless(Keyless),
    /// `key` and `log = "require"`: whoever holds the private half, if the log has the signature.
    Logged(Logged),
}

/// `{ key, root }`.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Logged {
    /// Whose signatures count.
    pub key: PublicKey,
    /// Whose transparency logs must have them.
    pub root: TrustedRoot,
}

/// Who a signer is, whatever else a policy asks of the signatures: a key is one signer, whether or not a log has what it signs.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Same<'a> {
    Key(&'a PublicKey),
    Keyless(&'a Keyless),
}

/// `{ issuer, identity, root }`.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Keyless {
    /// Who said who the signer is: the URL of an OpenID Connect provider, exactly.
    pub issuer: String,
    /// Whom it said the signer is.
    pub identity: Identities,
    /// Whose certificates and logs count.
    pub root: TrustedRoot,
}

/// Identities, by a glob: `*` is any text without a `/`.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identities(String);

/// A text that is no glob of identities.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IdentitiesError {
    /// Nobody, or a text that nobody writes.
    #[error("an identity has 1 to {MAX_IDENTITIES} characters, none of them a control character")]
    Length,
    /// Whoever the issuer knows.
    #[error("`{0}` is everybody whom the issuer knows: name whom you trust")]
    Everybody(String),
}

impl Identities {
    /// Whether an identity is one of them.
    #[must_use]
    pub fn contain(&self, identity: &str) -> bool {
        let (mut globs, mut parts) = (self.0.split('/'), identity.split('/'));
        loop {
            match (globs.next(), parts.next()) {
                (Some(glob), Some(part)) if matches(glob, part) => {}
                (None, None) => return true,
                (_, _) => return false,
            }
        }
    }
}

/// Whether a part between two `/` is as its glob says.
fn matches(glob: &str, part: &str) -> bool {
    let Some((start, rest)) = glob.split_once('*') else { return glob == part };
    let Some(mut part) = part.strip_prefix(start) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let end = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some((_, after)) = part.split_once(piece) else { return false };
        part = after;
    }
    part.ends_with(end)
}

impl TryFrom<String> for Identities {
    type Error = IdentitiesError;

    fn try_from(text: String) -> Result<Self, IdentitiesError> {
        if text.is_empty() || text.len() > MAX_IDENTITIES || text.chars().any(char::is_control) {
            return Err(IdentitiesError::Length);
        }
        // A scheme alone names nobody either.
        let rest = text.split_once("://").map_or(text.as_str(), |(_, rest)| rest);
        if rest.chars().any(char::is_alphanumeric) { Ok(Self(text)) } else { Err(IdentitiesError::Everybody(text)) }
    }
}

impl From<Identities> for String {
    fn from(identities: Identities) -> Self {
        identities.0
    }
}

/// Where a policy says that a trusted root is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RootName {
    /// sigstore's own, for everybody.
    PublicGood,
    /// GitHub's, for private repositories.
    GitHub,
    /// A file.
    File(PathBuf),
}

impl From<PathBuf> for RootName {
    fn from(text: PathBuf) -> Self {
        match text.to_str() {
            Some("public-good") => Self::PublicGood,
            Some("github") => Self::GitHub,
            _ => Self::File(text),
        }
    }
}

/// The text of a `trusted_root.json`: certificate authorities and logs. Whoever reads such files makes it, of one that it could use.
#[derive(Clone, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct TrustedRoot(String);

impl TrustedRoot {
    /// The JSON.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.0
    }

    /// What names it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

impl From<String> for TrustedRoot {
    fn from(json: String) -> Self {
        Self(json)
    }
}

impl fmt::Debug for TrustedRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "root {}", self.digest())
    }
}

/// What made a signature, as whoever checked it found out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Maker {
    /// A key.
    Key(PublicKey),
    /// A key that a certificate of a root is for.
    Vouched {
        /// The digest of the root.
        root: Digest,
        /// Who said who the signer is.
        issuer: String,
        /// Who the signer is.
        identity: String,
    },
}

impl Signer {
    pub(crate) fn same(&self) -> Same<'_> {
        match self {
            Self::Key(key) | Self::Logged(Logged { key, root: _ }) => Same::Key(key),
            Self::Keyless(keyless) => Same::Keyless(keyless),
        }
    }

    /// The trusted root that must have witnessed what it signs.
    #[must_use]
    pub fn root(&self) -> Option<&TrustedRoot> {
        match self {
            Self::Key(_) => None,
            Self::Keyless(Keyless { root, .. }) | Self::Logged(Logged { root, .. }) => Some(root),
        }
    }

    /// Whether it is what made a signature.
    #[must_use]
    pub fn is(&self, maker: &Maker) -> bool {
        match (self, maker) {
            (Self::Key(key) | Self::Logged(Logged { key, root: _ }), Maker::Key(made)) => key == made,
            (Self::Keyless(keyless), Maker::Vouched { root, issuer, identity }) => {
                keyless.root.digest() == *root && keyless.issuer == *issuer && keyless.identity.contain(identity)
            }
            (Self::Key(_) | Self::Logged(_), Maker::Vouched { .. }) | (Self::Keyless(_), Maker::Key(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_within_its_part() {
        let check = |glob: &str, identity: &str| Identities::try_from(glob.to_owned()).unwrap().contain(identity);
        let workflow = "https://github.com/acme/bpf/.github/workflows/release.yaml@refs/tags/v1.2";
        assert!(check(workflow, workflow));
        assert!(check("https://github.com/acme/*/.github/workflows/release.yaml@refs/tags/v*", workflow));
        assert!(check("https://github.com/acme/bpf/.github/workflows/*.yaml@*/*/*", workflow));
        assert!(!check("https://github.com/acme/*", workflow));
        assert!(!check("https://github.com/acme/*/release.yaml@refs/tags/v1.2", workflow));
        assert!(!check("https://github.com/acme/bpf/.github/workflows/release.yaml@refs/heads/*", workflow));
        assert!(check("*@acme.example", "release@acme.example"));
        assert!(!check("*@acme.example", "release@acme.example.evil"));
        assert!(!check("*@acme.example", "x/release@acme.example"));
        assert!(check("a*b*c", "a-b-b-c") && check("a**c", "ac") && !check("a*b*c", "a-c-b") && !check("ab*ba", "aba"));
    }

    #[test]
    fn everybody_is_no_identity() {
        for text in ["", "*", "**", "*/*", "https://*/*", "*@*.*"] {
            assert!(Identities::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
