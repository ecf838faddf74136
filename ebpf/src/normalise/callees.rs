//! Programs that chosen ones may reach by tail calls: those that the object puts into the program arrays that they use.

use std::collections::BTreeSet;

use super::{NormaliseError, reach};
use crate::contents::{Content, Held};
use crate::elf::Elf;
use crate::functions;
use crate::inspect::Object;
use crate::maps;
use crate::names::FunctionName;

/// The programs that must be loaded beside `chosen` ones, theirs included; by name.
pub fn callees(elf: &[u8], object: &Object, chosen: &[FunctionName]) -> Result<Vec<FunctionName>, NormaliseError> {
    let mut callees = BTreeSet::new();
    if object.contents.is_empty() {
        return Ok(Vec::new());
    }
    let elf = Elf::open(elf)?;
    let functions = functions::read(&elf)?;
    let programs = functions::programs(&elf, &functions)?;
    loop {
        let wanted = |name: &FunctionName| chosen.contains(name) || callees.contains(name);
        let roots: Vec<_> = programs.iter().filter(|(name, _)| wanted(name)).map(|(_, function)| *function).collect();
        let reach = reach::from(&elf, &functions, &roots)?;
        let symbols = reach.relocations.values().flatten().filter_map(|relocation| elf.symbols.get(relocation.symbol));
        let is_map = |section: usize| elf.sections.get(section).is_some_and(maps::is_btf);
        let mut used: BTreeSet<&str> =
            symbols.filter(|symbol| symbol.section.is_some_and(is_map)).map(|symbol| symbol.name).collect();
        let mut more = BTreeSet::new();
        // A map of maps may hold program arrays: two levels are all that the kernel allows.
        for _ in 0..2 {
            for Content { map, holds, .. } in &object.contents {
                match holds {
                    _ if !used.contains(map.as_str()) => {}
                    Held::Map(inner) => {
                        used.insert(inner.as_str());
                    }
                    Held::Program(program) => {
                        more.extend((!wanted(program)).then(|| program.clone()));
                    }
                }
            }
        }
        if more.is_empty() {
            return Ok(callees.into_iter().collect());
        }
        callees.append(&mut more);
    }
}
