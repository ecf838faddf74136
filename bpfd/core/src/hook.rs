//! Where programs attach and under which options. A shared hook has a chain; an unshared one (tracepoint is the first) has a
//! kernel link of its own. A new program type adds its variant here and one file in the daemon's `kernel/`.
//!
//! This file must never touch an interface: it only names them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::{IfName, Netns, Priority, printable};

/// One shared hook: its links, in order, are a chain.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ChainKey {
    /// Where the interface lives.
    pub netns: Netns,
    /// The interface.
    pub interface: IfName,
    /// Which of its hooks.
    pub point: Point,
}

/// The shared hooks of one interface.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Point {
    /// eXpress Data Path: before the kernel makes an skb.
    Xdp,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xdp => f.write_str("xdp"),
        }
    }
}

impl fmt::Display for ChainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { netns, interface, point } = self;
        match netns {
            Netns::Host => write!(f, "{interface}:{point}"),
            Netns::Named(name) => write!(f, "{name}:{interface}:{point}"),
        }
    }
}

/// How an XDP program meets the device.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// What is there already, else native, else generic.
    #[default]
    Auto,
    /// In the driver (`XDP_FLAGS_DRV_MODE` of include/uapi/linux/if_link.h).
    Native,
    /// On the skb (`XDP_FLAGS_SKB_MODE`).
    Generic,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

impl FromStr for XdpMode {
    type Err = BadXdpMode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "native" => Ok(Self::Native),
            "generic" => Ok(Self::Generic),
            other => Err(BadXdpMode(printable(other))),
        }
    }
}

/// A text that is no XDP mode.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not an XDP mode: auto, native or generic")]
pub struct BadXdpMode(String);

/// The verdicts of `enum xdp_action` (include/uapi/linux/bpf.h) after which the chain goes on, one bit each.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct ProceedOn(u32);

const XDP_ACTIONS: [&str; 5] = ["aborted", "drop", "pass", "tx", "redirect"];

impl ProceedOn {
    /// libxdp's default (`XDP_DEFAULT_CHAIN_CALL_ACTIONS`, xdp-tools lib/libxdp/libxdp.c): go on after PASS alone.
    pub const PASS: Self = Self(1 << 2);

    /// The mask as a dispatcher's configuration holds it, without libxdp's bit 31.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// A mask from a dispatcher, a label or a frozen map; bits that are no action are an error.
    pub fn from_bits(bits: u32) -> Result<Self, BadProceedOn> {
        if bits >> XDP_ACTIONS.len() == 0 { Ok(Self(bits)) } else { Err(BadProceedOn::Bits(bits)) }
    }

    /// The set that these action names make. An empty list is the empty set: the chain always ends here.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, BadProceedOn> {
        names.into_iter().try_fold(Self(0), |set, name| {
            let bit = XDP_ACTIONS
                .iter()
                .position(|action| action.eq_ignore_ascii_case(name))
                .ok_or_else(|| BadProceedOn::Name(printable(name)))?;
            Ok(Self(set.0 | 1 << bit))
        })
    }

    /// The names of the actions in the set, in the kernel's order.
    pub fn names(self) -> Vec<&'static str> {
        XDP_ACTIONS.iter().enumerate().filter(|(bit, _)| self.0 >> bit & 1 == 1).map(|(_, name)| *name).collect()
    }
}

impl Default for ProceedOn {
    fn default() -> Self {
        Self::PASS
    }
}

impl fmt::Display for ProceedOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.names() {
            names if names.is_empty() => f.write_str("none"),
            names => f.write_str(&names.join(",")),
        }
    }
}

/// A proceed-on set that names no XDP action.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadProceedOn {
    /// A word.
    #[error("`{0}` is not an XDP action: aborted, drop, pass, tx or redirect")]
    Name(String),
    /// Bits of a mask.
    #[error("proceed-on mask {0:#x} has bits that are no XDP action")]
    Bits(u32),
}

/// A kernel tracepoint: `category/event`.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tracepoint {
    category: String,
    event: String,
}

/// A text that names no tracepoint.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a tracepoint: write CATEGORY/EVENT, as in `sched/sched_switch`")]
pub struct BadTracepoint(String);

impl Tracepoint {
    /// The directory below tracefs' `events/`.
    pub fn category(&self) -> &str {
        &self.category
    }

    /// The directory below the category.
    pub fn event(&self) -> &str {
        &self.event
    }
}

/// Bytes of a tracepoint's category.
const CATEGORY_MAX: usize = 63;
/// Bytes of a tracepoint's name.
const EVENT_MAX: usize = 127;

impl FromStr for Tracepoint {
    type Err = BadTracepoint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Longest names in a 6.12 tracefs are 24 and 42 bytes; the parts become path components.
        let part = |part: &str, most: usize| {
            (1..=most).contains(&part.len())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
        };
        match text.split_once('/') {
            Some((category, event)) if part(category, CATEGORY_MAX) && part(event, EVENT_MAX) => {
                Ok(Self { category: category.to_owned(), event: event.to_owned() })
            }
            _ => Err(BadTracepoint(printable(text))),
        }
    }
}

impl fmt::Display for Tracepoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { category, event } = self;
        write!(f, "{category}/{event}")
    }
}

impl TryFrom<String> for Tracepoint {
    type Error = BadTracepoint;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Tracepoint> for String {
    fn from(tracepoint: Tracepoint) -> Self {
        tracepoint.to_string()
    }
}

/// One attachment with all that it needs to know: options that a hook does not have cannot be said.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// A place in a chain.
    Chain {
        /// Which chain.
        key: ChainKey,
        /// Lower runs first.
        priority: Priority,
        /// After which verdicts the next member runs.
        proceed_on: ProceedOn,
        /// How the interface is driven.
        mode: XdpMode,
    },
    /// A kernel link of its own.
    Tracepoint(Tracepoint),
}

impl Placement {
    /// The chain, if the hook is shared.
    pub fn chain(&self) -> Option<&ChainKey> {
        match self {
            Self::Chain { key, .. } => Some(key),
            Self::Tracepoint(_) => None,
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain { key, .. } => write!(f, "{key}"),
            Self::Tracepoint(tracepoint) => write!(f, "tracepoint:{tracepoint}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proceed_on_reads_what_it_writes() {
        for bits in 0..32 {
            let set = ProceedOn::from_bits(bits).unwrap();
            assert_eq!(ProceedOn::from_names(set.names()).unwrap(), set);
        }
        assert_eq!(ProceedOn::from_bits(1 << 5), Err(BadProceedOn::Bits(32)));
        assert!(ProceedOn::from_names(["ok"]).is_err());
        assert_eq!(ProceedOn::default().to_string(), "pass");
    }

    #[test]
    fn a_tracepoint_is_two_path_components() {
        assert!("sched/sched_switch".parse::<Tracepoint>().is_ok());
        for bad in ["sched", "sched/", "/x", "../x", "a/b/c", "a/..", "a/b "] {
            assert!(bad.parse::<Tracepoint>().is_err(), "{bad:?}");
        }
    }
}
