//! Which verdicts of an XDP program let the chain go on.
//!
//! Owns the mask's meaning, as libxdp's `chain_call_actions` has it (`lib/libxdp/protocol.org`, "Dispatcher
//! configuration"). It must never hold bit 31: that one belongs to a slot's placeholder and is added where a
//! configuration or a program is written.

use serde::{Deserialize, Serialize};

/// The verdict of an empty slot (`XDP_DISPATCHER_RETVAL` in libxdp): the chain always goes on after it.
pub const EMPTY_SLOT_VERDICT: u32 = 31;
/// XDP_PASS of `include/uapi/linux/bpf.h`.
pub const XDP_PASS: i32 = 2;
/// XDP_ABORTED of `include/uapi/linux/bpf.h`.
pub const XDP_ABORTED: i32 = 0;

const EMPTY_SLOT_BIT: u32 = 1 << EMPTY_SLOT_VERDICT;

/// A set of verdicts after which the next program runs. Bit `n` stands for the verdict `n`; programs of others may
/// have set bits without a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "u32", into = "u32")]
pub struct ActionMask(u32);

impl ActionMask {
    /// No verdict: the program always ends the chain.
    pub const NONE: Self = Self(0);
    /// XDP_PASS only, libxdp's default.
    pub const PASS: Self = Self(1 << 2);

    /// The mask of these bits. Bit 31 is dropped, as libxdp does when it reads a configuration.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & !EMPTY_SLOT_BIT)
    }

    /// The bits, never bit 31.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The bits with bit 31, as libxdp writes them into a configuration.
    pub const fn with_empty_slot(self) -> u32 {
        self.0 | EMPTY_SLOT_BIT
    }

    /// Whether the chain goes on after this verdict, to the letter of what libxdp's dispatcher compiles to:
    /// a 64-bit shift of the zero-extended mask by the verdict, whose distance the kernel takes modulo 64.
    pub const fn continues_after(self, verdict: u32) -> bool {
        let distance = verdict % 64;
        distance < 32 && (self.with_empty_slot() >> distance) & 1 == 1
    }
}

impl Default for ActionMask {
    fn default() -> Self {
        Self::PASS
    }
}

impl From<u32> for ActionMask {
    fn from(bits: u32) -> Self {
        Self::from_bits(bits)
    }
}

impl From<ActionMask> for u32 {
    fn from(mask: ActionMask) -> Self {
        mask.bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_31_never_enters_a_mask_and_is_always_written() {
        assert_eq!(ActionMask::from_bits(0x8000_0004), ActionMask::PASS);
        assert_eq!(ActionMask::PASS.with_empty_slot(), 0x8000_0004);
        assert_eq!(ActionMask::NONE.with_empty_slot(), 0x8000_0000);
    }

    #[test]
    fn the_chain_goes_on_after_listed_verdicts_and_the_empty_slot_only() {
        for (verdict, goes_on) in [(0, false), (1, false), (2, true), (3, false), (31, true), (32, false), (34, false)]
        {
            assert_eq!(ActionMask::PASS.continues_after(verdict), goes_on, "verdict {verdict}");
        }
        assert!(ActionMask::PASS.continues_after(66), "66 modulo 64 is XDP_PASS, as in libxdp's own code");
        assert!(!ActionMask::PASS.continues_after(u32::MAX));
    }
}
