//! The rewritten `.BTF` and `.BTF.ext`: the same types, new section names in the strings, the wish to be pinned cleared;
//! records of needed functions only. Must never renumber a type: instructions and records name types by number.

use super::reach::Reach;
use super::{NormaliseError, alias, externs, flexible};
use crate::btf::{Btf, BtfError, HEADER_SIZE, Member, Place, Type};
use crate::btf_ext::{BtfExt, CORE_RECORD, FUNC_RECORD, LINE_RECORD, SectionRecords};
use crate::bytes::{count, index, put, u32_at};
use crate::elf::Elf;
use crate::externs::Config;
use crate::functions::INSN;
use crate::maps::MapKind;

/// No struct of a kernel or an object is larger, bytes; and no index into one.
const MAX_SIZE: u32 = 1 << 28;
/// Steps of a CO-RE access (libbpf: `BPF_CORE_SPEC_MAX_LEN`).
const MAX_ACCESS: usize = 64;
/// `enum bpf_core_relo_kind` ends at `BPF_CORE_TYPE_MATCHES`.
const LAST_CORE_KIND: u32 = 12;

/// The two sections.
#[derive(Debug)]
pub(super) struct Types {
    pub(super) btf: Vec<u8>,
    pub(super) ext: Vec<u8>,
}

pub(super) fn rewrite(
    elf: &Elf<'_>,
    btf: &Btf<'_>,
    ext: &BtfExt<'_>,
    reach: &Reach<'_>,
    config: &Config<'_>,
) -> Result<Types, NormaliseError> {
    check_sizes(btf)?;
    let mut strings = btf.strings.as_bytes().to_vec();
    let mut names = Vec::new();
    for section in elf.sections.iter().filter(|section| reach.needs_section(section.index)) {
        // `.BTF.ext` knows a section by name: two of one name cannot be told apart in it.
        if names.iter().any(|(_, name, _)| *name == section.name) {
            return Err(NormaliseError::Section(section.name.to_owned()));
        }
        names.push((section.index, section.name, count(strings.len())));
        strings.extend_from_slice(alias(section.index).as_bytes());
        strings.push(0);
    }
    let sections = Sections { names, btf, reach };
    let functions = sections.table(&ext.functions, FUNC_RECORD, Sections::is_function)?;
    let lines = sections.table(&ext.lines, LINE_RECORD, Sections::is_line)?;
    let mut core = sections.table(&ext.core, CORE_RECORD, Sections::is_core)?;
    let mut types = NewTypes { bytes: btf.types.to_vec(), last: btf.len() };
    clear_pinning(btf, &mut types);
    rename_programs(btf, &mut types, &mut strings);
    sections.make_hidden_static(&ext.functions, &mut types.bytes);
    state_license_size(elf, btf, &mut types.bytes);
    flexible::lengthen(btf, &mut types, &mut core);
    externs::describe(btf, config, &mut types, &mut strings);
    Ok(Types { btf: encode_btf(&types.bytes, &strings), ext: encode_ext(&[functions, lines, core]) })
}

/// An object's types, and those that are added.
pub(super) struct NewTypes {
    pub(super) bytes: Vec<u8>,
    /// The id of the last one.
    last: u32,
}

impl NewTypes {
    /// Adds a type of these bytes, with other words at some places; its id.
    pub(super) fn push(&mut self, bytes: &[u8], words: &[(usize, u32)]) -> u32 {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        for (at, word) in words {
            put(&mut self.bytes, start + at, &word.to_le_bytes());
        }
        self.last = self.last.saturating_add(1);
        self.last
    }
}

/// Sizes and members as the kernel wants them (`btf_struct_check_meta` in `kernel/bpf/btf.c`); CO-RE computes with them.
fn check_sizes(btf: &Btf<'_>) -> Result<(), BtfError> {
    for id in btf.ids() {
        let (size, members) = match btf.get(id) {
            Some(Type::Int { size: 1 | 2 | 4 | 8 | 16, .. } | Type::Enum { size: 1 | 2 | 4 | 8, .. }) => continue,
            Some(Type::Int { .. } | Type::Enum { .. }) | None => return Err(BtfError::Size(id)),
            Some(Type::Struct { size, members } | Type::Union { size, members }) => (size, members),
            Some(_) => continue,
        };
        let fits = |(member, place): (Member, Place)| match (place.bits, btf.resolve(member.of)) {
            (0, _) => {
                let end = btf.size(member.of).and_then(|bytes| bytes.checked_add(place.offset / 8));
                end.is_some_and(|end| end <= size)
            }
            (_, Some((_, Type::Int { .. } | Type::Enum { .. }))) => {
                place.offset.checked_add(place.bits).is_some_and(|end| end.div_ceil(8) <= size)
            }
            _ => false,
        };
        if size > MAX_SIZE || !members.placed().all(fits) {
            return Err(BtfError::Size(id));
        }
    }
    Ok(())
}

fn encode_btf(types: &[u8], strings: &[u8]) -> Vec<u8> {
    let mut out = vec![0x9f, 0xeb, 1, 0];
    for word in [count(HEADER_SIZE), 0, count(types.len()), count(types.len()), count(strings.len())] {
        out.extend(word.to_le_bytes());
    }
    out.extend_from_slice(types);
    out.extend_from_slice(strings);
    out
}

fn encode_ext(tables: &[Vec<u8>]) -> Vec<u8> {
    // `struct btf_ext_header`: magic, version, flags, its length, then offset and length of each table.
    let mut out = vec![0x9f, 0xeb, 1, 0];
    out.extend(32_u32.to_le_bytes());
    let mut offset = 0;
    for table in tables {
        out.extend(count(offset).to_le_bytes());
        out.extend(count(table.len()).to_le_bytes());
        offset += table.len();
    }
    out.extend(tables.iter().flatten());
    out
}

/// Lets each map's `pinning` point at a new `int (*)[0]`. The old one cannot be changed in place: clang lets
/// `__uint(pinning, 1)` and `__uint(max_entries, 1)` share a type.
fn clear_pinning(btf: &Btf<'_>, types: &mut NewTypes) {
    let mut none = None;
    for entry in btf.section(".maps").into_iter().flat_map(|vars| vars.iter().collect::<Vec<_>>()) {
        let Some(Type::Variable { of }) = btf.get(entry.var) else { continue };
        let Some((id, Type::Struct { members, .. })) = btf.resolve(of) else { continue };
        for (at, member) in members.iter().enumerate() {
            if btf.string(member.name) != "pinning" {
                continue;
            }
            let Some(pointer) = none.or_else(|| append_zero(btf, types, member.of)) else { continue };
            none = Some(pointer);
            // A struct's members follow its 12 bytes, 12 bytes each; the type is the second word.
            if let Some(start) = btf.offset_of(id) {
                put(&mut types.bytes, start + 12 + 12 * at + 4, &pointer.to_le_bytes());
            }
        }
    }
}

/// The size of the licence's section, which clang leaves to the loader: that one gets the licence without its padding
/// (`char LICENSE[16]`), and the kernel wants the variable to fit its section (`btf_datasec_check_meta` in `kernel/bpf/btf.c`).
fn state_license_size(elf: &Elf<'_>, btf: &Btf<'_>, types: &mut [u8]) {
    let Some(section) = elf.content("license") else { return };
    let is_one = |id: &u32| match btf.get(*id) {
        Some(Type::Section { vars }) => btf.name(*id) == "license" && vars.iter().count() == 1,
        _ => false,
    };
    // The size is the third word.
    if let Some(start) = btf.ids().find(is_one).and_then(|id| btf.offset_of(id)) {
        put(types, start + 8, &count(section.data.len()).to_le_bytes());
    }
}

/// Calls the `values` of program arrays otherwise: `aya_obj` takes them for maps, and passes over what it does not know.
fn rename_programs(btf: &Btf<'_>, types: &mut NewTypes, strings: &mut Vec<u8>) {
    let name = count(strings.len());
    strings.extend_from_slice(b"programs\0");
    for entry in btf.section(".maps").into_iter().flat_map(|vars| vars.iter().collect::<Vec<_>>()) {
        let Some(Type::Variable { of }) = btf.get(entry.var) else { continue };
        let Some((id, Type::Struct { members, .. })) = btf.resolve(of) else { continue };
        let kind = members.iter().find(|member| btf.string(member.name) == "type").and_then(|member| btf.uint(member));
        let values = members.iter().position(|member| btf.string(member.name) == "values");
        if let (Some(start), Some(at)) = (btf.offset_of(id), values.filter(|_| kind == Some(MapKind::PROG_ARRAY.0))) {
            put(&mut types.bytes, start + 12 + 12 * at, &name.to_le_bytes());
        }
    }
}

/// Appends `int (*)[0]` with the element and index types of the array behind `pointer`; the new pointer's id.
fn append_zero(btf: &Btf<'_>, types: &mut NewTypes, pointer: u32) -> Option<u32> {
    let (pointer, Type::Pointer(array)) = btf.resolve(pointer)? else { return None };
    let (array, Type::Array { .. }) = btf.resolve(array)? else { return None };
    let (pointer, array) = (btf.raw(pointer)?, btf.raw(array)?);
    let empty = types.push(array, &[(20, 0)]);
    Some(types.push(pointer, &[(8, empty)]))
}

/// `0:1:2`: the steps from a type to a member.
fn is_access(text: &str) -> bool {
    let mut steps = text.split(':');
    steps.clone().count() <= MAX_ACCESS && steps.all(|step| step.parse::<u32>().is_ok_and(|index| index <= MAX_SIZE))
}

struct Sections<'r, 'a> {
    /// Number, old name, offset of the new name.
    names: Vec<(usize, &'a str, u32)>,
    btf: &'r Btf<'a>,
    reach: &'r Reach<'a>,
}

impl Sections<'_, '_> {
    /// One table with the records of needed functions, each checked.
    fn table(
        &self,
        old: &[SectionRecords<'_>],
        size: usize,
        is_sound: fn(&Self, usize, &[u8]) -> bool,
    ) -> Result<Vec<u8>, NormaliseError> {
        let mut out = Vec::new();
        for table in old {
            let Some((section, _, name)) = self.names.iter().find(|(_, name, _)| *name == table.section) else {
                continue;
            };
            let mut records = Vec::new();
            let mut last = 0;
            for record in table.iter(size) {
                let offset = u64::from(u32_at(record, 0).unwrap_or(u32::MAX));
                if self.reach.covering(*section, offset).is_none() {
                    continue;
                }
                // Ascending, as the kernel wants them too; the loader library subtracts the first from the others.
                if offset < last || !offset.is_multiple_of(INSN) || !is_sound(self, *section, record) {
                    return Err(BtfError::Ext(format!("a record of section `{}`", table.section)).into());
                }
                last = offset;
                records.extend_from_slice(record);
            }
            if !records.is_empty() {
                out.extend(name.to_le_bytes());
                out.extend(count(records.len() / size).to_le_bytes());
                out.extend(records);
            }
        }
        if !out.is_empty() {
            let size = count(size).to_le_bytes();
            out.splice(0..0, size);
        }
        Ok(out)
    }

    /// Gives hidden functions static linkage, as libbpf does (`mark_btf_static`): the verifier would check a global one by
    /// itself, without what its caller knows of the arguments.
    fn make_hidden_static(&self, tables: &[SectionRecords<'_>], types: &mut [u8]) {
        for table in tables {
            let Some((section, _, _)) = self.names.iter().find(|(_, name, _)| *name == table.section) else { continue };
            for record in table.iter(FUNC_RECORD) {
                let (offset, id) = (u32_at(record, 0).unwrap_or(u32::MAX), u32_at(record, 4).unwrap_or_default());
                let hidden = self.reach.covering(*section, offset.into()).is_some_and(|function| function.hidden);
                if let Some(at) = self.btf.offset_of(id).filter(|_| hidden) {
                    // The low 16 bits of a FUNC's `info` are its linkage; 0 is `BTF_FUNC_STATIC`.
                    put(types, at + 4, &[0, 0]);
                }
            }
        }
    }

    fn is_function(&self, section: usize, record: &[u8]) -> bool {
        let offset = u64::from(u32_at(record, 0).unwrap_or(u32::MAX));
        let starts = self.reach.covering(section, offset).is_some_and(|function| function.offset == offset);
        starts && u32_at(record, 4).is_some_and(|id| self.btf.get(id) == Some(Type::Function))
    }

    fn is_line(&self, _section: usize, record: &[u8]) -> bool {
        self.is_string(u32_at(record, 4)) && self.is_string(u32_at(record, 8))
    }

    fn is_core(&self, _section: usize, record: &[u8]) -> bool {
        u32_at(record, 4).is_some_and(|id| id > 0 && id <= self.btf.len())
            && u32_at(record, 8).and_then(|access| self.btf.checked_string(access)).is_some_and(is_access)
            && u32_at(record, 12).is_some_and(|kind| kind <= LAST_CORE_KIND)
    }

    fn is_string(&self, offset: Option<u32>) -> bool {
        offset.is_some_and(|offset| self.btf.strings.get(index(offset)..).is_some_and(|rest| !rest.is_empty()))
    }
}
