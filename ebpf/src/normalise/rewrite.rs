//! Writes the new object: same section and symbol numbers, unneeded ones emptied. Must never let through a section whose
//! name means something to `aya_obj` that it does not mean here (it goes by prefix: `version_info` is `version` to it).

use std::borrow::Cow;

use super::reach::Reach;
use super::types::Types;
use super::{NormaliseError, alias};
use crate::bytes::{count, put};
use crate::elf::{
    Elf, SHT_NOBITS, SHT_NULL, SHT_PROGBITS, SHT_REL, SHT_STRTAB, SHT_SYMTAB, STT_FUNC, STT_OBJECT, STT_SECTION,
    Section, Symbol,
};
use crate::externs::{Config, is_extern};
use crate::names::shown;
use crate::{maps, variables};

/// `Elf64_Ehdr`, `Elf64_Shdr`, `Elf64_Sym`, `Elf64_Rel`.
const FILE_HEADER: usize = 64;
const SECTION_HEADER: usize = 64;
const SYMBOL: usize = 24;
/// What `EbpfSectionKind::from_name` of `aya_obj` goes by.
const PREFIXES: [&str; 8] = ["license", "version", "maps", ".maps", ".text", ".bss", ".data", ".rodata"];

/// A section of the new object.
#[derive(Default)]
struct Out<'a> {
    name: String,
    kind: u32,
    flags: u64,
    /// Borrowed where nothing changes: an object may be 16 MiB.
    data: Cow<'a, [u8]>,
    /// Of a section without bytes.
    memory: u64,
    link: u32,
    info: u32,
    align: u64,
    entry: u64,
}

/// The section of the kernel's configuration: constants to the loader.
pub(crate) const CONFIG_SECTION: &str = ".rodata.kconfig";

/// What the object gets from outside.
#[derive(Clone, Copy)]
pub(super) struct Supplied<'a> {
    pub(super) config: &'a Config<'a>,
    /// Of all options, at their places.
    pub(super) values: &'a [u8],
}

pub(super) fn object<'a>(
    elf: &Elf<'a>,
    reach: &Reach<'_>,
    types: Option<&'a Types>,
    license: &str,
    supplied: Supplied<'a>,
) -> Result<Vec<u8>, NormaliseError> {
    let mut out = Vec::with_capacity(elf.sections.len() + 2);
    for section in &elf.sections {
        out.push(section_of(elf, reach, types, license, supplied, section)?);
    }
    if !supplied.values.is_empty() {
        if out.iter().any(|section| section.name == CONFIG_SECTION) {
            return Err(NormaliseError::Section(CONFIG_SECTION.to_owned()));
        }
        out.push(Out {
            name: CONFIG_SECTION.to_owned(),
            kind: SHT_PROGBITS,
            flags: ALLOCATED,
            data: supplied.values.into(),
            align: 8,
            ..Out::default()
        });
    }
    let names = Out { name: ".shstrtab".to_owned(), kind: SHT_STRTAB, align: 1, ..Out::default() };
    out.push(names);
    Ok(encode(out))
}

fn section_of<'a>(
    elf: &Elf<'a>,
    reach: &Reach<'_>,
    types: Option<&'a Types>,
    license: &str,
    supplied: Supplied<'_>,
    old: &Section<'a>,
) -> Result<Out<'a>, NormaliseError> {
    let copy = |name: &str| Out {
        name: name.to_owned(),
        kind: old.kind,
        flags: old.flags,
        data: old.data.into(),
        memory: if old.kind == SHT_NOBITS { old.size } else { 0 },
        align: old.align.clamp(1, 4096),
        ..Out::default()
    };
    let is_first = |name: &str| elf.content(name).is_some_and(|first| first.index == old.index);
    if reach.needs_section(old.index) {
        return Ok(Out { data: code(reach, old), ..copy(&alias(old.index)) });
    }
    if old.kind == SHT_REL {
        return Ok(relocations(elf, reach, old).unwrap_or_default());
    }
    if old.kind == SHT_SYMTAB && elf.symtab == Some(old.index) {
        let locals = elf.symbols.iter().take_while(|symbol| symbol.bind == crate::elf::STB_LOCAL).count();
        return Ok(Out {
            data: symbols(elf, reach, supplied.config, old).into(),
            link: old.link,
            info: count(locals),
            entry: 24,
            ..copy(".symtab")
        });
    }
    if old.kind == SHT_STRTAB {
        let is_of_symbols = elf.symtab.and_then(|at| elf.sections.get(at)).is_some_and(|s| s.link == count(old.index));
        return Ok(if is_of_symbols { copy(".strtab") } else { Out::default() });
    }
    if old.kind != SHT_PROGBITS && old.kind != SHT_NOBITS {
        return Ok(Out::default());
    }
    match (old.name, types) {
        (".BTF", Some(types)) if is_first(".BTF") => {
            return Ok(Out { data: types.btf.as_slice().into(), ..copy(".BTF") });
        }
        (".BTF.ext", Some(types)) if is_first(".BTF.ext") => {
            return Ok(Out { data: types.ext.as_slice().into(), ..copy(".BTF.ext") });
        }
        ("license", _) if is_first("license") => {
            // `aya_obj` refuses an empty one; to the kernel a blank is as little of a licence.
            let text = if license.is_empty() { " " } else { license };
            let text = [text.as_bytes(), b"\0"].concat();
            return Ok(Out { data: text.into(), flags: ALLOCATED, ..copy("license") });
        }
        _ => {}
    }
    if !old.is_memory() {
        return Ok(Out::default());
    }
    match old.name {
        // One number; anything else is not what a loader expects there.
        "version" if is_first("version") && old.data.len() == 4 => Ok(copy("version")),
        // What maps hold from the start is read apart: see `contents`.
        _ if maps::is_btf(old) && is_first(".maps") => Ok(copy(".maps")),
        _ if maps::is_legacy(old) => {
            without_initialisers(elf, reach, old)?;
            Ok(Out { data: without_pinning(elf, old).into(), ..copy(old.name) })
        }
        _ if variables::is_data(old) => Ok(copy(old.name)),
        name if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) => Err(NormaliseError::Section(shown(name))),
        // Without meaning for the loader, but BTF names it (`.xdp_run_config`) and its size is looked up.
        name => Ok(copy(name)),
    }
}

/// `SHF_ALLOC`.
const ALLOCATED: u64 = 2;

/// Refuses legacy maps with contents, if a needed function refers to one of their section.
fn without_initialisers(elf: &Elf<'_>, reach: &Reach<'_>, section: &Section<'_>) -> Result<(), NormaliseError> {
    let is_used = reach.referred(elf).any(|symbol| symbol.section == Some(section.index));
    if !is_used || elf.relocations(section.index)?.is_empty() {
        Ok(())
    } else {
        Err(NormaliseError::MapInitialiser(shown(section.name)))
    }
}

fn without_pinning(elf: &Elf<'_>, section: &Section<'_>) -> Vec<u8> {
    let mut data = section.data.to_vec();
    for symbol in maps::legacy_symbols(elf, section) {
        let (Ok(from), Ok(size)) = (usize::try_from(symbol.value), usize::try_from(symbol.size)) else { continue };
        if size >= maps::LEGACY_PINNING + 4 {
            put(&mut data, from.saturating_add(maps::LEGACY_PINNING), &[0; 4]);
        }
    }
    data
}

/// The needed relocations of the section that `old` is about; `None` if there are none, or the first table had them all.
fn relocations(elf: &Elf<'_>, reach: &Reach<'_>, old: &Section<'_>) -> Option<Out<'static>> {
    let target = crate::bytes::index(old.info);
    let kept = reach.relocations.get(&target).filter(|kept| !kept.is_empty())?;
    let first = elf.sections.iter().find(|section| section.kind == SHT_REL && section.info == old.info)?;
    if first.index != old.index {
        return None;
    }
    let mut data = Vec::with_capacity(kept.len().saturating_mul(16));
    for relocation in kept {
        data.extend(relocation.offset.to_le_bytes());
        // `r_info`: the symbol in the upper half, the type in the lower.
        data.extend(relocation.kind.to_le_bytes());
        data.extend(count(relocation.symbol).to_le_bytes());
    }
    Some(Out {
        name: format!(".rel{}", alias(target)),
        kind: SHT_REL,
        data: data.into(),
        link: count(elf.symtab?),
        info: old.info,
        align: 8,
        entry: 16,
        ..Out::default()
    })
}

/// A section of code, with what stands for symbols of the kernel.
fn code<'a>(reach: &Reach<'_>, section: &Section<'a>) -> Cow<'a, [u8]> {
    let mut code = Cow::Borrowed(section.data);
    for (offset, insn) in reach.rewritten.get(&section.index).into_iter().flatten() {
        if let Ok(offset) = usize::try_from(*offset) {
            put(code.to_mut(), offset, &insn.to_bytes());
        }
    }
    code
}

/// The symbol table with everything that is not needed emptied: `aya_obj` looks some things up by name alone. Options of the kernel's
/// configuration are in the section behind the object's own.
fn symbols(elf: &Elf<'_>, reach: &Reach<'_>, config: &Config<'_>, table: &Section<'_>) -> Vec<u8> {
    let mut data = table.data.to_vec();
    for (at, symbol) in elf.symbols.iter().enumerate() {
        let option = config.option(symbol.name).filter(|_| is_extern(symbol));
        if let Some(option) = option {
            let start = at.saturating_mul(SYMBOL);
            put(&mut data, start + 4, &[symbol.bind << 4 | STT_OBJECT, 0]);
            put(&mut data, start + 6, &short(elf.sections.len()).to_le_bytes());
            put(&mut data, start + 8, &u64::from(option.offset).to_le_bytes());
            put(&mut data, start + 16, &u64::from(option.size).to_le_bytes());
        } else if !is_needed(elf, reach, at, symbol) {
            // Binding stays: local symbols come first in a table.
            let start = at.saturating_mul(SYMBOL);
            put(&mut data, start, &[0; 4]);
            put(&mut data, start + 4, &[symbol.bind << 4, 0]);
            put(&mut data, start + 6, &[0; 18]);
        }
    }
    data
}

fn is_needed(elf: &Elf<'_>, reach: &Reach<'_>, at: usize, symbol: &Symbol<'_>) -> bool {
    let Some(section) = symbol.section.and_then(|index| elf.sections.get(index)) else { return false };
    if section.is_code() {
        return match symbol.kind {
            STT_FUNC => reach.needs_symbol(at),
            STT_SECTION => reach.needs_section(section.index),
            _ => false,
        };
    }
    match symbol.kind {
        STT_OBJECT => section.is_memory(),
        // In a section of legacy maps every symbol is taken for a map.
        STT_SECTION => section.is_memory() && !maps::is_legacy(section),
        _ => false,
    }
}

fn encode(mut sections: Vec<Out<'_>>) -> Vec<u8> {
    let mut names = vec![0];
    let mut offsets = Vec::with_capacity(sections.len());
    for section in &sections {
        offsets.push(if section.name.is_empty() { 0 } else { count(names.len()) });
        if !section.name.is_empty() {
            names.extend_from_slice(section.name.as_bytes());
            names.push(0);
        }
    }
    let last = sections.len().saturating_sub(1);
    if let Some(table) = sections.last_mut() {
        table.data = names.into();
    }

    let mut out = vec![0; FILE_HEADER];
    let mut headers = Vec::with_capacity(sections.len().saturating_mul(SECTION_HEADER));
    for (section, name) in sections.iter().zip(offsets) {
        let Out { name: _, kind, flags, data, memory, link, info, align, entry } = section;
        out.resize(out.len().next_multiple_of(8), 0);
        let (offset, size) = match *kind {
            SHT_NULL => (0, 0),
            SHT_NOBITS => (length(out.len()), *memory),
            _ => (length(out.len()), length(data.len())),
        };
        // Data whose address matters is aligned by the loader, in the map; here eight bytes serve every table.
        let words = [*flags, 0, offset, size];
        headers.extend(name.to_le_bytes());
        headers.extend(kind.to_le_bytes());
        headers.extend(words.into_iter().flat_map(u64::to_le_bytes));
        headers.extend(link.to_le_bytes());
        headers.extend(info.to_le_bytes());
        headers.extend([*align, *entry].into_iter().flat_map(u64::to_le_bytes));
        out.extend_from_slice(data);
    }
    out.resize(out.len().next_multiple_of(8), 0);
    let table = length(out.len());
    out.extend(headers);

    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    // e_type ET_REL, e_machine EM_BPF, e_version.
    header.extend([1, 0, 247, 0, 1, 0, 0, 0]);
    header.extend([0_u64, 0, table].into_iter().flat_map(u64::to_le_bytes));
    // e_flags; e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx.
    header.extend(0_u32.to_le_bytes());
    header.extend([64, 0, 0, 64, short(sections.len()), short(last)].into_iter().flat_map(u16::to_le_bytes));
    put(&mut out, 0, &header);
    out
}

fn length(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// A section count: [`crate::elf::MAX_SECTIONS`] is far below the end of 16 bits.
fn short(value: usize) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}
