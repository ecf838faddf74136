//! The planner: from what is wanted and what the kernel has to the steps between. Pure and idempotent: planned again after its
//! steps, it plans nothing. Requests, start-up repair and `doctor` use this one.
//!
//! Order of a plan: pin what is new, build and pin new generations, attach links of own hooks, swap the chains;
//! up to here each step can be undone and a failure leaves the host as it was. From `committed` on links of
//! own hooks go, and pins that nothing uses. It must never remove what it could not observe.
//!
//! Long because the planner of both chain modes is one decision.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hook::{ChainKey, Placement, XdpMode};
use crate::ident::{AppUid, KernelId, LinkUid, TopUid, Uids};
use crate::kernel::{
    ChainMode, ForeignProgram, Live, LiveDispatcher, LiveTop, Member, Observed, ObservedChain, SLOTS, Slot, Step,
    TopContent,
};
use crate::names::NetnsName;
use crate::order;
use crate::state::{Change, ChangeError, Link, State, WhenAbsent};

/// What to do, in order.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Plan {
    /// Every step.
    pub steps: Vec<Step>,
    /// How many of them come before the commit point and can be undone.
    pub committed: usize,
}

impl Plan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// What takes the kernel back to where it was before `step`, given the kernel's ids of what was built; `None` for a step
    /// that comes after the commit point.
    pub fn undo(step: &Step, built: &BTreeMap<TopUid, KernelId>) -> Option<Step> {
        match step {
            Step::PinApp(app) => Some(Step::UnpinApp(*app)),
            Step::BuildTop { top, .. } => Some(Step::DropTop(*top)),
            Step::PinTop(top) => Some(Step::UnpinTop(*top)),
            Step::AttachLink { link, .. } => Some(Step::DetachLink(*link)),
            Step::Swap { chain, from, to, mode } => {
                let live = to.and_then(|top| built.get(&top).map(|program| LiveTop { program: *program, top }));
                Some(Step::Swap { chain: chain.clone(), from: live, to: from.map(|live| live.top), mode: *mode })
            }
            Step::LoadExt { member, .. } => Some(Step::UnpinExt(member.link)),
            Step::Adopt { .. }
            | Step::DropTop(_)
            | Step::DetachLink(_)
            | Step::UnpinTop(_)
            | Step::UnpinExt(_)
            | Step::UnpinApp(_) => None,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().enumerate().try_for_each(|(index, step)| {
            if index == self.committed {
                writeln!(f, "-- committed")?;
            }
            writeln!(f, "{step}")
        })
    }
}

/// How a link stands, by the kernel's word.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LinkStatus {
    /// It runs where it should.
    Attached,
    /// Its interface, or the namespace of it, is absent.
    Waiting,
    /// The kernel has something else than what was asked for.
    Drifted {
        /// What it has.
        cause: String,
    },
}

/// Why a change cannot be planned. Nothing was done.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// It does not fit the state.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The interface is absent.
    #[error("no interface `{}` in network namespace `{}`", .0.interface, .0.netns)]
    NoInterface(ChainKey),
    /// One interface, asked for in two ways: two names of one network namespace.
    #[error("`{chain}` and `{other}` are one interface")]
    OneInterface {
        /// As it was asked for now.
        chain: ChainKey,
        /// The chain that it has.
        other: ChainKey,
    },
    /// The interface's network namespace is absent.
    #[error("no network namespace `{0}`")]
    NoNetns(NetnsName),
    /// The hook belongs to somebody else.
    #[error("`{}` runs XDP program {} (`{}`), which is not bpfd's", chain.interface, holder.program, holder.name)]
    Foreign {
        /// The hook.
        chain: ChainKey,
        /// What is there.
        holder: ForeignProgram,
        /// How it is driven; `None` by the device itself.
        driven: Option<XdpMode>,
    },
    /// Another mode than the one that the chain is driven in.
    #[error("`{chain}` is driven in {driven} mode: it cannot be {asked} at the same time")]
    Mode {
        /// The hook.
        chain: ChainKey,
        /// As it is.
        driven: XdpMode,
        /// As asked for.
        asked: XdpMode,
    },
    /// More programs than a dispatcher has slots, those of others counted.
    #[error("`{}` would have {programs} XDP programs, and a dispatcher has {SLOTS} slots", chain.interface)]
    ChainFull {
        /// The hook.
        chain: ChainKey,
        /// How many there would be.
        programs: usize,
    },
    /// Links of one chain ask for different modes.
    #[error("links of `{0}` ask for native and generic mode at once")]
    MixedModes(ChainKey),
}

/// Changes, planned.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Planned {
    /// The state that they lead to.
    pub after: State,
    /// The chains that they are about: what others have is left as it is.
    pub touched: BTreeSet<ChainKey>,
    /// How.
    pub plan: Plan,
}

/// The steps that make `changes` so. Every chain that a change touches must be in `observed`.
pub fn plan(state: &State, observed: &Observed, changes: &[Change], uids: &mut dyn Uids) -> Result<Planned, PlanError> {
    let after = state.after(changes)?;
    let touched = touched(state, changes);
    touched.iter().try_for_each(|chain| refuse(&after, observed, chain, changes))?;
    // What cannot be had elsewhere on the host is no reason against this, and what drifted there is left alone.
    let chains = observed.chains.iter().filter(|(chain, _)| touched.contains(chain));
    let near = Observed { chains: chains.map(|(key, seen)| (key.clone(), seen.clone())).collect(), ..observed.clone() };
    let plan = converge_chains(&after, &near, changes, uids);
    Ok(Planned { after, touched, plan })
}

/// `converge` for the observed chains, and for what `changes` name: no other app is pinned and no other link attached. Members that
/// cannot run, since their app is loaded no longer, are left out, as a start leaves them out.
pub fn converge_chains(target: &State, observed: &Observed, changes: &[Change], uids: &mut dyn Uids) -> Plan {
    let loads = |app: &AppUid| changes.iter().any(|change| matches!(change, Change::Load(new) if new.uid == *app));
    let attaches =
        |link: &LinkUid| changes.iter().any(|change| matches!(change, Change::Attach(new) if new.uid == *link));
    let runs = |link: &Link| {
        let app = observed.apps.contains_key(&link.app) || loads(&link.app);
        app || observed.exts.contains_key(&link.uid) || link.placement.chain().is_none()
    };
    let runnable = target.without_links(|link| !runs(link));
    let Plan { mut steps, committed } = converge(&runnable, observed, uids);
    let cleaning = steps.split_off(committed);
    steps.retain(|step| match step {
        Step::PinApp(app) => loads(app),
        Step::AttachLink { link, .. } => attaches(link),
        _ => true,
    });
    let committed = steps.len();
    steps.extend(cleaning);
    Plan { steps, committed }
}

/// The steps from what the kernel has to what `target` wants. A chain that cannot be had (absent, held by another) is left
/// alone, and a link that is barred is left out: `status` says so.
pub fn converge(target: &State, observed: &Observed, uids: &mut dyn Uids) -> Plan {
    let target = &target.without_links(|link| observed.barred.contains_key(&link.uid));
    let mut before = Vec::new();
    let mut swaps = Vec::new();
    let mut after = Vec::new();

    before.extend(target.apps.keys().filter(|app| !observed.apps.contains_key(app)).map(|app| Step::PinApp(*app)));

    let mut wanted_tops = BTreeSet::new();
    for (chain, seen) in &observed.chains {
        match chain_steps(target, observed, chain, seen, uids) {
            ChainPlan::Keep(top) => wanted_tops.extend(top),
            ChainPlan::Adopt(live) => {
                wanted_tops.insert(live.top);
                after.push(Step::Adopt { chain: chain.clone(), live });
            }
            ChainPlan::Replace { build, swap } => {
                // A peer's dispatcher is adopted before it is replaced, and its pins go with it.
                after.extend(build.iter().filter_map(|step| match step {
                    Step::Adopt { live, .. } => Some(Step::UnpinTop(live.top)),
                    _ => None,
                }));
                before.extend(build);
                swaps.push(swap);
            }
        }
    }

    let absent = |link: &&Link| !observed.links.contains(&link.uid);
    before.extend(target.links.values().filter(absent).filter_map(attach_step));
    before.extend(swaps);

    // What a crash left half-made of a wanted link is cleared by its `AttachLink`.
    let unwanted = observed.links.union(&observed.half_links).filter(|link| !target.links.contains_key(link));
    after.extend(unwanted.map(|link| Step::DetachLink(*link)));
    after.extend(dead_tops(observed, &wanted_tops).map(Step::UnpinTop));
    after.extend(
        observed.exts.keys().filter(|link| !keeps_ext(target, observed, link)).map(|link| Step::UnpinExt(*link)),
    );
    // A half-made directory of a wanted app is cleared by its `PinApp`.
    let pinned = observed.apps.keys().chain(&observed.half_made);
    after.extend(pinned.filter(|app| !target.apps.contains_key(app)).map(|app| Step::UnpinApp(*app)));

    let committed = before.len();
    before.extend(after);
    Plan { steps: before, committed }
}

/// References to take to dispatchers that a peer built around programs of ours: nothing that runs is changed by it.
pub fn adoptions(observed: &Observed) -> Plan {
    let steps = observed.chains.iter().filter_map(|(chain, seen)| match &seen.live {
        Live::Dispatcher(LiveDispatcher { top, slots, .. }) => {
            let carries_ours = slots.iter().any(|slot| slot.ours().is_some());
            let new = carries_ours && !observed.tops.contains_key(&top.top);
            new.then(|| Step::Adopt { chain: chain.clone(), live: *top })
        }
        Live::Empty | Live::Ours(_) | Live::Foreign(_) => None,
    });
    Plan { steps: steps.collect(), committed: 0 }
}

/// How each link of `state` stands in what was observed; links of chains that were not observed are absent.
pub fn status(state: &State, observed: &Observed) -> BTreeMap<LinkUid, LinkStatus> {
    let chains: BTreeSet<ChainKey> = observed.chains.keys().cloned().collect();
    let mut statuses = status_of(state, observed, &chains);
    statuses.extend(own_status(state, observed));
    statuses
}

/// The same for the links of own hooks.
pub fn own_status<'a>(
    state: &'a State,
    observed: &'a Observed,
) -> impl Iterator<Item = (LinkUid, LinkStatus)> + use<'a> {
    let own = state.links.values().filter(|link| matches!(link.placement, Placement::Own(_)));
    own.map(|link| match observed.links.contains(&link.uid) {
        true => (link.uid, LinkStatus::Attached),
        false => (link.uid, LinkStatus::Drifted { cause: "its kernel link is gone".to_owned() }),
    })
}

/// The same for the links of these chains alone.
pub fn status_of(state: &State, observed: &Observed, chains: &BTreeSet<ChainKey>) -> BTreeMap<LinkUid, LinkStatus> {
    let mut statuses = BTreeMap::new();
    for (chain, seen) in observed.chains.iter().filter(|(chain, _)| chains.contains(chain)) {
        let wanted = order::wanted(state, observed, chain);
        let runs = observed.members(chain);
        let in_order = runs.iter().eq(wanted.iter().filter(|member| runs.contains(member)));
        let drifted = |member: &Member, cause: &str| {
            let cause = observed.barred.get(&member.link).map_or(cause, String::as_str).to_owned();
            LinkStatus::Drifted { cause }
        };
        let stands = |member: &Member| match &seen.live {
            _ if seen.interface.is_none() => LinkStatus::Waiting,
            Live::Ours(_) | Live::Dispatcher(_) if !in_order => {
                drifted(member, "the chain's members or their order differ")
            }
            Live::Ours(_) | Live::Dispatcher(_) if runs.contains(member) => LinkStatus::Attached,
            Live::Ours(_) | Live::Dispatcher(_) => drifted(member, "the chain runs without it"),
            Live::Empty => drifted(member, "the interface runs no XDP program"),
            Live::Foreign(ForeignProgram { program, name, .. }) => {
                LinkStatus::Drifted { cause: format!("the interface runs XDP program {program} (`{name}`)") }
            }
        };
        statuses.extend(wanted.iter().map(|member| (member.link, stands(member))));
    }
    statuses
}

/// Whether the kernel already has what `target` wants, left-over pins aside: what recovery asks to know if a broken-off
/// operation got past its commit point.
pub fn reached(target: &State, observed: &Observed) -> bool {
    let mut none = || uuid::Uuid::nil();
    converge(target, observed, &mut none).committed == 0
}

/// The chains that changes are about: what must be observed before they are planned.
pub fn touched(state: &State, changes: &[Change]) -> BTreeSet<ChainKey> {
    let of = |link: &LinkUid| state.links.get(link).and_then(|link| link.placement.chain().cloned());
    let chains = changes.iter().flat_map(|change| match change {
        Change::Load(_) => vec![],
        Change::Attach(link) => link.placement.chain().cloned().into_iter().collect(),
        Change::Update { link, .. } | Change::Detach(link) => of(link).into_iter().collect(),
        Change::Unload(app) => state.links_of(*app).filter_map(|link| link.placement.chain().cloned()).collect(),
    });
    chains.collect()
}

/// Another chain with links on the interface of this one.
fn same_interface(target: &State, observed: &Observed, chain: &ChainKey) -> Option<ChainKey> {
    let interface = observed.chains.get(chain)?.interface?;
    let mut others = observed.chains.iter().filter(|(key, seen)| *key != chain && seen.interface == Some(interface));
    others.find(|(key, _)| !order::ordered(target, key).is_empty()).map(|(key, _)| key.clone())
}

fn absent(observed: &Observed, chain: &ChainKey) -> PlanError {
    match observed.absent_netns(chain) {
        Some(netns) => PlanError::NoNetns(netns.clone()),
        None => PlanError::NoInterface(chain.clone()),
    }
}

/// Whether a chain cannot be had for a request that adds to it. Requests that only remove are never refused: they end bpfd's
/// interest in the hook, whatever it runs.
fn refuse(target: &State, observed: &Observed, chain: &ChainKey, changes: &[Change]) -> Result<(), PlanError> {
    if changes.iter().all(Change::removes) {
        return Ok(());
    }
    let seen = observed.chains.get(chain);
    let waits = |link: &Link| match link.when_absent {
        WhenAbsent::Wait => true,
        WhenAbsent::Fail => false,
    };
    let asked = changes.iter().filter_map(|change| match change {
        Change::Attach(link) if link.placement.chain() == Some(chain) => Some(link),
        _ => None,
    });
    if let Some(other) = same_interface(target, observed, chain) {
        return Err(PlanError::OneInterface { chain: chain.clone(), other });
    }
    match seen {
        None => Err(absent(observed, chain)),
        Some(ObservedChain { interface: None, .. }) => match asked.into_iter().all(waits) {
            true => Ok(()),
            false => Err(absent(observed, chain)),
        },
        Some(ObservedChain { live: Live::Foreign(holder), driven, .. }) => {
            Err(PlanError::Foreign { chain: chain.clone(), holder: holder.clone(), driven: *driven })
        }
        Some(ObservedChain { mode: ChainMode::Libxdp, .. }) if order::slots(target, observed, chain).len() > SLOTS => {
            let programs = order::slots(target, observed, chain).len();
            Err(PlanError::ChainFull { chain: chain.clone(), programs })
        }
        Some(ObservedChain { mode: ChainMode::Fused { .. }, live: Live::Dispatcher(live), driven, .. })
            if live.is_shared() =>
        {
            let LiveTop { program, top: _ } = live.top;
            let holder = ForeignProgram { program, name: DISPATCHER.to_owned(), link: None, holders: vec![] };
            Err(PlanError::Foreign { chain: chain.clone(), holder, driven: *driven })
        }
        Some(ObservedChain { driven, .. }) => {
            let modes = modes(target, observed, chain);
            match (modes.iter().find(|mode| **mode != XdpMode::Auto), driven) {
                _ if modes.contains(&XdpMode::Native) && modes.contains(&XdpMode::Generic) => {
                    Err(PlanError::MixedModes(chain.clone()))
                }
                (Some(asked), Some(driven)) if asked != driven => {
                    Err(PlanError::Mode { chain: chain.clone(), driven: *driven, asked: *asked })
                }
                _ => Ok(()),
            }
        }
    }
}

/// The kernel's name of every dispatcher (`XDP_DISPATCHER` in libxdp).
const DISPATCHER: &str = "xdp_dispatcher";

/// The version that libxdp 1.3 to 1.5 write and later ones read: for an interface that has no dispatcher yet.
const NEW_DISPATCHER: u8 = 2;

/// The modes that a chain's links ask for; one that is left out does not drive it.
fn modes(state: &State, observed: &Observed, chain: &ChainKey) -> BTreeSet<XdpMode> {
    order::ordered(state, chain)
        .into_iter()
        .filter(|link| !observed.barred.contains_key(&link.uid))
        .filter_map(|link| link.placement.place().map(|place| place.mode))
        .collect()
}

enum ChainPlan {
    Keep(Option<TopUid>),
    /// As it is, but it needs references of our own.
    Adopt(LiveTop),
    Replace {
        build: Vec<Step>,
        swap: Step,
    },
}

fn chain_steps(
    target: &State,
    observed: &Observed,
    chain: &ChainKey,
    seen: &ObservedChain,
    uids: &mut dyn Uids,
) -> ChainPlan {
    let ObservedChain { interface, live, driven, mode: _ } = seen;
    if interface.is_none() {
        return ChainPlan::Keep(None);
    }
    let wanted = wanted(target, observed, chain, seen);
    let from = match live {
        Live::Foreign(_) => return ChainPlan::Keep(None),
        Live::Empty if wanted.is_empty() || wanted.slots() > SLOTS => return ChainPlan::Keep(None),
        Live::Empty => None,
        Live::Ours(top) if wanted == Wanted::Fused(observed.members(chain)) => return ChainPlan::Keep(Some(top.top)),
        Live::Ours(top) => Some(*top),
        Live::Dispatcher(live) => match keep(live, observed, &wanted) {
            Some(plan) => return plan,
            None => Some(live.top),
        },
    };
    let asked = modes(target, observed, chain).into_iter().find(|mode| *mode != XdpMode::Auto);
    let mode = driven.or(asked).unwrap_or_default();
    let mut build = Vec::new();
    if let Live::Dispatcher(LiveDispatcher { top, .. }) = live
        && !observed.tops.contains_key(&top.top)
    {
        build.push(Step::Adopt { chain: chain.clone(), live: *top });
    }
    if wanted.is_empty() {
        return ChainPlan::Replace { build, swap: Step::Swap { chain: chain.clone(), from, to: None, mode } };
    }
    let top = TopUid(uids.fresh());
    let content = match wanted {
        Wanted::Fused(members) => {
            let recipes = order::recipes(target, &members);
            TopContent::Fused { members, recipes }
        }
        Wanted::Dispatcher(slots) => {
            let version = match live {
                Live::Dispatcher(LiveDispatcher { version, .. }) => *version,
                Live::Empty | Live::Ours(_) | Live::Foreign(_) => NEW_DISPATCHER,
            };
            build.extend(missing_exts(target, observed, &slots));
            TopContent::Dispatcher { version, slots }
        }
    };
    build.extend([Step::BuildTop { top, chain: chain.clone(), content }, Step::PinTop(top)]);
    ChainPlan::Replace { build, swap: Step::Swap { chain: chain.clone(), from, to: Some(top), mode } }
}

/// What a chain should be made of.
#[derive(Eq, PartialEq)]
enum Wanted {
    Fused(Vec<Member>),
    Dispatcher(Vec<Slot>),
}

/// A chain in the form that its mode and what runs there allow. Where not all of ours can be had, in a dispatcher that is full or
/// that is shared although chains are to be fused, nothing is added, and what should go goes.
fn wanted(target: &State, observed: &Observed, chain: &ChainKey, seen: &ObservedChain) -> Wanted {
    let ObservedChain { live, mode, .. } = seen;
    let slots = order::slots(target, observed, chain);
    match (mode, live) {
        (ChainMode::Libxdp, Live::Ours(_)) if slots.len() > SLOTS => Wanted::Fused(order::members(target, chain)),
        (ChainMode::Libxdp, Live::Dispatcher(live)) if slots.len() > SLOTS => there(slots, live),
        (ChainMode::Libxdp, _) => Wanted::Dispatcher(slots),
        (ChainMode::Fused { .. }, Live::Dispatcher(live)) if live.is_shared() => there(slots, live),
        (ChainMode::Fused { .. }, _) => Wanted::Fused(order::members(target, chain)),
    }
}

/// The slots that are in a dispatcher already.
fn there(slots: Vec<Slot>, live: &LiveDispatcher) -> Wanted {
    let links: BTreeSet<LinkUid> = live.slots.iter().filter_map(Slot::ours).map(|member| member.link).collect();
    let there = |slot: &Slot| slot.ours().is_none_or(|member| links.contains(&member.link));
    Wanted::Dispatcher(slots.into_iter().filter(there).collect())
}

impl Wanted {
    fn is_empty(&self) -> bool {
        match self {
            Self::Fused(members) => members.is_empty(),
            Self::Dispatcher(slots) => slots.is_empty(),
        }
    }

    /// How many slots it needs of those that there are.
    fn slots(&self) -> usize {
        match self {
            Self::Fused(_) => 0,
            Self::Dispatcher(slots) => slots.len(),
        }
    }
}

/// A dispatcher that stays: it runs what is wanted, or nothing of ours is in it and nothing should be. A slot whose program is gone
/// goes with the next change.
fn keep(live: &LiveDispatcher, observed: &Observed, wanted: &Wanted) -> Option<ChainPlan> {
    let LiveDispatcher { top, slots, .. } = live;
    let has_ours = |slots: &[Slot]| slots.iter().any(|slot| slot.ours().is_some());
    let referenced = observed.tops.contains_key(&top.top);
    let (same, wants_ours) = match wanted {
        Wanted::Dispatcher(wanted) => (wanted == slots && !slots.is_empty(), has_ours(wanted)),
        Wanted::Fused(wanted) => (false, !wanted.is_empty()),
    };
    let not_our_business = !wants_ours && !has_ours(slots) && !referenced;
    match same || not_our_business {
        true if has_ours(slots) && !referenced => Some(ChainPlan::Adopt(*top)),
        true => Some(ChainPlan::Keep(Some(top.top))),
        false => None,
    }
}

fn missing_exts<'a>(target: &'a State, observed: &'a Observed, slots: &[Slot]) -> Vec<Step> {
    let missing = slots.iter().filter_map(Slot::ours).filter(|member| !observed.exts.contains_key(&member.link));
    let mut missing: Vec<&Member> = missing.collect();
    // The order of loading decides between equals, now and after the next boot.
    missing.sort_by_key(|member| target.links.get(&member.link).map(|link| link.handle));
    let steps = missing.into_iter().filter_map(|member| {
        let recipe = order::recipe(target.apps.get(&member.app)?);
        Some(Step::LoadExt { member: member.clone(), recipe })
    });
    steps.collect()
}

/// A copy is kept while its link is wanted and its chain has copies, or may have: without it nobody would know whose program runs.
fn keeps_ext(target: &State, observed: &Observed, link: &LinkUid) -> bool {
    let Some(chain) = target.links.get(link).and_then(|link| link.placement.chain()) else { return false };
    match observed.chains.get(chain) {
        None | Some(ObservedChain { mode: ChainMode::Libxdp, .. }) => true,
        Some(ObservedChain { mode: ChainMode::Fused { .. }, live: Live::Dispatcher(live), .. }) => {
            live.is_shared() && live.slots.iter().filter_map(Slot::ours).any(|member| member.link == *link)
        }
        Some(ObservedChain { mode: ChainMode::Fused { .. }, .. }) => false,
    }
}

fn attach_step(link: &Link) -> Option<Step> {
    match &link.placement {
        Placement::Shared(_) => None,
        Placement::Own(hook) => Some(Step::AttachLink {
            link: link.uid,
            app: link.app,
            function: link.function.clone(),
            hook: hook.clone(),
        }),
    }
}

/// Generations that no hook runs once the plan's swaps are done.
fn dead_tops<'a>(observed: &'a Observed, wanted: &'a BTreeSet<TopUid>) -> impl Iterator<Item = TopUid> + 'a {
    let kept: BTreeSet<TopUid> = observed
        .chains
        .values()
        .filter_map(|chain| match &chain.live {
            Live::Ours(LiveTop { top, .. }) | Live::Dispatcher(LiveDispatcher { top: LiveTop { top, .. }, .. }) => {
                Some(*top)
            }
            Live::Empty | Live::Foreign(_) => None,
        })
        .collect();
    observed
        .tops
        .iter()
        .filter(move |(top, pinned)| match pinned.live {
            // On an observed chain: it stays only if the plan keeps it. Elsewhere and alive: some other chain's, leave it.
            Some(true) => kept.contains(top) && !wanted.contains(top),
            Some(false) => !wanted.contains(top),
            None => false,
        })
        .map(|(top, _)| *top)
}
