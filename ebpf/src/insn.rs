//! One BPF instruction as a value, and its eight bytes.
//!
//! Owns encoding and decoding (little-endian only, as all objects bpfd accepts) and the constants of
//! `include/uapi/linux/bpf.h` and `Documentation/bpf/standardization/instruction-set.rst` that this crate needs.
//! It must never judge a program: what may be loaded is decided in `guard`, `fuse` and by the kernel.

/// Bytes of one instruction slot; `ld_imm64` takes two slots.
pub const INSN_SIZE: usize = 8;

/// Code of `ld_imm64` (BPF_LD | BPF_IMM | BPF_DW), the only instruction that can name a map or a function's address.
pub const LD_IMM64: u8 = 0x18;
/// Code of `call` (BPF_JMP | BPF_CALL).
pub const CALL: u8 = 0x85;
/// Code of `exit` (BPF_JMP | BPF_EXIT).
pub const EXIT: u8 = 0x95;

/// `src` of a `ld_imm64` whose `imm` is a map's fd (BPF_PSEUDO_MAP_FD).
pub const PSEUDO_MAP_FD: u8 = 1;
/// `src` of a `ld_imm64` whose `imm` is a map's fd and whose second `imm` is an offset in its value (BPF_PSEUDO_MAP_VALUE).
pub const PSEUDO_MAP_VALUE: u8 = 2;
/// `src` of a `ld_imm64` whose `imm` is a kernel variable's BTF id (BPF_PSEUDO_BTF_ID).
pub const PSEUDO_BTF_ID: u8 = 3;
/// `src` of a `ld_imm64` whose `imm` is the distance to a function of the same program (BPF_PSEUDO_FUNC).
pub const PSEUDO_FUNC: u8 = 4;
/// `src` of a `call` whose `imm` is the distance to a function of the same program (BPF_PSEUDO_CALL).
pub const PSEUDO_CALL: u8 = 1;
/// `src` of a `call` whose `imm` is a kernel function's BTF id (BPF_PSEUDO_KFUNC_CALL).
pub const PSEUDO_KFUNC_CALL: u8 = 2;

/// Helper id of `bpf_tail_call`.
pub const HELPER_TAIL_CALL: i32 = 12;
/// Helper id of `bpf_xdp_adjust_tail`.
pub const HELPER_XDP_ADJUST_TAIL: i32 = 65;

const ALU64_MOV_K: u8 = 0xb7;
const ALU64_MOV_X: u8 = 0xbf;
const ALU32_MOV_K: u8 = 0xb4;
const ALU32_MOV_X: u8 = 0xbc;
const ALU64_RSH_X: u8 = 0x7f;
const ALU64_AND_K: u8 = 0x57;
const LDX_W: u8 = 0x61;
const LDX_B: u8 = 0x71;
const STX_W: u8 = 0x63;
/// Code of `if dst == imm goto`.
pub(crate) const JEQ_K: u8 = 0x15;
/// Code of `if dst < imm goto`, unsigned.
pub(crate) const JLT_K: u8 = 0xa5;

/// A register. `R10` is the read-only frame pointer; `R6` to `R9` survive calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the meaning")]
pub enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

impl Reg {
    /// The register's number in an instruction.
    pub const fn number(self) -> u8 {
        match self {
            Self::R0 => 0,
            Self::R1 => 1,
            Self::R2 => 2,
            Self::R3 => 3,
            Self::R4 => 4,
            Self::R5 => 5,
            Self::R6 => 6,
            Self::R7 => 7,
            Self::R8 => 8,
            Self::R9 => 9,
            Self::R10 => 10,
        }
    }
}

/// One instruction slot. Any value of the fields can be represented, also what no kernel accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Insn {
    /// Operation code.
    pub code: u8,
    /// Destination register, 0..=15.
    pub dst: u8,
    /// Source register or pseudo kind, 0..=15.
    pub src: u8,
    /// Jump distance in slots from the next one, or byte offset of a load or store.
    pub off: i16,
    /// Immediate value.
    pub imm: i32,
}

impl Insn {
    pub(crate) const fn new(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Self {
        Self { code, dst, src, off, imm }
    }

    /// `dst = imm`, sign-extended to 64 bits.
    pub const fn mov(dst: Reg, imm: i32) -> Self {
        Self::new(ALU64_MOV_K, dst.number(), 0, 0, imm)
    }

    /// `dst = imm`, upper 32 bits zero.
    pub const fn mov32(dst: Reg, imm: u32) -> Self {
        Self::new(ALU32_MOV_K, dst.number(), 0, 0, imm.cast_signed())
    }

    /// `dst = src`.
    pub const fn mov_reg(dst: Reg, src: Reg) -> Self {
        Self::new(ALU64_MOV_X, dst.number(), src.number(), 0, 0)
    }

    /// `dst = src`, upper 32 bits zero.
    pub const fn mov32_reg(dst: Reg, src: Reg) -> Self {
        Self::new(ALU32_MOV_X, dst.number(), src.number(), 0, 0)
    }

    /// `dst >>= src`, 64 bits, logical; the kernel takes the distance modulo 64.
    pub const fn shr_reg(dst: Reg, src: Reg) -> Self {
        Self::new(ALU64_RSH_X, dst.number(), src.number(), 0, 0)
    }

    /// `dst &= imm`, imm sign-extended.
    pub const fn and(dst: Reg, imm: i32) -> Self {
        Self::new(ALU64_AND_K, dst.number(), 0, 0, imm)
    }

    /// `dst = *(u32 *)(src + off)`.
    pub const fn load32(dst: Reg, src: Reg, off: i16) -> Self {
        Self::new(LDX_W, dst.number(), src.number(), off, 0)
    }

    /// `dst = *(u8 *)(src + off)`.
    pub const fn load8(dst: Reg, src: Reg, off: i16) -> Self {
        Self::new(LDX_B, dst.number(), src.number(), off, 0)
    }

    /// `*(u32 *)(dst + off) = src`.
    pub const fn store32(dst: Reg, off: i16, src: Reg) -> Self {
        Self::new(STX_W, dst.number(), src.number(), off, 0)
    }

    /// Call of a helper by its id.
    pub const fn call_helper(id: i32) -> Self {
        Self::new(CALL, 0, 0, 0, id)
    }

    /// End of a function.
    pub const fn exit() -> Self {
        Self::new(EXIT, 0, 0, 0, 0)
    }

    /// The two slots of `dst = address of the map with this fd`.
    pub const fn load_map(dst: Reg, fd: i32) -> [Self; 2] {
        [Self::new(LD_IMM64, dst.number(), PSEUDO_MAP_FD, 0, fd), Self::new(0, 0, 0, 0, 0)]
    }

    /// The two slots of `dst = address of byte `offset` in the only value of the array map with this fd`.
    pub const fn load_map_value(dst: Reg, fd: i32, offset: i32) -> [Self; 2] {
        [Self::new(LD_IMM64, dst.number(), PSEUDO_MAP_VALUE, 0, fd), Self::new(0, 0, 0, 0, offset)]
    }

    /// Whether this slot begins a `ld_imm64`.
    pub const fn is_ld_imm64(&self) -> bool {
        self.code == LD_IMM64
    }

    /// Whether this is a call of anything.
    pub const fn is_call(&self) -> bool {
        self.code == CALL
    }

    /// Whether this calls a function of the same program.
    pub const fn is_local_call(&self) -> bool {
        self.is_call() && self.src == PSEUDO_CALL
    }

    /// Whether this calls `bpf_tail_call`.
    pub const fn is_tail_call(&self) -> bool {
        self.is_call() && self.src == 0 && self.imm == HELPER_TAIL_CALL
    }

    /// Whether this takes the address of a function of the same program, as callbacks do.
    pub const fn is_function_address(&self) -> bool {
        self.is_ld_imm64() && self.src == PSEUDO_FUNC
    }

    /// The slot's eight bytes. Of `dst` and `src` the low four bits count.
    pub fn to_bytes(self) -> [u8; INSN_SIZE] {
        let Self { code, dst, src, off, imm } = self;
        let [off0, off1] = off.to_le_bytes();
        let [imm0, imm1, imm2, imm3] = imm.to_le_bytes();
        [code, (dst & 0xf) | (src << 4), off0, off1, imm0, imm1, imm2, imm3]
    }

    /// The slot that these eight bytes are. Every input is an instruction slot.
    pub const fn from_bytes(bytes: [u8; INSN_SIZE]) -> Self {
        let [code, registers, off0, off1, imm0, imm1, imm2, imm3] = bytes;
        Self {
            code,
            dst: registers & 0xf,
            src: registers >> 4,
            off: i16::from_le_bytes([off0, off1]),
            imm: i32::from_le_bytes([imm0, imm1, imm2, imm3]),
        }
    }
}

/// The bytes of a program, as BPF_PROG_LOAD takes them on a little-endian machine.
pub fn encode(insns: &[Insn]) -> Vec<u8> {
    insns.iter().flat_map(|insn| insn.to_bytes()).collect()
}

/// The instructions of a program's bytes.
pub fn decode(bytes: &[u8]) -> Result<Vec<Insn>, PartialInsn> {
    let (slots, rest) = bytes.as_chunks::<INSN_SIZE>();
    if !rest.is_empty() {
        return Err(PartialInsn { length: bytes.len() });
    }
    Ok(slots.iter().map(|slot| Insn::from_bytes(*slot)).collect())
}

/// Code whose length is not a whole number of instructions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{length} bytes of code are not a whole number of 8-byte instructions")]
pub struct PartialInsn {
    /// The length found, in bytes.
    pub length: usize,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(insn: Insn, hex: [u8; 8]) {
        assert_eq!(insn.to_bytes(), hex);
        assert_eq!(Insn::from_bytes(hex), insn);
    }

    /// The bytes are those that clang wrote for the same instructions in libxdp's dispatcher.
    #[test]
    fn encodes_as_clang_does() {
        check(Insn::mov_reg(Reg::R6, Reg::R1), [0xbf, 0x16, 0, 0, 0, 0, 0, 0]);
        check(Insn::mov(Reg::R0, 2), [0xb7, 0, 0, 0, 2, 0, 0, 0]);
        check(Insn::load8(Reg::R7, Reg::R8, 2), [0x71, 0x87, 2, 0, 0, 0, 0, 0]);
        check(Insn::load32(Reg::R1, Reg::R8, 4), [0x61, 0x81, 4, 0, 0, 0, 0, 0]);
        check(Insn::shr_reg(Reg::R1, Reg::R2), [0x7f, 0x21, 0, 0, 0, 0, 0, 0]);
        check(Insn::and(Reg::R1, 1), [0x57, 1, 0, 0, 1, 0, 0, 0]);
        check(Insn::store32(Reg::R10, -4, Reg::R2), [0x63, 0x2a, 0xfc, 0xff, 0, 0, 0, 0]);
        check(Insn::exit(), [0x95, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn code_with_a_partial_instruction_is_refused() {
        assert_eq!(decode(&[0x95; 12]), Err(PartialInsn { length: 12 }));
    }

    proptest! {
        #[test]
        fn decoding_then_encoding_gives_the_same_bytes(slots in proptest::collection::vec(any::<[u8; 8]>(), 0..64)) {
            let bytes: Vec<u8> = slots.concat();
            prop_assert_eq!(encode(&decode(&bytes).unwrap()), bytes);
        }
    }
}
