//! The order of a chain: libxdp's comparator, so that a peer that rebuilds a chain finds it as it would have made it.
//!
//! Source: `cmp_xdp_programs` in xdp-tools lib/libxdp/libxdp.c: run priority, full function name, tag, load time. It must never
//! depend on anything that a restart loses: what is left equal is ordered by the link's handle.

use crate::hook::ChainKey;
use crate::ident::AppUid;
use crate::kernel::{ForeignSlot, Live, Member, Observed, PinnedExt, Recipe, Slot};
use crate::state::{App, Link, State};
use std::collections::BTreeMap;

/// The links of a chain, in the order in which they run.
pub fn ordered<'a>(state: &'a State, chain: &ChainKey) -> Vec<&'a Link> {
    let mut links: Vec<&Link> = state.links.values().filter(|link| link.placement.chain() == Some(chain)).collect();
    links.sort_by_cached_key(|link| {
        let priority = link.placement.place().map(|place| place.priority);
        let program = state.apps.get(&link.app).and_then(|app| app.program(&link.function));
        let loaded = program.map(|program| (program.tag, program.load_time));
        (priority, link.function.clone(), loaded, link.handle)
    });
    links
}

/// The members that a chain should have, in order.
pub fn members(state: &State, chain: &ChainKey) -> Vec<Member> {
    ordered(state, chain)
        .into_iter()
        .filter_map(|link| {
            let place = link.placement.place()?;
            Some(Member {
                link: link.uid,
                app: link.app,
                function: link.function.clone(),
                priority: place.priority,
                proceed_on: place.proceed_on,
            })
        })
        .collect()
}

/// The slots that a chain's dispatcher should have, in order: ours, and those of others that are there. Peers see our copies, so
/// their tag and load time count, not the app's; one that is not loaded yet will be the youngest.
pub fn slots(state: &State, observed: &Observed, chain: &ChainKey) -> Vec<Slot> {
    let ours = ordered(state, chain).into_iter().zip(members(state, chain)).map(|(link, member)| {
        let loaded = match observed.exts.get(&link.uid) {
            Some(PinnedExt { program: _, tag, load_time }) => (*tag, *load_time),
            None => {
                let program = state.apps.get(&link.app).and_then(|app| app.program(&link.function));
                (program.map_or([0; 8], |program| program.tag), u64::MAX)
            }
        };
        let key = (u32::from(member.priority), member.function.clone(), loaded, Some(link.handle));
        (key, Slot::Ours(member))
    });
    let foreign = foreign(observed, chain).map(|slot| {
        let ForeignSlot { name, tag, load_time, priority, .. } = slot;
        ((*priority, name.clone(), (*tag, *load_time), None), Slot::Foreign(slot.clone()))
    });
    let mut slots: Vec<_> = ours.chain(foreign).collect();
    slots.sort_by(|(a, _), (b, _)| a.cmp(b));
    slots.into_iter().map(|(_, slot)| slot).collect()
}

/// The programs of others in a chain's dispatcher.
fn foreign<'a>(observed: &'a Observed, chain: &ChainKey) -> impl Iterator<Item = &'a ForeignSlot> {
    let slots = match observed.chains.get(chain).map(|seen| &seen.live) {
        Some(Live::Dispatcher(live)) => live.slots.as_slice(),
        Some(Live::Empty | Live::Ours(_) | Live::Foreign(_)) | None => &[],
    };
    slots.iter().filter_map(|slot| match slot {
        Slot::Foreign(slot) => Some(slot),
        Slot::Ours(_) => None,
    })
}

/// The members that a chain should have, in the order of what runs it: a dispatcher's is by what peers see of ours.
pub fn wanted(state: &State, observed: &Observed, chain: &ChainKey) -> Vec<Member> {
    match observed.chains.get(chain).map(|seen| &seen.live) {
        Some(Live::Dispatcher(_)) => slots(state, observed, chain).iter().filter_map(Slot::ours).cloned().collect(),
        Some(Live::Empty | Live::Ours(_) | Live::Foreign(_)) | None => members(state, chain),
    }
}

/// What makes the apps of these members again.
pub fn recipes(state: &State, members: &[Member]) -> BTreeMap<AppUid, Recipe> {
    members.iter().filter_map(|member| state.apps.get(&member.app)).map(|app| (app.uid, recipe(app))).collect()
}

/// What makes an app again.
pub fn recipe(app: &App) -> Recipe {
    let functions = app.programs.iter().map(|program| (program.function.clone(), program.kind)).collect();
    let globals = app.globals.iter().map(|(name, setting)| (name.clone(), setting.bytes.clone())).collect();
    Recipe { object: app.object, globals, functions, reach: app.reach }
}
