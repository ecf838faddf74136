//! Sigstore bundles of versions 0.1 to 0.3 (sigstore `protobuf-specs`, `sigstore_bundle.proto`): one signature, what it is over, and
//! what it was made with.
//!
//! Owns what a bundle may look like, and what its signature is over. The text is anybody's: it is read into types with bounds, and an
//! unknown field is an error, since it could be a second content. Must never say who signed, nor read a statement whose signature has
//! not been checked ([`statement`] is for whoever checked it).

use base64::{Engine, engine::general_purpose::STANDARD};
use bpfd_policy::image::Claim;
use serde::{Deserialize, Deserializer, de::IgnoredAny};

use crate::{digest::Digest, document::Few, media};

/// The types that a bundle may call itself, by version.
const MEDIA_TYPES: [&str; 4] = [
    "application/vnd.dev.sigstore.bundle+json;version=0.1",
    "application/vnd.dev.sigstore.bundle+json;version=0.2",
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
    media::BUNDLE,
];
/// What a statement is that is no attestation but a signature (cosign `pkg/types/predicate.go`).
pub const SIGNATURE_PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";
/// The version of statements (in-toto attestation `spec/v1/statement.md`).
pub const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// What an attestation of the legacy form may also have: cosign 2 writes the version before, in which what is read here is the same.
pub const LEGACY_STATEMENTS: &[&str] = &[STATEMENT, "https://in-toto.io/Statement/v0.1"];
/// Certificates, entries of logs and timestamps, of each: each costs a check of a signature (CVE-2023-46737, CVE-2023-33957).
const MOST: usize = 8;
/// Characters of somebody else's text that a message shows.
const SHOWN_CHARACTERS: usize = 64;

/// A bundle, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// What it was made with.
    pub maker: Maker,
    /// What was signed.
    pub content: Content,
    /// The signature.
    pub signature: Vec<u8>,
    /// Whether a transparency log may have it.
    pub beside: Beside,
}

/// What a bundle was made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Maker {
    /// A key that the verifier must know, and the signer's hint at which; cosign writes the key's fingerprint in base64.
    Key {
        /// Empty if the signer gave none.
        hint: String,
    },
    /// A certificate in the bundle.
    Certificate,
}

/// What stands beside a signature about when it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// No entry of a transparency log.
    NoEntry,
    /// One at least.
    Entry,
}

/// What the signature of a bundle is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The manifest itself, whose digest this is.
    Message(Digest),
    /// An in-toto statement about it, in a DSSE envelope.
    Envelope(Vec<u8>),
}

/// Why bytes are no bundle that this crate reads.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The layer is something else.
    #[error("its layer is of type `{0}`, which is not a sigstore bundle's")]
    Layer(String),
    /// Not JSON, a field that nobody knows, or one that is missing, twice there or of a wrong type.
    #[error("not the JSON of a sigstore bundle")]
    Json(#[source] serde_json::Error),
    /// Another version, or another thing.
    #[error("it calls itself `{0}`, which is not a sigstore bundle of version 0.1 to 0.3")]
    MediaType(String),
    /// Neither or several of a choice.
    #[error("it has {0} of {1}, not one")]
    Choice(usize, &'static str),
    /// More than anybody needs.
    #[error("it has {0} certificates, entries of logs or timestamps; at most {MOST} are read")]
    TooMany(usize),
    /// A DSSE envelope with none, or with several.
    #[error("its envelope has {0} signatures, not one")]
    Signatures(usize),
    /// The envelope holds something else than a statement.
    #[error("its envelope is over a `{0}`, not over a statement of in-toto")]
    PayloadType(String),
    /// Of the message.
    #[error("its message digest is by `{0}`, not by SHA2_256")]
    Algorithm(String),
    /// Of the message.
    #[error("its message digest is no SHA2_256 digest")]
    Digest,
}

/// Why a signed statement claims nothing about an image.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    /// Not the JSON of a statement.
    #[error("the statement is not the JSON of an in-toto statement")]
    Json(#[source] serde_json::Error),
    /// Another version.
    #[error("the statement is of type `{0}`, not `{STATEMENT}`")]
    Type(String),
    /// It is about nothing with a sha256 digest.
    #[error("the statement has no subject with a sha256 digest")]
    Subject,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    media_type: String,
    verification_material: Material,
    message_signature: Option<MessageSignature>,
    dsse_envelope: Option<Envelope>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Material {
    public_key: Option<PublicKey>,
    certificate: Option<IgnoredAny>,
    x509_certificate_chain: Option<Chain>,
    tlog_entries: Option<Few<IgnoredAny>>,
    timestamp_verification_data: Option<Timestamps>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Chain {
    certificates: Few<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Timestamps {
    rfc3161_timestamps: Option<Few<IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublicKey {
    #[serde(default)]
    hint: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MessageSignature {
    message_digest: MessageDigest,
    signature: Base64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageDigest {
    algorithm: String,
    digest: Base64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Envelope {
    payload: Base64,
    payload_type: String,
    signatures: Few<EnvelopeSignature>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeSignature {
    sig: Base64,
    #[serde(default)]
    #[expect(dead_code, reason = "it may be there: an unauthenticated hint (DSSE `protocol.md`)")]
    keyid: Option<String>,
}

/// Bytes in base64.
struct Base64(Vec<u8>);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

#[derive(Deserialize)]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Few<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
}

#[derive(Deserialize)]
struct Subject {
    #[serde(default)]
    name: Option<String>,
    digest: SubjectDigest,
}

#[derive(Deserialize)]
struct SubjectDigest {
    sha256: Option<String>,
}

impl Bundle {
    /// Reads the bundle that a layer of some type is.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Self, BundleError> {
        if !media_type.starts_with(media::BUNDLE_FAMILY) {
            return Err(BundleError::Layer(shown(media_type)));
        }
        let Raw { media_type, verification_material, message_signature, dsse_envelope } =
            serde_json::from_slice(bytes).map_err(BundleError::Json)?;
        if !MEDIA_TYPES.contains(&media_type.as_str()) {
            return Err(BundleError::MediaType(shown(&media_type)));
        }
        let Material {
            public_key,
            certificate,
            x509_certificate_chain: chain,
            tlog_entries,
            timestamp_verification_data,
        } = verification_material;
        let certificates = usize::from(certificate.is_some()) + usize::from(chain.is_some());
        let timestamps = timestamp_verification_data.and_then(|data| data.rfc3161_timestamps);
        let beside = match tlog_entries.as_ref().is_some_and(|entries| !entries.0.is_empty()) {
            true => Beside::Entry,
            false => Beside::NoEntry,
        };
        let lists = [chain.map(|chain| chain.certificates), tlog_entries, timestamps];
        if let Some(list) = lists.iter().flatten().find(|list| list.0.len() > MOST) {
            return Err(BundleError::TooMany(list.0.len()));
        }
        let maker = match (public_key, certificates) {
            (Some(PublicKey { hint }), 0) => Maker::Key { hint },
            (None, 1) => Maker::Certificate,
            (key, more) => {
                return Err(BundleError::Choice(more + usize::from(key.is_some()), "`publicKey` and certificates"));
            }
        };
        let (content, signature) = match (message_signature, dsse_envelope) {
            (Some(message), None) => message.read()?,
            (None, Some(envelope)) => envelope.read()?,
            (None, None) => return Err(BundleError::Choice(0, "`messageSignature` and `dsseEnvelope`")),
            (Some(_), Some(_)) => return Err(BundleError::Choice(2, "`messageSignature` and `dsseEnvelope`")),
        };
        Ok(Self { maker, content, signature, beside })
    }
}

impl MessageSignature {
    fn read(self) -> Result<(Content, Vec<u8>), BundleError> {
        let Self { message_digest: MessageDigest { algorithm, digest }, signature } = self;
        if algorithm != "SHA2_256" {
            return Err(BundleError::Algorithm(shown(&algorithm)));
        }
        let digest = <[u8; 32]>::try_from(digest.0).map_err(|_length| BundleError::Digest)?;
        Ok((Content::Message(digest.into()), signature.0))
    }
}

impl Envelope {
    fn read(self) -> Result<(Content, Vec<u8>), BundleError> {
        let Self { payload, payload_type, signatures } = self;
        if payload_type != media::IN_TOTO {
            return Err(BundleError::PayloadType(shown(&payload_type)));
        }
        match <[EnvelopeSignature; 1]>::try_from(signatures.0) {
            Ok([EnvelopeSignature { sig, .. }]) => Ok((Content::Envelope(payload.0), sig.0)),
            Err(others) => Err(BundleError::Signatures(others.len())),
        }
    }
}

/// What is signed of a statement: its bytes and their type (DSSE `protocol.md`, "Pre-Authentication Encoding").
#[must_use]
pub fn pae(statement: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {} {} ", media::IN_TOTO.len(), media::IN_TOTO, statement.len());
    [head.as_bytes(), statement].concat()
}

/// Reads a statement of one of these versions that a checked signature is over. Of several subjects the one that `is_over` knows counts, else the first.
///
/// # Errors
/// [`StatementError`].
pub fn statement(bytes: &[u8], versions: &[&str], is_over: impl Fn(Digest) -> bool) -> Result<Claim, StatementError> {
    let Statement { kind, subject, predicate_type } = serde_json::from_slice(bytes).map_err(StatementError::Json)?;
    if !versions.contains(&kind.as_str()) {
        return Err(StatementError::Type(shown(&kind)));
    }
    let predicate = (predicate_type != SIGNATURE_PREDICATE).then_some(predicate_type);
    let mut claims = subject.0.into_iter().filter_map(|Subject { name, digest }| {
        let manifest = format!("sha256:{}", digest.sha256?).parse().ok()?;
        Some(Claim { docker_reference: name.filter(|name| !name.is_empty()), manifest, predicate: predicate.clone() })
    });
    let first = claims.next().ok_or(StatementError::Subject)?;
    if is_over(first.manifest) { Ok(first) } else { Ok(claims.find(|claim| is_over(claim.manifest)).unwrap_or(first)) }
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN_CHARACTERS).collect()
}
