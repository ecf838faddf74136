//! Which functions the wanted programs need, by following calls and callbacks, and the relocations in them. Every
//! instruction that refers to something is checked here, as `aya_obj` trusts it later. Must never follow without a limit.

use std::collections::{BTreeMap, BTreeSet};

use super::NormaliseError;
use crate::elf::{Elf, Relocation, STT_FUNC, STT_OBJECT, STT_SECTION, Symbol};
use crate::externs::{self, Config, KERNEL_CALL, KernelFunctions};
use crate::functions::{Function, INSN, covering};
use crate::insn::{CALL, Insn, PSEUDO_CALL, decode};
use crate::names::shown;
use crate::{maps, variables};

/// `BPF_MAX_SUBPROGS` of `include/linux/bpf_verifier.h`, the program itself included.
const MAX_CALLEES: usize = 256;
/// A `ld_imm64` of a map, a variable or a function (`R_BPF_64_64`).
const R_BPF_64_64: u32 = 1;
/// A call (`R_BPF_64_32`).
const R_BPF_64_32: u32 = 10;

/// What a call of a function that nobody has becomes: of a helper that no kernel has, as in libbpf (`poison_kfunc_call`). The verifier
/// refuses it where it can be reached.
const ABSENT_CALL: Insn = Insn { code: CALL, dst: 0, src: 0, off: 0, imm: 2_002_000_000 };

/// What a call of a function of the kernel becomes for now.
fn kernel_call(id: u32) -> Option<Insn> {
    Some(Insn { imm: KERNEL_CALL.checked_add_unsigned(id)?, ..ABSENT_CALL })
}

/// What is needed.
#[derive(Debug)]
pub(super) struct Reach<'a> {
    /// The functions, by section and offset.
    pub(super) functions: Vec<Function<'a>>,
    /// The sections they are in, and their symbols.
    sections: BTreeSet<usize>,
    symbols: BTreeSet<usize>,
    /// Their relocations, by section, in order of offset.
    pub(super) relocations: BTreeMap<usize, Vec<Relocation>>,
    /// What instructions become that refer to symbols of the kernel, by section and offset.
    pub(super) rewritten: BTreeMap<usize, Vec<(u64, Insn)>>,
}

impl Reach<'_> {
    /// The needed function that covers a byte of a section.
    pub(super) fn covering(&self, section: usize, offset: u64) -> Option<&Function<'_>> {
        covering(&self.functions, section, offset)
    }

    /// Whether any function of a section is needed.
    pub(super) fn needs_section(&self, section: usize) -> bool {
        self.sections.contains(&section)
    }

    /// The symbols that the needed functions refer to.
    pub(super) fn referred<'e>(&self, elf: &'e Elf<'_>) -> impl Iterator<Item = &'e Symbol<'e>> {
        self.relocations.values().flatten().filter_map(|relocation| elf.symbols.get(relocation.symbol))
    }

    /// Whether a symbol is a needed function's.
    pub(super) fn needs_symbol(&self, symbol: usize) -> bool {
        self.symbols.contains(&symbol)
    }
}

/// Everything that `roots` need.
pub(super) fn from<'a>(
    elf: &Elf<'a>,
    config: &Config<'_>,
    kernel: Option<&KernelFunctions>,
    functions: &[Function<'a>],
    roots: &[&Function<'a>],
) -> Result<Reach<'a>, NormaliseError> {
    let mut scanner = Scanner {
        elf,
        config,
        kernel,
        functions,
        by_section: BTreeMap::new(),
        scanned: BTreeMap::new(),
        kept: BTreeMap::new(),
        rewritten: BTreeMap::new(),
    };
    let mut needed = BTreeSet::new();
    for root in roots {
        let start = functions.iter().position(|function| function == *root);
        needed.extend(scanner.closure(root, start)?);
    }
    let functions: Vec<Function<'a>> = needed.iter().filter_map(|at| functions.get(*at)).cloned().collect();
    let mut names = BTreeSet::new();
    if let Some(twice) = functions.iter().find(|function| !names.insert(function.name)) {
        return Err(NormaliseError::SharedName(shown(twice.name)));
    }
    let mut relocations = scanner.kept;
    for kept in relocations.values_mut() {
        kept.sort_by_key(|relocation| relocation.offset);
    }
    let sections = functions.iter().map(|function| function.section).collect();
    let symbols = functions.iter().map(|function| function.symbol).collect();
    Ok(Reach { functions, sections, symbols, relocations, rewritten: scanner.rewritten })
}

/// What one function refers to.
struct Scanned {
    callees: Vec<usize>,
    kept: Vec<Relocation>,
    rewritten: Vec<(u64, Insn)>,
}

struct Scanner<'e, 'a> {
    elf: &'e Elf<'a>,
    config: &'e Config<'e>,
    kernel: Option<&'e KernelFunctions>,
    functions: &'e [Function<'a>],
    /// All relocations of the sections looked at so far.
    by_section: BTreeMap<usize, Vec<Relocation>>,
    /// Callees of each function looked at so far.
    scanned: BTreeMap<usize, Vec<usize>>,
    /// Checked relocations of the functions looked at.
    kept: BTreeMap<usize, Vec<Relocation>>,
    /// What their instructions become that refer to symbols of the kernel.
    rewritten: BTreeMap<usize, Vec<(u64, Insn)>>,
}

impl Scanner<'_, '_> {
    /// One program and all that it calls.
    fn closure(&mut self, root: &Function<'_>, start: Option<usize>) -> Result<BTreeSet<usize>, NormaliseError> {
        let mut seen: BTreeSet<usize> = start.into_iter().collect();
        let mut offsets = BTreeSet::new();
        let mut todo: Vec<usize> = start.into_iter().collect();
        while let Some(at) = todo.pop() {
            for callee in self.callees(at)? {
                if !seen.insert(callee) {
                    continue;
                }
                if seen.len() > MAX_CALLEES {
                    return Err(NormaliseError::TooManyFunctions { function: shown(root.name), limit: MAX_CALLEES });
                }
                if self.functions.get(callee).is_some_and(|function| !offsets.insert(function.offset)) {
                    return Err(NormaliseError::SharedOffset { program: shown(root.name) });
                }
                todo.push(callee);
            }
        }
        Ok(seen)
    }

    fn callees(&mut self, at: usize) -> Result<Vec<usize>, NormaliseError> {
        if let Some(known) = self.scanned.get(&at) {
            return Ok(known.clone());
        }
        let Some(function) = self.functions.get(at) else { return Ok(Vec::new()) };
        if let std::collections::btree_map::Entry::Vacant(entry) = self.by_section.entry(function.section) {
            entry.insert(self.elf.relocations(function.section)?);
        }
        let all = self.by_section.get(&function.section).map(Vec::as_slice).unwrap_or_default();
        let from = all.partition_point(|relocation| relocation.offset < function.offset);
        let to = all.partition_point(|relocation| relocation.offset < function.end());
        let relocations = all.get(from..to).unwrap_or_default();
        let Scanned { callees, kept, rewritten } = self.scan(function, relocations)?;
        self.kept.entry(function.section).or_default().extend(kept);
        self.rewritten.entry(function.section).or_default().extend(rewritten);
        self.scanned.insert(at, callees.clone());
        Ok(callees)
    }

    fn scan(&self, function: &Function<'_>, relocations: &[Relocation]) -> Result<Scanned, NormaliseError> {
        let bad = |slot: u64, why: &str| NormaliseError::Instruction {
            function: shown(function.name),
            instruction: slot,
            why: why.to_owned(),
        };
        let code = || {
            let section = self.elf.sections.get(function.section)?;
            section.data.get(usize::try_from(function.offset).ok()?..usize::try_from(function.end()).ok()?)
        };
        let insns = code().and_then(|code| decode(code).ok()).ok_or_else(|| bad(0, "not whole instructions"))?;
        let mut left = relocations.iter().peekable();
        let (mut callees, mut kept, mut rewritten) = (BTreeSet::new(), Vec::new(), Vec::new());
        let mut second_half = false;
        for (slot, insn) in (0_u64..).zip(&insns) {
            let here = function.offset + slot * INSN;
            let relocation = left.next_if(|relocation| relocation.offset == here);
            if left.peek().is_some_and(|next| next.offset < here + INSN) {
                return Err(bad(slot, "a relocation that starts inside it, or two of them"));
            }
            if let Some(symbol) = relocation.and_then(|relocation| self.absent(relocation)) {
                let known = self.kernel.and_then(|kernel| kernel.get(symbol.name)).copied();
                if known.is_none() && !externs::is_weak(symbol) {
                    let (function, name) = (shown(function.name), shown(symbol.name));
                    return Err(NormaliseError::Extern { function, name });
                }
                let is_call = insn.is_call() && insn.src == PSEUDO_CALL;
                if second_half || !(is_call || insn.is_ld_imm64() && insn.src == 0 && insn.imm == 0) {
                    return Err(bad(slot, "a relocation of an instruction that can have none"));
                }
                let stands_for = match (is_call, known) {
                    (true, Some(id)) => {
                        kernel_call(id).ok_or_else(|| bad(slot, "a function whose type has no number"))?
                    }
                    (true, None) => ABSENT_CALL,
                    // Programs compare the address with 0.
                    (false, known) => Insn { imm: known.is_some().into(), ..*insn },
                };
                rewritten.push((here, stands_for));
                second_half = !is_call;
                continue;
            }
            kept.extend(relocation);
            if second_half {
                if relocation.is_some() || insn.code != 0 {
                    return Err(bad(slot, "the second half of a 64-bit load is not one"));
                }
                second_half = false;
            } else if insn.is_ld_imm64() {
                second_half = true;
                if let Some(relocation) = relocation {
                    callees.extend(self.load(*relocation, insn).map_err(|why| bad(slot, why))?);
                }
            } else if insn.is_call() && insn.src == PSEUDO_CALL {
                callees.insert(self.call(function, slot, relocation, insn).map_err(|why| bad(slot, why))?);
            } else if relocation.is_some() {
                return Err(bad(slot, "a relocation of an instruction that can have none"));
            }
        }
        if second_half {
            return Err(bad(u64::try_from(insns.len()).unwrap_or(u64::MAX), "half a 64-bit load at the end"));
        }
        Ok(Scanned { callees: callees.into_iter().collect(), kept, rewritten })
    }

    /// The symbol of a relocation that neither the object nor the kernel's configuration has.
    fn absent(&self, relocation: &Relocation) -> Option<&Symbol<'_>> {
        let symbol = self.elf.symbols.get(relocation.symbol)?;
        (externs::is_extern(symbol) && self.config.option(symbol.name).is_none()).then_some(symbol)
    }

    fn symbol(&self, relocation: Relocation) -> Result<(&Symbol<'_>, usize), &'static str> {
        let symbol = self.elf.symbols.get(relocation.symbol).ok_or("a relocation to no symbol")?;
        Ok((symbol, symbol.section.ok_or("a relocation to a symbol that is not defined here")?))
    }

    /// Where a call goes. A symbol of a function is the target; of a section, the instruction holds the distance.
    fn call(
        &self,
        function: &Function<'_>,
        slot: u64,
        relocation: Option<&Relocation>,
        insn: &Insn,
    ) -> Result<usize, &'static str> {
        if insn.dst != 0 || insn.off != 0 {
            return Err("a call with fields that calls do not have");
        }
        let distance =
            i64::from(insn.imm).checked_add(1).and_then(|slots| slots.checked_mul(8)).ok_or("a call to nowhere")?;
        let (section, base) = match relocation {
            None => (function.section, function.offset + slot * INSN),
            Some(relocation) if relocation.kind == R_BPF_64_32 => {
                let (symbol, section) = self.symbol(*relocation)?;
                match (symbol.kind, distance) {
                    (STT_FUNC, 0) | (STT_SECTION, _) => (section, symbol.value),
                    _ => return Err("a call to what is not a function"),
                }
            }
            Some(_) => return Err("a call with another instruction's relocation"),
        };
        let offset = base.checked_add_signed(distance).ok_or("a call to nowhere")?;
        self.function_at(section, offset).ok_or("a call to where no function starts")
    }

    /// What a 64-bit load refers to: the callee if it is a function's address.
    fn load(&self, relocation: Relocation, insn: &Insn) -> Result<Option<usize>, &'static str> {
        if relocation.kind != R_BPF_64_64 {
            return Err("a load with another instruction's relocation");
        }
        if self.elf.symbols.get(relocation.symbol).is_some_and(externs::is_extern) {
            return if insn.imm == 0 {
                Ok(None)
            } else {
                Err("a place inside an option of the kernel's configuration")
            };
        }
        let (symbol, at) = self.symbol(relocation)?;
        let section = self.elf.sections.get(at).ok_or("a relocation to no section")?;
        let offset = symbol.value.checked_add_signed(insn.imm.into()).ok_or("a load from nowhere")?;
        if section.is_code() {
            return match (symbol.kind, insn.imm) {
                (STT_FUNC, 0) | (STT_SECTION, _) => {
                    self.function_at(at, offset).map(Some).ok_or("the address of where no function starts")
                }
                _ => Err("the address of what is not a function"),
            };
        }
        if maps::is_btf(section) || maps::is_legacy(section) {
            // A static map is known by its section alone, and then any of several could be meant.
            let is_map = symbol.kind == STT_OBJECT && !symbol.name.is_empty() && insn.imm == 0;
            return if is_map { Ok(None) } else { Err("a map that is static or has no name") };
        }
        if variables::is_data(section) {
            let is_variable = matches!(symbol.kind, STT_OBJECT | STT_SECTION) && offset <= section.size;
            return if is_variable { Ok(None) } else { Err("a variable outside its section") };
        }
        Err("something in a section that is neither code, maps nor data")
    }

    fn function_at(&self, section: usize, offset: u64) -> Option<usize> {
        self.functions.binary_search_by_key(&(section, offset), |function| (function.section, function.offset)).ok()
    }
}
