//! What a network namespace is called that no name leads to. It must never be taken for a name.

use std::fmt;

/// A network namespace without a name: the number that it has in the daemon's own (`lsns -t net` shows it as NETNSID), if that is known.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Nameless(pub Option<u32>);

/// Before the number of a nameless namespace: the name of one is a single path component.
const NUMBERED: &str = "netnsid/";
/// A number that is not known.
const UNKNOWN: &str = "?";

impl Nameless {
    pub(super) fn read(text: &str) -> Option<Self> {
        match text.strip_prefix(NUMBERED)? {
            UNKNOWN => Some(Self(None)),
            number => number.parse().ok().map(|number| Self(Some(number))),
        }
    }
}

impl fmt::Display for Nameless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => write!(f, "{NUMBERED}{number}"),
            None => write!(f, "{NUMBERED}{UNKNOWN}"),
        }
    }
}
