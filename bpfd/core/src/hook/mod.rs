//! Where programs attach and under which options. The links of a shared hook (XDP or tc on an interface) have an order and make a
//! chain; each link of an own hook (a tracepoint) stands alone. Kinds of own hooks are listed in `own`.
//!
//! This module must never touch an interface or the kernel: it only names them.

pub mod fentry;
pub mod kprobe;
pub mod own;
mod proceed_on;
pub mod raw_tracepoint;
mod tc;
pub mod tracepoint;
pub mod xdp;

use std::fmt;

use bpfd_policy::name::Name;
use serde::{Deserialize, Serialize};

pub use fentry::{Fentry, Fexit};
pub use kprobe::{Kprobe, Kretprobe};
pub use own::{BadTarget, OwnHook};
pub use proceed_on::{BadProceedOn, ProceedOn};
pub use raw_tracepoint::RawTracepoint;
pub use tracepoint::Tracepoint;
pub use xdp::{BadXdpMode, XdpMode};

use crate::names::{IfName, Netns, Priority};
use crate::state::ProgramKind;

/// A shared hook by the name of its interface: what a request and a link ask for. Which chain that is, the kernel says, and it may
/// be another one tomorrow.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ChainName {
    /// Where the interface lives.
    pub netns: Netns,
    /// The interface.
    pub interface: IfName,
    /// Which of its hooks.
    pub point: Point,
}

/// An interface by its name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InterfaceName {
    /// Where it lives.
    pub netns: Netns,
    /// Its name.
    pub interface: IfName,
}

impl InterfaceName {
    /// One of its hooks.
    pub fn chain(&self, point: Point) -> ChainName {
        ChainName { netns: self.netns.clone(), interface: self.interface.clone(), point }
    }
}

/// An interface, as the kernel identifies it for as long as it lives: the index means something only beside the namespace's cookie
/// (`SO_NETNS_COOKIE`, include/uapi/asm-generic/socket.h), and both only within a boot.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct InterfaceId {
    /// Of the namespace.
    pub netns_cookie: u64,
    /// Of the interface.
    pub index: u32,
}

/// One chain: the ordered links of a shared hook of one interface, whatever that is called.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ChainId {
    /// The interface.
    pub interface: InterfaceId,
    /// Which of its hooks.
    pub point: Point,
}

/// A chain, and the name by which its interface is reached now.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NamedChain {
    /// Which chain.
    pub id: ChainId,
    /// Its name.
    pub name: ChainName,
}

impl fmt::Display for NamedChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)
    }
}

/// The shared hooks of one interface.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Point {
    /// eXpress Data Path: before the kernel makes an skb.
    Xdp,
    /// Traffic control of what the interface receives.
    TcIngress,
    /// Traffic control of what the interface sends.
    TcEgress,
}

/// Whether programs of a kind can be loaded: their hooks are managed.
pub fn is_managed(kind: ProgramKind) -> bool {
    own::form(kind).is_some() || Point::ALL.iter().any(|point| point.kind() == kind)
}

impl Point {
    /// Every shared hook of an interface.
    pub const ALL: &[Self] = &[Self::Xdp, Self::TcIngress, Self::TcEgress];

    /// The kind of program that runs here.
    pub fn kind(self) -> ProgramKind {
        match self {
            Self::Xdp => ProgramKind::Xdp,
            Self::TcIngress | Self::TcEgress => ProgramKind::Tc,
        }
    }

    /// The word for it in names of links and chains.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::TcIngress => "tc-ingress",
            Self::TcEgress => "tc-egress",
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { netns, interface, point } = self;
        match netns {
            Netns::Host => write!(f, "{interface}:{point}"),
            Netns::Named(_) | Netns::Nameless(_) => write!(f, "{netns}:{interface}:{point}"),
        }
    }
}

/// A place in a chain.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(from = "StoredPlace")]
pub struct Place {
    /// The name of its interface, as it was asked for.
    #[serde(rename = "key")]
    pub asked: ChainName,
    /// The priority that was asked for.
    pub priority: Priority,
    /// The priority that orders it, as peers see it: lower runs first.
    pub effective: Priority,
    /// The order of the policy that made it another one than was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Name>,
    /// After which verdicts the next member runs.
    pub proceed_on: ProceedOn,
    /// How the interface is driven.
    pub mode: XdpMode,
}

/// A place as rows have it: earlier versions wrote one priority.
#[derive(Deserialize)]
struct StoredPlace {
    #[serde(rename = "key")]
    asked: ChainName,
    priority: Priority,
    effective: Option<Priority>,
    #[serde(default)]
    order: Option<Name>,
    proceed_on: ProceedOn,
    mode: XdpMode,
}

impl From<StoredPlace> for Place {
    fn from(stored: StoredPlace) -> Self {
        let StoredPlace { asked, priority, effective, order, proceed_on, mode } = stored;
        Self { asked, priority, effective: effective.unwrap_or(priority), order, proceed_on, mode }
    }
}

/// One attachment with all that it needs to know: options that a hook does not have cannot be said.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Placement {
    /// A place in the chain of a shared hook.
    #[serde(rename = "chain")]
    Shared(Place),
    /// An own hook.
    #[serde(untagged)]
    Own(OwnHook),
}

impl Placement {
    /// The place in a chain, if the hook is shared.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Shared(place) => Some(place),
            Self::Own(_) => None,
        }
    }

    /// The hook, if it is an own one.
    pub fn own(&self) -> Option<&OwnHook> {
        match self {
            Self::Shared(_) => None,
            Self::Own(hook) => Some(hook),
        }
    }

    /// The name that was asked for, if the hook is shared.
    pub fn asked(&self) -> Option<&ChainName> {
        self.place().map(|place| &place.asked)
    }

    /// The kind of program that attaches here.
    pub fn kind(&self) -> ProgramKind {
        match self {
            Self::Shared(place) => place.asked.point.kind(),
            Self::Own(hook) => hook.kind(),
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared(place) => write!(f, "{}", place.asked),
            Self::Own(hook) => write!(f, "{hook}"),
        }
    }
}

/// A hook as asked for; what is left out is filled from labels, run config and defaults.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HookAsk {
    /// A place in a chain.
    Shared {
        /// Which chain.
        chain: ChainName,
        /// Where in it.
        priority: Option<Priority>,
        /// After which verdicts it goes on.
        proceed_on: Option<ProceedOn>,
        /// How the interface is driven.
        mode: XdpMode,
    },
    /// An own hook.
    Own {
        /// Its kind.
        kind: ProgramKind,
        /// The hook; `None` = the one that the program's section names.
        hook: Option<OwnHook>,
    },
}

impl HookAsk {
    /// The kind of program that it needs.
    pub fn kind(&self) -> ProgramKind {
        match self {
            Self::Shared { chain, .. } => chain.point.kind(),
            Self::Own { kind, .. } => *kind,
        }
    }

    /// The priority that was asked for, if one was.
    pub fn priority(&self) -> Option<Priority> {
        match self {
            Self::Shared { priority, .. } => *priority,
            Self::Own { .. } => None,
        }
    }
}

impl fmt::Display for HookAsk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared { chain, .. } => write!(f, "`{}`", chain.interface),
            Self::Own { kind: _, hook: Some(hook) } => write!(f, "{} `{}`", hook.noun(), hook.target()),
            Self::Own { kind, hook: None } => write!(f, "its {kind}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"{"chain":{"key":{"netns":"host","interface":"eth0","point":"xdp"},"priority":50,"proceed_on":4,"mode":"auto"}}"#;
    const NEW: &str = r#"{"chain":{"key":{"netns":"host","interface":"eth0","point":"xdp"},"priority":50,"effective":40,"proceed_on":4,"mode":"auto"}}"#;

    fn priorities(stored: &str) -> (u32, u32) {
        let Placement::Shared(place) = serde_json::from_str(stored).unwrap() else { panic!("a place in a chain") };
        (place.priority.into(), place.effective.into())
    }

    #[test]
    fn a_placement_is_stored_as_it_is_read() {
        for stored in [NEW, r#"{"tracepoint":"sched/sched_switch"}"#] {
            let placement: Placement = serde_json::from_str(stored).unwrap();
            assert_eq!(serde_json::to_string(&placement).unwrap(), stored);
        }
    }

    #[test]
    fn a_place_of_an_earlier_version_is_ordered_by_what_was_asked_for() {
        assert_eq!(priorities(OLD), (50, 50));
        assert_eq!(priorities(NEW), (50, 40));
    }
}
