//! Manifests and indexes: bytes that are known to be what their digest says, and what they mean.
//!
//! OCI image-spec 1.1 `manifest.md` and `image-index.md`, and Docker's "Image Manifest V 2, Schema 2"; nothing older.
//! Must never hold bytes whose digest was not computed here, and never guess between an index and an image: a text that
//! could be read as both is refused (CVE-2021-41190).

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Serialize,
    de::{Error, SeqAccess, Visitor},
};

use crate::{
    digest::{Descriptor, Digest},
    limits, media,
};

/// The four media types that this crate asks for and accepts, in order of preference.
pub const ACCEPTED: [&str; 4] = [media::INDEX, media::MANIFEST, media::DOCKER_INDEX, media::DOCKER_MANIFEST];

/// A manifest's or an index's bytes, with the digest that was computed over them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    descriptor: Descriptor,
    bytes: Vec<u8>,
}

/// What a document turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    /// A list of images, one a platform.
    Index(Index),
    /// One image.
    Image(ImageManifest),
}

/// A list of manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its entries, in the order that they were written: the first that fits wins.
    pub manifests: Vec<IndexEntry>,
}

/// One entry of an index, of a referrers list or of a layout's `index.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexEntry {
    /// Type, digest and size of the manifest.
    #[serde(flatten)]
    pub descriptor: Descriptor,
    /// What it is for, if it says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub platform: Option<IndexPlatform>,
    /// What kind of artifact it is, in referrers lists.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub artifact_type: Option<String>,
    /// Free text by key.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default, deserialize_with = "nothing_for_null")]
    pub annotations: BTreeMap<String, String>,
}

/// The platform of an index entry, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexPlatform {
    /// GOOS; `unknown` marks a build tool's attestation.
    pub os: String,
    /// GOARCH.
    pub architecture: String,
    /// GOARM and the like.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub variant: Option<String>,
}

/// An image's manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageManifest {
    /// What kind of artifact it is; a hint, never decisive.
    pub artifact_type: Option<String>,
    /// The configuration blob.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    /// The manifest that this one is attached to.
    pub subject: Option<Descriptor>,
    /// Free text by key.
    pub annotations: BTreeMap<String, String>,
}

/// A layer with its annotations: a signature's layer carries the signature there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Type, digest and size of the blob.
    #[serde(flatten)]
    pub descriptor: Descriptor,
    /// Free text by key.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default, deserialize_with = "nothing_for_null")]
    pub annotations: BTreeMap<String, String>,
}

/// Why bytes are no manifest of an image.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not the bytes that were asked for.
    #[error("the manifest's bytes have the digest `{got}`, but `{wanted}` was asked for")]
    Digest {
        /// What was asked for.
        wanted: Digest,
        /// What the bytes hash to.
        got: Digest,
    },
    /// The descriptor said another length.
    #[error("the manifest has {got} bytes, but its descriptor says {wanted}")]
    Size {
        /// What the descriptor says.
        wanted: u64,
        /// How many there are.
        got: u64,
    },
    /// None of [`ACCEPTED`].
    #[error("`{0}` is not a media type of an OCI or Docker schema 2 manifest or index")]
    MediaType(String),
    /// The text names another type than the one it was announced with.
    #[error("the manifest calls itself `{inside}`, but it was announced as `{announced}`")]
    MediaTypeDiffers {
        /// `mediaType` in the text.
        inside: String,
        /// What the registry or the index said.
        announced: String,
    },
    /// Has fields of both.
    #[error("the manifest has `manifests` beside `layers` or `config`, so that it could be read as two things")]
    Ambiguous,
    /// `schemaVersion` is not 2.
    #[error("the manifest has schema version {0}, not 2")]
    Schema(u64),
    /// Not JSON, or a field is missing, twice there or of a wrong type.
    #[error("the manifest cannot be read")]
    Json(#[source] serde_json::Error),
}

/// Every field that is read, of both kinds. Fields twice in a text are an error of serde's, so no two readers differ.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u64,
    media_type: Option<String>,
    artifact_type: Option<String>,
    manifests: Option<Few<IndexEntry>>,
    config: Option<Descriptor>,
    layers: Option<Few<Layer>>,
    subject: Option<Descriptor>,
    #[serde(default, deserialize_with = "nothing_for_null")]
    annotations: BTreeMap<String, String>,
}

/// A list that is read up to [`limits::ENTRIES`], and not at all if it is longer.
#[derive(Debug)]
pub(crate) struct Few<T>(pub(crate) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
            type Value = Few<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {} entries", limits::ENTRIES)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Few<T>, A::Error> {
                let mut few = Vec::new();
                while let Some(entry) = list.next_element()? {
                    if few.len() == limits::ENTRIES {
                        return Err(A::Error::custom(format_args!("a list has more than {} entries", limits::ENTRIES)));
                    }
                    few.push(entry);
                }
                Ok(Few(few))
            }
        }
        from.deserialize_seq(Reader(PhantomData))
    }
}

/// Go writes an absent map as `null`.
fn nothing_for_null<'de, D: serde::Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Document {
    /// Hashes bytes that are of `media_type`.
    #[must_use]
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        Self { descriptor: Descriptor::of(media_type, &bytes), bytes }
    }

    /// Takes bytes as the ones that `wanted` describes.
    ///
    /// # Errors
    /// [`DocumentError::Size`] and [`DocumentError::Digest`] if they are others.
    pub fn check(wanted: &Descriptor, bytes: Vec<u8>) -> Result<Self, DocumentError> {
        let document = Self::new(&wanted.media_type, bytes);
        if document.descriptor.size != wanted.size {
            return Err(DocumentError::Size { wanted: wanted.size, got: document.descriptor.size });
        }
        document.named(wanted.digest)
    }

    /// Itself, if it has this digest.
    ///
    /// # Errors
    /// [`DocumentError::Digest`].
    pub fn named(self, wanted: Digest) -> Result<Self, DocumentError> {
        if self.descriptor.digest == wanted {
            Ok(self)
        } else {
            Err(DocumentError::Digest { wanted, got: self.descriptor.digest })
        }
    }

    /// Type, digest and size.
    #[must_use]
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The digest that was computed over the bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.descriptor.digest
    }

    /// The media type that it was announced with.
    #[must_use]
    pub fn media_type(&self) -> &str {
        &self.descriptor.media_type
    }

    /// The bytes, exactly as they came.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads it.
    ///
    /// # Errors
    /// Everything of [`DocumentError`] but a wrong digest or size.
    pub fn parse(&self) -> Result<Manifest, DocumentError> {
        let announced = self.media_type();
        let is_index = match announced {
            media::INDEX | media::DOCKER_INDEX => true,
            media::MANIFEST | media::DOCKER_MANIFEST => false,
            other => return Err(DocumentError::MediaType(other.to_owned())),
        };
        let raw: Raw = serde_json::from_slice(&self.bytes).map_err(DocumentError::Json)?;
        let Raw { schema_version, media_type, artifact_type, manifests, config, layers, subject, annotations } = raw;
        if schema_version != 2 {
            return Err(DocumentError::Schema(schema_version));
        }
        if let Some(inside) = media_type.filter(|inside| inside != announced) {
            return Err(DocumentError::MediaTypeDiffers { inside, announced: announced.to_owned() });
        }
        let missing = |field| Err(DocumentError::Json(Error::missing_field(field)));
        match (manifests, config, layers) {
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => Err(DocumentError::Ambiguous),
            (Some(manifests), None, None) if is_index => Ok(Manifest::Index(Index { manifests: manifests.0 })),
            (None, Some(config), Some(layers)) if !is_index => {
                Ok(Manifest::Image(ImageManifest { artifact_type, config, layers: layers.0, subject, annotations }))
            }
            (None, _, _) if is_index => missing("manifests"),
            (_, None, _) => missing("config"),
            (_, _, _) => missing("layers"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(media_type: &str, text: &serde_json::Value) -> Result<Manifest, DocumentError> {
        Document::new(media_type, text.to_string().into_bytes()).parse()
    }

    fn blob() -> serde_json::Value {
        json!({"mediaType": "x/y", "digest": Digest::of(b""), "size": 0})
    }

    #[test]
    fn a_manifest_without_a_media_type_inside_takes_the_announced_one() {
        let text = json!({"schemaVersion": 2, "config": blob(), "layers": [blob()], "annotations": null});
        let Ok(Manifest::Image(image)) = parse(media::DOCKER_MANIFEST, &text) else { panic!("not an image") };
        assert_eq!(image.layers.len(), 1);
        assert_eq!(image.annotations.len(), 0);
    }

    #[test]
    fn a_text_that_could_be_two_things_is_refused() {
        let text = json!({"schemaVersion": 2, "manifests": [], "config": blob(), "layers": []});
        assert!(matches!(parse(media::MANIFEST, &text), Err(DocumentError::Ambiguous)));
        let text = json!({"schemaVersion": 2, "manifests": [], "layers": []});
        assert!(matches!(parse(media::INDEX, &text), Err(DocumentError::Ambiguous)));
    }

    #[test]
    fn an_index_announced_as_an_image_is_refused() {
        let text = json!({"schemaVersion": 2, "manifests": []});
        assert!(matches!(parse(media::MANIFEST, &text), Err(DocumentError::Json(_))));
        let text = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": []});
        assert!(matches!(parse(media::MANIFEST, &text), Err(DocumentError::MediaTypeDiffers { .. })));
    }

    #[test]
    fn an_image_announced_as_an_index_is_refused() {
        let text = json!({"schemaVersion": 2, "config": blob(), "layers": []});
        assert!(matches!(parse(media::INDEX, &text), Err(DocumentError::Json(_))));
    }

    #[test]
    fn the_first_docker_schema_and_unknown_types_are_refused() {
        let text = json!({"schemaVersion": 1, "config": blob(), "layers": []});
        assert!(matches!(parse(media::MANIFEST, &text), Err(DocumentError::Schema(1))));
        let old = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        assert!(matches!(parse(old, &text), Err(DocumentError::MediaType(_))));
    }

    #[test]
    fn a_field_that_is_there_twice_is_refused() {
        let text = format!(r#"{{"schemaVersion":2,"layers":[],"layers":[],"config":{}}}"#, blob());
        let document = Document::new(media::MANIFEST, text.into_bytes());
        assert!(matches!(document.parse(), Err(DocumentError::Json(_))));
    }

    #[test]
    fn a_list_is_read_up_to_its_limit() {
        let of = |entries: usize| {
            let index = json!({"schemaVersion": 2, "manifests": vec![blob(); entries]});
            let image = json!({"schemaVersion": 2, "config": blob(), "layers": vec![blob(); entries]});
            [parse(media::INDEX, &index), parse(media::MANIFEST, &image)].map(|parsed| parsed.is_ok())
        };
        assert_eq!(of(limits::ENTRIES), [true, true]);
        assert_eq!(of(limits::ENTRIES + 1), [false, false]);
    }

    #[test]
    fn other_bytes_than_described_are_refused() {
        let wanted = Descriptor::of(media::INDEX, b"one");
        assert!(matches!(Document::check(&wanted, b"two".to_vec()), Err(DocumentError::Digest { .. })));
        assert!(matches!(Document::check(&wanted, b"three".to_vec()), Err(DocumentError::Size { wanted: 3, got: 5 })));
        assert_eq!(Document::check(&wanted, b"one".to_vec()).unwrap().digest(), wanted.digest);
    }
}
