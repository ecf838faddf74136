//! What a builder is told about an object beyond what is in it: `bytecode.toml`, or the flags of `bpfctl image build`.
//!
//! Owns that file's text; `spec/bytecode.schema.json` is its JSON Schema. Must never say what the object itself says, except the type of a program whose section names
//! none: two sources for one fact drift apart.

use std::collections::{BTreeMap, BTreeSet};

use bpfd_policy::position;
use ebpf::kind::ProgramKind;
use serde::{Deserialize, Deserializer, de};

use crate::{
    build::is_kernel,
    label::{Action, Direction, MAX_PRIORITY, Mode, Scalar},
    name::Name,
};

/// Longest `bytecode.toml`, in bytes: all of it goes into a label.
pub const MAX_METADATA: usize = crate::label::MAX_LABEL;

/// What is said about an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// How an app made of it is called.
    pub name: Option<Name>,
    /// The image's version.
    pub version: Option<String>,
    /// SPDX licence expression of the image.
    pub license: Option<String>,
    /// By function.
    #[serde(default)]
    pub programs: BTreeMap<String, ProgramMetadata>,
    /// By name.
    #[serde(default)]
    pub globals: BTreeMap<String, GlobalMetadata>,
    /// What the kernel must offer.
    #[serde(default)]
    pub requires: RequiresMetadata,
}

/// What is said about a program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramMetadata {
    /// Its type, where its section names none.
    #[serde(default, rename = "type", deserialize_with = "kind")]
    pub kind: Option<ProgramKind>,
    /// 0 to [`MAX_PRIORITY`]; lower runs first.
    #[serde(default, deserialize_with = "priority")]
    pub priority: Option<u32>,
    /// Verdicts after which the next program of the chain runs.
    pub proceed_on: Option<BTreeSet<Action>>,
    /// For tc.
    pub direction: Option<Direction>,
    /// For xdp.
    pub mode: Option<Mode>,
    /// For tracing.
    pub target: Option<String>,
    /// What it does, in a line.
    pub doc: Option<String>,
}

/// What is said about a global variable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GlobalMetadata {
    /// The least value that makes sense.
    pub min: Option<Scalar>,
    /// The greatest value that makes sense.
    pub max: Option<Scalar>,
    /// What it is for, in a line.
    pub doc: Option<String>,
}

/// What the kernel must offer, beyond what the object shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequiresMetadata {
    /// The oldest version, as `>=5.8`.
    #[serde(default, deserialize_with = "kernel")]
    pub kernel: Option<String>,
    /// Helpers, by name.
    #[serde(default)]
    pub helpers: Vec<String>,
    /// Kernel functions, by name.
    #[serde(default)]
    pub kfuncs: Vec<String>,
    /// Features, by name.
    #[serde(default)]
    pub features: Vec<String>,
    /// Architectures, if it is not portable.
    pub arch: Option<Vec<String>>,
}

/// A metadata file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// Longer than a label.
    #[error("the file has {0} bytes; at most {MAX_METADATA} fit into a label")]
    TooLong(usize),
    /// Syntax, an unknown key or a wrong value.
    #[error("line {line}, column {column}: {message}")]
    Toml {
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
}

impl Metadata {
    /// Reads the text of a `bytecode.toml`.
    ///
    /// # Errors
    /// [`MetadataError`].
    pub fn parse(text: &str) -> Result<Self, MetadataError> {
        if text.len() > MAX_METADATA {
            return Err(MetadataError::TooLong(text.len()));
        }
        toml::from_str(text).map_err(|error| {
            let (line, column) = position(text, error.span().map_or(0, |span| span.start));
            MetadataError::Toml { line, column, message: error.message().to_owned() }
        })
    }
}

fn kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ProgramKind>, D::Error> {
    let word = String::deserialize(deserializer)?;
    let known = || ProgramKind::ALL.iter().map(|kind| format!("`{kind}`")).collect::<Vec<_>>().join(", ");
    let kind = word.parse().map_err(|error| de::Error::custom(format!("{error}; it is one of {}", known())));
    kind.map(Some)
}

fn priority<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let priority = u32::deserialize(deserializer)?;
    if priority <= MAX_PRIORITY {
        return Ok(Some(priority));
    }
    Err(de::Error::custom(format!("priority {priority} is not one from 0 to {MAX_PRIORITY}")))
}

fn kernel<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if is_kernel(&text) {
        return Ok(Some(text));
    }
    Err(de::Error::custom(format!("`{text}` is not a kernel requirement: write `>=6.4`")))
}
