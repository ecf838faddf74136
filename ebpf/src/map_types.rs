//! What a map of an object holds, by the object's type information: the types of its keys, values and records, for people to read and
//! write them. Must never follow more of a type than `variables.rs` carries, nor say a type of another size than the map's.

use serde::{Deserialize, Serialize};

use crate::btf::{Btf, Type};
use crate::elf::Elf;
use crate::externs::CONFIG_MAP;
use crate::globals::{GlobalType, Member};
use crate::inspect::{InspectError, open_btf};
use crate::maps::{self, MapKind};
use crate::names::shown;
use crate::variables::{self, Classifier};

/// A type, with its size and as C writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Typed {
    /// What it holds.
    #[serde(rename = "type")]
    pub ty: GlobalType,
    /// Bytes.
    pub size: u32,
    /// In C: `struct flow`.
    pub name: String,
}

/// The types of a map; `None` where the object does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapTypes {
    /// Of its keys.
    pub key: Option<Typed>,
    /// Of its values; of a ring or perf buffer, of its records.
    pub value: Option<Typed>,
}

/// Why the types of a map cannot be said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum MapTypesError {
    /// The object cannot be read.
    #[error(transparent)]
    Object(#[from] InspectError),
    /// A type was asked for that is not there.
    #[error("the object has no type `{0}` with a size")]
    NoType(String),
}

/// The types of the map of this name. `record` names the type of a buffer's records, as C does, with or without `struct`.
pub fn map_types(elf: &[u8], map: &str, record: Option<&str>) -> Result<MapTypes, MapTypesError> {
    let elf = Elf::open(elf).map_err(InspectError::from)?;
    let btf = open_btf(&elf).map_err(InspectError::from)?;
    let data = variables::sections(&elf)?;
    if let Some(section) = data.iter().find(|section| section.name.as_str() == map) {
        let members = variables(&elf, btf.as_ref(), map)?;
        let value =
            Typed { ty: GlobalType::Struct { members }, size: section.size, name: format!("variables of {map}") };
        return Ok(MapTypes { key: Some(number()), value: Some(value) });
    }
    if map == CONFIG_MAP {
        return Ok(MapTypes { key: Some(number()), value: None });
    }
    let Some(btf) = &btf else {
        return match record {
            None => Ok(MapTypes::default()),
            Some(record) => Err(MapTypesError::NoType(shown(record))),
        };
    };
    let named = record.map(|record| of_name(btf, record).ok_or_else(|| MapTypesError::NoType(shown(record))));
    let kind = maps::read(&elf, Some(btf)).map_err(InspectError::from)?;
    let kind = kind.into_iter().find(|found| found.name.as_str() == map).map(|found| found.kind);
    let members = maps::declared(btf, map);
    let key = members.key.and_then(|of| typed(btf, of)).or_else(|| kind.filter(is_indexed).map(|_| number()));
    let value = match named.transpose()? {
        Some(record) => Some(record),
        None => members.value.and_then(|of| typed(btf, of)).or_else(|| kind.filter(is_of_numbers).map(|_| number())),
    };
    Ok(MapTypes { key, value })
}

/// Its keys are numbers, whatever the object says of them.
fn is_indexed(kind: &MapKind) -> bool {
    matches!(kind.name(), Some("array" | "percpu_array" | "prog_array" | "array_of_maps"))
}

/// User space reads the kernel's numbers of what is in it.
fn is_of_numbers(kind: &MapKind) -> bool {
    matches!(kind.name(), Some("prog_array" | "array_of_maps" | "hash_of_maps"))
}

/// A `u32`.
fn number() -> Typed {
    Typed { ty: GlobalType::Int { size: 4, signed: false }, size: 4, name: "u32".to_owned() }
}

fn typed(btf: &Btf<'_>, of: u32) -> Option<Typed> {
    let size = btf.size(of)?;
    Some(Typed { ty: Classifier::new(btf).whole(of), size, name: btf.c_name(of) })
}

fn of_name(btf: &Btf<'_>, name: &str) -> Option<Typed> {
    let word = name.strip_prefix("struct ").unwrap_or(name).trim();
    let is_it = |id: &u32| {
        let fits = matches!(btf.get(*id), Some(Type::Struct { .. } | Type::Alias { is_typedef: true, .. }));
        fits && btf.name(*id) == word && !word.is_empty()
    };
    btf.ids().filter(is_it).find_map(|id| typed(btf, id))
}

/// The variables of a data section as members of one struct. Of two with the same name, which are static ones of two source files, the
/// later is called by its place as well.
fn variables(elf: &Elf<'_>, btf: Option<&Btf<'_>>, section: &str) -> Result<Vec<Member>, InspectError> {
    let mut members: Vec<Member> = Vec::new();
    for global in variables::globals(elf, btf)? {
        if global.section.as_str() != section {
            continue;
        }
        let taken = members.iter().any(|other| other.name == global.name);
        let name = if taken { format!("{}@{}", global.name, global.offset) } else { global.name };
        members.push(Member { name, offset: global.offset, size: global.size, ty: global.ty });
    }
    Ok(members)
}
