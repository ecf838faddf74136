//! Bytes on their way to the kernel, with the proof that they may go there: from a verified image, or an upload that the policy
//! permitted. `Bytecode` has no other maker. `load` makes programs of it, and has the proof judged again before the `engine` begins.

use std::collections::BTreeMap;
use std::io;

use bpfd_core::names::AppName;
use bpfd_core::policy::{Authorized, SourceFacts};
use bpfd_core::request::{Bytes, LoadRequest};
use bpfd_core::state::{Advice, ObjectDigest, Source};
use bpfd_policy::Policy;
use bytecode_image::verify::{Refusal, Verified};

use crate::objects::Objects;

/// One object that may be loaded.
#[derive(Clone, Debug)]
pub struct Bytecode {
    bytes: Vec<u8>,
    object: ObjectDigest,
    proof: Proof,
    name: Option<AppName>,
    labels: BTreeMap<String, String>,
    advice: BTreeMap<String, Advice>,
}

/// Why bytes may go to the kernel.
#[derive(Clone, Debug)]
pub enum Proof {
    /// The caller may load what it sends.
    Upload,
    /// The policy lets the image through.
    Image(Box<Verified>),
}

impl Proof {
    /// By the policy of another moment. Whether the caller may load what it sends is for `bpfd_core::policy::confirm` to ask again.
    ///
    /// # Errors
    /// [`Refusal`] of the image.
    pub fn again(self, policy: &Policy) -> Result<Self, Box<Refusal>> {
        match self {
            Self::Upload => Ok(Self::Upload),
            Self::Image(image) => Ok(Self::Image(Box::new(image.again(policy)?))),
        }
    }

    /// To policy.
    pub fn facts(&self, object: ObjectDigest) -> SourceFacts {
        match self {
            Self::Upload => SourceFacts::Upload { object: Some(object.0) },
            Self::Image(image) => {
                let signers = Some(image.signers().iter().cloned().collect());
                SourceFacts::Image { reference: Some(image.reference().clone()), signers }
            }
        }
    }

    /// As it is kept with an app.
    pub fn source(&self) -> Source {
        match self {
            Self::Upload => Source::Upload,
            Self::Image(image) => Source::Image {
                reference: image.reference().to_string(),
                digest: image.digest().to_string(),
                signers: image.signers().iter().cloned().collect(),
            },
        }
    }
}

/// What an image says of the object in it.
#[derive(Clone, Debug, Default)]
pub struct ImageWords {
    /// The name that its label gives.
    pub name: Option<AppName>,
    /// Labels worth showing.
    pub labels: BTreeMap<String, String>,
    /// Per function: priority, proceed-on, hook.
    pub advice: BTreeMap<String, Advice>,
}

/// The name of an app whose file is `stem`: `xdp-pass.bpf.o` is `xdp-pass`, as libbpf names objects
/// (`bpf_object__new` of tools/lib/bpf/libbpf.c cuts at the first dot).
fn named_after(stem: &str) -> Option<AppName> {
    AppName::nearest(stem.strip_suffix(".bpf").unwrap_or(stem))
}

/// An upload that is not here.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// Never came, or was swept.
    #[error("no object `{0}` was uploaded")]
    Absent(ObjectDigest),
    /// The disk.
    #[error("cannot read object `{object}`")]
    Read {
        /// Which.
        object: ObjectDigest,
        /// Why.
        source: io::Error,
    },
}

impl Bytecode {
    /// An upload. The authorisation is the permit: it was asked with the source `upload`.
    pub fn permitted(
        ask: &Authorized<LoadRequest>,
        object: ObjectDigest,
        objects: &Objects,
    ) -> Result<Self, UploadError> {
        let bytes = objects.read(&object).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => UploadError::Absent(object),
            _ => UploadError::Read { object, source: error },
        })?;
        let stem = match &ask.request().bytes {
            Bytes::Uploaded { stem, .. } => stem.as_deref().and_then(named_after),
            Bytes::Image { .. } => None,
        };
        Ok(Self { bytes, object, proof: Proof::Upload, name: stem, labels: BTreeMap::new(), advice: BTreeMap::new() })
    }

    /// The object of a verified image, already stored among the objects.
    pub fn verified(image: Verified, object: ObjectDigest, bytes: Vec<u8>, words: ImageWords) -> Self {
        let ImageWords { name, labels, advice } = words;
        Self { bytes, object, proof: Proof::Image(Box::new(image)), name, labels, advice }
    }

    /// The object.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its hash.
    pub fn object(&self) -> ObjectDigest {
        self.object
    }

    /// Why it may be loaded.
    pub fn proof(&self) -> &Proof {
        &self.proof
    }

    /// What its label or file calls it.
    pub fn name(&self) -> Option<&AppName> {
        self.name.as_ref()
    }

    /// What its label says.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// What its label says of a program.
    pub fn advice(&self, function: &str) -> Option<&Advice> {
        self.advice.get(function)
    }
}
