//! Signatures as sigstore bundles, as cosign 3 makes them with a key and without a log (cosign `specs/BUNDLE_SPEC.md`): an in-toto
//! statement about the manifest, in a DSSE envelope, in a manifest that refers to it.
//!
//! Adds to what is there and replaces nothing. Decides nothing about trust.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{SignError, name};
use crate::{
    bundle::{Bundle, Content, SIGNATURE_PREDICATE, STATEMENT, pae},
    candidate::Candidate,
    digest::{Descriptor, Digest},
    document::Document,
    key::SigningKey,
    media,
    reference::Reference,
};

/// What is stated about a manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Stated {
    /// The type of the predicate.
    pub predicate_type: String,
    /// What it says.
    pub predicate: Value,
}

impl Stated {
    /// That it is signed.
    #[must_use]
    pub fn signed() -> Self {
        Self { predicate_type: SIGNATURE_PREDICATE.to_owned(), predicate: json!({}) }
    }
}

/// Signs a manifest under a name. cosign writes no name into the statement; with one, a verifier can tell a repository from another that
/// serves the same manifest.
///
/// # Errors
/// [`SignError::Key`].
pub fn bundle(key: &SigningKey, reference: &Reference, manifest: Digest) -> Result<Vec<u8>, SignError> {
    attestation(key, reference, manifest, &Stated::signed())
}

/// States something about a manifest under a name, and signs that.
///
/// # Errors
/// [`SignError::Key`].
pub fn attestation(
    key: &SigningKey,
    reference: &Reference,
    manifest: Digest,
    stated: &Stated,
) -> Result<Vec<u8>, SignError> {
    let statement = statement(reference, manifest, stated);
    let signature = key.sign(&pae(&statement)).map_err(SignError::Key)?;
    let bundle = json!({
        "dsseEnvelope": {
            "payload": STANDARD.encode(&statement),
            "payloadType": media::IN_TOTO,
            "signatures": [{ "sig": STANDARD.encode(signature) }],
        },
        "mediaType": media::BUNDLE,
        "verificationMaterial": { "publicKey": { "hint": STANDARD.encode(key.public().fingerprint().bytes()) } },
    });
    Ok(bundle.to_string().into_bytes())
}

/// Whether this key stated the same before.
#[must_use]
pub fn is_bundle_by(
    key: &SigningKey,
    reference: &Reference,
    manifest: Digest,
    stated: &Stated,
    candidate: &Candidate,
) -> bool {
    let statement = statement(reference, manifest, stated);
    let bundle = Bundle::parse(&candidate.media_type, &candidate.payload);
    bundle.is_ok_and(|Bundle { content, signature, maker: _, beside: _ }| {
        content == Content::Envelope(statement.clone()) && key.public().verifies(&pae(&statement), &signature)
    })
}

fn statement(reference: &Reference, manifest: Digest, stated: &Stated) -> Vec<u8> {
    let Stated { predicate_type, predicate } = stated;
    let statement = json!({
        "_type": STATEMENT,
        "predicate": predicate,
        "predicateType": predicate_type,
        "subject": [{ "digest": { "sha256": manifest.hex() }, "name": name(reference) }],
    });
    statement.to_string().into_bytes()
}

/// The manifest that attaches a bundle to another manifest. Its config is [`media::EMPTY`].
#[must_use]
pub fn referrer(subject: &Descriptor, bundle: &[u8], stated: &Stated) -> Document {
    let manifest = json!({
        "annotations": {
            "dev.sigstore.bundle.content": "dsse-envelope",
            "dev.sigstore.bundle.predicateType": stated.predicate_type,
        },
        "artifactType": media::BUNDLE,
        "config": Descriptor::of(media::EMPTY, media::EMPTY_BYTES),
        "layers": [Descriptor::of(media::BUNDLE, bundle)],
        "mediaType": media::MANIFEST,
        "schemaVersion": 2,
        "subject": subject,
    });
    Document::new(media::MANIFEST, manifest.to_string().into_bytes())
}

/// The index of what refers to a manifest, with one entry more: for the tag that stands in for the referrers API (distribution-spec 1.1,
/// "Pushing Manifests with Subject"). The tag is read, changed and written with no lock in the registry.
///
/// # Errors
/// [`SignError::Json`], [`SignError::NotSignatures`]: what is there is no index, and it is not replaced.
pub fn listed(existing: Option<&[u8]>, referrer: &Document) -> Result<Document, SignError> {
    let mut index = match existing {
        Some(bytes) => serde_json::from_slice(bytes).map_err(SignError::Json)?,
        None => json!({ "manifests": [], "mediaType": media::INDEX, "schemaVersion": 2 }),
    };
    let manifests = index.get_mut("manifests").and_then(Value::as_array_mut);
    let mut entry = serde_json::to_value(referrer.descriptor()).map_err(SignError::Json)?;
    if let Some(entry) = entry.as_object_mut() {
        entry.insert("artifactType".to_owned(), json!(media::BUNDLE));
    }
    manifests.ok_or(SignError::NotSignatures("manifests"))?.push(entry);
    Ok(Document::new(media::INDEX, index.to_string().into_bytes()))
}
