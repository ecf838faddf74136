//! XDP on an interface: how the driver runs the program, and what programs return.
//!
//! This file must never touch an interface.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::printable;

/// How the driver of an interface runs its XDP program.
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

/// The verdicts of `enum xdp_action` (include/uapi/linux/bpf.h), from 0 on.
pub(super) const ACTIONS: &[&str] = &["aborted", "drop", "pass", "tx", "redirect"];
