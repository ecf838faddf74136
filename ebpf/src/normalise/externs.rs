//! Externs as the kernel can be told of them. The kernel takes no `extern` in BTF: options of the configuration become constants in
//! [`CONFIG_MAP`]'s section, and symbols of the kernel become aliases and variables that nothing refers to
//! (libbpf: `bpf_object__collect_externs`). Must never renumber a type.

use super::types::NewTypes;
use super::{NormaliseError, reach::Reach};
use crate::btf::{Btf, Type};
use crate::bytes::{count, index, put, u32_at};
use crate::elf::Elf;
use crate::externs::{CONFIG_MAP, Config, KERNEL_SYMBOLS, is_extern, is_weak};
use crate::kconfig::KernelConfig;

/// `BTF_FUNC_EXTERN` and `BTF_VAR_GLOBAL_EXTERN`.
const EXTERN: u32 = 2;
/// `BTF_VAR_GLOBAL_ALLOCATED`.
const ALLOCATED: u32 = 1;
const TYPEDEF: u32 = 8;
const VARIABLE: u32 = 14;

/// The bytes of the configuration's map: options that needed functions refer to have their values, the others are zero.
pub(super) fn values(
    elf: &Elf<'_>,
    config: &Config<'_>,
    reach: &Reach<'_>,
    kernel: &KernelConfig<'_>,
) -> Result<Vec<u8>, NormaliseError> {
    let mut bytes = vec![0; index(config.size)];
    for symbol in reach.referred(elf).filter(|symbol| is_extern(symbol)) {
        let Some(option) = config.option(symbol.name) else { continue };
        let value = kernel.value(option, is_weak(symbol))?;
        put(&mut bytes, index(option.offset), &value);
    }
    Ok(bytes)
}

/// Rewrites what BTF says of externs.
pub(super) fn describe(btf: &Btf<'_>, config: &Config<'_>, types: &mut NewTypes, strings: &mut Vec<u8>) {
    let kind_of = |id: u32| btf.offset_of(id).map(|at| (at, u32_at(btf.types, at + 4).unwrap_or_default() & 0xffff));
    let functions: Vec<usize> = btf
        .ids()
        .filter(|id| btf.get(*id) == Some(Type::Function))
        .filter_map(|id| kind_of(id).filter(|(_, linkage)| *linkage == EXTERN).map(|(at, _)| at))
        .collect();
    let symbols = btf.ids().find(|id| is_section(btf, *id, KERNEL_SYMBOLS));
    if !functions.is_empty() || symbols.is_some() {
        let Stand { int, variable } = stand_ins(types, strings);
        for at in functions {
            put(&mut types.bytes, at + 4, &(TYPEDEF << 24).to_le_bytes());
            put(&mut types.bytes, at + 8, &int.to_le_bytes());
        }
        if let Some((at, Type::Section { vars })) = symbols.and_then(|id| Some((btf.offset_of(id)?, btf.get(id)?))) {
            let vars: Vec<u32> = vars.iter().map(|entry| entry.var).collect();
            put(&mut types.bytes, at + 8, &count(4 * vars.len()).to_le_bytes());
            for (place, var) in vars.into_iter().enumerate() {
                let entry = at + 12 + 12 * place;
                match (btf.get(var), btf.offset_of(var)) {
                    (Some(Type::Variable { .. }), Some(at)) => {
                        put(&mut types.bytes, at + 8, &int.to_le_bytes());
                        put(&mut types.bytes, at + 12, &ALLOCATED.to_le_bytes());
                    }
                    _ => put(&mut types.bytes, entry, &variable.to_le_bytes()).unwrap_or_default(),
                }
                put(&mut types.bytes, entry + 4, &count(4 * place).to_le_bytes());
                put(&mut types.bytes, entry + 8, &4_u32.to_le_bytes());
            }
        }
    }
    let section = btf.ids().find(|id| is_section(btf, *id, CONFIG_MAP));
    let Some((at, Type::Section { vars })) = section.and_then(|id| Some((btf.offset_of(id)?, btf.get(id)?))) else {
        return;
    };
    put(&mut types.bytes, at + 8, &config.size.to_le_bytes());
    for (place, (entry, option)) in vars.iter().zip(&config.options).enumerate() {
        let from = at + 12 + 12 * place;
        put(&mut types.bytes, from + 4, &option.offset.to_le_bytes());
        put(&mut types.bytes, from + 8, &option.size.to_le_bytes());
        if let (Some(Type::Variable { .. }), Some(at)) = (btf.get(entry.var), btf.offset_of(entry.var)) {
            put(&mut types.bytes, at + 12, &ALLOCATED.to_le_bytes());
        }
    }
}

fn is_section(btf: &Btf<'_>, id: u32, name: &str) -> bool {
    matches!(btf.get(id), Some(Type::Section { .. })) && btf.name(id) == name
}

/// What stands in for symbols of the kernel.
struct Stand {
    int: u32,
    variable: u32,
}

/// Appends an `int` and a variable of it.
fn stand_ins(types: &mut NewTypes, strings: &mut Vec<u8>) -> Stand {
    let mut name = |text: &str| {
        let offset = count(strings.len());
        strings.extend(text.bytes().chain([0]));
        offset
    };
    let (int_name, variable_name) = (name("int"), name("absent_symbol"));
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    // `BTF_KIND_INT` of four bytes; 32 bits with a sign.
    let int = types.push(&words(&[int_name, 1 << 24, 4, 1 << 24 | 32]), &[]);
    let variable = types.push(&words(&[variable_name, VARIABLE << 24, int, ALLOCATED]), &[]);
    Stand { int, variable }
}
