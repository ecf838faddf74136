//! Which image a digest means on this machine: the choice in an index, and the one layer of the chosen image.
//!
//! Pure: takes documents, asks nobody. Must never fall back to another architecture: on none that fits, the error lists
//! what there is.

mod choose;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    digest::{Descriptor, Digest},
    document::{Document, DocumentError, ImageManifest, Manifest},
    media,
    reference::Reference,
    verify::Subject,
};

pub use choose::{Missing, choose};

/// What an index is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// GOARCH, for example `amd64`.
    pub architecture: String,
    /// Major and minor of the running kernel; without it only entries without a requirement fit.
    pub kernel: Option<(u32, u32)>,
}

/// The image that a resolved digest means on one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    reference: Reference,
    index: Option<Document>,
    manifest: Document,
    image: ImageManifest,
}

/// Why a digest means no image here.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// No entry for this platform.
    #[error("the image has no variant for {wanted}: {missing}; it has: {}", list(.there))]
    NoPlatform {
        /// What was asked for.
        wanted: Platform,
        /// What no variant offers.
        missing: Missing,
        /// What there is, one text an entry, attestations left out.
        there: Vec<String>,
    },
    /// An index in an index: nobody builds these, and each level is one more choice to be led by.
    #[error("the image's index holds another index; one level is allowed")]
    Nested,
    /// An artifact of something else, which its configuration's type tells (image-spec 1.1 manifest.md, `config`).
    #[error("it is {what}, not a bytecode image: its configuration is of type `{media_type}`")]
    OtherKind {
        /// In words.
        what: String,
        /// The beginning of the type.
        media_type: String,
    },
    /// Bytecode is one layer.
    #[error("the image has {0} layers; a bytecode image has exactly one")]
    Layers(usize),
    /// The document cannot be read.
    #[error("the image's manifest is refused")]
    Document(#[from] DocumentError),
}

fn list(there: &[String]) -> String {
    if there.is_empty() { "nothing".to_owned() } else { there.join(", ") }
}

impl Platform {
    /// The machine that this code was built for, in Go's words.
    #[must_use]
    pub fn host(kernel: Option<(u32, u32)>) -> Self {
        // Where Rust's name of an architecture differs from Go's (`go tool dist list`).
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            same => same,
        };
        Self { architecture: architecture.to_owned(), kernel }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`linux/{}`", self.architecture)?;
        match self.kernel {
            Some((major, minor)) => write!(f, " with kernel {major}.{minor}"),
            None => Ok(()),
        }
    }
}

/// What an artifact is, by the type of its configuration, or by what it calls itself.
fn what(config: &str, artifact: Option<&str>) -> String {
    let known = match config {
        "application/vnd.wasm.config.v0+json" | "application/vnd.wasm.config.v1+json" => "a WebAssembly module",
        "application/vnd.cncf.helm.config.v1+json" => "a Helm chart",
        "application/vnd.gadget.config.v1+yaml" => "a gadget of Inspektor Gadget",
        "application/vnd.cncf.flux.config.v1+json" => "a Flux artifact",
        "application/vnd.cncf.opa.config.v1+json" => "an OPA bundle",
        "application/vnd.docker.plugin.v1+json" => "a Docker plugin",
        _ => match artifact {
            Some(artifact) => return format!("an artifact of type `{}`", shown(artifact)),
            None => "an artifact of another kind",
        },
    };
    known.to_owned()
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

impl Selected {
    /// An image that stands alone. Its configuration's architecture is only advice: many builders write their own.
    ///
    /// # Errors
    /// [`ResolveError`]: it is an index, or cannot be read.
    pub fn alone(reference: &Reference, manifest: Document) -> Result<Self, ResolveError> {
        Self::assemble(reference, None, manifest)
    }

    /// The image of an index that [`choose()`] picked.
    ///
    /// # Errors
    /// [`ResolveError`]: it is an index itself, or cannot be read.
    pub fn of_index(reference: &Reference, index: Document, manifest: Document) -> Result<Self, ResolveError> {
        Self::assemble(reference, Some(index), manifest)
    }

    fn assemble(reference: &Reference, index: Option<Document>, manifest: Document) -> Result<Self, ResolveError> {
        let image = match manifest.parse()? {
            Manifest::Image(image) => image,
            Manifest::Index(_) => return Err(ResolveError::Nested),
        };
        Ok(Self { reference: reference.clone(), index, manifest, image })
    }

    /// What was asked for.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// The same image by another name.
    #[must_use]
    pub fn under(self, reference: &Reference) -> Self {
        Self { reference: reference.clone(), ..self }
    }

    /// The digest that the reference was resolved to: of the index if there is one.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.top().digest()
    }

    /// The document that the reference was resolved to.
    #[must_use]
    pub fn top(&self) -> &Document {
        self.index.as_ref().unwrap_or(&self.manifest)
    }

    /// The index, if the image was chosen from one.
    #[must_use]
    pub fn index(&self) -> Option<&Document> {
        self.index.as_ref()
    }

    /// The chosen image's manifest.
    #[must_use]
    pub fn manifest(&self) -> &Document {
        &self.manifest
    }

    /// The chosen image's manifest, read.
    #[must_use]
    pub fn image(&self) -> &ImageManifest {
        &self.image
    }

    /// The configuration blob.
    #[must_use]
    pub fn config(&self) -> &Descriptor {
        &self.image.config
    }

    /// The layer blob. What is no bytecode image has none: that is not looked at before the signatures were judged, so that a forged image is
    /// called forged, whatever else is wrong with it.
    ///
    /// # Errors
    /// [`ResolveError::OtherKind`], [`ResolveError::Layers`].
    pub fn layer(&self) -> Result<&Descriptor, ResolveError> {
        let media_type = self.image.config.media_type.as_str();
        if ![media::CONFIG, media::DOCKER_CONFIG].contains(&media_type) {
            let what = what(media_type, self.image.artifact_type.as_deref());
            return Err(ResolveError::OtherKind { what, media_type: shown(media_type) });
        }
        match self.image.layers.as_slice() {
            [layer] => Ok(&layer.descriptor),
            layers => Err(ResolveError::Layers(layers.len())),
        }
    }

    /// What a verifier decides about.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        let chosen = self.index.is_some().then_some(&self.manifest);
        Subject { reference: &self.reference, top: self.top(), chosen }
    }

    /// The manifests that a signature may be over, the resolved one first: one over the chosen image covers exactly what
    /// is loaded.
    #[must_use]
    pub fn signable(&self) -> Vec<Digest> {
        self.index.iter().chain([&self.manifest]).map(Document::digest).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_index_in_an_index_is_refused() {
        let reference: Reference = "r.example/a:b".parse().unwrap();
        let index = Document::new(media::INDEX, json!({"schemaVersion": 2, "manifests": []}).to_string().into_bytes());
        assert!(matches!(Selected::of_index(&reference, index.clone(), index), Err(ResolveError::Nested)));
    }

    #[test]
    fn an_image_with_two_layers_or_none_is_refused() {
        let reference: Reference = "r.example/a:b".parse().unwrap();
        let blob = json!({"mediaType": "x/y", "digest": Digest::of(b""), "size": 0});
        for layers in [0, 2] {
            let config = Descriptor::of(media::CONFIG, b"");
            let text = json!({"schemaVersion": 2, "config": config, "layers": vec![blob.clone(); layers]});
            let document = Document::new(media::MANIFEST, text.to_string().into_bytes());
            let selected = Selected::alone(&reference, document).unwrap();
            assert!(matches!(selected.layer(), Err(ResolveError::Layers(n)) if n == layers));
        }
    }

    #[test]
    fn an_artifact_of_another_kind_is_refused_by_name() {
        let check = |config: &str, artifact: Option<&str>, expected: &str| {
            let blob = Descriptor::of("x/y", b"");
            let mut text = json!({"schemaVersion": 2, "config": Descriptor::of(config, b"{}"), "layers": [blob]});
            if let Some(artifact) = artifact {
                text["artifactType"] = artifact.into();
            }
            let document = Document::new(media::MANIFEST, text.to_string().into_bytes());
            let selected = Selected::alone(&"r.example/a:b".parse().unwrap(), document).unwrap();
            assert_eq!(selected.layer().unwrap_err().to_string(), expected);
        };
        check(
            "application/vnd.wasm.config.v0+json",
            None,
            "it is a WebAssembly module, not a bytecode image: its configuration is of type `application/vnd.wasm.config.v0+json`",
        );
        check(
            "application/vnd.cncf.helm.config.v1+json",
            Some("x/chart"),
            "it is a Helm chart, not a bytecode image: its configuration is of type `application/vnd.cncf.helm.config.v1+json`",
        );
        check(
            media::EMPTY,
            Some("application/x-\u{1b}sbom"),
            "it is an artifact of type `application/x-sbom`, not a bytecode image: its configuration is of type `application/vnd.oci.empty.v1+json`",
        );
        check(
            "x/y",
            None,
            "it is an artifact of another kind, not a bytecode image: its configuration is of type `x/y`",
        );
    }
}
