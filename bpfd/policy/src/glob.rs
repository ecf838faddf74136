//! Globs over names of interfaces, network namespaces, hooks and units: `*` is any text, nothing else is special. Must never grow a
//! second wildcard: a pattern that matches more than its reader thinks allows more than its writer meant.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
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
    /// `*`.
    #[must_use]
    pub(crate) fn any() -> Self {
        Self("*".to_owned())
    }

    /// A name that both mean, if there is one. Each `*` is as short as it can be.
    #[must_use]
    pub(crate) fn common(&self, other: &Self) -> Option<String> {
        let (one, other): (Vec<char>, Vec<char>) = (self.0.chars().collect(), other.0.chars().collect());
        // By places in both: what was gone through to come there.
        let mut found: BTreeMap<(usize, usize), String> = BTreeMap::from([((0, 0), String::new())]);
        let mut next = VecDeque::from([(0, 0)]);
        while let Some((at, beside)) = next.pop_front() {
            let so_far = found.get(&(at, beside)).cloned().unwrap_or_default();
            let steps: Vec<(usize, usize, Option<char>)> = match (one.get(at), other.get(beside)) {
                (None, None) => return Some(so_far),
                (Some('*'), None) => vec![(at + 1, beside, None)],
                (None, Some('*')) => vec![(at, beside + 1, None)],
                (Some('*'), Some('*')) => vec![(at + 1, beside, None), (at, beside + 1, None)],
                (Some('*'), Some(c)) => vec![(at + 1, beside, None), (at, beside + 1, Some(*c))],
                (Some(c), Some('*')) => vec![(at, beside + 1, None), (at + 1, beside, Some(*c))],
                (Some(c), Some(d)) if c == d => vec![(at + 1, beside + 1, Some(*c))],
                (Some(_), Some(_) | None) | (None, Some(_)) => vec![],
            };
            for (at, beside, c) in steps {
                if let Entry::Vacant(place) = found.entry((at, beside)) {
                    place.insert(so_far.chars().chain(c).collect());
                    next.push_back((at, beside));
                }
            }
        }
        None
    }

    /// Whether a name is one of those meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let Some((start, rest)) = self.0.split_once('*') else { return self.0 == name };
        let Some(mut name) = name.strip_prefix(start) else { return false };
        let (pieces, end) = rest.rsplit_once('*').map_or((None, rest), |(pieces, end)| (Some(pieces), end));
        for piece in pieces.into_iter().flat_map(|pieces| pieces.split('*')) {
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
    fn two_globs_have_a_name_in_common_or_none() {
        let common = |one: &str, other: &str| {
            let (one, other) = (one.parse::<Glob>().unwrap(), other.parse::<Glob>().unwrap());
            let found = one.common(&other);
            assert!(found.iter().all(|name| one.matches(name) && other.matches(name)), "{found:?}");
            assert_eq!(found.is_some(), other.common(&one).is_some());
            found
        };
        for (one, other, name) in [
            ("eth0", "eth0", Some("eth0")),
            ("eth0", "eth1", None),
            ("eth*", "eth1", Some("eth1")),
            ("veth*", "*0", Some("veth0")),
            ("a*b", "ab*", Some("ab")),
            ("a*c", "*b*", Some("abc")),
            ("*", "*", Some("")),
            ("a*", "b*", None),
            ("*a", "*b", None),
        ] {
            assert_eq!(common(one, other).as_deref(), name, "{one} {other}");
        }
    }

    #[test]
    fn what_looks_like_another_wildcard_is_refused() {
        for text in ["eth?", "eth[01]", "{a,b}", "^eth", "a|b", "", "a b", "a\n"] {
            assert!(text.parse::<Glob>().is_err(), "{text:?}");
        }
    }
}
