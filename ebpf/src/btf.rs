//! The `.BTF` section: types by id, names, sizes, variables of sections. Every reference and string offset is checked when
//! it is opened, so later look-ups need no second opinion; chains of types are followed to a fixed depth, so a cycle ends.
//! Format: `Documentation/bpf/btf.rst`, `include/uapi/linux/btf.h`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

pub(crate) use crate::btf_type::{EnumValues, Member, Members, Place, SectionVars, Type};
use crate::bytes::{self, index, string_at, u16_at, u32_at};

/// How many typedefs, qualifiers, pointers or array dimensions are followed (the kernel's `MAX_RESOLVE_DEPTH` is 32).
const MAX_DEPTH: usize = 32;
/// Types of one object; vmlinux has about 150 000.
pub(crate) const MAX_TYPES: usize = 1 << 18;
pub(crate) const MAGIC: u16 = 0xeb9f;
/// `struct btf_header`.
pub(crate) const HEADER_SIZE: usize = 24;
/// `struct btf_type`.
pub(crate) const TYPE_SIZE: usize = 12;

/// Why BTF cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum BtfError {
    /// Not the magic, version or header this reads.
    #[error("not BTF of version 1")]
    Header,
    /// A part lies beyond the end of the section.
    #[error("BTF is truncated in its {0}")]
    Truncated(String),
    /// More types than this reads.
    #[error("BTF has more than {0} types")]
    TooManyTypes(usize),
    /// A kind newer than this reader.
    #[error("BTF type {id} is of unknown kind {kind}")]
    UnknownKind {
        /// Type id.
        id: u32,
        /// `BTF_KIND_*`.
        kind: u32,
    },
    /// A string offset that leads nowhere, or to bytes that are not UTF-8.
    #[error("BTF type {0} has a name outside the string table")]
    Name(u32),
    /// A reference to a type that does not exist.
    #[error("BTF type {id} refers to missing type {to}")]
    Reference {
        /// The type that refers.
        id: u32,
        /// The id it names.
        to: u32,
    },
    /// A size that no compiler writes, or a member outside its struct.
    #[error("BTF type {0} has an impossible size or member")]
    Size(u32),
    /// `.BTF.ext` contradicts itself or `.BTF`.
    #[error("malformed .BTF.ext: {0}")]
    Ext(String),
}

/// An opened `.BTF` section.
#[derive(Debug, Clone)]
pub(crate) struct Btf<'a> {
    pub(crate) types: &'a [u8],
    pub(crate) strings: &'a str,
    /// Where each type starts in `types`; type id 1 is first.
    offsets: Cow<'a, [usize]>,
}

impl<'a> Btf<'a> {
    pub(crate) fn open(section: &'a [u8]) -> Result<Self, BtfError> {
        let mut btf = Self::reopen(section, &[])?;
        let (mut offsets, mut at) = (Vec::new(), 0);
        while at < btf.types.len() {
            if offsets.len() >= MAX_TYPES {
                return Err(BtfError::TooManyTypes(MAX_TYPES));
            }
            offsets.push(at);
            at += TYPE_SIZE + body_size(btf.types, at, offsets.len())?;
            if at > btf.types.len() {
                return Err(BtfError::Truncated("types".to_owned()));
            }
        }
        btf.offsets = offsets.into();
        for id in btf.ids() {
            btf.check(id)?;
        }
        Ok(btf)
    }

    /// A section that was opened before, with where its types start.
    pub(crate) fn reopen(section: &'a [u8], offsets: &'a [usize]) -> Result<Self, BtfError> {
        if u16_at(section, 0) != Some(MAGIC) || section.get(2) != Some(&1) {
            return Err(BtfError::Header);
        }
        let header = index(u32_at(section, 4).ok_or(BtfError::Header)?);
        if header < HEADER_SIZE {
            return Err(BtfError::Header);
        }
        let part = |at: usize, what: &str| {
            let missing = || BtfError::Truncated(what.to_owned());
            let offset = index(u32_at(section, at).ok_or_else(missing)?);
            let len = index(u32_at(section, at + 4).ok_or_else(missing)?);
            let start = header.checked_add(offset).ok_or_else(missing)?;
            section.get(start..start.checked_add(len).ok_or_else(missing)?).ok_or_else(missing)
        };
        let (types, strings) = (part(8, "types")?, part(16, "strings")?);
        if strings.first() != Some(&0) || strings.last() != Some(&0) {
            return Err(BtfError::Truncated("strings".to_owned()));
        }
        // Once for the whole table: then a name costs one look, however many there are.
        let strings = std::str::from_utf8(strings).ok().ok_or_else(|| BtfError::Truncated("strings".to_owned()))?;
        Ok(Self { types, strings, offsets: offsets.into() })
    }

    /// For [`Btf::reopen`].
    pub(crate) fn into_offsets(self) -> Vec<usize> {
        self.offsets.into_owned()
    }

    /// How many types there are: ids 1 to this.
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.offsets.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn ids(&self) -> std::ops::RangeInclusive<u32> {
        1..=self.len()
    }

    /// Byte offset of a type in [`Btf::types`].
    pub(crate) fn offset_of(&self, id: u32) -> Option<usize> {
        self.offsets.get(index(id).checked_sub(1)?).copied()
    }

    /// The bytes of a type; `None` beyond the last, and of `void`.
    pub(crate) fn raw(&self, id: u32) -> Option<&'a [u8]> {
        let at = self.offset_of(id)?;
        self.types.get(at..at + TYPE_SIZE + body_size(self.types, at, index(id)).ok()?)
    }

    /// The type `id`; `None` beyond the last.
    pub(crate) fn get(&self, id: u32) -> Option<Type<'a>> {
        if id == 0 {
            return Some(Type::Void);
        }
        let at = self.offset_of(id)?;
        let info = u32_at(self.types, at + 4)?;
        let word = u32_at(self.types, at + 8)?;
        let flag = info >> 31 == 1;
        let from = at + TYPE_SIZE;
        let body = self.types.get(from..from + body_size(self.types, at, index(id)).ok()?)?;
        Some(match kind(info) {
            1 => {
                let int = u32_at(body, 0)?;
                let encoding = int >> 24 & 0xf;
                Type::Int {
                    size: word,
                    signed: encoding & 1 != 0,
                    is_char: encoding & 2 != 0,
                    is_bool: encoding & 4 != 0,
                    bits: int & 0xff,
                }
            }
            2 => Type::Pointer(word),
            3 => Type::Array { element: u32_at(body, 0)?, len: u32_at(body, 8)? },
            4 => Type::Struct { size: word, members: Members::new(body, flag) },
            5 => Type::Union { size: word, members: Members::new(body, flag) },
            6 => Type::Enum { size: word, signed: flag, values: EnumValues::new(body, false) },
            7 => Type::Forward,
            8 => Type::Alias { of: word, is_typedef: true },
            9..=11 | 18 => Type::Alias { of: word, is_typedef: false },
            12 => Type::Function,
            13 => Type::Prototype,
            14 => Type::Variable { of: word },
            15 => Type::Section { vars: SectionVars::new(body) },
            16 => Type::Float { size: word },
            17 => Type::Tag { on: word },
            19 => Type::Enum { size: word, signed: flag, values: EnumValues::new(body, true) },
            _ => return None,
        })
    }

    /// The name of a type; empty if it has none.
    pub(crate) fn name(&self, id: u32) -> &'a str {
        self.offset_of(id).and_then(|at| u32_at(self.types, at)).map_or("", |name| self.string(name))
    }

    /// The string at an offset that was checked on opening; empty for any other that leads nowhere.
    pub(crate) fn string(&self, offset: u32) -> &'a str {
        self.checked_string(offset).unwrap_or_default()
    }

    /// The string at any offset; `None` if it leads nowhere or to more than [`bytes::MAX_STRING`] bytes.
    pub(crate) fn checked_string(&self, offset: u32) -> Option<&'a str> {
        let from = self.strings.get(index(offset)..)?;
        from.get(..string_at(from.as_bytes(), 0)?.len())
    }

    /// The type behind typedefs and qualifiers.
    pub(crate) fn resolve(&self, id: u32) -> Option<(u32, Type<'a>)> {
        let mut id = id;
        for _ in 0..MAX_DEPTH {
            match self.get(id)? {
                Type::Alias { of, .. } => id = of,
                found => return Some((id, found)),
            }
        }
        None
    }

    /// Size in bytes; `None` for what has none, or a cycle.
    pub(crate) fn size(&self, id: u32) -> Option<u32> {
        let mut id = id;
        let mut times = 1_u32;
        for _ in 0..MAX_DEPTH {
            let one = match self.resolve(id)?.1 {
                Type::Array { element, len } => {
                    times = times.checked_mul(len)?;
                    id = element;
                    continue;
                }
                Type::Int { size, .. }
                | Type::Struct { size, .. }
                | Type::Union { size, .. }
                | Type::Enum { size, .. }
                | Type::Float { size } => size,
                Type::Pointer(_) => 8,
                Type::Void
                | Type::Forward
                | Type::Alias { .. }
                | Type::Function
                | Type::Prototype
                | Type::Variable { .. }
                | Type::Section { .. }
                | Type::Tag { .. } => return None,
            };
            return times.checked_mul(one);
        }
        None
    }

    /// The value of a `__uint(name, N)` member: `int (*name)[N]`.
    pub(crate) fn uint(&self, member: Member) -> Option<u32> {
        let (_, Type::Pointer(to)) = self.resolve(member.of)? else { return None };
        match self.resolve(to)?.1 {
            Type::Array { len, .. } => Some(len),
            _ => None,
        }
    }

    /// The DATASEC of this name.
    pub(crate) fn section(&self, name: &str) -> Option<SectionVars<'a>> {
        self.ids().find_map(|id| match self.get(id)? {
            Type::Section { vars } if self.name(id) == name => Some(vars),
            _ => None,
        })
    }

    /// The type as C writes it: `u16`, `struct key`, `char[16]`, `u32 *`.
    pub(crate) fn c_name(&self, id: u32) -> String {
        let mut suffix = String::new();
        let mut id = id;
        for _ in 0..MAX_DEPTH {
            let base = match self.get(id) {
                Some(Type::Alias { of, is_typedef: false }) => {
                    id = of;
                    continue;
                }
                Some(Type::Array { element, len }) => {
                    suffix.push_str(&format!("[{len}]"));
                    id = element;
                    continue;
                }
                Some(Type::Pointer(to)) => {
                    suffix.insert_str(0, if suffix.starts_with('*') { "*" } else { " *" });
                    id = to;
                    continue;
                }
                Some(Type::Void) => "void".to_owned(),
                Some(Type::Struct { .. }) => self.tagged("struct", id),
                Some(Type::Union { .. }) => self.tagged("union", id),
                Some(Type::Enum { .. }) => self.tagged("enum", id),
                Some(Type::Prototype) => "function".to_owned(),
                _ => self.name(id).to_owned(),
            };
            return base + &suffix;
        }
        "?".to_owned()
    }

    fn tagged(&self, word: &str, id: u32) -> String {
        match self.name(id) {
            "" => word.to_owned(),
            name => format!("{word} {name}"),
        }
    }

    fn check(&self, id: u32) -> Result<(), BtfError> {
        let truncated = || BtfError::Truncated("types".to_owned());
        let at = self.offset_of(id).ok_or_else(truncated)?;
        let (name, info) = (u32_at(self.types, at), u32_at(self.types, at + 4).unwrap_or_default());
        let word = u32_at(self.types, at + 8).ok_or_else(truncated)?;
        let body = self
            .types
            .get(at + TYPE_SIZE..at + TYPE_SIZE + body_size(self.types, at, index(id))?)
            .ok_or_else(truncated)?;
        let named = |offset: Option<u32>| {
            let found = offset.is_some_and(|offset| self.strings.get(index(offset)..).is_some_and(|s| !s.is_empty()));
            if found { Ok(()) } else { Err(BtfError::Name(id)) }
        };
        let refers = |to: Option<u32>| match to {
            Some(to) if to <= self.len() => Ok(()),
            to => Err(BtfError::Reference { id, to: to.unwrap_or_default() }),
        };
        named(name)?;
        match kind(info) {
            2 | 8..=12 | 14 | 17 | 18 => refers(Some(word))?,
            3 => {
                refers(u32_at(body, 0))?;
                refers(u32_at(body, 4))?;
            }
            4 | 5 => body.chunks_exact(12).try_for_each(|m| named(u32_at(m, 0)).and(refers(u32_at(m, 4))))?,
            6 => body.chunks_exact(8).try_for_each(|v| named(u32_at(v, 0)))?,
            19 => body.chunks_exact(12).try_for_each(|v| named(u32_at(v, 0)))?,
            13 => {
                refers(Some(word))?;
                body.chunks_exact(8).try_for_each(|p| named(u32_at(p, 0)).and(refers(u32_at(p, 4))))?;
            }
            15 => body.chunks_exact(12).try_for_each(|v| refers(u32_at(v, 0)))?,
            _ => {}
        }
        Ok(())
    }
}

/// The bytes that follow the fixed part of the type at `at`, which is the one of this number.
fn body_size(types: &[u8], at: usize, id: usize) -> Result<usize, BtfError> {
    let info = u32_at(types, at + 4).ok_or_else(|| BtfError::Truncated("types".to_owned()))?;
    let count = index(info & 0xffff);
    let size = match kind(info) {
        1 | 14 | 17 => 4,
        3 => 12,
        4 | 5 | 15 | 19 => 12 * count,
        6 | 13 => 8 * count,
        2 | 7..=12 | 16 | 18 => 0,
        kind => return Err(BtfError::UnknownKind { id: bytes::count(id), kind }),
    };
    Ok(size)
}

/// `BTF_INFO_KIND`.
pub(crate) fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}
