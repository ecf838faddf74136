//! Map definitions of an object: BTF maps (`.maps`) and legacy ones (`maps`). Must never follow an inner definition deeper
//! than the one level that the kernel allows, nor take a path for a name.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::btf::{Btf, Type};
use crate::bytes::{index, u32_at};
use crate::elf::{Elf, SHT_PROGBITS, STT_SECTION, Section};
use crate::names::{MapName, NameError, shown};

/// Maps of one object (design, limits).
pub const MAX_MAPS: usize = 256;
/// `LIBBPF_PIN_BY_NAME` of `bpf_helpers.h`, and `PIN_GLOBAL_NS` is 2 in iproute2's `bpf_elf.h`: any value but 0 is a wish.
const NOT_PINNED: u32 = 0;
/// Bytes of a legacy definition up to `map_flags` (`struct bpf_map_def` of old `bpf_helpers.h`).
const LEGACY_SIZE: usize = 16;
/// Offset of `pinning` in the legacy layouts that have one (iproute2's `bpf_elf_map`, aya's `bpf_map_def`).
pub(crate) const LEGACY_PINNING: usize = 24;

/// `enum bpf_map_type` (`include/uapi/linux/bpf.h`). Any number; the kernel decides which it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MapKind(pub u32);

impl MapKind {
    /// Programs, for tail calls.
    pub const PROG_ARRAY: Self = Self(3);
    /// Maps, by number.
    pub const ARRAY_OF_MAPS: Self = Self(12);
    /// Maps, by key.
    pub const HASH_OF_MAPS: Self = Self(13);

    /// The name that bpftool and libbpf print, as of Linux 6.12; `None` for a newer kind.
    pub fn name(self) -> Option<&'static str> {
        const NAMES: [&str; 34] = [
            "unspec",
            "hash",
            "array",
            "prog_array",
            "perf_event_array",
            "percpu_hash",
            "percpu_array",
            "stack_trace",
            "cgroup_array",
            "lru_hash",
            "lru_percpu_hash",
            "lpm_trie",
            "array_of_maps",
            "hash_of_maps",
            "devmap",
            "sockmap",
            "cpumap",
            "xskmap",
            "sockhash",
            "cgroup_storage",
            "reuseport_sockarray",
            "percpu_cgroup_storage",
            "queue",
            "stack",
            "sk_storage",
            "devmap_hash",
            "struct_ops",
            "ringbuf",
            "inode_storage",
            "task_storage",
            "bloom_filter",
            "user_ringbuf",
            "cgrp_storage",
            "arena",
        ];
        NAMES.get(index(self.0)).copied()
    }
}

impl fmt::Display for MapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

/// How a map is defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MapOrigin {
    /// A struct in `.maps`.
    Btf,
    /// A `struct bpf_map_def` in `maps`.
    Legacy,
}

/// One map of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    /// Its name.
    pub name: MapName,
    /// Its kind.
    pub kind: MapKind,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// 0 where the loader chooses, as for a perf event array.
    pub max_entries: u32,
    /// `BPF_F_*`.
    pub flags: u32,
    /// `map_extra`.
    pub extra: u64,
    /// The object wishes it pinned by name. Only a wish: bpfd decides about pins, and `normalise` clears it.
    pub pin_by_name: bool,
    /// How it is defined.
    pub origin: MapOrigin,
    /// The key's type as C writes it, where BTF says.
    pub key_type: Option<String>,
    /// The value's type as C writes it, where BTF says.
    pub value_type: Option<String>,
}

/// A map that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum MapError {
    /// Its name is refused.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A member of its definition is not what it must be.
    #[error("map `{map}`: `{member}` is not {wanted}")]
    Member {
        /// The map.
        map: String,
        /// Its member.
        member: String,
        /// What it has to be.
        wanted: String,
    },
    /// A member that no loader knows.
    #[error("map `{map}` has an unknown member `{member}`")]
    UnknownMember {
        /// The map.
        map: String,
        /// Its member.
        member: String,
    },
    /// Its definition is not a struct, too small, or outside its section.
    #[error("map `{0}` has no readable definition")]
    Definition(String),
    /// Maps need `.BTF` when they are in `.maps`.
    #[error("maps in `.maps` cannot be read without BTF")]
    NoBtf,
    /// More than [`MAX_MAPS`].
    #[error("{found} maps are more than the limit of {limit}")]
    TooMany {
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Two maps of one name.
    #[error("two maps are called `{0}`")]
    Twice(String),
}

/// Every map, by name.
pub(crate) fn read(elf: &Elf<'_>, btf: Option<&Btf<'_>>) -> Result<Vec<Map>, MapError> {
    let mut maps = Vec::new();
    for section in &elf.sections {
        if is_btf(section) {
            read_btf_maps(btf.ok_or(MapError::NoBtf)?, &mut maps)?;
        } else if is_legacy(section) {
            read_legacy(elf, section, &mut maps)?;
        }
    }
    few(maps.len())?;
    maps.sort_by(|a: &Map, b: &Map| a.name.cmp(&b.name));
    match maps.windows(2).find_map(|pair| match pair {
        [a, b] if a.name == b.name => Some(a.name.to_string()),
        _ => None,
    }) {
        Some(name) => Err(MapError::Twice(name)),
        None => Ok(maps),
    }
}

fn few(found: usize) -> Result<(), MapError> {
    if found > MAX_MAPS { Err(MapError::TooMany { found, limit: MAX_MAPS }) } else { Ok(()) }
}

/// Whether a section holds the variables that BTF maps are named by.
pub(crate) fn is_btf(section: &Section<'_>) -> bool {
    is_definitions(section) && section.name == ".maps"
}

fn is_definitions(section: &Section<'_>) -> bool {
    section.is_memory() && section.kind == SHT_PROGBITS
}

/// Whether a section holds legacy definitions: `maps`, or `maps/NAME` as Rust writes it.
pub(crate) fn is_legacy(section: &Section<'_>) -> bool {
    is_definitions(section) && (section.name == "maps" || section.name.starts_with("maps/"))
}

fn read_btf_maps(btf: &Btf<'_>, maps: &mut Vec<Map>) -> Result<(), MapError> {
    let Some(vars) = btf.section(".maps") else { return Ok(()) };
    few(vars.iter().count())?;
    for entry in vars.iter() {
        let name: MapName = btf.name(entry.var).parse()?;
        let of = match btf.get(entry.var) {
            Some(Type::Variable { of }) => of,
            _ => return Err(MapError::Definition(name.into())),
        };
        maps.push(btf_map(btf, name, of)?);
    }
    Ok(())
}

/// The types that the definition of a map in `.maps` names.
#[derive(Clone, Copy, Default)]
pub(crate) struct Declared {
    pub(crate) key: Option<u32>,
    pub(crate) value: Option<u32>,
}

/// What the definition of the map of this name says of its types; nothing of one that is not in `.maps`.
pub(crate) fn declared(btf: &Btf<'_>, name: &str) -> Declared {
    let mut declared = Declared::default();
    let vars = btf.section(".maps");
    let entry = vars.as_ref().and_then(|vars| vars.iter().find(|entry| btf.name(entry.var) == name));
    let Some(Type::Variable { of }) = entry.and_then(|entry| btf.get(entry.var)) else { return declared };
    let Some((_, Type::Struct { members, .. })) = btf.resolve(of) else { return declared };
    for member in members.iter() {
        let place = match btf.string(member.name) {
            "key" => &mut declared.key,
            "value" => &mut declared.value,
            _ => continue,
        };
        if let Some((_, Type::Pointer(to))) = btf.resolve(member.of) {
            *place = Some(to);
        }
    }
    declared
}

fn btf_map(btf: &Btf<'_>, name: MapName, of: u32) -> Result<Map, MapError> {
    let Some((_, Type::Struct { members, .. })) = btf.resolve(of) else {
        return Err(MapError::Definition(name.into()));
    };
    let mut map = Map {
        name,
        kind: MapKind(0),
        key_size: 0,
        value_size: 0,
        max_entries: 0,
        flags: 0,
        extra: 0,
        pin_by_name: false,
        origin: MapOrigin::Btf,
        key_type: None,
        value_type: None,
    };
    for member in members.iter() {
        let word = btf.string(member.name);
        let wrong = |wanted: &str| MapError::Member {
            map: map.name.to_string(),
            member: word.to_owned(),
            wanted: wanted.to_owned(),
        };
        let number = || btf.uint(member).ok_or_else(|| wrong("a number made by __uint()"));
        let sized = || {
            let Some((_, Type::Pointer(to))) = btf.resolve(member.of) else {
                return Err(wrong("a type named by __type()"));
            };
            let size = btf.size(to).ok_or_else(|| wrong("a type with a size"))?;
            Ok((size, btf.c_name(to)))
        };
        match word {
            "type" => map.kind = MapKind(number()?),
            "max_entries" => map.max_entries = number()?,
            "map_flags" => map.flags = number()?,
            "map_extra" => map.extra = number()?.into(),
            "key_size" => map.key_size = number()?,
            "value_size" => map.value_size = number()?,
            "pinning" => map.pin_by_name = number()? != NOT_PINNED,
            "key" => {
                let (size, name) = sized()?;
                (map.key_size, map.key_type) = (size, Some(name));
            }
            "value" => {
                let (size, name) = sized()?;
                (map.value_size, map.value_type) = (size, Some(name));
            }
            // What the maps or programs inside look like; a value is then an id. `normalise` calls that of program arrays `programs`.
            "values" | "programs" => map.value_size = 4,
            // Known to libbpf, without meaning for one object on its own.
            "numa_node" => {
                number()?;
            }
            _ => {
                let member = shown(word);
                return Err(MapError::UnknownMember { map: map.name.into(), member });
            }
        }
    }
    Ok(map)
}

/// The map symbols of a legacy section: (name, offset, size).
pub(crate) fn legacy_symbols<'a>(
    elf: &'a Elf<'a>,
    section: &Section<'_>,
) -> impl Iterator<Item = &'a crate::elf::Symbol<'a>> + use<'a> {
    let at = section.index;
    elf.symbols.iter().filter(move |s| s.section == Some(at) && s.kind != STT_SECTION && !s.name.is_empty())
}

fn read_legacy(elf: &Elf<'_>, section: &Section<'_>, maps: &mut Vec<Map>) -> Result<(), MapError> {
    few(legacy_symbols(elf, section).count())?;
    for symbol in legacy_symbols(elf, section) {
        let name: MapName = symbol.name.parse()?;
        let unreadable = || MapError::Definition(symbol.name.to_owned());
        let from = usize::try_from(symbol.value).ok().ok_or_else(unreadable)?;
        let size = usize::try_from(symbol.size).ok().ok_or_else(unreadable)?;
        let definition = from
            .checked_add(size)
            .and_then(|end| section.data.get(from..end))
            .filter(|definition| definition.len() >= LEGACY_SIZE)
            .ok_or_else(unreadable)?;
        let word = |at: usize| u32_at(definition, at).unwrap_or_default();
        maps.push(Map {
            name,
            kind: MapKind(word(0)),
            key_size: word(4),
            value_size: word(8),
            max_entries: word(12),
            flags: word(16),
            extra: 0,
            pin_by_name: word(LEGACY_PINNING) != NOT_PINNED,
            origin: MapOrigin::Legacy,
            key_type: None,
            value_type: None,
        });
    }
    Ok(())
}
