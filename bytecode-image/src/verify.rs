//! May this image be used? Policy, reference, digest and signatures in; proof or refusal out.
//!
//! Checks signatures with the keys and the trusted roots of the policy, has [`Policy::judge`] decide on what it found, and owns [`Verified`], the proof,
//! which nothing else can make. Pure and offline: the same call serves a pull, and each load from the store with the signatures kept
//! beside the image, so that a policy change takes effect without a registry. Must never read a payload before its signature has been
//! checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
pub use bpfd_policy::refusal::{Fault, Judged, Reason, Refusal};
use bpfd_policy::{
    Policy,
    image::{AgeCheck, Approval, Claim, Evidence, Form, Signature, Signed, Witness},
    key::PublicKey,
    reference::in_full,
    signer::{Logged, Maker, Signer, TrustedRoot},
};

use crate::{
    bundle::{self, Beside, Bundle, Content},
    candidate::Candidate,
    digest::Digest,
    document::Document,
    key,
    keyless::{self, Authority, CertificateError, Logs, Material},
    limits, media,
    reference::Reference,
    scope::Scope,
    sign::claim,
};

/// Characters of an error about a signature that a message shows.
const SHOWN_CHARACTERS: usize = 256;

/// Proof that policy lets an image through. Its makers are [`decide`] and [`Verified::again`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    evidence: Evidence,
    approval: Approval,
    ages: AgeCheck,
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

    /// How each signature fared; empty where policy asked for none.
    #[must_use]
    pub fn judged(&self) -> &[Judged] {
        &self.approval.judged
    }

    /// The proof by another policy, from the signatures that were checked for this one. A key that this policy did not know was not
    /// tried, so it does not count here.
    ///
    /// # Errors
    /// [`Refusal`], as of [`decide`].
    pub fn again(self, policy: &Policy) -> Result<Self, Box<Refusal>> {
        let approval = policy.judge(&self.evidence, self.ages)?;
        Ok(Self { approval, ..self })
    }
}

/// What the decision is about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// As asked for.
    pub reference: &'a Reference,
    /// What it was resolved to: an index, or a manifest that stands alone.
    pub top: &'a Document,
    /// The manifest that was chosen from the index. A signature over it covers exactly what is loaded, so it counts too.
    pub chosen: Option<&'a Document>,
}

/// Decides whether policy lets an image through.
///
/// # Errors
/// [`Refusal`] with the first requirement that does not hold.
pub fn decide(
    policy: &Policy,
    subject: Subject<'_>,
    candidates: &[Candidate],
    ages: AgeCheck,
) -> Result<Verified, Box<Refusal>> {
    let evidence = evidence(policy, subject, candidates);
    let approval = policy.judge(&evidence, ages)?;
    Ok(Verified { evidence, approval, ages })
}

/// Signatures as old as they are now.
#[must_use]
pub fn now() -> AgeCheck {
    // A clock before 1970 makes every signature young: then nobody could say how old it is.
    AgeCheck::At(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

/// What there is to judge an image by: its signatures, checked with the keys and the roots of the rule that speaks about it.
#[must_use]
pub fn evidence(policy: &Policy, subject: Subject<'_>, candidates: &[Candidate]) -> Evidence {
    let Subject { reference, top, chosen } = subject;
    let trusted = Trusted::of(policy.image_rule(reference).map(|rule| rule.signers()).unwrap_or_default());
    let looked_at = if candidates.len() > limits::SIGNATURES { &[] } else { candidates };
    let check =
        |candidate: &Candidate| Signature { form: candidate.form(), signed: subject.check(candidate, &trusted) };
    Evidence {
        reference: reference.clone(),
        digest: top.digest(),
        chosen: chosen.map(Document::digest),
        found: candidates.len(),
        signatures: looked_at.iter().map(check).collect(),
    }
}

/// What trusted roots say of a signature, by their digests.
type Witnesses = BTreeMap<Digest, Result<Witness, String>>;

/// What signatures are checked with.
struct Trusted<'a> {
    keys: BTreeSet<&'a PublicKey>,
    roots: Result<Vec<Authority>, CertificateError>,
    /// The roots whose logs must have what a key signs.
    logs: Vec<(&'a PublicKey, &'a TrustedRoot)>,
}

impl<'a> Trusted<'a> {
    fn of(signers: BTreeSet<&'a Signer>) -> Self {
        let (mut keys, mut roots, mut logs) = (BTreeSet::new(), BTreeSet::<&TrustedRoot>::new(), Vec::new());
        for signer in signers {
            match signer {
                Signer::Key(key) => drop(keys.insert(key)),
                Signer::Keyless(keyless) => drop(roots.insert(&keyless.root)),
                Signer::Logged(Logged { key, root }) => {
                    keys.insert(key);
                    logs.push((key, root));
                }
            }
        }
        let roots = roots.into_iter().map(Authority::new).collect::<Result<_, _>>();
        Self { keys, roots: roots.map_err(CertificateError::from), logs }
    }

    /// Whether the logs that a key must use have a signature of it. `bundle` is asked for once it is known that there is a log.
    fn witnesses(
        &self,
        key: &PublicKey,
        signed: &[u8],
        bundle: impl Fn() -> Result<String, CertificateError>,
    ) -> Witnesses {
        let of_key = self.logs.iter().filter(|(logged, _)| *logged == key);
        let asked = of_key.map(|(_, root)| {
            let witness = Logs::new(root).map_err(CertificateError::from);
            let witness = witness.and_then(|logs| logs.witness(&bundle()?, signed, key));
            (root.digest(), witness.map_err(|error| why(&error)))
        });
        asked.collect()
    }

    /// The key that made a signature over exactly these bytes.
    fn key(&self, message: &[u8], signature: &[u8]) -> Result<&'a PublicKey, Fault> {
        self.keys.iter().copied().find(|key| key::verifies(key, message, signature)).ok_or(Fault::WrongSignature)
    }

    /// The roots, of which there is one at least.
    fn roots(&self) -> Result<&[Authority], Fault> {
        match self.roots.as_deref() {
            Ok([]) => Err(Fault::NoRoot),
            Ok(roots) => Ok(roots),
            Err(error) => Err(Fault::Certificate(why(error))),
        }
    }

    /// Whom a certificate in a bundle vouches for.
    fn vouched(&self, bundle: &str, signed: &[u8]) -> Result<(Maker, Witnesses), Fault> {
        let mut fault = Fault::NoRoot;
        for root in self.roots()? {
            match root.maker(bundle, signed) {
                Ok((maker, witness)) => return Ok((maker, BTreeMap::from([(root.root(), Ok(witness))]))),
                Err(error) => fault = Fault::Certificate(why(&error)),
            }
        }
        Err(fault)
    }
}

impl Subject<'_> {
    /// The manifest of this digest, if it is one that a signature may be over.
    fn document(&self, digest: Digest) -> Option<&Document> {
        [Some(self.top), self.chosen].into_iter().flatten().find(|document| document.digest() == digest)
    }

    /// What made a signature, and over what.
    fn check(&self, candidate: &Candidate, trusted: &Trusted<'_>) -> Result<Signed, Fault> {
        if u64::try_from(candidate.payload.len()).is_ok_and(|length| length > limits::SIGNATURE) {
            return Err(Fault::PayloadTooLarge(candidate.payload.len()));
        }
        let signed = match candidate.form() {
            Form::Legacy if candidate.media_type == media::ENVELOPE => {
                let bundle = keyless::attestation(candidate).map_err(|error| Fault::Unreadable(why(&error)))?;
                self.bundle(&bundle, bundle::LEGACY_STATEMENTS, trusted)
            }
            Form::Legacy => legacy(candidate, trusted),
            Form::Bundle => self.bundle(candidate, &[bundle::STATEMENT], trusted),
            Form::Notation => Err(Fault::NotJudged("signatures of the Notary project")),
        }?;
        Ok(Signed { claim: signed.claim.map(Claim::bounded), ..signed })
    }

    /// `versions` are those that a statement may have.
    fn bundle(&self, candidate: &Candidate, versions: &[&str], trusted: &Trusted<'_>) -> Result<Signed, Fault> {
        let bundle = Bundle::parse(&candidate.media_type, &candidate.payload);
        let Bundle { maker, content, signature, beside } = bundle.map_err(|error| Fault::Unreadable(why(&error)))?;
        // What a message is over is not in the bundle. If it is no manifest of this image, nobody here can check it.
        let over = match &content {
            Content::Envelope(_) => candidate.over,
            Content::Message(digest) => *digest,
        };
        let signed = || self.document(over).map(Document::bytes).ok_or(Fault::OtherMessage(over));
        let text = || std::str::from_utf8(&candidate.payload).map_err(|error| Fault::Unreadable(why(&error)));
        let (maker, witnesses) = match maker {
            bundle::Maker::Certificate => trusted.vouched(text()?, signed()?)?,
            bundle::Maker::Key { hint } => {
                let key = match &content {
                    Content::Envelope(statement) => trusted.key(&bundle::pae(statement), &signature),
                    Content::Message(_) => trusted.key(signed()?, &signature),
                }?;
                // A hint that is no fingerprint is the signer's own word for the key.
                let fingerprint = |hint: &Vec<u8>| hint.len() == 32 && hint != Digest::of(key.spki()).bytes();
                if STANDARD.decode(hint).is_ok_and(|hint| fingerprint(&hint)) {
                    return Err(Fault::KeyHint);
                }
                let text = text()?;
                let logged = || match beside {
                    Beside::Entry => Ok(text.to_owned()),
                    Beside::NoEntry => Err(CertificateError::NoLogEntry),
                };
                // What is beside another manifest is over nothing here, and no log says otherwise.
                (Maker::Key(key.clone()), trusted.witnesses(key, signed().unwrap_or_default(), logged))
            }
        };
        let claim = match content {
            Content::Envelope(statement) => {
                let is_over = |digest| self.document(digest).is_some();
                bundle::statement(&statement, versions, is_over).map_err(|error| why(&error))
            }
            Content::Message(manifest) => Ok(Claim { docker_reference: None, manifest, predicate: None }),
        };
        Ok(Signed { maker, claim, witnesses })
    }
}

fn legacy(candidate: &Candidate, trusted: &Trusted<'_>) -> Result<Signed, Fault> {
    let text = candidate.signature().ok_or(Fault::NoSignature)?;
    let signature = STANDARD.decode(text).map_err(|_not| Fault::Base64)?;
    let (maker, witnesses) = match (trusted.key(&candidate.payload, &signature), candidate.certificate()) {
        (Ok(key), _) => {
            let logged = || keyless::translated(candidate, Material::Key, &signature);
            (Maker::Key(key.clone()), trusted.witnesses(key, &candidate.payload, logged))
        }
        (Err(fault), None) => return Err(fault),
        (Err(_), Some(certificate)) => {
            trusted.roots()?;
            let bundle = keyless::translated(candidate, Material::Certificate(certificate), &signature);
            let bundle = bundle.map_err(|error| Fault::Certificate(why(&error)))?;
            trusted.vouched(&bundle, &candidate.payload)?
        }
    };
    Ok(Signed { maker, claim: claim(&candidate.payload).map_err(|error| why(&error)), witnesses })
}

/// An error about a text of somebody else's, which may quote all of it.
fn why(error: &dyn Error) -> String {
    in_full(error).chars().filter(|c| !c.is_control()).take(SHOWN_CHARACTERS).collect()
}
