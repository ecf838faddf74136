//! `[[image]]`: its text, and the rule that it is. Must never read a file, or decide about an image.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use toml::Spanned;

use super::{MAX_PREDICATE, PolicyError, PolicyFault, PolicyText};
use crate::age::Age;
use crate::digest::Digest;
use crate::image::{Identity, ImageRule, Requirement, Trust};
use crate::name::Name;
use crate::scope::Scope;
use crate::signer::Signer;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImageText {
    scope: Spanned<Scope>,
    unsigned: Option<Unsigned>,
    require: Option<Spanned<Vec<Spanned<RequirementText>>>>,
    #[serde(default)]
    require_digest: bool,
    #[serde(default)]
    forbid_downgrade: bool,
    max_signature_age: Option<Spanned<String>>,
}

impl ImageText {
    pub(super) fn scope(&self) -> &Spanned<Scope> {
        &self.scope
    }
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Unsigned {
    Allow,
    Deny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequirementText {
    signed_by: Option<Vec<Spanned<String>>>,
    attested_by: Option<Vec<Spanned<String>>>,
    predicate: Option<String>,
    threshold: Option<usize>,
    identity: Option<Identity>,
    digest: Option<Vec<Digest>>,
}

type Signers = BTreeMap<Name, Signer>;

pub(super) fn read(
    file: &PolicyText<'_>,
    image: &Spanned<ImageText>,
    signers: &Signers,
) -> Result<ImageRule, PolicyError> {
    let ImageText { scope, unsigned, require, require_digest, forbid_downgrade, max_signature_age } = image.get_ref();
    let trust = match (unsigned, require) {
        (Some(Unsigned::Allow), None) => Trust::Anything,
        (Some(Unsigned::Allow), Some(require)) => {
            return Err(file.fault(require.span().start, PolicyFault::Contradiction));
        }
        (None | Some(Unsigned::Deny), None) => return Err(file.fault(image.span().start, PolicyFault::NothingRequired)),
        (None | Some(Unsigned::Deny), Some(require)) => {
            if require.get_ref().is_empty() {
                return Err(file.fault(require.span().start, PolicyFault::EmptyList("require")));
            }
            let requirements = require.get_ref().iter().map(|text| requirement(file, text, signers));
            Trust::All(requirements.collect::<Result<_, _>>()?)
        }
    };
    let max_signature_age = max_signature_age.as_ref().map(|text| age(file, text, &trust)).transpose()?;
    let (scope, require_digest, forbid_downgrade) = (scope.get_ref().clone(), *require_digest, *forbid_downgrade);
    Ok(ImageRule { scope, trust, require_digest, forbid_downgrade, max_signature_age })
}

/// An age that can be told of every signature that is asked for.
fn age(file: &PolicyText<'_>, text: &Spanned<String>, trust: &Trust) -> Result<Age, PolicyError> {
    let here = |fault| file.fault(text.span().start, fault);
    let age: Age = text.get_ref().parse().map_err(|not| here(PolicyFault::Age(not)))?;
    let requirements = match trust {
        Trust::Anything => &[],
        Trust::All(requirements) => requirements.as_slice(),
    };
    let mut signed = false;
    for requirement in requirements {
        let signers = match requirement {
            Requirement::Digest(_) => continue,
            Requirement::Signed { signers, .. } | Requirement::Attested { signers, .. } => signers,
        };
        signed = true;
        if let Some((name, _)) = signers.iter().find(|(_, signer)| signer.root().is_none()) {
            return Err(here(PolicyFault::AgeWithoutLog(name.clone())));
        }
    }
    if signed { Ok(age) } else { Err(here(PolicyFault::AgeOfNothing)) }
}

fn requirement(
    file: &PolicyText<'_>,
    text: &Spanned<RequirementText>,
    signers: &Signers,
) -> Result<Requirement, PolicyError> {
    let here = |fault| file.fault(text.span().start, fault);
    let belongs = |key, to| Err(here(PolicyFault::Belongs { key, to }));
    let RequirementText { signed_by, attested_by, predicate, threshold, identity, digest } = text.get_ref();
    match (signed_by, attested_by, digest) {
        (Some(_), None, None) if predicate.is_some() => belongs("predicate", "`attested_by`"),
        (None, Some(_), None) if identity.is_some() => belongs("identity", "`signed_by`"),
        (None, None, Some(_)) if threshold.is_some() => belongs("threshold", "`signed_by` and `attested_by`"),
        (None, None, Some(_)) if identity.is_some() => belongs("identity", "`signed_by`"),
        (None, None, Some(_)) if predicate.is_some() => belongs("predicate", "`attested_by`"),
        (Some(names), None, None) => {
            let (signers, threshold) = named(file, text, "signed_by", names, *threshold, signers)?;
            Ok(Requirement::Signed { signers, threshold, identity: identity.unwrap_or_default() })
        }
        (None, Some(names), None) => {
            let (signers, threshold) = named(file, text, "attested_by", names, *threshold, signers)?;
            let is_type = |text: &&String| {
                (1..=MAX_PREDICATE).contains(&text.len()) && !text.chars().any(|c| c.is_control() || c == ' ')
            };
            let predicate = predicate.as_ref().filter(is_type).ok_or_else(|| here(PolicyFault::Predicate))?.clone();
            Ok(Requirement::Attested { signers, threshold, predicate })
        }
        (None, None, Some(digests)) if digests.is_empty() => Err(here(PolicyFault::EmptyList("digest"))),
        (None, None, Some(digests)) => Ok(Requirement::Digest(digests.iter().copied().collect())),
        (_, _, _) => Err(here(PolicyFault::RequirementKind)),
    }
}

/// The signers that a requirement names, and how many of them must have signed.
fn named(
    file: &PolicyText<'_>,
    text: &Spanned<RequirementText>,
    key: &'static str,
    names: &[Spanned<String>],
    threshold: Option<usize>,
    signers: &Signers,
) -> Result<(BTreeMap<String, Signer>, usize), PolicyError> {
    let here = |fault| file.fault(text.span().start, fault);
    let mut chosen = BTreeMap::new();
    for name in names {
        let Some(signer) = signers.get(name.get_ref().as_str()) else {
            return Err(file.fault(name.span().start, PolicyFault::unknown_signer(name.get_ref(), signers)));
        };
        chosen.insert(name.get_ref().clone(), signer.clone());
    }
    if chosen.is_empty() {
        return Err(here(PolicyFault::EmptyList(key)));
    }
    let keys = chosen.values().map(Signer::same).collect::<BTreeSet<_>>().len();
    let threshold = threshold.unwrap_or(1);
    if !(1..=keys).contains(&threshold) {
        return Err(here(PolicyFault::Threshold { threshold, keys }));
    }
    Ok((chosen, threshold))
}
