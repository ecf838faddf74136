//! One signature as it was found beside an image: what a verifier is given. Nothing about it is trusted.

use std::collections::BTreeMap;

use bpfd_policy::image::Form;
use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    document::{ImageManifest, Layer},
    media::{self, ANNOTATION_CERTIFICATE, ANNOTATION_SIGNATURE},
};

/// A layer of a manifest of signatures. Its bytes hashed to the layer's digest; that is all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The manifest beside which it was found. What it *says* it is over stands in what was signed.
    pub over: Digest,
    /// The layer's media type.
    pub media_type: String,
    /// The layer's bytes: the signed text (legacy), or a document with a signature in it.
    pub payload: Vec<u8>,
    /// The layer's annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Candidate {
    /// The layer of a manifest of signatures.
    #[must_use]
    pub fn new(over: Digest, layer: &Layer, payload: Vec<u8>) -> Self {
        let Layer { descriptor, annotations } = layer;
        Self { over, media_type: descriptor.media_type.clone(), payload, annotations: annotations.clone() }
    }

    /// How it is written; by its layer's type, since only manifests of known kinds are looked at ([`is_signatures`]).
    #[must_use]
    pub fn form(&self) -> Form {
        match self.media_type.as_str() {
            media::SIMPLE_SIGNING | media::ENVELOPE => Form::Legacy,
            "application/jose+json" | "application/cose" => Form::Notation,
            _ => Form::Bundle,
        }
    }

    /// The signature over the payload, in base64; of the legacy form.
    #[must_use]
    pub fn signature(&self) -> Option<&str> {
        self.annotations.get(ANNOTATION_SIGNATURE).map(String::as_str)
    }

    /// The certificate beside a signature of the legacy form, as PEM: it was made without a key of the signer's own.
    #[must_use]
    pub fn certificate(&self) -> Option<&str> {
        self.annotations.get(ANNOTATION_CERTIFICATE).map(String::as_str)
    }
}

/// Whether a manifest that refers to `subject` is one of signatures of a known form. Some registries list another `artifactType` than
/// the manifest has, so the layers count too.
#[must_use]
pub fn is_signatures(image: &ImageManifest, subject: Digest) -> bool {
    let bundle = |media_type: &str| media_type.starts_with(media::BUNDLE_FAMILY);
    let kind = image.artifact_type.as_deref().unwrap_or(&image.config.media_type);
    let known = bundle(kind)
        || [kind, &image.config.media_type].contains(&media::NOTATION)
        || image.layers.iter().any(|layer| bundle(&layer.descriptor.media_type));
    known && image.subject.as_ref().is_some_and(|of| of.digest == subject)
}

/// Whether an entry of a list of referrers may be such a manifest. An entry that says nothing of its kind may be.
#[must_use]
pub fn may_be_signatures(artifact_type: Option<&str>) -> bool {
    let known = |kind: &str| kind.starts_with(media::BUNDLE_FAMILY) || [media::NOTATION, media::EMPTY].contains(&kind);
    artifact_type.is_none_or(|kind| kind.is_empty() || known(kind))
}
