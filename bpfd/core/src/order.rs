//! The order of a chain: libxdp's comparator, so that a peer that rebuilds a chain finds it as it would have made it.
//!
//! Source: `cmp_xdp_programs` in xdp-tools lib/libxdp/libxdp.c: run priority, full function name, tag, load time. It must never
//! depend on anything that a restart loses: what is left equal is ordered by the link's handle.

use crate::hook::ChainId;
use crate::ident::AppUid;
use crate::kernel::{Member, Recipe};
use crate::sharing;
use crate::state::{App, Link, State};
use std::collections::BTreeMap;

/// The links of a chain, in the order in which they run.
pub fn ordered<'a>(state: &'a State, chain: &ChainId) -> Vec<&'a Link> {
    let mut links: Vec<&Link> = state.links.values().filter(|link| link.chain() == Some(*chain)).collect();
    links.sort_by_cached_key(|link| {
        let priority = link.placement.place().map(|place| place.effective);
        let program = state.apps.get(&link.app).and_then(|app| app.program(&link.function));
        let loaded = program.map(|program| (program.tag, program.load_time));
        (priority, link.function.clone(), loaded, link.handle)
    });
    links
}

/// The members that a chain should have, in order.
pub fn members(state: &State, chain: &ChainId) -> Vec<Member> {
    ordered(state, chain)
        .into_iter()
        .filter_map(|link| {
            let place = link.placement.place()?;
            Some(Member {
                link: link.uid,
                app: link.app,
                function: link.function.clone(),
                priority: place.priority,
                effective: place.effective,
                proceed_on: place.proceed_on,
            })
        })
        .collect()
}

/// What makes the apps of these members again.
pub fn recipes(state: &State, members: &[Member]) -> BTreeMap<AppUid, Recipe> {
    members.iter().filter_map(|member| state.apps.get(&member.app)).map(|app| (app.uid, recipe(state, app))).collect()
}

/// What makes an app of a state again.
pub fn recipe(state: &State, app: &App) -> Recipe {
    let functions = app.programs.iter().map(|program| (program.function.clone(), program.load_as())).collect();
    let globals = app.globals.iter().map(|(name, setting)| (name.clone(), setting.bytes.clone())).collect();
    let shared = app.maps.iter().filter_map(|map| Some((map.name.clone(), sharing::lender(state, app, map)?)));
    Recipe { object: app.object, globals, functions, reach: app.reach, shared: shared.collect() }
}
