//! `[[order]]`, as it was read: which apps run before which in the chains of some interfaces. [`place()`] makes priorities of it, and
//! `contradictions.rs` finds orders that no chain can have.
//!
//! Must never say anything about programs that bpfd did not attach: these keep their priorities.

mod contradictions;
mod place;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::contradictions::{Contradiction, Place, Said, Statement, contradiction};
pub use self::place::{Edge, Placed, Placement, place};
use crate::name::Name;
use crate::rule::{Direction, Interfaces};

/// Orders in all files: each is about some chains, and a host has few kinds of them.
pub const ORDERS_MAX: usize = 32;
/// Members that one order names, in all its lists: a chain has at most 64 programs of different apps.
pub const MEMBERS_MAX: usize = 64;
/// The kinds of hooks that have chains.
pub const KINDS: &[&str] = &["xdp", "tc"];

/// One order.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Order {
    /// What messages call it.
    pub id: Name,
    /// The chains that it is about.
    pub chain: Chains,
    /// What runs first, in this order.
    pub first: Vec<Member>,
    /// What runs last, in this order.
    pub last: Vec<Member>,
    /// What runs before what.
    pub before: Vec<Before>,
    /// A request whose priority says otherwise is refused.
    pub strict: bool,
}

/// `chain`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Chains {
    /// `xdp`, `tc`; `None`: both.
    pub kinds: Option<Vec<String>>,
    /// Of these interfaces.
    pub interfaces: Interfaces,
}

/// One element of `before`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Before {
    /// What runs earlier.
    pub app: Member,
    /// What runs later.
    pub than: Member,
}

/// Apps of a chain.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Member {
    /// The app of this name.
    App(Name),
    /// Apps with this label, which whoever loaded them gave.
    Label(String, String),
    /// Apps from images that this signer signed.
    Signer(Name),
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(name) => write!(f, "{name}"),
            Self::Label(key, value) => write!(f, "{key}={value}"),
            Self::Signer(name) => write!(f, "signer:{name}"),
        }
    }
}

/// A chain, as orders see it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChainFacts {
    /// `xdp` or `tc`.
    pub kind: &'static str,
    /// XDP is ingress.
    pub direction: Direction,
    /// Each name that the interface is known by, with its network namespace; the daemon's own is `host`.
    pub names: Vec<(String, String)>,
}

/// A link of a chain, as orders see it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LinkFacts {
    /// Its app's name.
    pub app: String,
    /// The labels that whoever loaded the app gave it.
    pub labels: BTreeMap<String, String>,
    /// Whose signatures counted.
    pub signers: Vec<String>,
    /// Its function, which decides between equal priorities.
    pub function: String,
    /// The priority that was asked for.
    pub asked: u32,
    /// A number that no other link has, and that stays.
    pub number: u64,
}

impl Chains {
    /// Whether a chain is one of these: by any name of its interface.
    #[must_use]
    pub fn are(&self, chain: &ChainFacts) -> bool {
        let Self { kinds, interfaces: Interfaces { names, netns, directions } } = self;
        let globs = |globs: &Option<Vec<crate::glob::Glob>>, name: &str| {
            globs.as_ref().is_none_or(|globs| globs.iter().any(|glob| glob.matches(name)))
        };
        kinds.as_ref().is_none_or(|kinds| kinds.iter().any(|kind| kind == chain.kind))
            && directions.as_ref().is_none_or(|directions| directions.contains(&chain.direction))
            && chain.names.iter().any(|(name, namespace)| globs(names, name) && globs(netns, namespace))
    }
}

impl Member {
    /// Whether a link's app is one of these.
    #[must_use]
    pub fn is(&self, link: &LinkFacts) -> bool {
        match self {
            Self::App(name) => name.as_str() == link.app,
            Self::Label(key, value) => link.labels.get(key) == Some(value),
            Self::Signer(name) => link.signers.iter().any(|signer| signer == name.as_str()),
        }
    }
}
