//! `[[rule]]`, as it was read: who may do what, or may not. A value of these types is a rule that can hold.
//!
//! Must never decide: see [`crate::decide`].

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::caller::{Reach, Verb};
use crate::digest::Digest;
use crate::glob::Glob;
use crate::name::Name;
use crate::scope::Scope;

/// One rule. A condition that it does not state holds for everything.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Rule {
    /// What messages and the audit log call it.
    pub id: Name,
    /// Whether it lets pass or keeps out.
    pub effect: Effect,
    /// Whom it is about: any of these; `None`, in a rule that denies: everybody.
    pub who: Option<Vec<Who>>,
    /// What it is about.
    pub verbs: BTreeSet<RuleVerb>,
    /// Of which kinds.
    pub programs: Option<Programs>,
    /// Where, for hooks of interfaces.
    pub interfaces: Option<Interfaces>,
    /// At which priorities, for hooks with an order.
    pub priority: Option<Band>,
    /// Verdicts after which the next program of the chain must run. Only in a rule that allows.
    pub must_proceed_on: Option<BTreeSet<String>>,
    /// On which hooks.
    pub hooks: Option<Hooks>,
    /// From where.
    pub source: Option<Sources>,
    /// Whose maps.
    pub map_from: Option<Vec<MapsOf>>,
    /// How much. Only in a rule that allows.
    pub quota: Option<RuleQuota>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// What matches may be done, unless another rule denies it.
    Allow,
    /// What matches may not be done, whatever allows it.
    Deny,
}

/// One element of `who`: all that it states must hold.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Who {
    /// A user.
    pub user: Option<Account>,
    /// A group, primary or supplementary.
    pub group: Option<Account>,
    /// The systemd unit of the process.
    pub unit: Option<Glob>,
}

/// A user or group by its name, and its number as far as it is known.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Account {
    /// As written.
    pub name: String,
    /// What the name service said when the policy was read.
    #[serde(default)]
    pub id: AccountId,
}

/// What a name means.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccountId {
    /// Nobody could say: no name service answered.
    #[default]
    Unknown,
    /// There is no such user or group.
    Absent,
    /// This number.
    Is(u32),
}

/// A verb as rules name it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each is the verb of its name")]
pub enum RuleVerb {
    Pull,
    Load,
    Attach,
    Update,
    Detach,
    Unload,
    List,
    MapRead,
    MapWrite,
    /// Beside another verb: on what somebody else owns.
    OtherOwner,
}

impl RuleVerb {
    /// Every verb, in the order in which they are listed.
    pub const ALL: &[Self] = &[
        Self::Pull,
        Self::Load,
        Self::Attach,
        Self::Update,
        Self::Detach,
        Self::Unload,
        Self::List,
        Self::MapRead,
        Self::MapWrite,
        Self::OtherOwner,
    ];

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Load => "load",
            Self::Attach => "attach",
            Self::Update => "update",
            Self::Detach => "detach",
            Self::Unload => "unload",
            Self::List => "list",
            Self::MapRead => "map-read",
            Self::MapWrite => "map-write",
            Self::OtherOwner => "other-owner",
        }
    }

    /// The verb of a request; `None` if no rule can give it to anybody.
    #[must_use]
    pub fn of(verb: Verb) -> Option<Self> {
        match verb {
            Verb::Pull => Some(Self::Pull),
            Verb::Load => Some(Self::Load),
            Verb::Attach => Some(Self::Attach),
            Verb::Update => Some(Self::Update),
            Verb::Detach => Some(Self::Detach),
            Verb::Unload => Some(Self::Unload),
            Verb::List => Some(Self::List),
            Verb::MapRead => Some(Self::MapRead),
            Verb::MapWrite => Some(Self::MapWrite),
            Verb::Trust | Verb::Recover => None,
        }
    }
}

impl fmt::Display for RuleVerb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `programs`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Programs {
    /// Kinds of programs; `None`: any.
    pub types: Option<BTreeSet<String>>,
    /// How far they may reach at most. Only in a rule that allows; `None`: as the bytes were vetted.
    pub reach: Option<Reach>,
}

/// `interfaces`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Interfaces {
    /// By name; `None`: any.
    pub names: Option<Vec<Glob>>,
    /// In these network namespaces; the daemon's own is `host`; `None`: any.
    pub netns: Option<Vec<Glob>>,
    /// Packets that come in, or go out; `None`: both. XDP is ingress.
    pub directions: Option<BTreeSet<Direction>>,
}

/// Which way packets go.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words of the kernel")]
pub enum Direction {
    Ingress,
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// `priority`: from `min` to `max`, both included.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[expect(missing_docs, reason = "see the type")]
pub struct Band {
    pub min: u32,
    pub max: u32,
}

impl Band {
    /// Whether a priority is one of these.
    #[must_use]
    pub fn has(self, priority: u32) -> bool {
        self.min <= priority && priority <= self.max
    }
}

/// `hooks`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Hooks {
    /// Kinds of hooks; `None`: any.
    pub kinds: Option<BTreeSet<String>>,
    /// Targets of hooks that belong to no interface; `None`: any.
    pub targets: Option<Vec<Glob>>,
}

/// `source`: an image of these, or a file of these.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Sources {
    /// Images; `None` beside signers: any image that one of them signed.
    pub images: Option<Images>,
    /// Whose signature an image must have, any of these; `None`: what its `[[image]]` asks for.
    pub signed_by: Option<BTreeSet<Name>>,
    /// Files that the caller sends; `None`: none.
    pub files: Option<Files>,
}

/// `source.images`. Each must pass its `[[image]]` too.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Images {
    /// Whatever it is called.
    Any,
    /// Of these scopes.
    Of(Vec<Scope>),
}

/// `source.files`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Files {
    /// Whatever it is.
    Any,
    /// These.
    Of(BTreeSet<Digest>),
}

/// One element of `map_from`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MapsOf {
    /// Apps of the caller.
    Own,
    /// The app of this name.
    App(Name),
    /// Apps with this label.
    Label(String, String),
}

/// `quota`: what it does not state is as the built-in quota says.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct RuleQuota {
    /// Apps.
    pub apps: Option<u64>,
    /// Links, those that wait for an interface too.
    pub links: Option<u64>,
    /// Bytes of maps.
    pub map_bytes: Option<u64>,
    /// Calls that begin in a minute.
    pub requests_per_minute: Option<u32>,
    /// Calls under way at a time.
    pub concurrent: Option<u32>,
}
