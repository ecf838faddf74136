//! A big-endian object as the little-endian one that says the same, so that one reader describes both. For builders of images alone:
//! what is loaded is never read this way, and instructions and variables keep their bytes. Must never trust an offset or a size.
//!
//! Formats: the ELF-64 object file format; `Documentation/bpf/btf.rst`, whose tables are 32-bit words behind a magic number.

use crate::bytes::{array_at, index, u32_at};
use crate::elf::{MAX_OBJECT, MAX_SECTIONS, SHT_NOBITS, SHT_NULL, SHT_PROGBITS, SHT_REL, SHT_SYMTAB};

/// Bytes of the fields of `Elf64_Ehdr` behind `e_ident`, of `Elf64_Shdr`, `Elf64_Sym` and `Elf64_Rel`.
const HEADER: &[usize] = &[2, 2, 4, 8, 8, 8, 4, 2, 2, 2, 2, 2, 2];
const SECTION: &[usize] = &[4, 4, 8, 8, 8, 8, 4, 4, 8, 8];
const SYMBOL: &[usize] = &[4, 1, 1, 2, 8, 8];
const RELOCATION: &[usize] = &[8, 8];
const WORD: &[usize] = &[4];
/// `EI_DATA` in `e_ident`, its `ELFDATA2LSB` and `ELFDATA2MSB`.
const EI_DATA: usize = 5;
const LITTLE: u8 = 1;
const BIG: u8 = 2;
/// Bytes of `Elf64_Ehdr` and `Elf64_Shdr`.
const HEADER_SIZE: usize = 64;
const SECTION_SIZE: usize = 64;

/// Whether this begins as a big-endian ELF object.
pub(crate) fn is_big_endian(object: &[u8]) -> bool {
    object.starts_with(b"\x7fELF") && object.get(EI_DATA) == Some(&BIG)
}

/// The object with its headers, symbols, relocations and types turned; `None` if a table lies past its end, or if it is larger than an
/// object may be.
pub(crate) fn to_little_endian(object: &[u8]) -> Option<Vec<u8>> {
    if object.len() > MAX_OBJECT {
        return None;
    }
    let mut turned = object.to_vec();
    *turned.get_mut(EI_DATA)? = LITTLE;
    turn(turned.get_mut(16..HEADER_SIZE)?, HEADER);
    let table = usize::try_from(u64::from_le_bytes(array_at(&turned, 40)?)).ok()?;
    let sections = usize::from(u16::from_le_bytes(array_at(&turned, 60)?));
    if sections > MAX_SECTIONS {
        return None;
    }
    turn(turned.get_mut(table..table.checked_add(sections * SECTION_SIZE)?)?, SECTION);
    let headers: Vec<Header> =
        (0..sections).map(|at| Header::read(&turned, table + at * SECTION_SIZE)).collect::<Option<_>>()?;
    let names = usize::from(u16::from_le_bytes(array_at(&turned, 62)?));
    let names = headers.get(names)?.offset;
    // The bytes of all sections together are at most the object's, or some would be turned twice, and again and again.
    let total = headers.iter().fold(0_usize, |total, header| total.saturating_add(header.size));
    if total > object.len() {
        return None;
    }
    for Header { name, kind, offset, size } in headers {
        let name = crate::bytes::string_at(object, names.checked_add(index(name))?)?;
        let data = turned.get_mut(offset..offset.checked_add(size)?)?;
        match (kind, name) {
            (SHT_SYMTAB, _) => turn(data, SYMBOL),
            (SHT_REL, _) => turn(data, RELOCATION),
            (SHT_PROGBITS, b".BTF") => turn_btf(data)?,
            (SHT_PROGBITS, b".BTF.ext") => turn_magic_and_words(data)?,
            // Definitions of maps as old headers have them (`struct bpf_map_def`) are words too.
            (SHT_PROGBITS, name) if name == b"maps" || name.starts_with(b"maps/") => turn(data, WORD),
            _ => {}
        }
    }
    Some(turned)
}

/// What is needed of a section's header. One without bytes in the file has none.
struct Header {
    name: u32,
    kind: u32,
    offset: usize,
    size: usize,
}

impl Header {
    fn read(object: &[u8], at: usize) -> Option<Self> {
        let word = |from: usize| usize::try_from(u64::from_le_bytes(array_at(object, at + from)?)).ok();
        let (name, kind) = (u32_at(object, at)?, u32_at(object, at + 4)?);
        match kind {
            SHT_NULL | SHT_NOBITS => Some(Self { name, kind, offset: 0, size: 0 }),
            _ => Some(Self { name, kind, offset: word(24)?, size: word(32)? }),
        }
    }
}

/// Turns each field of each record; half a record at the end stays as it is.
fn turn(table: &mut [u8], fields: &[usize]) {
    for record in table.chunks_exact_mut(fields.iter().sum()) {
        let mut rest = record;
        for width in fields {
            let Some((field, behind)) = rest.split_at_mut_checked(*width) else { return };
            field.reverse();
            rest = behind;
        }
    }
}

/// A `u16`, two single bytes, and words to the end.
fn turn_magic_and_words(data: &mut [u8]) -> Option<()> {
    data.get_mut(..2)?.reverse();
    turn(data.get_mut(4..)?, WORD);
    Some(())
}

/// The header and the types; the strings are text.
fn turn_btf(data: &mut [u8]) -> Option<()> {
    let length = index(u32::from_be_bytes(array_at(data, 4)?));
    turn_magic_and_words(data.get_mut(..length)?)?;
    let from = length.checked_add(index(u32_at(data, 8)?))?;
    turn(data.get_mut(from..from.checked_add(index(u32_at(data, 12)?))?)?, WORD);
    Some(())
}
