//! `[[image]]`: what an image of a scope needs, and what was found out about an image.
//!
//! The facts ([`Evidence`]) are kept beside an image that waits, so that it is judged again by the policy of then, without its registry,
//! its signatures or the disk. "Could not ask for signatures" is the caller's error and never arrives here as "unsigned". `judge` decides,
//! `explain` says how each part fared. Must never check a signature itself.

mod explain;
mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Policy;
use crate::age::Age;
use crate::digest::Digest;
use crate::reference::{MAX_REFERENCE, Reference};
use crate::refusal::{Fault, Judged};
use crate::scope::{Scope, most_specific};
use crate::signer::{Maker, Signer};

pub use self::explain::{Applies, Checked, ScopeOutcome};
pub use self::judge::AgeCheck;

/// One `[[image]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRule {
    /// The references it speaks about.
    pub scope: Scope,
    /// What they need.
    pub trust: Trust,
    /// Refuse a reference that has no digest.
    pub require_digest: bool,
    /// Refuse an image whose version is not newer than the last one that was let through. Decided by [`crate::downgrade`], where the
    /// last one is known.
    #[serde(default)]
    pub forbid_downgrade: bool,
    /// Signatures that are older do not count.
    #[serde(default)]
    pub max_signature_age: Option<Age>,
}

/// What an image of a scope needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trust {
    /// `unsigned = "allow"`: nothing.
    Anything,
    /// `require`: all of these. Never empty.
    All(Vec<Requirement>),
}

/// One element of `require`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Requirement {
    /// `{ signed_by, threshold, identity }`
    Signed {
        /// Whose signatures count, by name. Never empty.
        signers: BTreeMap<String, Signer>,
        /// How many different signers must have signed, two names for one being one; at least one, at most as many as there are.
        threshold: usize,
        /// What the name in the signature must say.
        identity: Identity,
    },
    /// `{ attested_by, predicate, threshold }`
    Attested {
        /// Whose attestations count, by name. Never empty.
        signers: BTreeMap<String, Signer>,
        /// How many different signers must have attested, as for signatures.
        threshold: usize,
        /// The type of the statement's predicate, exactly. What the predicate says is not looked at.
        predicate: String,
    },
    /// `{ digest }`: the image is one of these.
    Digest(BTreeSet<Digest>),
}

/// What the name in a signature must say. A signature is over a name and a digest; one that another repository's image
/// earned must not pass here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// Registry and repository are those of the reference. A signature over the digest alone names no repository, and passes.
    #[default]
    Repository,
    /// Registry, repository and tag are those of the reference; of one with a digest, registry and repository. Without a name it does
    /// not pass: nobody signed the tag.
    Exact,
    /// Whatever it says: for mirrors, where images keep the signatures of their origin.
    Any,
}

/// What was found out about an image: all that a policy needs to judge it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Evidence {
    /// What was asked for.
    pub reference: Reference,
    /// What it was resolved to: an index, or a manifest that stands alone.
    pub digest: Digest,
    /// The manifest that was chosen from the index. A signature over it covers exactly what is loaded, so it counts too.
    pub chosen: Option<Digest>,
    /// How many signatures there are; more than `SIGNATURES` of bytecode-image's limits are not looked at.
    pub found: usize,
    /// What each of them is, in the order they came.
    pub signatures: Vec<Signature>,
}

/// One signature that was found beside an image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signature {
    /// How it is written.
    pub form: Form,
    /// Who made it over what; or why nobody did.
    pub signed: Result<Signed, Fault>,
}

/// How a signature is written and stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// cosign's form before version 3: a payload beside its signature, at the tag `sha256-<hex>.sig`.
    Legacy,
    /// A sigstore bundle in a manifest that refers to the image. What cosign 3 makes.
    Bundle,
    /// Of the Notary project.
    Notation,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "legacy",
            Self::Bundle => "bundle",
            Self::Notation => "Notation",
        })
    }
}

impl Evidence {
    fn is_over(&self, digest: Digest) -> bool {
        digest == self.digest || Some(digest) == self.chosen
    }
}

/// A signature that was checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signed {
    /// What made it.
    pub maker: Maker,
    /// What was signed; or why it is no statement about an image.
    pub claim: Result<Claim, String>,
    /// Who else witnessed it, by the digest of the trusted root: of a certificate's signature its root, of a key's the roots whose logs
    /// signers ask for. Or why its logs do not have it.
    pub witnesses: BTreeMap<Digest, Result<Witness, String>>,
}

/// What the logs and timestamps of a trusted root say of a signature.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Witness {
    /// The earliest time at which it was seen, in seconds since 1970; `None`: they have it, and say no time.
    pub seen: Option<u64>,
}

/// What was signed, read from a payload whose signature has been checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claim {
    /// The name that the signer meant; free text until it is compared. `None`: the signature is over a digest alone.
    pub docker_reference: Option<String>,
    /// The manifest that the signer meant.
    pub manifest: Digest,
    /// The type of what is stated about it; `None`: that it is signed.
    pub predicate: Option<String>,
}

impl Claim {
    /// Without what is too long to be a reference, of a text that somebody else wrote.
    #[must_use]
    pub fn bounded(self) -> Self {
        let Self { docker_reference, manifest, predicate } = self;
        let bound = |name: String| name.chars().take(MAX_REFERENCE + 1).collect();
        Self { docker_reference: docker_reference.map(bound), manifest, predicate: predicate.map(bound) }
    }
}

/// By what an image passed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Approval {
    /// The scope whose `[[image]]` decided.
    pub scope: Scope,
    /// Whose signatures counted, by name; empty if policy asked for none.
    pub signers: BTreeSet<String>,
    /// How each signature fared that a requirement asked about, in the order they came.
    pub judged: Vec<Judged>,
}

impl Policy {
    /// The one `[[image]]` that speaks about a reference: of the most specific scope.
    #[must_use]
    pub fn image_rule(&self, reference: &Reference) -> Option<&ImageRule> {
        most_specific(&self.images, |rule| &rule.scope, reference)
    }

    /// The part of this policy that judges a reference: what a worker that fetches it needs to know.
    #[must_use]
    pub fn about(&self, reference: &Reference) -> Self {
        Self { images: self.image_rule(reference).cloned().into_iter().collect(), ..Self::default() }
    }
}

impl ImageRule {
    /// Everybody whose signature it may ask for.
    #[must_use]
    pub fn signers(&self) -> BTreeSet<&Signer> {
        match &self.trust {
            Trust::Anything => BTreeSet::new(),
            Trust::All(requirements) => requirements.iter().flat_map(Requirement::signers).collect(),
        }
    }
}

impl Requirement {
    fn signers(&self) -> impl Iterator<Item = &Signer> {
        match self {
            Self::Signed { signers, threshold: _, identity: _ }
            | Self::Attested { signers, threshold: _, predicate: _ } => Some(signers.values()),
            Self::Digest(_) => None,
        }
        .into_iter()
        .flatten()
    }
}
