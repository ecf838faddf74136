//! What changes do, in the words that people use for apps, links and images: for records that must still say something when the rows
//! are gone.
//!
//! This file must never decide anything.

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
            let links = after.links.values().filter(|link| link.chain() == Some(*chain));
            let called = links.filter_map(|link| link.on.as_ref()).map(|on| on.called.to_string()).next();
            let called = called.unwrap_or_else(|| format!("interface {}", chain.interface.index));
            format!("build the dispatcher of {called} again, with version {version}")
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
    let place = place.map(|place| format!(": priority {}, proceed-on {{{}}}", place.priority, place.proceed_on));
    let place = place.unwrap_or_default();
    format!("link `{name}` ({}){place}", link.uid)
}
