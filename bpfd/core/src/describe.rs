//! What changes do, in the words that people use for apps, links and images: for records that must still say something when the rows
//! are gone.
//!
//! This file must never decide anything.

use std::collections::BTreeSet;

use crate::hook::{ChainId, Place};
use crate::ident::{AppUid, LinkUid};
use crate::order;
use crate::state::{App, Change, Link, Persist, Source, State};

/// A sentence for each change, with the identities that its steps go by. Texts that come from callers are those of typed names, or
/// printable.
pub fn describe(before: &State, after: &State, changes: &[Change]) -> Vec<String> {
    let told = |change: &Change| match change {
        Change::Load(app) => load(after.apps.get(&app.uid).unwrap_or(app)),
        Change::Attach(link) => format!("attach {}", placed(after, link)),
        Change::Update { link, .. } => match after.links.get(link) {
            Some(link) => format!("move {}", placed(after, link)),
            None => format!("move link {link}"),
        },
        Change::Rebuild { chain, version } => {
            format!("build the dispatcher of {} again, with version {version}", called(after, chain))
        }
        Change::Reorder { chain } => {
            let moved = order::ordered(after, chain).into_iter().filter_map(|link| {
                let place = link.placement.place()?;
                let order =
                    place.order.as_ref().map_or_else(|| "as asked for".to_owned(), |id| format!("by order `{id}`"));
                let was = before.links.get(&link.uid)?.placement.place()?.effective;
                let now = place.effective;
                (was != now)
                    .then(|| format!("; link `{}` from priority {was} to {now}, {order}", after.link_name(link)))
            });
            format!("order {} as the policy has it{}", called(after, chain), moved.collect::<String>())
        }
        Change::Persist { app, links, persist } => {
            let app = after.apps.get(app).map_or_else(|| app.to_string(), named);
            let links = links.iter().filter_map(|link| after.links.get(link)).map(|link| after.link_name(link));
            let links: Vec<String> = links.map(|name| format!(", link `{name}`")).collect();
            let what = match persist {
                Persist::Yes => "keep over reboots",
                Persist::No => "keep until the next reboot",
            };
            format!("{what}: app {app}{}", links.concat())
        }
        Change::Detach(link) => match before.links.get(link) {
            Some(link) => format!("detach {}", placed(before, link)),
            None => format!("detach link {link}"),
        },
        Change::Unload(uid) => match before.apps.get(uid) {
            Some(app) => format!("unload app {}", named(app)),
            None => format!("unload app {uid}"),
        },
    };
    changes.iter().map(told).collect()
}

/// What the interface of a chain is called.
fn called(state: &State, chain: &ChainId) -> String {
    let links = state.links.values().filter(|link| link.chain() == Some(*chain));
    let called = links.filter_map(|link| link.on.as_ref()).map(|on| on.called.to_string()).next();
    called.unwrap_or_else(|| format!("interface {}", chain.interface.index))
}

/// The names of the apps that changes are about, each once.
pub fn apps(before: &State, after: &State, changes: &[Change]) -> Vec<String> {
    let app = |uid: &AppUid| after.apps.get(uid).or_else(|| before.apps.get(uid));
    let of_link = |uid: &LinkUid| after.links.get(uid).or_else(|| before.links.get(uid)).map(|link| link.app);
    let of = |change: &Change| match change {
        Change::Load(app) => Some(app.uid),
        Change::Attach(link) => Some(link.app),
        Change::Update { link, .. } | Change::Detach(link) => of_link(link),
        Change::Persist { app, .. } | Change::Unload(app) => Some(*app),
        Change::Rebuild { .. } | Change::Reorder { .. } => None,
    };
    let names = changes.iter().filter_map(of).filter_map(|uid| app(&uid).map(|app| app.name.to_string()));
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

fn named(app: &App) -> String {
    format!("`{}` ({})", app.name, app.uid)
}

fn load(app: &App) -> String {
    let source = match &app.source {
        Source::Image { reference, digest, signers } => {
            let signed = match signers.as_slice() {
                [] => "unsigned".to_owned(),
                signers => format!("signed by `{}`", signers.join("`, `")),
            };
            format!("image `{reference}`, {digest}, {signed}")
        }
        Source::Upload => "uploaded".to_owned(),
    };
    format!("load app {}: object sha256:{}, {source}", named(app), app.object)
}

/// A link with its place among others.
fn placed(state: &State, link: &Link) -> String {
    let name = state.link_name(link);
    let place = link.placement.place();
    let ordered = |place: &Place| match &place.order {
        Some(order) => format!(", {} by order `{order}`", place.effective),
        None => String::new(),
    };
    let place = place
        .map(|place| format!(": priority {}{}, proceed-on {{{}}}", place.priority, ordered(place), place.proceed_on));
    let place = place.unwrap_or_default();
    format!("link `{name}` ({}){place}", link.uid)
}
