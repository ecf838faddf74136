//! What an object holds, as plain data: programs, maps, globals, licence. It crosses a process boundary as JSON and is
//! printed, so every name in it is parsed and every list bounded. Must never panic: the bytes are anybody's.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::btf::{Btf, BtfError, SectionVars, Type};
use crate::btf_ext::BtfExt;
use crate::bytes::count;
use crate::contents::{self, Content, ContentError};
use crate::elf::{Elf, ElfError};
use crate::externs::{self, Extern, ExternKind};
use crate::functions::{self, FunctionError};
use crate::globals::{Global, GlobalError, GlobalType, Initial};
use crate::kind::{self, DeclaredKind, ProgramKind};
use crate::maps::{self, Map, MapError};
use crate::names::{FunctionName, NameError, SectionName, shown};
use crate::run_config::{self, RunConfig, RunConfigError};
use crate::swapped;
use crate::variables;

/// Longest licence, bytes: the kernel copies 128 with the NUL (`license[128]` in `bpf_prog_load`).
const MAX_LICENSE: usize = 127;
/// Tags that are listed.
const MAX_LISTED: usize = 256;

/// The order of the bytes of a number in an object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ByteOrder {
    /// That of the hosts that bpfd runs on.
    #[default]
    Little,
    /// That of s390x, for one.
    Big,
}

impl fmt::Display for ByteOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Little => "little",
            Self::Big => "big",
        })
    }
}

/// What an object holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Big only as [`describe`] reads it: such an object is never loaded.
    #[serde(default)]
    pub byte_order: ByteOrder,
    /// By section, then offset.
    pub programs: Vec<Program>,
    /// By name. Data sections are maps too, but listed apart.
    pub maps: Vec<Map>,
    /// `.data`, `.rodata`, `.bss` and custom ones, in file order.
    pub data: Vec<DataSection>,
    /// What maps hold from the start.
    #[serde(default)]
    pub contents: Vec<Content>,
    /// What maps are to hold and cannot: a reason not to load programs that use these maps.
    #[serde(default)]
    pub unusable_contents: Vec<ContentError>,
    /// By section, then offset.
    pub globals: Vec<Global>,
    /// Symbols that the object expects from outside, by name.
    pub externs: Vec<Extern>,
    /// Text of the `license` section; `None` if there is none. The kernel then gets an empty one, as from libbpf: not compatible with
    /// the GPL. Loaders that assume "GPL" here speak for the author.
    pub license: Option<String>,
    /// Whether it has type information.
    pub has_btf: bool,
    /// How many places depend on the running kernel's types.
    pub core_relocations: u32,
    /// `arg:*` declaration tags: they change what the verifier believes of a parameter.
    pub decl_tags: Vec<String>,
}

/// One program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its function.
    pub function: FunctionName,
    /// Its ELF section, as written.
    pub section: SectionName,
    /// What the section's name says of its kind.
    pub kind: DeclaredKind,
    /// What follows the `/` of the section's name: `sched/sched_switch` of `tp/sched/sched_switch`.
    pub target: Option<String>,
    /// Takes packets in several buffers (`xdp.frags`).
    pub frags: bool,
    /// Not loaded unless it is asked for (`?xdp`).
    pub optional: bool,
    /// Instruction slots of eight bytes, callees not counted.
    pub instructions: u32,
    /// What it asks for in a chain.
    pub run_config: RunConfig,
}

impl Program {
    /// Its kind, if its section names one that bpfd loads.
    pub fn kind(&self) -> Option<ProgramKind> {
        match self.kind {
            DeclaredKind::Known(kind) => Some(kind),
            DeclaredKind::Unsupported(_) | DeclaredKind::Unstated => None,
        }
    }
}

/// A section of variables: one array map of one entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSection {
    /// Its name, `.rodata` for one.
    pub name: SectionName,
    /// Bytes.
    pub size: u32,
    /// Constant once loaded.
    pub read_only: bool,
}

/// Why an object cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum InspectError {
    /// Not an object that this host could run.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// Its type information.
    #[error("cannot read the object's BTF")]
    Btf(#[from] BtfError),
    /// A name in it.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Its functions.
    #[error(transparent)]
    Function(#[from] FunctionError),
    /// Its maps.
    #[error(transparent)]
    Map(#[from] MapError),
    /// What its maps hold from the start.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// Its `.xdp_run_config`.
    #[error(transparent)]
    RunConfig(#[from] RunConfigError),
    /// Its licence is not one line of text.
    #[error("the license section is not one line of ASCII text of at most {0} bytes")]
    License(usize),
    /// More of something than is read.
    #[error("more {what} than the limit of {limit}")]
    TooMany {
        /// `globals`, `externs`.
        what: String,
        /// How many there are, or might be.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// It contradicts itself.
    #[error("malformed object: {0}")]
    Malformed(String),
}

impl Object {
    /// Symbols of the kernel that are not weak: a program that reaches one loads only if this kernel has it as a function.
    pub fn unresolved(&self) -> impl Iterator<Item = &str> {
        let needed = self.externs.iter().filter(|symbol| symbol.kind == ExternKind::Kernel && !symbol.weak);
        needed.map(|symbol| symbol.name.as_str())
    }

    /// The global of this name.
    pub fn global(&self, name: &str) -> Result<&Global, GlobalError> {
        let mut found = self.globals.iter().filter(|global| global.name == name);
        match (found.next(), found.next()) {
            (Some(global), None) => Ok(global),
            (Some(_), Some(_)) => Err(GlobalError::Ambiguous(name.to_owned())),
            (None, _) => Err(GlobalError::Unknown {
                name: name.to_owned(),
                candidates: self.globals.iter().map(|global| global.name.clone()).collect(),
            }),
        }
    }
}

/// Reads an object of either byte order: for those who describe or package it, and do not load it.
pub fn describe(elf: &[u8]) -> Result<Object, InspectError> {
    if !swapped::is_big_endian(elf) {
        return inspect(elf);
    }
    let turned = swapped::to_little_endian(elf).ok_or_else(|| ElfError::Truncated("a table".to_owned()))?;
    let mut object = Object { byte_order: ByteOrder::Big, ..inspect(&turned)? };
    // What variables hold was not turned, as only their types tell what it is.
    for global in &mut object.globals {
        if let (GlobalType::Char | GlobalType::Int { .. } | GlobalType::Enum { .. }, Initial::Bytes(bytes)) =
            (&global.ty, &mut global.initial)
        {
            bytes.reverse();
        }
    }
    Ok(object)
}

/// Reads an object that this host could run.
pub fn inspect(elf: &[u8]) -> Result<Object, InspectError> {
    let elf = Elf::open(elf)?;
    let btf = open_btf(&elf)?;
    let ext = btf.as_ref().map(|btf| open_ext(&elf, btf)).transpose()?.unwrap_or_default();
    let functions = functions::read(&elf)?;
    let run_configs = btf.as_ref().and_then(|btf| run_config::variables(btf).map(|vars| (btf, vars)));
    let programs = functions::programs(&elf, &functions)?
        .into_iter()
        .map(|(name, function)| program(&elf, run_configs, name, function))
        .collect::<Result<Vec<_>, _>>()?;
    let maps = maps::read(&elf, btf.as_ref())?;
    let (contents, unusable_contents) = contents::read(&elf, btf.as_ref(), &maps)?;
    Ok(Object {
        byte_order: ByteOrder::Little,
        programs,
        contents,
        unusable_contents,
        maps,
        data: data(&elf, btf.as_ref())?,
        globals: variables::globals(&elf, btf.as_ref())?,
        externs: externs::read(&elf, btf.as_ref())?,
        license: license(&elf)?,
        has_btf: btf.is_some(),
        core_relocations: count(ext.core_count()),
        decl_tags: btf.as_ref().map(decl_tags).unwrap_or_default(),
    })
}

/// The sections of variables, and what the object asks of the kernel's configuration: a map too.
fn data(elf: &Elf<'_>, btf: Option<&Btf<'_>>) -> Result<Vec<DataSection>, InspectError> {
    let mut data = variables::sections(elf)?;
    let size = externs::Config::read(btf).size;
    if size > 0 {
        data.push(DataSection { name: externs::CONFIG_MAP.parse()?, size, read_only: true });
    }
    Ok(data)
}

/// The object's types; `None` if it has none.
pub(crate) fn open_btf<'a>(elf: &Elf<'a>) -> Result<Option<Btf<'a>>, BtfError> {
    match elf.content(".BTF") {
        Some(section) if !section.data.is_empty() => Btf::open(section.data).map(Some),
        _ => Ok(None),
    }
}

/// What the object says about its instructions; empty if it says nothing.
pub(crate) fn open_ext<'a>(elf: &Elf<'a>, btf: &Btf<'a>) -> Result<BtfExt<'a>, BtfError> {
    match elf.content(".BTF.ext") {
        Some(section) if !section.data.is_empty() => BtfExt::open(section.data, btf),
        _ => Ok(BtfExt::default()),
    }
}

/// The licence; trailing NULs are padding.
pub(crate) fn license(elf: &Elf<'_>) -> Result<Option<String>, InspectError> {
    let Some(section) = elf.content("license") else { return Ok(None) };
    let text = section.data.split(|byte| *byte == 0).next().unwrap_or_default();
    let rest_is_padding = section.data.iter().skip(text.len()).all(|byte| *byte == 0);
    let printable = text.iter().all(|byte| matches!(byte, b' '..=b'~'));
    match std::str::from_utf8(text) {
        Ok(text) if text.len() <= MAX_LICENSE && printable && rest_is_padding => Ok(Some(text.to_owned())),
        _ => Err(InspectError::License(MAX_LICENSE)),
    }
}

fn program(
    elf: &Elf<'_>,
    run_configs: Option<(&Btf<'_>, SectionVars<'_>)>,
    name: FunctionName,
    function: &functions::Function<'_>,
) -> Result<Program, InspectError> {
    let section = elf.sections.get(function.section).map_or("", |section| section.name);
    let meaning = kind::meaning(section);
    let run_config = match run_configs {
        Some((btf, vars)) => run_config::read(btf, vars, name.as_str())?,
        None => RunConfig::default(),
    };
    Ok(Program {
        function: name,
        section: section.parse()?,
        kind: meaning.kind,
        target: meaning.target,
        frags: meaning.frags,
        optional: meaning.optional,
        instructions: u32::try_from(function.size / functions::INSN).unwrap_or(u32::MAX),
        run_config,
    })
}

fn decl_tags(btf: &Btf<'_>) -> Vec<String> {
    let tags: BTreeSet<&str> = btf
        .ids()
        .filter(|id| matches!(btf.get(*id), Some(Type::Tag { .. })))
        .map(|id| btf.name(id))
        .filter(|name| name.starts_with("arg:"))
        .collect();
    tags.into_iter().take(MAX_LISTED).map(shown).collect()
}
