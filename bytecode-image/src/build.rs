//! From an object's bytes to an image's: config, layer, manifest, and an index for several platforms.
//!
//! Owns the exact bytes. The same object, metadata and epoch give the same digests on every machine that has the same
//! compressor (`miniz_oxide`, pinned by `Cargo.lock`); a test holds golden digests. Must never read a clock, a file, a user
//! name or an environment variable.

use std::{fmt, io, io::Write, str::FromStr};

use ebpf::inspect::{self, ByteOrder, InspectError};
use flate2::GzBuilder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::{Map, Value, json};

use crate::{
    describe::{DescribeError, describe, image_labels},
    digest::{Descriptor, Digest},
    label::{CanonicalError, canonical},
    limits, media,
    metadata::Metadata,
};

/// The name of the object in the layer, unless it is given.
pub const DEFAULT_PATH: &str = "bytecode.bpf.o";

/// The beginning of a zstd frame (RFC 8878 §3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// An image of one object: what a registry or a store needs of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltImage {
    /// The manifest ([`media::MANIFEST`]).
    pub manifest: Vec<u8>,
    /// The config ([`media::CONFIG`]).
    pub config: Vec<u8>,
    /// The layer ([`media::LAYER_TAR_GZIP`] or [`media::LAYER_TAR_ZSTD`]).
    pub layer: Vec<u8>,
}

impl BuiltImage {
    /// Of the manifest.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::of(media::MANIFEST, &self.manifest)
    }

    /// Of the config.
    #[must_use]
    pub fn config_descriptor(&self) -> Descriptor {
        Descriptor::of(media::CONFIG, &self.config)
    }

    /// Of the layer.
    #[must_use]
    pub fn layer_descriptor(&self) -> Descriptor {
        let is_zstd = self.layer.starts_with(&ZSTD_MAGIC);
        Descriptor::of(if is_zstd { media::LAYER_TAR_ZSTD } else { media::LAYER_TAR_GZIP }, &self.layer)
    }
}

/// `go tool dist list`, of Linux, with the byte order of each.
const ARCHITECTURES: &[(&str, ByteOrder)] = &[
    ("386", ByteOrder::Little),
    ("amd64", ByteOrder::Little),
    ("arm", ByteOrder::Little),
    ("arm64", ByteOrder::Little),
    ("loong64", ByteOrder::Little),
    ("mips", ByteOrder::Big),
    ("mips64", ByteOrder::Big),
    ("mips64le", ByteOrder::Little),
    ("mipsle", ByteOrder::Little),
    ("ppc64", ByteOrder::Big),
    ("ppc64le", ByteOrder::Little),
    ("riscv64", ByteOrder::Little),
    ("s390x", ByteOrder::Big),
];

/// The byte order of an architecture as Go names it; `None` for one that Go does not have.
pub(crate) fn byte_order(architecture: &str) -> Option<ByteOrder> {
    ARCHITECTURES.iter().find(|(name, _)| *name == architecture).map(|(_, order)| *order)
}

/// An architecture that a BPF object can be for, as Go names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Architecture(&'static str);

/// Not an architecture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an architecture; it is one of {known}", known = architectures())]
pub struct UnknownArchitecture(String);

fn architectures() -> String {
    ARCHITECTURES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

impl FromStr for Architecture {
    type Err = UnknownArchitecture;

    fn from_str(text: &str) -> Result<Self, UnknownArchitecture> {
        let known = ARCHITECTURES.iter().find(|(name, _)| *name == text);
        known.map(|(name, _)| Self(name)).ok_or_else(|| UnknownArchitecture(text.chars().take(32).collect()))
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// What to build.
#[derive(Debug, Clone)]
pub struct Recipe<'a> {
    /// The ELF file.
    pub object: &'a [u8],
    /// Its name in the layer: one path component.
    pub path: &'a str,
    /// The platform.
    pub architecture: &'a Architecture,
    /// What the object does not say itself.
    pub metadata: &'a Metadata,
    /// `SOURCE_DATE_EPOCH`: seconds since 1970 to write as the image's date. Without it the image has none.
    pub epoch: Option<u32>,
}

/// Why an image cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Larger than any reader takes.
    #[error("the object has {0} bytes; an image carries at most {limit}", limit = limits::OBJECT)]
    TooLarge(usize),
    /// Compressed, still larger than any reader takes.
    #[error("the compressed layer has {0} bytes; an image has at most {limit}", limit = limits::LAYER)]
    LayerTooLarge(usize),
    /// Not one path component.
    #[error("`{0}` is not a file name for the object: up to 100 printable ASCII characters without `/`")]
    Path(String),
    /// Not an object.
    #[error("the object cannot be read")]
    Inspect(#[from] InspectError),
    /// No host of the architecture could run it.
    #[error("the object is {object}-endian, and `{architecture}` is not: compile it with `-target {target}`", target = match .object { ByteOrder::Little => "bpfeb", ByteOrder::Big => "bpfel" })]
    ByteOrder {
        /// The object's.
        object: ByteOrder,
        /// What it was to be for.
        architecture: Architecture,
    },
    /// Object and metadata do not go together.
    #[error("the object cannot be described")]
    Describe(#[from] DescribeError),
    /// JSON.
    #[error("the image's documents cannot be written")]
    Canonical(#[from] CanonicalError),
    /// The compressor or the tar writer.
    #[error("the layer cannot be written")]
    Layer(#[source] io::Error),
    /// An index of nothing.
    #[error("an index needs at least one image")]
    EmptyIndex,
    /// Two entries that no reader can tell apart.
    #[error("two images for `linux/{architecture}`{}: give each its own kernel requirement", kernel.as_ref().map(|kernel| format!(" with kernel `{kernel}`")).unwrap_or_default())]
    SamePlatform {
        /// The platform.
        architecture: String,
        /// Its kernel requirement.
        kernel: Option<String>,
    },
    /// Not `>=MAJOR.MINOR`.
    #[error("`{0}` is not a kernel requirement: write `>=6.4`")]
    Kernel(String),
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// Gzip, as small as it gets.
    #[default]
    Gzip,
    /// Gzip that only stores: the same bytes from every compressor there is.
    Stored,
    /// Zstandard.
    Zstd,
}

/// Builds the image of one object for one platform, with a layer that every reader can read.
///
/// # Errors
/// [`BuildError`].
pub fn build(recipe: &Recipe<'_>) -> Result<BuiltImage, BuildError> {
    build_as(recipe, Compression::default())
}

/// The same with another layer.
///
/// # Errors
/// [`BuildError`].
pub fn build_as(recipe: &Recipe<'_>, compression: Compression) -> Result<BuiltImage, BuildError> {
    let Recipe { object, path, architecture, metadata, epoch } = *recipe;
    if u64::try_from(object.len()).map_or(true, |length| length > limits::OBJECT) {
        return Err(BuildError::TooLarge(object.len()));
    }
    let printable = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    if path.is_empty() || path.len() > 100 || path == "." || path == ".." || !printable {
        return Err(BuildError::Path(path.to_owned()));
    }
    let inspected = inspect::describe(object)?;
    if byte_order(architecture.0) != Some(inspected.byte_order) {
        return Err(BuildError::ByteOrder { object: inspected.byte_order, architecture: architecture.clone() });
    }
    let label = describe(&inspected, Digest::of(object), path, metadata)?;
    let tar = tar_of(path, object).map_err(BuildError::Layer)?;
    let (media_type, layer) = match compression {
        Compression::Gzip => (media::LAYER_TAR_GZIP, gzip(&tar, flate2::Compression::best())),
        Compression::Stored => (media::LAYER_TAR_GZIP, gzip(&tar, flate2::Compression::none())),
        Compression::Zstd => (media::LAYER_TAR_ZSTD, Ok(compress_to_vec(tar.as_slice(), CompressionLevel::Fastest))),
    };
    let layer = layer.map_err(BuildError::Layer)?;
    if u64::try_from(layer.len()).map_or(true, |length| length > limits::LAYER) {
        return Err(BuildError::LayerTooLarge(layer.len()));
    }
    let mut config = json!({
        "architecture": architecture.0,
        "config": { "Labels": image_labels(&label)? },
        "os": "linux",
        "rootfs": { "diff_ids": [Digest::of(&tar)], "type": "layers" },
    });
    if let (Some(epoch), Some(config)) = (epoch, config.as_object_mut()) {
        config.insert("created".to_owned(), Value::String(date(epoch)));
    }
    let config = canonical(&config)?.into_bytes();
    let manifest = canonical(&json!({
        "artifactType": media::ARTIFACT_TYPE,
        "config": Descriptor::of(media::CONFIG, &config),
        "layers": [Descriptor::of(media_type, &layer)],
        "mediaType": media::MANIFEST,
        "schemaVersion": 2,
    }))?;
    Ok(BuiltImage { manifest: manifest.into_bytes(), config, layer })
}

/// One image of an index.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// The platform it was built for.
    pub architecture: &'a Architecture,
    /// The oldest kernel it is for, as `>=6.4`; a reader takes the first entry that fits.
    pub kernel: Option<&'a str>,
    /// The image.
    pub image: &'a BuiltImage,
}

/// Writes an index ([`media::INDEX`]). Entries stay in their order: the newest kernel requirement belongs first.
///
/// # Errors
/// [`BuildError`].
pub fn index(entries: &[Entry<'_>]) -> Result<Vec<u8>, BuildError> {
    if entries.is_empty() {
        return Err(BuildError::EmptyIndex);
    }
    let mut manifests = Vec::new();
    for (position, Entry { architecture, kernel, image }) in entries.iter().enumerate() {
        if let Some(kernel) = kernel.filter(|kernel| !is_kernel(kernel)) {
            return Err(BuildError::Kernel(kernel.to_owned()));
        }
        let same = |other: &Entry<'_>| other.architecture == *architecture && other.kernel == *kernel;
        if entries.iter().take(position).any(same) {
            let (architecture, kernel) = (architecture.to_string(), kernel.map(str::to_owned));
            return Err(BuildError::SamePlatform { architecture, kernel });
        }
        let Descriptor { media_type, digest, size } = image.descriptor();
        let mut manifest = Map::from_iter([
            ("mediaType".to_owned(), json!(media_type)),
            ("digest".to_owned(), json!(digest)),
            ("size".to_owned(), json!(size)),
            ("platform".to_owned(), json!({ "architecture": architecture.0, "os": "linux" })),
        ]);
        if let Some(kernel) = kernel {
            manifest.insert("annotations".to_owned(), json!({ media::ANNOTATION_KERNEL: kernel }));
        }
        manifests.push(Value::Object(manifest));
    }
    let index = json!({
        "artifactType": media::ARTIFACT_TYPE,
        "manifests": manifests,
        "mediaType": media::INDEX,
        "schemaVersion": 2,
    });
    Ok(canonical(&index)?.into_bytes())
}

/// `>=MAJOR.MINOR`
pub(crate) fn is_kernel(text: &str) -> bool {
    let version = text.strip_prefix(">=").and_then(|version| version.split_once('.'));
    version.is_some_and(|(major, minor)| {
        [major, minor].iter().all(|part| part.len() <= 4 && part.parse::<u16>().is_ok() && !part.starts_with('+'))
    })
}

/// A tar of one file, the same wherever and whenever it is made.
fn tar_of(path: &str, object: &[u8]) -> io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    append(&mut builder, path, object)?;
    builder.into_inner()
}

/// A file of a tar, of nobody in particular and of no time.
pub(crate) fn append(builder: &mut tar::Builder<impl Write>, path: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_size(u64::try_from(bytes.len()).map_err(io::Error::other)?);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    builder.append(&header, bytes)
}

/// Gzip without a date; 255 is "unknown" for the operating system (RFC 1952 §2.3.1).
fn gzip(bytes: &[u8], level: flate2::Compression) -> io::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), level);
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// RFC 3339, UTC, of seconds since 1970 (until 2106).
fn date(epoch: u32) -> String {
    let (mut days, second) = (epoch / 86_400, epoch % 86_400);
    let leap = |year: u32| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u32::from(leap(year)) {
        days -= 365 + u32::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u32::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02}T{:02}:{:02}:{:02}Z", days + 1, second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (epoch, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_735_689_600, "2025-01-01T00:00:00Z"),
            (u32::MAX, "2106-02-07T06:28:15Z"),
        ] {
            assert_eq!(date(epoch), text);
        }
    }

    #[test]
    fn kernel_requirements_are_a_lower_bound_of_two_numbers() {
        assert!([">=6.4", ">=5.15"].into_iter().all(is_kernel));
        assert!(
            ["6.4", ">=6", ">= 6.4", ">=6.4.1", ">=6.", ">=+6.4", "<6.4", ""].into_iter().all(|text| !is_kernel(text))
        );
    }
}
