//! Globs over names of interfaces, network namespaces, hooks and units: `*` is any text, nothing else is special. Must never grow a
//! second wildcard: a pattern that matches more than its reader thinks allows more than its writer meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longest glob, in bytes: a function's name in the kernel has up to 512, a unit's name 255.
const MAX_GLOB: usize = 512;

/// See the module.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Glob(String);

/// A text that is no glob.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadGlob {
    /// Nothing, or a text that nobody writes.
    #[error("a pattern has 1 to {MAX_GLOB} characters, none of them a space or a control character")]
    Length,
    /// A wildcard of shells and regular expressions.
    #[error("`{0}` contains `{1}`: the only wildcard is `*`, which is any text; list alternatives one by one")]
    Wildcard(String, char),
}

impl Glob {
    /// Whether a name is one of those meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let Some((start, rest)) = self.0.split_once('*') else { return self.0 == name };
        let Some(mut name) = name.strip_prefix(start) else { return false };
        let mut pieces: Vec<&str> = rest.split('*').collect();
        let end = pieces.pop().unwrap_or_default();
        for piece in pieces {
            let Some((_, after)) = name.split_once(piece) else { return false };
            name = after;
        }
        name.ends_with(end)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Glob {
    type Err = BadGlob;

    fn from_str(text: &str) -> Result<Self, BadGlob> {
        if text.is_empty() || text.len() > MAX_GLOB || text.chars().any(|c| c.is_control() || c == ' ') {
            return Err(BadGlob::Length);
        }
        match text.chars().find(|c| matches!(c, '?' | '[' | ']' | '{' | '}' | '|' | '^' | '$' | '\\' | '!')) {
            Some(wildcard) => Err(BadGlob::Wildcard(text.to_owned(), wildcard)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl Serialize for Glob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Glob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text_and_nothing_else_is_special() {
        for (glob, name, matches) in [
            ("eth0", "eth0", true),
            ("eth0", "eth00", false),
            ("veth*", "veth", true),
            ("veth*", "veth12", true),
            ("veth*", "my-veth1", false),
            ("*", "", true),
            ("*.10", "eth0.10", true),
            ("*.10", "eth0.100", false),
            ("sched/*_switch", "sched/sched_switch", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "acb", false),
            ("a**c", "abc", true),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(glob.parse::<Glob>().unwrap().matches(name), matches, "{glob} {name}");
        }
    }

    #[test]
    fn what_looks_like_another_wildcard_is_refused() {
        for text in ["eth?", "eth[01]", "{a,b}", "^eth", "a|b", "", "a b", "a\n"] {
            assert!(text.parse::<Glob>().is_err(), "{text:?}");
        }
    }
}
