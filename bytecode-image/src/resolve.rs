//! Which image a digest means on this machine: the choice in an index, and the one layer of the chosen image.
//!
//! Pure: takes documents, asks nobody. Must never fall back to another architecture: on none that fits, the error lists
//! what there is.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    digest::{Descriptor, Digest},
    document::{Document, DocumentError, ImageManifest, Index, IndexEntry, Manifest},
    media::{self, ANNOTATION_KERNEL},
    reference::Reference,
    verify::Subject,
};

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
    #[error("the image has no variant for {wanted}; it has: {}", list(.there))]
    NoPlatform {
        /// What was asked for.
        wanted: Platform,
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

/// The entry for a platform: of those for Linux and the architecture the first whose kernel requirement holds.
///
/// # Errors
/// [`ResolveError::NoPlatform`].
pub fn choose<'a>(index: &'a Index, wanted: &Platform) -> Result<&'a IndexEntry, ResolveError> {
    let fits = |entry: &&IndexEntry| {
        let right = entry.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == wanted.architecture);
        right && entry.annotations.get(ANNOTATION_KERNEL).is_none_or(|needs| kernel_fits(needs, wanted.kernel))
    };
    index.manifests.iter().find(fits).ok_or_else(|| ResolveError::NoPlatform {
        wanted: wanted.clone(),
        there: index.manifests.iter().filter_map(describe).take(16).collect(),
    })
}

/// One entry as a text for an error; `None` for build tools' attestations (`os` is `unknown`).
fn describe(entry: &IndexEntry) -> Option<String> {
    let Some(platform) = &entry.platform else { return Some("an image without a platform".to_owned()) };
    let kernel =
        entry.annotations.get(ANNOTATION_KERNEL).map(|needs| format!(" for kernel {needs}")).unwrap_or_default();
    (platform.os != "unknown").then(|| {
        let text = format!("{}/{}{kernel}", platform.os, platform.architecture);
        text.chars().filter(|c| !c.is_control()).take(80).collect()
    })
}

/// A requirement that cannot be read is not met: the entry was written for somebody else.
fn kernel_fits(needs: &str, kernel: Option<(u32, u32)>) -> bool {
    let least = needs.strip_prefix(">=").and_then(|version| {
        let mut parts = version.trim().split('.').map(str::parse::<u32>);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor)), None | Some(Ok(_)), None) => Some((major, minor)),
            (Some(Ok(major)), None, None, None) => Some((major, 0)),
            _ => None,
        }
    });
    least.is_some_and(|least| kernel.is_some_and(|kernel| kernel >= least))
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

    /// The image of an index that [`choose`] picked.
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
    use crate::document::IndexPlatform;
    use serde_json::json;
    use std::collections::BTreeMap;

    fn entry(name: &str, os: &str, architecture: &str, kernel: Option<&str>) -> IndexEntry {
        IndexEntry {
            descriptor: Descriptor::of(media::MANIFEST, name.as_bytes()),
            platform: Some(IndexPlatform { os: os.into(), architecture: architecture.into(), variant: None }),
            artifact_type: None,
            annotations: kernel.map(|k| BTreeMap::from([(ANNOTATION_KERNEL.into(), k.into())])).unwrap_or_default(),
        }
    }

    fn check(kernel: Option<(u32, u32)>, architecture: &str, entries: Vec<IndexEntry>, expected: Result<&str, &str>) {
        let index = Index { manifests: entries };
        let got = choose(&index, &Platform { architecture: architecture.into(), kernel });
        let got = got.map(|entry| entry.descriptor.digest).map_err(|error| error.to_string());
        assert_eq!(got, expected.map(|name| Digest::of(name.as_bytes())).map_err(str::to_owned));
    }

    #[test]
    fn the_first_entry_that_fits_wins() {
        let entries = || {
            vec![
                entry("attestation", "unknown", "amd64", None),
                entry("new", "linux", "amd64", Some(">=6.4")),
                entry("middle", "linux", "amd64", Some(">=5.15.3")),
                entry("any", "linux", "amd64", None),
                entry("other", "linux", "s390x", None),
            ]
        };
        check(Some((6, 4)), "amd64", entries(), Ok("new"));
        check(Some((6, 12)), "amd64", entries(), Ok("new"));
        check(Some((6, 3)), "amd64", entries(), Ok("middle"));
        check(Some((5, 14)), "amd64", entries(), Ok("any"));
        check(None, "amd64", entries(), Ok("any"));
        check(None, "s390x", entries(), Ok("other"));
    }

    #[test]
    fn a_requirement_that_cannot_be_read_is_not_met() {
        for needs in ["6.1", ">=", ">=six", "<7", ">=6.1.2.3", ">=-1.0"] {
            check(
                Some((99, 0)),
                "amd64",
                vec![entry("odd", "linux", "amd64", Some(needs)), entry("any", "linux", "amd64", None)],
                Ok("any"),
            );
        }
    }

    #[test]
    fn nothing_that_fits_lists_what_there_is() {
        let mut bare = entry("bare", "", "", None);
        bare.platform = None;
        let entries = vec![
            entry("a", "linux", "arm64", None),
            entry("b", "linux", "amd64", Some(">=7.0")),
            entry("c", "unknown", "unknown", None),
            bare,
        ];
        let error = "the image has no variant for `linux/amd64` with kernel 6.1; it has: linux/arm64, linux/amd64 for kernel >=7.0, an image without a platform";
        check(Some((6, 1)), "amd64", entries, Err(error));
        check(None, "amd64", vec![], Err("the image has no variant for `linux/amd64`; it has: nothing"));
    }

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
