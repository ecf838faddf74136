//! What `image inspect` prints, and what a builder should mend before pushing: plain data, made from the object and its
//! labels. Decides nothing; a remark is never a refusal.

use std::collections::BTreeMap;

use ebpf::{
    globals::Global,
    inspect::{self, InspectError, Object, Program},
    kind::DeclaredKind,
    maps::Map,
};
use serde::Serialize;

use crate::{
    digest::Digest,
    label::{self, Attach, Generation, Label, LabelError, LabelMismatch, Labelled},
};

/// Longest name of a map or program that the kernel keeps, in bytes (`BPF_OBJ_NAME_LEN` less its NUL,
/// include/uapi/linux/bpf.h).
const KERNEL_NAME: usize = 15;

/// An image and its object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// sha256 of the object.
    pub object: Digest,
    /// Bytes of the object.
    pub size: usize,
    /// What the label calls it.
    pub name: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// The licence of the image.
    pub license: Option<String>,
    /// The licence that the object tells the kernel.
    pub kernel_license: Option<String>,
    /// Which labels the image has; `None` if it has none.
    pub labels: Option<Generation>,
    /// As in the object.
    pub programs: Vec<ProgramSummary>,
    /// As in the object.
    pub maps: Vec<MapSummary>,
    /// As in the object.
    pub globals: Vec<GlobalSummary>,
    /// What should be mended.
    pub remarks: Vec<Remark>,
}

/// A program of the object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProgramSummary {
    /// Its function.
    pub name: String,
    /// Its section.
    pub section: String,
    /// Its type, from the section or else from the label.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Not loaded unless asked for.
    pub optional: bool,
    /// Its instructions.
    pub instructions: u32,
    /// The label's advice.
    pub attach: Option<Attach>,
    /// What it does.
    pub doc: Option<String>,
}

/// A map of the object. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MapSummary {
    /// Its name.
    pub name: String,
    /// Its type in bpftool's words.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of a key.
    pub key_size: u32,
    /// Of a value.
    pub value_size: u32,
    /// How many.
    pub max_entries: u32,
}

/// A global variable that a load can set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GlobalSummary {
    /// Its name.
    pub name: String,
    /// Its type as C writes it.
    #[serde(rename = "type")]
    pub kind: String,
    /// Constant once loaded.
    pub read_only: bool,
    /// What it is for.
    pub doc: Option<String>,
}

/// Something that works less well than it could.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "remark", rename_all = "snake_case")]
pub enum Remark {
    /// Symbols that the object does not define.
    #[error("programs that use {} load only where these are functions of the kernel: bpfd links no variables of the kernel and no other objects", .symbols.join(", "))]
    Unresolved {
        /// Their names.
        symbols: Vec<String>,
    },
    /// No programs.
    #[error("it has no programs")]
    NoPrograms,
    /// No labels.
    #[error("the image has no labels: priority and proceed-on will be the defaults, and nothing tells its version")]
    NoLabels,
    /// Older labels.
    #[error("the image has only the labels `io.ebpf.*`, which say nothing of sections, priority or proceed-on")]
    OlderLabels,
    /// No name.
    #[error("the label has no name: an app is then named after the file or the repository")]
    NoName,
    /// No version.
    #[error("the label has no version: a downgrade cannot be told from an update")]
    NoVersion,
    /// No image licence.
    #[error("the label has no licence")]
    NoLicense,
    /// A section that says nothing.
    #[error("the section of program `{program}` names no type: give it at each load, or in the label")]
    NoType {
        /// Which.
        program: String,
    },
    /// A type that is not loaded.
    #[error("program `{program}` has section `{section}`, a type that bpfd does not load")]
    Unsupported {
        /// Which.
        program: String,
        /// Its section.
        section: String,
    },
    /// A name that the kernel cuts.
    #[error("the kernel shows only the first 15 characters of `{name}`")]
    LongName {
        /// Which.
        name: String,
    },
    /// A wish that is not granted.
    #[error("map `{map}` asks to be pinned by name; bpfd pins maps by app instead")]
    PinByName {
        /// Which.
        map: String,
    },
}

/// Why an image cannot be summarised.
#[derive(Debug, thiserror::Error)]
pub enum SummaryError {
    /// What it carries is no object that bpfd takes.
    #[error("its object cannot be read")]
    Object(#[from] InspectError),
    /// Its labels cannot be read.
    #[error("its labels cannot be read")]
    Label(#[from] LabelError),
    /// Its labels say something else than its object.
    #[error("its labels do not belong to its object")]
    Mismatch(#[from] LabelMismatch),
}

/// Reads an image's object and labels (`config.Labels`), compares them, and summarises.
///
/// # Errors
/// [`SummaryError`].
pub fn read(object: &[u8], labels: &BTreeMap<String, String>) -> Result<Summary, SummaryError> {
    let digest = Digest::of(object);
    let inspected = inspect::describe(object)?;
    let labelled = label::read(labels)?;
    if let Some(labelled) = &labelled {
        labelled.check_against(digest, &inspected)?;
    }
    Ok(summary(digest, object.len(), &inspected, labelled.as_ref()))
}

/// Summarises an object of `size` bytes with its labels, which have been compared with it.
#[must_use]
pub fn summary(digest: Digest, size: usize, object: &Object, labelled: Option<&Labelled>) -> Summary {
    let empty = Label::default();
    let label = labelled.map_or(&empty, |labelled| &labelled.label);
    Summary {
        object: digest,
        size,
        name: label.name.as_ref().map(ToString::to_string),
        version: label.version.clone(),
        license: label.license.clone(),
        kernel_license: object.license.clone(),
        labels: labelled.map(|labelled| labelled.generation),
        programs: object.programs.iter().map(|program| program_summary(program, label)).collect(),
        maps: object.maps.iter().map(map_summary).collect(),
        globals: object.globals.iter().map(|global| global_summary(global, label)).collect(),
        remarks: remarks(object, labelled),
    }
}

fn program_summary(program: &Program, label: &Label) -> ProgramSummary {
    let listed = label.programs.iter().find(|listed| listed.name == program.function);
    let kind = match &program.kind {
        DeclaredKind::Known(kind) => Some(kind.to_string()),
        DeclaredKind::Unsupported(section) => section.split('/').next().map(str::to_owned),
        DeclaredKind::Unstated => listed.and_then(|listed| listed.kind.clone()),
    };
    ProgramSummary {
        name: program.function.to_string(),
        section: program.section.to_string(),
        kind,
        optional: program.optional,
        instructions: program.instructions,
        attach: listed.and_then(|listed| listed.attach.clone()),
        doc: listed.and_then(|listed| listed.doc.clone()),
    }
}

fn map_summary(map: &Map) -> MapSummary {
    MapSummary {
        name: map.name.to_string(),
        kind: map.kind.to_string(),
        key_size: map.key_size,
        value_size: map.value_size,
        max_entries: map.max_entries,
    }
}

fn global_summary(global: &Global, label: &Label) -> GlobalSummary {
    GlobalSummary {
        name: global.name.clone(),
        kind: global.type_name.clone(),
        read_only: global.read_only,
        doc: label.globals.iter().find(|listed| listed.name == global.name).and_then(|listed| listed.doc.clone()),
    }
}

fn remarks(object: &Object, labelled: Option<&Labelled>) -> Vec<Remark> {
    let mut remarks = Vec::new();
    let symbols: Vec<String> = object.unresolved().map(|name| format!("`{name}`")).collect();
    if !symbols.is_empty() {
        remarks.push(Remark::Unresolved { symbols });
    }
    if object.programs.is_empty() {
        remarks.push(Remark::NoPrograms);
    }
    match labelled {
        None => remarks.push(Remark::NoLabels),
        Some(Labelled { generation: Generation::Ebpf | Generation::EbpfSingle, .. }) => {
            remarks.push(Remark::OlderLabels)
        }
        Some(Labelled { generation: Generation::Bytecode, label }) => {
            remarks.extend(label.name.is_none().then_some(Remark::NoName));
            remarks.extend(label.version.is_none().then_some(Remark::NoVersion));
            remarks.extend(label.license.is_none().then_some(Remark::NoLicense));
        }
    }
    let typed = |program: &Program| {
        let listed = labelled.and_then(|l| l.label.programs.iter().find(|listed| listed.name == program.function));
        listed.is_some_and(|listed| listed.kind.is_some())
    };
    for program in &object.programs {
        let name = program.function.to_string();
        match &program.kind {
            DeclaredKind::Known(_) => {}
            DeclaredKind::Unsupported(section) => {
                remarks.push(Remark::Unsupported { program: name, section: section.clone() });
            }
            DeclaredKind::Unstated if typed(program) => {}
            DeclaredKind::Unstated => remarks.push(Remark::NoType { program: name }),
        }
    }
    let maps = object.maps.iter();
    remarks
        .extend(maps.clone().filter(|map| map.pin_by_name).map(|map| Remark::PinByName { map: map.name.to_string() }));
    let names =
        object.programs.iter().map(|program| program.function.as_str()).chain(maps.map(|map| map.name.as_str()));
    let long = names.filter(|name| name.len() > KERNEL_NAME);
    remarks.extend(long.map(|name| Remark::LongName { name: name.to_owned() }));
    remarks
}
