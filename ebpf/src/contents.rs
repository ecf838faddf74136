//! What maps hold from the start: the programs of program arrays and the maps of maps of maps that an object names in `.values`.
//!
//! Must never take a place for one that it is not: each reference is held against the map's definition, as in libbpf
//! (`bpf_object__collect_map_relos`).

use serde::{Deserialize, Serialize};

use crate::btf::{Btf, Type};
use crate::elf::{Elf, Relocation, STT_FUNC, STT_OBJECT, Symbol};
use crate::maps::{self, Map, MapKind};
use crate::names::{FunctionName, MapName};

/// Places of one object; each is a system call of a load.
const MAX_CONTENTS: usize = 4096;
/// Bytes of a place: the compiler's pointers.
const PLACE: u64 = 8;

/// One place of a map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// The map.
    pub map: MapName,
    /// Its key.
    pub slot: u32,
    /// What is in it.
    pub holds: Held,
}

/// What a place holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// A program of the object, for tail calls.
    Program(FunctionName),
    /// Another map of the object.
    Map(MapName),
}

/// A map's contents that mean nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("the initial values of map `{map}` cannot be used: {why}")]
pub struct ContentError {
    pub(crate) map: String,
    why: String,
}

/// Every place that has something in it, and for each map whose places mean nothing, why.
pub(crate) fn read(
    elf: &Elf<'_>,
    btf: Option<&Btf<'_>>,
    maps: &[Map],
) -> Result<(Vec<Content>, Vec<ContentError>), ContentError> {
    let (mut contents, mut unusable) = (Vec::new(), Vec::<ContentError>::new());
    let (Some(section), Some(btf)) = (elf.sections.iter().find(|section| maps::is_btf(section)), btf) else {
        return Ok((contents, unusable));
    };
    let bad = |why: String| ContentError { map: section.name.to_owned(), why };
    let relocations = elf.relocations(section.index).map_err(|error| bad(error.to_string()))?;
    if relocations.len() > MAX_CONTENTS {
        return Err(bad(format!("they are more than {MAX_CONTENTS}")));
    }
    for relocation in relocations {
        let holds = |symbol: &&Symbol<'_>| {
            let inside = symbol.value <= relocation.offset && relocation.offset - symbol.value < symbol.size;
            symbol.kind == STT_OBJECT && symbol.section == Some(section.index) && inside
        };
        let variable = elf.symbols.iter().find(holds);
        let map = variable.and_then(|variable| maps.iter().find(|map| map.name.as_str() == variable.name));
        let (variable, map) = variable.zip(map).ok_or_else(|| bad("they are of no map".to_owned()))?;
        match content(elf, btf, maps, (section.index, relocation), (variable, map)) {
            Ok(content) => contents.push(content),
            Err(why) => {
                if unusable.last().is_none_or(|last| last.map != map.name.as_str()) {
                    unusable.push(ContentError { map: map.name.to_string(), why: why.to_owned() });
                }
            }
        }
    }
    Ok((contents, unusable))
}

/// The place of a map that a relocation of the maps' section is about.
fn content(
    elf: &Elf<'_>,
    btf: &Btf<'_>,
    maps: &[Map],
    (section, relocation): (usize, Relocation),
    (variable, map): (&Symbol<'_>, &Map),
) -> Result<Content, &'static str> {
    let first = values_at(btf, map.name.as_str()).ok_or("it has no member `values`")?;
    let at = relocation.offset.checked_sub(variable.value).and_then(|at| at.checked_sub(first));
    let at = at.filter(|at| at.is_multiple_of(PLACE)).ok_or("one is in no place of its own")?;
    let slot = u32::try_from(at / PLACE).map_err(|_too_far| "one is too far behind")?;
    let symbol = elf.symbols.get(relocation.symbol).ok_or("one is nothing")?;
    let holds = match map.kind {
        MapKind::PROG_ARRAY => program(elf, symbol).map(Held::Program).ok_or("one is no program")?,
        MapKind::ARRAY_OF_MAPS | MapKind::HASH_OF_MAPS => {
            let inner = Some(symbol).filter(|symbol| symbol.section == Some(section));
            let inner = inner.and_then(|symbol| maps.iter().find(|map| map.name.as_str() == symbol.name));
            Held::Map(inner.ok_or("one is no map")?.name.clone())
        }
        _ => return Err("its kind takes none"),
    };
    Ok(Content { map: map.name.clone(), slot, holds })
}

/// A function that can be loaded; whether it is a program of the object is asked when it is.
fn program(elf: &Elf<'_>, symbol: &Symbol<'_>) -> Option<FunctionName> {
    let section = symbol.section.and_then(|at| elf.sections.get(at))?;
    (symbol.kind == STT_FUNC && section.is_code()).then(|| symbol.name.parse().ok())?
}

/// Bytes from a map's start to its `values`, the last member.
fn values_at(btf: &Btf<'_>, map: &str) -> Option<u64> {
    let var = btf.section(".maps")?.iter().find(|entry| btf.name(entry.var) == map)?.var;
    let Type::Variable { of } = btf.get(var)? else { return None };
    let (_, Type::Struct { members, .. }) = btf.resolve(of)? else { return None };
    let (member, place) = members.placed().last()?;
    (btf.string(member.name) == "values").then_some(u64::from(place.offset / 8))
}
