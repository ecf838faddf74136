//! What `/etc/bpfd/bpfd.toml` says. Every key has a default; a key that bpfd does not know stops the daemon, with its place.
//!
//! ```toml
//! [chain]
//! mode = "auto"       # "libxdp" where the kernel allows it, else "fused": spec/dispatch.md
//! tc = "auto"         # "tcx" where the kernel has it, else "clsact"
//! dispatcher_version = "auto"   # of new dispatchers: that of the installed libxdp, else 2; or 2, or 3
//! [chain.interfaces]
//! eth1 = "fused"      # for interfaces of this name, in any network namespace
//! [audit]
//! journal = false     # true: each record of the audit log is sent to the journal too
//! [workers]
//! uid_base = 61100    # where there is no user `bpfd-worker`: the first of 64 user ids, one a running worker
//! ```
//! This file must never read a file.

use std::collections::BTreeMap;
use std::ops::Range;

use bpfd_policy::position;
use serde::Deserialize;

use crate::mode::{Setting, TcSetting, VersionSetting};
use crate::names::IfName;

/// Workers that run at the same time have so many user ids: above the pulls, looks and loads that are under way at most.
const UIDS: u32 = 64;
/// The first of them by default: below those that systemd gives to services (61184 to 65519), above those of people.
const UID_BASE: u32 = 61_100;
/// The user `nobody` of every distribution: other services run as it.
const NOBODY: u32 = 65_534;

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How several programs share an interface.
    pub chain: Chain,
    /// Whom workers run as.
    pub workers: Workers,
    /// Where else records of the audit log go.
    pub audit: Audit,
}

/// `[audit]`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Whether the journal has a copy.
    pub journal: bool,
}

/// `[workers]`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Workers {
    /// Their user ids where there is no user `bpfd-worker`.
    pub uid_base: UidBase,
}

/// The first of 64 user ids in a row, none of them root's or `nobody`'s.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "u32")]
pub struct UidBase(u32);

/// Not the first of 64 usable user ids.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the {UIDS} user ids from {0} on include one that no worker may have: write a number from 1 to 65470, or one above 65534"
)]
pub struct UidBaseError(u32);

impl UidBase {
    /// From the first.
    pub fn new(first: u32) -> Result<Self, UidBaseError> {
        let last = first.checked_add(UIDS).filter(|_| first != 0).ok_or(UidBaseError(first))?;
        if (first..last).contains(&NOBODY) { Err(UidBaseError(first)) } else { Ok(Self(first)) }
    }

    /// All of them.
    pub fn uids(self) -> Range<u32> {
        self.0..self.0.saturating_add(UIDS)
    }
}

impl Default for UidBase {
    fn default() -> Self {
        Self(UID_BASE)
    }
}

impl TryFrom<u32> for UidBase {
    type Error = UidBaseError;

    fn try_from(first: u32) -> Result<Self, UidBaseError> {
        Self::new(first)
    }
}

/// `[chain]`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Chain {
    /// Which way XDP chains are kept.
    pub mode: Setting,
    /// Which way tc chains are kept.
    pub tc: TcSetting,
    /// Which version new dispatchers of libxdp's protocol have.
    pub dispatcher_version: VersionSetting,
    /// Which way XDP chains of interfaces with these names are kept.
    pub interfaces: BTreeMap<IfName, Setting>,
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
    use crate::kernel::DispatcherVersion;

    #[test]
    fn nothing_said_is_the_default() {
        assert_eq!(Config::parse("", "f"), Ok(Config::default()));
        assert_eq!(Config::parse("[chain]", "f").unwrap().chain.mode, Setting::Auto);
    }

    #[test]
    fn the_journal_has_a_copy_of_the_audit_log_if_that_is_said() {
        assert!(Config::parse("[audit]\njournal = true\n", "f").unwrap().audit.journal);
        assert!(!Config::default().audit.journal);
        assert!(Config::parse("[audit]\njournald = true\n", "f").is_err());
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
    fn the_version_of_dispatchers_is_a_word_or_one_of_two_numbers() {
        let version = |value: &str| {
            let text = format!("[chain]\ndispatcher_version = {value}\n");
            Config::parse(&text, "f").map(|file| file.chain.dispatcher_version)
        };
        assert_eq!(version("\"auto\""), Ok(VersionSetting::Auto));
        assert_eq!(version("2"), Ok(VersionSetting::Fixed(DispatcherVersion::V2)));
        assert_eq!(version("3"), Ok(VersionSetting::Fixed(DispatcherVersion::V3)));
        for bad in ["1", "4", "\"3\"", "true", "-1", "300"] {
            assert_eq!(version(bad).unwrap_err().to_string(), "f:2:22: expected \"auto\", 2 or 3", "{bad}");
        }
    }

    #[test]
    fn an_interface_may_have_a_mode_of_its_own() {
        let chain =
            Config::parse("[chain]\nmode = \"libxdp\"\n[chain.interfaces]\neth1 = \"fused\"\n", "f").unwrap().chain;
        assert_eq!(chain.interfaces, [("eth1".parse().unwrap(), Setting::Fused)].into());
        for bad in ["eth1 = \"group\"", "\"a/b\" = \"fused\"", "eth1 = 3"] {
            let error = Config::parse(&format!("[chain.interfaces]\n{bad}\n"), "f").unwrap_err();
            assert_eq!(error.line, 2, "{bad}");
        }
    }

    #[test]
    fn workers_are_neither_root_nor_nobody() {
        let base = |uid: u64| Config::parse(&format!("[workers]\nuid_base = {uid}\n"), "f").map(|file| file.workers);
        assert_eq!(Config::parse("[workers]", "f").unwrap().workers.uid_base.uids(), 61_100..61_164);
        for good in [1, 65_470, 65_535] {
            assert!(base(good).is_ok(), "{good}");
        }
        for bad in [0, 65_471, 65_534, 4_294_967_295, 4_294_967_296] {
            assert!(base(bad).is_err(), "{bad}");
        }
        assert_eq!(
            base(65_500).unwrap_err().to_string(),
            "f:2:12: the 64 user ids from 65500 on include one that no worker may have: write a number from 1 to 65470, \
             or one above 65534"
        );
    }

    #[test]
    fn a_key_that_is_not_known_is_told_with_its_place() {
        let error = Config::parse("[chain]\nmode = \"auto\"\nmodes = 1\n", "/etc/bpfd/bpfd.toml").unwrap_err();
        assert_eq!(
            error.to_string(),
            "/etc/bpfd/bpfd.toml:3:1: unknown field `modes`, expected one of `mode`, `tc`, `dispatcher_version`, `interfaces`"
        );
    }

    /// `spec/settings.md` becomes bpfd.toml(5).
    #[test]
    fn the_page_of_settings_has_every_key_with_its_default() {
        let page = include_str!("../../../spec/settings.md");
        let file = page.split_once("```toml\n").unwrap().1.split_once("```").unwrap().0;
        assert_eq!(Config::parse(file, "f"), Ok(Config::default()));
        for (table, count) in [("chain", 4), ("workers", 1)] {
            let error = Config::parse(&format!("[{table}]\nno_such_key = 1\n"), "f").unwrap_err();
            let keys: Vec<&str> = error.what.split('`').skip(3).step_by(2).collect();
            assert_eq!(keys.len(), count, "{}", error.what);
            for key in keys {
                assert!(page.contains(&format!("| `{key}` |")), "{key}");
                assert!(file.contains(&format!("{key} = ")) || file.contains(&format!("[{table}.{key}]")), "{key}");
            }
        }
    }
}
