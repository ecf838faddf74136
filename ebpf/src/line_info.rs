//! Which C line each instruction of an object came from, by function. Must never need the source file: the compiler put the
//! line's text into the BTF strings.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::btf_ext::LINE_RECORD;
use crate::bytes::u32_at;
use crate::elf::Elf;
use crate::functions::{self, INSN};
use crate::inspect::{self, InspectError};

/// Longest source line and path that are kept, characters.
const MAX_TEXT: usize = 256;
/// Lines of one section that are looked at.
const MAX_LINES: usize = 1 << 16;

/// A place in C source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceLocation {
    /// The file as the compiler was given it.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1.
    pub column: u32,
    /// The line without indentation; empty if the compiler did not keep it. Control characters are escaped.
    pub text: String,
}

/// The lines of an object's functions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineTable {
    /// By function: instruction slot from its start, ascending, and where it came from.
    functions: BTreeMap<String, Vec<(u32, SourceLocation)>>,
}

impl LineTable {
    /// Reads an object's lines; empty without type information. Of static functions that share a name none is kept.
    pub fn read(elf: &[u8]) -> Result<Self, InspectError> {
        let elf = Elf::open(elf)?;
        let Some(btf) = inspect::open_btf(&elf)? else { return Ok(Self::default()) };
        let ext = inspect::open_ext(&elf, &btf)?;
        let functions = functions::read(&elf)?;
        let mut uses = BTreeMap::<&str, usize>::new();
        for function in &functions {
            *uses.entry(function.name).or_default() += 1;
        }
        let mut table = BTreeMap::<String, Vec<(u32, SourceLocation)>>::new();
        for section in elf.sections.iter().filter(|section| section.is_code()) {
            let Some(records) = ext.lines.iter().find(|records| records.section == section.name) else { continue };
            for record in records.iter(LINE_RECORD).take(MAX_LINES) {
                let word = |at: usize| u32_at(record, at).unwrap_or_default();
                let offset = u64::from(word(0));
                let Some(function) = functions::covering(&functions, section.index, offset) else { continue };
                if uses.get(function.name) != Some(&1) {
                    continue;
                }
                let slot = u32::try_from((offset - function.offset) / INSN).unwrap_or(u32::MAX);
                // `line_col` holds the line above its low ten bits, the column in them.
                let (line, column) = (word(12) >> 10, word(12) & 0x3ff);
                let (file, text) = (shown(btf.string(word(4))), shown(btf.string(word(8)).trim()));
                let location = SourceLocation { file, line, column, text };
                table.entry(shown(function.name)).or_default().push((slot, location));
            }
        }
        for lines in table.values_mut() {
            lines.sort_by_key(|(slot, _)| *slot);
        }
        Ok(Self { functions: table })
    }

    /// Where an instruction came from: the last line that starts at or before it.
    pub fn locate(&self, function: &str, instruction: u32) -> Option<&SourceLocation> {
        let lines = self.functions.get(function)?;
        let after = lines.partition_point(|(slot, _)| *slot <= instruction);
        lines.get(after.checked_sub(1)?).map(|(_, location)| location)
    }
}

/// For terminals: tabs are blanks, other control characters are escaped.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().take(MAX_TEXT) {
        match c {
            '\t' => shown.push(' '),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_leads_to_its_line_with_its_text() {
        let table = LineTable::read(include_bytes!("../tests/objects/subprograms.o")).unwrap();
        let first = table.locate("outer", 0).unwrap();
        assert_eq!((first.file.as_str(), first.line), ("./subprograms.c", 9));
        assert!(first.text.starts_with("__attribute__((noinline)) int outer"));
        // An instruction between two records belongs to the earlier one.
        assert_eq!(table.locate("outer", 1).map(|location| location.line), Some(9));
        assert_eq!(table.locate("nobody", 0), None);
    }

    #[test]
    fn an_object_without_types_has_no_lines() {
        let table = LineTable::read(include_bytes!("../tests/objects/no_btf.o")).unwrap();
        assert_eq!(table, LineTable::default());
    }
}
