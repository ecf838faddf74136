//! Functions of an object's code sections: which bytes each owns, and which are programs. Must never hand out a function
//! that leaves its section, overlaps another or holds half an instruction.

use serde::{Deserialize, Serialize};

use crate::elf::{Elf, STB_LOCAL, STT_FUNC, Section};
use crate::names::{FunctionName, NameError, shown};

/// Programs of one object (design, limits).
pub const MAX_PROGRAMS: usize = 128;
/// Functions of one object, subprograms included.
pub(crate) const MAX_FUNCTIONS: usize = 4096;
/// Bytes of an instruction slot.
pub(crate) const INSN: u64 = 8;

/// Why an object's functions cannot be told apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum FunctionError {
    /// A program's name is refused.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Empty, outside its section, or not whole instructions.
    #[error("function `{0}` does not lie in its section as whole instructions")]
    Misplaced(String),
    /// Two functions share bytes.
    #[error("functions `{0}` and `{1}` overlap")]
    Overlap(String, String),
    /// Two programs of one name.
    #[error("two programs are called `{0}`")]
    Twice(String),
    /// More than are read.
    #[error("{found} {what} are more than the limit of {limit}")]
    TooMany {
        /// `programs` or `functions`.
        what: String,
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
}

/// One function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Function<'a> {
    pub(crate) name: &'a str,
    /// Index of its symbol.
    pub(crate) symbol: usize,
    /// Index of its section.
    pub(crate) section: usize,
    /// Bytes from the section's start.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) size: u64,
    /// Not static: libbpf takes only such functions of a section for programs.
    pub(crate) global: bool,
    /// Global for the compiler, static for the verifier.
    pub(crate) hidden: bool,
}

impl Function<'_> {
    pub(crate) fn end(&self) -> u64 {
        self.offset.saturating_add(self.size)
    }
}

/// Whether the code in a section is only called, never loaded on its own.
pub(crate) fn is_subprogram_section(section: &Section<'_>) -> bool {
    section.name.starts_with(".text")
}

/// Every function, by section and offset.
pub(crate) fn read<'a>(elf: &Elf<'a>) -> Result<Vec<Function<'a>>, FunctionError> {
    let mut functions = Vec::new();
    for (at, symbol) in elf.symbols.iter().enumerate() {
        if symbol.kind != STT_FUNC {
            continue;
        }
        let Some(section) = symbol.section.and_then(|index| elf.sections.get(index)) else { continue };
        if !section.is_code() {
            continue;
        }
        let fits = symbol.value.checked_add(symbol.size).is_some_and(|end| end <= section.size);
        let whole = symbol.value.is_multiple_of(INSN) && symbol.size.is_multiple_of(INSN);
        if !fits || !whole || symbol.size == 0 || symbol.name.is_empty() {
            return Err(FunctionError::Misplaced(shown(symbol.name)));
        }
        if functions.len() >= MAX_FUNCTIONS {
            let found = elf.symbols.iter().filter(|symbol| symbol.kind == STT_FUNC).count();
            return Err(FunctionError::TooMany { what: "functions".to_owned(), found, limit: MAX_FUNCTIONS });
        }
        functions.push(Function {
            name: symbol.name,
            symbol: at,
            section: section.index,
            offset: symbol.value,
            size: symbol.size,
            global: symbol.bind != STB_LOCAL,
            hidden: symbol.hidden,
        });
    }
    functions.sort_by_key(|function| (function.section, function.offset));
    for pair in functions.windows(2) {
        if let [a, b] = pair
            && a.section == b.section
            && a.end() > b.offset
        {
            return Err(FunctionError::Overlap(shown(a.name), shown(b.name)));
        }
    }
    Ok(functions)
}

/// The function that covers a byte of a section; `functions` are in the order of [`read`].
pub(crate) fn covering<'f, 'a>(functions: &'f [Function<'a>], section: usize, offset: u64) -> Option<&'f Function<'a>> {
    let after = functions.partition_point(|f| (f.section, f.offset) <= (section, offset));
    let function = functions.get(after.checked_sub(1)?)?;
    (function.section == section && offset < function.end()).then_some(function)
}

/// The functions that are programs, with their parsed names.
pub(crate) fn programs<'f, 'a>(
    elf: &Elf<'a>,
    functions: &'f [Function<'a>],
) -> Result<Vec<(FunctionName, &'f Function<'a>)>, FunctionError> {
    let mut programs = Vec::new();
    for function in functions {
        if !function.global || elf.sections.get(function.section).is_none_or(is_subprogram_section) {
            continue;
        }
        programs.push((function.name.parse::<FunctionName>()?, function));
    }
    if programs.len() > MAX_PROGRAMS {
        let (what, found) = ("programs".to_owned(), programs.len());
        return Err(FunctionError::TooMany { what, found, limit: MAX_PROGRAMS });
    }
    let mut names: Vec<&FunctionName> = programs.iter().map(|(name, _)| name).collect();
    names.sort();
    match names.windows(2).find_map(|pair| match pair {
        [a, b] if a == b => Some(a.to_string()),
        _ => None,
    }) {
        Some(name) => Err(FunctionError::Twice(name)),
        None => Ok(programs),
    }
}
