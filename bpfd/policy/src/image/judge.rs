//! The decision about an image: the rule of its scope and the facts in, approval or refusal out. Must never look at a clock: the time is
//! an argument.

use std::collections::{BTreeMap, BTreeSet};

use super::{Approval, Claim, Evidence, Identity, ImageRule, Requirement, Signature, Signed, Trust};
use crate::age::Age;
use crate::reference::Reference;
use crate::refusal::{Fault, Judged, Reason, Refusal};
use crate::scope::Scope;
use crate::signer::{Same, Signer};
use crate::{Policy, limits};

/// Characters of a signer's text that a message shows.
const SHOWN_CHARACTERS: usize = 128;

/// Whether it matters how old signatures are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AgeCheck {
    /// It is this many seconds after 1970: an image is pulled, loaded or looked at.
    At(u64),
    /// It does not: what was let through before starts again.
    Skipped,
}

/// How old signatures may be here and now.
#[derive(Clone, Copy)]
struct Fresh {
    most: Age,
    now: u64,
}

/// Which statements count, beside who made them.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Signature(Identity),
    Attestation(&'a str),
}

impl Policy {
    /// Whether an image may be used. All requirements of its rule must hold; a threshold counts different keys, whatever their names.
    ///
    /// # Errors
    /// [`Refusal`] with the first requirement that does not hold.
    pub fn judge(&self, evidence: &Evidence, ages: AgeCheck) -> Result<Approval, Box<Refusal>> {
        let Evidence { reference, digest, .. } = evidence;
        self.approve(evidence, ages)
            .map_err(|reason| Box::new(Refusal { reference: reference.clone(), digest: *digest, reason: *reason }))
    }

    /// Why an image that was let through before would not be now, as far as what is kept of it tells: its name, and the names of those
    /// whose signatures counted. That a name is another key's now is not seen, nor what `digest`, attestations and ages require.
    #[must_use]
    pub fn refuses_stored(&self, reference: &str, signers: &[String]) -> Option<String> {
        let reference = reference.parse::<Reference>().ok()?;
        let Some(rule) = self.image_rule(&reference) else {
            return Some(format!("no `[[image]]` of the policy covers `{reference}`"));
        };
        let lacks = |requirement: &Requirement| match requirement {
            // A digest may mean the index, or the manifest in it; who attested is not kept.
            Requirement::Digest(_) | Requirement::Attested { .. } => false,
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

    fn approve(&self, evidence: &Evidence, ages: AgeCheck) -> Result<Approval, Box<Reason>> {
        evidence.is_as_named()?;
        let rule = self.image_rule(&evidence.reference).ok_or(Reason::NoScope)?;
        rule.has_digest(evidence)?;
        let ImageRule { scope, trust, .. } = rule;
        let mut signers = BTreeSet::new();
        let mut judged: BTreeMap<usize, Judged> = BTreeMap::new();
        let requirements = match trust {
            Trust::Anything => &[],
            Trust::All(requirements) => requirements.as_slice(),
        };
        for requirement in requirements {
            for one in requirement.holds(rule, evidence, ages)? {
                // Who attests something about an image does not vouch for it.
                if matches!(requirement, Requirement::Signed { .. }) {
                    signers.extend(one.outcome.clone());
                }
                // What counts for one requirement counts, whatever another says of it.
                let known = judged.entry(one.number).or_insert_with(|| one.clone());
                if one.outcome.is_ok() {
                    *known = one;
                }
            }
        }
        Ok(Approval { scope: scope.clone(), signers, judged: judged.into_values().collect() })
    }
}

impl Evidence {
    /// A digest in the reference is the one that it was resolved to.
    pub(super) fn is_as_named(&self) -> Result<(), Box<Reason>> {
        match self.reference.digest() {
            Some(named) if named != self.digest => Err(Reason::OtherDigest.into()),
            _ => Ok(()),
        }
    }
}

impl ImageRule {
    /// `require_digest`.
    pub(super) fn has_digest(&self, evidence: &Evidence) -> Result<(), Box<Reason>> {
        match self.require_digest && evidence.reference.digest().is_none() {
            true => Err(Box::new(Reason::DigestRequired { scope: self.scope.clone() })),
            false => Ok(()),
        }
    }

    fn fresh(&self, ages: AgeCheck) -> Option<Fresh> {
        match (self.max_signature_age, ages) {
            (Some(most), AgeCheck::At(now)) => Some(Fresh { most, now }),
            (_, AgeCheck::Skipped) | (None, AgeCheck::At(_)) => None,
        }
    }
}

impl Requirement {
    /// How each signature fares, if it holds.
    pub(super) fn holds(
        &self,
        rule: &ImageRule,
        evidence: &Evidence,
        ages: AgeCheck,
    ) -> Result<Vec<Judged>, Box<Reason>> {
        let scope = || rule.scope.clone();
        let (signers, threshold, wanted) = match self {
            Self::Digest(allowed) if allowed.iter().any(|allowed| evidence.is_over(*allowed)) => {
                return Ok(Vec::new());
            }
            Self::Digest(allowed) => {
                return Err(Box::new(Reason::NotPinned { scope: scope(), allowed: allowed.len() }));
            }
            Self::Signed { signers, threshold, identity } => (signers, *threshold, Wanted::Signature(*identity)),
            Self::Attested { signers, threshold, predicate } => (signers, *threshold, Wanted::Attestation(predicate)),
        };
        if evidence.found > limits::SIGNATURES {
            return Err(Box::new(Reason::TooManySignatures { found: evidence.found }));
        }
        let fresh = rule.fresh(ages);
        let mut valid: BTreeMap<Same<'_>, &str> = BTreeMap::new();
        let mut judged = Vec::new();
        for (index, Signature { form, signed }) in evidence.signatures.iter().enumerate() {
            // Several names of one signer are one: the first of them counts.
            let outcome = signer(signed, signers, wanted, evidence, fresh)
                .map(|(name, signer)| (*valid.entry(signer.same()).or_insert(name)).to_owned());
            judged.push(Judged { number: index + 1, form: *form, outcome });
        }
        if valid.len() >= threshold {
            return Ok(judged);
        }
        let valid = valid.values().map(|name| (*name).to_owned()).collect();
        Err(Box::new(lacking(wanted, scope(), threshold, signers, valid, judged)))
    }
}

/// Too few signatures count.
fn lacking(
    wanted: Wanted<'_>,
    scope: Scope,
    threshold: usize,
    signers: &BTreeMap<String, Signer>,
    valid: BTreeSet<String>,
    judged: Vec<Judged>,
) -> Reason {
    let signers = signers.keys().cloned().collect();
    match wanted {
        Wanted::Signature(_) if judged.is_empty() => Reason::Unsigned { scope, threshold, signers },
        Wanted::Signature(_) => Reason::NotEnough { scope, threshold, signers, valid, judged },
        Wanted::Attestation(predicate) => {
            Reason::Unattested { scope, predicate: predicate.to_owned(), threshold, signers, valid, judged }
        }
    }
}

/// Who made one signature, if it counts.
fn signer<'a>(
    signed: &Result<Signed, Fault>,
    signers: &'a BTreeMap<String, Signer>,
    wanted: Wanted<'_>,
    evidence: &Evidence,
    fresh: Option<Fresh>,
) -> Result<(&'a str, &'a Signer), Fault> {
    let signed = signed.as_ref().map_err(Clone::clone)?;
    let Signed { maker, claim, .. } = signed;
    let by = |(_, signer): &(&String, &Signer)| signer.is(maker);
    // Of several names of one key, one may ask for a log and another for none.
    let mut found = Err(Fault::of(maker));
    for (name, signer) in signers.iter().filter(by) {
        found = witnessed(name, signer, signed, fresh).map(|()| (name, signer));
        if found.is_ok() {
            break;
        }
    }
    let (name, signer) = match (found, claim) {
        (Ok(found), _) => found,
        (Err(fault), _) => return Err(fault),
    };
    let claim = claim.as_ref().map_err(|why| Fault::Claim { signer: name.clone(), why: why.clone() })?;
    claim.is_wanted(name, wanted)?;
    if !evidence.is_over(claim.manifest) {
        return Err(Fault::OtherImage { signer: name.clone(), claimed: claim.manifest });
    }
    match wanted {
        Wanted::Signature(identity) => claim.names(name, identity, &evidence.reference)?,
        Wanted::Attestation(_) => {}
    }
    Ok((name, signer))
}

/// Whether the logs have a signature that a signer's must be in, and whether it is young enough.
fn witnessed(name: &str, signer: &Signer, signed: &Signed, fresh: Option<Fresh>) -> Result<(), Fault> {
    let witness = match signer.root().map(|root| signed.witnesses.get(&root.digest())) {
        None => None,
        Some(Some(Ok(witness))) => Some(witness),
        Some(Some(Err(why))) => return Err(Fault::NotLogged { signer: name.to_owned(), why: why.clone() }),
        Some(None) => {
            let why = "nobody looked for it".to_owned();
            return Err(Fault::NotLogged { signer: name.to_owned(), why });
        }
    };
    let Some(Fresh { most, now }) = fresh else { return Ok(()) };
    let seen = witness.and_then(|witness| witness.seen);
    let seen = seen.ok_or_else(|| Fault::NoTime { signer: name.to_owned() })?;
    let age = now.saturating_sub(seen);
    match age > most.seconds() {
        true => Err(Fault::TooOld { signer: name.to_owned(), hours: age / 3600, most }),
        false => Ok(()),
    }
}

impl Claim {
    /// Whether it is the kind of statement that is asked for.
    fn is_wanted(&self, signer: &str, wanted: Wanted<'_>) -> Result<(), Fault> {
        let signer = signer.to_owned();
        match (wanted, &self.predicate) {
            (Wanted::Signature(_), None) => Ok(()),
            (Wanted::Attestation(asked), Some(stated)) if asked == stated => Ok(()),
            (Wanted::Signature(_), Some(stated)) => {
                let why = format!("it is an attestation of type `{}`, which is not a signature", shown(stated));
                Err(Fault::Claim { signer, why })
            }
            (Wanted::Attestation(_), Some(stated)) => Err(Fault::OtherPredicate { signer, stated: shown(stated) }),
            (Wanted::Attestation(_), None) => Err(Fault::NoAttestation { signer }),
        }
    }

    /// Whether the name that was signed is that of a reference.
    fn names(&self, signer: &str, identity: Identity, reference: &Reference) -> Result<(), Fault> {
        let exact = match identity {
            Identity::Any => return Ok(()),
            Identity::Repository => false,
            Identity::Exact => true,
        };
        let signer = signer.to_owned();
        let Some(claimed) = self.docker_reference.as_deref() else {
            return if exact { Err(Fault::Nameless { signer }) } else { Ok(()) };
        };
        let shown = || claimed.chars().take(SHOWN_CHARACTERS).collect();
        let is_here = |claimed: &Reference| {
            claimed.registry() == reference.registry() && claimed.repository() == reference.repository()
        };
        let Some(named) = claimed.parse::<Reference>().ok().filter(is_here) else {
            return Err(Fault::OtherRepository { signer, claimed: shown() });
        };
        // A reference by digest was resolved by nobody.
        match exact && reference.digest().is_none() && named.tag() != reference.tag() {
            true => Err(Fault::OtherTag { signer, claimed: shown() }),
            false => Ok(()),
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::image::Form;
    use crate::read::PolicyText;
    use crate::signer::Maker;
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
        let claim = Claim { docker_reference: Some("r/a:1".to_owned()), manifest: digest, predicate: None };
        let signed =
            Ok(Signed { maker: Maker::Key(b"/keys/k1".to_vec().into()), claim: Ok(claim), witnesses: BTreeMap::new() });
        let signatures = vec![Signature { form: Form::Legacy, signed }];
        Evidence { reference: "r/a:1".parse().unwrap(), digest, chosen: None, found: 1, signatures }
    }

    #[test]
    fn evidence_is_judged_again_by_another_policy() {
        let evidence = evidence();
        let signed = "require = [{ signed_by = [\"ci\"] }]";
        let told = |policy: &Policy| match policy.judge(&evidence, AgeCheck::Skipped) {
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
            policy(&[], &pinned).judge(&evidence, AgeCheck::Skipped).unwrap_err().reason,
            Reason::NotPinned { allowed: 1, .. }
        ));
    }

    #[test]
    fn a_part_of_a_policy_judges_its_reference_alike() {
        let whole = policy(&[("ci", "k1")], "require = [{ signed_by = [\"ci\"] }]");
        let part = whole.about(&evidence().reference);
        assert_eq!(
            part.judge(&evidence(), AgeCheck::Skipped).unwrap(),
            whole.judge(&evidence(), AgeCheck::Skipped).unwrap()
        );
        let elsewhere = whole.about(&"r/b:1".parse().unwrap());
        assert_eq!(elsewhere, Policy::default());
    }
}
