//! May this image be used? Policy, reference, digest and signatures in; proof or refusal out.
//!
//! Checks signatures with the keys and the trusted roots of the policy, has [`Policy::judge`] decide on what it found, and owns [`Verified`], the proof,
//! which nothing else can make. Pure and offline: the same call serves a pull, and each load from the store with the signatures kept
//! beside the image, so that a policy change takes effect without a registry. Must never read a payload before its signature has been
//! checked.

use std::{collections::BTreeSet, error::Error};

use base64::{Engine, engine::general_purpose::STANDARD};
pub use bpfd_policy::refusal::{Fault, Judged, Reason, Refusal};
use bpfd_policy::{
    Policy,
    image::{Approval, Claim, Evidence, Form, Signature, Signed},
    key::PublicKey,
    reference::in_full,
    signer::{Maker, Signer, TrustedRoot},
};

use crate::{
    bundle::{self, Bundle, Content},
    candidate::Candidate,
    digest::Digest,
    document::Document,
    key,
    keyless::{self, Authority, CertificateError},
    limits,
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
    pub top: &'a Document,
    /// The manifest that was chosen from the index. A signature over it covers exactly what is loaded, so it counts too.
    pub chosen: Option<&'a Document>,
}

/// Decides whether policy lets an image through.
///
/// # Errors
/// [`Refusal`] with the first requirement that does not hold.
pub fn decide(policy: &Policy, subject: Subject<'_>, candidates: &[Candidate]) -> Result<Verified, Box<Refusal>> {
    let Subject { reference, top, chosen } = subject;
    let trusted = Trusted::of(policy.image_rule(reference).map(|rule| rule.signers()).unwrap_or_default());
    let looked_at = if candidates.len() > limits::SIGNATURES { &[] } else { candidates };
    let check =
        |candidate: &Candidate| Signature { form: candidate.form(), signed: subject.check(candidate, &trusted) };
    let evidence = Evidence {
        reference: reference.clone(),
        digest: top.digest(),
        chosen: chosen.map(Document::digest),
        found: candidates.len(),
        signatures: looked_at.iter().map(check).collect(),
    };
    let approval = policy.judge(&evidence)?;
    Ok(Verified { evidence, approval })
}

/// What signatures are checked with.
struct Trusted<'a> {
    keys: Vec<&'a PublicKey>,
    roots: Result<Vec<Authority>, CertificateError>,
}

impl<'a> Trusted<'a> {
    fn of(signers: BTreeSet<&'a Signer>) -> Self {
        let (mut keys, mut roots) = (Vec::new(), BTreeSet::<&TrustedRoot>::new());
        for signer in signers {
            match signer {
                Signer::Key(key) => keys.push(key),
                Signer::Keyless(keyless) => drop(roots.insert(&keyless.root)),
            }
        }
        let roots = roots.into_iter().map(Authority::new).collect::<Result<_, _>>();
        Self { keys, roots: roots.map_err(CertificateError::from) }
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
    fn vouched(&self, bundle: &str, signed: &[u8]) -> Result<Maker, Fault> {
        let mut fault = Fault::NoRoot;
        for root in self.roots()? {
            match root.maker(bundle, signed) {
                Ok(maker) => return Ok(maker),
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
            Form::Legacy => legacy(candidate, trusted),
            Form::Bundle => self.bundle(candidate, trusted),
            Form::Notation => Err(Fault::NotJudged("signatures of the Notary project")),
        }?;
        Ok(Signed { claim: signed.claim.map(Claim::bounded), ..signed })
    }

    fn bundle(&self, candidate: &Candidate, trusted: &Trusted<'_>) -> Result<Signed, Fault> {
        let bundle = Bundle::parse(&candidate.media_type, &candidate.payload);
        let Bundle { maker, content, signature } = bundle.map_err(|error| Fault::Unreadable(why(&error)))?;
        // What a message is over is not in the bundle. If it is no manifest of this image, nobody here can check it.
        let over = match &content {
            Content::Envelope(_) => candidate.over,
            Content::Message(digest) => *digest,
        };
        let signed = || self.document(over).map(Document::bytes).ok_or(Fault::OtherMessage(over));
        let maker = match maker {
            bundle::Maker::Certificate => {
                let text = std::str::from_utf8(&candidate.payload).map_err(|error| Fault::Unreadable(why(&error)))?;
                trusted.vouched(text, signed()?)?
            }
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
                Maker::Key(key.clone())
            }
        };
        let claim = match content {
            Content::Envelope(statement) => {
                bundle::statement(&statement, |digest| self.document(digest).is_some()).map_err(|error| why(&error))
            }
            Content::Message(manifest) => Ok(Claim { docker_reference: None, manifest }),
        };
        Ok(Signed { maker, claim })
    }
}

fn legacy(candidate: &Candidate, trusted: &Trusted<'_>) -> Result<Signed, Fault> {
    let text = candidate.signature().ok_or(Fault::NoSignature)?;
    let signature = STANDARD.decode(text).map_err(|_not| Fault::Base64)?;
    let maker = match (trusted.key(&candidate.payload, &signature), candidate.certificate()) {
        (Ok(key), _) => Maker::Key(key.clone()),
        (Err(fault), None) => return Err(fault),
        (Err(_), Some(certificate)) => {
            trusted.roots()?;
            let bundle = keyless::translated(candidate, certificate, &signature);
            let bundle = bundle.map_err(|error| Fault::Certificate(why(&error)))?;
            trusted.vouched(&bundle, &candidate.payload)?
        }
    };
    Ok(Signed { maker, claim: claim(&candidate.payload).map_err(|error| why(&error)) })
}

/// An error about a text of somebody else's, which may quote all of it.
fn why(error: &dyn Error) -> String {
    in_full(error).chars().filter(|c| !c.is_control()).take(SHOWN_CHARACTERS).collect()
}
