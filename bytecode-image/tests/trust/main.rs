//! What a policy decides about an image and its signatures. Whole messages are compared, since they are what a person gets.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::result_large_err,
    reason = "a test fails by panicking, its helpers too"
)]

mod attestations;
mod authority;
mod bundles;
mod decision;
mod keyless;
mod requirements;

use std::{collections::BTreeMap, error::Error, fmt::Write, io, path::Path, sync::LazyLock};

use base64::{Engine, engine::general_purpose::STANDARD};
use bpfd_policy::{
    Policy,
    image::{AgeCheck, Requirement, Trust},
    key::PublicKey,
    read::{KeyFault, Named, PolicyText},
};
use bytecode_image::{
    candidate::Candidate,
    digest::Digest,
    document::Document,
    key::{Scheme, SigningKey, policy_key},
    limits, media,
    reference::Reference,
    sign::payload,
    verify::{Fault, Reason, Subject, Verified, decide},
};
use proptest::prelude::*;

/// Keys named `ci`, `release` and `other`, one of each scheme and one nobody trusts.
static KEYS: LazyLock<BTreeMap<&str, SigningKey>> = LazyLock::new(|| {
    let make = |scheme| SigningKey::generate(scheme).unwrap();
    [("ci", make(Scheme::P256)), ("release", make(Scheme::Ed25519)), ("other", make(Scheme::P256))].into()
});

/// `/keys/NAME.pub`
fn key_file(path: &Path) -> Result<PublicKey, KeyFault> {
    let name = path.file_stem().and_then(|name| name.to_str()).and_then(|name| KEYS.get(name));
    policy_key(name.map(|key| key.public().to_pem()).ok_or_else(|| io::ErrorKind::NotFound.into()))
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, ": {error}").unwrap();
        cause = error.source();
    }
    text
}

/// Without places in texts whose length depends on a signature's.
fn placeless(text: &str) -> String {
    let mut parts = text.split(" at line 1 column ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.trim_start_matches(|c: char| c.is_ascii_digit()))
}

const SIGNERS: &str = r#"version = 1
[[signer]]
name = "ci"
key = "/keys/ci.pub"
[[signer]]
name = "release"
key = "/keys/release.pub"
"#;

fn policy(images: &str) -> Policy {
    let text = format!("{SIGNERS}{images}");
    Policy::read(&[PolicyText { file: "policy.toml", text: &text }], key_file).unwrap()
}

fn scope(require: &str) -> Policy {
    policy(&format!("[[image]]\nscope = \"reg.acme/bpf/**\"\nrequire = [{require}]\n"))
}

fn manifest() -> Digest {
    document().digest()
}

fn document() -> Document {
    Document::new(media::MANIFEST, b"manifest".to_vec())
}

fn reference() -> Reference {
    "reg.acme/bpf/xdp:v1".parse().unwrap()
}

/// A signature by one of [`KEYS`] for a name and a manifest.
fn signed(key: &str, name: &str, digest: Digest) -> Candidate {
    candidate(key, payload(&name.parse().unwrap(), digest).unwrap())
}

fn candidate(key: &str, payload: Vec<u8>) -> Candidate {
    let signature = STANDARD.encode(KEYS[key].sign(&payload).unwrap());
    let annotations = [(media::ANNOTATION_SIGNATURE.to_owned(), signature)].into();
    Candidate { over: manifest(), media_type: media::SIMPLE_SIGNING.into(), payload, annotations }
}

fn good(key: &str) -> Candidate {
    signed(key, "reg.acme/bpf/xdp:v1", manifest())
}

fn ask(policy: &Policy, candidates: &[Candidate]) -> Result<Verified, Reason> {
    ask_for(policy, &reference(), candidates)
}

fn ask_for(policy: &Policy, reference: &Reference, candidates: &[Candidate]) -> Result<Verified, Reason> {
    let subject = Subject { reference, top: &document(), chosen: None };
    decide(policy, subject, candidates, AgeCheck::Skipped).map_err(|refusal| refusal.reason)
}

/// The fault of the only signature of an image that needs one of `ci` or `release`.
fn fault(candidate: Candidate) -> Fault {
    let reason = ask(&scope(r#"{ signed_by = ["ci", "release"] }"#), &[candidate]).unwrap_err();
    match reason {
        Reason::NotEnough { mut judged, valid, .. } if valid.is_empty() && judged.len() == 1 => {
            judged.remove(0).outcome.unwrap_err()
        }
        other => panic!("{other:?}"),
    }
}
