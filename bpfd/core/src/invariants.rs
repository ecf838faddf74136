//! What must hold between any two operations, and after any crash and repair. `doctor` and every end-to-end case ask for it.
//!
//! Numbers as in docs/ARCHITECTURE.md: K1 to K4 and K11 can be told from state and observation; K5 (foreign programs as before),
//! K8 (counts of kernel objects), K9 (acknowledged operations are visible) and K10 (packets) need a test's own knowledge.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ident::LinkUid;
use crate::kernel::{Observed, Runs};
use crate::order;
use crate::plan::{LinkStatus, converge, status};
use crate::record::with_records;
use crate::sharing;
use crate::state::{Link, State};

/// One invariant that does not hold.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Broken {
    /// `K1`, `K2`, ….
    pub invariant: String,
    /// What is wrong, in a sentence.
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { invariant, what } = self;
        write!(f, "{invariant}: {what}")
    }
}

/// Every invariant that does not hold, in the order of their numbers.
pub fn check(state: &State, observed: &Observed) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut say = |invariant: &str, what: String| broken.push(Broken { invariant: invariant.to_owned(), what });

    let drifted = status(state, observed).into_iter().filter_map(|(link, status)| match status {
        LinkStatus::Drifted { cause } => {
            let row = state.links.get(&link)?;
            Some(format!("link `{}` is not as requested: {cause}", state.link_name(row)))
        }
        LinkStatus::Attached | LinkStatus::Waiting => None,
    });
    // By name: uids have no order that means anything.
    drifted.collect::<BTreeSet<String>>().into_iter().for_each(|what| say("K1", what));
    for (chain, seen) in &observed.chains {
        let wanted = order::members(state, chain);
        for member in observed.members(chain) {
            if !wanted.iter().any(|want| want.link == member.link) {
                say(
                    "K2",
                    format!(
                        "`{}` runs `{}` for link {}, which is not in the database",
                        seen.name, member.function, member.link
                    ),
                );
            }
        }
    }
    for app in observed.apps.keys().filter(|app| !state.apps.contains_key(app)) {
        say("K3", format!("app {app} is pinned but is not in the database"));
    }
    for app in &observed.half_made {
        say("K3", format!("the pins of app {app} are incomplete"));
    }
    for (uid, app) in &state.apps {
        match observed.apps.get(uid) {
            None => say("K3", format!("app `{}` is not pinned", app.name)),
            Some(pinned) => {
                let programs = app.programs.iter().filter(|program| !pinned.programs.contains_key(&program.function));
                programs.for_each(|program| {
                    say("K3", format!("program `{}/{}` is not pinned", app.name, program.function))
                });
                let maps = app.maps.iter().filter(|map| !pinned.maps.contains_key(&map.name));
                maps.for_each(|map| say("K3", format!("map `{}` of `{}` is not pinned", map.name, app.name)));
                for map in app.maps.iter().filter(|map| map.shared.is_some()) {
                    let lender = sharing::lender(state, app, map).and_then(|lender| observed.apps.get(&lender));
                    let theirs = lender.and_then(|lender| lender.maps.get(&map.name));
                    if theirs.is_some_and(|theirs| Some(theirs) != pinned.maps.get(&map.name)) {
                        let what = format!("map `{}` of `{}` is no longer the one that it shares", map.name, app.name);
                        say("K3", what);
                    }
                }
                if observed.recorded.apps.get(uid) != Some(app) {
                    say("K3", format!("the record of app `{}` is not what the database says", app.name));
                }
            }
        }
    }
    for link in observed.links.iter().filter(|link| !state.links.contains_key(link)) {
        say("K3", format!("link {link} is pinned but is not in the database"));
    }
    for link in &observed.half_links {
        say("K3", format!("the pins of link {link} are incomplete"));
    }
    for link in observed.copied().filter(|link| !state.links.contains_key(link)) {
        say("K3", format!("a copy of a program for link {link} is pinned, but the link is not in the database"));
    }
    let recorded = |uid: &LinkUid, link: &Link| observed.recorded.links.get(uid).is_some_and(|it| link.is_asked_as(it));
    for (uid, link) in state.links.iter().filter(|(uid, link)| !recorded(uid, link)) {
        say("K3", format!("the record of link `{}` ({uid}) is not what the database says", state.link_name(link)));
    }
    let recorded = observed.recorded.links.keys().chain(&observed.unread_records);
    for link in recorded.filter(|link| !state.links.contains_key(link)) {
        say("K3", format!("link {link} is recorded but is not in the database"));
    }
    for (generation, pinned) in &observed.generations {
        let live = observed.chains.values().any(|chain| chain.live.runs(*generation));
        if !live && pinned.runs == Runs::No {
            say("K4", format!("chain program {generation} is pinned, but no interface runs it"));
        }
    }
    let plan = with_records(converge(state, observed, &mut || uuid::Uuid::nil()), state, observed);
    if !plan.is_empty() {
        say("K11", format!("the kernel differs from the database: a repair would take {} steps", plan.steps.len()));
    }
    broken
}
