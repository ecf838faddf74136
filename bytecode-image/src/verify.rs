//! May this image be used? Policy, reference, digest and signatures in; proof or refusal out.
//!
//! Checks signatures with the keys of the policy, has [`Policy::judge`] decide on what it found, and owns [`Verified`], the proof,
//! which nothing else can make. Pure and offline: the same call serves a pull, and each load from the store with the signatures kept
//! beside the image, so that a policy change takes effect without a registry. Must never read a payload before a trusted key has
//! verified it.

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::STANDARD};
pub use bpfd_policy::refusal::{Fault, Reason, Refusal, Rejected};
use bpfd_policy::{
    Policy,
    image::{Approval, Claim, Evidence, Signed},
    key::PublicKey,
    reference::in_full,
};

use crate::{candidate::Candidate, digest::Digest, key, limits, reference::Reference, scope::Scope, sign::claim};

/// Proof that policy lets an image through. Its makers are [`decide`] and [`Verified::again`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    evidence: Evidence,
    approval: Approval,
}

impl Verified {
    /// What was asked for.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.evidence.reference
    }

    /// The digest that the reference was resolved to, and the only one that this proves anything about.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.evidence.digest
    }

    /// The scope whose `[[image]]` decided.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.approval.scope
    }

    /// Whose signatures counted, by name; empty where policy asked for none.
    #[must_use]
    pub fn signers(&self) -> &BTreeSet<String> {
        &self.approval.signers
    }

    /// The proof by another policy, from the signatures that were checked for this one. A key that this policy did not know was not
    /// tried, so it does not count here.
    ///
    /// # Errors
    /// [`Refusal`], as of [`decide`].
    pub fn again(self, policy: &Policy) -> Result<Self, Box<Refusal>> {
        let approval = policy.judge(&self.evidence)?;
        Ok(Self { approval, ..self })
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

/// Decides whether policy lets an image through.
///
/// # Errors
/// [`Refusal`] with the first requirement that does not hold.
pub fn decide(policy: &Policy, subject: Subject<'_>, candidates: &[Candidate]) -> Result<Verified, Box<Refusal>> {
    let Subject { reference, digest, chosen } = subject;
    let keys = policy.image_rule(reference).map(|rule| rule.keys()).unwrap_or_default();
    let looked_at = if candidates.len() > limits::SIGNATURES { &[] } else { candidates };
    let signatures = looked_at.iter().map(|candidate| check(candidate, &keys)).collect();
    let evidence = Evidence { reference: reference.clone(), digest, chosen, found: candidates.len(), signatures };
    let approval = policy.judge(&evidence)?;
    Ok(Verified { evidence, approval })
}

/// Which of the keys made a signature, and over what.
fn check(candidate: &Candidate, keys: &BTreeSet<&PublicKey>) -> Result<Signed, Fault> {
    if u64::try_from(candidate.payload.len()).is_ok_and(|length| length > limits::SIGNATURE) {
        return Err(Fault::PayloadTooLarge(candidate.payload.len()));
    }
    let text = candidate.signature().ok_or(Fault::NoSignature)?;
    let signature = STANDARD.decode(text).map_err(|_not| Fault::Base64)?;
    let made_it = |key: &&&PublicKey| key::verifies(key, &candidate.payload, &signature);
    let key = *keys.iter().find(made_it).ok_or(Fault::WrongSignature)?;
    let claim = claim(&candidate.payload).map(Claim::bounded).map_err(|error| in_full(&error));
    Ok(Signed { key: key.clone(), claim })
}
