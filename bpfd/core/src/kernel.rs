//! The kernel as the engine sees it: what was observed, the steps that change it, and the trait with two implementations, the
//! real one in the daemon and an in-memory one of the tests that fails or dies on demand.
//!
//! Everything here is plain data: a plan can be printed, compared and stored. This file must never hold a file descriptor.
//!
//! Long because everything that a plan can say is one vocabulary.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ebpf::verifier_log::Rejection;
use serde::{Deserialize, Serialize};

use crate::adopt::Spared;
use crate::chain::room::{Kept, Room};
use crate::cow::CowMap;
use crate::hook::{ChainId, ChainName, InterfaceId, NamedChain, OwnHook, Point, ProceedOn, XdpMode};
use crate::ident::{AppUid, GenerationUid, KernelId, LinkUid, SlotUid};
use crate::names::{Nameless, Netns, NetnsName, Priority};
use crate::record::Row;
use crate::stamp::Stamp;
use crate::state::{Link, ObjectDigest, ProgramFacts, ProgramKind, Reach, State};

/// One member of what bpfd attaches to a shared hook.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Member {
    /// Which of our links.
    pub link: LinkUid,
    /// Its app.
    pub app: AppUid,
    /// Its program.
    pub function: String,
    /// The priority that was asked for, as far as the kernel tells: it orders nothing.
    pub priority: Priority,
    /// The priority that orders it.
    pub effective: Priority,
    /// After which verdicts the next one runs.
    pub proceed_on: ProceedOn,
}

impl Member {
    /// Whether it runs as another one does, whatever was asked for.
    pub fn runs_as(&self, other: &Self) -> bool {
        let Self { link, app, function, priority: _, effective, proceed_on } = self;
        (link, app, function) == (&other.link, &other.app, &other.function)
            && (effective, proceed_on) == (&other.effective, &other.proceed_on)
    }
}

/// What is needed to make an app's instructions again: bytes and globals; its maps are pinned.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Recipe {
    /// The object's bytes.
    pub object: ObjectDigest,
    /// Encoded globals.
    pub globals: BTreeMap<String, Vec<u8>>,
    /// The loaded functions, and what each is loaded as.
    pub functions: BTreeMap<String, LoadAs>,
    /// With which capabilities the verifier judges them.
    pub reach: Reach,
    /// Maps that are not made but opened, each with the app that has it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shared: BTreeMap<String, AppUid>,
}

/// What a function is loaded as.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum LoadAs {
    /// A program of this kind, for any target.
    Any(ProgramKind),
    /// A program for this target alone: its kind fixes the target when a program is loaded.
    For(OwnHook),
}

impl LoadAs {
    /// The kind of program.
    pub fn kind(&self) -> ProgramKind {
        match self {
            Self::Any(kind) => *kind,
            Self::For(hook) => hook.kind(),
        }
    }

    /// The one target that it is loaded for.
    pub fn target(&self) -> Option<&OwnHook> {
        match self {
            Self::Any(_) => None,
            Self::For(hook) => Some(hook),
        }
    }
}

/// What a new generation of a chain is made of.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChainContent {
    /// All members in one program: fused, with libxdp's semantics, or a copy of the only one.
    Fused {
        /// In order.
        members: Vec<Member>,
        /// Every app that a member is of.
        recipes: BTreeMap<AppUid, Recipe>,
        /// How much of one program they may take.
        #[serde(default)]
        room: Room,
    },
    /// A libxdp dispatcher: a slot a program, those of others beside ours.
    Dispatcher {
        /// Of the dispatcher's configuration.
        version: u8,
        /// In order; at most [`SLOTS`].
        slots: Vec<Slot>,
    },
}

impl ChainContent {
    /// Our members, in order.
    pub fn members(&self) -> Vec<&Member> {
        match self {
            Self::Fused { members, .. } => members.iter().collect(),
            Self::Dispatcher { slots, .. } => Slot::members(slots).collect(),
        }
    }
}

/// The version of a dispatcher's configuration that bpfd makes anew: which users of libxdp may change the chain depends on it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum DispatcherVersion {
    /// That of libxdp 1.3 to 1.5: later ones read it, and refuse to change it.
    #[default]
    V2,
    /// That of libxdp 1.6 and later: earlier ones refuse it altogether.
    V3,
}

/// A number that bpfd makes no new dispatcher with.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0} is no version of a dispatcher that bpfd makes: give 2 or 3")]
pub struct BadDispatcherVersion(pub u8);

impl DispatcherVersion {
    /// As configurations have it.
    pub fn number(self) -> u8 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }
}

impl fmt::Display for DispatcherVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

impl TryFrom<u8> for DispatcherVersion {
    type Error = BadDispatcherVersion;

    fn try_from(number: u8) -> Result<Self, Self::Error> {
        match number {
            2 => Ok(Self::V2),
            3 => Ok(Self::V3),
            other => Err(BadDispatcherVersion(other)),
        }
    }
}

impl From<DispatcherVersion> for u8 {
    fn from(version: DispatcherVersion) -> Self {
        version.number()
    }
}

/// Slots of a dispatcher (`MAX_DISPATCHER_ACTIONS` in libxdp).
pub const SLOTS: usize = ebpf::dispatch_config::SLOTS;

/// What runs in one slot of a dispatcher.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Slot {
    /// Links of ours.
    Ours(OurSlot),
    /// Somebody else's program, kept as it is.
    Foreign(ForeignSlot),
}

/// A slot of ours: one program that runs a link, or several that are neighbours in their chain.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct OurSlot {
    /// Its name, and that of its copy.
    pub uid: SlotUid,
    /// Its first link, whose priority and function are what peers see.
    pub first: Member,
    /// Those that run after it in the same program.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rest: Vec<Member>,
}

impl OurSlot {
    /// Its links, in order.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// After which verdicts the next slot runs: those of its last link.
    pub fn proceed_on(&self) -> ProceedOn {
        self.rest.last().unwrap_or(&self.first).proceed_on
    }

    /// The same by their names.
    pub fn links(&self) -> impl Iterator<Item = LinkUid> {
        self.members().map(|member| member.link)
    }

    /// Whether it runs the same links in the same way as another one.
    pub fn runs_as(&self, other: &Self) -> bool {
        let alike = self.members().zip(other.members()).all(|(one, other)| one.runs_as(other));
        alike && self.rest.len() == other.rest.len()
    }
}

impl Slot {
    /// Our members in these slots, in order.
    pub fn members(slots: &[Self]) -> impl Iterator<Item = &Member> {
        slots.iter().filter_map(Self::ours).flat_map(OurSlot::members)
    }

    /// What it runs, if it is ours.
    pub fn ours(&self) -> Option<&OurSlot> {
        match self {
            Self::Ours(slot) => Some(slot),
            Self::Foreign(_) => None,
        }
    }

    /// Whether it runs the same in the same way as another one.
    pub fn runs_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ours(one), Self::Ours(other)) => one.runs_as(other),
            (Self::Foreign(one), Self::Foreign(other)) => one == other,
            (Self::Ours(_), Self::Foreign(_)) | (Self::Foreign(_), Self::Ours(_)) => false,
        }
    }
}

/// Somebody else's program in a dispatcher: all that a rebuild must keep.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ForeignSlot {
    /// Its number.
    pub program: KernelId,
    /// Its function: the full name, if its types tell it.
    pub name: String,
    /// The kernel's digest of its instructions.
    pub tag: [u8; 8],
    /// Nanoseconds since boot.
    pub load_time: u64,
    /// Any number.
    pub priority: u32,
    /// After which verdicts the next slot runs, as bits.
    pub actions: u32,
    /// Its load flags, as the dispatcher's configuration has them.
    pub flags: u32,
}

/// A dispatcher on an interface: whoever made it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LiveDispatcher {
    /// The program, and our name for it: for a peer's [`GenerationUid::of_peer`].
    pub generation: LiveGeneration,
    /// Of its configuration.
    pub version: u8,
    /// What runs, in order.
    pub slots: Vec<Slot>,
    /// Names of slots whose program is gone: somebody removed its link.
    pub lost: Vec<String>,
}

impl LiveDispatcher {
    /// Whether somebody else's program is in it.
    pub fn is_shared(&self) -> bool {
        self.slots.iter().any(|slot| slot.ours().is_none())
    }
}

/// Our copy of the programs of a slot's links, made to go into a dispatcher.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PinnedCopy {
    /// What it runs, as it was when the copy was made: priorities and verdicts may have changed since.
    pub slot: OurSlot,
    /// Its number.
    pub program: KernelId,
    /// The kernel's digest of its instructions.
    pub tag: [u8; 8],
    /// Nanoseconds since boot.
    pub load_time: u64,
}

/// What is attached right now, as an expectation for compare-and-swap.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LiveGeneration {
    /// The attached program.
    pub program: KernelId,
    /// Our name for it.
    #[serde(rename = "top")]
    pub generation: GenerationUid,
}

/// Where on its hook a generation runs.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spot {
    /// It is all that the hook runs.
    #[default]
    Whole,
    /// In a tcx chain, next after this generation.
    After(GenerationUid),
    /// In a tcx chain, next before this generation.
    Before(GenerationUid),
    /// In a tcx chain, after everything that is there.
    Last,
    /// In a clsact qdisc, as the filter of this preference.
    Preference(u16),
}

impl Spot {
    fn is_whole(&self) -> bool {
        *self == Self::Whole
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => Ok(()),
            Self::After(generation) => write!(f, " after {generation}"),
            Self::Before(generation) => write!(f, " before {generation}"),
            Self::Last => write!(f, " last"),
            Self::Preference(preference) => write!(f, " as filter {preference}"),
        }
    }
}

/// One small effect, named by what it does. Undo of each is another step, but for `DetachLink`, `UnpinGeneration`, `UnpinCopy`, `UnpinApp`,
/// `Record` and `Unrecord`, which come after the commit point, and `Adopt`, which changes nothing that runs.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Pin a prepared app's maps and programs as `v1/<app>`: made under another name, then renamed, so that it is whole or
    /// absent.
    PinApp(AppUid),
    /// Load the programs of a slot's links once more, as one that goes into a dispatcher, and pin it as `v1/ext/<slot>`. The verifier's
    /// work is done here, before any hook is looked at.
    #[serde(rename = "load-ext")]
    LoadCopy {
        /// For which slot.
        slot: OurSlot,
        /// Every app that a link of it is of.
        recipes: BTreeMap<AppUid, Recipe>,
    },
    /// Remove the pins of such a copy.
    #[serde(rename = "unpin-ext")]
    UnpinCopy(SlotUid),
    /// Take references of our own to a dispatcher that a peer built, and to our links in it: a peer can then not let go of them. Or to
    /// a generation of ours that runs and lost its pins.
    Adopt {
        /// On which interface.
        chain: NamedChain,
        /// What runs there.
        live: LiveGeneration,
    },
    /// Make a generation of a chain, held by file descriptors only. Binds the kernel's id of its program.
    #[serde(rename = "build-top")]
    BuildGeneration {
        /// Its name.
        #[serde(rename = "top")]
        generation: GenerationUid,
        /// For which chain.
        chain: NamedChain,
        /// Of what.
        content: ChainContent,
    },
    /// Let go of a generation that was built.
    #[serde(rename = "drop-top")]
    DropGeneration(GenerationUid),
    /// Pin a built generation as `v1/top/<top>`.
    #[serde(rename = "pin-top")]
    PinGeneration(GenerationUid),
    /// Attach to an own hook and pin the kernel link as `v1/link/<link>`.
    AttachLink {
        /// Its identity.
        link: LinkUid,
        /// The app.
        app: AppUid,
        /// Its program.
        function: String,
        /// Where.
        hook: OwnHook,
    },
    /// Unpin such a link, which detaches it.
    DetachLink(LinkUid),
    /// Replace what the hook runs, by compare-and-swap; packets see the old chain or the new one.
    Swap {
        /// Which hook.
        chain: NamedChain,
        /// What must be there.
        from: Option<LiveGeneration>,
        /// What is there afterwards.
        to: Option<GenerationUid>,
        /// How the interface is driven.
        mode: XdpMode,
        /// Where on the hook, for hooks that run several generations.
        #[serde(default, skip_serializing_if = "Spot::is_whole")]
        at: Spot,
    },
    /// Remove the pins of a generation that is not attached.
    #[serde(rename = "unpin-top")]
    UnpinGeneration(GenerationUid),
    /// Remove the pins of an app, and its record with them; the kernel frees what nothing else holds.
    UnpinApp(AppUid),
    /// Write a row beside the pins: the record that is there is replaced at once.
    Record(Box<Row>),
    /// Remove the record of a link.
    Unrecord(LinkUid),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PinApp(app) => write!(f, "pin app {app}"),
            Self::BuildGeneration { generation, chain, content } => {
                write!(f, "build generation {generation} for {chain}:")?;
                let ours = |f: &mut fmt::Formatter<'_>, member: &Member| {
                    let Member { link: _, app: _, function, priority: _, effective, proceed_on } = member;
                    write!(f, " {function} {effective} {{{proceed_on}}}")
                };
                match content {
                    ChainContent::Fused { members, .. } => members.iter().try_for_each(|member| ours(f, member)),
                    ChainContent::Dispatcher { version, slots } => {
                        write!(f, " dispatcher v{version}")?;
                        slots.iter().try_for_each(|slot| match slot {
                            Slot::Ours(slot) => slot.members().try_for_each(|member| ours(f, member)),
                            Slot::Foreign(ForeignSlot { program, name, priority, .. }) => {
                                write!(f, " {name} {priority} (program {program}, kept)")
                            }
                        })
                    }
                }
            }
            Self::LoadCopy { slot, recipes: _ } => {
                write!(f, "load copy {}:", slot.uid)?;
                slot.members().try_for_each(|member| write!(f, " {}", member.function))
            }
            Self::UnpinCopy(slot) => write!(f, "unpin copy {slot}"),
            Self::Adopt { chain, live } => {
                write!(f, "adopt program {} of {chain} as generation {}", live.program, live.generation)
            }
            Self::DropGeneration(generation) => write!(f, "drop generation {generation}"),
            Self::PinGeneration(generation) => write!(f, "pin generation {generation}"),
            Self::AttachLink { link, function, hook, app: _ } => {
                write!(f, "attach link {link}: {function} to {hook}")
            }
            Self::DetachLink(link) => write!(f, "detach link {link}"),
            Self::Swap { chain, from, to, mode, at } => {
                let name = |generation: Option<GenerationUid>| {
                    generation.map_or_else(|| "nothing".to_owned(), |generation| generation.to_string())
                };
                let mode = if chain.id.point == Point::Xdp { format!(" ({mode})") } else { String::new() };
                write!(f, "swap {chain}{mode}: {} -> {}{at}", name(from.map(|live| live.generation)), name(*to))
            }
            Self::UnpinGeneration(generation) => write!(f, "unpin generation {generation}"),
            Self::UnpinApp(app) => write!(f, "unpin app {app}"),
            Self::Record(row) => write!(f, "record {row}"),
            Self::Unrecord(link) => write!(f, "remove the record of link {link}"),
        }
    }
}

impl Step {
    /// A short name for fail points, audit and logs.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::PinApp(_) => "pin-app",
            Self::LoadCopy { .. } => "load-ext",
            Self::UnpinCopy(_) => "unpin-ext",
            Self::Adopt { .. } => "adopt",
            Self::BuildGeneration { .. } => "build-top",
            Self::DropGeneration(_) => "drop-top",
            Self::PinGeneration(_) => "pin-top",
            Self::AttachLink { .. } => "attach-link",
            Self::DetachLink(_) => "detach-link",
            Self::Swap { .. } => "swap",
            Self::UnpinGeneration(_) => "unpin-top",
            Self::UnpinApp(_) => "unpin-app",
            Self::Record(_) => "record",
            Self::Unrecord(_) => "unrecord",
        }
    }
}

/// What the verifier must see before a plan can be carried out: made by any thread, held by descriptors and pinned nowhere.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Need {
    /// The copy that a `LoadCopy` pins, whatever its slot is called.
    Copy {
        /// In order.
        members: Vec<Member>,
        /// Every app that a member is of.
        recipes: BTreeMap<AppUid, Recipe>,
    },
    /// The program of a generation that is not a dispatcher, which a `BuildGeneration` takes.
    Generation {
        /// Its name, which is in it.
        generation: GenerationUid,
        /// The chain that it is for.
        chain: ChainId,
        /// In order.
        members: Vec<Member>,
        /// Every app that a member is of.
        recipes: BTreeMap<AppUid, Recipe>,
        /// How much of one program they may take.
        room: Room,
    },
    /// An app whose pins are gone.
    App {
        /// Which.
        app: AppUid,
        /// What it is made of.
        recipe: Recipe,
    },
}

impl Need {
    /// Whether what was made for this one serves `other`: a generation may have either's name.
    pub fn serves(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Generation { generation: _, chain, members, recipes, room },
                Self::Generation {
                    generation: _,
                    chain: its_chain,
                    members: its_members,
                    recipes: its_recipes,
                    room: its_room,
                },
            ) => (chain, members, recipes, room) == (its_chain, its_members, its_recipes, its_room),
            (Self::Copy { .. } | Self::Generation { .. } | Self::App { .. }, _) => self == other,
        }
    }
}

/// A pinned app.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct PinnedApp {
    /// Programs by function.
    pub programs: BTreeMap<String, KernelId>,
    /// How many instructions the verifier went through, by function; none where the kernel does not say (before Linux 5.16).
    pub verified: BTreeMap<String, u32>,
    /// Maps by name.
    pub maps: BTreeMap<String, KernelId>,
}

/// A pinned generation of some chain, with what its frozen map says of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PinnedGeneration {
    /// Its program.
    pub program: KernelId,
    /// Its members in order; `None` if the frozen map does not parse.
    pub members: Option<Vec<Member>>,
    /// Whether the interface that it was made for runs it.
    pub runs: Runs,
    /// That interface was moved to another namespace since: what its frozen map says of it is no longer so.
    #[serde(default)]
    pub is_moved: bool,
    /// A kernel link of ours holds it where it runs: it can be taken off wherever that is.
    #[serde(default)]
    pub is_linked: bool,
}

/// Why nobody can tell what a chain runs.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unseen {
    /// No name leads to its network namespace, and filters cannot be looked at without one.
    Nameless,
    /// This name may lead to its network namespace, and cannot be looked at.
    Unreadable(NetnsName),
}

/// Whether a generation runs.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runs {
    /// It does.
    Yes,
    /// Not where it was made for, as far as that can be known.
    No,
    /// That could not be seen, so nothing may be removed.
    Unseen,
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
    /// libxdp's protocol: shared with its users.
    Libxdp,
    /// A tcx chain: the kernel keeps the order of all who use it.
    Tcx,
    /// A filter of a clsact qdisc for each program, ordered by preference.
    Clsact {
        /// Why not tcx.
        cause: String,
    },
}

impl fmt::Display for ChainMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Libxdp => f.write_str("libxdp"),
            Self::Fused { .. } => f.write_str("fused"),
            Self::Tcx => f.write_str("tcx"),
            Self::Clsact { .. } => f.write_str("clsact"),
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
    Ours(LiveGeneration),
    /// A dispatcher of libxdp's protocol, ours or a peer's.
    Dispatcher(LiveDispatcher),
    /// Something else.
    Foreign(ForeignProgram),
    /// A hook that runs several programs, those of others among them: its programs, in order.
    Sequence(Vec<SequenceEntry>),
}

/// One program of a hook that runs several.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SequenceEntry {
    /// The preference of its filter in a clsact qdisc; none in a tcx chain, which comes first.
    pub preference: Option<u16>,
    /// What it is.
    pub program: EntryProgram,
}

/// What a program of a sequence is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryProgram {
    /// A generation of ours.
    Ours(LiveGeneration),
    /// Somebody else's.
    Foreign(ForeignProgram),
}

impl SequenceEntry {
    /// The generation, if it is ours.
    pub fn ours(&self) -> Option<LiveGeneration> {
        match self.program {
            EntryProgram::Ours(live) => Some(live),
            EntryProgram::Foreign(_) => None,
        }
    }
}

impl Live {
    /// The generations of ours that run, and dispatchers, in order.
    pub fn generations(&self) -> Vec<LiveGeneration> {
        match self {
            Self::Ours(live) => vec![*live],
            Self::Dispatcher(live) => vec![live.generation],
            Self::Sequence(entries) => entries.iter().filter_map(SequenceEntry::ours).collect(),
            Self::Empty | Self::Foreign(_) => vec![],
        }
    }

    /// Whether this generation runs.
    pub fn runs(&self, generation: GenerationUid) -> bool {
        self.generations().iter().any(|live| live.generation == generation)
    }
}

/// One shared hook as it is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ObservedChain {
    /// The name of its interface now.
    pub name: ChainName,
    /// What runs there.
    pub live: Live,
    /// How the interface is driven, when something is attached: native or generic, never auto.
    pub driven: Option<XdpMode>,
    /// Which way the chain is kept.
    pub mode: ChainMode,
}

impl ObservedChain {
    /// Whether its interface is in a namespace that no name leads to: bpfd can look there, and change nothing but tcx chains.
    pub fn is_nameless(&self) -> bool {
        matches!(self.name.netns, Netns::Nameless(_))
    }

    /// Whether the kernel said in which order its programs run: what runs at a tc hook without a name is known by what holds it alone.
    pub fn is_order_known(&self) -> bool {
        !(self.is_nameless() && matches!(self.live, Live::Sequence(_)))
    }
}

/// The kernel's half, at one moment.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Observed {
    /// Whole app directories.
    pub apps: CowMap<AppUid, PinnedApp>,
    /// App directories that a crash left half-made.
    pub half_made: BTreeSet<AppUid>,
    /// Every pinned generation.
    pub generations: CowMap<GenerationUid, PinnedGeneration>,
    /// Generations that run and have no pins, by their records: their members, in order.
    pub unpinned: BTreeMap<GenerationUid, Vec<Member>>,
    /// Pinned links of own hooks.
    pub links: BTreeSet<LinkUid>,
    /// Links that a crash left half-pinned.
    pub half_links: BTreeSet<LinkUid>,
    /// Our copies of links' programs for dispatchers.
    pub copies: CowMap<SlotUid, PinnedCopy>,
    /// The rows that are recorded beside the pins.
    pub recorded: State,
    /// Links with a record that cannot be read.
    pub unread_records: BTreeSet<LinkUid>,
    /// The cookies of the namespaces that names lead to; none where a name leads to no namespace.
    pub namespaces: BTreeMap<Netns, Option<u64>>,
    /// What names of interfaces lead to, each looked up once.
    pub interfaces: BTreeMap<ChainName, Option<InterfaceId>>,
    /// The chains that were looked at. Those in namespaces without a name have the identities that they had before.
    pub chains: CowMap<ChainId, ObservedChain>,
    /// The chains that were looked for and whose interfaces are gone. One that is in neither could not be looked at.
    pub missing: BTreeSet<ChainId>,
    /// The chains that were looked for and could not be looked at: why.
    pub unseen: BTreeMap<ChainId, Unseen>,
    /// Interfaces that were moved to another namespace with a name: what they were, and what they are.
    pub moved: BTreeMap<InterfaceId, InterfaceId>,
    /// The version of dispatchers on interfaces that have none yet.
    pub new_dispatcher: DispatcherVersion,
    /// The versions that dispatchers are to have, whatever they have now.
    pub versions: BTreeMap<ChainId, DispatcherVersion>,
    /// Links whose program did not go into what runs their chain when that was last built without a request, and why: the others run
    /// without them. Nobody can look that up: who tried it remembers it.
    pub barred: BTreeMap<LinkUid, String>,
    /// What stays although no row explains it, because the state was lost. Remembered by whoever recovered it.
    pub spared: Spared,
}

impl Observed {
    /// A member of a chain that is spared: the chain stays as it is.
    pub fn spared_member(&self, chain: &ChainId) -> Option<Member> {
        self.members(chain).into_iter().find(|member| self.spared.links.contains(&member.link))
    }

    /// The namespace in a name of a chain, if it was looked for and no namespace has this name.
    pub fn absent_netns<'a>(&self, name: &'a ChainName) -> Option<&'a NetnsName> {
        match &name.netns {
            Netns::Named(netns) if self.namespaces.get(&name.netns) == Some(&None) => Some(netns),
            Netns::Named(_) | Netns::Host | Netns::Nameless(_) => None,
        }
    }

    /// What a chain is now, if its interface was moved.
    pub fn now(&self, chain: ChainId) -> ChainId {
        ChainId { interface: self.moved.get(&chain.interface).copied().unwrap_or(chain.interface), ..chain }
    }

    /// Whether a generation was made for what its interface was before it was moved: another one takes its place.
    pub fn is_moved(&self, generation: GenerationUid) -> bool {
        self.generations.get(&generation).is_some_and(|pinned| pinned.is_moved)
    }

    /// Whether a generation can be taken off although nobody can go where it runs.
    pub fn is_linked(&self, generation: GenerationUid) -> bool {
        self.generations.get(&generation).is_some_and(|pinned| pinned.is_linked)
    }

    /// The version of the dispatcher that a chain runs.
    pub fn dispatcher_version(&self, chain: &ChainId) -> Option<u8> {
        match self.chains.get(chain).map(|seen| &seen.live) {
            Some(Live::Dispatcher(live)) => Some(live.version),
            Some(Live::Empty | Live::Ours(_) | Live::Foreign(_) | Live::Sequence(_)) | None => None,
        }
    }

    /// Whether some chain is in a namespace that no name leads to, or may be.
    pub fn is_anything_nameless(&self) -> bool {
        self.chains.values().any(ObservedChain::is_nameless) || !self.unseen.is_empty()
    }

    /// The same, and the number of the namespace is not known.
    pub fn is_any_number_unknown(&self) -> bool {
        let unknown = |chain: &ObservedChain| chain.name.netns == Netns::Nameless(Nameless(None));
        self.chains.values().any(unknown) || !self.unseen.is_empty()
    }

    /// The chain that a name leads to.
    pub fn chain_of(&self, name: &ChainName) -> Option<ChainId> {
        let interface = self.interfaces.get(name).copied().flatten()?;
        Some(ChainId { interface, point: name.point })
    }

    /// The chain that runs a link.
    pub fn chain_running(&self, link: LinkUid) -> Option<ChainId> {
        let runs = |(_, seen): &(&ChainId, &ObservedChain)| match &seen.live {
            Live::Dispatcher(live) => Slot::members(&live.slots).any(|member| member.link == link),
            live => live.generations().iter().any(|live| self.of_generation(live.generation).any(|it| it.link == link)),
        };
        self.chains.iter().find(runs).map(|(chain, _)| *chain)
    }

    /// How the interface of a chain is called now, by somebody who asked for it by a name: in the same namespace, if that leads there.
    /// If that was not looked at, the namespace is the one of `before`.
    pub fn called(&self, chain: ChainId, asked: &ChainName, before: Option<&ChainName>) -> Option<ChainName> {
        let seen = self.chains.get(&chain)?;
        let name = &seen.name;
        let netns = match self.namespaces.get(&asked.netns) {
            _ if seen.is_nameless() => &name.netns,
            Some(Some(cookie)) if *cookie == chain.interface.netns_cookie => &asked.netns,
            Some(_) => &name.netns,
            None => before.map_or(&name.netns, |before| &before.netns),
        };
        Some(ChainName { netns: netns.clone(), ..name.clone() })
    }

    /// This observation, with what an earlier one says of what this one did not look at.
    #[must_use]
    pub fn over(mut self, earlier: &Self) -> Self {
        let looked_at = |observed: &Self, chain: &ChainId| {
            let moved = observed.moved.contains_key(&chain.interface);
            let found = observed.chains.contains_key(chain) || observed.missing.contains(chain);
            moved || found || observed.unseen.contains_key(chain)
        };
        let mut chains = self.chains.clone();
        chains.fill_from(&earlier.chains, |chain| !looked_at(&self, chain));
        let missing: Vec<_> = earlier.missing.iter().filter(|chain| !looked_at(&self, chain)).collect();
        let unlooked: Vec<_> = earlier.unseen.iter().filter(|(chain, _)| !looked_at(&self, chain)).collect();
        for (chain, why) in unlooked {
            self.unseen.entry(*chain).or_insert_with(|| why.clone());
        }
        self.chains = chains;
        self.missing.extend(missing);
        for (generation, members) in &earlier.unpinned {
            self.unpinned.entry(*generation).or_insert_with(|| members.clone());
        }
        for (netns, cookie) in &earlier.namespaces {
            self.namespaces.entry(netns.clone()).or_insert(*cookie);
        }
        for (name, interface) in &earlier.interfaces {
            self.interfaces.entry(name.clone()).or_insert(*interface);
        }
        self
    }

    /// The links whose program some chain runs.
    pub fn running(&self) -> BTreeSet<LinkUid> {
        self.chains.keys().flat_map(|chain| self.members(chain)).map(|member| member.link).collect()
    }

    /// The copy of a slot that runs these links, and no other, in this order.
    pub fn copy_of(&self, links: &[LinkUid]) -> Option<(SlotUid, &PinnedCopy)> {
        let found = self.copies.iter().find(|(_, copy)| copy.slot.links().eq(links.iter().copied()));
        found.map(|(slot, copy)| (*slot, copy))
    }

    /// The links that a copy is of.
    pub fn copied(&self) -> impl Iterator<Item = LinkUid> {
        self.copies.values().flat_map(|copy| copy.slot.links())
    }

    /// The members of ours that a chain runs, in order.
    pub fn members(&self, chain: &ChainId) -> Vec<Member> {
        match self.chains.get(chain).map(|chain| &chain.live) {
            Some(Live::Dispatcher(live)) => Slot::members(&live.slots).cloned().collect(),
            Some(live) => live.generations().iter().flat_map(|live| self.members_of(live.generation)).collect(),
            None => Vec::new(),
        }
    }

    /// The members of a generation, in order, as far as its record tells.
    pub fn members_of(&self, generation: GenerationUid) -> Vec<Member> {
        self.of_generation(generation).cloned().collect()
    }

    fn of_generation(&self, generation: GenerationUid) -> impl Iterator<Item = &Member> {
        let pinned = self.generations.get(&generation).and_then(|generation| generation.members.as_ref());
        pinned.or_else(|| self.unpinned.get(&generation)).into_iter().flatten()
    }
}

/// Of a program that the verifier accepted when its app was loaded.
pub const IN_CHAIN: &str = " in this chain, though it accepts it alone";

/// Why a step did not happen. After an error the kernel is as before the step.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StepError {
    /// The verifier refused.
    #[error("the kernel's verifier rejected `{program}`{}: {rejection}", .link.map_or("", |_| IN_CHAIN))]
    Verifier {
        /// The function.
        program: String,
        /// The member of a chain that it is: the verifier has accepted it alone.
        link: Option<LinkUid>,
        /// Its whole log.
        log: String,
        /// What the log says.
        rejection: Box<Rejection>,
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
        /// Which it is, if one is to blame.
        link: Option<LinkUid>,
        /// What it does.
        why: String,
    },
    /// New links would take what is kept for others.
    #[error(transparent)]
    Kept(Kept),
    /// The interface is gone.
    #[error("no interface for `{0}`")]
    NoInterface(ChainName),
    /// This kernel has no such target.
    #[error("this kernel has no {} `{}`", .0.noun(), .0.target())]
    NoTarget(OwnHook),
    /// This kernel has the target, but no program can be attached to it.
    #[error("this kernel lets no program attach to {} `{}`", .0.noun(), .0.target())]
    TargetRefused(OwnHook),
    /// This kernel is too old, or was built without what it takes.
    #[error("{what} needs {needs}")]
    KernelLacks {
        /// What was to be done.
        what: String,
        /// A release, `Linux 5.15`, or a setting of the kernel's build.
        needs: String,
    },
    /// The hook does not take the programs, in the words of its kind.
    #[error("{why}")]
    Hook {
        /// What is in the way.
        why: String,
        /// What to do about it.
        hint: String,
    },
    /// Somebody else changed the hook first.
    #[error("another process changed `{0}` at the same time")]
    Raced(ChainName),
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

impl StepError {
    /// The link whose program cannot be what the step makes of it, if it is one.
    pub fn blamed(&self) -> Option<LinkUid> {
        match self {
            Self::Verifier { link, .. } | Self::CannotFuse { link, .. } => *link,
            Self::Object { .. }
            | Self::Kept(_)
            | Self::NoInterface(_)
            | Self::NoTarget(_)
            | Self::TargetRefused(_)
            | Self::KernelLacks { .. }
            | Self::Hook { .. }
            | Self::Raced(_)
            | Self::Call { .. }
            | Self::Died => None,
        }
    }

    /// The same, about the program of this link.
    #[must_use]
    pub fn of_link(self, link: LinkUid) -> Self {
        match self {
            Self::Verifier { program, link: _, log, rejection } => {
                Self::Verifier { program, link: Some(link), log, rejection }
            }
            other => other,
        }
    }

    /// The same, with what the failed call was part of: a kind's own file knows the call, its caller the link.
    #[must_use]
    pub fn while_doing(self, whole: impl FnOnce() -> String) -> Self {
        match self {
            Self::Call { doing, errno } => Self::Call { doing: whole(), errno: format!("cannot {doing}: {errno}") },
            other => other,
        }
    }
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

/// What an observation looks for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Targets {
    /// What these names lead to.
    pub names: BTreeSet<ChainName>,
    /// These chains, whatever their interfaces are called now.
    pub chains: BTreeSet<ChainId>,
}

impl Targets {
    /// What links ask for, and the chains that they are in.
    pub fn of<'a>(links: impl IntoIterator<Item = &'a Link>) -> Self {
        let mut targets = Self::default();
        for link in links {
            targets.names.extend(link.placement.asked().cloned());
            targets.chains.extend(link.chain());
        }
        targets
    }

    /// One name.
    pub fn name(name: ChainName) -> Self {
        Self { names: [name].into(), chains: BTreeSet::new() }
    }

    /// Both.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.names.extend(other.names);
        self.chains.extend(other.chains);
        self
    }

    /// Whether others look for all of this.
    pub fn is_within(&self, others: &Self) -> bool {
        self.names.is_subset(&others.names) && self.chains.is_subset(&others.chains)
    }

    /// Whether nothing is looked for.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.chains.is_empty()
    }
}

/// What is read anew by an observation. One scoped to some chains costs the same on a host with 1 and with 256 interfaces.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Scope {
    /// Every pin, and these chains.
    Everything(Targets),
    /// These chains alone. Of what is pinned, this process knows what it pinned and removed since it last read everything.
    Chains(Targets),
}

impl Scope {
    /// The chains that are looked at.
    pub fn targets(&self) -> &Targets {
        match self {
            Self::Everything(targets) | Self::Chains(targets) => targets,
        }
    }
}

/// The kernel. Only the engine's thread calls it.
pub trait Kernel {
    /// An app's maps and programs as file descriptors, made and verified, named by nothing yet: when the last clone is dropped, they
    /// are gone.
    type Staged: Clone + Send;

    /// What a need was made into, held in the same way.
    type Made: Clone + Send;

    /// Makes it, on any thread. Takes as long as the verifier does.
    type Maker: FnOnce() -> Result<Self::Made, StepError> + Send;

    /// An interface was moved to the network namespace that has this number in the one that it left, where it has this index: what it
    /// runs does not always tell. Heard before the look because of it.
    fn heard_of_move(&mut self, _interface: InterfaceId, _namespace: u32, _index: u32) {}

    /// The network namespace ended that had this number in the daemon's own; `None` if some may have of which nothing was heard.
    fn heard_of_end(&mut self, _number: Option<u32>) {}

    /// What bpfd has pinned, and the chains of the scope.
    fn observe(&mut self, scope: &Scope) -> Result<Observed, ObserveError>;

    /// Takes what was prepared on another thread; `PinApp` consumes it, `discard` drops it.
    fn stage(&mut self, app: AppUid, staged: Self::Staged);

    /// Lets go of what was staged and not pinned.
    fn discard(&mut self, app: AppUid);

    /// Makes an app again, unless it was provided, and stages it: its pins are gone, as after a boot. Gives its programs as they are now.
    fn prepare(&mut self, app: AppUid, recipe: &Recipe) -> Result<Vec<ProgramFacts>, StepError>;

    /// What makes a need, of what is staged and pinned now.
    fn maker(&mut self, need: &Need) -> Self::Maker;

    /// Takes what was made for a need of the operation that begins: its step does not make it again, and fails if making it did. The
    /// next observation forgets it.
    fn provide(&mut self, need: &Need, made: Result<Self::Made, StepError>);

    /// Takes one step, and makes what it needs if that was not provided; gives the kernel's id of what a `BuildGeneration` made.
    fn step(&mut self, step: &Step) -> Result<Option<KernelId>, StepError>;

    /// The stamp beside the pins; `None` if there is none.
    fn stamp(&mut self) -> Result<Option<Stamp>, ObserveError>;

    /// Writes the stamp beside the pins.
    fn set_stamp(&mut self, stamp: Stamp) -> Result<(), StepError>;
}
