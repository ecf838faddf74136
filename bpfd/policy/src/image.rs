//! Whether an image may be used: the rule of its scope, and what was found out about the image. Facts in, approval or refusal out.
//!
//! The facts ([`Evidence`]) are kept beside an image that waits, so that it is judged again by the policy of then, without its registry,
//! its signatures or the disk. "Could not ask for signatures" is the caller's error and never arrives here as "unsigned". Must never
//! check a signature itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::reference::{MAX_REFERENCE, Reference};
use crate::refusal::{Fault, Judged, Reason, Refusal};
use crate::scope::{Scope, most_specific};
use crate::signer::{Maker, Signer};
use crate::{Policy, limits};

/// Characters of a signer's text that a message shows.
const SHOWN_CHARACTERS: usize = 128;

/// One `[[image]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRule {
    /// The references it speaks about.
    pub scope: Scope,
    /// What they need.
    pub trust: Trust,
    /// Refuse a reference that has no digest.
    pub require_digest: bool,
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
    /// How many signatures there are; more than [`limits::SIGNATURES`] are not looked at.
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
    /// What was signed; or why it is no container signature.
    pub claim: Result<Claim, String>,
}

/// What was signed, read from a payload whose signature has been checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claim {
    /// The name that the signer meant; free text until it is compared. `None`: the signature is over a digest alone.
    pub docker_reference: Option<String>,
    /// The manifest that the signer meant.
    pub manifest: Digest,
}

impl Claim {
    /// Without what is too long to be a reference, of a text that somebody else wrote.
    #[must_use]
    pub fn bounded(self) -> Self {
        let Self { docker_reference, manifest } = self;
        let bound = |name: String| name.chars().take(MAX_REFERENCE + 1).collect();
        Self { docker_reference: docker_reference.map(bound), manifest }
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

    /// Whether an image may be used. All requirements of its rule must hold; a threshold counts different keys, whatever their names.
    ///
    /// # Errors
    /// [`Refusal`] with the first requirement that does not hold.
    pub fn judge(&self, evidence: &Evidence) -> Result<Approval, Box<Refusal>> {
        let Evidence { reference, digest, .. } = evidence;
        self.approve(evidence)
            .map_err(|reason| Box::new(Refusal { reference: reference.clone(), digest: *digest, reason: *reason }))
    }

    /// Why an image that was let through before would not be now, as far as what is kept of it tells: its name, and the names of those
    /// whose signatures counted. That a name is another key's now is not seen, nor what `digest` requires.
    #[must_use]
    pub fn refuses_stored(&self, reference: &str, signers: &[String]) -> Option<String> {
        let reference = reference.parse::<Reference>().ok()?;
        let Some(rule) = self.image_rule(&reference) else {
            return Some(format!("no `[[image]]` of the policy covers `{reference}`"));
        };
        let lacks = |requirement: &Requirement| match requirement {
            // It may mean the index, or the manifest in it.
            Requirement::Digest(_) => false,
            Requirement::Signed { signers: known, threshold, identity: _ } => {
                signers.iter().filter(|name| known.contains_key(*name)).count() < *threshold
            }
        };
        match &rule.trust {
            Trust::All(requirements) if requirements.iter().any(lacks) => {
                Some(format!("the `[[image]]` of scope `{}` does not let `{reference}` through", rule.scope))
            }
            Trust::All(_) | Trust::Anything => None,
        }
    }

    fn approve(&self, evidence: &Evidence) -> Result<Approval, Box<Reason>> {
        let named = evidence.reference.digest();
        if named.is_some_and(|named| named != evidence.digest) {
            return Err(Reason::OtherDigest.into());
        }
        let ImageRule { scope, trust, require_digest } = self.image_rule(&evidence.reference).ok_or(Reason::NoScope)?;
        if *require_digest && named.is_none() {
            return Err(Box::new(Reason::DigestRequired { scope: scope.clone() }));
        }
        let mut signers = BTreeSet::new();
        let mut judged: BTreeMap<usize, Judged> = BTreeMap::new();
        match trust {
            Trust::Anything => {}
            Trust::All(requirements) => {
                for one in requirements.iter().map(|requirement| requirement.holds(scope, evidence)) {
                    for one in one? {
                        signers.extend(one.outcome.clone());
                        // What counts for one requirement counts, whatever another says of it.
                        let known = judged.entry(one.number).or_insert_with(|| one.clone());
                        if one.outcome.is_ok() {
                            *known = one;
                        }
                    }
                }
            }
        }
        Ok(Approval { scope: scope.clone(), signers, judged: judged.into_values().collect() })
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
            Self::Signed { signers, threshold: _, identity: _ } => Some(signers.values()),
            Self::Digest(_) => None,
        }
        .into_iter()
        .flatten()
    }

    /// How each signature fares, if it holds.
    fn holds(&self, scope: &Scope, evidence: &Evidence) -> Result<Vec<Judged>, Box<Reason>> {
        let (signers, threshold, identity) = match self {
            Self::Digest(allowed) if allowed.iter().any(|allowed| evidence.is_over(*allowed)) => {
                return Ok(Vec::new());
            }
            Self::Digest(allowed) => {
                return Err(Box::new(Reason::NotPinned { scope: scope.clone(), allowed: allowed.len() }));
            }
            Self::Signed { signers, threshold, identity } => (signers, *threshold, *identity),
        };
        let all = || signers.keys().cloned().collect::<BTreeSet<_>>();
        if evidence.found == 0 {
            return Err(Box::new(Reason::Unsigned { scope: scope.clone(), threshold, signers: all() }));
        }
        if evidence.found > limits::SIGNATURES {
            return Err(Box::new(Reason::TooManySignatures { found: evidence.found }));
        }
        let mut valid: BTreeMap<&Signer, &str> = BTreeMap::new();
        let mut judged = Vec::new();
        for (index, Signature { form, signed }) in evidence.signatures.iter().enumerate() {
            // Several names of one signer are one: the first of them counts.
            let outcome = signer(signed, signers, identity, evidence)
                .map(|(name, signer)| (*valid.entry(signer).or_insert(name)).to_owned());
            judged.push(Judged { number: index + 1, form: *form, outcome });
        }
        if valid.len() < threshold {
            let valid = valid.values().map(|name| (*name).to_owned()).collect();
            return Err(Box::new(Reason::NotEnough { scope: scope.clone(), threshold, signers: all(), valid, judged }));
        }
        Ok(judged)
    }
}

/// Who made one signature, if it counts.
fn signer<'a>(
    signed: &Result<Signed, Fault>,
    signers: &'a BTreeMap<String, Signer>,
    identity: Identity,
    evidence: &Evidence,
) -> Result<(&'a str, &'a Signer), Fault> {
    let Signed { maker, claim } = signed.as_ref().map_err(Clone::clone)?;
    let (name, signer) = signers.iter().find(|(_, signer)| signer.is(maker)).ok_or_else(|| Fault::of(maker))?;
    let claim = claim.as_ref().map_err(|why| Fault::Claim { signer: name.clone(), why: why.clone() })?;
    if !evidence.is_over(claim.manifest) {
        return Err(Fault::OtherImage { signer: name.clone(), claimed: claim.manifest });
    }
    match (identity, &claim.docker_reference) {
        (Identity::Any, _) | (Identity::Repository, None) => {}
        (Identity::Repository, Some(claimed)) => {
            let Evidence { reference, .. } = evidence;
            let same = claimed.parse().is_ok_and(|claimed: Reference| {
                claimed.registry() == reference.registry() && claimed.repository() == reference.repository()
            });
            if !same {
                let claimed = claimed.chars().take(SHOWN_CHARACTERS).collect();
                return Err(Fault::OtherRepository { signer: name.clone(), claimed });
            }
        }
    }
    Ok((name, signer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::PolicyText;
    use std::path::Path;

    /// A policy whose signer `NAME` has the key `NAME`, read from `/keys/NAME`.
    fn policy(signers: &[(&str, &str)], images: &str) -> Policy {
        let section = |(name, key): &(&str, &str)| format!("[[signer]]\nname = \"{name}\"\nkey = \"/keys/{key}\"\n");
        let signers: String = signers.iter().map(section).collect();
        let text = format!("version = 1\n{signers}[[image]]\nscope = \"r/a\"\n{images}\n");
        let file = PolicyText { file: "policy.toml", text: &text };
        Policy::read(&[file], |path: &Path| Ok(path.as_os_str().as_encoded_bytes().to_vec().into())).unwrap()
    }

    /// `r/a:1`, signed by the key `k1`.
    fn evidence() -> Evidence {
        let digest = Digest::of(b"manifest");
        let claim = Claim { docker_reference: Some("r/a:1".to_owned()), manifest: digest };
        let signed = Ok(Signed { maker: Maker::Key(b"/keys/k1".to_vec().into()), claim: Ok(claim) });
        let signatures = vec![Signature { form: Form::Legacy, signed }];
        Evidence { reference: "r/a:1".parse().unwrap(), digest, chosen: None, found: 1, signatures }
    }

    #[test]
    fn evidence_is_judged_again_by_another_policy() {
        let evidence = evidence();
        let signed = "require = [{ signed_by = [\"ci\"] }]";
        let told = |policy: &Policy| match policy.judge(&evidence) {
            Ok(approval) => format!("{:?}", approval.signers),
            Err(refusal) => refusal.reason.to_string(),
        };
        assert_eq!(told(&policy(&[("ci", "k1")], signed)), "{\"ci\"}");
        // The key has another name now, or the name another key.
        assert_eq!(told(&policy(&[("release", "k1")], &signed.replace("ci", "release"))), "{\"release\"}");
        assert_eq!(
            told(&policy(&[("ci", "k2")], signed)),
            "0 of 1 required signatures count (scope `r/a`, signers `ci`); signature 1 (legacy): no key of these signers made it"
        );
        assert_eq!(told(&policy(&[], "unsigned = \"allow\"")), "{}");
        assert_eq!(told(&Policy::default()), Reason::NoScope.to_string());
        let pinned = format!("require = [{{ digest = [\"{}\"] }}]", Digest::of(b"other"));
        assert!(matches!(
            policy(&[], &pinned).judge(&evidence).unwrap_err().reason,
            Reason::NotPinned { allowed: 1, .. }
        ));
    }

    #[test]
    fn a_part_of_a_policy_judges_its_reference_alike() {
        let whole = policy(&[("ci", "k1")], "require = [{ signed_by = [\"ci\"] }]");
        let part = whole.about(&evidence().reference);
        assert_eq!(part.judge(&evidence()).unwrap(), whole.judge(&evidence()).unwrap());
        let elsewhere = whole.about(&"r/b:1".parse().unwrap());
        assert_eq!(elsewhere, Policy::default());
    }
}
