//! A small assembler: instructions in order, jumps and calls by label.
//!
//! Owns the resolving of labels and the range of their distances. It must never choose an instruction.

use std::collections::BTreeMap;

use crate::insn::{CALL, Insn, JEQ_K, JLT_K, PSEUDO_CALL, Reg};

/// A place in a program, before its address is known. Made by [`Assembler::label`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label(usize);

/// Why an assembled program has no bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    /// A label was used and never placed.
    #[error("label {0} is used but never placed")]
    Unplaced(usize),
    /// A jump's distance does not fit its 16 bits.
    #[error("a jump from instruction {from} to {to} is longer than 16 bits reach")]
    JumpTooFar {
        /// Slot of the jump.
        from: usize,
        /// Slot of its target.
        to: usize,
    },
    /// A call's distance does not fit its 32 bits.
    #[error("a call from instruction {from} to {to} is longer than 32 bits reach")]
    CallTooFar {
        /// Slot of the call.
        from: usize,
        /// Slot of its target.
        to: usize,
    },
}

#[derive(Debug, Clone, Copy)]
enum Fix {
    Jump,
    Call,
}

/// Builds a program front to back; jumps and calls name labels that may be placed later.
#[derive(Debug, Default)]
pub struct Assembler {
    insns: Vec<Insn>,
    labels: usize,
    placed: BTreeMap<Label, usize>,
    fixes: Vec<(usize, Label, Fix)>,
}

impl Assembler {
    /// An empty program.
    pub fn new() -> Self {
        Self::default()
    }

    /// A new label, not placed yet.
    pub fn label(&mut self) -> Label {
        let label = Label(self.labels);
        self.labels += 1;
        label
    }

    /// Places a label at the next slot. The last placement of a label counts.
    pub fn place(&mut self, label: Label) {
        self.placed.insert(label, self.insns.len());
    }

    /// The slot the next instruction gets.
    pub fn position(&self) -> usize {
        self.insns.len()
    }

    /// Appends one instruction.
    pub fn push(&mut self, insn: Insn) {
        self.insns.push(insn);
    }

    /// Appends instructions as they are, for example the two slots of a `ld_imm64`, or a whole function.
    pub fn extend(&mut self, insns: impl IntoIterator<Item = Insn>) {
        self.insns.extend(insns);
    }

    /// `if reg == imm goto label`.
    pub fn jump_if_equal(&mut self, reg: Reg, imm: i32, label: Label) {
        self.fixes.push((self.insns.len(), label, Fix::Jump));
        self.push(Insn::new(JEQ_K, reg.number(), 0, 0, imm));
    }

    /// `if reg < imm goto label`, unsigned.
    pub fn jump_if_below(&mut self, reg: Reg, imm: i32, label: Label) {
        self.fixes.push((self.insns.len(), label, Fix::Jump));
        self.push(Insn::new(JLT_K, reg.number(), 0, 0, imm));
    }

    /// Calls the function that begins at `label`.
    pub fn call(&mut self, label: Label) {
        self.fixes.push((self.insns.len(), label, Fix::Call));
        self.push(Insn::new(CALL, 0, PSEUDO_CALL, 0, 0));
    }

    /// The finished program, every jump and call resolved.
    pub fn finish(self) -> Result<Vec<Insn>, AssembleError> {
        let Self { mut insns, labels: _, placed, fixes } = self;
        for (from, label, fix) in fixes {
            let to = *placed.get(&label).ok_or(AssembleError::Unplaced(label.0))?;
            let distance = distance(from, to);
            let Some(insn) = insns.get_mut(from) else { continue };
            match fix {
                Fix::Jump => {
                    insn.off = distance
                        .and_then(|slots| i16::try_from(slots).ok())
                        .ok_or(AssembleError::JumpTooFar { from, to })?;
                }
                Fix::Call => {
                    insn.imm = distance
                        .and_then(|slots| i32::try_from(slots).ok())
                        .ok_or(AssembleError::CallTooFar { from, to })?;
                }
            }
        }
        Ok(insns)
    }
}

/// Slots between the one after `from` and `to`, as jumps count them.
fn distance(from: usize, to: usize) -> Option<i64> {
    let from = i64::try_from(from).ok()?;
    i64::try_from(to).ok()?.checked_sub(from)?.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forward_and_backward_labels_resolve_to_slot_distances() {
        let mut asm = Assembler::new();
        let (function, out) = (asm.label(), asm.label());
        asm.place(function);
        asm.jump_if_equal(Reg::R1, 0, out);
        asm.extend(Insn::load_map(Reg::R2, 5));
        asm.call(function);
        asm.place(out);
        asm.push(Insn::exit());
        let insns = asm.finish().unwrap();
        assert_eq!(insns[0].off, 3);
        assert_eq!((insns[3].src, insns[3].imm), (PSEUDO_CALL, -4));
    }

    #[test]
    fn a_jump_over_more_than_sixteen_bits_is_refused() {
        let mut asm = Assembler::new();
        let out = asm.label();
        asm.jump_if_below(Reg::R1, 1, out);
        asm.extend(std::iter::repeat_n(Insn::mov(Reg::R0, 0), 32768));
        asm.place(out);
        assert_eq!(asm.finish(), Err(AssembleError::JumpTooFar { from: 0, to: 32769 }));
    }

    #[test]
    fn the_longest_jump_is_accepted() {
        let mut asm = Assembler::new();
        let out = asm.label();
        asm.jump_if_below(Reg::R1, 1, out);
        asm.extend(std::iter::repeat_n(Insn::mov(Reg::R0, 0), 32767));
        asm.place(out);
        assert_eq!(asm.finish().unwrap()[0].off, 32767);
    }

    #[test]
    fn a_label_that_was_never_placed_is_an_error() {
        let mut asm = Assembler::new();
        let nowhere = asm.label();
        asm.call(nowhere);
        assert_eq!(asm.finish(), Err(AssembleError::Unplaced(0)));
    }
}
