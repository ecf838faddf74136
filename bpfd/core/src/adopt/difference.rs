//! What differs since the state was lost, in the words of people. It must never decide anything.

use std::collections::BTreeSet;
use std::fmt;

use super::{Decision, Recovery};
use crate::ident::GenerationUid;
use crate::kernel::Observed;
use crate::state::{App, Link, ObjectDigest, State};

/// In which way something differs.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Side {
    /// It runs, and the database did not have it.
    OnlyRuns,
    /// The database has it, and it does not run.
    OnlyInDatabase,
    /// It runs otherwise than the database says.
    Differs,
    /// It is pinned, and neither a row nor a readable record says what it is.
    Unrecorded,
    /// It runs, and the bytes of its object are lost.
    ObjectLost,
}

/// What differs.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Thing {
    /// An app.
    App,
    /// A link.
    Link,
    /// A chain program.
    Generation,
}

/// One thing that differs.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Difference {
    /// How.
    pub side: Side,
    /// What.
    pub thing: Thing,
    /// As people name it; its uid if nothing says.
    pub name: String,
    /// Its identity.
    pub uid: String,
    /// In half a sentence.
    pub detail: String,
}

impl Recovery {
    /// Everything that differs still, in a fixed order. `lost` are the objects whose bytes are gone.
    pub fn differences(
        &self,
        state: &State,
        observed: &Observed,
        lost: &BTreeSet<ObjectDigest>,
    ) -> BTreeSet<Difference> {
        let app = |side, app: &App, detail| Difference {
            side,
            thing: Thing::App,
            name: app.name.to_string(),
            uid: app.uid.to_string(),
            detail,
        };
        let link = |side, names: &State, link: &Link, detail| Difference {
            side,
            thing: Thing::Link,
            name: names.link_name(link),
            uid: link.uid.to_string(),
            detail,
        };
        // The name of a link that was set aside may be that of an app that runs.
        let mut aside = state.clone();
        aside.apps.extend(self.kept.apps.clone());
        let owned = |app: &App| format!("of {}", app.owner);
        let mut all = BTreeSet::new();
        let adopted = state.apps.values().filter(|app| self.adopted.apps.contains(&app.uid));
        all.extend(adopted.map(|row| app(Side::OnlyRuns, row, owned(row))));
        let adopted = state.links.values().filter(|link| self.adopted.links.contains(&link.uid));
        all.extend(adopted.map(|row| link(Side::OnlyRuns, state, row, placed(row))));
        all.extend(self.kept.apps.values().map(|row| app(Side::OnlyInDatabase, row, owned(row))));
        all.extend(self.kept.links.values().map(|row| link(Side::OnlyInDatabase, &aside, row, placed(row))));
        let differing = self.differing.apps.values().filter_map(|row| Some((row, state.apps.get(&row.uid)?)));
        all.extend(differing.map(|(row, runs)| app(Side::Differs, runs, apart(&named(runs), &named(row)))));
        let differing = self.differing.links.values().filter_map(|row| Some((row, state.links.get(&row.uid)?)));
        all.extend(differing.map(|(row, runs)| link(Side::Differs, state, runs, apart(&placed(runs), &placed(row)))));
        all.extend(self.unexplained(observed));
        let lost = state.apps.values().filter(|app| lost.contains(&app.object));
        all.extend(lost.map(|row| app(Side::ObjectLost, row, format!("object sha256:{}", row.object))));
        all
    }

    /// What is pinned still, and no row explains.
    fn unexplained(&self, observed: &Observed) -> Vec<Difference> {
        let nameless = |thing, uid: String, detail: String| Difference {
            side: Side::Unrecorded,
            thing,
            name: uid.clone(),
            uid,
            detail,
        };
        let apps = self.spared.apps.iter().filter_map(|app| {
            let pinned = observed.apps.get(app).map(|pinned| {
                let programs: Vec<&str> = pinned.programs.keys().map(String::as_str).collect();
                format!("pinned programs: {}", programs.join(", "))
            });
            let half = || observed.half_made.contains(app).then(|| "its pins are incomplete".to_owned());
            Some(nameless(Thing::App, app.to_string(), pinned.or_else(half)?))
        });
        let links = self.spared.links.iter().filter_map(|link| {
            let runs = observed.chain_running(*link).and_then(|chain| {
                let member = observed.members(&chain).into_iter().find(|member| member.link == *link)?;
                Some(format!("`{}` runs on `{}`", member.function, observed.chains.get(&chain)?.name))
            });
            let pinned = observed.links.contains(link) || observed.half_links.contains(link);
            let pinned = (pinned || observed.copied().any(|copied| copied == *link)).then(|| "it is pinned".to_owned());
            let recorded = observed.recorded.links.contains_key(link) || observed.unread_records.contains(link);
            let recorded = || recorded.then(|| "it has a record alone".to_owned());
            Some(nameless(Thing::Link, link.to_string(), runs.or(pinned).or_else(recorded)?))
        });
        // One with a record is there with its links.
        let unreadable = |uid: &&GenerationUid| observed.generations.get(uid).is_some_and(|it| it.members.is_none());
        let generations = self
            .spared
            .generations
            .iter()
            .filter(unreadable)
            .map(|uid| nameless(Thing::Generation, uid.to_string(), "nothing says which links it runs".to_owned()));
        apps.chain(links).chain(generations).collect()
    }
}

impl Difference {
    /// Whether a decision takes it off: what it is about runs no longer then.
    pub fn is_removed_by(&self, decision: Decision) -> bool {
        match self.side {
            Side::OnlyRuns => decision == Decision::Discard,
            Side::Unrecorded => true,
            Side::OnlyInDatabase | Side::Differs | Side::ObjectLost => false,
        }
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::App => "app",
            Self::Link => "link",
            Self::Generation => "chain program",
        })
    }
}

fn named(app: &App) -> String {
    format!("generation {} by the name `{}`", app.generation, app.name)
}

fn placed(link: &Link) -> String {
    match link.placement.place() {
        Some(place) => format!("priority {}, proceed-on {{{}}}", place.priority, place.proceed_on),
        None => format!("of {}", link.owner),
    }
}

fn apart(runs: &str, row: &str) -> String {
    match runs == row {
        true => format!("runs with {runs}; the database has an earlier row of it"),
        false => format!("runs with {runs}; the database says {row}"),
    }
}
