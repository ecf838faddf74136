//! How each `[[image]]` and each of its requirements fared for an image: the decision, told in full. Asks the same questions as the
//! decision does, and decides nothing.

use std::collections::BTreeSet;

use super::{AgeCheck, Evidence, Identity, ImageRule, Requirement, Trust};
use crate::Policy;
use crate::refusal::{Judged, Reason};
use crate::scope::Scope;
use crate::show::{list, quoted, table};

/// Sections, and requirements of one, that are told of: more than a person reads, and an answer has bounds.
const SECTIONS: usize = 256;
const REQUIREMENTS: usize = 64;
/// Characters of a requirement, and of why it holds or not: it may list thousands of digests.
const SHOWN_CHARACTERS: usize = 1024;

/// How one `[[image]]` fared.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ScopeOutcome {
    /// Its scope.
    pub scope: Scope,
    /// Whether it decides, and why.
    pub applies: Applies,
    /// Its requirements, if it decides.
    pub requirements: Vec<Checked>,
}

/// Whether an `[[image]]` decides about an image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Applies {
    /// It is the most specific one that speaks about the reference.
    Yes,
    /// Another one is more specific.
    Overruled(Scope),
    /// It is about other references.
    No,
}

/// How one requirement fared.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checked {
    /// As a policy file has it.
    pub requirement: String,
    /// Whether it holds.
    pub holds: bool,
    /// Why it does, or does not.
    pub why: String,
}

impl std::fmt::Display for Applies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Yes => f.write_str("it is the most specific scope for this reference"),
            Self::Overruled(scope) => write!(f, "scope `{scope}` is more specific"),
            Self::No => f.write_str("it is about other references"),
        }
    }
}

impl Policy {
    /// How each section fared, the one that decides first, then those that another overrules.
    #[must_use]
    pub fn explain(&self, evidence: &Evidence, ages: AgeCheck) -> Vec<ScopeOutcome> {
        let deciding = self.image_rule(&evidence.reference);
        let outcome = |rule: &ImageRule| {
            let applies = match deciding {
                Some(deciding) if deciding.scope == rule.scope => Applies::Yes,
                Some(deciding) if rule.scope.matches(&evidence.reference) => Applies::Overruled(deciding.scope.clone()),
                _ => Applies::No,
            };
            let requirements = match applies {
                Applies::Yes => rule.checked(evidence, ages),
                Applies::Overruled(_) | Applies::No => vec![],
            };
            ScopeOutcome { scope: rule.scope.clone(), applies, requirements }
        };
        let mut outcomes: Vec<ScopeOutcome> = self.images.iter().map(outcome).collect();
        outcomes.sort_by_key(|outcome| match outcome.applies {
            Applies::Yes => 0,
            Applies::Overruled(_) => 1,
            Applies::No => 2,
        });
        outcomes.truncate(SECTIONS);
        outcomes
    }
}

impl ImageRule {
    fn checked(&self, evidence: &Evidence, ages: AgeCheck) -> Vec<Checked> {
        let told = |requirement: String, outcome: Result<String, Box<Reason>>| match outcome {
            Ok(why) => Checked { requirement, holds: true, why },
            Err(reason) => Checked { requirement, holds: false, why: reason.to_string() },
        };
        let mut all = Vec::new();
        if let Some(named) = evidence.reference.digest() {
            let holds = evidence.is_as_named().map(|()| "that is what the reference was resolved to".to_owned());
            all.push(told(format!("the reference names {named}"), holds));
        }
        if self.require_digest {
            let holds = self.has_digest(evidence).map(|()| "the reference has a digest".to_owned());
            all.push(told("require_digest = true".to_owned(), holds));
        }
        match &self.trust {
            Trust::Anything => {
                let why = "no signature is asked for".to_owned();
                all.push(Checked { requirement: "unsigned = \"allow\"".to_owned(), holds: true, why });
            }
            Trust::All(requirements) => {
                for requirement in requirements {
                    let holds = requirement.holds(self, evidence, ages).map(|judged| requirement.held(&judged));
                    all.push(told(requirement.to_string(), holds));
                }
            }
        }
        if let Some(most) = self.max_signature_age {
            let (holds, why) = match ages {
                AgeCheck::At(_) => (true, "older signatures do not count for the requirements above"),
                AgeCheck::Skipped => (true, "the age of signatures is not looked at now"),
            };
            all.push(Checked { requirement: format!("max_signature_age = \"{most}\""), holds, why: why.to_owned() });
        }
        let more = all.split_off(all.len().min(REQUIREMENTS));
        if !more.is_empty() {
            let holds = more.iter().all(|row| row.holds);
            let why = if holds { "all of them hold" } else { "some of them do not hold" };
            all.push(Checked { requirement: format!("and {} more", more.len()), holds, why: why.to_owned() });
        }
        all.iter_mut().for_each(Checked::shorten);
        all
    }
}

impl Checked {
    fn shorten(&mut self) {
        for text in [&mut self.requirement, &mut self.why] {
            if let Some((end, _)) = text.char_indices().nth(SHOWN_CHARACTERS) {
                text.truncate(end);
                text.push('…');
            }
        }
    }
}

impl Requirement {
    /// Why it holds.
    fn held(&self, judged: &[Judged]) -> String {
        let verb = match self {
            Self::Digest(_) => return "its digest is one of these".to_owned(),
            Self::Signed { .. } => "signed",
            Self::Attested { .. } => "attested",
        };
        let mut named = BTreeSet::new();
        let by = judged.iter().filter_map(|judged| Some((judged.outcome.as_ref().ok()?, judged)));
        let told: Vec<String> = by
            .filter(|(signer, _)| named.insert((*signer).clone()))
            .map(|(signer, Judged { number, form, .. })| format!("`{signer}` {verb} it (signature {number}, {form})"))
            .collect();
        told.join("; ")
    }
}

/// As an element of `require`.
impl std::fmt::Display for Requirement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let more = |threshold: &usize| (*threshold > 1).then(|| ("threshold", threshold.to_string()));
        f.write_str(&match self {
            Self::Digest(digests) => table([Some(("digest", list(digests)))]),
            Self::Signed { signers, threshold, identity } => {
                let identity = match identity {
                    Identity::Repository => "repository",
                    Identity::Exact => "exact",
                    Identity::Any => "any",
                };
                let parts =
                    [Some(("signed_by", list(signers.keys()))), more(threshold), Some(("identity", quoted(identity)))];
                table(parts)
            }
            Self::Attested { signers, threshold, predicate } => table([
                Some(("attested_by", list(signers.keys()))),
                Some(("predicate", quoted(predicate))),
                more(threshold),
            ]),
        })
    }
}
