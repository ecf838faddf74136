//! Who asks what: the facts of a decision, as the kernel and a request tell them. [`crate::decide`] decides over them.
//!
//! Must never know how the daemon keeps apps and links: it puts its requests as questions ([`Asked`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::reference::Reference;
use crate::rule::Direction;

/// The group whose members may use images that pass, and may open the socket.
pub const GROUP: &str = "bpfd";
/// The group whose members may look.
pub const VIEW_GROUP: &str = "bpfd-view";
/// The lowest priority of a group member: 0 to 99 are root's, so that root's programs run first.
pub const GROUP_PRIORITY_MIN: u32 = 100;
/// The highest priority of all.
pub const PRIORITY_MAX: u32 = 1000;

/// Who asks, as the kernel told when the connection was made.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Principal {
    /// Effective user id.
    pub uid: u32,
    /// Its name in the user database, for people: it decides nothing.
    pub user: Option<String>,
    /// What else rules look at.
    pub credentials: Credentials,
    /// Process id, for the audit record only: it proves nothing.
    pub pid: u32,
}

/// What rules look at beside the user id. Kept with what a caller made, so that it can be judged again.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Credentials {
    /// Its groups, the primary one too; `None` if nobody wrote them down.
    pub groups: Option<BTreeSet<u32>>,
    /// Its systemd unit.
    pub unit: Unit,
}

/// The systemd unit of a process.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Nobody wrote it down.
    #[default]
    Unknown,
    /// It is in none, it ended, or the kernel cannot tell.
    None,
    /// Such as `cni.service`.
    Is(String),
}

impl Principal {
    /// As an owner of what it makes.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner { uid: self.uid, user: self.user.clone() }
    }

    /// The daemon itself: start-up repair.
    #[must_use]
    pub fn daemon() -> Self {
        let credentials = Credentials { groups: Some([0].into()), unit: Unit::None };
        Self { uid: 0, user: Some("root".to_owned()), credentials, pid: 0 }
    }

    /// Whoever made something, as it was then.
    #[must_use]
    pub fn maker(owner: &Owner, credentials: Option<&Credentials>) -> Self {
        let Owner { uid, user } = owner.clone();
        Self { uid, user, credentials: credentials.cloned().unwrap_or_default(), pid: 0 }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.owner())
    }
}

/// Who owns an app and its links: names, not ids, outlive a reinstalled host.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Owner {
    /// The user id that asked.
    pub uid: u32,
    /// Its name when it asked, if it had one.
    pub user: Option<String>,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => f.write_str(user),
            None => write!(f, "uid {}", self.uid),
        }
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Bring an image to this host, or take one away.
    Pull,
    /// Load programs.
    Load,
    /// Attach a program.
    Attach,
    /// Move a link.
    Update,
    /// Take a link away.
    Detach,
    /// Take an app away.
    Unload,
    /// See what there is.
    List,
    /// See what maps hold.
    MapRead,
    /// Change what maps hold.
    MapWrite,
    /// Change who is trusted, or what the policy is.
    Trust,
    /// Decide about a state that was lost.
    Recover,
}

impl Verb {
    /// Every verb.
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
        Self::Trust,
        Self::Recover,
    ];

    /// Whether something may be more afterwards than before.
    #[must_use]
    pub fn adds(self) -> bool {
        match self {
            Self::Pull | Self::Load | Self::Attach | Self::Update | Self::MapWrite => true,
            Self::Detach | Self::Unload | Self::List | Self::MapRead | Self::Trust | Self::Recover => false,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pull => "pull",
            Self::Load => "load",
            Self::Attach => "attach",
            Self::Update => "update",
            Self::Detach => "detach",
            Self::Unload => "unload",
            Self::List => "list",
            Self::MapRead => "map-read",
            Self::MapWrite => "map-write",
            Self::Trust => "change trust",
            Self::Recover => "adopt or discard the state",
        })
    }
}

/// One thing asked, with the facts that the decision needs. A fact that is `None` is not known yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Asked {
    /// What.
    pub verb: Verb,
    /// The kind of the program that is loaded or attached.
    pub kind: Option<String>,
    /// Where it is attached; `None` if the verb is about no hook, or the link does not exist.
    pub hook: Option<HookFacts>,
    /// Where bytes come from.
    pub source: Option<SourceFacts>,
    /// Apps whose maps a load takes.
    pub maps_of: Vec<MapOwner>,
    /// Who owns what it touches; `None` if that does not exist, or is the caller's to be.
    pub owner: Option<Owner>,
    /// What it touches, as people name it, as in ``app `a` ``.
    pub thing: Option<String>,
}

/// A hook, to policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HookFacts {
    /// Of an interface, with an order.
    Shared {
        /// The interface's name.
        interface: String,
        /// Its network namespace; the daemon's own is `host`.
        netns: String,
        /// Which way packets go.
        direction: Direction,
        /// The place in the order.
        priority: Option<u32>,
        /// After which verdicts the next program runs.
        proceed_on: Option<BTreeSet<String>>,
    },
    /// Of no interface.
    Own {
        /// Its target, as its kind writes it.
        target: Option<String>,
    },
    /// None: it is about an app as a whole.
    Nowhere,
}

/// Where bytes come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SourceFacts {
    /// An image that passed, or must pass, the `[[image]]` of its scope.
    Image {
        /// Its name; `None` if that is no reference, or not known.
        reference: Option<Reference>,
        /// Whose signatures counted; `None` before they were looked at.
        signers: Option<BTreeSet<String>>,
    },
    /// Bytes from the caller: a hash, whatever path they came from.
    Upload {
        /// sha256 of the object; `None` before it is all there.
        object: Option<Digest>,
    },
}

impl SourceFacts {
    /// An image by its name, before anything else is known.
    #[must_use]
    pub fn named(reference: &str) -> Self {
        Self::Image { reference: reference.parse().ok(), signers: None }
    }
}

/// An app whose maps are asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MapOwner {
    /// Who owns it.
    pub owner: Owner,
    /// Its name.
    pub app: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Asked {
    /// Only a verb.
    #[must_use]
    pub fn verb(verb: Verb) -> Self {
        Self { verb, kind: None, hook: None, source: None, maps_of: vec![], owner: None, thing: None }
    }

    /// The same, wherever in its chain.
    pub fn forget_place(&mut self) {
        if let Some(HookFacts::Shared { priority, proceed_on, .. }) = &mut self.hook {
            (*priority, *proceed_on) = (None, None);
        }
    }

    /// A load of such bytes.
    #[must_use]
    pub fn load(source: SourceFacts) -> Self {
        Self { source: Some(source), ..Self::verb(Verb::Load) }
    }
}

/// A refusal: what is missing, and what would change it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{principal} may not {verb}: {why}")]
pub struct Denied {
    /// Who, by name.
    pub principal: String,
    /// Who, by number: a name may be another user's tomorrow.
    pub uid: u32,
    /// What.
    pub verb: Verb,
    /// The rule that came closest and the condition that did not hold, or what else is missing.
    pub why: String,
    /// What to do.
    pub hint: String,
    /// What each rule said, for the log alone: other rules are nobody's business.
    pub rules: Vec<String>,
}

/// With which capabilities the verifier judges bytes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// Without CAP_PERFMON and CAP_SYS_ADMIN: packets and its own maps, nothing else.
    Packet,
    /// With the daemon's own: for root and for bytes that somebody vetted.
    Kernel,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Packet => "packet",
            Self::Kernel => "kernel",
        })
    }
}

/// How far `--all` goes. It narrows a request, and permits nothing: what it leaves over is decided on like any other.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OwnerScope {
    /// Whoever owns it.
    #[default]
    Anyone,
    /// What this user owns.
    Of(u32),
}

impl OwnerScope {
    /// How far it goes if this caller says it.
    #[must_use]
    pub fn of(principal: &Principal) -> Self {
        if principal.uid == 0 { Self::Anyone } else { Self::Of(principal.uid) }
    }

    /// Whether it reaches what `owner` owns.
    #[must_use]
    pub fn reaches(self, owner: &Owner) -> bool {
        match self {
            Self::Anyone => true,
            Self::Of(uid) => owner.uid == uid,
        }
    }
}
