//! One BTF type as a value: what [`crate::btf::Btf::get`] gives. Views of bytes that were checked when the section was
//! opened; must never look anything up. Format: `include/uapi/linux/btf.h`.

use crate::bytes::u32_at;

/// One type. Names are in [`Btf::name`](crate::btf::Btf::name).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type<'a> {
    Void,
    Int {
        size: u32,
        signed: bool,
        is_char: bool,
        is_bool: bool,
        bits: u32,
    },
    Pointer(u32),
    Array {
        element: u32,
        len: u32,
    },
    Struct {
        size: u32,
        members: Members<'a>,
    },
    Union {
        size: u32,
        members: Members<'a>,
    },
    Enum {
        size: u32,
        signed: bool,
        values: EnumValues<'a>,
    },
    Forward,
    /// typedef, const, volatile, restrict, type tag.
    Alias {
        of: u32,
        is_typedef: bool,
    },
    Function,
    Prototype,
    Variable {
        of: u32,
    },
    Section {
        vars: SectionVars<'a>,
    },
    Float {
        size: u32,
    },
    Tag {
        on: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Members<'a> {
    bytes: &'a [u8],
    /// Offsets hold the width of a bitfield in their highest byte (`kind_flag`).
    bitfields: bool,
}

/// A member of a struct or union.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: u32,
    pub(crate) of: u32,
}

/// Where a member lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Bits from the start.
    pub(crate) offset: u32,
    /// Of a bitfield; 0 for a whole member.
    pub(crate) bits: u32,
}

impl<'a> Members<'a> {
    pub(crate) fn new(bytes: &'a [u8], bitfields: bool) -> Self {
        Self { bytes, bitfields }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Member> + '_ {
        self.placed().map(|(member, _)| member)
    }

    pub(crate) fn placed(&self) -> impl Iterator<Item = (Member, Place)> + '_ {
        self.bytes.chunks_exact(12).filter_map(|m| {
            let place = u32_at(m, 8)?;
            let (offset, bits) = if self.bitfields { (place & 0x00ff_ffff, place >> 24) } else { (place, 0) };
            Some((Member { name: u32_at(m, 0)?, of: u32_at(m, 4)? }, Place { offset, bits }))
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EnumValues<'a> {
    bytes: &'a [u8],
    wide: bool,
}

impl<'a> EnumValues<'a> {
    pub(crate) fn new(bytes: &'a [u8], wide: bool) -> Self {
        Self { bytes, wide }
    }

    /// (name offset, raw bits) of each value.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        let wide = self.wide;
        self.bytes.chunks_exact(if wide { 12 } else { 8 }).filter_map(move |v| {
            let low = u64::from(u32_at(v, 4)?);
            let high = if wide { u64::from(u32_at(v, 8)?) } else { 0 };
            Some((u32_at(v, 0)?, high << 32 | low))
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() / if self.wide { 12 } else { 8 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SectionVars<'a>(&'a [u8]);

/// A variable of a DATASEC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SectionVar {
    /// The `VAR` (or extern `FUNC`).
    pub(crate) var: u32,
    pub(crate) offset: u32,
    pub(crate) size: u32,
}

impl<'a> SectionVars<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = SectionVar> + '_ {
        self.0
            .chunks_exact(12)
            .filter_map(|v| Some(SectionVar { var: u32_at(v, 0)?, offset: u32_at(v, 4)?, size: u32_at(v, 8)? }))
    }
}
