//! Lost state: what a start makes of a database that is not the one that the pins belong to. What runs is adopted from the records
//! beside the pins, the database's own rows are set aside, and an administrator decides between the two.
//!
//! This file must never remove anything: until that decision, what has no row is spared.
//!
//! Long because what is adopted, and the table of its cases, are read together.

mod difference;

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::difference::{Difference, Side, Thing};
use crate::hook::Placement;
use crate::ident::{AppUid, GenerationUid, Handle, LinkUid};
use crate::kernel::{Member, Observed, Runs};
use crate::seat::seated;
use crate::stamp::Relation;
use crate::state::{App, Link, ObjectDigest, State};

/// Pins that no row and no readable record explains: they stay until the state is adopted or discarded.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Spared {
    /// Pinned apps, whole or half-made.
    pub apps: BTreeSet<AppUid>,
    /// Links that are pinned, recorded or run.
    pub links: BTreeSet<LinkUid>,
    /// Chain programs with such links in them.
    pub generations: BTreeSet<GenerationUid>,
}

/// Rows by their identities.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct RowUids {
    /// Of apps.
    pub apps: BTreeSet<AppUid>,
    /// Of links.
    pub links: BTreeSet<LinkUid>,
}

/// How the database and the kernel's half differed when the state was lost. While there is one, the daemon is RECOVERED.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Recovery {
    /// How the database stood to the pins.
    pub relation: Relation,
    /// Rows that only the records had.
    pub adopted: RowUids,
    /// Rows that only the database had: nothing is loaded or attached for them.
    pub kept: State,
    /// The database's rows of things that run otherwise.
    pub differing: State,
    /// What no row explains.
    pub spared: Spared,
}

/// What an administrator decides.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// What runs is the intent.
    Adopt,
    /// What the database had is the intent.
    Discard,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Adopt => "adopt",
            Self::Discard => "discard",
        })
    }
}

/// The rows that a lost state is adopted as, and what differed. `rows` are the database's, `earlier` is what it knew of an earlier loss.
///
/// A record decides about what it records; where it cannot be read, the row of something that is pinned does. What runs decides
/// about places in chains, since a record may be one change behind.
pub fn adopt(relation: Relation, rows: &State, earlier: Option<&Recovery>, observed: &Observed) -> (State, Recovery) {
    let rows = earlier.map_or_else(|| rows.clone(), |earlier| earlier.after(Decision::Discard, rows));
    let recorded = &observed.recorded;
    let mut state = State::default();
    for uid in observed.apps.keys() {
        let Some(app) = recorded.apps.get(uid).or_else(|| rows.apps.get(uid)) else { continue };
        let name = state.free_name(&app.name);
        state.apps.insert(*uid, App { name, ..app.clone() });
    }
    let stands = |uid: &LinkUid| {
        let pinned = observed.links.contains(uid) || observed.copied().any(|copied| copied == *uid);
        pinned || observed.unread_records.contains(uid) || observed.chain_running(*uid).is_some()
    };
    let unrecorded = rows.links.values().filter(|link| !recorded.links.contains_key(&link.uid) && stands(&link.uid));
    for link in recorded.links.values().chain(unrecorded) {
        if state.apps.get(&link.app).is_some_and(|app| app.program(&link.function).is_some()) {
            state.links.insert(link.uid, as_it_runs(link, observed));
        }
    }
    let state = seated(&state, observed);
    let mut recovery =
        Recovery { relation, spared: spared(&state, observed), kept: rows.clone(), ..Recovery::default() };
    recovery.kept.apps.retain(|uid, _| !state.apps.contains_key(uid));
    recovery.kept.links.retain(|uid, _| !state.links.contains_key(uid));
    for (uid, app) in &state.apps {
        match rows.apps.get(uid).map(|row| App { programs: app.programs.clone(), ..row.clone() }) {
            None => drop(recovery.adopted.apps.insert(*uid)),
            Some(row) if row != *app => drop(recovery.differing.apps.insert(*uid, row)),
            Some(_) => {}
        }
    }
    for (uid, link) in &state.links {
        match rows.links.get(uid) {
            None => drop(recovery.adopted.links.insert(*uid)),
            Some(row) if row.as_asked() != link.as_asked() => {
                recovery.differing.links.insert(*uid, row.as_asked());
            }
            Some(_) => {}
        }
    }
    (state, recovery)
}

/// Whether something is pinned or recorded, or runs, that no row explains, nor an earlier loss; or a record is of a later change than
/// its row. Where nothing says which database the pins belong to, this does. `rows` are the database's, and those that an interrupted
/// operation leads to. What a crash leaves while something is made or removed does not count: it is half-made, or does not run.
pub fn lacks(rows: &[&State], earlier: &Spared, observed: &Observed) -> bool {
    let known_app = |app: &AppUid| earlier.apps.contains(app) || rows.iter().any(|rows| rows.apps.contains_key(app));
    let known_link =
        |link: &LinkUid| earlier.links.contains(link) || rows.iter().any(|rows| rows.links.contains_key(link));
    let (recorded, running) = (&observed.recorded, observed.running());
    let may_run = observed.generations.values().filter(|generation| generation.runs != Runs::No);
    let members = may_run.flat_map(|generation| generation.members.iter().flatten()).map(|member| &member.link);
    let mut apps = observed.apps.keys().chain(recorded.apps.keys());
    let links = observed.links.iter().chain(recorded.links.keys()).chain(&observed.unread_records);
    // A record follows its row, so it is never ahead of it.
    let app_generation =
        |app: &App| rows.iter().filter_map(|rows| rows.apps.get(&app.uid)).map(|row| row.generation).max();
    let link_generation =
        |link: &Link| rows.iter().filter_map(|rows| rows.links.get(&link.uid)).map(|row| row.generation).max();
    let apps_ahead = recorded.apps.values().any(|app| app_generation(app).is_some_and(|row| app.generation > row));
    let links_ahead =
        recorded.links.values().any(|link| link_generation(link).is_some_and(|row| link.generation > row));
    !apps.all(known_app) || !links.chain(&running).chain(members).all(known_link) || apps_ahead || links_ahead
}

/// A link as its chain runs it.
fn as_it_runs(link: &Link, observed: &Observed) -> Link {
    let mut link = link.as_asked();
    let is_it = |member: &&Member| member.link == link.uid;
    let seen = observed.chain_running(link.uid).and_then(|chain| observed.members(&chain).iter().find(is_it).cloned());
    if let (Placement::Shared(place), Some(Member { priority, effective, proceed_on, .. })) =
        (&mut link.placement, seen)
        && (place.effective, place.proceed_on) != (effective, proceed_on)
    {
        (place.priority, place.effective, place.proceed_on) = (priority, effective, proceed_on);
    }
    link
}

/// Everything that is pinned or runs, and that no row of `state` explains.
fn spared(state: &State, observed: &Observed) -> Spared {
    let known = |member: &Member| state.links.contains_key(&member.link);
    let explained = |members: &Option<Vec<Member>>| members.as_ref().is_some_and(|members| members.iter().all(known));
    let generations = observed.generations.iter().filter(|(_, generation)| !explained(&generation.members));
    let pinned = observed.links.iter().chain(&observed.half_links).copied().chain(observed.copied());
    let recorded = observed.recorded.links.keys().chain(&observed.unread_records);
    let mut links: BTreeSet<LinkUid> = pinned.chain(recorded.copied()).chain(observed.running()).collect();
    links.extend(observed.generations.values().flat_map(|pinned| pinned.members.iter().flatten()).map(|it| it.link));
    links.retain(|link| !state.links.contains_key(link));
    let apps = observed.apps.keys().chain(&observed.half_made).filter(|app| !state.apps.contains_key(app));
    Spared { apps: apps.copied().collect(), links, generations: generations.map(|(uid, _)| *uid).collect() }
}

impl Recovery {
    /// Whether nothing differed: then nothing is to be decided.
    pub fn is_empty(&self) -> bool {
        let Self { relation: _, adopted, kept, differing, spared } = self;
        let none = |state: &State| state.apps.is_empty() && state.links.is_empty();
        *adopted == RowUids::default() && none(kept) && none(differing) && *spared == Spared::default()
    }

    /// The rows after a decision; `state` are those of now, with what was changed since the state was recovered.
    pub fn after(&self, decision: Decision, state: &State) -> State {
        let mut next = state.clone();
        if decision == Decision::Adopt {
            return next;
        }
        next.apps.retain(|uid, _| !self.adopted.apps.contains(uid));
        next.links.retain(|uid, link| !self.adopted.links.contains(uid) && next.apps.contains_key(&link.app));
        for (uid, row) in &self.differing.apps {
            if let Some(app) = next.apps.get_mut(uid) {
                app.clone_from(row);
            }
        }
        for (uid, row) in &self.differing.links {
            if let Some(link) = next.links.get_mut(uid) {
                *link = Link { on: link.on.take(), ..row.clone() };
            }
        }
        for (uid, app) in &self.kept.apps {
            let name = next.free_name(&app.name);
            next.apps.insert(*uid, App { name, ..app.clone() });
        }
        let kept = self.kept.links.iter().filter(|(_, link)| next.apps.contains_key(&link.app));
        next.links.extend(kept.map(|(uid, link)| (*uid, link.as_asked())).collect::<Vec<_>>());
        next
    }

    /// The highest handle that a row has that was set aside.
    pub fn highest_handle(&self) -> Option<Handle> {
        self.kept.highest_handle()
    }

    /// The objects of rows that were set aside: a decision may need them.
    pub fn objects(&self) -> impl Iterator<Item = ObjectDigest> {
        self.kept.apps.values().chain(self.differing.apps.values()).map(|app| app.object)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::hook::{ChainId, Point};
    use crate::kernel::{ChainMode, Live, LiveGeneration, ObservedChain, PinnedApp, PinnedGeneration, Runs, Step};
    use crate::plan::{PlanError, converge, plan};
    use crate::record::with_records;
    use crate::state::Change;

    const TOP: GenerationUid = GenerationUid(Uuid::from_u128(90));

    fn app(uid: u128, name: &str) -> App {
        let row = format!(
            r#"{{"uid":"{}","handle":{uid},"name":"{name}","owner":{{"uid":0,"user":null}},"source":"upload",
            "object":"{}","reach":"kernel","globals":{{}},"programs":[{{"handle":{},"function":"count","section":"xdp",
            "kind":"xdp","tag":[0,0,0,0,0,0,0,0],"load_time":{uid}}}],"maps":[],"labels":{{}},"user_labels":{{}},"advice":{{}},
            "created":0,"generation":1,"request":null}}"#,
            Uuid::from_u128(uid),
            "00".repeat(32),
            uid + 50,
        );
        serde_json::from_str(&row).unwrap()
    }

    /// A link of the app ten below it, on eth0.
    fn link(uid: u128, priority: u32) -> Link {
        let row = format!(
            r#"{{"uid":"{}","handle":{uid},"app":"{}","function":"count","placement":{{"chain":{{"key":{{"netns":"host",
            "interface":"eth0","point":"xdp"}},"priority":{priority},"proceed_on":4,"mode":"auto"}}}},
            "owner":{{"uid":0,"user":null}},"origin":"request","lifetime":"until-detached","when_absent":"wait","created":0,
            "generation":1,"request":null}}"#,
            Uuid::from_u128(uid),
            Uuid::from_u128(uid - 10),
        );
        serde_json::from_str(&row).unwrap()
    }

    fn rows(apps: &[App], links: &[Link]) -> State {
        State {
            apps: apps.iter().map(|app| (app.uid, app.clone())).collect(),
            links: links.iter().map(|link| (link.uid, link.clone())).collect(),
        }
    }

    const ETH0: ChainId =
        ChainId { interface: crate::hook::InterfaceId { netns_cookie: 1, index: 2 }, point: Point::Xdp };

    /// A kernel that has these rows: apps are pinned and recorded, links are recorded, and eth0 runs them.
    fn pinned(state: &State) -> Observed {
        let named = |link: &Link| Some((link.placement.asked()?.clone(), Some(ETH0.interface)));
        let interfaces = state.links.values().chain([&link(19, 1)]).filter_map(named).collect();
        let mut observed = Observed {
            apps: state.apps.keys().map(|uid| (*uid, PinnedApp::default())).collect(),
            recorded: state.clone(),
            namespaces: [(crate::names::Netns::Host, Some(1))].into(),
            interfaces,
            ..Observed::default()
        };
        let name = link(19, 1).placement.asked().unwrap().clone();
        let live = match state.links.is_empty() {
            true => Live::Empty,
            false => Live::Ours(LiveGeneration { program: crate::ident::KernelId(7), generation: TOP }),
        };
        let mode = ChainMode::Fused { cause: String::new() };
        observed.chains.insert(ETH0, ObservedChain { name, live, driven: None, mode });
        let here = seated(state, &observed);
        let members = crate::order::members(&here, &ETH0);
        if !members.is_empty() {
            let (program, runs) = (crate::ident::KernelId(7), Runs::Yes);
            let pinned = PinnedGeneration { program, members: Some(members), runs, is_moved: false, is_linked: false };
            observed.generations.insert(TOP, pinned);
        }
        observed
    }

    fn told(state: &State, recovery: &Recovery, observed: &Observed) -> Vec<String> {
        let differences = recovery.differences(state, observed, &BTreeSet::new());
        differences.iter().map(|it| format!("{:?} {} {}", it.side, it.thing, it.name)).collect()
    }

    /// What a repair would do.
    fn steps(state: &State, recovery: &Recovery, observed: &Observed) -> Vec<Step> {
        let observed = Observed { spared: recovery.spared.clone(), ..observed.clone() };
        with_records(converge(state, &observed, &mut || Uuid::nil()), state, &observed).steps
    }

    #[test]
    fn what_runs_is_adopted_and_what_only_the_database_has_is_set_aside() {
        let runs = rows(&[app(1, "a"), app(2, "b")], &[link(11, 50), link(12, 20)]);
        let observed = pinned(&runs);
        let only = |sides: &[&str]| sides.iter().map(|side| (*side).to_owned()).collect::<Vec<_>>();
        for (what, database, expected) in [
            ("as it runs", runs.clone(), vec![]),
            (
                "nothing",
                State::default(),
                only(&[
                    "OnlyRuns app a",
                    "OnlyRuns app b",
                    "OnlyRuns link a/count@eth0:xdp",
                    "OnlyRuns link b/count@eth0:xdp",
                ]),
            ),
            (
                "of before",
                rows(&[app(1, "a"), app(3, "gone")], &[link(11, 60), link(13, 10)]),
                only(&[
                    "OnlyRuns app b",
                    "OnlyRuns link b/count@eth0:xdp",
                    "OnlyInDatabase app gone",
                    "OnlyInDatabase link gone/count@eth0:xdp",
                    "Differs link a/count@eth0:xdp",
                ]),
            ),
            (
                "another host's, with the same name",
                rows(&[app(4, "a")], &[]),
                only(&[
                    "OnlyRuns app a",
                    "OnlyRuns app b",
                    "OnlyRuns link a/count@eth0:xdp",
                    "OnlyRuns link b/count@eth0:xdp",
                    "OnlyInDatabase app a",
                ]),
            ),
        ] {
            let (state, recovery) = adopt(Relation::Another, &database, None, &observed);
            assert_eq!(state, seated(&runs, &observed), "{what}");
            assert_eq!(told(&state, &recovery, &observed), expected, "{what}");
            assert_eq!(recovery.is_empty(), expected.is_empty(), "{what}");
            assert_eq!(steps(&state, &recovery, &observed), [], "{what}: nothing is done");
            assert_eq!(recovery.after(Decision::Adopt, &state), state, "{what}");
            let as_asked = |state: &State| state.links.values().map(Link::as_asked).collect::<Vec<_>>();
            let back = recovery.after(Decision::Discard, &state);
            assert_eq!((&back.apps, as_asked(&back)), (&database.apps, as_asked(&database)), "{what}");
            // A crash between the adoption and the state map: the same again.
            let again = adopt(Relation::Another, &state, Some(&recovery), &observed);
            assert_eq!(again, (state, recovery), "{what}");
        }
    }

    #[test]
    fn what_was_changed_since_holds_after_a_decision_and_a_name_that_was_taken_gets_a_number() {
        let observed = pinned(&rows(&[app(1, "a")], &[link(11, 50)]));
        let database = rows(&[app(2, "b")], &[link(12, 20)]);
        let (mut state, recovery) = adopt(Relation::Another, &database, None, &observed);
        state.apps.insert(app(3, "b").uid, app(3, "b"));
        let back = recovery.after(Decision::Discard, &state);
        let names: Vec<String> = back.apps.values().map(|app| app.name.to_string()).collect();
        assert_eq!(names, ["b-2", "b"]);
        assert_eq!(back.links.keys().collect::<Vec<_>>(), [&link(12, 0).uid]);
    }

    #[test]
    fn two_records_of_one_name_are_two_apps() {
        let observed = pinned(&rows(&[app(1, "a"), app(2, "a")], &[]));
        let (state, _) = adopt(Relation::Another, &State::default(), None, &observed);
        let names: Vec<String> = state.apps.values().map(|app| app.name.to_string()).collect();
        assert_eq!(names, ["a", "a-2"]);
    }

    #[test]
    fn a_record_that_is_behind_does_not_move_a_link() {
        let runs = rows(&[app(1, "a"), app(2, "b")], &[link(11, 50), link(12, 20)]);
        let mut observed = pinned(&runs);
        let behind = link(11, 10);
        observed.recorded.links.insert(behind.uid, behind);
        let (state, recovery) = adopt(Relation::Another, &State::default(), None, &observed);
        let place = state.links.values().next().unwrap().placement.place().unwrap().clone();
        assert_eq!((u32::from(place.priority), u32::from(place.effective)), (50, 50));
        assert!(matches!(steps(&state, &recovery, &observed).as_slice(), [Step::Record(_)]));
    }

    #[test]
    fn what_is_pinned_without_a_record_keeps_its_row_or_is_spared() {
        let runs = rows(&[app(1, "a"), app(2, "b")], &[link(11, 50), link(12, 20)]);
        let mut observed = pinned(&runs);
        let (lost_app, lost_link) = (app(2, "b").uid, link(12, 20).uid);
        observed.recorded.apps.remove(&lost_app);
        observed.recorded.links.remove(&lost_link);
        let (state, recovery) = adopt(Relation::Older { by: 1 }, &runs, None, &observed);
        assert_eq!((&state, recovery.is_empty()), (&seated(&runs, &observed), true));

        let (state, recovery) = adopt(Relation::Another, &State::default(), None, &observed);
        assert_eq!(
            told(&state, &recovery, &observed),
            [
                "OnlyRuns app a".to_owned(),
                "OnlyRuns link a/count@eth0:xdp".to_owned(),
                format!("Unrecorded app {lost_app}"),
                format!("Unrecorded link {lost_link}"),
            ]
        );
        assert_eq!(steps(&state, &recovery, &observed), [], "nothing is removed, and the chain stays");
        let swept = steps(&state, &Recovery::default(), &observed);
        assert!(swept.contains(&Step::UnpinApp(lost_app)), "without it: {swept:?}");
        let spared = Observed { spared: recovery.spared.clone(), ..observed };
        let change = [Change::Detach(link(11, 50).uid)];
        let refused = plan(&state, &spared, &change, &[], &mut || Uuid::nil()).unwrap_err();
        assert!(matches!(refused, PlanError::Unexplained { link, .. } if link == lost_link), "{refused}");
    }

    /// The links were changed once more.
    fn later(observed: &Observed) -> Observed {
        let mut observed = observed.clone();
        observed.recorded.links.values_mut().for_each(|link| link.generation += 1);
        observed
    }

    #[test]
    fn where_nothing_says_whose_the_pins_are_a_database_that_lacks_some_is_not_theirs() {
        let runs = rows(&[app(1, "a")], &[link(11, 50)]);
        let observed = pinned(&runs);
        let nothing = Spared::default();
        assert!(!lacks(&[&runs], &nothing, &observed));
        assert!(!lacks(&[&State::default()], &nothing, &pinned(&State::default())), "a new host");
        assert!(lacks(&[&State::default()], &nothing, &observed));
        assert!(!lacks(&[&State::default(), &runs], &nothing, &observed), "an interrupted operation explains it");
        let mut before = runs.clone();
        assert!(lacks(&[&before], &nothing, &later(&observed)), "a record of a later change");
        before.links.values_mut().for_each(|link| link.generation += 2);
        assert!(!lacks(&[&before], &nothing, &later(&observed)), "a record that is behind");

        // An earlier version left no records, and each of these alone tells.
        let unrecorded = || Observed { recorded: State::default(), ..pinned(&runs) };
        let without_app = || Observed { apps: Default::default(), ..unrecorded() };
        assert!(lacks(&[&State::default()], &nothing, &Observed { chains: Default::default(), ..without_app() }));
        let without_pins = Observed { generations: Default::default(), ..without_app() };
        assert!(!lacks(&[&State::default()], &nothing, &without_pins), "somebody else's, for all that is known");
        let mut held = without_pins.clone();
        held.links.insert(link(11, 50).uid);
        assert!(lacks(&[&State::default()], &nothing, &held));
        let only_app = Observed { apps: unrecorded().apps, ..without_pins };
        assert!(lacks(&[&State::default()], &nothing, &only_app));
        let (_, recovery) = adopt(Relation::Incomplete, &State::default(), None, &unrecorded());
        assert!(!lacks(&[&State::default()], &recovery.spared, &unrecorded()), "as it was found before");

        // Left by a crash: it does not run.
        let mut left = Observed { chains: Default::default(), ..without_app() };
        let mut dead = left.generations.get(&TOP).cloned().unwrap();
        dead.runs = Runs::No;
        left.generations.insert(TOP, dead);
        assert!(!lacks(&[&State::default()], &nothing, &left));
    }

    #[test]
    fn a_link_in_a_namespace_without_a_name_is_still_in_its_chain() {
        let runs = rows(&[app(1, "a")], &[link(11, 50)]);
        let mut observed = pinned(&runs);
        for named in observed.interfaces.values_mut() {
            *named = None;
        }
        let chain = observed.chains.get_mut(&ETH0).unwrap();
        chain.name.netns = crate::names::Netns::Nameless(crate::names::Nameless(Some(4)));
        let (state, recovery) = adopt(Relation::Another, &State::default(), None, &observed);
        let on = state.links.values().next().unwrap().on.clone().unwrap();
        assert_eq!((on.chain, on.called.to_string()), (ETH0, "netnsid/4:eth0:xdp".to_owned()));
        assert_eq!(steps(&state, &recovery, &observed), []);
    }

    #[test]
    fn what_differed_is_read_as_it_was_stored() {
        let observed = pinned(&rows(&[app(1, "a")], &[link(11, 50)]));
        let (_, recovery) = adopt(Relation::Older { by: 3 }, &rows(&[app(2, "b")], &[]), None, &observed);
        let text = serde_json::to_string(&recovery).unwrap();
        assert_eq!(serde_json::from_str::<Recovery>(&text).unwrap(), recovery);
    }
}
