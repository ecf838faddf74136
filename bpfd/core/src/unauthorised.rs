//! UNAUTHORISED: what the policy of now refuses of what was made under another one, and what it therefore keeps from being started again.
//!
//! This file must never decide by itself, nor take anything away.

use std::collections::BTreeMap;
use std::sync::Arc;

use bpfd_policy::Policy;
use bpfd_policy::caller::{Asked, Credentials, Principal, Verb};
use bpfd_policy::decide::Stage;

use crate::facts::{LoadFacts, on_link};
use crate::ident::{AppUid, LinkUid};
use crate::kernel::Observed;
use crate::state::{App, Link, Owner, Source, State};

/// What a policy refuses of what it did not decide about: things that were made under another one.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Unauthorised {
    /// Apps that their makers could not load now, and why.
    pub apps: BTreeMap<AppUid, String>,
    /// Links that their makers could not attach now, and why.
    pub links: BTreeMap<LinkUid, String>,
}

impl Unauthorised {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.apps.is_empty() && self.links.is_empty()
    }

    /// Refuses an app, too, and its links with it.
    pub fn refuse(&mut self, state: &State, app: AppUid, why: &str) {
        let links = state.links_of(app).map(|link| (link.uid, why.to_owned()));
        self.links.extend(links);
        self.apps.insert(app, why.to_owned());
    }

    /// With what was refused earlier, and is not running since.
    #[must_use]
    pub fn and_still(self, earlier: &Self, state: &State, observed: &Observed) -> Self {
        let Self { mut apps, mut links } = self;
        for (app, why) in &earlier.apps {
            if state.apps.contains_key(app) && !observed.apps.contains_key(app) {
                apps.insert(*app, why.clone());
            }
        }
        for (link, why) in &earlier.links {
            if state.links.contains_key(link) && !runs(observed, link) {
                links.insert(*link, why.clone());
            }
        }
        Self { apps, links }
    }
}

fn runs(observed: &Observed, link: &LinkUid) -> bool {
    observed.chain_running(*link).is_some() || observed.links.contains(link)
}

/// The links that are not to be attached without a request: the policy refuses them, or refused them earlier, and they do not run.
pub fn held_back(
    policy: &Policy,
    state: &State,
    observed: &Observed,
    earlier: &Unauthorised,
) -> BTreeMap<LinkUid, String> {
    let Unauthorised { apps: _, links } = unauthorised(policy, state).and_still(earlier, state, observed);
    links.into_iter().filter(|(link, _)| !runs(observed, link)).collect()
}

/// Judges everything as its maker was when it was made: user, groups, unit. What is not known speaks for it.
pub fn unauthorised(policy: &Policy, state: &State) -> Unauthorised {
    judged(policy, state, state.links.values(), None, &as_then)
}

/// What was judged last, so that a change has nothing judged again but what it touches.
#[derive(Debug, Default)]
pub struct Judged {
    policy: Arc<Policy>,
    state: State,
    found: Unauthorised,
}

impl Judged {
    /// [`unauthorised`], by what was found before as far as it counts still.
    pub fn again(&mut self, policy: &Arc<Policy>, state: &State) -> Unauthorised {
        let before = std::mem::replace(self, Self { policy: policy.clone(), state: state.clone(), ..Self::default() });
        let same_apps = state.apps.len() == before.state.apps.len()
            && state.apps.changed_since(&before.state.apps).next().is_none();
        self.found = if same_apps && Arc::ptr_eq(policy, &before.policy) {
            let changed: BTreeMap<_, _> = state.links.changed_since(&before.state.links).collect();
            let Unauthorised { apps, mut links } = before.found;
            links.retain(|link, _| state.links.contains_key(link) && !changed.contains_key(link));
            links.extend(judged(policy, state, changed.into_values(), None, &as_then).links);
            Unauthorised { apps, links }
        } else {
            unauthorised(policy, state)
        };
        self.found.clone()
    }
}

fn as_then(owner: &Owner, credentials: Option<&Credentials>) -> Result<Principal, String> {
    Ok(Principal::maker(owner, credentials))
}

/// Judges what does not run, and would be started without a request. Of what was loaded at another boot, each maker is who `who` says it is
/// now; of the rest, as it was then.
pub fn refused_again(policy: &Policy, state: &State, observed: &Observed, who: &Makers<'_>) -> Unauthorised {
    judged(policy, state, state.links.values(), Some(observed), who)
}

/// Who made something, by what was written down of it; or why nobody can say.
pub type Makers<'a> = dyn Fn(&Owner, Option<&Credentials>) -> Result<Principal, String> + 'a;

/// All apps, and these links.
fn judged<'a>(
    policy: &Policy,
    state: &State,
    links: impl Iterator<Item = &'a Link>,
    running: Option<&Observed>,
    who: &Makers<'_>,
) -> Unauthorised {
    let may = |principal: &Principal, asked: &[Asked]| {
        let refused = asked.iter().find_map(|asked| policy.decide(principal, asked, Stage::First).err());
        refused.map(|denied| denied.to_string())
    };
    let app = |app: &App| {
        let image = match &app.source {
            Source::Image { reference, digest: _, signers } => policy.refuses_stored(reference, signers),
            Source::Upload => None,
        };
        image.or_else(|| {
            let maker = match who(&app.owner, app.credentials.as_ref()) {
                Ok(maker) => maker,
                Err(why) => return Some(why),
            };
            let mut facts = LoadFacts::of(state, app);
            // What is the maker's own stays so, whatever number it has now.
            let own = facts.maps_of.iter_mut().filter(|lender| lender.owner == app.owner);
            own.for_each(|lender| lender.owner = maker.owner());
            may(&maker, &facts.asked())
        })
    };
    let judged = state.apps.values().filter(|app| running.is_none_or(|seen| !seen.apps.contains_key(&app.uid)));
    let apps: BTreeMap<AppUid, String> = judged.filter_map(|row| Some((row.uid, app(row)?))).collect();
    let link = |link: &Link| {
        let why = apps.get(&link.app).cloned();
        let mut asked = on_link(Verb::Attach, state, Some(link), None);
        for asked in &mut asked {
            // Whose program it is was decided when it was attached; `other-owner` is no matter of the link itself.
            asked.owner = None;
            // Whoever moved it was allowed to, and may be somebody else.
            if link.generation > 1 {
                asked.forget_place();
            }
        }
        let loaded = running.is_some_and(|seen| seen.apps.contains_key(&link.app));
        let who: &Makers<'_> = if loaded { &as_then } else { who };
        why.or_else(|| match who(&link.owner, link.credentials.as_ref()) {
            Ok(maker) => may(&maker, &asked),
            Err(why) => Some(why),
        })
    };
    let judged = links.filter(|link| running.is_none_or(|seen| !runs(seen, &link.uid)));
    let links = judged.filter_map(|row| Some((row.uid, link(row)?))).collect();
    Unauthorised { apps, links }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bpfd_policy::accounts::Accounts;
    use bpfd_policy::caller::{GROUP, Unit, VIEW_GROUP};
    use bpfd_policy::read::PolicyText;
    use bpfd_policy::rule::AccountId;

    use super::*;
    use crate::testing::app_of;

    const BPFD: u32 = 815;
    const VIEW: u32 = 816;
    const WHEEL: u32 = 10;

    fn principal(uid: u32, groups: &[u32]) -> Principal {
        let credentials = Credentials { groups: Some(groups.iter().copied().collect()), unit: Unit::None };
        Principal { uid, user: Some(format!("u{uid}")), credentials, pid: 1 }
    }

    #[test]
    fn what_does_not_run_is_judged_by_who_its_maker_is_now() {
        let text = "version = 1\n[[image]]\nscope = \"reg.test/**\"\nunsigned = \"allow\"\n";
        let groups = [(GROUP, BPFD), (VIEW_GROUP, VIEW), ("wheel", WHEEL)];
        let groups = groups.map(|(name, gid)| (name.to_owned(), AccountId::Is(gid))).into();
        let read = Policy::read(&[PolicyText { file: "policy.toml", text }], |_: &Path| unreachable!("no keys"));
        let policy = read.unwrap().with_accounts(&Accounts { groups, ..Accounts::default() });
        let mut state = State::default();
        let image = Source::Image { reference: "reg.test/a:1".into(), digest: String::new(), signers: vec![] };
        let app = App { source: image, credentials: Some(principal(1000, &[BPFD]).credentials), ..app_of(2, 1000) };
        let mut link = crate::testing::link(9, 0).moved(Some(200.try_into().unwrap()), None);
        (link.app, link.owner, link.credentials) = (app.uid, app.owner.clone(), app.credentials.clone());
        state.apps.insert(app.uid, app.clone());
        state.links.insert(link.uid, link.clone());
        assert_eq!(unauthorised(&policy, &state), Unauthorised::default());
        let refused = |groups: &[u32], uid, observed: &Observed| {
            let found = refused_again(&policy, &state, observed, &|_, _| Ok(principal(uid, groups)));
            (found.apps.len(), found.links.len())
        };
        let nothing = Observed::default();
        assert_eq!(refused(&[BPFD], 1000, &nothing), (0, 0));
        // Its name has another number now: its own is its own.
        assert_eq!(refused(&[BPFD], 1234, &nothing), (0, 0));
        // It left the group.
        assert_eq!(refused(&[WHEEL], 1000, &nothing), (1, 1));
        let gone = refused_again(&policy, &state, &nothing, &|_, _| Err("there is no such user".to_owned()));
        assert_eq!(gone.apps.get(&app.uid).map(String::as_str), Some("there is no such user"));
        // What was refused earlier stays so until it runs or is no more.
        let still = |state: &State, observed: &Observed| {
            unauthorised(&policy, state).and_still(&gone, state, observed) == Unauthorised::default()
        };
        assert!(!still(&state, &nothing) && still(&State::default(), &nothing));
        let runs = Observed { apps: [(app.uid, Default::default())].into(), links: [link.uid].into(), ..nothing };
        assert!(still(&state, &runs));
        assert_eq!(refused(&[WHEEL], 1000, &runs), (0, 0));
        // The link waits, of an app that runs: its maker was in the group then.
        assert_eq!(refused(&[WHEEL], 1000, &Observed { links: [].into(), ..runs }), (0, 0));
    }

    #[test]
    fn what_was_judged_before_is_judged_again_where_it_changed() {
        let policy = |text: &str| {
            let text = PolicyText { file: "policy.toml", text: &format!("version = 1\n{text}") };
            let users = [1, 1000].map(|uid| (format!("u{uid}"), AccountId::Is(uid))).into();
            let read = Policy::read(&[text], |_: &Path| unreachable!("no keys")).unwrap();
            Arc::new(read.with_accounts(&Accounts { users, ..Accounts::default() }))
        };
        let rule = |uid: u32| {
            let what = "verbs = [\"load\", \"attach\"]\nsource = { images = \"any\", files = \"any\" }";
            let to = "programs = {}\ninterfaces = {}";
            let who = format!("who = [{{ user = \"u{uid}\" }}]");
            policy(&format!("[[rule]]\nid = \"one\"\neffect = \"allow\"\n{who}\n{what}\n{to}\n"))
        };
        let (open, closed) = (rule(1000), rule(1));
        let mut state = State::default();
        let app = app_of(2, 1000);
        let links: Vec<Link> = (1..=3)
            .map(|number| Link { app: app.uid, owner: app.owner.clone(), ..crate::testing::link(number, 0) })
            .collect();
        state.apps.insert(app.uid, app.clone());
        state.links.extend(links.iter().map(|link| (link.uid, link.clone())));
        let mut judged = Judged::default();
        let mut again = |policy: &Arc<Policy>, state: &State| {
            let found = judged.again(policy, state);
            assert_eq!(found, unauthorised(policy, state));
            found.links.len()
        };
        assert_eq!((again(&open, &state), again(&closed, &state), again(&closed, &state)), (0, 3, 3));
        // A row of another maker, one that is gone, and one more.
        state.links.get_mut(&links[0].uid).unwrap().owner.uid = 7;
        state.links.remove(&links[1].uid);
        assert_eq!((again(&closed, &state), again(&open, &state)), (2, 1));
        let more = crate::testing::link(4, 0);
        state.links.insert(more.uid, Link { app: app.uid, owner: app.owner.clone(), ..more });
        assert_eq!(again(&open, &state), 1);
        state.apps.get_mut(&app.uid).unwrap().owner.uid = 7;
        assert_eq!(again(&open, &state), 3);
    }
}
