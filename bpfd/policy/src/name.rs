//! Names that people choose: of an app in a label, of a signer in a policy. One grammar for all of them, so that a name is
//! safe in a path, a log line and a command; must never be widened here alone.

use std::{borrow::Borrow, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longest name, in bytes.
pub const MAX_NAME: usize = 63;

/// `[a-z0-9][a-z0-9._-]{0,62}`
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// A text that is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a name: `a-z` or `0-9`, then up to 62 of `a-z0-9._-`", .0.escape_debug())]
pub struct NotAName(String);

impl Name {
    /// The name of something that is built in; a test holds each against the grammar.
    pub(crate) fn built_in(prefix: &str, name: &str) -> Self {
        Self(format!("{prefix}{name}"))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let good = text.len() <= MAX_NAME
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'_' | b'-'));
        if good { Ok(Self(text.to_owned())) } else { Err(NotAName(text.chars().take(MAX_NAME).collect())) }
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
