//! The `.BTF.ext` section: which function starts where, which C line an instruction came from, which instructions need
//! CO-RE. Must check each table before it hands out a record. Format: `Documentation/bpf/btf.rst` §4.

use crate::btf::{Btf, BtfError};
use crate::bytes::{index, u16_at, u32_at};

const MAGIC: u16 = 0xeb9f;
/// `struct bpf_func_info`, `bpf_line_info`, `bpf_core_relo`: a producer may append fields, never remove some.
pub(crate) const FUNC_RECORD: usize = 8;
pub(crate) const LINE_RECORD: usize = 16;
pub(crate) const CORE_RECORD: usize = 16;
/// A record with more appended than this is not a record.
const MAX_RECORD: usize = 256;
/// Code sections of one object, as in [`crate::elf::MAX_SECTIONS`].
const MAX_TABLES: usize = crate::elf::MAX_SECTIONS;

/// The records of one table that concern one ELF section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SectionRecords<'a> {
    pub(crate) section: &'a str,
    size: usize,
    bytes: &'a [u8],
}

impl<'a> SectionRecords<'a> {
    /// Each record, without what newer producers append.
    pub(crate) fn iter(&self, known: usize) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.bytes.chunks_exact(self.size).filter_map(move |record| record.get(..known))
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() / self.size
    }
}

/// The three tables.
#[derive(Debug, Clone, Default)]
pub(crate) struct BtfExt<'a> {
    pub(crate) functions: Vec<SectionRecords<'a>>,
    pub(crate) lines: Vec<SectionRecords<'a>>,
    pub(crate) core: Vec<SectionRecords<'a>>,
}

impl<'a> BtfExt<'a> {
    pub(crate) fn open(section: &'a [u8], btf: &Btf<'a>) -> Result<Self, BtfError> {
        let header = u32_at(section, 4).map(index).ok_or_else(|| bad("no header"))?;
        if u16_at(section, 0) != Some(MAGIC) || section.get(2) != Some(&1) || header < 24 {
            return Err(bad("not version 1"));
        }
        let table = |at: usize, known: usize| {
            // CO-RE fields came later: a header that ends before them has none.
            if header < at + 8 {
                return Ok(Vec::new());
            }
            let offset = u32_at(section, at).map(index).ok_or_else(|| bad("no header"))?;
            let len = u32_at(section, at + 4).map(index).ok_or_else(|| bad("no header"))?;
            let bytes = header
                .checked_add(offset)
                .and_then(|start| section.get(start..start.checked_add(len)?))
                .ok_or_else(|| bad("a table lies past its end"))?;
            read_table(bytes, known, btf)
        };
        Ok(Self { functions: table(8, FUNC_RECORD)?, lines: table(16, LINE_RECORD)?, core: table(24, CORE_RECORD)? })
    }

    /// How many CO-RE relocations the object has.
    pub(crate) fn core_count(&self) -> usize {
        self.core.iter().map(SectionRecords::len).sum()
    }
}

fn read_table<'a>(bytes: &'a [u8], known: usize, btf: &Btf<'a>) -> Result<Vec<SectionRecords<'a>>, BtfError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let size = u32_at(bytes, 0).map(index).ok_or_else(|| bad("a table without record size"))?;
    if size < known || size > MAX_RECORD || !size.is_multiple_of(4) {
        return Err(bad("a record size that no version has"));
    }
    let mut tables: Vec<SectionRecords<'a>> = Vec::new();
    let mut at = 4;
    while at < bytes.len() {
        let name = u32_at(bytes, at).ok_or_else(|| bad("half a section header"))?;
        let section = btf.checked_string(name).ok_or_else(|| bad("a section name outside the strings"))?;
        let count = u32_at(bytes, at + 4).map(index).ok_or_else(|| bad("half a section header"))?;
        let records = count
            .checked_mul(size)
            .and_then(|len| bytes.get(at + 8..(at + 8).checked_add(len)?))
            .ok_or_else(|| bad("records past the end of their table"))?;
        if tables.len() >= MAX_TABLES {
            return Err(bad("more sections than an object may have"));
        }
        // Two tables for one section: readers disagree about which counts.
        if tables.iter().any(|table| table.section == section) {
            return Err(bad("a section is listed twice"));
        }
        at += 8 + records.len();
        tables.push(SectionRecords { section, size, bytes: records });
    }
    Ok(tables)
}

fn bad(what: &str) -> BtfError {
    BtfError::Ext(what.to_owned())
}
