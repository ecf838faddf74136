//! The kernel as the engine sees it: what was observed, the steps that change it, and the trait with two implementations, the
//! real one in the daemon and an in-memory one that fails or dies on demand (`fake`).
//!
//! Everything here is plain data: a plan can be printed, compared and stored. This file must never hold a file descriptor.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hook::{ChainKey, ProceedOn, Tracepoint, XdpMode};
use crate::ident::{AppUid, KernelId, LinkUid, TopUid};
use crate::names::Priority;
use crate::state::{ObjectDigest, Program, ProgramType, Reach};

/// One member of what bpfd attaches to a shared hook.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Member {
    /// Which of our links.
    pub link: LinkUid,
    /// Its app.
    pub app: AppUid,
    /// Its program.
    pub function: String,
    /// Its place.
    pub priority: Priority,
    /// After which verdicts the next one runs.
    pub proceed_on: ProceedOn,
}

/// What is needed to make an app's instructions again: bytes and globals; its maps are pinned.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Recipe {
    /// The object's bytes.
    pub object: ObjectDigest,
    /// Encoded globals.
    pub globals: BTreeMap<String, Vec<u8>>,
    /// The loaded functions, and what each is loaded as.
    pub functions: BTreeMap<String, ProgramType>,
    /// With which capabilities the verifier judges them.
    pub reach: Reach,
}

/// What a new generation of a chain is made of.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TopContent {
    /// All members in one program, with libxdp's semantics.
    Fused {
        /// In order.
        members: Vec<Member>,
        /// Every app that a member is of.
        recipes: BTreeMap<AppUid, Recipe>,
    },
}

impl TopContent {
    /// Our members, in order.
    pub fn members(&self) -> &[Member] {
        match self {
            Self::Fused { members, .. } => members,
        }
    }
}

/// What is attached right now, as an expectation for compare-and-swap.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LiveTop {
    /// The attached program.
    pub program: KernelId,
    /// Our name for it.
    pub top: TopUid,
}

/// One small effect, named by what it does. Undo of each is another step, but for `DetachLink`, `UnpinTop` and `UnpinApp`, which
/// come after the commit point.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Pin a prepared app's maps and programs as `v1/<app>`: made under another name, then renamed, so that it is whole or
    /// absent.
    PinApp(AppUid),
    /// Make a generation of a chain, held by file descriptors only. Binds the kernel's id of its program.
    BuildTop {
        /// Its name.
        top: TopUid,
        /// For which chain.
        chain: ChainKey,
        /// Of what.
        content: TopContent,
    },
    /// Let go of a generation that was built.
    DropTop(TopUid),
    /// Pin a built generation as `v1/top/<top>`.
    PinTop(TopUid),
    /// Attach a kernel link of its own and pin it as `v1/link/<link>`.
    AttachLink {
        /// Its identity.
        link: LinkUid,
        /// The app.
        app: AppUid,
        /// Its program.
        function: String,
        /// Where.
        tracepoint: Tracepoint,
    },
    /// Unpin such a link, which detaches it.
    DetachLink(LinkUid),
    /// Replace what the hook runs, by compare-and-swap; packets see the old chain or the new one.
    Swap {
        /// Which hook.
        chain: ChainKey,
        /// What must be there.
        from: Option<LiveTop>,
        /// What is there afterwards.
        to: Option<TopUid>,
        /// How the interface is driven.
        mode: XdpMode,
    },
    /// Remove the pins of a generation that is not attached.
    UnpinTop(TopUid),
    /// Remove the pins of an app; the kernel frees what nothing else holds.
    UnpinApp(AppUid),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PinApp(app) => write!(f, "pin app {app}"),
            Self::BuildTop { top, chain, content } => {
                write!(f, "build top {top} for {chain}:")?;
                content.members().iter().try_for_each(|member| {
                    let Member { link: _, app: _, function, priority, proceed_on } = member;
                    write!(f, " {function} {priority} {{{proceed_on}}}")
                })
            }
            Self::DropTop(top) => write!(f, "drop top {top}"),
            Self::PinTop(top) => write!(f, "pin top {top}"),
            Self::AttachLink { link, function, tracepoint, app: _ } => {
                write!(f, "attach link {link}: {function} to {tracepoint}")
            }
            Self::DetachLink(link) => write!(f, "detach link {link}"),
            Self::Swap { chain, from, to, mode } => {
                let name = |top: Option<TopUid>| top.map_or_else(|| "nothing".to_owned(), |top| top.to_string());
                write!(f, "swap {chain} ({mode}): {} -> {}", name(from.map(|live| live.top)), name(*to))
            }
            Self::UnpinTop(top) => write!(f, "unpin top {top}"),
            Self::UnpinApp(app) => write!(f, "unpin app {app}"),
        }
    }
}

impl Step {
    /// A short name for fail points, audit and logs.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::PinApp(_) => "pin-app",
            Self::BuildTop { .. } => "build-top",
            Self::DropTop(_) => "drop-top",
            Self::PinTop(_) => "pin-top",
            Self::AttachLink { .. } => "attach-link",
            Self::DetachLink(_) => "detach-link",
            Self::Swap { .. } => "swap",
            Self::UnpinTop(_) => "unpin-top",
            Self::UnpinApp(_) => "unpin-app",
        }
    }
}

/// A pinned app.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct PinnedApp {
    /// Programs by function.
    pub programs: BTreeMap<String, KernelId>,
    /// Maps by name.
    pub maps: BTreeSet<String>,
}

/// A pinned generation of some chain, with what its frozen map says of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PinnedTop {
    /// Its program.
    pub program: KernelId,
    /// Its members in order; `None` if the frozen map does not parse.
    pub members: Option<Vec<Member>>,
    /// Whether the interface that it was made for runs it; `None` if that could not be seen, so nothing may be removed.
    pub live: Option<bool>,
}

/// An interface, as the kernel identifies it: the index means something only beside the namespace's cookie
/// (`SO_NETNS_COOKIE`, include/uapi/asm-generic/socket.h).
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct InterfaceId {
    /// Of the namespace.
    pub netns_cookie: u64,
    /// Of the interface.
    pub index: u32,
}

/// Which way a chain is kept, and why.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChainMode {
    /// All links in one program of the interface's own.
    Fused {
        /// Why not libxdp's protocol.
        cause: String,
    },
}

impl fmt::Display for ChainMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fused { .. } => f.write_str("fused"),
        }
    }
}

/// A program that is not ours on a hook of ours.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ForeignProgram {
    /// Its id.
    pub program: KernelId,
    /// Its kernel name, at most 15 bytes.
    pub name: String,
    /// The bpf_link that holds it, if one does.
    pub link: Option<u32>,
    /// Processes that hold the program or the link, as `pid (command)`.
    pub holders: Vec<String>,
}

/// What a hook runs.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Live {
    /// Nothing.
    Empty,
    /// A generation of ours.
    Ours(LiveTop),
    /// Something else.
    Foreign(ForeignProgram),
}

/// One shared hook as it is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ObservedChain {
    /// The interface; `None` if it is absent, or its namespace is.
    pub interface: Option<InterfaceId>,
    /// What runs there.
    pub live: Live,
    /// How the interface is driven, when something is attached: native or generic, never auto.
    pub driven: Option<XdpMode>,
    /// Which way the chain is kept.
    pub mode: ChainMode,
}

/// The kernel's half, at one moment.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Observed {
    /// Whole app directories.
    pub apps: BTreeMap<AppUid, PinnedApp>,
    /// App directories that a crash left half-made.
    pub half_made: BTreeSet<AppUid>,
    /// Every pinned generation.
    pub tops: BTreeMap<TopUid, PinnedTop>,
    /// Pinned links of unshared hooks.
    pub links: BTreeSet<LinkUid>,
    /// The chains that were asked about.
    pub chains: BTreeMap<ChainKey, ObservedChain>,
}

impl Observed {
    /// The members that a chain runs, in order; empty unless it runs a generation of ours.
    pub fn members(&self, chain: &ChainKey) -> &[Member] {
        match self.chains.get(chain).map(|chain| &chain.live) {
            Some(Live::Ours(LiveTop { top, .. })) => {
                self.tops.get(top).and_then(|top| top.members.as_deref()).unwrap_or_default()
            }
            Some(Live::Empty | Live::Foreign(_)) | None => &[],
        }
    }
}

/// Why a step did not happen. After an error the kernel is as before the step.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StepError {
    /// The verifier refused.
    #[error("the kernel's verifier rejected `{program}`")]
    Verifier {
        /// The function.
        program: String,
        /// Its whole log.
        log: String,
    },
    /// The object's bytes cannot be loaded, whoever asks.
    #[error("cannot use the object: {why}")]
    Object {
        /// What is wrong with it.
        why: String,
    },
    /// A member cannot share one program with others.
    #[error("`{member}` cannot be fused with other programs: {why}")]
    CannotFuse {
        /// Its function.
        member: String,
        /// What it does.
        why: String,
    },
    /// The interface is gone.
    #[error("no interface for `{0}`")]
    NoInterface(ChainKey),
    /// This kernel has no such tracepoint.
    #[error("this kernel has no tracepoint `{0}`")]
    NoTracepoint(Tracepoint),
    /// Somebody else changed the hook first.
    #[error("`{0}` changed while bpfd was changing it")]
    Raced(ChainKey),
    /// A call failed.
    #[error("cannot {doing}: {errno}")]
    Call {
        /// In the user's terms.
        doing: String,
        /// The kernel's word for why, with its extended message if it gave one.
        errno: String,
    },
    /// The process ended here: only the in-memory kernel says so.
    #[error("the process died")]
    Died,
}

/// The kernel could not be read; nothing may be removed on the strength of that.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("cannot observe {what}: {errno}")]
pub struct ObserveError {
    /// What was being read.
    pub what: String,
    /// The kernel's word for why.
    pub errno: String,
}

/// The kernel. Only the engine's thread calls it.
pub trait Kernel {
    /// An app's maps and programs as file descriptors, made and verified, named by nothing yet: dropped, they are gone.
    type Staged: Send;

    /// Everything that bpfd has pinned, and the chains asked about.
    fn observe(&mut self, chains: &BTreeSet<ChainKey>) -> Result<Observed, ObserveError>;

    /// Takes what was prepared on another thread; `PinApp` consumes it, `discard` drops it.
    fn stage(&mut self, app: AppUid, staged: Self::Staged);

    /// Lets go of what was staged and not pinned.
    fn discard(&mut self, app: AppUid);

    /// Makes an app again and stages it: its pins are gone, as after a boot. Gives its programs as they are now.
    fn prepare(&mut self, app: AppUid, recipe: &Recipe) -> Result<Vec<Program>, StepError>;

    /// Takes one step; gives the kernel's id of what a `BuildTop` made.
    fn step(&mut self, step: &Step) -> Result<Option<KernelId>, StepError>;
}
