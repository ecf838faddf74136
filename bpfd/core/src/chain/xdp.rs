//! XDP: an interface runs one program, which holds all of a chain, by libxdp's protocol or fused.
//!
//! This file must never touch an interface.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{Built, Turn, View, fused, libxdp, room};
use crate::hook::{ChainId, Point, XdpMode};
use crate::ident::{GenerationUid, Uids};
use crate::kernel::{
    ChainContent, ChainMode, ForeignProgram, Live, LiveDispatcher, LiveGeneration, Member, Observed, ObservedChain,
    SLOTS, Spot, Step,
};
use crate::order;
use crate::plan::PlanError;
use crate::state::{Change, State};

/// The one program that an interface would run.
pub(super) trait Program {
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

/// What an interface would run: by the chain's mode and by what runs there. Where not all of ours can be had, in a dispatcher that is full
/// or that is shared although the chain is to be fused, nothing is added, and what should go goes.
fn wanted(View { target, observed, id, chain }: View<'_>, uids: &mut dyn Uids) -> Box<dyn Program> {
    let ObservedChain { live, mode, .. } = chain;
    let slots = libxdp::slots(target, observed, id, uids);
    let version = observed.versions.get(id).copied();
    let fused = || Box::new(fused::Fused(order::members(target, id)));
    match (mode, live) {
        (ChainMode::Libxdp, Live::Ours(_)) if slots.len() > SLOTS => fused(),
        (ChainMode::Libxdp, Live::Dispatcher(live)) if slots.len() > SLOTS => Box::new(libxdp::there(slots, live)),
        (ChainMode::Libxdp, _) => Box::new(libxdp::Slots { slots, version }),
        (_, Live::Dispatcher(live)) if live.is_shared() => Box::new(libxdp::there(slots, live)),
        (_, _) => fused(),
    }
}

pub(super) fn turns(view: View<'_>, uids: &mut dyn Uids) -> Vec<Turn> {
    let View { target, observed, id, chain: ObservedChain { live, .. } } = view;
    let wanted = wanted(view, uids);
    let is_moved = |live: &LiveGeneration| observed.is_moved(live.generation);
    let from = match live {
        Live::Foreign(_) | Live::Sequence(_) => return vec![],
        Live::Empty if wanted.is_empty() || !wanted.fits() => return vec![],
        Live::Empty => None,
        Live::Ours(live_generation) if wanted.runs(observed, id, live) && !is_moved(live_generation) => {
            return vec![Turn::Keep { live: *live_generation, ours: true }];
        }
        Live::Ours(generation) => Some(*generation),
        Live::Dispatcher(LiveDispatcher { generation, slots, .. }) => {
            let ours = slots.iter().any(|slot| slot.ours().is_some());
            let is_held = observed.generations.contains_key(&generation.generation);
            // A slot whose program is gone goes with the next change.
            let not_our_business = wanted.members().is_empty() && !ours && !is_held;
            if wanted.runs(observed, id, live) && !is_moved(generation) || not_our_business {
                return vec![Turn::Keep { live: *generation, ours }];
            }
            Some(*generation)
        }
    };
    let with = (!wanted.is_empty()).then(|| {
        let generation = GenerationUid(uids.fresh());
        let (before, content) = wanted.content(target, observed, live);
        Built { generation, before, content }
    });
    let at = Spot::Whole;
    match (from, with) {
        (Some(live), Some(with)) => vec![Turn::Replace { live, with, at }],
        (None, Some(with)) => vec![Turn::Add { with, at }],
        (Some(live), None) => vec![Turn::Remove { live, at }],
        (None, None) => vec![],
    }
}

pub(super) fn refuse(view: View<'_>, changes: &[Change]) -> Result<(), PlanError> {
    let View { target, observed, id, chain: ObservedChain { name, live, driven, mode } } = view;
    if changes.iter().any(|change| matches!(change, Change::Rebuild { .. })) {
        libxdp::refuse_rebuild(name, live)?;
    }
    let programs = libxdp::slots(target, observed, id, &mut || Uuid::nil()).len();
    if matches!(mode, ChainMode::Libxdp) {
        room::refuse(name, id, programs, changes)?;
    }
    let foreign = |holder| Err(PlanError::Foreign { chain: name.clone(), holder, driven: *driven });
    match (mode, live) {
        (_, Live::Foreign(holder)) => foreign(holder.clone()),
        (ChainMode::Libxdp, _) if programs > SLOTS => {
            Err(PlanError::ChainFull { chain: name.clone(), programs, room: SLOTS })
        }
        (ChainMode::Fused { .. }, Live::Dispatcher(live)) if live.is_shared() => {
            let LiveGeneration { program, generation: _ } = live.generation;
            foreign(ForeignProgram { program, name: libxdp::DISPATCHER.to_owned(), link: None, holders: vec![] })
        }
        (_, Live::Empty | Live::Ours(_) | Live::Dispatcher(_) | Live::Sequence(_)) => {
            let modes = modes(view);
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

/// How the interface is to be driven; of no meaning on other hooks.
pub(super) fn mode(view: View<'_>) -> XdpMode {
    let asked = || modes(view).into_iter().find(|mode| *mode != XdpMode::Auto);
    match view.id.point {
        Point::Xdp => view.chain.driven.or_else(asked).unwrap_or_default(),
        Point::TcIngress | Point::TcEgress => XdpMode::Auto,
    }
}

/// The modes that a chain's links ask for; one that is left out does not drive it.
fn modes(View { target, observed, id, .. }: View<'_>) -> BTreeSet<XdpMode> {
    order::ordered(target, id)
        .into_iter()
        .filter(|link| !observed.barred.contains_key(&link.uid))
        .filter_map(|link| link.placement.place().map(|place| place.mode))
        .collect()
}
