//! XDP on an interface: how the driver runs the program, and after which verdicts the chain goes on.
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
}
