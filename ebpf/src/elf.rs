//! An ELF object's frame: that it is a little-endian 64-bit BPF relocatable, its sections, symbols and relocations, all
//! within limits. Owns nothing of what the sections mean; must never trust an offset, a size or an index it did not check.

use object::LittleEndian as Le;
use object::elf::{FileHeader64, SHF_ALLOC, SHF_EXECINSTR};
use object::read::elf::{FileHeader as _, Rel as _, SectionHeader as _, Sym as _};
use serde::{Deserialize, Serialize};

use crate::bytes;

/// The largest object read (design: manifest of limits), bytes.
pub const MAX_OBJECT: usize = 16 << 20;
/// Sections: two for each of 128 programs, debug sections, and room.
pub(crate) const MAX_SECTIONS: usize = 1024;
/// Symbols: clang 14 writes one for each basic block that is a jump target.
pub(crate) const MAX_SYMBOLS: usize = 1 << 17;
/// Memory that sections without bytes in the file (`.bss`) may ask for, together, bytes.
pub(crate) const MAX_BSS: u64 = 16 << 20;

/// Why bytes are not an object that this crate reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ElfError {
    /// Larger than [`MAX_OBJECT`].
    #[error("object of {size} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// Bytes given.
        size: usize,
        /// [`MAX_OBJECT`].
        limit: usize,
    },
    /// The first four bytes are not `\x7fELF`.
    #[error("not an ELF object: what `clang -target bpf -c` writes is one")]
    NotElf,
    /// A header, table or section lies beyond the end.
    #[error("ELF object is truncated: {0} lies past its end")]
    Truncated(String),
    /// Big-endian bytecode on a little-endian host, which is all that bpfd runs on.
    #[error("object is big-endian; this host is little-endian: compile with `-target bpfel`")]
    BigEndian,
    /// ELFCLASS32.
    #[error("object is 32-bit ELF; BPF objects are 64-bit")]
    Not64Bit,
    /// `e_machine` is not `EM_BPF` (247).
    #[error("object is for {}, not BPF: compile with `-target bpf`", architecture(*.0))]
    NotBpf(u16),
    /// `e_type` is not `ET_REL`: linked, or a core dump.
    #[error("ELF type {0} is not a relocatable object")]
    NotRelocatable(u16),
    /// More of something than this crate reads.
    #[error("{found} {what} are more than the limit of {limit}")]
    TooMany {
        /// `sections`, `symbols`, ...
        what: String,
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// It contradicts itself.
    #[error("malformed ELF object: {0}")]
    Malformed(String),
}

/// One section. `data` is empty for a section without bytes in the file.
#[derive(Debug, Clone)]
pub(crate) struct Section<'a> {
    pub(crate) index: usize,
    pub(crate) name: &'a str,
    /// `sh_type`.
    pub(crate) kind: u32,
    pub(crate) flags: u64,
    /// `sh_size`: for `.bss` more than `data.len()`.
    pub(crate) size: u64,
    pub(crate) link: u32,
    pub(crate) info: u32,
    pub(crate) align: u64,
    pub(crate) data: &'a [u8],
}

impl Section<'_> {
    /// Whether it holds instructions.
    pub(crate) fn is_code(&self) -> bool {
        let wanted = SHF_ALLOC.0 | SHF_EXECINSTR.0;
        self.kind == SHT_PROGBITS && self.flags & wanted == wanted && !self.data.is_empty()
    }

    /// Whether it is memory of the program that is not code.
    pub(crate) fn is_memory(&self) -> bool {
        self.flags & (SHF_ALLOC.0 | SHF_EXECINSTR.0) == SHF_ALLOC.0 && self.size > 0
    }
}

pub(crate) const SHT_NULL: u32 = 0;
pub(crate) const SHT_PROGBITS: u32 = 1;
pub(crate) const SHT_SYMTAB: u32 = 2;
pub(crate) const SHT_STRTAB: u32 = 3;
pub(crate) const SHT_RELA: u32 = 4;
pub(crate) const SHT_NOBITS: u32 = 8;
pub(crate) const SHT_REL: u32 = 9;
pub(crate) const STT_OBJECT: u8 = 1;
pub(crate) const STT_FUNC: u8 = 2;
pub(crate) const STT_SECTION: u8 = 3;
pub(crate) const STB_LOCAL: u8 = 0;
pub(crate) const STB_WEAK: u8 = 2;

/// One symbol.
#[derive(Debug, Clone)]
pub(crate) struct Symbol<'a> {
    pub(crate) name: &'a str,
    /// The section it is defined in; `None` if undefined, absolute or common.
    pub(crate) section: Option<usize>,
    pub(crate) undefined: bool,
    pub(crate) value: u64,
    pub(crate) size: u64,
    /// `STT_*`.
    pub(crate) kind: u8,
    /// `STB_*`.
    pub(crate) bind: u8,
    /// `STV_HIDDEN` or `STV_INTERNAL`: for loaders the same as static.
    pub(crate) hidden: bool,
}

/// One relocation of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Relocation {
    /// Byte offset in the section it applies to.
    pub(crate) offset: u64,
    /// Index in [`Elf::symbols`].
    pub(crate) symbol: usize,
    /// `R_BPF_*`.
    pub(crate) kind: u32,
}

/// What people call a machine of ELF files (`include/uapi/linux/elf-em.h`).
fn architecture(machine: u16) -> String {
    let name = match machine {
        3 => "i386",
        8 => "MIPS",
        20 => "PowerPC",
        21 => "64-bit PowerPC",
        22 => "s390",
        40 => "32-bit Arm",
        62 => "x86-64",
        183 => "64-bit Arm (AArch64)",
        243 => "RISC-V",
        258 => "LoongArch",
        other => return format!("machine {other}"),
    };
    format!("{name} (machine {machine})")
}

/// An opened object.
#[derive(Debug, Clone)]
pub(crate) struct Elf<'a> {
    pub(crate) sections: Vec<Section<'a>>,
    pub(crate) symbols: Vec<Symbol<'a>>,
    /// Index of the symbol table's section.
    pub(crate) symtab: Option<usize>,
}

impl<'a> Elf<'a> {
    /// Opens an object: one pass over its headers; nothing is copied but the tables.
    pub(crate) fn open(data: &'a [u8]) -> Result<Self, ElfError> {
        let header = check_header(data)?;
        let table = header.sections(Le, data).map_err(|error| truncated(&format!("section header table ({error})")))?;
        limit("sections", table.len(), MAX_SECTIONS)?;
        let names = header
            .shstrndx(Le, data)
            .ok()
            .and_then(|index| table.iter().nth(bytes::index(index)))
            .and_then(|section| section.data(Le, data).ok())
            .ok_or_else(|| malformed("no table of section names"))?;

        let mut sections = Vec::with_capacity(table.len());
        let (mut in_file, mut in_memory) = (0_u64, 0_u64);
        for (index, header) in table.iter().enumerate() {
            let name = text(names, header.sh_name(Le)).ok_or_else(|| malformed("a section's name is not text"))?;
            let kind = header.sh_type(Le).0;
            let content = if matches!(kind, SHT_NULL | SHT_NOBITS) {
                &[]
            } else {
                header.data(Le, data).map_err(|error| truncated(&format!("section `{name}` ({error})")))?
            };
            let size = if kind == SHT_NULL { 0 } else { header.sh_size(Le) };
            let total = if kind == SHT_NOBITS { &mut in_memory } else { &mut in_file };
            *total = total.saturating_add(size);
            if header.sh_addr(Le) != 0 {
                return Err(malformed("a section has an address: the object is linked"));
            }
            sections.push(Section {
                index,
                name,
                kind,
                flags: header.sh_flags(Le).0,
                size,
                link: header.sh_link(Le),
                info: header.sh_info(Le),
                align: header.sh_addralign(Le),
                data: content,
            });
        }
        // Sections that share bytes would make every pass over them cost a multiple of the object's size.
        if in_file > u64::try_from(data.len()).unwrap_or(u64::MAX) {
            return Err(malformed("sections overlap"));
        }
        if in_memory > MAX_BSS {
            return Err(malformed("zeroed sections of more than 16 MiB"));
        }
        let symtab = sections.iter().position(|section| section.kind == SHT_SYMTAB);
        let symbols = match symtab {
            Some(at) => read_symbols(data, &table, &sections, at)?,
            None => Vec::new(),
        };
        Ok(Self { sections, symbols, symtab })
    }

    /// The first section of this name with bytes that are the program's (`SHT_PROGBITS`), such as `.BTF` and `license`.
    pub(crate) fn content(&self, name: &str) -> Option<&Section<'a>> {
        self.sections.iter().find(|section| section.name == name && section.kind == SHT_PROGBITS)
    }

    /// Every relocation of the section `index`, sorted by offset. BPF uses `SHT_REL` alone.
    pub(crate) fn relocations(&self, index: usize) -> Result<Vec<Relocation>, ElfError> {
        let mut all = Vec::new();
        for section in &self.sections {
            if !matches!(section.kind, SHT_REL | SHT_RELA) || bytes::index(section.info) != index {
                continue;
            }
            if section.kind == SHT_RELA {
                return Err(malformed("relocations with addends, which BPF objects do not have"));
            }
            let entries = object::pod::slice_from_all_bytes::<object::elf::Rel64<Le>>(section.data)
                .map_err(|()| malformed("a table of relocations has half an entry"))?;
            for entry in entries {
                let symbol = bytes::index(entry.r_sym(Le));
                if symbol >= self.symbols.len() {
                    return Err(malformed("a relocation names a symbol that is not there"));
                }
                all.push(Relocation { offset: entry.r_offset(Le), symbol, kind: entry.r_type(Le).0 });
            }
        }
        all.sort_by_key(|relocation| relocation.offset);
        Ok(all)
    }
}

fn check_header(data: &[u8]) -> Result<&FileHeader64<Le>, ElfError> {
    if data.len() > MAX_OBJECT {
        return Err(ElfError::TooLarge { size: data.len(), limit: MAX_OBJECT });
    }
    if data.get(..4) != Some(b"\x7fELF") {
        return Err(ElfError::NotElf);
    }
    // EI_CLASS and EI_DATA of the ELF identification: byte 4 is 2 for 64-bit, byte 5 is 2 for big-endian.
    if data.get(5) == Some(&2) {
        return Err(ElfError::BigEndian);
    }
    if data.get(4) == Some(&1) {
        return Err(ElfError::Not64Bit);
    }
    let header = FileHeader64::<Le>::parse(data).map_err(|error| truncated(&format!("file header ({error})")))?;
    let machine = header.e_machine(Le).0;
    if machine != object::elf::EM_BPF.0 {
        return Err(ElfError::NotBpf(machine));
    }
    let kind = header.e_type(Le).0;
    if kind != object::elf::ET_REL.0 {
        return Err(ElfError::NotRelocatable(kind));
    }
    Ok(header)
}

fn read_symbols<'a>(
    data: &'a [u8],
    table: &object::read::elf::SectionTable<'a, FileHeader64<Le>>,
    sections: &[Section<'a>],
    at: usize,
) -> Result<Vec<Symbol<'a>>, ElfError> {
    let symtab = table
        .symbol_table_by_index(Le, data, object::SectionIndex(at))
        .map_err(|error| malformed(&format!("symbol table ({error})")))?;
    limit("symbols", symtab.len(), MAX_SYMBOLS)?;
    let names = sections.get(symtab.string_section().0).map_or(&[][..], |section| section.data);
    let mut symbols = Vec::with_capacity(symtab.len());
    for symbol in symtab.iter() {
        let name = if symbol.st_name(Le) == 0 { Some("") } else { text(names, symbol.st_name(Le)) };
        let section = symbol.st_shndx(Le);
        let index = usize::from(section.0);
        symbols.push(Symbol {
            name: name.ok_or_else(|| malformed("a symbol's name is not text"))?,
            section: (index != 0 && index < sections.len()).then_some(index),
            undefined: symbol.is_undefined(Le),
            value: symbol.st_value(Le),
            size: symbol.st_size(Le),
            kind: symbol.st_type().0,
            bind: symbol.st_bind().0,
            hidden: matches!(symbol.st_visibility().0, 1 | 2),
        });
    }
    Ok(symbols)
}

fn text(table: &[u8], at: u32) -> Option<&str> {
    std::str::from_utf8(bytes::string_at(table, bytes::index(at))?).ok()
}

fn limit(what: &str, found: usize, limit: usize) -> Result<(), ElfError> {
    if found > limit { Err(ElfError::TooMany { what: what.to_owned(), found, limit }) } else { Ok(()) }
}

fn truncated(what: &str) -> ElfError {
    ElfError::Truncated(what.to_owned())
}

fn malformed(what: &str) -> ElfError {
    ElfError::Malformed(what.to_owned())
}
