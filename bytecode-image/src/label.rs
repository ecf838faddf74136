//! The label `io.bpfd.bytecode.v1`: what an image says about its object.
//!
//! Owns the label's JSON, and reading of the older labels into the same type. What a label says about the object is
//! compared with the object ([`Labelled::check_against`]) and what it says beyond that (priority, proceed-on, attach) is
//! advice to whoever decides. Must never be believed unchecked, and never carry a text that could move a terminal's cursor.
//!
//! Readers ignore unknown fields, so that a label can grow; an unknown `schema` is refused, since it means that known
//! fields changed.

mod attach;
mod canonical;
mod check;
mod older;
mod read;

use ebpf::inspect::ByteOrder;
use ebpf::names::{FunctionName, MapName, SectionName};
use serde::{Deserialize, Serialize};

pub use self::{
    attach::{Action, Attach, Direction, Mode},
    canonical::{CanonicalError, canonical},
    check::LabelMismatch,
    read::{Generation, LabelError, Labelled, read},
};
use crate::{digest::Digest, name::Name};

/// The only `schema` there is.
pub const SCHEMA: u32 = 1;
/// Longest label, in bytes.
pub const MAX_LABEL: usize = 64 << 10;
/// Programs of one object.
pub const MAX_PROGRAMS: usize = 128;
/// Maps of one object.
pub const MAX_MAPS: usize = 256;
/// Globals that a label lists.
pub const MAX_GLOBALS: usize = 1024;
/// The highest priority that can be asked for; lower runs first.
pub const MAX_PRIORITY: u32 = 1000;

/// What an image says about its object. Without a field it says nothing about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Label {
    /// [`SCHEMA`].
    pub schema: u32,
    /// How an app made of it is called unless somebody says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// The image's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// SPDX licence expression of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// The ELF file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectLabel>,
    /// All programs of the object, by name.
    #[serde(default)]
    pub programs: Vec<ProgramLabel>,
    /// All maps of the object that are not data sections, by name.
    #[serde(default)]
    pub maps: Vec<MapLabel>,
    /// Global variables, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub globals: Vec<GlobalLabel>,
    /// What the kernel must offer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires: Option<Requires>,
    /// Of the oldest labels: the one program, which only the object can tell the function of.
    #[serde(skip)]
    pub by_section: Option<BySection>,
}

/// A program that a label names by its section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BySection {
    /// The ELF section, its part behind the type (`pass` of `xdp/pass`), or the function.
    pub section: String,
    /// The program's type.
    pub kind: String,
}

/// What the label says about the ELF file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectLabel {
    /// Its path in the layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Its sha256, as 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "bare_hex")]
    pub sha256: Option<Digest>,
    /// Its byte order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endian: Option<Endian>,
    /// Whether it has type information.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub btf: Option<bool>,
    /// Whether it adapts to the running kernel's types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core_relocations: Option<bool>,
    /// The licence that it tells the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_license: Option<String>,
}

/// Byte order of an ELF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Endian {
    /// ELFDATA2LSB.
    Little,
    /// ELFDATA2MSB.
    Big,
}

impl From<ByteOrder> for Endian {
    fn from(order: ByteOrder) -> Self {
        match order {
            ByteOrder::Little => Self::Little,
            ByteOrder::Big => Self::Big,
        }
    }
}

/// What the label says about a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramLabel {
    /// Its function.
    pub name: FunctionName,
    /// Its ELF section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section: Option<SectionName>,
    /// Its type: `xdp`, `tc`, `tracepoint`, …
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Whether it takes packets in several buffers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frags: Option<bool>,
    /// Whether it is loaded only if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
    /// How its author would attach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach: Option<Attach>,
    /// What it does, in a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doc: Option<String>,
}

/// What the label says about a map. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapLabel {
    /// Its name.
    pub name: MapName,
    /// Its type in bpftool's words: `percpu_array`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Bytes of a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_size: Option<u32>,
    /// Bytes of a value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_size: Option<u32>,
    /// Entries; 0 where the loader chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_entries: Option<u32>,
    /// `none` or `by_name`: the object's wish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinning: Option<String>,
    /// The key's type as C writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_btf: Option<String>,
    /// The value's type as C writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_btf: Option<String>,
}

/// What the label says about a global variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GlobalLabel {
    /// Its name.
    pub name: String,
    /// Its section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section: Option<SectionName>,
    /// Its type as C writes it.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
    /// What the object sets it to; for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Scalar>,
    /// The least value that makes sense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Scalar>,
    /// The greatest value that makes sense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Scalar>,
    /// What it is for, in a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doc: Option<String>,
}

/// A value in a label. Integers beyond 2^53 are written as text: other readers of JSON round them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// `true`, `false`.
    Bool(bool),
    /// An integer.
    Integer(i64),
    /// Anything else, and integers that do not fit.
    Text(String),
}

impl From<i128> for Scalar {
    fn from(value: i128) -> Self {
        match i64::try_from(value) {
            Ok(integer) if integer.unsigned_abs() <= canonical::MAX_SAFE => Self::Integer(integer),
            Ok(_) | Err(_) => Self::Text(value.to_string()),
        }
    }
}

/// What the kernel must offer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requires {
    /// The oldest version, as `>=5.8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// The kernel's own type information.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmlinux_btf: Option<bool>,
    /// Helpers, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub helpers: Vec<String>,
    /// Kernel functions, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kfuncs: Vec<String>,
    /// Features, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// Architectures, if it is not portable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<Vec<String>>,
}

impl Label {
    /// The label's value: canonical JSON (RFC 8785), lists by name, so that the same label is the same bytes.
    ///
    /// # Errors
    /// [`CanonicalError`] if a number is no integer.
    pub fn to_json(&self) -> Result<String, CanonicalError> {
        let mut sorted = self.clone();
        sorted.programs.sort_by(|a, b| a.name.cmp(&b.name));
        sorted.maps.sort_by(|a, b| a.name.cmp(&b.name));
        sorted.globals.sort_by(|a, b| (&a.name, &a.section).cmp(&(&b.name, &b.section)));
        canonical(&serde_json::to_value(&sorted).map_err(CanonicalError::Json)?)
    }
}

/// A digest as its 64 hex digits.
mod bare_hex {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::digest::Digest;

    pub(super) fn serialize<S: Serializer>(digest: &Option<Digest>, serializer: S) -> Result<S::Ok, S::Error> {
        match digest {
            Some(digest) => serializer.serialize_str(&digest.hex()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Digest>, D::Error> {
        let hex = Option::<String>::deserialize(deserializer)?;
        hex.map(|hex| format!("sha256:{hex}").parse().map_err(de::Error::custom)).transpose()
    }
}
