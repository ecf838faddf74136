//! The rule "bytes never name our fds or pins": an instruction that names a map, a function or a kernel object was
//! written by our relocation, for this app's own maps and functions, or the program is refused.
//!
//! Two checks, both needed. [`check_object`] looks at the bytes as they came: a literal `map_fd = 7` is refused before
//! anything is relocated. [`check_finished`] looks at what would be loaded: a relocation can be aimed so that it
//! rewrites half of its neighbour, and then only the result tells. This file must never mend anything.
//!
//! Both look at every 8-byte slot, also at the second half of a `ld_imm64`: whether a slot is one depends on where a
//! function begins, which hostile bytes choose; and in honest code that half is zero but for its immediate value.

use std::collections::BTreeSet;
use std::os::fd::RawFd;

use object::elf::SHF_EXECINSTR;

use crate::elf::{Elf, ElfError, STT_FUNC, Section, Symbol};
use crate::insn::{
    INSN_SIZE, Insn, LD_IMM64, PSEUDO_CALL, PSEUDO_FUNC, PSEUDO_MAP_FD, PSEUDO_MAP_VALUE, PartialInsn, decode,
};

/// Why bytes are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// A `ld_imm64` names a map, a function or a kernel variable by a number the object's author wrote.
    #[error(
        "`{function}`, instruction {instruction}: names a kernel object by a literal number (source register {pseudo})"
    )]
    Literal {
        /// The function, or the section if no function covers the place.
        function: String,
        /// Slot within the function (or section).
        instruction: usize,
        /// The pseudo source register found.
        pseudo: u8,
    },
    /// A `call` of something that is neither a helper nor a function of the program, such as a kernel function by id.
    #[error("`{function}`, instruction {instruction}: calls a kernel function by number (source register {pseudo})")]
    KernelCall {
        /// The function.
        function: String,
        /// Slot within the function.
        instruction: usize,
        /// The pseudo source register found.
        pseudo: u8,
    },
    /// A relocation is not aimed at a `ld_imm64` or a `call`.
    #[error("`{function}`, byte {offset}: a relocation of something that is neither a load of an address nor a call")]
    MisplacedRelocation {
        /// The function, or the section.
        function: String,
        /// Byte offset in the section.
        offset: u64,
    },
    /// A relocation needs a symbol that the object does not define.
    #[error("`{function}`, instruction {instruction}: uses `{symbol}`, which the object does not define")]
    Undefined {
        /// The function.
        function: String,
        /// Slot within the function.
        instruction: usize,
        /// The symbol's name.
        symbol: String,
    },
    /// After relocation an instruction names an fd that is not one of the app's maps.
    #[error("`{function}`, instruction {instruction}: names file descriptor {fd}, which is not one of its own maps")]
    ForeignMap {
        /// The function.
        function: String,
        /// Slot within the program.
        instruction: usize,
        /// The number found.
        fd: RawFd,
    },
    /// After relocation a call or a function's address leads outside the program.
    #[error("`{function}`, instruction {instruction}: leads outside the program")]
    Outside {
        /// The function.
        function: String,
        /// Slot within the program.
        instruction: usize,
    },
    /// A function ends in the middle of a `ld_imm64`.
    #[error("`{0}` ends in the middle of an instruction")]
    HalfInstruction(String),
    /// A section of code is not whole instructions.
    #[error("section `{section}` is not whole instructions")]
    PartialCode {
        /// The section.
        section: String,
        /// The lengths.
        #[source]
        source: PartialInsn,
    },
    /// Not an object at all.
    #[error("not an object that can be checked")]
    Elf(#[from] ElfError),
}

/// Refuses an object in which an instruction names a kernel object without one of the object's own relocations.
pub fn check_object(bytes: &[u8]) -> Result<(), GuardError> {
    let elf = Elf::open(bytes)?;
    for section in elf.sections.iter().filter(|section| is_loaded_as_code(section)) {
        check_section(&elf, section)?;
    }
    Ok(())
}

/// What the ELF loader below takes for code: executable sections, and everything that is called `.text…`.
fn is_loaded_as_code(section: &Section<'_>) -> bool {
    section.flags & SHF_EXECINSTR.0 != 0 || section.name.starts_with(".text")
}

fn check_section(elf: &Elf<'_>, section: &Section<'_>) -> Result<(), GuardError> {
    let insns =
        decode(section.data).map_err(|source| GuardError::PartialCode { section: section.name.to_owned(), source })?;
    let mut relocated = BTreeSet::new();
    for relocation in elf.relocations(section.index)? {
        let slot = slot_of(relocation.offset).filter(|slot| is_relocatable(&insns, *slot)).ok_or_else(|| {
            let (function, _) = place(elf, section, relocation.offset);
            GuardError::MisplacedRelocation { function, offset: relocation.offset }
        })?;
        if let Some(symbol) = elf.symbols.get(relocation.symbol)
            && symbol.undefined
        {
            let (function, instruction) = place(elf, section, relocation.offset);
            return Err(GuardError::Undefined { function, instruction, symbol: symbol.name.to_owned() });
        }
        relocated.insert(slot);
    }
    for (slot, insn) in insns.iter().enumerate() {
        let at = || place(elf, section, u64::try_from(slot.saturating_mul(INSN_SIZE)).unwrap_or(u64::MAX));
        if insn.is_ld_imm64() && !may_stand_in_object(insn.src, relocated.contains(&slot)) {
            let (function, instruction) = at();
            return Err(GuardError::Literal { function, instruction, pseudo: insn.src });
        }
        if insn.is_call() && insn.src > PSEUDO_CALL {
            let (function, instruction) = at();
            return Err(GuardError::KernelCall { function, instruction, pseudo: insn.src });
        }
    }
    Ok(())
}

/// Compilers write 0 for a map, and for a function's address 4; old ones 1 for a map. All of these with a relocation.
const fn may_stand_in_object(pseudo: u8, relocated: bool) -> bool {
    match pseudo {
        0 => true,
        PSEUDO_MAP_FD | PSEUDO_FUNC => relocated,
        _ => false,
    }
}

fn slot_of(offset: u64) -> Option<usize> {
    let offset = usize::try_from(offset).ok()?;
    offset.is_multiple_of(INSN_SIZE).then_some(offset / INSN_SIZE)
}

/// Exactly what `aya_obj` takes for a call of a function, and whole loads. It would take a relocation of anything else
/// for a map's, and write the next slot's number too, which may be another map's fd.
fn is_relocatable(insns: &[Insn], slot: usize) -> bool {
    let second_half = slot.checked_add(1).and_then(|next| insns.get(next));
    insns.get(slot).is_some_and(|insn| {
        (insn.is_local_call() && insn.dst == 0 && insn.off == 0)
            || (insn.is_ld_imm64() && second_half.is_some_and(|half| half.code == 0))
    })
}

/// The function that covers a byte of a section, and the slot in it; without one the section and its slot.
fn place(elf: &Elf<'_>, section: &Section<'_>, offset: u64) -> (String, usize) {
    let covers = |symbol: &&Symbol<'_>| {
        symbol.kind == STT_FUNC
            && symbol.section == Some(section.index)
            && symbol.value <= offset
            && offset - symbol.value < symbol.size
    };
    let slot = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX) / INSN_SIZE;
    match elf.symbols.iter().find(covers) {
        Some(symbol) => (symbol.name.to_owned(), slot(offset - symbol.value)),
        None => (section.name.to_owned(), slot(offset)),
    }
}

/// Refuses a relocated program in which an instruction names anything but `own_maps` or a place in the program.
/// `function` is the name for the error.
pub fn check_finished(function: &str, insns: &[Insn], own_maps: &BTreeSet<RawFd>) -> Result<(), GuardError> {
    if insns.last().is_some_and(Insn::is_ld_imm64) {
        return Err(GuardError::HalfInstruction(function.to_owned()));
    }
    for (slot, insn) in insns.iter().enumerate() {
        match (insn.code, insn.src) {
            (LD_IMM64, 0) => {}
            (LD_IMM64, PSEUDO_MAP_FD | PSEUDO_MAP_VALUE) if own_maps.contains(&insn.imm) => {}
            (LD_IMM64, PSEUDO_MAP_FD | PSEUDO_MAP_VALUE) => {
                return Err(GuardError::ForeignMap { function: function.to_owned(), instruction: slot, fd: insn.imm });
            }
            (LD_IMM64, PSEUDO_FUNC) => check_inside(function, insns, slot, insn)?,
            (LD_IMM64, pseudo) => {
                return Err(GuardError::Literal { function: function.to_owned(), instruction: slot, pseudo });
            }
            _ if insn.is_local_call() => check_inside(function, insns, slot, insn)?,
            _ if insn.is_call() && insn.src != 0 => {
                let function = function.to_owned();
                return Err(GuardError::KernelCall { function, instruction: slot, pseudo: insn.src });
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_inside(function: &str, insns: &[Insn], slot: usize, insn: &Insn) -> Result<(), GuardError> {
    let inside = target(slot, insn).is_some_and(|target| target < insns.len());
    inside.then_some(()).ok_or_else(|| GuardError::Outside { function: function.to_owned(), instruction: slot })
}

/// Where the functions of a finished program start: the program itself, what it calls and whose addresses it takes.
pub(crate) fn function_starts(insns: &[Insn]) -> BTreeSet<usize> {
    let refers = |insn: &Insn| insn.is_local_call() || insn.is_function_address();
    let named = insns.iter().enumerate().filter(|(_, insn)| refers(insn));
    std::iter::once(0).chain(named.filter_map(|(slot, insn)| target(slot, insn))).collect()
}

/// The slot that a local call or a function's address at `slot` leads to.
pub(crate) fn target(slot: usize, insn: &Insn) -> Option<usize> {
    let target = i64::try_from(slot).ok()?.checked_add(1)?.checked_add(i64::from(insn.imm))?;
    usize::try_from(target).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insn::{CALL, PSEUDO_BTF_ID, PSEUDO_KFUNC_CALL, Reg};

    fn finished(insns: &[Insn]) -> Result<(), GuardError> {
        check_finished("pass", insns, &BTreeSet::from([5, 6]))
    }

    fn load(src: u8, imm: i32) -> Vec<Insn> {
        vec![Insn { code: LD_IMM64, dst: 1, src, off: 0, imm }, Insn::default(), Insn::exit()]
    }

    #[test]
    fn own_maps_and_own_functions_pass() {
        finished(&load(0, 7)).unwrap();
        finished(&load(PSEUDO_MAP_FD, 5)).unwrap();
        finished(&load(PSEUDO_MAP_VALUE, 6)).unwrap();
        finished(&load(PSEUDO_FUNC, 1)).unwrap();
    }

    #[test]
    fn a_literal_map_fd_is_refused_after_relocation() {
        let refused = GuardError::ForeignMap { function: "pass".into(), instruction: 0, fd: 7 };
        assert_eq!(finished(&load(PSEUDO_MAP_FD, 7)), Err(refused.clone()));
        assert_eq!(finished(&load(PSEUDO_MAP_VALUE, 7)), Err(refused));
    }

    #[test]
    fn what_hides_in_the_second_half_of_a_load_is_seen_too() {
        let mut insns = load(0, 1);
        insns[1] = Insn { code: LD_IMM64, dst: 1, src: PSEUDO_MAP_FD, off: 0, imm: 7 };
        let refused = GuardError::ForeignMap { function: "pass".into(), instruction: 1, fd: 7 };
        assert_eq!(finished(&insns), Err(refused));
    }

    #[test]
    fn kernel_variables_map_indexes_and_kernel_functions_are_refused() {
        for pseudo in [PSEUDO_BTF_ID, 5, 6, 7, 15] {
            let refused = GuardError::Literal { function: "pass".into(), instruction: 0, pseudo };
            assert_eq!(finished(&load(pseudo, 5)), Err(refused));
        }
        let call = Insn { code: CALL, dst: 0, src: PSEUDO_KFUNC_CALL, off: 0, imm: 5 };
        let refused = GuardError::KernelCall { function: "pass".into(), instruction: 0, pseudo: PSEUDO_KFUNC_CALL };
        assert_eq!(finished(&[call, Insn::exit()]), Err(refused));
    }

    #[test]
    fn a_call_out_of_the_program_is_refused() {
        for imm in [1, i32::MAX, i32::MIN, -2] {
            let call = Insn { code: CALL, dst: 0, src: PSEUDO_CALL, off: 0, imm };
            let refused = GuardError::Outside { function: "pass".into(), instruction: 0 };
            assert_eq!(finished(&[call, Insn::exit()]), Err(refused), "distance {imm}");
        }
    }

    #[test]
    fn a_program_that_ends_in_half_a_load_is_refused() {
        let [half, _] = Insn::load_map(Reg::R1, 5);
        assert_eq!(finished(&[half]), Err(GuardError::HalfInstruction("pass".into())));
    }
}
