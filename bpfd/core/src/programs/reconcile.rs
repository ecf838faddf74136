//! From what files made before to what they declare now: apps that no file declares any more go, new ones and those that are loaded from
//! something else come, and of all others the links that files made are made those that they declare. What requests made is left alone.
//!
//! This file must never decide what an image or an object is.

use std::collections::BTreeSet;

use super::FileOrigin;
use crate::changes::{self, Fresh, Loaded, RequestError, only_program, placement};
use crate::hook::Placement;
use crate::ident::{AppUid, Handle, LinkUid};
use crate::names::AppName;
use crate::request::AttachAsk;
use crate::snapshot::Snapshot;
use crate::state::{App, Change, Link, LinkOrigin, Owner, Persist, State};

/// An app that a file declares.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name.
    pub name: AppName,
    /// The file, and what it says of its bytes.
    pub origin: FileOrigin,
    /// Its programs, if they are to be loaded: there is no such app, or it was loaded from something else.
    pub loaded: Option<Loaded>,
    /// Where it is attached.
    pub attach: Vec<(AttachAsk, Option<String>)>,
}

impl Wanted {
    /// The app that the same file made, under the same name.
    fn row<'a>(&self, state: &'a State) -> Option<&'a App> {
        let made = |app: &&App| app.origin.file().is_some_and(|origin| origin.file == self.origin.file);
        state.app_named(&self.name).filter(made)
    }

    /// Whether the app is there, loaded from what the file says now. One that a start could not load is not.
    pub fn is_loaded(Snapshot { state, observed, .. }: &Snapshot, name: &AppName, origin: &FileOrigin) -> bool {
        let app = state.app_named(name).filter(|app| app.origin.file() == Some(origin));
        app.is_some_and(|app| observed.apps.contains_key(&app.uid))
    }
}

/// The apps that a file made which does not declare them any more. What `unread` files made stays: nobody knows what they declare.
pub fn gone(state: &State, declared: &BTreeSet<(String, AppName)>, unread: &BTreeSet<String>) -> Vec<AppUid> {
    let is_gone = |app: &&App| {
        let file = app.origin.file().map(|origin| &origin.file).filter(|file| !unread.contains(*file));
        file.is_some_and(|file| !declared.contains(&(file.clone(), app.name.clone())))
    };
    state.apps.values().filter(is_gone).map(|app| app.uid).collect()
}

/// Identities that are handed out one after another.
struct Identities {
    links: std::vec::IntoIter<(LinkUid, Handle)>,
    next: Handle,
    now: u64,
}

/// The changes after which each of these is as it is declared.
///
/// # Errors
/// [`RequestError`] of the first that cannot be so: then none of them is.
pub fn reconcile(
    state: &State,
    gone: &[AppUid],
    wanted: &[Wanted],
    owner: &Owner,
    fresh: &Fresh,
) -> Result<Vec<Change>, RequestError> {
    let mut identities = Identities { links: fresh.links.clone().into_iter(), next: fresh.programs, now: fresh.now };
    let mut all: Vec<Change> =
        gone.iter().filter(|app| state.apps.contains_key(app)).map(|app| Change::Unload(*app)).collect();
    let mut state = state.after(&all)?;
    for wanted in wanted {
        let changes = one(&state, wanted, owner, &mut identities)?;
        state = state.after(&changes)?;
        all.extend(changes);
    }
    Ok(all)
}

fn one(
    state: &State,
    wanted: &Wanted,
    owner: &Owner,
    identities: &mut Identities,
) -> Result<Vec<Change>, RequestError> {
    match (&wanted.loaded, wanted.row(state)) {
        (Some(loaded), row) => {
            let old: Vec<Change> = row.map(|row| Change::Unload(row.uid)).into_iter().collect();
            let fresh = identities.fresh(loaded);
            let new = changes::load(&state.after(&old)?, loaded.clone(), owner, &fresh)?;
            Ok(old.into_iter().chain(new).collect())
        }
        (None, Some(row)) => links(state, row, wanted, owner, identities),
        (None, None) => Ok(vec![]),
    }
}

impl Identities {
    fn fresh(&mut self, loaded: &Loaded) -> Fresh {
        let app = self.next;
        let programs = app.next();
        let taken = u32::try_from(loaded.programs.len()).unwrap_or(u32::MAX);
        self.next = Handle(programs.0.saturating_add(taken));
        let links = self.links.by_ref().take(loaded.attach.len()).collect();
        Fresh { app, links, programs, now: self.now }
    }
}

/// The links that a file made of an app, made those that it declares.
fn links(
    state: &State,
    app: &App,
    wanted: &Wanted,
    owner: &Owner,
    identities: &mut Identities,
) -> Result<Vec<Change>, RequestError> {
    let mut old: Vec<&Link> = state.links_of(app.uid).filter(|link| link.origin == LinkOrigin::File).collect();
    old.sort_by_key(|link| link.handle);
    let (mut changes, mut new) = (Vec::new(), Vec::new());
    for (ask, function) in &wanted.attach {
        let function = match function {
            Some(function) => app.known(function)?.function.clone(),
            None => only_program(app, ask.hook.kind())?,
        };
        let advice = app.advice.get(&function).cloned().unwrap_or_default();
        let fixed = app.program(&function).and_then(|program| program.target.as_ref());
        let place = placement(&function, fixed, &ask.hook, &advice)?;
        match old.iter().position(|link| link.function == function && same_hook(&link.placement, &place)) {
            Some(at) => changes.extend(moved(old.remove(at), &place)),
            None => new.push((ask, function, advice)),
        }
    }
    let mut all: Vec<Change> = old.into_iter().map(|link| Change::Detach(link.uid)).collect();
    all.extend(changes);
    for (ask, function, advice) in new {
        let Some(identity) = identities.links.next() else { break };
        let by = (owner, Persist::Yes);
        let link = changes::link(app, function, ask, &advice, by, identity, identities.now, None)?;
        all.push(Change::Attach(Link { origin: LinkOrigin::File, ..link }));
    }
    Ok(all)
}

/// Whether a link can become the other by an update.
fn same_hook(one: &Placement, other: &Placement) -> bool {
    match (one, other) {
        (Placement::Shared(one), Placement::Shared(other)) => one.asked == other.asked && one.mode == other.mode,
        (Placement::Own(one), Placement::Own(other)) => one == other,
        (Placement::Shared(_), Placement::Own(_)) | (Placement::Own(_), Placement::Shared(_)) => false,
    }
}

fn moved(link: &Link, place: &Placement) -> Option<Change> {
    let (Some(was), Some(place)) = (link.placement.place(), place.place()) else { return None };
    let (priority, proceed_on) = (place.priority, place.proceed_on);
    ((was.priority, was.proceed_on) != (priority, proceed_on)).then_some(Change::Update {
        link: link.uid,
        priority: Some(priority),
        proceed_on: Some(proceed_on),
    })
}
