//! Global variables of an object with their C types, and the bytes of a value given as text (`--set NAME=VALUE`). Must
//! never write more or fewer bytes than the variable has, nor cut a number to make it fit.

use serde::{Deserialize, Serialize};

use crate::bytes::index;
use crate::names::SectionName;

/// Characters of a value that an error quotes: more than any integer has.
const SHOWN: usize = 60;

/// A starting value longer than this is not carried across processes, bytes.
pub(crate) const MAX_INITIAL: usize = 256;
/// A global variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Global {
    /// Its name in C.
    pub name: String,
    /// `.rodata`, `.data`, `.bss` or a custom one of these (`.data.NAME`).
    pub section: SectionName,
    /// Bytes from the start of its section, which is one map.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
    /// What it holds.
    #[serde(rename = "type")]
    pub ty: GlobalType,
    /// The type as C writes it: `u16`, `char[16]`.
    pub type_name: String,
    /// Constant once loaded.
    pub read_only: bool,
    /// Its value in the object.
    pub initial: Initial,
}

/// The value a variable starts with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Initial {
    /// All bytes zero.
    Zero,
    /// These, little-endian.
    Bytes(Vec<u8>),
    /// Longer than 256 bytes: not carried.
    Long,
}

/// What a variable holds, as far as text can say it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GlobalType {
    /// `bool`.
    Bool,
    /// `char`: a character or a number.
    Char,
    /// An integer.
    Int {
        /// 1, 2, 4 or 8 bytes.
        size: u8,
        /// Whether it has a sign.
        signed: bool,
    },
    /// An enum: a name or a number.
    Enum {
        /// 1, 2, 4 or 8 bytes.
        size: u8,
        /// Whether its numbers have a sign.
        signed: bool,
        /// Its enumerators, at most 128.
        values: Vec<Enumerator>,
    },
    /// `char[len]`: text with its NUL.
    CharArray {
        /// Bytes, the NUL included.
        len: u32,
    },
    /// Integers.
    IntArray {
        /// Bytes of one: 1, 2, 4 or 8.
        size: u8,
        /// Whether they have a sign.
        signed: bool,
        /// How many.
        len: u32,
    },
    /// A struct, a pointer, ...: not to be set by text.
    Other,
}

/// One name of an enum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enumerator {
    /// The name.
    pub name: String,
    /// Its number, cut to 64 bits of two's complement.
    pub bits: u64,
}

/// Why a variable cannot be set to a text. The declaration is as in C: `u16 port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum GlobalError {
    /// The object has none of that name.
    #[error("no global `{name}` in the object")]
    Unknown {
        /// As asked.
        name: String,
        /// What there is.
        candidates: Vec<String>,
    },
    /// Static variables of two source files.
    #[error("global `{0}` exists more than once in the object")]
    Ambiguous(String),
    /// Not a number where one is needed.
    #[error("`{text}` is not a number for `{declaration}`")]
    NotANumber {
        /// In C.
        declaration: String,
        /// As given.
        text: String,
    },
    /// Too large or too small.
    #[error("`{text}` is out of range for `{declaration}`: {min} to {max}")]
    OutOfRange {
        /// In C.
        declaration: String,
        /// As given.
        text: String,
        /// Smallest.
        min: String,
        /// Largest.
        max: String,
    },
    /// Neither true nor false.
    #[error("`{text}` is not true, false, 1 or 0 for `{declaration}`")]
    NotABool {
        /// In C.
        declaration: String,
        /// As given.
        text: String,
    },
    /// Neither a name of the enum nor a number.
    #[error("`{text}` is not a value of `{declaration}`")]
    NotAnEnumerator {
        /// In C.
        declaration: String,
        /// As given.
        text: String,
        /// What there is.
        candidates: Vec<String>,
    },
    /// Text that leaves no room for its NUL.
    #[error("{found} bytes do not fit `{declaration}`: at most {limit} and a NUL")]
    TooLong {
        /// In C.
        declaration: String,
        /// Bytes given.
        found: usize,
        /// Bytes that fit.
        limit: usize,
    },
    /// More elements than the array has.
    #[error("{found} numbers do not fit `{declaration}`")]
    TooMany {
        /// In C.
        declaration: String,
        /// Elements given.
        found: usize,
    },
    /// No text form.
    #[error("`{0}` cannot be set by text: only integers, bool, char, enums, and arrays of integers or char")]
    Unsettable(String),
}

impl Global {
    /// As C declares it: `u16 port`, `char name[16]`.
    pub fn declaration(&self) -> String {
        match self.type_name.split_once('[') {
            Some((base, rest)) => format!("{base} {}[{rest}", self.name),
            None => format!("{} {}", self.type_name, self.name),
        }
    }
}

/// The bytes of `text` as a value of `global`: exactly [`Global::size`], little-endian. Fewer array elements than there
/// are leave the rest zero, as in C.
pub fn encode(global: &Global, text: &str) -> Result<Vec<u8>, GlobalError> {
    let bytes = match &global.ty {
        GlobalType::Bool => match text {
            "true" | "1" => vec![1],
            "false" | "0" => vec![0],
            _ => return Err(GlobalError::NotABool { declaration: global.declaration(), text: shown(text) }),
        },
        // `'x'` is the character; bare digits are a number, as for every other integer.
        GlobalType::Char => match text.as_bytes() {
            [b'\'', one, b'\''] => vec![*one],
            [one] if !one.is_ascii_digit() && one.is_ascii() => vec![*one],
            _ => integer_in(global, text, i128::from(i8::MIN), i128::from(u8::MAX), 1)?,
        },
        GlobalType::Int { size, signed } => integer(global, text, *size, *signed)?,
        GlobalType::Enum { size, signed, values } => match values.iter().find(|value| value.name == text) {
            Some(value) => low_bytes(value.bits.to_le_bytes(), *size),
            None if parse_number(text).is_some() && *signed => integer(global, text, *size, true)?,
            // Compilers before LLVM 16 do not say that an enum has a sign: then both readings of its bits are allowed.
            None if parse_number(text).is_some() => {
                let bits = u32::from((*size).clamp(1, 8)) * 8;
                integer_in(global, text, -(1_i128 << (bits - 1)), (1_i128 << bits) - 1, *size)?
            }
            None => {
                return Err(GlobalError::NotAnEnumerator {
                    declaration: global.declaration(),
                    text: shown(text),
                    candidates: values.iter().map(|value| value.name.clone()).collect(),
                });
            }
        },
        GlobalType::CharArray { len } => {
            let limit = index(*len).saturating_sub(1);
            if text.len() > limit {
                return Err(GlobalError::TooLong { declaration: global.declaration(), found: text.len(), limit });
            }
            text.as_bytes().to_vec()
        }
        GlobalType::IntArray { size, signed, len } => {
            let parts: Vec<&str> = text.split(',').map(str::trim).collect();
            if parts.len() > index(*len) {
                return Err(GlobalError::TooMany { declaration: global.declaration(), found: parts.len() });
            }
            let mut bytes = Vec::new();
            for part in parts {
                bytes.extend(integer(global, part, *size, *signed)?);
            }
            bytes
        }
        GlobalType::Other => return Err(GlobalError::Unsettable(global.declaration())),
    };
    let mut bytes = bytes;
    bytes.resize(index(global.size), 0);
    Ok(bytes)
}

/// What an error quotes of a value: the whole of any that makes sense.
fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn integer(global: &Global, text: &str, size: u8, signed: bool) -> Result<Vec<u8>, GlobalError> {
    let bits = u32::from(size.clamp(1, 8)) * 8;
    let (min, max) =
        if signed { (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1) } else { (0, (1_i128 << bits) - 1) };
    integer_in(global, text, min, max, size)
}

fn integer_in(global: &Global, text: &str, min: i128, max: i128, size: u8) -> Result<Vec<u8>, GlobalError> {
    let declaration = global.declaration();
    let Some(value) = parse_number(text) else {
        return Err(GlobalError::NotANumber { declaration, text: shown(text) });
    };
    if value < min || value > max {
        let (min, max) = (min.to_string(), max.to_string());
        return Err(GlobalError::OutOfRange { declaration, text: shown(text), min, max });
    }
    Ok(low_bytes(value.to_le_bytes(), size))
}

fn low_bytes<const N: usize>(bytes: [u8; N], size: u8) -> Vec<u8> {
    bytes.into_iter().take(usize::from(size)).collect()
}

/// Decimal, or hexadecimal after `0x`; a sign before either. Too many digits for 128 bits are far out of range too, so
/// they become the extreme rather than "not a number".
fn parse_number(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(rest) => (16, rest),
        None => (10, digits),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    let value = i128::from_str_radix(digits, radix).unwrap_or(i128::MAX);
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(type_name: &str, size: u32, ty: GlobalType) -> Global {
        Global {
            name: "x".to_owned(),
            section: ".rodata".parse().unwrap(),
            offset: 0,
            size,
            ty,
            type_name: type_name.to_owned(),
            read_only: true,
            initial: Initial::Zero,
        }
    }

    fn port() -> Global {
        global("u16", 2, GlobalType::Int { size: 2, signed: false })
    }

    fn check(global: &Global, text: &str, expected: Result<&[u8], &str>) {
        let found = encode(global, text).map_err(|error| error.to_string());
        assert_eq!(found, expected.map(<[u8]>::to_vec).map_err(str::to_owned), "{text}");
    }

    #[test]
    fn integers_are_decimal_or_hexadecimal_and_range_checked() {
        check(&port(), "443", Ok(&[0xbb, 1]));
        check(&port(), "0x1BB", Ok(&[0xbb, 1]));
        check(&port(), "65535", Ok(&[255, 255]));
        check(&port(), "65536", Err("`65536` is out of range for `u16 x`: 0 to 65535"));
        check(&port(), "-1", Err("`-1` is out of range for `u16 x`: 0 to 65535"));
        check(&port(), "http", Err("`http` is not a number for `u16 x`"));
        check(&port(), "", Err("`` is not a number for `u16 x`"));
        check(&port(), "1 2", Err("`1 2` is not a number for `u16 x`"));
        let huge = "9".repeat(60);
        check(&port(), &huge, Err(&format!("`{huge}` is out of range for `u16 x`: 0 to 65535")));
        let longer = "9".repeat(4000);
        let shown = format!("{}…", "9".repeat(SHOWN));
        check(&port(), &longer, Err(&format!("`{shown}` is out of range for `u16 x`: 0 to 65535")));
        let signed = global("int", 4, GlobalType::Int { size: 4, signed: true });
        check(&signed, "-0x2", Ok(&[0xfe, 255, 255, 255]));
        check(&signed, "2147483648", Err("`2147483648` is out of range for `int x`: -2147483648 to 2147483647"));
        let wide = global("u64", 8, GlobalType::Int { size: 8, signed: false });
        check(&wide, "18446744073709551615", Ok(&[255; 8]));
    }

    #[test]
    fn bools_chars_and_enums_take_their_words() {
        let flag = global("bool", 1, GlobalType::Bool);
        check(&flag, "true", Ok(&[1]));
        check(&flag, "0", Ok(&[0]));
        check(&flag, "2", Err("`2` is not true, false, 1 or 0 for `bool x`"));
        let letter = global("char", 1, GlobalType::Char);
        check(&letter, "a", Ok(b"a"));
        check(&letter, "7", Ok(&[7]));
        check(&letter, "'7'", Ok(b"7"));
        check(&letter, "256", Err("`256` is out of range for `char x`: -128 to 255"));
        let values = vec![Enumerator { name: "SLOW".to_owned(), bits: 1 }];
        let mode = global("enum mode", 4, GlobalType::Enum { size: 4, signed: false, values });
        check(&mode, "SLOW", Ok(&[1, 0, 0, 0]));
        check(&mode, "3", Ok(&[3, 0, 0, 0]));
        check(&mode, "-1", Ok(&[255; 4]));
        check(&mode, "FAST", Err("`FAST` is not a value of `enum mode x`"));
    }

    #[test]
    fn arrays_are_filled_up_with_zeros_and_never_cut() {
        let text = global("char[4]", 4, GlobalType::CharArray { len: 4 });
        check(&text, "abc", Ok(b"abc\0"));
        check(&text, "", Ok(&[0; 4]));
        check(&text, "abcd", Err("4 bytes do not fit `char x[4]`: at most 3 and a NUL"));
        let ports = global("u16[3]", 6, GlobalType::IntArray { size: 2, signed: false, len: 3 });
        check(&ports, "80, 443", Ok(&[80, 0, 0xbb, 1, 0, 0]));
        check(&ports, "1,2,3,4", Err("4 numbers do not fit `u16 x[3]`"));
        check(&ports, "1,,2", Err("`` is not a number for `u16 x[3]`"));
        let other = global("struct key", 8, GlobalType::Other);
        check(
            &other,
            "1",
            Err(
                "`struct key x` cannot be set by text: only integers, bool, char, enums, and arrays of integers or char",
            ),
        );
    }
}
