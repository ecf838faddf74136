//! Writes BTF, the type information a program is loaded with: what dispatchers need of it.
//!
//! Owns the format's encoding (`Documentation/bpf/btf.rst`). It must never read BTF: that is `btf`.

use crate::bytes::count;

/// A type of the BTF under construction; 0 is `void`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(u32);

impl TypeId {
    /// The number, as the kernel counts types: from 1 in the order they were added.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// Whether code of other programs can see a function or variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linkage {
    /// Checked at each call; cannot be replaced.
    Static,
    /// Checked on its own; an EXT program can replace such a function.
    Global,
}

impl Linkage {
    const fn number(self) -> u32 {
        match self {
            Self::Static => 0,
            Self::Global => 1,
        }
    }
}

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;

const HEADER_SIZE: u32 = 24;
const INT_SIGNED: u32 = 1 << 24;

/// BTF under construction. Types refer only to types that were added before.
#[derive(Debug, Clone)]
pub struct BtfBuilder {
    types: Vec<u8>,
    strings: Vec<u8>,
    next: u32,
}

impl Default for BtfBuilder {
    fn default() -> Self {
        Self { types: Vec::new(), strings: vec![0], next: 1 }
    }
}

impl BtfBuilder {
    /// No types.
    pub fn new() -> Self {
        Self::default()
    }

    /// A signed integer of `bytes` bytes, 1 to 16.
    pub fn signed(&mut self, name: &str, bytes: u8) -> TypeId {
        self.integer(name, bytes, INT_SIGNED)
    }

    /// An unsigned integer of `bytes` bytes, 1 to 16.
    pub fn unsigned(&mut self, name: &str, bytes: u8) -> TypeId {
        self.integer(name, bytes, 0)
    }

    fn integer(&mut self, name: &str, bytes: u8, encoding: u32) -> TypeId {
        let id = self.begin(name, KIND_INT, 0, u32::from(bytes));
        self.words([encoding | (u32::from(bytes) * 8)]);
        id
    }

    /// A pointer.
    pub fn pointer(&mut self, to: TypeId) -> TypeId {
        self.begin("", KIND_PTR, 0, to.0)
    }

    /// An array of `length` elements.
    pub fn array(&mut self, element: TypeId, index: TypeId, length: u32) -> TypeId {
        let id = self.begin("", KIND_ARRAY, 0, 0);
        self.words([element.0, index.0, length]);
        id
    }

    /// A struct of `size` bytes; members are name, type, and offset in bytes.
    pub fn structure(&mut self, name: &str, size: u32, members: &[(&str, TypeId, u32)]) -> TypeId {
        let id = self.begin(name, KIND_STRUCT, members.len(), size);
        for (name, member, offset) in members {
            let name = self.string(name);
            self.words([name, member.0, offset.saturating_mul(8)]);
        }
        id
    }

    /// A function's signature; parameters are name and type.
    pub fn signature(&mut self, returns: TypeId, parameters: &[(&str, TypeId)]) -> TypeId {
        let id = self.begin("", KIND_FUNC_PROTO, parameters.len(), returns.0);
        for (name, parameter) in parameters {
            let name = self.string(name);
            self.words([name, parameter.0]);
        }
        id
    }

    /// A function with a body.
    pub fn function(&mut self, name: &str, signature: TypeId, linkage: Linkage) -> TypeId {
        // The linkage takes the place of the number of members.
        let vlen = match linkage {
            Linkage::Static => 0,
            Linkage::Global => 1,
        };
        self.begin(name, KIND_FUNC, vlen, signature.0)
    }

    /// A global variable.
    pub fn variable(&mut self, name: &str, of: TypeId, linkage: Linkage) -> TypeId {
        let id = self.begin(name, KIND_VAR, 0, of.0);
        self.words([linkage.number()]);
        id
    }

    /// A section of variables; each with its offset and size in bytes, in ascending order.
    pub fn section(&mut self, name: &str, size: u32, variables: &[(TypeId, u32, u32)]) -> TypeId {
        let id = self.begin(name, KIND_DATASEC, variables.len(), size);
        for (variable, offset, size) in variables {
            self.words([variable.0, *offset, *size]);
        }
        id
    }

    /// The finished BTF, for BPF_BTF_LOAD.
    pub fn finish(self) -> Vec<u8> {
        let Self { types, strings, next: _ } = self;
        let mut out = vec![0x9f, 0xeb, 1, 0];
        for word in [HEADER_SIZE, 0, count(types.len()), count(types.len()), count(strings.len())] {
            out.extend(word.to_le_bytes());
        }
        out.extend(types);
        out.extend(strings);
        out
    }

    /// `struct btf_type`: name, kind with the number of members, size or type.
    fn begin(&mut self, name: &str, kind: u32, members: usize, size_or_type: u32) -> TypeId {
        let name = self.string(name);
        self.words([name, (kind << 24) | (count(members) & 0xffff), size_or_type]);
        let id = TypeId(self.next);
        self.next = self.next.saturating_add(1);
        id
    }

    fn words<const N: usize>(&mut self, words: [u32; N]) {
        self.types.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = count(self.strings.len());
        self.strings.extend(text.as_bytes());
        self.strings.push(0);
        at
    }
}

/// The `func_info` records of a program: where each function begins (in instructions, ascending) and its BTF type.
pub fn func_info(functions: &[(u32, TypeId)]) -> Vec<u8> {
    functions.iter().flat_map(|(start, id)| [start.to_le_bytes(), id.0.to_le_bytes()]).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_of_a_context_is_encoded_as_documented() {
        let mut btf = BtfBuilder::new();
        let int = btf.signed("int", 4);
        let context = btf.structure("ctx", 4, &[("data", int, 0)]);
        let pointer = btf.pointer(context);
        let signature = btf.signature(int, &[("ctx", pointer)]);
        let function = btf.function("f", signature, Linkage::Global);
        assert_eq!(function.number(), 5);
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let types = words(&[
            1,
            0x0100_0000,
            4,
            0x0100_0020, // int
            5,
            0x0400_0001,
            4,
            9,
            1,
            0, // struct ctx { int data; }
            0,
            0x0200_0000,
            2, // struct ctx *
            0,
            0x0d00_0001,
            1,
            14,
            3, // int (struct ctx *ctx)
            18,
            0x0c00_0001,
            4, // f
        ]);
        let mut expected = vec![0x9f, 0xeb, 1, 0];
        expected.extend(words(&[24, 0, 84, 84, 20]));
        expected.extend(&types);
        expected.extend(b"\0int\0ctx\0data\0ctx\0f\0");
        assert_eq!(btf.finish(), expected);
        assert_eq!(func_info(&[(7, function)]), words(&[7, 5]));
    }
}
