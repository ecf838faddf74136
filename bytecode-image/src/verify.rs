//! May this image be used? Policy, reference, digest and signatures in; proof or refusal out.
//!
//! Owns the decision and [`Verified`], its proof, which nothing else can make. Pure and offline: the same call serves a
//! pull, and each load from the store with the signatures kept beside the image, so that a policy change takes effect
//! without a registry. "Could not ask for signatures" is the caller's error and never arrives here as "unsigned". Must
//! never read a payload before a trusted key has verified it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    candidate::Candidate,
    digest::Digest,
    key::VerifyingKey,
    limits,
    policy::{Identity, ImagePolicy, ImageRule, Requirement, Trust},
    reference::{Reference, in_full},
    scope::{Scope, most_specific},
    sign::{ClaimError, claim},
};

/// Rejected signatures that a message shows: a refusal must fit into a gRPC status, whose headers break at a few KiB.
const SHOWN: usize = 4;
/// Characters of a signer's text that a message shows.
const SHOWN_CHARACTERS: usize = 128;

/// Proof that policy lets an image through. There is one maker, [`decide`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    reference: Reference,
    digest: Digest,
    scope: Scope,
    signers: BTreeSet<String>,
}

impl Verified {
    /// What was asked for.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// The digest that the reference was resolved to, and the only one that this proves anything about.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The scope whose `[[image]]` decided.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Whose signatures counted, by name; empty where policy asked for none.
    #[must_use]
    pub fn signers(&self) -> &BTreeSet<String> {
        &self.signers
    }
}

/// What the decision is about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// As asked for.
    pub reference: &'a Reference,
    /// What it was resolved to: an index, or a manifest that stands alone.
    pub digest: Digest,
    /// The manifest that was chosen from the index. A signature over it covers exactly what is loaded, so it counts too.
    pub chosen: Option<Digest>,
}

impl Subject<'_> {
    fn is(&self, digest: Digest) -> bool {
        digest == self.digest || Some(digest) == self.chosen
    }
}

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
    /// It has signatures, but too few that count.
    #[error(
        "{} of {threshold} required signatures count (scope `{scope}`, signers {}){}",
        .valid.len(), names(.signers), list(.rejected)
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
        /// The others, in the order they came.
        rejected: Vec<Rejected>,
    },
}

/// A signature that does not count.
#[derive(Debug)]
pub struct Rejected {
    /// Which one, from 1.
    pub number: usize,
    /// Why.
    pub fault: Fault,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signature {}: {}", self.number, in_full(&self.fault))
    }
}

/// Why a signature does not count.
#[derive(Debug, thiserror::Error)]
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
    /// No trusted key made it.
    #[error("no key of these signers made it")]
    WrongSignature,
    /// A key made it, over something else than a payload.
    #[error("`{signer}` signed something that is not a container signature")]
    Claim {
        /// Who.
        signer: String,
        /// What is wrong with it.
        #[source]
        source: ClaimError,
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
}

fn names(signers: &BTreeSet<String>) -> String {
    let quoted: Vec<String> = signers.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

fn list(rejected: &[Rejected]) -> String {
    let shown: String = rejected.iter().take(SHOWN).map(|rejected| format!("; {rejected}")).collect();
    match rejected.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

/// The beginning of a text that somebody else wrote.
fn bounded(text: &str) -> String {
    text.chars().take(SHOWN_CHARACTERS).collect()
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
                format!("remove those that nobody needs from `{}`", reference.signatures(self.digest))
            }
            Reason::Unsigned { signers, threshold, .. } => sign_it(&pinned, *threshold, signers),
            Reason::NotEnough { signers, valid, threshold, rejected, .. } => {
                if rejected.iter().any(|rejected| matches!(rejected.fault, Fault::OtherRepository { .. })) {
                    return "if the repository is a mirror, write `identity = \"any\"` into its requirement".to_owned();
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

/// Decides whether policy lets an image through.
///
/// The most specific scope that matches the reference decides alone. All its requirements must hold; a threshold counts
/// different keys, whatever their names.
///
/// # Errors
/// [`Refusal`] with the first requirement that does not hold.
pub fn decide(policy: &ImagePolicy, subject: Subject<'_>, candidates: &[Candidate]) -> Result<Verified, Box<Refusal>> {
    let Subject { reference, digest, chosen: _ } = subject;
    judge(policy, subject, candidates)
        .map_err(|reason| Box::new(Refusal { reference: reference.clone(), digest, reason: *reason }))
}

fn judge(policy: &ImagePolicy, subject: Subject<'_>, candidates: &[Candidate]) -> Result<Verified, Box<Reason>> {
    let Subject { reference, digest, chosen: _ } = subject;
    if reference.digest().is_some_and(|named| named != digest) {
        return Err(Reason::OtherDigest.into());
    }
    let rule = most_specific(&policy.images, |rule| &rule.scope, reference).ok_or(Reason::NoScope)?;
    let ImageRule { scope, trust, require_digest } = rule;
    if *require_digest && reference.digest().is_none() {
        return Err(Box::new(Reason::DigestRequired { scope: scope.clone() }));
    }
    let mut signers = BTreeSet::new();
    match trust {
        Trust::Anything => {}
        Trust::All(requirements) => {
            for requirement in requirements {
                signers.append(&mut hold(requirement, scope, subject, candidates)?);
            }
        }
    }
    Ok(Verified { reference: reference.clone(), digest, scope: scope.clone(), signers })
}

/// Whose signatures make the requirement hold.
fn hold(
    requirement: &Requirement,
    scope: &Scope,
    subject: Subject<'_>,
    candidates: &[Candidate],
) -> Result<BTreeSet<String>, Box<Reason>> {
    let (signers, threshold, identity) = match requirement {
        Requirement::Digest(allowed) if allowed.iter().any(|allowed| subject.is(*allowed)) => {
            return Ok(BTreeSet::new());
        }
        Requirement::Digest(allowed) => {
            return Err(Box::new(Reason::NotPinned { scope: scope.clone(), allowed: allowed.len() }));
        }
        Requirement::Signed { signers, threshold, identity } => (signers, *threshold, *identity),
    };
    let all = || signers.keys().cloned().collect::<BTreeSet<_>>();
    if candidates.is_empty() {
        return Err(Box::new(Reason::Unsigned { scope: scope.clone(), threshold, signers: all() }));
    }
    if candidates.len() > limits::SIGNATURES {
        return Err(Box::new(Reason::TooManySignatures { found: candidates.len() }));
    }
    let mut valid: BTreeMap<&VerifyingKey, &str> = BTreeMap::new();
    let mut rejected = Vec::new();
    for (index, candidate) in candidates.iter().enumerate() {
        match signer(candidate, signers, identity, subject) {
            Ok((name, key)) => {
                valid.entry(key).or_insert(name);
            }
            Err(fault) => rejected.push(Rejected { number: index + 1, fault }),
        }
    }
    let names = valid.values().map(|name| (*name).to_owned()).collect();
    if valid.len() < threshold {
        return Err(Box::new(Reason::NotEnough {
            scope: scope.clone(),
            threshold,
            signers: all(),
            valid: names,
            rejected,
        }));
    }
    Ok(names)
}

/// Who made one signature, if it counts.
fn signer<'a>(
    candidate: &Candidate,
    signers: &'a BTreeMap<String, VerifyingKey>,
    identity: Identity,
    subject: Subject<'_>,
) -> Result<(&'a str, &'a VerifyingKey), Fault> {
    if u64::try_from(candidate.payload.len()).is_ok_and(|length| length > limits::SIGNATURE) {
        return Err(Fault::PayloadTooLarge(candidate.payload.len()));
    }
    let text = candidate.signature().ok_or(Fault::NoSignature)?;
    let signature = STANDARD.decode(text).map_err(|_not| Fault::Base64)?;
    let made_it = |(_, key): &(&String, &VerifyingKey)| key.verifies(&candidate.payload, &signature);
    let (name, key) = signers.iter().find(made_it).ok_or(Fault::WrongSignature)?;
    let claim = claim(&candidate.payload).map_err(|source| Fault::Claim { signer: name.clone(), source })?;
    if !subject.is(claim.manifest) {
        return Err(Fault::OtherImage { signer: name.clone(), claimed: claim.manifest });
    }
    match identity {
        Identity::Any => {}
        Identity::Repository => {
            let same = claim.docker_reference.parse().is_ok_and(|claimed: Reference| {
                claimed.registry() == subject.reference.registry()
                    && claimed.repository() == subject.reference.repository()
            });
            if !same {
                return Err(Fault::OtherRepository { signer: name.clone(), claimed: bounded(&claim.docker_reference) });
            }
        }
    }
    Ok((name, key))
}
