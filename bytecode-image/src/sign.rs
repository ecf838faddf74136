//! Signatures, made. Here those of cosign's legacy form: the payload, and the manifest at the tag `sha256-<hex>.sig` that lists them.
//!
//! Owns the bytes that are signed and stored (cosign `specs/SIGNATURE_SPEC.md`; containers/image
//! `docs/containers-signature.5.md` for the payload's JSON). A signature is appended to those that are there; must never
//! replace or rewrite one of another signer. Decides nothing about trust.

mod bundle;

use base64::{Engine, engine::general_purpose::STANDARD};
use bpfd_policy::image::Claim;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use self::bundle::{Stated, attestation, bundle, is_bundle_by, listed, referrer};
use crate::{
    digest::{Descriptor, Digest},
    key::{KeyError, SigningKey},
    limits, media,
    reference::Reference,
};

/// The `type` of the payload (cosign `specs/SIGNATURE_SPEC.md`, "Payload format: Simple Signing").
const PAYLOAD_TYPE: &str = "cosign container image signature";

/// Characters of another type that a message shows.
const SHOWN_CHARACTERS: usize = 64;

/// Why a payload claims nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Not the JSON of a payload.
    #[error("signed payload is not the JSON of a container signature")]
    Json(#[source] serde_json::Error),
    /// A signature of something else.
    #[error("signed payload is of type `{0}`, not `{PAYLOAD_TYPE}`")]
    Type(String),
}

#[derive(Serialize, Deserialize)]
struct Payload {
    critical: Critical,
    #[serde(default)]
    optional: Option<Value>,
}

// Fields in the order of their names: the bytes are the same as those of any canonical writer.
#[derive(Serialize, Deserialize)]
struct Critical {
    identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Serialize, Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    docker_reference: String,
}

#[derive(Serialize, Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    docker_manifest_digest: Digest,
}

/// The name that is signed. The tag is part of it where there is one, so that a verifier can tell `:v1` from the same manifest served as
/// `:v2`.
fn name(reference: &Reference) -> String {
    match reference.tag() {
        Some(tag) => format!("{}:{tag}", reference.name()),
        None => reference.name(),
    }
}

/// The bytes to sign for a manifest under a name.
///
/// # Errors
/// [`SignError::Json`].
pub fn payload(reference: &Reference, manifest: Digest) -> Result<Vec<u8>, SignError> {
    let critical = Critical {
        identity: Identity { docker_reference: name(reference) },
        image: Image { docker_manifest_digest: manifest },
        kind: PAYLOAD_TYPE.to_owned(),
    };
    serde_json::to_vec(&Payload { critical, optional: None }).map_err(SignError::Json)
}

/// Reads a payload. Only after its signature has been checked: until then it is anybody's text.
///
/// # Errors
/// [`ClaimError`].
pub fn claim(payload: &[u8]) -> Result<Claim, ClaimError> {
    let Payload { critical: Critical { identity, image, kind }, optional: _ } =
        serde_json::from_slice(payload).map_err(ClaimError::Json)?;
    if kind != PAYLOAD_TYPE {
        return Err(ClaimError::Type(kind.chars().take(SHOWN_CHARACTERS).collect()));
    }
    Ok(Claim {
        docker_reference: Some(identity.docker_reference),
        manifest: image.docker_manifest_digest,
        predicate: None,
    })
}

/// Three blobs to push: payload and config first, then the manifest under [`Reference::signatures`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureManifest {
    /// The signed payload: a layer of the manifest.
    pub payload: Vec<u8>,
    /// The manifest's config.
    pub config: Vec<u8>,
    /// The manifest.
    pub manifest: Vec<u8>,
}

/// What signing comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signed {
    /// The new signature is in this manifest, beside those that were there.
    Appended(SignatureManifest),
    /// This key has signed this name and manifest before: there is nothing to push.
    AlreadySigned,
}

/// Why an image cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The key does not sign.
    #[error("cannot sign")]
    Key(#[source] KeyError),
    /// JSON that cannot be read or written.
    #[error("the manifest of the existing signatures is not JSON")]
    Json(#[source] serde_json::Error),
    /// What is at the signatures' tag is something else.
    #[error("the existing signature manifest has no `{0}`: it is not replaced")]
    NotSignatures(&'static str),
    /// There are as many as a verifier reads.
    #[error("the image has {0} signatures already; at most {limit} are read", limit = limits::SIGNATURES)]
    Full(usize),
}

/// Signs a manifest under a name and adds the signature to the manifest that is at [`Reference::signatures`], if any.
///
/// The tag is read, changed and written with no lock in the registry: read it again after the push, and sign again if the
/// signature is not in it.
///
/// # Errors
/// [`SignError`].
pub fn sign(
    key: &SigningKey,
    reference: &Reference,
    manifest: Digest,
    existing: Option<&[u8]>,
) -> Result<Signed, SignError> {
    let payload = payload(reference, manifest)?;
    let mut document = match existing {
        Some(bytes) => existing_manifest(bytes)?,
        None => Map::new(),
    };
    let mut layers = match document.remove("layers") {
        Some(Value::Array(layers)) => layers,
        _ => Vec::new(),
    };
    if layers.iter().any(|layer| is_signed_by(key, layer, &payload)) {
        return Ok(Signed::AlreadySigned);
    }
    if layers.len() >= limits::SIGNATURES {
        return Err(SignError::Full(layers.len()));
    }
    let signature = key.sign(&payload).map_err(SignError::Key)?;
    layers.push(signature_layer(&payload, &signature)?);
    let config = config(&layers)?;
    document.insert("schemaVersion".to_owned(), json!(2));
    document.insert("mediaType".to_owned(), json!(media::MANIFEST));
    document.insert("config".to_owned(), to_value(&Descriptor::of(media::CONFIG, &config))?);
    document.insert("layers".to_owned(), Value::Array(layers));
    let manifest = serde_json::to_vec(&document).map_err(SignError::Json)?;
    Ok(Signed::Appended(SignatureManifest { payload, config, manifest }))
}

fn existing_manifest(bytes: &[u8]) -> Result<Map<String, Value>, SignError> {
    match serde_json::from_slice(bytes).map_err(SignError::Json)? {
        Value::Object(document) if document.get("layers").is_some_and(Value::is_array) => Ok(document),
        _ => Err(SignError::NotSignatures("layers")),
    }
}

fn is_signed_by(key: &SigningKey, layer: &Value, payload: &[u8]) -> bool {
    let text = |pointer| layer.pointer(pointer).and_then(Value::as_str);
    let same_payload = text("/digest") == Some(Digest::of(payload).to_string().as_str());
    let signature =
        text("/annotations/dev.cosignproject.cosign~1signature").and_then(|text| STANDARD.decode(text).ok());
    same_payload && signature.is_some_and(|signature| key.public().verifies(payload, &signature))
}

fn signature_layer(payload: &[u8], signature: &[u8]) -> Result<Value, SignError> {
    let mut layer = to_value(&Descriptor::of(media::SIMPLE_SIGNING, payload))?;
    if let Some(layer) = layer.as_object_mut() {
        layer.insert("annotations".to_owned(), json!({ media::ANNOTATION_SIGNATURE: STANDARD.encode(signature) }));
    }
    Ok(layer)
}

/// What a signature over a manifest most often signs: the bytes that are signed here, and for a name without its tag, as cosign does. A
/// reader that is told their digest has them.
pub(crate) fn usual_payloads(reference: &Reference, manifest: Digest) -> Vec<Vec<u8>> {
    let repository = reference.by_digest(manifest);
    [reference, &repository].into_iter().filter_map(|name| payload(name, manifest).ok()).collect()
}

/// The same for the config of a manifest of signatures with these layers.
pub(crate) fn usual_config(layers: &[Digest]) -> Option<Vec<u8>> {
    let layers: Vec<Value> = layers.iter().map(|digest| json!({ "digest": digest })).collect();
    config(&layers).ok()
}

/// An image config with the payloads as its layers, as cosign writes it; the date is Go's zero time.
fn config(layers: &[Value]) -> Result<Vec<u8>, SignError> {
    let digests: Vec<Value> = layers.iter().filter_map(|layer| layer.get("digest").cloned()).collect();
    let config = json!({
        "architecture": "", "config": {}, "created": "0001-01-01T00:00:00Z",
        "history": [{ "created": "0001-01-01T00:00:00Z" }], "os": "",
        "rootfs": { "diff_ids": digests, "type": "layers" },
    });
    serde_json::to_vec(&config).map_err(SignError::Json)
}

fn to_value(descriptor: &Descriptor) -> Result<Value, SignError> {
    serde_json::to_value(descriptor).map_err(SignError::Json)
}
