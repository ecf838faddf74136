//! Rewrites an object so that `aya_obj` 0.3 accepts it and sees only what was asked for.
//!
//! `aya_obj` refuses a whole object for one executable section whose name it does not know (`tc`, `xdp/foo`, `pass`),
//! matches function and line records by section *name*, parses everything whether wanted or not, and panics on some
//! contradictions. So the object is read by this crate's own reader, which checks what it reads, and written anew: the
//! wanted functions and what they call, maps, data, types; nothing else. Section and symbol numbers stay as they were.
//! Must never change an instruction but calls of weak functions that nobody has, and never pass on a record that was not checked.
//!
//! Every code section is called `classifier/NUMBER` afterwards. `aya_obj` ignores what follows the `/` there, so names can
//! be unique; of a kind it makes no use before programs are loaded, and the kind that counts is [`Wanted::kind`]. Callees
//! are programs to it too: link the wanted ones alone, each from unlinked functions.

mod callees;
mod externs;
mod flexible;
mod reach;
mod rewrite;
mod types;

use serde::{Deserialize, Serialize};

pub use self::callees::callees;
pub(crate) use self::rewrite::CONFIG_SECTION;
use crate::btf::BtfError;
use crate::elf::{Elf, ElfError};
use crate::externs::Config;
use crate::functions::{self, FunctionError};
use crate::inspect::{self, InspectError};
use crate::kconfig::{ConfigError, KernelConfig};
use crate::kind::{DeclaredKind, ProgramKind};
use crate::names::FunctionName;

/// A program that is wanted from an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Its function.
    pub function: FunctionName,
    /// What to load it as; decides where the section's name says nothing.
    pub kind: ProgramKind,
}

/// Why an object cannot be made ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum NormaliseError {
    /// It cannot be read.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// A program needs a symbol that nobody supplies.
    #[error(
        "`{function}` needs `{name}`, which the object does not define, nor this kernel as a function: bpfd links no \
         variables of the kernel and no other objects. Let the object declare it `__weak` to run without it"
    )]
    Extern {
        /// The function that refers to it.
        function: String,
        /// The symbol.
        name: String,
    },
    /// A program needs an option of the kernel's configuration that this kernel does not have.
    #[error("the object {0}")]
    Config(ConfigError),
    /// Nothing was asked for.
    #[error("no program is asked for")]
    Nothing,
    /// A function is not a program of the object.
    #[error("object has no program `{0}`")]
    NoFunction(FunctionName),
    /// A function was asked for twice.
    #[error("program `{0}` is asked for twice")]
    Twice(FunctionName),
    /// Its section says another kind.
    #[error("`{function}` is in section `{section}`, which is not {asked}")]
    WrongKind {
        /// The program.
        function: FunctionName,
        /// Its section.
        section: String,
        /// What it was asked for as.
        asked: ProgramKind,
    },
    /// An instruction or its relocation is not what a compiler writes.
    #[error("instruction {instruction} of `{function}`: {why}")]
    Instruction {
        /// The function.
        function: String,
        /// Slot from the function's start.
        instruction: u64,
        /// What is wrong.
        why: String,
    },
    /// More callees than the kernel takes (`BPF_MAX_SUBPROGS`).
    #[error("program `{function}` calls more than {limit} functions")]
    TooManyFunctions {
        /// The program.
        function: String,
        /// How many it may.
        limit: usize,
    },
    /// Two functions that one program needs lie at the same offset of different sections: `aya_obj` confuses them.
    #[error("program `{program}` calls functions at the same offset of two sections: put them in one section")]
    SharedOffset {
        /// The program.
        program: String,
    },
    /// Two functions of one name are needed: `aya_obj` keeps one of them.
    #[error("two functions called `{0}` are needed: rename one")]
    SharedName(String),
    /// Legacy maps that start with contents, which no loader fills in.
    #[error("section `{0}` has initial values for maps, which bpfd does not fill in")]
    MapInitialiser(String),
    /// A section whose name `aya_obj` takes for something that it is not.
    #[error("section `{0}` has a name that loaders read differently")]
    Section(String),
}

impl From<ConfigError> for NormaliseError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<ElfError> for NormaliseError {
    fn from(error: ElfError) -> Self {
        InspectError::from(error).into()
    }
}

impl From<BtfError> for NormaliseError {
    fn from(error: BtfError) -> Self {
        InspectError::from(error).into()
    }
}

impl From<FunctionError> for NormaliseError {
    fn from(error: FunctionError) -> Self {
        InspectError::from(error).into()
    }
}

/// Rewrites an object for the wanted programs on a kernel. The same input gives the same bytes.
pub fn normalise(elf: &[u8], wanted: &[Wanted], kernel: &KernelConfig<'_>) -> Result<Vec<u8>, NormaliseError> {
    let object = inspect::inspect(elf)?;
    if wanted.is_empty() {
        return Err(NormaliseError::Nothing);
    }
    for (at, Wanted { function, kind }) in wanted.iter().enumerate() {
        let program = object.programs.iter().find(|program| program.function == *function);
        let program = program.ok_or_else(|| NormaliseError::NoFunction(function.clone()))?;
        let fits = match &program.kind {
            DeclaredKind::Known(declared) => declared == kind,
            DeclaredKind::Unsupported(_) => false,
            DeclaredKind::Unstated => true,
        };
        if !fits {
            let (function, section) = (function.clone(), program.section.to_string());
            return Err(NormaliseError::WrongKind { function, section, asked: *kind });
        }
        if wanted.iter().take(at).any(|other| other.function == *function) {
            return Err(NormaliseError::Twice(function.clone()));
        }
    }

    let elf = Elf::open(elf)?;
    let functions = functions::read(&elf)?;
    let programs = functions::programs(&elf, &functions)?;
    let roots: Vec<&functions::Function<'_>> = wanted
        .iter()
        .filter_map(|wanted| programs.iter().find(|(name, _)| *name == wanted.function))
        .map(|(_, function)| *function)
        .collect();
    let btf = inspect::open_btf(&elf)?;
    let config = Config::read(btf.as_ref());
    let reach = reach::from(&elf, &config, kernel.functions, &functions, &roots)?;
    let used = callees::used_maps(&elf, &object, &reach);
    if let Some(unusable) = object.unusable_contents.iter().find(|contents| used.contains(contents.map.as_str())) {
        return Err(InspectError::from(unusable.clone()).into());
    }
    let values = externs::values(&elf, &config, &reach, kernel)?;
    let types = btf.as_ref().map(|btf| types::rewrite(&elf, btf, &inspect::open_ext(&elf, btf)?, &reach, &config));
    let types = types.transpose()?;
    let supplied = rewrite::Supplied { config: &config, values: &values };
    rewrite::object(&elf, &reach, types.as_ref(), object.license.as_deref().unwrap_or_default(), supplied)
}

/// The name a code section has afterwards.
fn alias(section: usize) -> String {
    format!("classifier/{section}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btf::Type;
    use crate::bytes::u32_at;

    /// The linkage of a function in an object's types: 0 static, 1 global.
    fn linkage(elf: &[u8], function: &str) -> u32 {
        let elf = Elf::open(elf).unwrap();
        let btf = inspect::open_btf(&elf).unwrap().unwrap();
        let id = btf.ids().find(|id| btf.get(*id) == Some(Type::Function) && btf.name(*id) == function).unwrap();
        u32_at(btf.types, btf.offset_of(id).unwrap() + 4).unwrap() & 0xffff
    }

    #[test]
    fn a_hidden_function_becomes_static_for_the_verifier() {
        let before: &[u8] = include_bytes!("../tests/objects/hidden.o");
        let wanted = Wanted { function: "adds".parse().unwrap(), kind: ProgramKind::Xdp };
        let after = normalise(before, &[wanted], &KernelConfig::default()).unwrap();
        assert_eq!((linkage(before, "sum"), linkage(before, "adds")), (1, 1));
        assert_eq!((linkage(&after, "sum"), linkage(&after, "adds")), (0, 1));
    }
}
