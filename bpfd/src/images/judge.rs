//! An image of the store, or on its way there, judged and opened without asking anybody: every byte hashed again, the policy of now, the object read by
//! the parse worker, the label compared with it.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use bpfd_core::policy::{Asked, Principal, SourceFacts, Stage, Verb};
use bpfd_policy::downgrade::Release;
use bpfd_policy::image::{AgeCheck, Applies, Checked};
use bytecode_image::config::ImageConfig;
use bytecode_image::digest::Digest;
use bytecode_image::label::{self, Labelled};
use bytecode_image::limits;
use bytecode_image::reference::Reference;
use bytecode_image::resolve::{Platform, Selected};
use bytecode_image::store::{Blobs, NamedRelease, StoreError};
use bytecode_image::unpack::{self, Unpacked};
use bytecode_image::verify::{self, Verified};
use ebpf::inspect::Object;

use super::error::Older;
use super::{Explain, ImageError, Shared, Verdict};
use crate::causes::error_chain;
use crate::worker::{Workers, parse};

/// An image that the policy lets through. Its maker is [`Shared::judge`], so that the proof is about this image.
pub(super) struct Judged {
    pub(super) selected: Selected,
    pub(super) verified: Verified,
}

/// What an image holds.
pub(super) struct Opened {
    pub(super) object: Vec<u8>,
    /// Of the object: hashed once, as it may be large.
    pub(super) digest: Digest,
    pub(super) inspected: Object,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) labelled: Option<Labelled>,
    pub(super) architecture: Option<String>,
}

impl Opened {
    /// Which release it is, by its label.
    pub(super) fn release(&self, reference: &Reference, selected: &Selected) -> NamedRelease {
        let label = self.labelled.as_ref().map(|Labelled { generation: _, label }| label);
        NamedRelease {
            repository: reference.name(),
            name: label.and_then(|label| label.name.as_ref()).map(ToString::to_string).unwrap_or_default(),
            release: Release {
                version: label.and_then(|label| label.version.clone()),
                manifest: selected.manifest().digest(),
            },
        }
    }
}

impl Shared {
    /// The rules' decision about an image that is known.
    pub(super) fn may_pull(
        &self,
        caller: &Principal,
        reference: &Reference,
        signers: Option<BTreeSet<String>>,
        stage: Stage,
    ) -> Result<(), ImageError> {
        let source = Some(SourceFacts::Image { reference: Some(reference.clone()), signers });
        let asked = Asked { source, ..Asked::verb(Verb::Pull) };
        let decided = self.trust.policy().decide(caller, &asked, stage);
        decided.map(drop).map_err(|denied| Box::new(denied).into())
    }

    /// Offline, by the policy of now.
    pub(super) fn judge(&self, reference: &Reference, ages: AgeCheck) -> Result<Judged, ImageError> {
        let selected = self.store.selected(reference, &self.platform)?;
        let signatures = self.store.signatures(&selected)?;
        let verified = verify::decide(&self.trust.policy(), selected.subject(), &signatures, ages)?;
        Ok(Judged { selected, verified })
    }

    /// Whether an image is older than the last one of its name, where the rule of its scope asks for that.
    pub(super) fn not_older(
        &self,
        reference: &Reference,
        judged: &Judged,
        release: &NamedRelease,
    ) -> Result<(), ImageError> {
        let policy = self.trust.policy();
        if !policy.image_rule(reference).is_some_and(|rule| rule.forbid_downgrade) {
            return Ok(());
        }
        let last = self.store.last_release(&release.repository, &release.name)?;
        release.release.may_follow(last.as_ref()).map_err(|why| {
            let digest = judged.verified.digest();
            ImageError::Downgrade(Box::new(Older { reference: reference.clone(), digest, why }))
        })
    }

    /// Remembers what was loaded or pulled. An image that is let through all the same does not fail for it.
    pub(super) fn remember_release(&self, reference: &Reference, release: &NamedRelease) {
        let policy = self.trust.policy();
        let Some(rule) = policy.image_rule(reference) else { return };
        if let Err(error) = self.store.let_through(rule, release) {
            tracing::error!(error = %error_chain(&error), %reference, "cannot remember the release of an image, which a downgrade would be told by");
        }
    }

    /// The same, explained; with each section of the policy, if they are asked for.
    pub(super) fn verdict(&self, reference: &Reference, explain: Explain) -> Result<Verdict, ImageError> {
        let selected = self.store.selected(reference, &self.platform)?;
        let signatures = self.store.signatures(&selected)?;
        let digest = selected.digest();
        let mut findings = vec![format!("`{reference}` is {digest} in the image store")];
        let chosen = selected.subject().chosen;
        findings.extend(chosen.map(|manifest| format!("its manifest for this machine is {}", manifest.digest())));
        findings.push(match signatures.len() {
            0 => "no signatures are stored with it".to_owned(),
            1 => "1 signature is stored with it".to_owned(),
            more => format!("{more} signatures are stored with it"),
        });
        let (policy, ages) = (self.trust.policy(), verify::now());
        let mut sections = match explain {
            Explain::Verdict => vec![],
            Explain::Matching | Explain::All => {
                policy.explain(&verify::evidence(&policy, selected.subject(), &signatures), ages)
            }
        };
        if explain == Explain::Matching {
            sections.retain(|section| section.applies != Applies::No);
        }
        let decided = verify::decide(&policy, selected.subject(), &signatures, ages);
        // What stands against it is told in the same words.
        let older = match &decided {
            Ok(verified) if policy.image_rule(reference).is_some_and(|rule| rule.forbid_downgrade) => {
                let opened = open(&self.store, &self.workers, &selected)?;
                let release = opened.release(reference, &selected);
                let judged = Judged { selected: selected.clone(), verified: verified.clone() };
                let older = self.not_older(reference, &judged, &release);
                let older = match older {
                    Ok(()) => None,
                    Err(ImageError::Downgrade(older)) => Some(older),
                    Err(error) => return Err(error),
                };
                let held = "its version is not older than the last one of its name here";
                let (holds, why) =
                    (older.is_none(), older.as_ref().map_or(held.to_owned(), |older| older.why.to_string()));
                let row = Checked { requirement: "forbid_downgrade = true".to_owned(), holds, why };
                sections.iter_mut().filter(|section| section.applies == Applies::Yes).for_each(|section| {
                    section.requirements.push(row.clone());
                });
                older
            }
            Ok(_) | Err(_) => None,
        };
        if let Some(older) = older {
            findings.extend([older.why.to_string(), older.hint()]);
            let (scope, signers) = (None, BTreeSet::new());
            return Ok(Verdict { trusted: false, digest, scope, signers, findings, sections });
        }
        match decided {
            Ok(verified) => {
                let signers = verified.signers().clone();
                findings.push(format!("scope `{}` of the policy applies to it", verified.scope()));
                findings.push(if signers.is_empty() {
                    "the scope asks for no signature".to_owned()
                } else {
                    let names: Vec<&str> = signers.iter().map(String::as_str).collect();
                    format!("it is signed by {}", names.join(", "))
                });
                findings.extend(verified.judged().iter().map(ToString::to_string));
                let scope = Some(verified.scope().to_string());
                Ok(Verdict { trusted: true, digest, scope, signers, findings, sections })
            }
            Err(refusal) => {
                findings.extend(refusal.source().map(ToString::to_string));
                findings.push(refusal.hint());
                let signers = Default::default();
                Ok(Verdict { trusted: false, digest, scope: None, signers, findings, sections })
            }
        }
    }
}

/// The object of an image.
pub(super) fn object(blobs: &impl Blobs, selected: &Selected) -> Result<Unpacked, ImageError> {
    let described = selected.layer().map_err(StoreError::from)?;
    let layer = blobs.blob(described, limits::LAYER)?;
    Ok(unpack::object(&described.media_type, &layer)?)
}

/// The object of an image and what the image says of it, which is true as far as the object can tell.
pub(super) fn open(blobs: &impl Blobs, workers: &Workers, selected: &Selected) -> Result<Opened, ImageError> {
    let config = blobs.blob(selected.config(), limits::CONFIG)?;
    let ImageConfig { labels, architecture } = ImageConfig::parse(&config)?;
    let Unpacked { path: _, object } = object(blobs, selected)?;
    let labelled = label::read(&labels)?;
    let inspected = parse::inspect(workers, &object)?;
    let digest = Digest::of(&object);
    if let Some(labelled) = &labelled {
        labelled.check_against(digest, &inspected)?;
    }
    Ok(Opened { object, digest, inspected, labels, labelled, architecture })
}

/// This machine.
pub(super) fn platform() -> Platform {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    Platform::host(kernel(&release))
}

/// Major and minor of a release such as `6.1.0-42-amd64`.
fn kernel(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_begins_with_two_numbers() {
        assert_eq!(kernel("6.1.0-42-amd64"), Some((6, 1)));
        assert_eq!(kernel("6.12"), Some((6, 12)));
        assert_eq!(kernel("5.10-rc1"), Some((5, 10)));
        assert_eq!(kernel("6"), None);
        assert_eq!(kernel(""), None);
        assert!(platform().kernel.is_some());
    }
}
