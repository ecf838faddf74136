//! Requests as questions to the policy, at the door and again on what they turned out to mean. `bpfd-policy` decides.
//!
//! `Authorized` is the proof that a decision was made: its only maker is `authorize`, and every handler takes one. This file must
//! never look at a socket or a clock, nor decide by itself.

use bpfd_policy::Policy;
pub use bpfd_policy::caller::{
    Asked, Credentials, Denied, GROUP, HookFacts, Principal, Reach, SourceFacts, Unit, VIEW_GROUP, Verb,
};
pub use bpfd_policy::decide::Stage;
pub use bpfd_policy::image::{Applies, Checked, ScopeOutcome};

use crate::facts::{LoadFacts, attach, on_app, on_chain, on_link, whole};
use crate::ident::AppUid;
use crate::kernel::Observed;
use crate::request::OwnerScope;
use crate::state::{Change, Link, State};

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
    request.asked(state).iter().try_for_each(|asked| at_the_door(policy, &principal, asked))?;
    request.narrow(OwnerScope::of(&principal));
    Ok(Authorized { request, principal })
}

/// The first decision. What only looks, or is no rule's to give, is decided on once; everything else again.
pub fn at_the_door(policy: &Policy, principal: &Principal, asked: &Asked) -> Result<(), Denied> {
    let stage = match asked.verb {
        Verb::List | Verb::MapRead | Verb::MapWrite | Verb::Trust | Verb::Recover => Stage::Last,
        Verb::Pull | Verb::Load | Verb::Attach | Verb::Update | Verb::Detach | Verb::Unload => Stage::First,
    };
    policy.decide(principal, asked, stage).map(drop)
}

/// How far the programs of a load may reach, once it is known what they are, whose signatures count and whose maps they take.
///
/// # Errors
/// [`Denied`], if one of them may not be loaded.
pub fn reach(policy: &Policy, principal: &Principal, load: &LoadFacts) -> Result<Reach, Denied> {
    let mut each = load.asked().into_iter().map(|load| policy.reach(principal, &load, Stage::Last));
    each.try_fold(Reach::Kernel, |least, reach| Ok(least.min(reach?)))
}

/// The decision again, on what a request turned out to mean: names were resolved and priorities filled from labels since it was
/// authorised, a name may have changed hands, and the policy may be another one. With what was observed, on the interfaces that names
/// lead to as well.
pub fn confirm(
    policy: &Policy,
    principal: &Principal,
    state: &State,
    changes: &[Change],
    observed: Option<&Observed>,
) -> Result<(), Denied> {
    let decide = |asked: &Asked| policy.decide(principal, asked, Stage::Last).map(drop);
    // An app of the same request is not in the state yet: it is the caller's to be.
    let loaded = |uid: &AppUid| {
        changes.iter().find_map(|change| match change {
            Change::Load(app) if app.uid == *uid => Some(app),
            _ => None,
        })
    };
    for change in changes {
        match change {
            Change::Load(app) => {
                let loads = LoadFacts::of(state, app).asked();
                loads.iter().try_for_each(|load| policy.confirm_reach(principal, app.reach, load))?;
            }
            Change::Attach(link) => {
                let app = loaded(&link.app).or_else(|| state.apps.get(&link.app));
                attach(state, app, link, observed).iter().try_for_each(decide)?;
            }
            Change::Update { link, priority, proceed_on } => {
                let moved = state.links.get(link).map(|link| link.moved(*priority, *proceed_on));
                on_link(Verb::Update, state, moved.as_ref(), observed).iter().try_for_each(decide)?;
            }
            // The policy says so itself.
            Change::Reorder { .. } => {}
            Change::Rebuild { chain, .. } => on_chain(state, chain, observed).iter().try_for_each(decide)?,
            Change::Persist { app, links, persist: _ } => {
                let links = links.iter().flat_map(|link| on_link(Verb::Update, state, state.links.get(link), observed));
                links.chain(whole(Verb::Update, state.apps.get(app))).try_for_each(|asked| decide(&asked))?;
            }
            Change::Detach(link) => {
                on_link(Verb::Detach, state, state.links.get(link), observed).iter().try_for_each(decide)?;
            }
            Change::Unload(app) => {
                decide(&on_app(Verb::Unload, state.apps.get(app)))?;
                links_go_along(policy, principal, state, *app, observed)?;
            }
        }
    }
    Ok(())
}

/// The links of an app go with it: whoever may not detach one of them may not unload the app.
fn links_go_along(
    policy: &Policy,
    principal: &Principal,
    state: &State,
    app: AppUid,
    observed: Option<&Observed>,
) -> Result<(), Denied> {
    /// Names in one sentence.
    const SHOWN: usize = 4;
    let mut others: Vec<&Link> = Vec::new();
    let mut first = None;
    for link in state.links_of(app) {
        let asked = on_link(Verb::Detach, state, Some(link), observed);
        let Err(denied) = asked.iter().try_for_each(|asked| policy.decide(principal, asked, Stage::Last).map(drop))
        else {
            continue;
        };
        if link.owner.uid == principal.uid {
            return Err(denied);
        }
        first.get_or_insert(denied);
        others.push(link);
    }
    let Some(Denied { rules, .. }) = first else { return Ok(()) };
    others.sort_by_key(|link| link.handle);
    let named = others.iter().take(SHOWN).map(|link| format!("`{}` of {}", state.link_name(link), link.owner));
    let more = if others.len() > SHOWN { ", …" } else { "" };
    let name = state.apps.get(&app).map_or_else(|| app.to_string(), |app| app.name.to_string());
    let named = named.collect::<Vec<_>>().join(", ");
    Err(Denied {
        principal: principal.to_string(),
        uid: principal.uid,
        verb: Verb::Unload,
        why: format!("others have links in app `{name}`: {named}{more}"),
        hint: "ask their owners to detach them, or root to unload the app".to_owned(),
        rules,
    })
}

#[cfg(test)]
mod tests {
    use bpfd_policy::accounts::Accounts;
    use bpfd_policy::rule::AccountId;

    use super::*;
    use crate::ident::LinkUid;
    use crate::request::{UnloadRequest, UnloadWhich};
    use crate::state::{App, Owner, Source};
    use crate::testing::app_of;

    fn principal(uid: u32, groups: &[u32]) -> Principal {
        let credentials = Credentials { groups: Some(groups.iter().copied().collect()), unit: Unit::None };
        Principal { uid, user: Some(format!("u{uid}")), credentials, pid: 1 }
    }

    /// The built-in policy of a host with both groups.
    fn policy() -> Policy {
        let groups = [(GROUP, BPFD), (VIEW_GROUP, VIEW), ("wheel", WHEEL)];
        let groups = groups.map(|(name, gid)| (name.to_owned(), AccountId::Is(gid))).into();
        Policy::default().with_accounts(&Accounts { groups, ..Accounts::default() })
    }

    const BPFD: u32 = 815;
    const VIEW: u32 = 816;
    const WHEEL: u32 = 10;

    #[test]
    fn maps_are_shared_of_apps_that_the_caller_owns() {
        use crate::request::{Bytes, LoadRequest, PullPolicy};
        use crate::sharing::MapFrom;
        use crate::state::{AppOrigin, Persist};
        let mut state = State::default();
        for (number, owner) in [(1, 0), (2, 1000)] {
            let app = app_of(number, owner);
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
            authorize(&policy(), principal(who, &[BPFD]), &state, request).map(|_| ()).map_err(|denied| denied.why)
        };
        assert_eq!(asks(1000, "app-2"), Ok(()));
        assert_eq!(asks(1000, "app-1"), Err("app `app-1` belongs to uid 0".to_owned()));
        assert_eq!(asks(0, "app-2"), Ok(()));
        // That there is no such app, carrying it out says.
        assert_eq!(asks(1000, "app-3"), Ok(()));
    }

    #[test]
    fn a_map_is_taken_by_whoever_may_take_it_when_the_change_begins() {
        use crate::state::{Map, Shared};
        let mut state = State::default();
        let (roots, own) = (app_of(1, 0), app_of(2, 1000));
        let mut load = app_of(3, 1000);
        load.source = Source::Image { reference: "reg.test/a:1".into(), digest: String::new(), signers: vec![] };
        load.reach = Reach::Packet;
        let map = |name: &str, app: &App| Map {
            name: name.to_owned(),
            kind: "array".to_owned(),
            key_size: 4,
            value_size: 4,
            max_entries: 1,
            shared: Some(Shared { app: app.uid, name: app.name.clone(), origin: app.uid }),
        };
        let takes = |maps: &[Map]| Change::Load(App { maps: maps.to_vec(), ..load.clone() });
        let (of_root, of_own) = (map("a", &roots), map("b", &own));
        state.apps.extend([(roots.uid, roots), (own.uid, own)]);
        let confirmed = |change: Change| {
            confirm(&policy(), &principal(1000, &[BPFD]), &state, &[change], None).map_err(|denied| denied.why)
        };
        let others = Err("app `app-1` belongs to uid 0".to_owned());
        assert_eq!(confirmed(takes(std::slice::from_ref(&of_own))), Ok(()));
        assert_eq!(confirmed(takes(std::slice::from_ref(&of_root))), others);
        // A map of one's own beside it is no way round.
        assert_eq!(confirmed(takes(&[of_own, of_root])), others);
    }

    #[test]
    fn an_app_is_persisted_and_a_chain_rebuilt_by_whoever_may_update_them() {
        use crate::hook::{ChainId, InterfaceId, Point};
        use crate::kernel::DispatcherVersion;
        use crate::seat::Seat;
        let mut state = State::default();
        let owner = |uid| Owner { uid, user: None };
        let image = Source::Image { reference: "reg.test/a:1".into(), digest: String::new(), signers: vec![] };
        let own = App { source: image, ..app_of(2, 1000) };
        let mut link = crate::testing::link(9, 0).moved(Some(200.try_into().unwrap()), None);
        (link.app, link.owner) = (own.uid, owner(1000));
        let interface = InterfaceId { netns_cookie: 1, index: 2 };
        let chain = ChainId { interface, point: Point::Xdp };
        link.on = Some(Seat { chain, called: link.placement.asked().unwrap().clone() });
        let persist = |links: &[LinkUid]| Change::Persist {
            app: own.uid,
            links: links.to_vec(),
            persist: crate::state::Persist::Yes,
        };
        let rebuild = Change::Rebuild { chain, version: DispatcherVersion::V2 };
        let changes = [persist(&[]), persist(&[link.uid]), rebuild];
        let may = |state: &State, who: &Principal| {
            changes.clone().map(|change| confirm(&policy(), who, state, &[change], None).is_ok())
        };
        state.apps.insert(own.uid, own.clone());
        state.links.insert(link.uid, link.clone());
        // The app itself has no priority: the band of the built-in rule is no reason against it.
        assert_eq!(may(&state, &principal(1000, &[BPFD])), [true, true, true]);
        assert_eq!(may(&state, &principal(1001, &[BPFD])), [false, false, false]);
        assert_eq!(may(&state, &principal(1000, &[VIEW])), [false, false, false]);
        assert_eq!(may(&state, &principal(0, &[])), [true, true, true]);
        // The app is one's own, the link in it root's.
        link.owner = owner(0);
        state.links.insert(link.uid, link);
        assert_eq!(may(&state, &principal(1000, &[BPFD])), [true, false, false]);
    }

    #[test]
    fn all_is_what_the_caller_may_take_away() {
        let unload = || UnloadRequest { which: UnloadWhich::All, owners: OwnerScope::default(), request: None };
        let reached = |who: Principal| {
            let authorized = authorize(&policy(), who, &State::default(), unload()).ok()?;
            let owners = authorized.request().owners;
            Some([0, 1000, 1001].map(|uid| owners.reaches(&Owner { uid, user: None })))
        };
        assert_eq!(reached(principal(0, &[])), Some([true, true, true]));
        assert_eq!(reached(principal(1000, &[BPFD])), Some([false, true, false]));
        assert_eq!(reached(principal(1001, &[VIEW])), None);
        assert_eq!(reached(principal(1002, &[WHEEL])), None);
    }
}
