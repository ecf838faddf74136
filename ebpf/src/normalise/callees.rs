//! Programs that chosen ones may reach by tail calls: those that the object puts into the program arrays that they use.

use std::collections::BTreeSet;

use super::NormaliseError;
use super::reach::{self, Reach};
use crate::contents::Held;
use crate::elf::Elf;
use crate::externs::{Config, KernelFunctions};
use crate::functions;
use crate::inspect::{self, Object};
use crate::maps;
use crate::names::FunctionName;

/// The maps in `.maps` that functions refer to, and those that are in them from the start.
pub(super) fn used_maps<'a>(elf: &'a Elf<'_>, object: &'a Object, reach: &Reach<'_>) -> BTreeSet<&'a str> {
    let is_map = |section: usize| elf.sections.get(section).is_some_and(maps::is_btf);
    let referred = reach.referred(elf).filter(|symbol| symbol.section.is_some_and(is_map));
    let mut used: BTreeSet<&str> = referred.map(|symbol| symbol.name).collect();
    // A map of maps may hold program arrays: two levels are all that the kernel allows.
    let inner = object.contents.iter().filter(|content| used.contains(content.map.as_str()));
    let inner = inner.filter_map(|content| match &content.holds {
        Held::Map(inner) => Some(inner.as_str()),
        Held::Program(_) => None,
    });
    let inner: Vec<&str> = inner.collect();
    used.extend(inner);
    used
}

/// The programs that must be loaded beside `chosen` ones, theirs included; by name.
pub fn callees(
    elf: &[u8],
    object: &Object,
    chosen: &[FunctionName],
    kernel: Option<&KernelFunctions>,
) -> Result<Vec<FunctionName>, NormaliseError> {
    let mut callees = BTreeSet::new();
    if object.contents.is_empty() {
        return Ok(Vec::new());
    }
    let elf = Elf::open(elf)?;
    let functions = functions::read(&elf)?;
    let programs = functions::programs(&elf, &functions)?;
    let config = Config::read(inspect::open_btf(&elf)?.as_ref());
    loop {
        let wanted = |name: &FunctionName| chosen.contains(name) || callees.contains(name);
        let roots: Vec<_> = programs.iter().filter(|(name, _)| wanted(name)).map(|(_, function)| *function).collect();
        let reach = reach::from(&elf, &config, kernel, &functions, &roots)?;
        let used = used_maps(&elf, object, &reach);
        let held = object.contents.iter().filter(|content| used.contains(content.map.as_str()));
        let held = held.filter_map(|content| match &content.holds {
            Held::Program(program) => Some(program),
            Held::Map(_) => None,
        });
        let mut more: BTreeSet<FunctionName> = held.filter(|program| !wanted(program)).cloned().collect();
        if more.is_empty() {
            return Ok(callees.into_iter().collect());
        }
        callees.append(&mut more);
    }
}
