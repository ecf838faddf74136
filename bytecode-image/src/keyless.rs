//! Signatures that a certificate vouches for: whose certificate it is, by the authorities and logs of a trusted root.
//!
//! The one file that knows `sigstore-verify`, which checks the chain at the time of the signature, the certificate's timestamp (SCT), the
//! log's promise or proof of inclusion, or a signed timestamp, and the signature. Owns what a root demands: a root that has transparency
//! logs demands them, and one that has certificate logs an SCT. Never asks anybody: roots are texts. Must never decide whose identity
//! counts (`bpfd-policy` does).

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bpfd_policy::{
    image::Witness,
    key::PublicKey,
    read::{KeyFault, Named},
    signer::{Maker, RootName, TrustedRoot},
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};
use sigstore_verify::{
    PublicKeyVerificationPolicy, VerificationPolicy, VerificationResult, Verifier, trust_root,
    types::{Bundle, DerPublicKey},
};

use crate::{
    candidate::Candidate,
    digest::Digest,
    key::{self, KeyError},
    media,
};

/// Why a text is no trusted root.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Longer than a root.
    #[error("the file has {0} bytes; at most {MAX_ROOT} are read")]
    TooLong(usize),
    /// Not the JSON of a root.
    #[error("not the JSON of a trusted root")]
    Json(#[source] trust_root::Error),
    /// A key or a certificate in it that cannot be used.
    #[error("a key or a certificate in it cannot be used")]
    Unusable(#[source] sigstore_verify::Error),
    /// Nobody in it could vouch for a signature.
    #[error("it has no certificate authority")]
    NoAuthority,
    /// Nothing in it says when a signature was made.
    #[error("it has neither a transparency log nor a timestamp authority")]
    NoTime,
    /// A log is asked for.
    #[error("it has no transparency log")]
    NoLog,
}

/// What signatures of the legacy form are translated into.
const BUNDLE_0_1: &str = "application/vnd.dev.sigstore.bundle+json;version=0.1";

/// Longest trusted root, in bytes: GitHub's has 32 KiB.
pub const MAX_ROOT: usize = 256 << 10;

/// Why a certificate does not count.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error(transparent)]
    Root(#[from] RootError),
    // The library's texts contain those of their sources.
    #[error("the bundle cannot be read: {0}")]
    Bundle(sigstore_verify::types::Error),
    #[error("{0}")]
    Refused(sigstore_verify::Error),
    #[error("the certificate names no identity or no issuer")]
    Nameless,
    #[error("it has no entry of a transparency log")]
    NoLogEntry,
    #[error("the verifier ended unexpectedly")]
    Panicked,
    #[error("the certificate beside the signature is no PEM")]
    Pem(#[source] KeyError),
    #[error("the entry of the log beside the signature cannot be read")]
    Entry(#[source] serde_json::Error),
    #[error("no entry of a log and no timestamp is beside the signature")]
    NoEntry,
    #[error("not the JSON of an envelope")]
    Envelope(#[source] serde_json::Error),
    #[error("the entry of the log beside the signature is not base64")]
    Base64(#[source] base64::DecodeError),
}

/// A trusted root, ready to check signatures.
pub(crate) struct Authority {
    root: Digest,
    verifier: Verifier,
    demands: VerificationPolicy,
}

impl Authority {
    pub(crate) fn new(root: &TrustedRoot) -> Result<Self, RootError> {
        let parsed = parse(root)?;
        if parsed.certificate_authorities.is_empty() {
            return Err(RootError::NoAuthority);
        }
        if parsed.tlogs.is_empty() && parsed.timestamp_authorities.is_empty() {
            return Err(RootError::NoTime);
        }
        let mut demands = VerificationPolicy::any_identity();
        if parsed.tlogs.is_empty() {
            demands = demands.skip_tlog_unsafe();
        }
        if parsed.ctlogs.is_empty() {
            demands = demands.skip_sct();
        }
        let verifier = Verifier::new(&parsed).map_err(RootError::Unusable)?;
        Ok(Self { root: root.digest(), verifier, demands })
    }

    /// Its digest.
    pub(crate) fn root(&self) -> Digest {
        self.root
    }

    /// Who made the signature in a bundle over exactly these bytes, or over a statement about them; and when it was seen.
    pub(crate) fn maker(&self, bundle: &str, signed: &[u8]) -> Result<(Maker, Witness), CertificateError> {
        let checked = verified(&self.verifier, bundle, signed, &self.demands)?;
        match (checked.certificate_verified(), checked.identity(), checked.issuer()) {
            (true, Some(identity), Some(issuer)) => {
                let (issuer, identity) = (issuer.to_owned(), identity.as_str().to_owned());
                Ok((Maker::Vouched { root: self.root, issuer, identity }, witness(&checked)))
            }
            (_, _, _) => Err(CertificateError::Nameless),
        }
    }
}

/// The transparency logs of a trusted root, ready to say whether they have what a key signed.
pub(crate) struct Logs(Verifier);

impl Logs {
    pub(crate) fn new(root: &TrustedRoot) -> Result<Self, RootError> {
        let parsed = parse(root)?;
        if parsed.tlogs.is_empty() {
            return Err(RootError::NoLog);
        }
        Verifier::new(&parsed).map(Self).map_err(RootError::Unusable)
    }

    /// Whether they have the signature in a bundle, of a key over exactly these bytes or over a statement about them. Each entry must
    /// hold; that there is one is the caller's to see to, since the library demands none.
    pub(crate) fn witness(&self, bundle: &str, signed: &[u8], key: &PublicKey) -> Result<Witness, CertificateError> {
        let demands = PublicKeyVerificationPolicy::new(DerPublicKey::new(key.spki().to_vec()));
        Ok(witness(&verified(&self.0, bundle, signed, &demands)?))
    }
}

/// A bundle is anybody's text: what breaks the library is no signature.
fn verified(
    verifier: &Verifier,
    bundle: &str,
    signed: &[u8],
    demands: &dyn sigstore_verify::Policy,
) -> Result<VerificationResult, CertificateError> {
    let bundle = Bundle::from_json(bundle).map_err(CertificateError::Bundle)?;
    let checked = catch_unwind(AssertUnwindSafe(|| verifier.verify(signed, &bundle, demands)));
    checked.map_err(|_panic| CertificateError::Panicked)?.map_err(CertificateError::Refused)
}

fn witness(checked: &VerificationResult) -> Witness {
    let seen = checked.verified_timestamps().iter().filter_map(|time| u64::try_from(time.as_second()).ok());
    Witness { seen: seen.min() }
}

fn parse(root: &TrustedRoot) -> Result<trust_root::TrustedRoot, RootError> {
    if root.json().len() > MAX_ROOT {
        return Err(RootError::TooLong(root.json().len()));
    }
    trust_root::TrustedRoot::from_json(root.json()).map_err(RootError::Json)
}

/// What is beside a signature of the legacy form (cosign `specs/SIGNATURE_SPEC.md`, "Properties").
#[derive(Deserialize)]
struct LoggedEntry {
    #[serde(rename = "SignedEntryTimestamp")]
    promise: String,
    #[serde(rename = "Payload")]
    payload: LoggedPayload,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoggedPayload {
    body: String,
    #[serde(rename = "integratedTime")]
    time: i64,
    #[serde(rename = "logIndex")]
    index: i64,
    #[serde(rename = "logID")]
    log: String,
}

#[derive(Deserialize)]
struct LoggedBody {
    kind: String,
    #[serde(rename = "apiVersion")]
    version: String,
}

#[derive(Deserialize)]
struct Timestamp {
    #[serde(rename = "SignedRFC3161Timestamp")]
    token: String,
}

/// What made a signature of the legacy form.
pub(crate) enum Material<'a> {
    /// The certificate beside it, as PEM.
    Certificate(&'a str),
    /// A key that the verifier knows.
    Key,
}

/// A signature of the legacy form as the bundle of version 0.1 that says the same. What it is over is the candidate's payload.
pub(crate) fn translated(
    candidate: &Candidate,
    material: Material<'_>,
    signature: &[u8],
) -> Result<String, CertificateError> {
    let is_key = matches!(material, Material::Key);
    let evidence = TimeEvidence::read(candidate)?;
    if is_key && evidence.entry.is_none() {
        return Err(CertificateError::NoLogEntry);
    }
    let bundle = json!({
        "mediaType": BUNDLE_0_1,
        "verificationMaterial": evidence.material(material)?,
        "messageSignature": {
            "messageDigest": { "algorithm": "SHA2_256", "digest": STANDARD.encode(Digest::of(&candidate.payload).bytes()) },
            "signature": STANDARD.encode(signature),
        },
    });
    Ok(bundle.to_string())
}

/// An attestation of the legacy form as the bundle that says the same: the payload is its envelope.
pub(crate) fn attestation(candidate: &Candidate) -> Result<Candidate, CertificateError> {
    // Put into the bundle as it is, once it is known to be one value: what reads the bundle refuses what is twice there.
    let _one_value: IgnoredAny = serde_json::from_slice(&candidate.payload).map_err(CertificateError::Envelope)?;
    let material = TimeEvidence::read(candidate)?
        .material(candidate.certificate().map_or(Material::Key, Material::Certificate))?;
    let head = format!(r#"{{"mediaType":"{BUNDLE_0_1}","verificationMaterial":{material},"dsseEnvelope":"#);
    let payload = [head.as_bytes(), &candidate.payload, b"}"].concat();
    Ok(Candidate { media_type: media::BUNDLE.to_owned(), payload, ..candidate.clone() })
}

/// What the annotations of a signature of the legacy form say of when it was made.
struct TimeEvidence {
    entry: Option<Value>,
    timestamp: Option<Timestamp>,
}

impl TimeEvidence {
    fn read(candidate: &Candidate) -> Result<Self, CertificateError> {
        let entry = candidate.annotations.get(media::ANNOTATION_LOG).map(|text| entry(text)).transpose()?;
        let timestamp = candidate.annotations.get(media::ANNOTATION_TIMESTAMP).map(|text| serde_json::from_str(text));
        Ok(Self { entry, timestamp: timestamp.transpose().map_err(CertificateError::Entry)? })
    }

    /// The `verificationMaterial` of a bundle.
    fn material(self, material: Material<'_>) -> Result<Value, CertificateError> {
        let Self { entry, timestamp } = self;
        let (kind, material) = match material {
            Material::Key => ("publicKey", json!({ "hint": "" })),
            Material::Certificate(_) if entry.is_none() && timestamp.is_none() => {
                return Err(CertificateError::NoEntry);
            }
            Material::Certificate(pem) => {
                let certificate = key::block(pem, "CERTIFICATE").map_err(CertificateError::Pem)?;
                ("x509CertificateChain", json!({ "certificates": [{ "rawBytes": STANDARD.encode(certificate) }] }))
            }
        };
        let timestamps: Vec<Value> =
            timestamp.iter().map(|Timestamp { token }| json!({ "signedTimestamp": token })).collect();
        Ok(json!({
            kind: material,
            "tlogEntries": entry.into_iter().collect::<Vec<_>>(),
            "timestampVerificationData": { "rfc3161Timestamps": timestamps },
        }))
    }
}

fn entry(text: &str) -> Result<Value, CertificateError> {
    let LoggedEntry { promise, payload } = serde_json::from_str(text).map_err(CertificateError::Entry)?;
    let LoggedPayload { body, time, index, log } = payload;
    let inside = STANDARD.decode(&body).map_err(CertificateError::Base64)?;
    let LoggedBody { kind, version } = serde_json::from_slice(&inside).map_err(CertificateError::Entry)?;
    // The log's identity is hexadecimal here, and base64 in a bundle.
    let log = format!("sha256:{log}").parse::<Digest>().map(|log| STANDARD.encode(log.bytes())).unwrap_or(log);
    Ok(json!({
        "logIndex": index.to_string(),
        "logId": { "keyId": log },
        "kindVersion": { "kind": kind, "version": version },
        "integratedTime": time.to_string(),
        "inclusionPromise": { "signedEntryTimestamp": promise },
        "canonicalizedBody": body,
    }))
}

/// The trusted root in a text: what [`Named::root`] gives.
///
/// # Errors
/// [`KeyFault`]: it cannot be read, or is no trusted root.
pub fn policy_root(json: io::Result<String>) -> Result<TrustedRoot, KeyFault> {
    let root = TrustedRoot::from(json.map_err(KeyFault::File)?);
    Authority::new(&root).map(|_usable| root).map_err(|error| KeyFault::NotAKey(error.into()))
}

/// The trusted root in a text, if it has a transparency log: what [`Named::log`] gives.
///
/// # Errors
/// [`KeyFault`]: it cannot be read, or has no log.
pub fn policy_log(json: io::Result<String>) -> Result<TrustedRoot, KeyFault> {
    let root = TrustedRoot::from(json.map_err(KeyFault::File)?);
    Logs::new(&root).map(|_usable| root).map_err(|error| KeyFault::NotAKey(error.into()))
}

/// The file of a root that has a name, below a directory; and the copy that counts if there is no such file.
#[must_use]
pub fn built_in(name: &RootName) -> Option<(&'static str, &'static str)> {
    match name {
        RootName::PublicGood => Some(("public-good.json", trust_root::SIGSTORE_PRODUCTION_TRUSTED_ROOT)),
        RootName::GitHub => Some(("github.json", trust_root::SIGSTORE_GITHUB_TRUSTED_ROOT)),
        RootName::File(_) => None,
    }
}

/// The keys and roots that policy files name, read as `read` reads a file. Roots with a name are looked for in a directory first.
#[derive(Debug)]
pub struct PolicyFiles<F> {
    /// Where roots with a name are.
    pub trust: PathBuf,
    /// Reads a file.
    pub read: F,
}

impl<F: FnMut(&Path) -> io::Result<String>> Named for PolicyFiles<F> {
    fn key(&mut self, path: &Path) -> Result<PublicKey, KeyFault> {
        key::policy_key((self.read)(path))
    }

    fn root(&mut self, name: &RootName) -> Result<TrustedRoot, KeyFault> {
        policy_root(self.text(name))
    }

    fn log(&mut self, name: &RootName) -> Result<TrustedRoot, KeyFault> {
        policy_log(self.text(name))
    }
}

impl<F: FnMut(&Path) -> io::Result<String>> PolicyFiles<F> {
    /// The text of a root.
    fn text(&mut self, name: &RootName) -> io::Result<String> {
        match (name, built_in(name)) {
            (RootName::File(path), _) => (self.read)(path),
            (_, Some((file, copy))) => match (self.read)(&self.trust.join(file)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(copy.to_owned()),
                text => text,
            },
            (_, None) => Err(io::ErrorKind::NotFound.into()),
        }
    }
}
