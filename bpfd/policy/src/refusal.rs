//! Why an image may not be used, in the words of the person who asked, and what to do about it. Must never decide.

use std::collections::BTreeSet;
use std::fmt;

use crate::age::Age;
use crate::digest::Digest;
use crate::image::Form;
use crate::limits;
use crate::reference::Reference;
use crate::scope::Scope;
use crate::signer::Maker;

/// Rejected signatures that a message shows: a refusal must fit into a gRPC status, whose headers break at a few KiB.
const SHOWN: usize = 4;

/// Characters of a certificate's text that a message shows.
const SHOWN_CHARACTERS: usize = 128;

/// An image that may not be used.
#[derive(Debug, thiserror::Error)]
#[error("image `{reference}` ({digest}) is refused by policy")]
pub struct Refusal {
    /// What was asked for.
    pub reference: Reference,
    /// What it was resolved to.
    pub digest: Digest,
    /// Why it may not be used.
    #[source]
    pub reason: Reason,
}

/// Why an image may not be used.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// No `[[image]]` matches.
    #[error("no `[[image]]` section of the policy has a scope for it")]
    NoScope,
    /// The registry gave something else than was asked for.
    #[error("the reference names another digest than the one it was resolved to")]
    OtherDigest,
    /// `require_digest`, and the reference has a tag only.
    #[error("scope `{scope}` requires references with a digest")]
    DigestRequired {
        /// The scope that applies.
        scope: Scope,
    },
    /// `{ digest = [..] }`, and it is none of them.
    #[error("its digest is not among those that scope `{scope}` allows ({allowed})")]
    NotPinned {
        /// The scope that applies.
        scope: Scope,
        /// How many there are.
        allowed: usize,
    },
    /// More than are read.
    #[error("it has {found} signatures; at most {limit} are read", limit = limits::SIGNATURES)]
    TooManySignatures {
        /// How many there are.
        found: usize,
    },
    /// It has no signature at all.
    #[error("it is not signed, and scope `{scope}` requires {threshold} of the signers {}", names(.signers))]
    Unsigned {
        /// The scope that applies.
        scope: Scope,
        /// How many must have signed.
        threshold: usize,
        /// Whose signatures would count.
        signers: BTreeSet<String>,
    },
    /// Too few attestations of a type count, or there are none.
    #[error(
        "{} of {threshold} required attestations of type `{predicate}` count (scope `{scope}`, signers {}){}",
        .valid.len(), names(.signers), list(.judged)
    )]
    Unattested {
        /// The scope that applies.
        scope: Scope,
        /// What must be stated.
        predicate: String,
        /// How many different signers must have attested it.
        threshold: usize,
        /// Whose attestations would count.
        signers: BTreeSet<String>,
        /// Whose do.
        valid: BTreeSet<String>,
        /// All signatures, in the order they came.
        judged: Vec<Judged>,
    },
    /// It has signatures, but too few that count.
    #[error(
        "{} of {threshold} required signatures count (scope `{scope}`, signers {}){}",
        .valid.len(), names(.signers), list(.judged)
    )]
    NotEnough {
        /// The scope that applies.
        scope: Scope,
        /// How many different keys must have signed.
        threshold: usize,
        /// Whose signatures would count.
        signers: BTreeSet<String>,
        /// Whose do; of several names for one key the first.
        valid: BTreeSet<String>,
        /// All signatures, in the order they came.
        judged: Vec<Judged>,
    },
}

/// How one signature fared.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Judged {
    /// Which one, from 1.
    pub number: usize,
    /// How it is written.
    pub form: Form,
    /// Which signer made it, or why it does not count.
    pub outcome: Result<String, Fault>,
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, form, outcome } = self;
        write!(f, "signature {number} ({form}): ")?;
        match outcome {
            Ok(signer) => write!(f, "`{signer}` made it"),
            Err(fault) => fault.fmt(f),
        }
    }
}

/// Why a signature does not count.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// A payload that is no payload.
    #[error("its payload has {0} bytes; at most {limit} are read", limit = limits::SIGNATURE)]
    PayloadTooLarge(usize),
    /// The annotation is missing.
    #[error("it has no signature beside its payload")]
    NoSignature,
    /// The annotation is no base64.
    #[error("it is not base64")]
    Base64,
    /// The signature is over a digest, and the digest is of something else.
    #[error("it is over another manifest, {0}")]
    OtherMessage(Digest),
    /// No trusted key made it.
    #[error("no key of these signers made it")]
    WrongSignature,
    /// Not what its form says it is.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// A form, or a part of it, that is known and not judged.
    #[error("this version does not judge {0}")]
    NotJudged(&'static str),
    /// A certificate vouches for it, and nobody of these signers is known by one.
    #[error("a certificate vouches for it, and none of these signers is `keyless`")]
    NoRoot,
    /// Its certificate, its logs or its signature do not hold, by any root of these signers.
    #[error("its certificate does not count: {0}")]
    Certificate(String),
    /// Somebody else made it.
    #[error("{identity:?}, known to {issuer:?}, made it, who is none of these signers")]
    Stranger {
        /// The beginning of what the certificate says.
        identity: String,
        /// The same.
        issuer: String,
    },
    /// The hint at the key, in a bundle, is of another key than the one that made it.
    #[error("it names another key than the one that made it")]
    KeyHint,
    /// A key made it, over something else than a payload.
    #[error("`{signer}` signed something that is not a container signature: {why}")]
    Claim {
        /// Who.
        signer: String,
        /// What is wrong with it.
        why: String,
    },
    /// A key made it, for another image.
    #[error("`{signer}` signed another image, {claimed}")]
    OtherImage {
        /// Who.
        signer: String,
        /// The manifest that it is for.
        claimed: Digest,
    },
    /// A key made it, for this image under another name.
    #[error("`{signer}` signed this image as {claimed:?}, which is another repository")]
    OtherRepository {
        /// Who.
        signer: String,
        /// The name that it is for; the beginning of the signer's text.
        claimed: String,
    },
    /// A key made it, for this image under another tag, and the tag counts.
    #[error("`{signer}` signed this image as {claimed:?}, which is another tag")]
    OtherTag {
        /// Who.
        signer: String,
        /// The name that it is for; the beginning of the signer's text.
        claimed: String,
    },
    /// It is over a digest alone, and the tag counts.
    #[error("`{signer}` signed the digest of this image and no tag")]
    Nameless {
        /// Who.
        signer: String,
    },
    /// The log that its signer must use does not have it.
    #[error("`{signer}` made it, and the transparency log does not have it: {why}")]
    NotLogged {
        /// Who.
        signer: String,
        /// The verifier's words.
        why: String,
    },
    /// Nothing says when it was made, and its age counts.
    #[error("`{signer}` made it, and nothing says when")]
    NoTime {
        /// Who.
        signer: String,
    },
    /// It was made too long ago.
    #[error("`{signer}` made it {} ago; at most {most} are allowed", ago(*.hours))]
    TooOld {
        /// Who.
        signer: String,
        /// How long ago.
        hours: u64,
        /// How long ago it may be.
        most: Age,
    },
    /// An attestation is asked for, and it is a signature.
    #[error("`{signer}` made it; it is a signature, not an attestation")]
    NoAttestation {
        /// Who.
        signer: String,
    },
    /// An attestation of another type.
    #[error("`{signer}` made it; it is an attestation of type `{stated}`")]
    OtherPredicate {
        /// Who.
        signer: String,
        /// The beginning of the type.
        stated: String,
    },
}

fn ago(hours: u64) -> String {
    if hours < 48 { format!("{hours} hours") } else { format!("{} days", hours / 24) }
}

impl Fault {
    /// No signer is what made the signature.
    pub(crate) fn of(maker: &Maker) -> Self {
        let shown = |text: &String| text.chars().take(SHOWN_CHARACTERS).collect();
        match maker {
            Maker::Key(_) => Self::WrongSignature,
            Maker::Vouched { root: _, issuer, identity } => {
                Self::Stranger { identity: shown(identity), issuer: shown(issuer) }
            }
        }
    }
}

fn names(signers: &BTreeSet<String>) -> String {
    let quoted: Vec<String> = signers.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

/// Those that do not count.
fn list(judged: &[Judged]) -> String {
    let rejected: Vec<&Judged> = judged.iter().filter(|judged| judged.outcome.is_err()).collect();
    let shown: String = rejected.iter().take(SHOWN).map(|rejected| format!("; {rejected}")).collect();
    match rejected.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

impl Refusal {
    /// What to do about it, as one line with the command filled in.
    #[must_use]
    pub fn hint(&self) -> String {
        let reference = &self.reference;
        let pinned = format!("{}@{}", reference.name(), self.digest);
        match &self.reason {
            Reason::NoScope => format!(
                "if you trust who signs it, run `bpfctl trust add NAME --key FILE --scope {}`",
                Scope::of_repository(reference)
            ),
            Reason::OtherDigest => "the registry serves something else under this digest: do not use it".to_owned(),
            Reason::DigestRequired { .. } => format!("if this is the image you mean, ask for `{pinned}`"),
            Reason::NotPinned { scope, .. } => {
                format!("if it should pass, add \"{}\" to `digest` in the `[[image]]` of scope `{scope}`", self.digest)
            }
            Reason::TooManySignatures { .. } => {
                format!("remove unneeded signatures from `{}`", reference.signatures(self.digest))
            }
            Reason::Unsigned { signers, threshold, .. } => sign_it(&pinned, *threshold, signers),
            Reason::Unattested { predicate, signers, .. } => format!(
                "have one of {} attest it: `cosign attest --type {predicate} --predicate FILE --key KEY {pinned}`",
                names(signers)
            ),
            Reason::NotEnough { signers, valid, threshold, judged, .. } => {
                let any = |is: fn(&Fault) -> bool| judged.iter().any(|judged| judged.outcome.as_ref().is_err_and(is));
                if any(|fault| matches!(fault, Fault::OtherRepository { .. })) {
                    return "if the repository is a mirror, write `identity = \"any\"` into its requirement".to_owned();
                }
                if any(|fault| matches!(fault, Fault::NotLogged { .. })) {
                    return format!("have it signed with an entry in the log: `cosign sign --key KEY {pinned}`");
                }
                let missing = signers.difference(valid).cloned().collect();
                sign_it(&pinned, threshold.saturating_sub(valid.len()), &missing)
            }
        }
    }
}

fn sign_it(reference: &str, more: usize, signers: &BTreeSet<String>) -> String {
    let who = if signers.len() == more { names(signers) } else { format!("{more} of {}", names(signers)) };
    format!("have it signed by {who}: `bpfctl image sign {reference} --key FILE`")
}
