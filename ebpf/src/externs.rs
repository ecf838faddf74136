//! Symbols that an object expects from outside: options of the kernel's configuration (`__kconfig`), and functions and variables of the
//! kernel (`__ksym`). Finds them and says where the values of the former go; it must never decide what they are.
//!
//! bpfd supplies the former, as libbpf does, in a map called [`CONFIG_MAP`]. Of the latter it supplies functions that the kernel's own
//! types list: a call of one names it by its type. A weak symbol that is not supplied reads as 0, as libbpf has it on a kernel that lacks
//! the symbol, and a program that reaches another is refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::btf::{Btf, Type};
use crate::elf::{Elf, STB_WEAK, Symbol};
use crate::inspect::InspectError;
use crate::names::shown;

/// The map of the kernel's configuration: libbpf's name for it, and that of its section in BTF.
pub const CONFIG_MAP: &str = ".kconfig";
/// The section of BTF that lists symbols of the kernel.
pub(crate) const KERNEL_SYMBOLS: &str = ".ksyms";
/// Externs that are listed.
pub(crate) const MAX_EXTERNS: usize = 256;
/// The longest value of a configuration, bytes: the kernel's own limit for one of its texts is half of that.
const MAX_VALUE: u32 = 8192;

/// Functions of the kernel that an object may call, and their types in the kernel's BTF.
pub type KernelFunctions = BTreeMap<String, u32>;

/// What a call of such a function is until the program is finished: of a helper that no kernel has, this far above the function's type. In
/// the bytes of an object nothing may name something of the kernel by a number; after the last check it becomes the call that is meant.
pub(crate) const KERNEL_CALL: i32 = 2_003_000_000;

/// One symbol that the object does not define.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extern {
    /// Its name.
    pub name: String,
    /// Who has it.
    pub kind: ExternKind,
    /// Whether the program runs without it, too.
    pub weak: bool,
}

/// Who has a symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExternKind {
    /// The kernel's configuration.
    Config,
    /// The kernel, or another object.
    Kernel,
}

/// Every undefined symbol, by name. The first symbol of a table is a placeholder without a name.
pub(crate) fn read(elf: &Elf<'_>, btf: Option<&Btf<'_>>) -> Result<Vec<Extern>, InspectError> {
    let config = Config::read(btf);
    let mut externs: Vec<Extern> = Vec::new();
    for symbol in elf.symbols.iter().filter(|symbol| is_extern(symbol)) {
        let kind = if config.option(symbol.name).is_some() { ExternKind::Config } else { ExternKind::Kernel };
        let name = shown(symbol.name);
        externs.push(Extern { name, kind, weak: is_weak(symbol) });
    }
    externs.sort_by(|a, b| a.name.cmp(&b.name));
    externs.dedup_by(|a, b| a.name == b.name);
    match externs.len() {
        found if found > MAX_EXTERNS => {
            Err(InspectError::TooMany { what: "externs".to_owned(), found, limit: MAX_EXTERNS })
        }
        _ => Ok(externs),
    }
}

/// Whether a symbol is one that others define.
pub(crate) fn is_extern(symbol: &Symbol<'_>) -> bool {
    symbol.undefined && !symbol.name.is_empty()
}

/// Whether the object does without it.
pub(crate) fn is_weak(symbol: &Symbol<'_>) -> bool {
    symbol.bind == STB_WEAK
}

/// What the object asks of the kernel's configuration, each with its place in the map.
#[derive(Debug, Default)]
pub(crate) struct Config<'a> {
    pub(crate) options: Vec<ConfigOption<'a>>,
    /// Bytes of the map's value.
    pub(crate) size: u32,
}

/// One option.
#[derive(Debug)]
pub(crate) struct ConfigOption<'a> {
    pub(crate) name: &'a str,
    pub(crate) offset: u32,
    pub(crate) size: u32,
    pub(crate) ty: ConfigType,
}

/// How the value of an option is written into memory (`find_kcfg_type` of libbpf).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConfigType {
    /// `bool`.
    Bool,
    /// `char`: `y`, `n` or `m`.
    Char,
    /// `enum libbpf_tristate`.
    Tristate,
    /// An integer of its size.
    Int { signed: bool },
    /// `char[]`.
    Text,
    /// Something else, which has no value.
    Unknown,
}

impl<'a> Config<'a> {
    /// Of an object's types, in the order in which these list them.
    pub(crate) fn read(btf: Option<&Btf<'a>>) -> Self {
        let mut config = Self::default();
        let Some((btf, vars)) = btf.and_then(|btf| Some((btf, btf.section(CONFIG_MAP)?))) else { return config };
        for entry in vars.iter().take(MAX_EXTERNS) {
            let of = if let Some(Type::Variable { of }) = btf.get(entry.var) { of } else { 0 };
            let size = btf.size(of).filter(|size| (1..=MAX_VALUE).contains(size));
            let (ty, size) = size.map_or((ConfigType::Unknown, 1), |size| (type_of(btf, of, size), size));
            let align = if matches!(ty, ConfigType::Text) { 1 } else { size.next_power_of_two().min(8) };
            let offset = config.size.next_multiple_of(align);
            config.options.push(ConfigOption { name: btf.name(entry.var), offset, size, ty });
            config.size = offset + size;
        }
        config
    }

    /// The option of this name.
    pub(crate) fn option(&self, name: &str) -> Option<&ConfigOption<'a>> {
        self.options.iter().find(|option| option.name == name)
    }
}

fn type_of(btf: &Btf<'_>, of: u32, size: u32) -> ConfigType {
    match btf.resolve(of) {
        Some((_, Type::Int { is_bool: true, .. })) if size == 1 => ConfigType::Bool,
        Some((_, Type::Int { is_bool: false, .. })) if size == 1 => ConfigType::Char,
        Some((_, Type::Int { is_bool: false, signed, .. })) if matches!(size, 2 | 4 | 8) => ConfigType::Int { signed },
        Some((id, Type::Enum { .. })) if size == 4 && btf.name(id) == "libbpf_tristate" => ConfigType::Tristate,
        Some((_, Type::Array { element, .. })) if btf.size(element) == Some(1) => match type_of(btf, element, 1) {
            ConfigType::Char => ConfigType::Text,
            _ => ConfigType::Unknown,
        },
        _ => ConfigType::Unknown,
    }
}
