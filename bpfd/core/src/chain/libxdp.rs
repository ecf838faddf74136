//! libxdp's protocol: a dispatcher with a slot for each program, those of others beside ours.
//!
//! This file must never drop or reorder what somebody else put into a slot.

use std::collections::BTreeSet;

use super::xdp::Program;
use crate::hook::{ChainId, ChainName};
use crate::ident::{LinkUid, SlotUid, Uids};
use crate::kernel::{
    ChainContent, ChainMode, DispatcherVersion, ForeignSlot, Live, LiveDispatcher, Member, Observed, ObservedChain,
    OurSlot, PinnedCopy, SLOTS, Slot, Step,
};
use crate::order;
use crate::plan::PlanError;
use crate::state::State;

/// The kernel's name of every dispatcher (`XDP_DISPATCHER` in libxdp).
pub(super) const DISPATCHER: &str = "xdp_dispatcher";

/// The slots, in order.
pub(super) struct Slots {
    pub(super) slots: Vec<Slot>,
    /// The version of the dispatcher, if it is to be another one than it has.
    pub(super) version: Option<DispatcherVersion>,
}

impl Program for Slots {
    fn members(&self) -> Vec<&Member> {
        Slot::members(&self.slots).collect()
    }

    fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn fits(&self) -> bool {
        self.slots.len() <= SLOTS
    }

    fn runs(&self, _: &Observed, _: &ChainId, live: &Live) -> bool {
        match live {
            Live::Dispatcher(live) => {
                let alike = self.slots.iter().zip(&live.slots).all(|(wanted, runs)| wanted.runs_as(runs));
                let same_version = self.version.is_none_or(|version| version.number() == live.version);
                alike && same_version && self.slots.len() == live.slots.len() && !self.slots.is_empty()
            }
            Live::Empty | Live::Ours(_) | Live::Foreign(_) | Live::Sequence(_) => false,
        }
    }

    fn content(&self, target: &State, observed: &Observed, live: &Live) -> (Vec<Step>, ChainContent) {
        let version = match (self.version, live) {
            (Some(version), _) => version.number(),
            (None, Live::Dispatcher(LiveDispatcher { version, .. })) => *version,
            (None, Live::Empty | Live::Ours(_) | Live::Foreign(_) | Live::Sequence(_)) => {
                observed.new_dispatcher.number()
            }
        };
        let content = ChainContent::Dispatcher { version, slots: self.slots.clone() };
        (missing_copies(target, observed, &self.slots), content)
    }
}

/// The slots that a chain's dispatcher should have, in order: ours, and those of others that are there. Peers see our copies, so
/// their tag and load time count, not the app's; one that is not loaded yet will be the youngest.
/// `uids` names those.
pub fn slots(state: &State, observed: &Observed, chain: &ChainId, uids: &mut dyn Uids) -> Vec<Slot> {
    let ours = order::ordered(state, chain).into_iter().zip(order::members(state, chain)).map(|(link, first)| {
        let (uid, loaded) = match observed.copy_of(&[link.uid]) {
            Some((uid, PinnedCopy { tag, load_time, .. })) => (uid, (*tag, *load_time)),
            None => {
                let program = state.apps.get(&link.app).and_then(|app| app.program(&link.function));
                (SlotUid(uids.fresh()), (program.map_or([0; 8], |program| program.tag), u64::MAX))
            }
        };
        let key = (u32::from(first.effective), first.function.clone(), loaded, Some(link.handle));
        (key, Slot::Ours(OurSlot { uid, first, rest: vec![] }))
    });
    let foreign = foreign(observed, chain).map(|slot| {
        let ForeignSlot { name, tag, load_time, priority, .. } = slot;
        ((*priority, name.clone(), (*tag, *load_time), None), Slot::Foreign(slot.clone()))
    });
    let mut slots: Vec<_> = ours.chain(foreign).collect();
    slots.sort_by(|(a, _), (b, _)| a.cmp(b));
    slots.into_iter().map(|(_, slot)| slot).collect()
}

/// Whether the dispatcher of a chain cannot be built again with another version. Users of libxdp that do not know that version would be
/// shut out while programs of theirs run.
pub(super) fn refuse_rebuild(name: &ChainName, live: &Live) -> Result<(), PlanError> {
    let Live::Dispatcher(LiveDispatcher { slots, .. }) = live else {
        return Err(PlanError::NoDispatcher(name.clone()));
    };
    let theirs = slots.iter().filter_map(|slot| match slot {
        Slot::Ours(_) => None,
        Slot::Foreign(slot) => Some(slot.name.clone()),
    });
    let names: Vec<String> = theirs.collect();
    if names.is_empty() { Ok(()) } else { Err(PlanError::Peers { chain: name.clone(), names }) }
}

/// The programs of others in a chain's dispatcher.
fn foreign<'a>(observed: &'a Observed, chain: &ChainId) -> impl Iterator<Item = &'a ForeignSlot> {
    let slots = match observed.chains.get(chain).map(|seen| &seen.live) {
        Some(Live::Dispatcher(live)) => live.slots.as_slice(),
        Some(Live::Empty | Live::Ours(_) | Live::Foreign(_) | Live::Sequence(_)) | None => &[],
    };
    slots.iter().filter_map(|slot| match slot {
        Slot::Foreign(slot) => Some(slot),
        Slot::Ours(_) => None,
    })
}

/// The slots that are in a dispatcher already.
pub(super) fn there(slots: Vec<Slot>, live: &LiveDispatcher) -> Slots {
    let running: BTreeSet<LinkUid> = Slot::members(&live.slots).map(|member| member.link).collect();
    let there = |slot: &Slot| slot.ours().is_none_or(|slot| slot.members().all(|it| running.contains(&it.link)));
    Slots { slots: slots.into_iter().filter(there).collect(), version: None }
}

fn missing_copies(target: &State, observed: &Observed, slots: &[Slot]) -> Vec<Step> {
    let missing = slots.iter().filter_map(Slot::ours).filter(|slot| !observed.copies.contains_key(&slot.uid));
    let mut missing: Vec<&OurSlot> = missing.collect();
    // The order of loading decides between equals, now and after the next boot.
    missing.sort_by_key(|slot| target.links.get(&slot.first.link).map(|link| link.handle));
    let steps = missing.into_iter().map(|slot| {
        let members: Vec<Member> = slot.members().cloned().collect();
        Step::LoadCopy { slot: slot.clone(), recipes: order::recipes(target, &members) }
    });
    steps.collect()
}

/// A copy is kept while its link is wanted and its chain has copies, or may have: without it nobody would know whose program runs.
pub(crate) fn keeps_copy(target: &State, observed: &Observed, link: &LinkUid) -> bool {
    let Some(link) = target.links.get(link).filter(|link| link.placement.asked().is_some()) else { return false };
    match link.chain().and_then(|chain| observed.chains.get(&chain)) {
        None | Some(ObservedChain { mode: ChainMode::Libxdp, .. }) => true,
        Some(ObservedChain { mode: ChainMode::Fused { .. }, live: Live::Dispatcher(live), .. }) => {
            live.is_shared() && Slot::members(&live.slots).any(|member| member.link == link.uid)
        }
        Some(_) => false,
    }
}
