//! Keys and values of any type, to JSON and back: no bit of what a type describes is lost, whatever the bytes are.
#![expect(clippy::unwrap_used, reason = "the lints exempt test functions, not what they share")]

use ebpf::globals::{Enumerator, GlobalType, Member, encode_as};
use ebpf::values::{decode, decode_sum};
use proptest::collection::vec;
use proptest::prelude::*;

/// A type without gaps, and its size.
fn types() -> impl Strategy<Value = (GlobalType, u32)> {
    let int = (0..4_u32, any::<bool>()).prop_map(|(power, signed)| {
        let size = 1_u8 << power;
        (GlobalType::Int { size, signed }, size.into())
    });
    let enums = (0..4_u32, any::<bool>(), vec(any::<u64>(), 0..4)).prop_map(|(power, signed, values)| {
        let size = 1_u8 << power;
        let mask = u64::MAX >> (64 - 8 * u32::from(size));
        let value = |(at, bits): (usize, u64)| Enumerator { name: format!("E{at}"), bits: bits & mask };
        let values = values.into_iter().enumerate().map(value).collect();
        (GlobalType::Enum { size, signed, values }, size.into())
    });
    let leaf = prop_oneof![
        Just((GlobalType::Bool, 1)),
        Just((GlobalType::Char, 1)),
        int,
        enums,
        (1..12_u32).prop_map(|len| (GlobalType::CharArray { len }, len)),
        (0..4_u32, any::<bool>(), 1..4_u32).prop_map(|(power, signed, len)| {
            let size = 1_u8 << power;
            (GlobalType::IntArray { size, signed, len }, u32::from(size) * len)
        }),
        (1..9_u32).prop_map(|size| (GlobalType::Other { what: "a union".to_owned() }, size)),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            (inner.clone(), 1..4_u32).prop_map(|((element, size), len)| {
                (GlobalType::Array { element: Box::new(element), size, len }, size * len)
            }),
            (vec(inner, 1..4), 1..8_u8).prop_map(|(parts, split)| {
                let mut members = Vec::new();
                let mut offset = 0;
                for (at, (ty, size)) in parts.into_iter().enumerate() {
                    members.push(Member { name: format!("m{at}"), offset, size, ty });
                    offset += size;
                }
                // Two bit-fields that share a byte.
                for (name, first, width) in [("low", 0, split), ("high", split, 8 - split)] {
                    let ty = GlobalType::Bits { first, width, signed: first == 0 };
                    members.push(Member { name: name.to_owned(), offset, size: 1, ty });
                }
                (GlobalType::Struct { members }, offset + 1)
            }),
        ]
    })
}

/// A type and bytes of it, with more zeros and texts than chance would give.
fn values() -> impl Strategy<Value = (GlobalType, u32, Vec<u8>)> {
    types().prop_flat_map(|(ty, size)| {
        let byte = prop_oneof![Just(0), Just(1), 0x20..0x7f_u8, any::<u8>()];
        (Just(ty), Just(size), vec(byte, usize::try_from(size).unwrap()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_shown_is_taken_back_as_the_same_bytes((ty, size, bytes) in values()) {
        let text = decode(Some((&ty, size)), &bytes);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
        prop_assert_eq!(encode_as("x", Some(&ty), size, &text), Ok(bytes), "{}", text);
    }

    #[test]
    fn one_processor_is_its_own_sum((ty, size, bytes) in values()) {
        prop_assert_eq!(decode_sum(Some((&ty, size)), &[&bytes]), decode(Some((&ty, size)), &bytes));
    }

    #[test]
    fn any_text_gives_all_bytes_or_an_error((ty, size, _) in values(), text in ".{0,40}|[\\[\\]{}\",:a-z0-9]{0,40}") {
        if let Ok(bytes) = encode_as("x", Some(&ty), size, &text) {
            prop_assert_eq!(bytes.len(), usize::try_from(size).unwrap());
        }
    }
}
