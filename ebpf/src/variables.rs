//! Finds an object's data sections and the variables in them. Must never report a variable that leaves its section: what
//! writes to it trusts offset and size.

use std::collections::BTreeMap;

use crate::btf::{Btf, Type};
use crate::elf::{Elf, SHT_NOBITS, SHT_PROGBITS, STT_OBJECT, Section, Symbol};
use crate::globals::{Global, GlobalType, Initial, MAX_INITIAL, classify};
use crate::inspect::{DataSection, InspectError};
use crate::names::SectionName;

/// Variables of one object. More is legal but nobody sets them by hand.
const MAX_GLOBALS: usize = 1024;
/// Longest variable name, bytes.
const MAX_NAME: usize = 255;

/// Whether a section becomes a map of its own: `.data`, `.rodata`, `.bss` or one of these with `.SUFFIX`.
pub(crate) fn is_data(section: &Section<'_>) -> bool {
    let family =
        |name: &str| section.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    section.is_allocated()
        && !section.is_code()
        && section.size > 0
        && match section.kind {
            SHT_PROGBITS => family(".data") || family(".rodata"),
            SHT_NOBITS => family(".bss"),
            _ => false,
        }
}

pub(crate) fn is_read_only(section: &Section<'_>) -> bool {
    section.name.starts_with(".rodata")
}

/// The data sections, in file order.
pub(crate) fn sections(elf: &Elf<'_>) -> Result<Vec<DataSection>, InspectError> {
    let mut found: Vec<DataSection> = Vec::new();
    for section in elf.sections.iter().filter(|section| is_data(section)) {
        let name: SectionName = section.name.parse()?;
        if found.iter().any(|other| other.name == name) {
            return Err(InspectError::Malformed(format!("two sections are called `{name}`")));
        }
        let size = u32::try_from(section.size).unwrap_or(u32::MAX);
        found.push(DataSection { name, size, read_only: is_read_only(section) });
    }
    Ok(found)
}

/// The variables of all data sections, by section and offset.
pub(crate) fn globals(elf: &Elf<'_>, btf: Option<&Btf<'_>>) -> Result<Vec<Global>, InspectError> {
    // Clang leaves a DATASEC's offsets at zero for the linker or loader to fill in: the symbol table has them.
    let types = btf.map(types_by_section_and_name).unwrap_or_default();
    let mut globals = Vec::new();
    for symbol in &elf.symbols {
        let Some(section) = symbol.section.and_then(|index| elf.sections.get(index)) else { continue };
        if symbol.kind != STT_OBJECT || symbol.size == 0 || symbol.name.is_empty() || !is_data(section) {
            continue;
        }
        if globals.len() >= MAX_GLOBALS {
            return Err(InspectError::TooMany {
                what: "globals".to_owned(),
                found: elf.symbols.len(),
                limit: MAX_GLOBALS,
            });
        }
        globals.push(global(btf, &types, section, symbol)?);
    }
    globals.sort_by(|a: &Global, b: &Global| (&a.section, a.offset, &a.name).cmp(&(&b.section, b.offset, &b.name)));
    Ok(globals)
}

type Types<'a> = BTreeMap<(&'a str, &'a str), u32>;

fn types_by_section_and_name<'a>(btf: &Btf<'a>) -> Types<'a> {
    let mut types = Types::new();
    for id in btf.ids() {
        let Some(Type::Section { vars }) = btf.get(id) else { continue };
        for entry in vars.iter() {
            if let Some(Type::Variable { of }) = btf.get(entry.var) {
                types.insert((btf.name(id), btf.name(entry.var)), of);
            }
        }
    }
    types
}

fn global(
    btf: Option<&Btf<'_>>,
    types: &Types<'_>,
    section: &Section<'_>,
    symbol: &Symbol<'_>,
) -> Result<Global, InspectError> {
    let misplaced = || InspectError::Malformed(format!("variable `{}` leaves its section", shown(symbol.name)));
    let end = symbol.value.checked_add(symbol.size).filter(|end| *end <= section.size).ok_or_else(misplaced)?;
    let (from, to) = (usize::try_from(symbol.value), usize::try_from(end));
    let initial = match (from, to) {
        (Ok(from), Ok(to)) => initial(section.data.get(from..to).unwrap_or_default()),
        _ => return Err(misplaced()),
    };
    if symbol.name.len() > MAX_NAME || !symbol.name.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(InspectError::Malformed(format!("variable name `{}`", shown(symbol.name))));
    }
    let size = u32::try_from(symbol.size).ok().ok_or_else(misplaced)?;
    // A type of another size than the symbol is a lie in one of the two: then only the bytes are certain.
    let of = types.get(&(section.name, symbol.name)).copied();
    let (ty, type_name) = match (btf, of) {
        (Some(btf), Some(of)) if btf.size(of) == Some(size) => (classify(btf, of), btf.c_name(of)),
        _ => (GlobalType::Other, format!("{size} bytes")),
    };
    Ok(Global {
        name: symbol.name.to_owned(),
        section: section.name.parse()?,
        offset: u32::try_from(symbol.value).ok().ok_or_else(misplaced)?,
        size,
        ty,
        type_name,
        read_only: is_read_only(section),
        initial,
    })
}

fn initial(bytes: &[u8]) -> Initial {
    if bytes.iter().all(|byte| *byte == 0) {
        Initial::Zero
    } else if bytes.len() <= MAX_INITIAL {
        Initial::Bytes(bytes.to_vec())
    } else {
        Initial::Long
    }
}

fn shown(name: &str) -> String {
    name.chars().take(64).flat_map(char::escape_debug).collect()
}
