//! What changes do, and what the steps of a plan touch, in the words that people use for apps, links and images: for records that must
//! still say something when the rows are gone.
//!
//! This file must never decide anything.

use std::collections::{BTreeMap, BTreeSet};

use crate::adopt::Recovery;
use crate::hook::{ChainId, Place};
use crate::ident::{AppUid, GenerationUid, LinkUid};
use crate::kernel::{Live, Member, Observed, Step};
use crate::order;
use crate::plan::Plan;
use crate::record::Row;
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

/// Apps and links that something nobody asked for is about.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Touched {
    /// The names of the apps, those of the links too, each once.
    pub apps: Vec<String>,
    /// Each app and each link, with its identity.
    pub told: Vec<String>,
}

impl Touched {
    /// What the steps of a plan are about: of a chain that is built anew, all its links, since each of them runs in another program then.
    pub fn by(plan: &Plan, state: &State, observed: &Observed) -> Self {
        let (mut apps, mut links) = (BTreeSet::new(), BTreeMap::new());
        for step in &plan.steps {
            match step {
                Step::PinApp(app) | Step::UnpinApp(app) => drop(apps.insert(*app)),
                Step::Record(row) => match row.as_ref() {
                    Row::App(app) => drop(apps.insert(app.uid)),
                    Row::Link(link) => drop(links.insert(link.uid, None)),
                },
                Step::AttachLink { link, .. } | Step::DetachLink(link) | Step::Unrecord(link) => {
                    links.entry(*link).or_default();
                }
                Step::LoadCopy { .. }
                | Step::UnpinCopy(_)
                | Step::Adopt { .. }
                | Step::BuildGeneration { .. }
                | Step::DropGeneration(_)
                | Step::PinGeneration(_)
                | Step::Swap { .. }
                | Step::UnpinGeneration(_) => {
                    links.extend(members(step, observed).into_iter().map(|member| (member.link, Some(member))));
                }
            }
        }
        Self::of(apps, links, &[state, &observed.recorded])
    }

    /// Rows of one state, and of another one if it has none.
    pub fn rows(apps: &BTreeSet<AppUid>, links: &BTreeSet<LinkUid>, states: &[&State]) -> Self {
        Self::of(apps.clone(), links.iter().map(|link| (*link, None)).collect(), states)
    }

    /// What of a lost state is adopted from the pins, set aside, or replaced by what runs.
    pub fn recovered(recovery: &Recovery, state: &State) -> Self {
        let Recovery { relation: _, adopted, kept, differing, spared: _ } = recovery;
        let apps = adopted.apps.iter().chain(kept.apps.keys()).chain(differing.apps.keys());
        let links = adopted.links.iter().chain(kept.links.keys()).chain(differing.links.keys());
        Self::rows(&apps.copied().collect(), &links.copied().collect(), &[state, kept, differing])
    }

    /// Each by the first of the states that has it; a link that none has, by its function, if the chain that it is in says that.
    fn of(apps: BTreeSet<AppUid>, links: BTreeMap<LinkUid, Option<Member>>, states: &[&State]) -> Self {
        let app = |uid: &AppUid| states.iter().find_map(|state| state.apps.get(uid));
        let mut names = BTreeSet::new();
        let mut told = Vec::new();
        for uid in &apps {
            names.extend(app(uid).map(|app| app.name.to_string()));
            told.push(app(uid).map_or_else(|| format!("app {uid}"), |app| format!("app {}", named(app))));
        }
        for (uid, member) in &links {
            let row = states.iter().find_map(|state| Some((state, state.links.get(uid)?)));
            let of = row.map(|(_, link)| link.app).or_else(|| member.as_ref().map(|member| member.app));
            names.extend(of.and_then(|of| app(&of)).map(|app| app.name.to_string()));
            told.push(match (row, member) {
                (Some((state, link)), _) => format!("link `{}` ({uid})", state.link_name(link)),
                (None, Some(member)) => format!("link {uid} of program `{}`", member.function),
                (None, None) => format!("link {uid}"),
            });
        }
        Self { apps: names.into_iter().collect(), told }
    }
}

/// The links of ours that are in what a step of a chain is about.
fn members(step: &Step, observed: &Observed) -> Vec<Member> {
    let of = |generation: GenerationUid| {
        let dispatcher = observed.chains.iter().find_map(|(chain, seen)| match &seen.live {
            Live::Dispatcher(live) if live.generation.generation == generation => Some(observed.members(chain)),
            Live::Dispatcher(_) | Live::Empty | Live::Ours(_) | Live::Foreign(_) | Live::Sequence(_) => None,
        });
        dispatcher.unwrap_or_else(|| observed.members_of(generation))
    };
    match step {
        Step::LoadCopy { slot, .. } => slot.members().cloned().collect(),
        Step::UnpinCopy(slot) => {
            observed.copies.get(slot).into_iter().flat_map(|copy| copy.slot.members()).cloned().collect()
        }
        Step::BuildGeneration { content, .. } => content.members().into_iter().cloned().collect(),
        Step::Adopt { live, .. } => of(live.generation),
        Step::Swap { from, .. } => from.map(|live| of(live.generation)).unwrap_or_default(),
        Step::UnpinGeneration(generation) => of(*generation),
        Step::DropGeneration(_)
        | Step::PinGeneration(_)
        | Step::PinApp(_)
        | Step::AttachLink { .. }
        | Step::DetachLink(_)
        | Step::UnpinApp(_)
        | Step::Record(_)
        | Step::Unrecord(_) => vec![],
    }
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
