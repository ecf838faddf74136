//! What policy sees of apps, links and hooks. Must never decide, nor leave out what a rule could ask about.

use std::collections::BTreeSet;

use bpfd_policy::caller::{Asked, HookFacts, MapOwner, SourceFacts, Verb};
use bpfd_policy::order::ChainFacts;
use bpfd_policy::rule::Direction;

use crate::hook::{ChainId, ChainName, HookAsk, Placement, Point, ProceedOn};
use crate::kernel::Observed;
use crate::names::{Netns, Priority};
use crate::request::Bytes;
use crate::state::{App, Link, ProgramKind, Shared, Source, State};

/// The source of an app: everything is known.
pub fn source(app: &App) -> SourceFacts {
    match &app.source {
        Source::Image { reference, digest: _, signers } => {
            SourceFacts::Image { reference: reference.parse().ok(), signers: Some(signers.iter().cloned().collect()) }
        }
        Source::Upload => SourceFacts::Upload { object: Some(app.object.0) },
    }
}

/// The source of a load that is asked for.
pub fn source_asked(bytes: &Bytes) -> SourceFacts {
    match bytes {
        Bytes::Image { reference, pull: _ } => SourceFacts::named(reference),
        Bytes::Uploaded { object, stem: _ } => SourceFacts::Upload { object: Some(object.0) },
    }
}

/// What a load brings, once its object was read.
#[derive(Clone, Debug)]
pub struct LoadFacts {
    /// The kinds of its programs.
    pub kinds: BTreeSet<ProgramKind>,
    /// Where they come from.
    pub source: SourceFacts,
    /// The apps whose maps it takes.
    pub maps_of: Vec<MapOwner>,
}

impl LoadFacts {
    /// Of an app. Maps of apps that are there no more are nobody's.
    pub fn of(state: &State, app: &App) -> Self {
        Self {
            kinds: app.programs.iter().map(|program| program.kind).collect(),
            source: source(app),
            maps_of: lenders(state, app.maps.iter().filter_map(|map| map.shared.as_ref())),
        }
    }

    /// Each kind, beside each app whose maps it takes: a rule that denies one of them is not got round by naming two.
    pub fn asked(&self) -> Vec<Asked> {
        let of_kind = |kind: Option<String>| {
            let load = Asked { kind, ..Asked::load(self.source.clone()) };
            let shares = self.maps_of.iter().map(|app| Asked { maps_of: vec![app.clone()], ..load.clone() });
            let shares: Vec<Asked> = shares.collect();
            if shares.is_empty() { vec![load] } else { shares }
        };
        words(&self.kinds).into_iter().flat_map(of_kind).collect()
    }
}

/// The apps that maps are taken from.
pub fn lenders<'a>(state: &State, shared: impl IntoIterator<Item = &'a Shared>) -> Vec<MapOwner> {
    let apps: BTreeSet<_> = shared.into_iter().map(|shared| shared.app).collect();
    apps.iter().filter_map(|app| state.apps.get(app)).map(map_owner).collect()
}

/// An app whose maps are taken. Its labels are those that whoever loaded it gave it: an image cannot offer them.
pub fn map_owner(app: &App) -> MapOwner {
    let labels = app.user_labels.iter().map(|(key, value)| (key.to_string(), value.to_string()));
    MapOwner { owner: app.owner.clone(), app: app.name.to_string(), labels: labels.collect() }
}

/// A verb on an app as a whole, once for each kind of its programs: what rules say of places is not about that.
pub fn whole(verb: Verb, app: Option<&App>) -> Vec<Asked> {
    let Some(app) = app else { return vec![Asked::verb(verb)] };
    let kinds: BTreeSet<ProgramKind> = app.programs.iter().map(|program| program.kind).collect();
    let of_kind = |kind| Asked { kind, hook: Some(HookFacts::Nowhere), ..on_app(verb, Some(app)) };
    words(&kinds).into_iter().map(of_kind).collect()
}

/// As rules name them. What has no programs is asked about all the same.
fn words(kinds: &BTreeSet<ProgramKind>) -> Vec<Option<String>> {
    let words: Vec<_> = kinds.iter().map(|kind| Some(kind.to_string())).collect();
    if words.is_empty() { vec![None] } else { words }
}

/// A change of a whole chain: of each link in it.
pub fn on_chain(state: &State, chain: &ChainId, observed: Option<&Observed>) -> Vec<Asked> {
    let links = state.links.values().filter(|link| link.chain() == Some(*chain));
    links.flat_map(|link| on_link(Verb::Update, state, Some(link), observed)).collect()
}

/// A verb on an app, if there is one.
pub fn on_app(verb: Verb, app: Option<&App>) -> Asked {
    Asked {
        source: app.map(source),
        owner: app.map(|app| app.owner.clone()),
        thing: app.map(|app| format!("app `{}`", app.name)),
        ..Asked::verb(verb)
    }
}

/// A verb on a link, if there is one, once for each name that its interface is known by: none of them is a way round a rule.
pub fn on_link(verb: Verb, state: &State, link: Option<&Link>, observed: Option<&Observed>) -> Vec<Asked> {
    let Some(link) = link else { return vec![Asked::verb(verb)] };
    let app = state.apps.get(&link.app);
    let asked = Asked {
        kind: Some(link.placement.kind().to_string()),
        source: app.map(source),
        owner: Some(link.owner.clone()),
        thing: Some(format!("link `{}`", state.link_name(link))),
        ..Asked::verb(verb)
    };
    placed(&link.placement, &names(link, observed))
        .into_iter()
        .map(|hook| Asked { hook: Some(hook), ..asked.clone() })
        .collect()
}

/// An attachment of a program of this app: to what is somebody else's only its owner attaches.
pub fn attach(state: &State, app: Option<&App>, link: &Link, observed: Option<&Observed>) -> Vec<Asked> {
    let of_app = on_app(Verb::Attach, app);
    let of_link = on_link(Verb::Attach, state, Some(link), observed);
    of_link.into_iter().map(|link| Asked { kind: link.kind, hook: link.hook, ..of_app.clone() }).collect()
}

/// A hook as it was asked for, before its gaps are filled.
pub fn hook_asked(hook: &HookAsk) -> HookFacts {
    match hook {
        HookAsk::Shared { chain, priority, proceed_on, mode: _ } => shared(chain, *priority, *proceed_on),
        HookAsk::Own { kind: _, hook } => HookFacts::Own { target: hook.as_ref().map(|hook| hook.target()) },
    }
}

fn names(link: &Link, observed: Option<&Observed>) -> Vec<ChainName> {
    let asked = link.placement.asked().cloned();
    let called = link.on.as_ref().map(|seat| seat.called.clone());
    let seen = link.chain().and_then(|chain| Some(observed?.chains.get(&chain)?.name.clone()));
    let mut names: Vec<ChainName> = Vec::new();
    for name in [asked, called, seen].into_iter().flatten() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn placed(placement: &Placement, names: &[ChainName]) -> Vec<HookFacts> {
    match placement {
        Placement::Shared(place) => {
            names.iter().map(|name| shared(name, Some(place.priority), Some(place.proceed_on))).collect()
        }
        Placement::Own(hook) => vec![HookFacts::Own { target: Some(hook.target()) }],
    }
}

/// A chain, as orders see it, by each of these names.
pub fn chain_facts<'a>(point: Point, names: impl IntoIterator<Item = &'a ChainName>) -> ChainFacts {
    let name = |name: &ChainName| (name.interface.to_string(), netns(&name.netns));
    ChainFacts {
        kind: point.kind().as_str(),
        direction: direction(point),
        names: names.into_iter().map(name).collect(),
    }
}

fn netns(netns: &Netns) -> String {
    match netns {
        Netns::Host => "host".to_owned(),
        Netns::Named(name) => name.to_string(),
        Netns::Nameless(nameless) => nameless.to_string(),
    }
}

fn direction(point: Point) -> Direction {
    match point {
        Point::Xdp | Point::TcIngress => Direction::Ingress,
        Point::TcEgress => Direction::Egress,
    }
}

fn shared(name: &ChainName, priority: Option<Priority>, proceed_on: Option<ProceedOn>) -> HookFacts {
    HookFacts::Shared {
        interface: name.interface.to_string(),
        netns: netns(&name.netns),
        direction: direction(name.point),
        priority: priority.map(u32::from),
        proceed_on: proceed_on.map(|set| set.names().into_iter().map(str::to_owned).collect()),
    }
}

#[cfg(test)]
mod tests {
    use bpfd_policy::words;

    use super::*;

    #[test]
    fn rules_know_the_words_for_kinds_and_verdicts() {
        let kinds: Vec<&str> = ProgramKind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(kinds, words::KINDS);
        for point in Point::ALL {
            let known = words::verdicts(point.kind().as_str());
            let set = ProceedOn::from_names(known.iter().copied()).unwrap();
            assert!(set.is_of(*point) && set.names() == known, "{point}");
            assert!(set.bits().count_ones() == if *point == Point::Xdp { 5 } else { 10 });
        }
    }
}
