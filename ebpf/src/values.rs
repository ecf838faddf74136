//! Bytes of a map's keys, values and records as JSON text, by their types: the way back from what [`crate::globals`] encodes. Must never
//! read beyond the bytes that it is given, nor lose a bit of what a type describes: what has no other form is `"hex:…"`.
//!
//! ```text
//! bool                 true, false          enum         its name; a number that has none
//! char, integers, bits a number             char[n]      a string, if a NUL ends it and nothing follows
//! struct               an object            arrays       an array
//! union, pointer, float, bytes that no other form has: "hex:0a0b"
//! ```

use std::fmt::Write as _;

use crate::bytes::index;
use crate::globals::{Bits, GlobalType, HEX, Member};

/// Bytes of a text. A type may say a great deal of a few bytes, as members may lie upon each other: what becomes longer is `"hex:…"`.
pub const TEXT_MAX: usize = 448 << 10;

/// The value of these bytes; as `"hex:…"` without a type, or if there are more or fewer of them than the type has.
pub fn decode(typed: Option<(&GlobalType, u32)>, bytes: &[u8]) -> String {
    bounded(|text| one(text, typed, bytes)).unwrap_or_else(|| as_hex(bytes))
}

/// The values of all CPUs, each of these bytes, as an array.
pub fn decode_list(typed: Option<(&GlobalType, u32)>, cpus: &[&[u8]]) -> String {
    let list = |typed| bounded(|text| elements(text, cpus.iter(), |text, bytes| one(text, typed, bytes)));
    list(typed).or_else(|| list(None)).unwrap_or_else(|| as_hex(&cpus.concat()))
}

fn one(text: &mut String, typed: Option<(&GlobalType, u32)>, bytes: &[u8]) {
    match typed {
        Some((ty, size)) if index(size) == bytes.len() => write(text, ty, bytes),
        Some(_) | None => hex(text, bytes),
    }
}

/// What is written, if it is not too long.
fn bounded(write: impl FnOnce(&mut String)) -> Option<String> {
    let mut text = String::new();
    write(&mut text);
    (text.len() <= TEXT_MAX).then_some(text)
}

/// The sum over the values of all CPUs, each of these bytes: integers are added, in structs and arrays too. What cannot be added is shown
/// once if it is the same everywhere, else as the array of all.
pub fn decode_sum(typed: Option<(&GlobalType, u32)>, cpus: &[&[u8]]) -> String {
    let sum = bounded(|text| match typed {
        Some((ty, size)) if cpus.iter().all(|bytes| index(size) == bytes.len()) => sum(text, ty, cpus),
        Some(_) | None => each(text, cpus, hex),
    });
    sum.unwrap_or_else(|| decode_list(None, cpus))
}

/// These bytes and no type: `"hex:0a0b"`.
pub fn as_hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    hex(&mut text, bytes);
    text
}

fn write(text: &mut String, ty: &GlobalType, bytes: &[u8]) {
    match ty {
        GlobalType::Bool => match bytes {
            [0] => text.push_str("false"),
            [1] => text.push_str("true"),
            _ => hex(text, bytes),
        },
        GlobalType::Char | GlobalType::Int { .. } | GlobalType::Bits { .. } => number(text, integer(ty, bytes)),
        GlobalType::Enum { values, .. } => {
            let bits = unsigned(bytes);
            match values.iter().find(|value| u128::from(value.bits) == bits) {
                Some(value) => string(text, &value.name),
                None => number(text, integer(ty, bytes)),
            }
        }
        GlobalType::CharArray { .. } => match characters(bytes) {
            Some(characters) => string(text, characters),
            None => hex(text, bytes),
        },
        GlobalType::IntArray { size, signed, .. } => {
            let element = GlobalType::Int { size: *size, signed: *signed };
            elements(text, bytes.chunks(usize::from(*size).max(1)), |text, bytes| write(text, &element, bytes));
        }
        GlobalType::Array { element, size, .. } => {
            elements(text, bytes.chunks(index(*size).max(1)), |text, bytes| write(text, element, bytes));
        }
        GlobalType::Struct { members } => {
            object(text, members, |text, member| write(text, &member.ty, part(bytes, member)));
        }
        GlobalType::Other { .. } => hex(text, bytes),
    }
}

fn sum(text: &mut String, ty: &GlobalType, cpus: &[&[u8]]) {
    match ty {
        GlobalType::Int { .. } | GlobalType::Bits { .. } => {
            number(text, cpus.iter().map(|bytes| integer(ty, bytes)).fold(0, i128::saturating_add));
        }
        GlobalType::IntArray { size, signed, len } => {
            let element = GlobalType::Int { size: *size, signed: *signed };
            sum_elements(text, &element, (*size).into(), *len, cpus);
        }
        GlobalType::Array { element, size, len } => sum_elements(text, element, *size, *len, cpus),
        GlobalType::Struct { members } => object(text, members, |text, member| {
            let parts: Vec<&[u8]> = cpus.iter().map(|bytes| part(bytes, member)).collect();
            sum(text, &member.ty, &parts);
        }),
        GlobalType::Bool
        | GlobalType::Char
        | GlobalType::Enum { .. }
        | GlobalType::CharArray { .. }
        | GlobalType::Other { .. } => each(text, cpus, |text, bytes| write(text, ty, bytes)),
    }
}

fn sum_elements(text: &mut String, element: &GlobalType, size: u32, len: u32, cpus: &[&[u8]]) {
    let size = index(size);
    elements(text, 0..index(len), |text, at| {
        let parts: Vec<&[u8]> = cpus
            .iter()
            .map(|bytes| bytes.get(at.saturating_mul(size)..).and_then(|rest| rest.get(..size)).unwrap_or_default())
            .collect();
        sum(text, element, &parts);
    });
}

/// Once, if it is the same everywhere.
fn each(text: &mut String, cpus: &[&[u8]], one: impl Fn(&mut String, &[u8])) {
    match cpus {
        [first, rest @ ..] if rest.iter().all(|other| other == first) => one(text, first),
        all => elements(text, all.iter().copied(), one),
    }
}

/// The value of an integer, character, enum or of bits.
fn integer(ty: &GlobalType, bytes: &[u8]) -> i128 {
    let (value, bits, signed) = match ty {
        GlobalType::Bits { first, width, signed } => {
            (Bits { first: *first, width: *width }.get(bytes), u32::from(*width), *signed)
        }
        GlobalType::Int { size, signed } | GlobalType::Enum { size, signed, .. } => {
            (unsigned(bytes), u32::from(*size) * 8, *signed)
        }
        GlobalType::Bool
        | GlobalType::Char
        | GlobalType::CharArray { .. }
        | GlobalType::IntArray { .. }
        | GlobalType::Array { .. }
        | GlobalType::Struct { .. }
        | GlobalType::Other { .. } => (unsigned(bytes), 64, false),
    };
    let value = i128::try_from(value).unwrap_or_default();
    let half = 1_i128 << (bits.clamp(1, 64) - 1);
    if signed && value >= half { value - 2 * half } else { value }
}

/// At most 8 bytes, the lowest first.
fn unsigned(bytes: &[u8]) -> u128 {
    bytes.iter().take(8).rev().fold(0, |value, byte| value << 8 | u128::from(*byte))
}

/// The text before a NUL, if all that follows is NUL too, and if it does not read as bytes.
fn characters(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    let (text, rest) = bytes.split_at(end);
    let text = std::str::from_utf8(text).ok()?;
    (rest.iter().all(|byte| *byte == 0) && !text.starts_with(HEX)).then_some(text)
}

fn part<'a>(bytes: &'a [u8], member: &Member) -> &'a [u8] {
    bytes.get(index(member.offset)..).and_then(|rest| rest.get(..index(member.size))).unwrap_or_default()
}

fn number(text: &mut String, value: i128) {
    // Writing to a string does not fail.
    write!(text, "{value}").unwrap_or_default();
}

fn string(text: &mut String, value: &str) {
    text.push('"');
    for character in value.chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' => {
                write!(text, "\\u{:04x}", u32::from(character)).unwrap_or_default();
            }
            other => text.push(other),
        }
    }
    text.push('"');
}

fn hex(text: &mut String, bytes: &[u8]) {
    text.push('"');
    text.push_str(HEX);
    for byte in bytes {
        write!(text, "{byte:02x}").unwrap_or_default();
    }
    text.push('"');
}

fn elements<T>(text: &mut String, all: impl Iterator<Item = T>, mut one: impl FnMut(&mut String, T)) {
    text.push('[');
    for (at, element) in all.enumerate() {
        if text.len() > TEXT_MAX {
            return;
        }
        if at > 0 {
            text.push(',');
        }
        one(text, element);
    }
    text.push(']');
}

fn object(text: &mut String, members: &[Member], mut one: impl FnMut(&mut String, &Member)) {
    text.push('{');
    for (at, member) in members.iter().enumerate() {
        if text.len() > TEXT_MAX {
            return;
        }
        if at > 0 {
            text.push(',');
        }
        string(text, &member.name);
        text.push(':');
        one(text, member);
    }
    text.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::globals::{Enumerator, encode_as};

    const U32: GlobalType = GlobalType::Int { size: 4, signed: false };

    fn member(name: &str, offset: u32, size: u32, ty: GlobalType) -> Member {
        Member { name: name.to_owned(), offset, size, ty }
    }

    /// `struct { u32 count; enum { LOW = 1 } level; s16 delta; bool on; char name[5]; u8 low:3, high:5; union …; u16 pair[2]; }`.
    fn sample() -> (GlobalType, u32) {
        let values = vec![Enumerator { name: "LOW".to_owned(), bits: 1 }];
        let members = vec![
            member("count", 0, 4, U32),
            member("level", 4, 4, GlobalType::Enum { size: 4, signed: false, values }),
            member("delta", 8, 2, GlobalType::Int { size: 2, signed: true }),
            member("on", 10, 1, GlobalType::Bool),
            member("name", 11, 5, GlobalType::CharArray { len: 5 }),
            member("low", 16, 1, GlobalType::Bits { first: 0, width: 3, signed: false }),
            member("high", 16, 1, GlobalType::Bits { first: 3, width: 5, signed: true }),
            member("@17", 17, 2, GlobalType::Other { what: "a union".to_owned() }),
            member("pair", 20, 4, GlobalType::IntArray { size: 2, signed: false, len: 2 }),
        ];
        (GlobalType::Struct { members }, 24)
    }

    #[test]
    fn each_kind_has_its_form() {
        let (ty, size) = sample();
        let mut bytes = [0; 24];
        bytes[..11].copy_from_slice(&[7, 0, 0, 0, 1, 0, 0, 0, 0xfe, 0xff, 1]);
        bytes[11..14].copy_from_slice(b"a\"b");
        bytes[16..19].copy_from_slice(&[0b1111_1101, 0xab, 0xcd]);
        bytes[20..].copy_from_slice(&[1, 0, 0, 1]);
        let expected = r#"{"count":7,"level":"LOW","delta":-2,"on":true,"name":"a\"b","low":5,"high":-1,"@17":"hex:abcd","pair":[1,256]}"#;
        assert_eq!(decode(Some((&ty, size)), &bytes), expected);
        assert_eq!(encode_as("struct s v", Some(&ty), size, expected), Ok(bytes.to_vec()));
    }

    #[test]
    fn what_has_no_other_form_is_shown_by_its_bytes() {
        let check = |ty: &GlobalType, bytes: &[u8], expected: &str| {
            let size = u32::try_from(bytes.len()).unwrap();
            assert_eq!(decode(Some((ty, size)), bytes), expected);
            assert_eq!(encode_as("x", Some(ty), size, expected).as_deref(), Ok(bytes));
        };
        check(&GlobalType::Bool, &[2], "\"hex:02\"");
        check(&GlobalType::CharArray { len: 3 }, b"abc", "\"hex:616263\"");
        check(&GlobalType::CharArray { len: 3 }, b"a\0c", "\"hex:610063\"");
        check(&GlobalType::CharArray { len: 2 }, &[0xff, 0], "\"hex:ff00\"");
        check(&GlobalType::CharArray { len: 6 }, b"hex:\0\0", "\"hex:6865783a0000\"");
        check(&GlobalType::CharArray { len: 3 }, &[0x1b, b'\\', 0], r#""\u001b\\""#);
        assert_eq!(decode(None, &[1, 2]), "\"hex:0102\"");
        assert_eq!(decode(Some((&U32, 4)), &[1, 2]), "\"hex:0102\"", "another size than the type's");
    }

    #[test]
    fn values_of_processors_are_added_where_they_can_be() {
        let (ty, size) = sample();
        let (mut one, mut two) = ([0; 24], [0; 24]);
        (one[0], two[0], two[4]) = (3, 4, 1);
        one[8..10].copy_from_slice(&[0xff, 0xff]);
        two[20] = 9;
        let expected = r#"{"count":7,"level":[0,"LOW"],"delta":-1,"on":false,"name":"","low":0,"high":0,"@17":"hex:0000","pair":[9,0]}"#;
        assert_eq!(decode_sum(Some((&ty, size)), &[&one, &two]), expected);
        let wide = GlobalType::Int { size: 8, signed: false };
        assert_eq!(decode_sum(Some((&wide, 8)), &[&[0xff; 8], &[0xff; 8]]), "36893488147419103230");
        assert_eq!(decode_sum(None, &[&[1], &[2]]), r#"["hex:01","hex:02"]"#);
    }

    #[test]
    fn a_type_that_says_much_of_few_bytes_costs_no_more_than_a_text() {
        // Each of 4,000 members lies upon the same byte, in each of 100,000 elements: 100 GB of text.
        let members = (0..4000).map(|at| member(&format!("{at:0>250}"), 0, 1, GlobalType::Char)).collect();
        let element = Box::new(GlobalType::Struct { members });
        let (ty, bytes) = (GlobalType::Array { element, size: 1, len: 100_000 }, vec![1; 100_000]);
        let typed = Some((&ty, 100_000));
        assert_eq!(decode(typed, &bytes), as_hex(&bytes));
        assert_eq!(decode_sum(typed, &[&bytes]), format!("[{}]", as_hex(&bytes)));
        assert_eq!(decode_list(typed, &[&bytes]), format!("[{}]", as_hex(&bytes)));
        // Elements without a size: as many as there are.
        let nothing = Box::new(GlobalType::Struct { members: vec![] });
        let endless = GlobalType::Array { element: nothing, size: 0, len: u32::MAX };
        assert!(decode_sum(Some((&endless, 0)), &[&[]]).len() <= TEXT_MAX);
    }

    #[test]
    fn text_without_a_type_is_bytes_or_nothing() {
        let of = |text: &str| encode_as("key of map `m`", None, 2, text).map_err(|error| error.to_string());
        assert_eq!(of("hex:0102"), Ok(vec![1, 2]));
        assert_eq!(of("\"hex:0102\""), Ok(vec![1, 2]));
        let why = "`key of map `m`` is of a type that the object does not describe: give its bytes, `hex:…`";
        assert_eq!(of("258"), Err(why.to_owned()));
        assert!(of("hex:01").is_err());
    }

    #[test]
    fn words_of_a_shell_are_taken_where_they_are_no_json() {
        let values = vec![Enumerator { name: "LOW".to_owned(), bits: 1 }];
        let level = GlobalType::Enum { size: 1, signed: false, values };
        assert_eq!(encode_as("x", Some(&level), 1, "LOW"), Ok(vec![1]));
        assert_eq!(encode_as("x", Some(&level), 1, "\"LOW\""), Ok(vec![1]));
        assert_eq!(encode_as("x", Some(&U32), 4, "0x10"), Ok(vec![16, 0, 0, 0]));
        assert_eq!(encode_as("x", Some(&GlobalType::CharArray { len: 4 }), 4, "abc"), Ok(b"abc\0".to_vec()));
        assert_eq!(encode_as("x", Some(&GlobalType::CharArray { len: 4 }), 4, "\"abc\""), Ok(b"abc\0".to_vec()));
    }
}
