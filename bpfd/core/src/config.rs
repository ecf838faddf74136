//! What `/etc/bpfd/bpfd.toml` says. Every key has a default; a key that bpfd does not know stops the daemon, with its place.
//!
//! ```toml
//! [chain]
//! mode = "auto"       # "libxdp" where the kernel allows it, else "fused": spec/dispatch.md
//! ```
//! This file must never read a file.

use bpfd_policy::position;
use serde::Deserialize;

use crate::mode::Setting;

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How several programs share an interface.
    pub chain: Chain,
}

/// `[chain]`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Chain {
    /// Which way chains are kept.
    pub mode: Setting,
}

/// A file that is not understood.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{file}:{line}:{column}: {what}")]
pub struct ConfigError {
    /// Its path.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub what: String,
}

impl Config {
    /// Reads the text of `file`.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let (line, column) = position(text, error.span().map_or(0, |span| span.start));
            ConfigError { file: file.to_owned(), line, column, what: error.message().to_owned() }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_said_is_the_default() {
        assert_eq!(Config::parse("", "f"), Ok(Config::default()));
        assert_eq!(Config::parse("[chain]", "f").unwrap().chain.mode, Setting::Auto);
    }

    #[test]
    fn the_mode_is_one_of_three() {
        let mode =
            |word: &str| Config::parse(&format!("[chain]\nmode = \"{word}\"\n"), "f").map(|file| file.chain.mode);
        assert_eq!(mode("auto"), Ok(Setting::Auto));
        assert_eq!(mode("fused"), Ok(Setting::Fused));
        assert_eq!(mode("libxdp"), Ok(Setting::Libxdp));
        let error = mode("group").unwrap_err();
        assert_eq!((error.line, error.column), (2, 8));
    }

    #[test]
    fn a_key_that_is_not_known_is_told_with_its_place() {
        let error = Config::parse("[chain]\nmode = \"auto\"\nmodes = 1\n", "/etc/bpfd/bpfd.toml").unwrap_err();
        assert_eq!(error.to_string(), "/etc/bpfd/bpfd.toml:3:1: unknown field `modes`, expected `mode`");
    }
}
