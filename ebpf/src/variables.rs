//! Finds an object's data sections and the variables in them. Must never report a variable that leaves its section: what
//! writes to it trusts offset and size.

use std::collections::BTreeMap;

use crate::btf::{Btf, EnumValues, Members, Place, Type};
use crate::elf::{Elf, SHT_NOBITS, SHT_PROGBITS, STT_OBJECT, Section, Symbol};
use crate::globals::{Enumerator, Global, GlobalType, Initial, MAX_INITIAL, Member};
use crate::inspect::{DataSection, InspectError};
use crate::names::{SectionName, shown};

/// Variables of one object. More is legal but nobody sets them by hand.
const MAX_GLOBALS: usize = 1024;
/// Longest variable name, bytes.
const MAX_NAME: usize = 255;

/// Enumerators carried of one enum; one with more is set by number.
const MAX_ENUMERATORS: usize = 128;
/// Structs, arrays and members of all variables of an object: more are set by their bytes.
const MAX_PARTS: usize = 4096;
/// Structs and arrays in each other.
const MAX_DEPTH: usize = 8;
/// Longest enumerator that is carried, bytes.
const MAX_ENUMERATOR: usize = 64;

/// Whether a section becomes a map of its own: `.data`, `.rodata`, `.bss` or one of these with `.SUFFIX`.
pub(crate) fn is_data(section: &Section<'_>) -> bool {
    let family =
        |name: &str| section.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    section.is_memory()
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
    let mut found = Vec::new();
    for symbol in &elf.symbols {
        let Some(section) = symbol.section.and_then(|index| elf.sections.get(index)) else { continue };
        if symbol.kind != STT_OBJECT || symbol.size == 0 || symbol.name.is_empty() || !is_data(section) {
            continue;
        }
        if found.len() >= MAX_GLOBALS {
            let (what, found) = ("globals".to_owned(), elf.symbols.len());
            return Err(InspectError::TooMany { what, found, limit: MAX_GLOBALS });
        }
        found.push((section, symbol));
    }
    // Clang leaves a DATASEC's offsets at zero for the linker or loader to fill in: the symbol table has them.
    let types = btf.map(|btf| types_of(btf, &found)).unwrap_or_default();
    let mut globals = Vec::with_capacity(found.len());
    let mut classifier = btf.map(Classifier::new);
    for (section, symbol) in found {
        globals.push(global(classifier.as_mut(), &types, section, symbol)?);
    }
    globals.sort_by(|a: &Global, b: &Global| (&a.section, a.offset, &a.name).cmp(&(&b.section, b.offset, &b.name)));
    Ok(globals)
}

/// Type id by section and variable.
type Types<'a> = BTreeMap<(&'a str, &'a str), u32>;

/// The types of those variables: nothing else of a BTF that may name millions.
fn types_of<'a>(btf: &Btf<'a>, variables: &[(&Section<'a>, &Symbol<'a>)]) -> Types<'a> {
    let mut types: Types<'a> = variables.iter().map(|(section, symbol)| ((section.name, symbol.name), 0)).collect();
    for id in btf.ids() {
        let Some(Type::Section { vars }) = btf.get(id) else { continue };
        let section = btf.name(id);
        for entry in vars.iter() {
            if let Some(Type::Variable { of }) = btf.get(entry.var)
                && let Some(known) = types.get_mut(&(section, btf.name(entry.var)))
            {
                *known = of;
            }
        }
    }
    types
}

fn global(
    classifier: Option<&mut Classifier<'_, '_>>,
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
    let of = types.get(&(section.name, symbol.name)).copied().filter(|of| *of != 0);
    let (ty, type_name) = match (classifier, of) {
        (Some(classifier), Some(of)) if classifier.btf.size(of) == Some(size) => {
            (classifier.whole(of), classifier.btf.c_name(of))
        }
        _ => (other("of a type that the object does not describe"), format!("{size} bytes")),
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

/// Says what types are for [`crate::globals::encode`].
pub(crate) struct Classifier<'c, 'a> {
    btf: &'c Btf<'a>,
    /// Parts that may still be carried.
    left: usize,
}

fn other(what: &str) -> GlobalType {
    GlobalType::Other { what: what.to_owned() }
}

impl<'c, 'a> Classifier<'c, 'a> {
    pub(crate) fn new(btf: &'c Btf<'a>) -> Self {
        Self { btf, left: MAX_PARTS }
    }

    /// A type as it stands alone.
    pub(crate) fn whole(&mut self, of: u32) -> GlobalType {
        self.classify(of, MAX_DEPTH)
    }

    fn classify(&mut self, of: u32, depth: usize) -> GlobalType {
        let Some(left) = self.left.checked_sub(1).filter(|_| depth > 0) else {
            return other("in a type with more parts than bpfd reads");
        };
        self.left = left;
        let btf = self.btf;
        match btf.resolve(of) {
            Some((id, Type::Int { size, signed, is_bool, bits, .. })) => match integer_size(size, bits) {
                Some(1) if is_bool => GlobalType::Bool,
                Some(1) if btf.name(id) == "char" => GlobalType::Char,
                Some(size) => GlobalType::Int { size, signed },
                None => other("an integer of an unusual size"),
            },
            Some((_, Type::Enum { size, signed, values })) => match integer_size(size, size.saturating_mul(8)) {
                Some(size) => GlobalType::Enum { size, signed, values: enumerators(btf, values, size) },
                None => other("an enum of an unusual size"),
            },
            Some((_, Type::Array { element, len })) if len > 0 => {
                match (self.classify(element, depth - 1), btf.size(element)) {
                    (GlobalType::Char, _) => GlobalType::CharArray { len },
                    (GlobalType::Int { size, signed }, _) => GlobalType::IntArray { size, signed, len },
                    (element, Some(size)) => GlobalType::Array { element: Box::new(element), size, len },
                    (_, None) => other("an array of what has no size"),
                }
            }
            Some((_, Type::Struct { size, members })) => {
                GlobalType::Struct { members: self.members(size, members, depth - 1) }
            }
            Some((_, Type::Union { .. })) => other("a union"),
            Some((_, Type::Pointer(_))) => other("a pointer"),
            Some((_, Type::Float { .. })) => other("a floating-point number"),
            _ => other("of a type that has no values"),
        }
    }

    /// The members of a struct, with those of structs without a name in it. Unions without a name are called by their place: `@8`.
    fn members(&mut self, size: u32, members: Members<'_>, depth: usize) -> Vec<Member> {
        let mut found = Vec::new();
        for (member, place) in members.placed() {
            let name = self.btf.string(member.name);
            let bytes = self.btf.size(member.of).unwrap_or_default();
            let offset = place.offset / 8;
            let inside = offset.checked_add(bytes).is_some_and(|end| end <= size);
            if name.is_empty() {
                match self.classify(member.of, depth) {
                    GlobalType::Struct { members } if inside => {
                        let here = members.into_iter().map(|inner| Member { offset: inner.offset + offset, ..inner });
                        found.extend(here);
                    }
                    // No name of C has an `@`.
                    ty @ GlobalType::Other { .. } if inside && bytes > 0 => {
                        found.push(Member { name: format!("@{offset}"), offset, size: bytes, ty });
                    }
                    _ => {}
                }
                continue;
            }
            if name.len() > MAX_NAME || self.left == 0 {
                continue;
            }
            found.push(match place.bits {
                0 if inside && place.offset % 8 == 0 => {
                    Member { name: name.to_owned(), offset, size: bytes, ty: self.classify(member.of, depth) }
                }
                _ => self.bits(name, size, member.of, place),
            });
        }
        found
    }

    /// A member that does not fill its bytes: those that it has bits in.
    fn bits(&self, name: &str, size: u32, of: u32, place: Place) -> Member {
        let (offset, first) = (place.offset / 8, place.offset % 8);
        let signed = match self.btf.resolve(of) {
            Some((_, Type::Int { signed, .. } | Type::Enum { signed, .. })) => Some(signed),
            _ => None,
        };
        // Compilers before `kind_flag` say the width in the type.
        let width = match (place.bits, self.btf.resolve(of)) {
            (0, Some((_, Type::Int { bits, .. }))) => bits,
            (bits, _) => bits,
        };
        let bytes = (first + width).div_ceil(8);
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= size);
        let ty = match (u8::try_from(first), u8::try_from(width), signed) {
            (Ok(first), Ok(width @ 1..=64), Some(signed)) if inside => GlobalType::Bits { first, width, signed },
            _ => other("a bit-field"),
        };
        Member { name: name.to_owned(), offset, size: bytes, ty }
    }
}

/// The size of an integer that fills its bytes.
fn integer_size(size: u32, bits: u32) -> Option<u8> {
    let size = u8::try_from(size).ok()?;
    (matches!(size, 1 | 2 | 4 | 8) && bits == u32::from(size) * 8).then_some(size)
}

fn enumerators(btf: &Btf<'_>, values: EnumValues<'_>, size: u8) -> Vec<Enumerator> {
    if values.len() > MAX_ENUMERATORS {
        return Vec::new();
    }
    let mask = if size < 8 { (1_u64 << (u32::from(size) * 8)) - 1 } else { u64::MAX };
    values
        .iter()
        .map(|(name, bits)| Enumerator { name: btf.string(name).to_owned(), bits: bits & mask })
        .filter(|value| !value.name.is_empty() && value.name.len() <= MAX_ENUMERATOR)
        .collect()
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
