//! Names that people choose, parsed once at the door: apps, interfaces, network namespaces, priorities. A value of these types
//! cannot be wrong. This file must never look anything up.

mod nameless;

use std::fmt;
use std::str::FromStr;

use arrayvec::ArrayString;
use serde::{Deserialize, Serialize};

pub use self::nameless::Nameless;
use uuid::Uuid;

/// Longest app name, so that a name fits a file name and a label everywhere.
pub const NAME_MAX: usize = 63;
/// `IFNAMSIZ` of include/uapi/linux/if.h counts the terminating NUL.
pub const IFNAME_MAX: usize = 15;
/// Bytes of a network namespace's name or path: `NAME_MAX` of include/uapi/linux/limits.h.
pub const NETNS_MAX: usize = 255;

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident, $error:ident) => {
        text_name!($(#[$doc])* $name(String), $error, str::parse);
    };
    // `$stored` reads a text that was written down before.
    ($(#[$doc:meta])* $name:ident($text:ty), $error:ident, $stored:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name($text);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = $error;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                let stored: fn(&str) -> Result<Self, $error> = $stored;
                stored(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.to_string()
            }
        }
    };
}

pub(crate) use text_name;

text_name! {
    /// The unique name of an app: `[a-z0-9][a-z0-9._-]{0,62}`, but nothing that reads as a UUID or a number: those are identities
    /// and handles, and a name is never taken for one.
    AppName(String), BadAppName, AppName::stored
}

/// Why a text is no app name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadAppName {
    /// Nothing at all.
    #[error("an app name cannot be empty")]
    Empty,
    /// Over 63 bytes.
    #[error("an app name has at most {NAME_MAX} characters; this one has {0}")]
    Long(usize),
    /// A character outside the set.
    #[error("`{0}` is not an app name: use a-z, 0-9, `.`, `_` and `-`, and start with a letter or digit")]
    Character(String),
    /// Somebody could take it for the identity or the handle of something else.
    #[error("`{0}` is not an app name: it reads as a uid or a number")]
    Identity(String),
}

impl FromStr for AppName {
    type Err = BadAppName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::stored(text).and_then(|name| match name.reads_as_identity() {
            true => Err(BadAppName::Identity(name.0)),
            false => Ok(name),
        })
    }
}

impl AppName {
    /// A name of a row: earlier versions took what reads as an identity, too.
    fn stored(text: &str) -> Result<Self, BadAppName> {
        let first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let rest = |c: char| first(c) || matches!(c, '.' | '_' | '-');
        match text.chars().next() {
            None => Err(BadAppName::Empty),
            Some(_) if text.len() > NAME_MAX => Err(BadAppName::Long(text.len())),
            Some(c) if first(c) && text.chars().all(rest) => Ok(Self(text.to_owned())),
            Some(_) => Err(BadAppName::Character(printable(text))),
        }
    }

    /// Whether it reads as a UUID or a number. No name that was parsed does; one of a row may.
    pub fn reads_as_identity(&self) -> bool {
        Uuid::parse_str(&self.0).is_ok() || self.0.bytes().all(|byte| byte.is_ascii_digit())
    }

    /// The name with `app-` before it, shortened so that it still is a name.
    pub fn prefixed(&self) -> Self {
        Self(format!("app-{}", self.0).chars().take(NAME_MAX).collect())
    }

    /// The nearest valid name of a file stem or label: lower case, every other character a `-`; `None` if nothing is left.
    pub fn nearest(text: &str) -> Option<Self> {
        let mapped: String = text
            .chars()
            .map(|c| c.to_ascii_lowercase())
            .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-') { c } else { '-' })
            .collect();
        let trimmed: String = mapped
            .trim_start_matches(['.', '_', '-'])
            .chars()
            .take(NAME_MAX)
            .collect::<String>()
            .trim_end_matches('-')
            .to_owned();
        let name = Self::stored(&trimmed).ok()?;
        Some(if name.reads_as_identity() { name.prefixed() } else { name })
    }

    /// What an app is called when nothing about it makes a name.
    pub fn unnamed() -> Self {
        Self("app".to_owned())
    }

    /// This name with `-number` behind it, shortened so that it still is a name.
    pub fn numbered(&self, number: u32) -> Self {
        let tail = format!("-{number}");
        let keep = NAME_MAX.saturating_sub(tail.len());
        let head: String = self.0.chars().take(keep).collect();
        Self(format!("{head}{tail}"))
    }
}

text_name! {
    /// The name of a network interface, as `dev_valid_name` of net/core/dev.c takes it: 1 to 15 bytes, no `/`, `:` or space,
    /// not `.` or `..`. Held in place: a host's names are compared and copied with each change.
    IfName(ArrayString<IFNAME_MAX>), BadIfName, str::parse
}

/// Why a text is no interface name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadIfName {
    /// Nothing at all.
    #[error("an interface name cannot be empty")]
    Empty,
    /// Over 15 bytes.
    #[error("an interface name has at most {IFNAME_MAX} bytes; `{0}` has more")]
    Long(String),
    /// Something the kernel would refuse too.
    #[error("`{0}` is not an interface name")]
    Character(String),
}

impl FromStr for IfName {
    type Err = BadIfName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        match text {
            "" => Err(BadIfName::Empty),
            "." | ".." => Err(BadIfName::Character(text.to_owned())),
            _ => {
                let name = ArrayString::from(text).map_err(|_| BadIfName::Long(printable(text)))?;
                let refused = text.chars().any(bad);
                if refused { Err(BadIfName::Character(printable(text))) } else { Ok(Self(name)) }
            }
        }
    }
}

/// Where an interface lives. Every call on the kernel carries one: an ifindex means nothing without it.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Netns {
    /// The namespace that the daemon was started in.
    #[default]
    Host,
    /// `/run/netns/<name>`, as `ip netns add` makes it (ip-netns(8)).
    Named(NetnsName),
    /// One that no name leads to, where an interface of a link was found: only observed, never asked for.
    Nameless(Nameless),
}

text_name! {
    /// A name below `/run/netns`: one path component.
    NetnsName, BadNetns
}

/// Why a text is no network namespace.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not the name of a network namespace: give a name from `ip netns list`, or `host`")]
pub struct BadNetns(String);

impl FromStr for NetnsName {
    type Err = BadNetns;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |c: char| c == '/' || c.is_control() || c.is_whitespace();
        if text.is_empty() || text.len() > NETNS_MAX || text == "." || text == ".." || text.chars().any(bad) {
            return Err(BadNetns(printable(text)));
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for Netns {
    type Err = BadNetns;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" | "host" => Ok(Self::Host),
            name => match Nameless::read(name) {
                Some(nameless) => Ok(Self::Nameless(nameless)),
                None => name.parse().map(Self::Named),
            },
        }
    }
}

impl TryFrom<String> for Netns {
    type Error = BadNetns;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Netns> for String {
    fn from(netns: Netns) -> Self {
        netns.to_string()
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Named(name) => write!(f, "{name}"),
            Self::Nameless(nameless) => write!(f, "{nameless}"),
        }
    }
}

/// The place of one of our links in a chain: 0 to 1000, lower first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Priority(u16);

/// A priority outside 0 to 1000.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("priority {0} is out of range: 0 to 1000")]
pub struct BadPriority(u32);

impl Priority {
    /// The last one. Peers may use any `u32`; ours stay small so that "after bpfd" can always be said.
    pub const MAX: u32 = 1000;
    /// What a link gets when neither request, label nor run config says: libxdp's `XDP_DEFAULT_RUN_PRIO`
    /// (xdp-tools lib/libxdp/libxdp.c).
    pub const DEFAULT: Self = Self(50);
}

impl TryFrom<u32> for Priority {
    type Error = BadPriority;

    fn try_from(value: u32) -> Result<Self, Self::Error> {
        match u16::try_from(value) {
            Ok(small) if value <= Self::MAX => Ok(Self(small)),
            _ => Err(BadPriority(value)),
        }
    }
}

impl From<Priority> for u32 {
    fn from(priority: Priority) -> Self {
        Self::from(priority.0)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// At most 80 characters of a hostile text, control characters as escapes: what an error may quote.
pub fn printable(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_names_are_lower_case_and_short() {
        for good in ["a", "0a", "xdp-counter", "a.b_c-d", &"x".repeat(63)] {
            assert_eq!(good.parse::<AppName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", ".a", "A", "a b", "a/b", "ä", "a\0", &"x".repeat(64)] {
            assert!(bad.parse::<AppName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_nearest_name_of_a_file_is_a_name() {
        let near = |text: &str| AppName::nearest(text).map(|name| name.to_string());
        assert_eq!(near("XDP Counter.bpf"), Some("xdp-counter.bpf".into()));
        assert_eq!(near("...hidden"), Some("hidden".into()));
        assert_eq!(near("///"), None);
    }

    #[test]
    fn what_reads_as_a_uid_or_a_number_is_no_name() {
        let uid = "0b5f0c7e9f5a4d1e8a2b3c4d5e6f7a8b";
        let hyphens = "0b5f0c7e-9f5a-4d1e-8a2b-3c4d5e6f7a8b";
        for text in [uid, hyphens, "7", "0", "18446744073709551616"] {
            assert_eq!(text.parse::<AppName>(), Err(BadAppName::Identity(text.to_owned())), "{text}");
            // A row that an earlier version wrote is read, and told apart.
            let stored: AppName = serde_json::from_value(text.into()).unwrap();
            assert!(stored.reads_as_identity());
            assert_eq!(stored.prefixed().as_str().parse::<AppName>().unwrap(), AppName::nearest(text).unwrap());
        }
        for text in ["7a", "a7", "7-2", "1.2", &uid[1..], "app-7"] {
            assert!(text.parse::<AppName>().is_ok(), "{text}");
        }
        assert_eq!(AppName::nearest(&"7".repeat(70)).unwrap().as_str().len(), NAME_MAX);
    }

    #[test]
    fn a_numbered_name_stays_a_name() {
        let long: AppName = "x".repeat(63).parse().unwrap();
        let numbered = long.numbered(12);
        assert_eq!(numbered.as_str().len(), 63);
        assert!(numbered.as_str().ends_with("-12"));
    }

    #[test]
    fn interface_names_are_what_the_kernel_takes() {
        for good in ["lo", "eth0", "wlp2s0", "a.100", "123456789012345"] {
            assert!(good.parse::<IfName>().is_ok(), "{good:?}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "1234567890123456", "a\n"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn priorities_end_at_1000() {
        assert!(Priority::try_from(0).is_ok());
        assert!(Priority::try_from(1000).is_ok());
        assert_eq!(Priority::try_from(1001), Err(BadPriority(1001)));
        assert_eq!(Priority::try_from(65_536 + 50), Err(BadPriority(65_586)));
    }

    #[test]
    fn a_namespace_is_one_path_component() {
        assert_eq!("host".parse::<Netns>().unwrap(), Netns::Host);
        assert!("blue".parse::<Netns>().is_ok());
        for bad in ["..", "a/b", "/proc/1/ns/net"] {
            assert!(bad.parse::<Netns>().is_err(), "{bad:?}");
        }
    }
}
