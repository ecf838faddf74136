//! Names that come out of an object, parsed at the door: functions, maps, sections. They end in pin names, on terminals and
//! in audit lines, so nothing here may hold a path separator, a blank, a control character or an escape sequence.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

/// Longest function name, bytes. BTF's own limit is 511; pins and messages want less.
const MAX_FUNCTION: usize = 255;
/// Longest map name, bytes: with a prefix it must fit a file name of 255.
const MAX_MAP: usize = 127;
/// Longest section name, bytes.
const MAX_SECTION: usize = 255;
/// How much of a refused name an error repeats.
const SHOWN: usize = 64;

/// Why a name is refused. The name is shown escaped and shortened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum NameError {
    /// Nothing.
    #[error("{0} name is empty")]
    Empty(String),
    /// Over the limit.
    #[error("{what} name `{name}` is longer than {limit} bytes")]
    TooLong {
        /// function, map, section.
        what: String,
        /// Its start.
        name: String,
        /// Bytes allowed.
        limit: usize,
    },
    /// A `/`: iproute2 and libbpf users sometimes put a pin path there; it would reach other programs' maps.
    #[error("map name `{0}` is a path; a map is named by letters, digits, `_` and `.`")]
    Path(String),
    /// Any other character.
    #[error("{what} name `{name}` has a character that is not allowed")]
    Character {
        /// function, map, section.
        what: String,
        /// Its start.
        name: String,
    },
}

/// The start of a foreign name, for terminals.
pub(crate) fn shown(name: &str) -> String {
    name.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

fn parse(what: &str, name: &str, limit: usize, allowed: impl Fn(u8) -> bool) -> Result<String, NameError> {
    if name.is_empty() {
        return Err(NameError::Empty(what.to_owned()));
    }
    if name.len() > limit {
        return Err(NameError::TooLong { what: what.to_owned(), name: shown(name), limit });
    }
    if !name.bytes().all(allowed) {
        return Err(NameError::Character { what: what.to_owned(), name: shown(name) });
    }
    Ok(name.to_owned())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $parse:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                let parse: fn(&str) -> Result<String, NameError> = $parse;
                parse(name).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, NameError> {
                name.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// A function that is a program: letters, digits, `_`, `.` and `$` (mangled names have the last two), 1 to 255.
    FunctionName,
    |name| parse("function", name, MAX_FUNCTION, |b| b.is_ascii_alphanumeric() || b"_.$".contains(&b))
);
name_type!(
    /// A map: letters, digits, `_` and `.`, 1 to 127. Never a path.
    MapName,
    |name| {
        if name.contains('/') {
            return Err(NameError::Path(shown(name)));
        }
        parse("map", name, MAX_MAP, |b| b.is_ascii_alphanumeric() || b"_.".contains(&b))
    }
);
name_type!(
    /// An ELF section: printable ASCII without blanks, 1 to 255.
    SectionName,
    |name| parse("section", name, MAX_SECTION, |b| b.is_ascii_graphic())
);

/// The name that was probably meant: one that differs in a letter or two, or in two letters that changed places. Of a short name, one letter
/// must be right; of those that are as near, the one that begins alike is meant.
pub fn nearest<'a>(asked: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let alike = |name: &str| asked.chars().zip(name.chars()).take_while(|(one, other)| one == other).count();
    let near = names
        .into_iter()
        .map(|name| (strsim::osa_distance(asked, name), Reverse(alike(name)), name))
        .filter(|(far, _, name)| *far < name.chars().count() && *far <= if name.len() < 5 { 1 } else { 2 });
    near.min().map(|(_, _, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_or_two_or_an_exchange_of_two_is_a_slip_and_more_is_another_name() {
        let near = |asked, names: &[&'static str]| nearest(asked, names.iter().copied());
        assert_eq!(near("uplnk", &["lo", "uplink"]), Some("uplink"));
        assert_eq!(near("vo", &["lo", "v0", "v1"]), Some("v0"), "it begins alike");
        assert_eq!(near("xpd", &["tc", "xdp"]), Some("xdp"));
        assert_eq!(near("xdp/haed", &["xdp", "xdp/head"]), Some("xdp/head"));
        assert_eq!(near("bgu1", &["bug1"]), Some("bug1"));
        assert_eq!(near("x", &["a", "v0"]), None);
        assert_eq!(near("eth9", &["wan0"]), None);
    }

    #[test]
    fn a_map_named_like_a_pin_is_refused_as_a_path() {
        let error = "/sys/fs/bpf/bpfd/v1/x/map_y".parse::<MapName>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "map name `/sys/fs/bpf/bpfd/v1/x/map_y` is a path; a map is named by letters, digits, `_` and `.`"
        );
        assert!(matches!("a/b".parse::<MapName>(), Err(NameError::Path(_))));
    }

    #[test]
    fn names_are_bounded_and_hold_no_escape_sequences() {
        assert!("xdp_pass.v2$1".parse::<FunctionName>().is_ok());
        assert!("".parse::<FunctionName>().is_err());
        assert!("a".repeat(256).parse::<FunctionName>().is_err());
        assert!("xdp/foo bar".parse::<SectionName>().is_err());
        let error = "\u{1b}[31mred".parse::<MapName>().unwrap_err().to_string();
        assert_eq!(error, "map name `\\u{1b}[31mred` has a character that is not allowed");
    }
}
