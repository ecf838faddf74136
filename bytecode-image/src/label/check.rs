//! Does a label tell the truth about its object? What it says of names, sections, types and sizes must agree with the ELF
//! file; whoever signed or read the label would else have trusted something that is not loaded.

use std::fmt;

use ebpf::{
    inspect::{Object, Program},
    kind::{DeclaredKind, ProgramKind},
    maps::Map,
};

use super::{BySection, Endian, Generation, GlobalLabel, Label, Labelled, MapLabel, ObjectLabel, ProgramLabel};
use crate::digest::Digest;

/// A label that contradicts its object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelMismatch {
    /// The label says something else than the object.
    #[error("label contradicts the object: {subject}: label says {label}, object has {object}")]
    Differs {
        /// What about: ``section of program `pass` ``.
        subject: String,
        /// The label's value.
        label: String,
        /// The object's value.
        object: String,
    },
    /// The label lists something that is not there.
    #[error("label contradicts the object: it lists {what} `{name}`, which the object does not have; it has: {there}")]
    Absent {
        /// `program`, `map`, `global`.
        what: &'static str,
        /// As listed.
        name: String,
        /// What there is.
        there: String,
    },
    /// The object has something that the label, which lists everything, does not.
    #[error("label contradicts the object: it does not list {what} `{name}`, which the object has")]
    Unlisted {
        /// `program`, `map`.
        what: &'static str,
        /// As in the object.
        name: String,
    },
}

/// How many names of an object an error lists.
const SHOWN: usize = 8;

impl Labelled {
    /// Compares the label with the object and its digest.
    ///
    /// Our own label lists every program and map; older ones are compared in what they list.
    ///
    /// # Errors
    /// [`LabelMismatch`], the first there is.
    pub fn check_against(&self, digest: Digest, object: &Object) -> Result<(), LabelMismatch> {
        let Label {
            schema: _,
            name: _,
            version: _,
            license: _,
            object: file,
            programs,
            maps,
            globals,
            requires: _,
            by_section,
        } = &self.label;
        file.as_ref().map_or(Ok(()), |file| check_file(file, digest, object))?;
        programs.iter().try_for_each(|program| check_program(program, object))?;
        by_section.as_ref().map_or(Ok(()), |named| check_section(named, object))?;
        maps.iter().try_for_each(|map| check_map(map, object))?;
        globals.iter().try_for_each(|global| check_global(global, object))?;
        match self.generation {
            Generation::Ebpf | Generation::EbpfSingle => Ok(()),
            Generation::Bytecode => check_complete(&self.label, object),
        }
    }
}

fn check_complete(label: &Label, object: &Object) -> Result<(), LabelMismatch> {
    let program =
        object.programs.iter().find(|there| label.programs.iter().all(|listed| listed.name != there.function));
    if let Some(program) = program {
        return Err(LabelMismatch::Unlisted { what: "program", name: program.function.to_string() });
    }
    let map = object.maps.iter().find(|there| label.maps.iter().all(|listed| listed.name != there.name));
    map.map_or(Ok(()), |map| Err(LabelMismatch::Unlisted { what: "map", name: map.name.to_string() }))
}

fn check_file(file: &ObjectLabel, digest: Digest, object: &Object) -> Result<(), LabelMismatch> {
    let ObjectLabel { path: _, sha256, endian, btf, core_relocations, kernel_license } = file;
    same("sha256 of the object", *sha256, digest)?;
    let word = |endian: Endian| format!("{endian:?}").to_lowercase();
    same("byte order", endian.map(word), word(object.byte_order.into()))?;
    same("type information (BTF)", *btf, object.has_btf)?;
    same("CO-RE relocations", *core_relocations, object.core_relocations > 0)?;
    let none = "none".to_owned();
    same("kernel licence", kernel_license.clone(), object.license.clone().unwrap_or(none))
}

/// What the label says, if it says anything, must be what the object has.
fn same<T: PartialEq + fmt::Display>(subject: &str, label: Option<T>, object: T) -> Result<(), LabelMismatch> {
    match label {
        Some(label) if label != object => Err(LabelMismatch::Differs {
            subject: subject.to_owned(),
            label: format!("`{label}`"),
            object: format!("`{object}`"),
        }),
        Some(_) | None => Ok(()),
    }
}

fn absent<'a>(what: &'static str, name: &str, there: impl Iterator<Item = &'a str>) -> LabelMismatch {
    let mut there: Vec<&str> = there.take(SHOWN + 1).collect();
    if there.len() > SHOWN {
        there.truncate(SHOWN);
        there.push("…");
    }
    let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
    LabelMismatch::Absent { what, name: name.to_owned(), there }
}

fn check_program(label: &ProgramLabel, object: &Object) -> Result<(), LabelMismatch> {
    let ProgramLabel { name, section, kind, frags, optional, attach: _, doc: _ } = label;
    let program = object.programs.iter().find(|program| program.function == *name);
    let program = program.ok_or_else(|| {
        absent("program", name.as_str(), object.programs.iter().map(|program| program.function.as_str()))
    })?;
    same(&format!("section of program `{name}`"), section.as_ref(), &program.section)?;
    same(&format!("fragments of program `{name}`"), *frags, program.frags)?;
    same(&format!("optional of program `{name}`"), *optional, program.optional)?;
    match kind {
        Some(kind) => check_kind(kind, program),
        None => Ok(()),
    }
}

/// One program that fits is enough: several may share a section.
fn check_section(label: &BySection, object: &Object) -> Result<(), LabelMismatch> {
    let BySection { section: name, kind } = label;
    let is_named = |program: &&Program| {
        let section = program.section.as_str();
        let behind = section.split_once('/').map(|(_, behind)| behind);
        section == name || behind == Some(name) || program.function.as_str() == name
    };
    let mut named = object.programs.iter().filter(is_named).map(|program| check_kind(kind, program)).peekable();
    if named.peek().is_none() {
        return Err(absent("section", name, object.programs.iter().map(|program| program.section.as_str())));
    }
    named.reduce(|one, other| one.or(other)).unwrap_or(Ok(()))
}

fn check_kind(label: &str, program: &Program) -> Result<(), LabelMismatch> {
    let differs = |object: &str| LabelMismatch::Differs {
        subject: format!("type of program `{}`", program.function),
        label: format!("`{label}`"),
        object: format!("section `{object}`"),
    };
    let agrees = match &program.kind {
        DeclaredKind::Known(kind) => ProgramKind::of_label(label) == Some(*kind),
        DeclaredKind::Unsupported(section) => {
            section.split(['/', '.']).next().is_some_and(|word| word == label || short(word) == label)
        }
        // Its section names no type: the label may.
        DeclaredKind::Unstated => true,
    };
    if agrees { Ok(()) } else { Err(differs(program.section.as_str())) }
}

fn short(word: &str) -> &str {
    match word {
        "raw_tp" => "raw_tracepoint",
        "freplace" => "ext",
        same => same,
    }
}

fn check_map(label: &MapLabel, object: &Object) -> Result<(), LabelMismatch> {
    let MapLabel { name, kind, key_size, value_size, max_entries, pinning: _, key_btf, value_btf } = label;
    let Some(map) = object.maps.iter().find(|map| map.name == *name) else {
        // bpfman lists data sections too: each is an array of one entry.
        let data = object.data.iter().any(|data| data.name.as_str() == name.as_str());
        let array = kind.as_ref().is_none_or(|kind| words(kind) == "array" || kind == "2");
        return if data && array {
            Ok(())
        } else {
            Err(absent("map", name.as_str(), object.maps.iter().map(|map| map.name.as_str())))
        };
    };
    if let Some(kind) = kind.as_ref().filter(|kind| !is_map_kind(kind, map)) {
        let subject = format!("type of map `{name}`");
        return Err(LabelMismatch::Differs { subject, label: format!("`{kind}`"), object: format!("`{}`", map.kind) });
    }
    same(&format!("key size of map `{name}`"), *key_size, map.key_size)?;
    same(&format!("value size of map `{name}`"), *value_size, map.value_size)?;
    same(&format!("entries of map `{name}`"), *max_entries, map.max_entries)?;
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    same(&format!("key type of map `{name}`"), key_btf.clone(), text(&map.key_type))?;
    same(&format!("value type of map `{name}`"), value_btf.clone(), text(&map.value_type))
}

/// bpftool's word, the same with other underscores (`per_cpu_array`), aya's and cilium's `program_array`, or the number.
fn is_map_kind(label: &str, map: &Map) -> bool {
    let number = label.parse() == Ok(map.kind.0);
    let label = words(label);
    let label = if label == "programarray" { "progarray" } else { label.as_str() };
    number || map.kind.name().is_some_and(|name| words(name) == label)
}

fn words(kind: &str) -> String {
    kind.chars().filter(|character| *character != '_').map(|character| character.to_ascii_lowercase()).collect()
}

fn check_global(label: &GlobalLabel, object: &Object) -> Result<(), LabelMismatch> {
    let GlobalLabel { name, section, kind, size, default: _, min: _, max: _, doc: _ } = label;
    let mut named = object.globals.iter().filter(|global| global.name == *name).peekable();
    let Some(first) = named.peek().copied() else {
        return Err(absent("global", name, object.globals.iter().map(|global| global.name.as_str())));
    };
    // Two files linked into one object may each have a static variable of this name: one of them must fit.
    let fits = named.any(|global| {
        section.as_ref().is_none_or(|section| *section == global.section)
            && kind.as_ref().is_none_or(|kind| *kind == global.type_name)
            && size.is_none_or(|size| size == global.size)
    });
    if fits {
        return Ok(());
    }
    same(&format!("section of global `{name}`"), section.as_ref(), &first.section)?;
    same(&format!("type of global `{name}`"), kind.as_ref(), &first.type_name)?;
    same(&format!("size of global `{name}`"), *size, first.size)
}
