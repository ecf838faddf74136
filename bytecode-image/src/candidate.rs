//! One signature as it was found beside an image: what a verifier is given. Nothing about it is trusted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{digest::Digest, media::ANNOTATION_SIGNATURE};

/// A signature of cosign's legacy form. Its payload hashed to its layer's digest; that is all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The manifest beside which it was found. What it *says* it is over stands in the payload.
    pub over: Digest,
    /// The signed bytes.
    pub payload: Vec<u8>,
    /// The layer's annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Candidate {
    /// The signature over the payload, in base64.
    #[must_use]
    pub fn signature(&self) -> Option<&str> {
        self.annotations.get(ANNOTATION_SIGNATURE).map(String::as_str)
    }
}
