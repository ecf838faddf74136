//! Requests as questions to the policy, at the door and again on what they turned out to mean. `bpfd-policy` decides.
//!
//! `Authorized` is the proof that a decision was made: its only maker is `authorize`, and every handler takes one. This file must
//! never look at a socket or a clock, nor decide by itself.

use bpfd_policy::Policy;
pub use bpfd_policy::caller::{Asked, Denied, GROUP, Principal, SourceKind, VIEW_GROUP, Verb};

use crate::hook::ChainId;
use crate::ident::AppUid;
use crate::request::OwnerScope;
use crate::state::{App, Change, Link, Source, State};

/// A request that may be carried out. Its maker is `authorize`.
#[derive(Clone, Debug)]
pub struct Authorized<R> {
    request: R,
    principal: Principal,
}

impl<R> Authorized<R> {
    /// What was asked.
    pub fn request(&self) -> &R {
        &self.request
    }

    /// Who asked.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Both, by value.
    pub fn into_parts(self) -> (R, Principal) {
        (self.request, self.principal)
    }
}

/// A request that says what it asks of which owner's things.
pub trait Ask {
    /// Each thing asked. Names that mean nothing in `state` ask for nothing here: carrying out the request reports them.
    fn asked(&self, state: &State) -> Vec<Asked>;

    /// Told how far `all` goes, where it says `all`.
    fn narrow(&mut self, _: OwnerScope) {}
}

/// The decision over every part of a request; owners are read from `state`. What says `all` is narrowed to what the caller may.
pub fn authorize<R: Ask>(
    policy: &Policy,
    principal: Principal,
    state: &State,
    mut request: R,
) -> Result<Authorized<R>, Denied> {
    request.asked(state).iter().try_for_each(|asked| policy.decide(&principal, asked))?;
    request.narrow(policy.owner_scope(&principal));
    Ok(Authorized { request, principal })
}

/// The decision again, on what a request turned out to mean: names were resolved and priorities filled from labels since it was
/// authorised, a name may have changed hands, and the policy may be another one.
pub fn confirm(policy: &Policy, principal: &Principal, state: &State, changes: &[Change]) -> Result<(), Denied> {
    let of_link = |verb, link| on_link(verb, state, state.links.get(link));
    let of_app = |verb, app| on_app(verb, state.apps.get(app));
    changes.iter().try_for_each(|change| {
        let asked = match change {
            Change::Rebuild { chain, .. } => {
                return on_chain(state, chain).iter().try_for_each(|asked| policy.decide(principal, asked));
            }
            Change::Load(app) => {
                policy.confirm_reach(principal, app.reach, app.source.signers())?;
                load_of(match app.source {
                    Source::Image { .. } => SourceKind::Image,
                    Source::Upload => SourceKind::Upload,
                })
            }
            Change::Attach(link) => {
                let priority = link.placement.place().map(|place| u32::from(place.priority));
                Asked { priority, ..of_app(Verb::Attach, &link.app) }
            }
            Change::Update { link, priority, proceed_on: _ } => {
                Asked { priority: priority.map(u32::from), ..of_link(Verb::Update, link) }
            }
            Change::Persist { app, links, persist: _ } => {
                links.iter().try_for_each(|link| policy.decide(principal, &of_link(Verb::Update, link)))?;
                of_app(Verb::Update, app)
            }
            Change::Detach(link) => of_link(Verb::Detach, link),
            Change::Unload(app) => of_app(Verb::Unload, app),
        };
        policy.decide(principal, &asked)
    })?;
    changes.iter().try_for_each(|change| match change {
        Change::Unload(app) => no_links_of_others(principal, state, *app),
        Change::Load(app) => app
            .maps
            .iter()
            .filter_map(|map| map.shared.as_ref())
            .try_for_each(|shared| policy.decide(principal, &on_app(Verb::Share, state.apps.get(&shared.app)))),
        Change::Attach(_)
        | Change::Update { .. }
        | Change::Persist { .. }
        | Change::Rebuild { .. }
        | Change::Detach(_) => Ok(()),
    })
}

/// An app in which somebody else has links is not its owner's to unload: they would go with it.
fn no_links_of_others(principal: &Principal, state: &State, app: AppUid) -> Result<(), Denied> {
    /// Names in one sentence.
    const SHOWN: usize = 4;
    let mut others: Vec<&Link> = state.links_of(app).filter(|link| link.owner.uid != principal.uid).collect();
    if principal.uid == 0 || others.is_empty() {
        return Ok(());
    }
    others.sort_by_key(|link| link.handle);
    let named = others.iter().take(SHOWN).map(|link| format!("`{}` of {}", state.link_name(link), link.owner));
    let more = if others.len() > SHOWN { ", …" } else { "" };
    let name = state.apps.get(&app).map_or_else(|| app.to_string(), |app| app.name.to_string());
    let named = named.collect::<Vec<_>>().join(", ");
    Err(Denied {
        principal: principal.to_string(),
        verb: Verb::Unload,
        why: format!("others have links in app `{name}`: {named}{more}"),
        hint: "ask their owners to detach them, or root to unload the app".to_owned(),
    })
}

/// A load of such bytes: what is loaded is the caller's own.
pub(crate) fn load_of(source: SourceKind) -> Asked {
    Asked { source: Some(source), ..Asked::verb(Verb::Load) }
}

/// A verb on an app, if there is one.
pub(crate) fn on_app(verb: Verb, app: Option<&App>) -> Asked {
    let thing = app.map(|app| format!("app `{}`", app.name));
    Asked { owner: app.map(|app| app.owner.clone()), thing, ..Asked::verb(verb) }
}

/// A change of a whole chain: of each link in it.
pub(crate) fn on_chain(state: &State, chain: &ChainId) -> Vec<Asked> {
    let links = state.links.values().filter(|link| link.chain() == Some(*chain));
    links.map(|link| on_link(Verb::Update, state, Some(link))).collect()
}

/// A verb on a link, if there is one.
pub(crate) fn on_link(verb: Verb, state: &State, link: Option<&Link>) -> Asked {
    let thing = link.map(|link| format!("link `{}`", state.link_name(link)));
    Asked { owner: link.map(|link| link.owner.clone()), thing, ..Asked::verb(verb) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{UnloadRequest, UnloadWhich};
    use crate::state::Owner;

    fn principal(uid: u32, groups: &[&str]) -> Principal {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Principal { uid, user: Some(format!("u{uid}")), groups, pid: 1 }
    }

    #[test]
    fn maps_are_shared_of_apps_that_the_caller_owns() {
        use crate::request::{Bytes, LoadRequest, PullPolicy};
        use crate::sharing::MapFrom;
        use crate::state::{AppOrigin, Persist};
        let mut state = State::default();
        for (number, owner) in [(1, 0), (2, 1000)] {
            let app = crate::testing::app_of(number, owner);
            state.apps.insert(app.uid, app);
        }
        let asks = |who: u32, app: &str| {
            let request = LoadRequest {
                bytes: Bytes::Image { reference: "reg.test/a:1".to_owned(), pull: PullPolicy::Newer },
                name: None,
                select: vec![],
                globals: vec![],
                map_from: vec![MapFrom { app: app.parse().unwrap(), map: None }],
                labels: crate::labels::Labels::default(),
                attach: vec![],
                persist: Persist::No,
                origin: AppOrigin::Request,
                request: None,
            };
            authorize(&Policy::default(), principal(who, &["bpfd"]), &state, request)
                .map(|_| ())
                .map_err(|denied| denied.why)
        };
        assert_eq!(asks(1000, "app-2"), Ok(()));
        assert_eq!(asks(1000, "app-1"), Err("app `app-1` belongs to uid 0".to_owned()));
        assert_eq!(asks(0, "app-2"), Ok(()));
        // That there is no such app, carrying it out says.
        assert_eq!(asks(1000, "app-3"), Ok(()));
    }

    #[test]
    fn all_is_what_the_caller_may_take_away() {
        let unload = || UnloadRequest { which: UnloadWhich::All, owners: OwnerScope::default(), request: None };
        let reached = |who: Principal| {
            let authorized = authorize(&Policy::default(), who, &State::default(), unload()).ok()?;
            let owners = authorized.request().owners;
            Some([0, 1000, 1001].map(|uid| owners.reaches(&Owner { uid, user: None })))
        };
        assert_eq!(reached(principal(0, &[])), Some([true, true, true]));
        assert_eq!(reached(principal(1000, &["bpfd"])), Some([false, true, false]));
        assert_eq!(reached(principal(1001, &["bpfd-view"])), None);
        assert_eq!(reached(principal(1002, &["wheel"])), None);
    }
}
