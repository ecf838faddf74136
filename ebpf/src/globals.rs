//! Global variables of an object with their C types, and the bytes of a value given as text (`--set NAME=VALUE`): as people write it in a
//! shell, as JSON for what has parts, or as hexadecimal digits. Must never write more or fewer bytes than the variable has, nor cut a
//! number to make it fit.
//!
//! Long because each C type has a form, an error and cases of its own.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::bytes::{index, put};
use crate::names::SectionName;

/// Characters of a value that an error quotes: more than any integer has.
const SHOWN: usize = 60;

/// What is before the digits of a value that is given by its bytes.
pub(crate) const HEX: &str = "hex:";

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
    /// These; of a scalar, little-endian.
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
    /// An array of anything else.
    Array {
        /// Of what.
        element: Box<GlobalType>,
        /// Bytes of one.
        size: u32,
        /// How many.
        len: u32,
    },
    /// A struct.
    Struct {
        /// Its members, those of structs without a name in it included.
        members: Vec<Member>,
    },
    /// Bits of an integer, in a struct.
    Bits {
        /// From the lowest bit of the member's first byte: 0 to 7.
        first: u8,
        /// How many: 1 to 64.
        width: u8,
        /// Whether the highest is a sign.
        signed: bool,
    },
    /// Something that only bytes can set.
    Other {
        /// What it is: "a union".
        what: String,
    },
}

impl GlobalType {
    fn is_scalar(&self) -> bool {
        match self {
            Self::Bool | Self::Char | Self::Int { .. } | Self::Enum { .. } => true,
            Self::CharArray { .. }
            | Self::IntArray { .. }
            | Self::Array { .. }
            | Self::Struct { .. }
            | Self::Bits { .. }
            | Self::Other { .. } => false,
        }
    }
}

/// A member of a struct.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Bytes from the start of the struct.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
    /// What it holds.
    #[serde(rename = "type")]
    pub ty: GlobalType,
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
    #[error("{found} values do not fit `{declaration}`")]
    TooMany {
        /// In C.
        declaration: String,
        /// Elements given.
        found: usize,
    },
    /// Only JSON says what goes where.
    #[error("`{declaration}` is set by JSON: `{form}`; or by its bytes, `hex:…`")]
    NeedsJson {
        /// In C.
        declaration: String,
        /// How it begins and ends.
        form: String,
    },
    /// Not JSON.
    #[error("the value of `{declaration}` is not JSON: {why}")]
    NotJson {
        /// In C.
        declaration: String,
        /// Why, with the place.
        why: String,
    },
    /// Another JSON value than the type takes.
    #[error("`{text}` is not {wanted}, which `{declaration}` takes")]
    WrongJson {
        /// In C.
        declaration: String,
        /// As given.
        text: String,
        /// What the type takes.
        wanted: Cow<'static, str>,
    },
    /// A struct has no such member.
    #[error("`{declaration}` has no member `{name}`{}", list_of(.candidates))]
    NoMember {
        /// In C.
        declaration: String,
        /// As given.
        name: String,
        /// What there is.
        candidates: Vec<String>,
    },
    /// `hex:` with something else than the bytes.
    #[error("`{declaration}` has {size} bytes: write two hexadecimal digits for each of them after `hex:`")]
    NotHex {
        /// In C.
        declaration: String,
        /// Its bytes.
        size: u32,
    },
    /// No form but bytes.
    #[error("`{declaration}` is {what}: give its bytes, `hex:…`")]
    Unsettable {
        /// In C.
        declaration: String,
        /// What it is.
        what: String,
    },
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
/// are leave the rest zero, as in C, and so do members that are not named. `hex:…` is the bytes themselves, for any type.
pub fn encode(global: &Global, text: &str) -> Result<Vec<u8>, GlobalError> {
    let declaration = global.declaration();
    let place = Place { declaration: &declaration, size: global.size };
    let mut bytes = match text.strip_prefix(HEX) {
        Some(digits) => place.hex(digits)?,
        None => place.text(&global.ty, text)?,
    };
    bytes.resize(index(global.size), 0);
    Ok(bytes)
}

/// The bytes of `text` as a key or value of a map that `declaration` names: exactly `size`, with the same forms. What is JSON is read as
/// JSON; a word that is none, such as an enumerator's name, as people write it in a shell. Without a type only `hex:…` is.
pub fn encode_as(declaration: &str, ty: Option<&GlobalType>, size: u32, text: &str) -> Result<Vec<u8>, GlobalError> {
    let place = Place { declaration, size };
    let mut bytes = match (text.strip_prefix(HEX), ty) {
        (Some(digits), _) => place.hex(digits)?,
        (None, ty) => match (serde_json::from_str::<Value>(text), ty) {
            (Ok(value), Some(ty)) => place.json(ty, &value)?,
            (Err(_no_json), Some(ty)) => place.text(ty, text)?,
            (Ok(Value::String(text)), None) if text.starts_with(HEX) => {
                place.hex(text.get(HEX.len()..).unwrap_or_default())?
            }
            (_, None) => return Err(place.unsettable("of a type that the object does not describe")),
        },
    };
    bytes.resize(index(size), 0);
    Ok(bytes)
}

/// A variable, or a part of one: what errors call it, and its bytes.
#[derive(Clone, Copy)]
struct Place<'a> {
    declaration: &'a str,
    size: u32,
}

impl Place<'_> {
    /// A value as people write it in a shell.
    fn text(self, ty: &GlobalType, text: &str) -> Result<Vec<u8>, GlobalError> {
        match ty {
            GlobalType::Bool => match text {
                "true" | "1" => Ok(vec![1]),
                "false" | "0" => Ok(vec![0]),
                _ => Err(GlobalError::NotABool { declaration: self.declaration.to_owned(), text: shown(text) }),
            },
            // `'x'` is the character; bare digits are a number, as for every other integer.
            GlobalType::Char => match text.as_bytes() {
                [b'\'', one, b'\''] => Ok(vec![*one]),
                [one] if !one.is_ascii_digit() && one.is_ascii() => Ok(vec![*one]),
                _ => self.integer_in(text, i128::from(i8::MIN), i128::from(u8::MAX), 1),
            },
            GlobalType::Int { size, signed } => self.integer(text, *size, *signed),
            GlobalType::Enum { size, signed, values } => self.enumerator(text, *size, *signed, values),
            GlobalType::CharArray { len } => {
                let limit = index(*len).saturating_sub(1);
                if text.len() > limit {
                    let declaration = self.declaration.to_owned();
                    return Err(GlobalError::TooLong { declaration, found: text.len(), limit });
                }
                Ok(text.as_bytes().to_vec())
            }
            GlobalType::IntArray { .. } | GlobalType::Array { .. } | GlobalType::Struct { .. }
                if text.trim_start().starts_with(['[', '{']) =>
            {
                let value = serde_json::from_str(text);
                let bad = |error: serde_json::Error| GlobalError::NotJson {
                    declaration: self.declaration.to_owned(),
                    why: error.to_string(),
                };
                self.json(ty, &value.map_err(bad)?)
            }
            GlobalType::IntArray { size, signed, len } => {
                let element = GlobalType::Int { size: *size, signed: *signed };
                self.list(&element, u32::from(*size), *len, text)
            }
            GlobalType::Array { element, size, len } if element.is_scalar() => self.list(element, *size, *len, text),
            GlobalType::Array { .. } => Err(self.needs_json("[…]")),
            // Where they are among the bits of their bytes, `members` knows.
            GlobalType::Bits { width, signed, first: _ } => {
                let (min, max) = range((*width).into(), *signed);
                self.integer_in(text, min, max, 8)
            }
            GlobalType::Struct { .. } => Err(self.needs_json("{\"member\": value}")),
            GlobalType::Other { what } => Err(self.unsettable(what)),
        }
    }

    /// Elements with commas between them.
    fn list(self, element: &GlobalType, size: u32, len: u32, text: &str) -> Result<Vec<u8>, GlobalError> {
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        self.elements(len, size, parts.len(), parts.into_iter().map(|part| self.text(element, part)))
    }

    fn elements(
        self,
        len: u32,
        size: u32,
        found: usize,
        values: impl Iterator<Item = Result<Vec<u8>, GlobalError>>,
    ) -> Result<Vec<u8>, GlobalError> {
        if found > index(len) {
            return Err(GlobalError::TooMany { declaration: self.declaration.to_owned(), found });
        }
        let mut bytes = Vec::new();
        for value in values {
            let mut value = value?;
            value.resize(index(size), 0);
            bytes.extend(value);
        }
        Ok(bytes)
    }

    /// A value as JSON.
    fn json(self, ty: &GlobalType, value: &Value) -> Result<Vec<u8>, GlobalError> {
        let wanted = |wanted: &'static str| GlobalError::WrongJson {
            declaration: self.declaration.to_owned(),
            text: shown(&value.to_string()),
            wanted: wanted.into(),
        };
        match (ty, value) {
            // Of every type, as bytes are shown that no other form has.
            (_, Value::String(text)) if text.starts_with(HEX) => self.hex(text.get(HEX.len()..).unwrap_or_default()),
            (GlobalType::Other { what }, _) => Err(self.unsettable(what)),
            (GlobalType::CharArray { .. }, Value::String(text)) => self.text(ty, text),
            (GlobalType::CharArray { .. }, _) => Err(wanted("a string")),
            (GlobalType::IntArray { size, signed, len }, Value::Array(values)) => {
                let element = GlobalType::Int { size: *size, signed: *signed };
                self.json_elements(&element, u32::from(*size), *len, values)
            }
            (GlobalType::Array { element, size, len }, Value::Array(values)) => {
                self.json_elements(element, *size, *len, values)
            }
            (GlobalType::IntArray { .. } | GlobalType::Array { .. }, _) => Err(wanted("an array")),
            (GlobalType::Struct { members }, Value::Object(values)) => self.members(members, values),
            (GlobalType::Struct { .. }, _) => Err(wanted("an object")),
            (_, Value::Bool(value)) => self.text(ty, if *value { "true" } else { "false" }),
            (_, Value::Number(number)) => self.text(ty, &number.to_string()),
            (_, Value::String(text)) => self.text(ty, text),
            (_, Value::Null | Value::Array(_) | Value::Object(_)) => Err(wanted("a number, a string, true or false")),
        }
    }

    fn json_elements(
        self,
        element: &GlobalType,
        size: u32,
        len: u32,
        values: &[Value],
    ) -> Result<Vec<u8>, GlobalError> {
        let one = |(at, value): (usize, &Value)| {
            let declaration = format!("{}[{at}]", self.declaration);
            Place { declaration: &declaration, size }.json(element, value)
        };
        self.elements(len, size, values.len(), values.iter().enumerate().map(one))
    }

    fn members(self, members: &[Member], values: &Map<String, Value>) -> Result<Vec<u8>, GlobalError> {
        let mut bytes = vec![0; index(self.size)];
        for (name, value) in values {
            let member = members.iter().find(|member| member.name == *name);
            let Some(Member { name, offset, size, ty }) = member else {
                let candidates = members.iter().map(|member| member.name.clone()).collect();
                let declaration = self.declaration.to_owned();
                return Err(GlobalError::NoMember { declaration, name: shown(name), candidates });
            };
            let declaration = format!("{}.{name}", self.declaration);
            let mut value = Place { declaration: &declaration, size: *size }.json(ty, value)?;
            if let GlobalType::Bits { first, width, signed: _ } = ty {
                let taken = bytes.get(index(*offset)..).unwrap_or_default();
                value = Bits { first: *first, width: *width }.set(taken, &value);
            }
            value.resize(index(*size), 0);
            put(&mut bytes, index(*offset), &value).ok_or_else(|| self.unsettable("misplaced in its struct"))?;
        }
        Ok(bytes)
    }

    /// Two digits a byte, every byte of the variable.
    fn hex(self, digits: &str) -> Result<Vec<u8>, GlobalError> {
        let pairs = digits.as_bytes().chunks(2);
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|two| two.len() == 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = pairs.map(byte).collect();
        let bad = || GlobalError::NotHex { declaration: self.declaration.to_owned(), size: self.size };
        let signs = digits.bytes().any(|digit| !digit.is_ascii_hexdigit());
        bytes.filter(|bytes| bytes.len() == index(self.size) && !signs).ok_or_else(bad)
    }

    fn enumerator(self, text: &str, size: u8, signed: bool, values: &[Enumerator]) -> Result<Vec<u8>, GlobalError> {
        match values.iter().find(|value| value.name == text) {
            Some(value) => Ok(low_bytes(value.bits.to_le_bytes(), size)),
            None if parse_number(text).is_some() && signed => self.integer(text, size, true),
            // Compilers before LLVM 16 do not say that an enum has a sign: then both readings of its bits are allowed.
            None if parse_number(text).is_some() => {
                let bits = u32::from(size.clamp(1, 8)) * 8;
                self.integer_in(text, -(1_i128 << (bits - 1)), (1_i128 << bits) - 1, size)
            }
            None => Err(GlobalError::NotAnEnumerator {
                declaration: self.declaration.to_owned(),
                text: shown(text),
                candidates: values.iter().map(|value| value.name.clone()).collect(),
            }),
        }
    }

    fn integer(self, text: &str, size: u8, signed: bool) -> Result<Vec<u8>, GlobalError> {
        let (min, max) = range(u32::from(size.clamp(1, 8)) * 8, signed);
        self.integer_in(text, min, max, size)
    }

    fn integer_in(self, text: &str, min: i128, max: i128, size: u8) -> Result<Vec<u8>, GlobalError> {
        let declaration = self.declaration.to_owned();
        let Some(value) = parse_number(text) else {
            return Err(GlobalError::NotANumber { declaration, text: shown(text) });
        };
        if value < min || value > max {
            let (min, max) = (min.to_string(), max.to_string());
            return Err(GlobalError::OutOfRange { declaration, text: shown(text), min, max });
        }
        Ok(low_bytes(value.to_le_bytes(), size))
    }

    fn needs_json(self, form: &'static str) -> GlobalError {
        GlobalError::NeedsJson { declaration: self.declaration.to_owned(), form: form.to_owned() }
    }

    fn unsettable(self, what: &str) -> GlobalError {
        GlobalError::Unsettable { declaration: self.declaration.to_owned(), what: what.to_owned() }
    }
}

/// The smallest and the largest integer of so many bits, 1 to 64.
fn range(bits: u32, signed: bool) -> (i128, i128) {
    let bits = bits.clamp(1, 64);
    if signed { (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1) } else { (0, (1_i128 << bits) - 1) }
}

/// Where the bits of a member are in its bytes.
#[derive(Clone, Copy)]
pub(crate) struct Bits {
    pub(crate) first: u8,
    pub(crate) width: u8,
}

impl Bits {
    fn mask(self) -> u128 {
        (1_u128 << self.width.min(64)) - 1
    }

    /// The integer there, without a sign.
    pub(crate) fn get(self, bytes: &[u8]) -> u128 {
        whole(bytes) >> self.first.min(7) & self.mask()
    }

    /// The bytes, with another integer there.
    fn set(self, bytes: &[u8], value: &[u8]) -> Vec<u8> {
        let (first, mask) = (self.first.min(7), self.mask());
        let others = whole(bytes) & !(mask << first);
        (others | (whole(value) & mask) << first).to_le_bytes().to_vec()
    }
}

/// The first bytes, as one number.
fn whole(bytes: &[u8]) -> u128 {
    let mut wide = [0; 16];
    wide.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    u128::from_le_bytes(wide)
}

/// The first of the names that there are: how many, is the object's word.
fn list_of(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > SHOWN { ", …" } else { "" };
    if shown.is_empty() { String::new() } else { format!("; it has {}{more}", shown.join(", ")) }
}

/// What an error quotes of a value: the whole of any that makes sense.
fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
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
        check(&ports, "1,2,3,4", Err("4 values do not fit `u16 x[3]`"));
        check(&ports, "1,,2", Err("`` is not a number for `u16 x[3]`"));
        let other = global("struct key", 8, GlobalType::Other { what: "a union".to_owned() });
        check(&other, "1", Err("`struct key x` is a union: give its bytes, `hex:…`"));
        check(&other, "hex:0102030405060708", Ok(&[1, 2, 3, 4, 5, 6, 7, 8]));
    }

    #[test]
    fn hexadecimal_digits_are_all_bytes_of_any_type() {
        check(&port(), "hex:BB01", Ok(&[0xbb, 1]));
        for wrong in ["hex:", "hex:bb", "hex:bb0", "hex:bb010", "hex:+b01", "hex:bb0101", "hex:zz01", "hex: b01"] {
            let why = "`u16 x` has 2 bytes: write two hexadecimal digits for each of them after `hex:`";
            check(&port(), wrong, Err(why));
        }
    }

    /// `struct { u32 low; bool on[2]; struct { char name[4]; union u; } deep[2]; }`.
    fn limits() -> Global {
        let member = |name: &str, offset, size, ty| Member { name: name.to_owned(), offset, size, ty };
        let bools = GlobalType::Array { element: Box::new(GlobalType::Bool), size: 1, len: 2 };
        let union = GlobalType::Other { what: "a union".to_owned() };
        let deep = GlobalType::Struct {
            members: vec![member("name", 0, 4, GlobalType::CharArray { len: 4 }), member("u", 4, 4, union)],
        };
        let members = vec![
            member("low", 0, 4, GlobalType::Int { size: 4, signed: false }),
            member("on", 4, 2, bools),
            member("deep", 8, 16, GlobalType::Array { element: Box::new(deep), size: 8, len: 2 }),
        ];
        global("struct limits", 24, GlobalType::Struct { members })
    }

    #[test]
    fn structs_and_arrays_of_any_depth_are_set_by_json() {
        let mut expected = [0; 24];
        expected[..6].copy_from_slice(&[9, 0, 0, 0, 0, 1]);
        expected[16..19].copy_from_slice(b"abc");
        check(&limits(), r#"{"low": 9, "on": [false, 1], "deep": [{}, {"name": "abc"}]}"#, Ok(&expected));
        check(&limits(), "{}", Ok(&[0; 24]));
        check(&limits(), r#"{"low": "0x10"}"#, Ok(&[&[16_u8][..], &[0; 23]].concat()));
        let grid = GlobalType::IntArray { size: 1, signed: false, len: 3 };
        let grid = global("u8[2][3]", 6, GlobalType::Array { element: Box::new(grid), size: 3, len: 2 });
        check(&grid, "[[1,2,3],[4]]", Ok(&[1, 2, 3, 4, 0, 0]));
        let flags = global("bool[4]", 4, GlobalType::Array { element: Box::new(GlobalType::Bool), size: 1, len: 4 });
        check(&flags, "[true,false,1]", Ok(&[1, 0, 1, 0]));
        check(&flags, "1,0,true", Ok(&[1, 0, 1, 0]));
    }

    #[test]
    fn json_that_does_not_fit_is_refused_with_its_place() {
        let check = |text: &str, expected: &str| check(&limits(), text, Err(expected));
        check("7", "`struct limits x` is set by JSON: `{\"member\": value}`; or by its bytes, `hex:…`");
        check("{low}", "the value of `struct limits x` is not JSON: key must be a string at line 1 column 2");
        check("[1]", "`[1]` is not an object, which `struct limits x` takes");
        check(r#"{"lo": 1}"#, "`struct limits x` has no member `lo`; it has `low`, `on`, `deep`");
        check(r#"{"low": -1}"#, "`-1` is out of range for `struct limits x.low`: 0 to 4294967295");
        check(r#"{"low": 1.5}"#, "`1.5` is not a number for `struct limits x.low`");
        check(r#"{"low": null}"#, "`null` is not a number, a string, true or false, which `struct limits x.low` takes");
        check(r#"{"on": [1, 1, 1]}"#, "3 values do not fit `struct limits x.on`");
        check(r#"{"on": [2]}"#, "`2` is not true, false, 1 or 0 for `struct limits x.on[0]`");
        check(
            r#"{"deep": [{"name": "long"}]}"#,
            "4 bytes do not fit `struct limits x.deep[0].name`: at most 3 and a NUL",
        );
        check(r#"{"deep": [{"name": 7}]}"#, "`7` is not a string, which `struct limits x.deep[0].name` takes");
        let union = "`struct limits x.deep[0].u` is a union: give its bytes, `hex:…`";
        check(r#"{"deep": [{"u": 7}]}"#, union);
    }
}
