//! Chains: what each should run, by which back end, and the steps from what its hook runs to that. One convergence serves all back
//! ends; a back end is a file beside this one and a line in `back_end`.
//!
//! This module must never touch an interface, and never remove what it could not observe.

mod fused;
pub mod libxdp;

use std::collections::{BTreeMap, BTreeSet};

use crate::hook::{ChainId, ChainName, NamedChain, XdpMode};
use crate::ident::{GenerationUid, LinkUid, Uids};
use crate::kernel::{
    ChainContent, ChainMode, ForeignProgram, Live, LiveDispatcher, LiveGeneration, Member, Observed, ObservedChain,
    SLOTS, Slot, Step,
};
use crate::order;
use crate::plan::{LinkStatus, PlanError};
use crate::state::{Change, Link, State, WhenAbsent};

/// What a back end would have a hook run.
trait Backend {
    /// Our members in it, in order.
    fn members(&self) -> Vec<&Member>;

    /// Whether it runs nothing at all.
    fn is_empty(&self) -> bool;

    /// Whether the hook has room for it.
    fn fits(&self) -> bool;

    /// Whether the hook runs exactly this.
    fn runs(&self, observed: &Observed, chain: &ChainId, live: &Live) -> bool;

    /// The steps that must be taken before it is built, and what it is built of.
    fn content(&self, target: &State, observed: &Observed, live: &Live) -> (Vec<Step>, ChainContent);
}

/// The back end of a chain, with what it would run: by the chain's mode and by what runs there. Where not all of ours can be had, in a
/// dispatcher that is full or that is shared although the chain is to be fused, nothing is added, and what should go goes.
fn back_end(target: &State, observed: &Observed, chain: &ChainId, seen: &ObservedChain) -> Box<dyn Backend> {
    let ObservedChain { live, mode, .. } = seen;
    let slots = libxdp::slots(target, observed, chain);
    let fused = || Box::new(fused::Fused(order::members(target, chain)));
    match (mode, live) {
        (ChainMode::Libxdp, Live::Ours(_)) if slots.len() > SLOTS => fused(),
        (ChainMode::Libxdp, Live::Dispatcher(live)) if slots.len() > SLOTS => Box::new(libxdp::there(slots, live)),
        (ChainMode::Libxdp, _) => Box::new(libxdp::Slots(slots)),
        (ChainMode::Fused { .. }, Live::Dispatcher(live)) if live.is_shared() => Box::new(libxdp::there(slots, live)),
        (ChainMode::Fused { .. }, _) => fused(),
    }
}

/// What becomes of a chain.
pub(crate) enum ChainPlan {
    /// It stays as it is; the generation that it runs is wanted.
    Keep(Option<GenerationUid>),
    /// As it is, but it needs references of our own.
    Adopt(LiveGeneration),
    /// Another generation replaces what runs.
    Replace {
        /// Before the swap.
        build: Vec<Step>,
        /// The swap.
        swap: Step,
    },
}

/// The steps of one chain.
pub(crate) fn converge(
    target: &State,
    observed: &Observed,
    chain: &ChainId,
    seen: &ObservedChain,
    uids: &mut dyn Uids,
) -> ChainPlan {
    let ObservedChain { name, live, driven, mode: _ } = seen;
    let named = || NamedChain { id: *chain, name: name.clone() };
    let wanted = back_end(target, observed, chain, seen);
    let from = match live {
        Live::Foreign(_) => return ChainPlan::Keep(None),
        Live::Empty if wanted.is_empty() || !wanted.fits() => return ChainPlan::Keep(None),
        Live::Empty => None,
        Live::Ours(generation) if wanted.runs(observed, chain, live) => {
            return match observed.generations.contains_key(&generation.generation) {
                true => ChainPlan::Keep(Some(generation.generation)),
                false => ChainPlan::Adopt(*generation),
            };
        }
        Live::Ours(generation) => Some(*generation),
        Live::Dispatcher(dispatcher) => match keep(dispatcher, observed, wanted.as_ref(), chain, live) {
            Some(plan) => return plan,
            None => Some(dispatcher.generation),
        },
    };
    let asked = modes(target, observed, chain).into_iter().find(|mode| *mode != XdpMode::Auto);
    let mode = driven.or(asked).unwrap_or_default();
    let mut build = Vec::new();
    if let Some(live) = from.filter(|live| !observed.generations.contains_key(&live.generation)) {
        build.push(Step::Adopt { chain: named(), live });
    }
    if wanted.is_empty() {
        return ChainPlan::Replace { build, swap: Step::Swap { chain: named(), from, to: None, mode } };
    }
    let generation = GenerationUid(uids.fresh());
    let (before, content) = wanted.content(target, observed, live);
    build.extend(before);
    build.extend([Step::BuildGeneration { generation, chain: named(), content }, Step::PinGeneration(generation)]);
    ChainPlan::Replace { build, swap: Step::Swap { chain: named(), from, to: Some(generation), mode } }
}

/// A dispatcher that stays: it runs what is wanted, or nothing of ours is in it and nothing should be. A slot whose program is gone
/// goes with the next change.
fn keep(
    dispatcher: &LiveDispatcher,
    observed: &Observed,
    wanted: &dyn Backend,
    chain: &ChainId,
    live: &Live,
) -> Option<ChainPlan> {
    let LiveDispatcher { generation, slots, .. } = dispatcher;
    let has_ours = slots.iter().any(|slot| slot.ours().is_some());
    let referenced = observed.generations.contains_key(&generation.generation);
    let not_our_business = wanted.members().is_empty() && !has_ours && !referenced;
    match wanted.runs(observed, chain, live) || not_our_business {
        true if has_ours && !referenced => Some(ChainPlan::Adopt(*generation)),
        true => Some(ChainPlan::Keep(Some(generation.generation))),
        false => None,
    }
}

/// How each of these links stands in what was observed, if it is one of a shared hook.
pub fn status_of(state: &State, observed: &Observed, asked: impl Fn(&Link) -> bool) -> BTreeMap<LinkUid, LinkStatus> {
    let links = || state.links.values().filter(|link| link.placement.asked().is_some() && asked(link));
    let absent = |link: &&Link| link.chain().is_none_or(|chain| !observed.chains.contains_key(&chain));
    let mut statuses: BTreeMap<_, _> = links().filter(absent).map(|link| (link.uid, LinkStatus::Waiting)).collect();
    let chains: BTreeSet<ChainId> = links().filter_map(Link::chain).collect();
    for (chain, seen) in observed.chains.iter().filter(|(chain, _)| chains.contains(chain)) {
        let wanted = wanted(state, observed, chain);
        let runs = observed.members(chain);
        let contains = |members: &[Member], member: &Member| members.iter().any(|other| other.runs_as(member));
        let both: Vec<&Member> = wanted.iter().filter(|member| contains(&runs, member)).collect();
        let in_order = runs.len() == both.len() && runs.iter().zip(both).all(|(runs, wanted)| runs.runs_as(wanted));
        let drifted = |member: &Member, cause: &str| {
            let cause = observed.barred.get(&member.link).map_or(cause, String::as_str).to_owned();
            LinkStatus::Drifted { cause }
        };
        let newcomer = |member: &Member| {
            let asked = state.links.get(&member.link)?.placement.asked()?;
            let other = observed.chain_of(asked).filter(|other| other != chain)?;
            Some(LinkStatus::Drifted { cause: elsewhere(asked, other, &seen.name, chain) })
        };
        let stands = |member: &Member| match &seen.live {
            Live::Ours(_) | Live::Dispatcher(_) if !in_order => {
                drifted(member, "the chain's members or their order differ")
            }
            Live::Ours(_) | Live::Dispatcher(_) if contains(&runs, member) => {
                newcomer(member).unwrap_or(LinkStatus::Attached)
            }
            Live::Ours(_) | Live::Dispatcher(_) => {
                drifted(member, "the chain on the interface does not contain this link")
            }
            Live::Empty => drifted(member, "the interface runs no XDP program"),
            Live::Foreign(ForeignProgram { program, name, .. }) => {
                LinkStatus::Drifted { cause: format!("the interface runs XDP program {program} (`{name}`)") }
            }
        };
        statuses.extend(wanted.iter().map(|member| (member.link, stands(member))));
    }
    statuses
}

/// The name that a link was asked for is that of another interface by now.
fn elsewhere(asked: &ChainName, other: ChainId, now: &ChainName, chain: &ChainId) -> String {
    let (index, other) = (chain.interface.index, other.interface.index);
    format!(
        "it protects interface {index}, which is `{now}` now, and not interface {other}, which took the name `{asked}`: \
         to protect that one, attach the program to it"
    )
}

/// The members that a chain should have, in the order of what runs it: a dispatcher's is by what peers see of ours.
fn wanted(state: &State, observed: &Observed, chain: &ChainId) -> Vec<Member> {
    match observed.chains.get(chain).map(|seen| &seen.live) {
        Some(Live::Dispatcher(_)) => {
            libxdp::slots(state, observed, chain).iter().filter_map(Slot::ours).cloned().collect()
        }
        Some(Live::Empty | Live::Ours(_) | Live::Foreign(_)) | None => order::members(state, chain),
    }
}

/// Whether the interface of a new link is absent, and the request does not wait for it.
pub(crate) fn refuse_absent(observed: &Observed, change: &Change) -> Result<(), PlanError> {
    let Change::Attach(Link { on: None, when_absent: WhenAbsent::Fail, placement, .. }) = change else { return Ok(()) };
    let Some(asked) = placement.asked() else { return Ok(()) };
    Err(match observed.absent_netns(asked) {
        Some(netns) => PlanError::NoNetns(netns.clone()),
        None => PlanError::NoInterface(asked.clone()),
    })
}

/// Whether a chain cannot be had for a request that adds to it. Requests that only remove are never refused: they end bpfd's
/// interest in the hook, whatever it runs.
pub(crate) fn refuse(
    target: &State,
    observed: &Observed,
    chain: &ChainId,
    changes: &[Change],
) -> Result<(), PlanError> {
    if changes.iter().all(Change::removes) {
        return Ok(());
    }
    let Some(ObservedChain { name, live, driven, mode }) = observed.chains.get(chain) else { return Ok(()) };
    let foreign = |holder| Err(PlanError::Foreign { chain: name.clone(), holder, driven: *driven });
    match (mode, live) {
        (_, Live::Foreign(holder)) => foreign(holder.clone()),
        (ChainMode::Libxdp, _) if libxdp::slots(target, observed, chain).len() > SLOTS => {
            let programs = libxdp::slots(target, observed, chain).len();
            Err(PlanError::ChainFull { chain: name.clone(), programs })
        }
        (ChainMode::Fused { .. }, Live::Dispatcher(live)) if live.is_shared() => {
            let LiveGeneration { program, generation: _ } = live.generation;
            foreign(ForeignProgram { program, name: libxdp::DISPATCHER.to_owned(), link: None, holders: vec![] })
        }
        (ChainMode::Libxdp | ChainMode::Fused { .. }, Live::Empty | Live::Ours(_) | Live::Dispatcher(_)) => {
            let modes = modes(target, observed, chain);
            match (modes.iter().find(|mode| **mode != XdpMode::Auto), driven) {
                _ if modes.contains(&XdpMode::Native) && modes.contains(&XdpMode::Generic) => {
                    Err(PlanError::MixedModes(name.clone()))
                }
                (Some(asked), Some(driven)) if asked != driven => {
                    Err(PlanError::Mode { chain: name.clone(), driven: *driven, asked: *asked })
                }
                _ => Ok(()),
            }
        }
    }
}

/// The modes that a chain's links ask for; one that is left out does not drive it.
fn modes(state: &State, observed: &Observed, chain: &ChainId) -> BTreeSet<XdpMode> {
    order::ordered(state, chain)
        .into_iter()
        .filter(|link| !observed.barred.contains_key(&link.uid))
        .filter_map(|link| link.placement.place().map(|place| place.mode))
        .collect()
}
