//! An image of the store, judged and opened without asking anybody: every byte hashed again, the policy of now, the object read by
//! the parse worker, the label compared with it.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use bpfd_core::policy::{Asked, Principal, SourceFacts, Stage, Verb};
use bytecode_image::config::ImageConfig;
use bytecode_image::digest::Digest;
use bytecode_image::label::{self, Labelled};
use bytecode_image::limits;
use bytecode_image::reference::Reference;
use bytecode_image::resolve::{Platform, Selected};
use bytecode_image::store::Store;
use bytecode_image::unpack::{self, Unpacked};
use bytecode_image::verify::{self, Verified};
use ebpf::inspect::Object;

use super::{ImageError, Shared, Verdict};
use crate::worker::{Workers, parse};

/// An image that the policy lets through. Its maker is [`Shared::judge`], so that the proof is about this image.
pub(super) struct Judged {
    pub(super) selected: Selected,
    pub(super) verified: Verified,
}

/// What an image holds.
pub(super) struct Opened {
    pub(super) object: Vec<u8>,
    pub(super) inspected: Object,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) labelled: Option<Labelled>,
    pub(super) architecture: Option<String>,
}

impl Opened {
    pub(super) fn digest(&self) -> Digest {
        Digest::of(&self.object)
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
    pub(super) fn judge(&self, reference: &Reference) -> Result<Judged, ImageError> {
        let selected = self.store.selected(reference, &self.platform)?;
        let signatures = self.store.signatures(&selected)?;
        let verified = verify::decide(&self.trust.policy(), selected.subject(), &signatures)?;
        Ok(Judged { selected, verified })
    }

    /// The same, explained.
    pub(super) fn verdict(&self, reference: &Reference) -> Result<Verdict, ImageError> {
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
        match verify::decide(&self.trust.policy(), selected.subject(), &signatures) {
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
                Ok(Verdict { trusted: true, digest, scope: Some(verified.scope().to_string()), signers, findings })
            }
            Err(refusal) => {
                findings.extend(refusal.source().map(ToString::to_string));
                findings.push(refusal.hint());
                let signers = Default::default();
                Ok(Verdict { trusted: false, digest, scope: None, signers, findings })
            }
        }
    }
}

/// The object of an image.
pub(super) fn object(store: &Store, selected: &Selected) -> Result<Unpacked, ImageError> {
    let layer = store.read(selected.layer(), limits::LAYER)?;
    Ok(unpack::object(&selected.layer().media_type, &layer)?)
}

/// The object of an image and what the image says of it, which is true as far as the object can tell.
pub(super) fn open(store: &Store, workers: &Workers, selected: &Selected) -> Result<Opened, ImageError> {
    let config = store.read(selected.config(), limits::CONFIG)?;
    let ImageConfig { labels, architecture } = ImageConfig::parse(&config)?;
    let Unpacked { path: _, object } = object(store, selected)?;
    let labelled = label::read(&labels)?;
    let inspected = parse::inspect(workers, &object)?;
    if let Some(labelled) = &labelled {
        labelled.check_against(Digest::of(&object), &inspected)?;
    }
    Ok(Opened { object, inspected, labels, labelled, architecture })
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
