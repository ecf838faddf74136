//! What readers see: intent beside what the kernel had at one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::adopt::Recovery;
use crate::chain::status_of;
use crate::hook::ChainName;
use crate::ident::{AppUid, LinkUid};
use crate::kernel::{Observed, ObservedChain, Scope};
use crate::names::NetnsName;
use crate::plan::{LinkStatus, own_status, status};
use crate::seat::seated;
use crate::state::{Link, ObjectDigest, State};
use crate::unauthorised::Unauthorised;
use crate::watched::watched;

/// The last whole state, and how the kernel stood then.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What was asked for.
    pub state: State,
    /// What the kernel had.
    pub observed: Observed,
    /// How each link stands.
    pub statuses: BTreeMap<LinkUid, LinkStatus>,
    /// Network namespaces with links in them that are not watched.
    pub unwatched: BTreeSet<NetnsName>,
    /// What the policy would refuse now: what runs of it stays, and what does not run is not started again.
    pub unauthorised: Arc<Unauthorised>,
    /// What differed when the state was lost, until that is decided.
    pub recovery: Option<Arc<Recovery>>,
}

impl Snapshot {
    /// What is to run: the state without the apps that the policy refused to load again, and without their links.
    pub fn wanted(&self) -> State {
        let mut wanted = self.state.without_links(|link| self.is_refused(link.app));
        wanted.apps.retain(|app, _| !self.is_refused(*app));
        wanted
    }

    /// Whether the policy keeps an app from being loaded again.
    pub fn is_refused(&self, app: AppUid) -> bool {
        self.unauthorised.apps.contains_key(&app) && !self.observed.apps.contains_key(&app)
    }

    /// The objects that are needed: of apps, and of rows that wait for a decision.
    #[must_use]
    pub fn objects(&self) -> BTreeSet<ObjectDigest> {
        let kept = self.recovery.iter().flat_map(|recovery| recovery.objects());
        self.state.apps.values().map(|app| app.object).chain(kept).collect()
    }

    /// The snapshot after this one: the state beside the kernel as it was seen in the scope, and elsewhere as it was seen before. Links
    /// are shown in the chains where they would be now; they are put there by whatever deals with what was seen.
    #[must_use]
    pub fn after(&self, state: &State, seen: Observed, scope: &Scope) -> Self {
        let state = seated(state, &seen);
        let unwatched = watched(&state).beyond;
        let (recovery, unauthorised) = (self.recovery.clone(), self.unauthorised.clone());
        match scope {
            Scope::Everything(_) => {
                Self { statuses: status(&state, &seen), state, observed: seen, unwatched, unauthorised, recovery }
            }
            Scope::Chains(_) => {
                let of = |chain| {
                    seen.chains.contains_key(&chain)
                        || seen.missing.contains(&chain)
                        || seen.unseen.contains_key(&chain)
                };
                let named = |link: &Link| link.placement.asked().is_some_and(|name| seen.interfaces.contains_key(name));
                let looked_at = |link: &Link| named(link) || link.chain().is_some_and(of);
                let observed = of_interest(&state, &seen, seen.clone().over(&self.observed));
                let mut statuses = self.statuses.clone();
                for link in self.state.links.gone_from(&state.links) {
                    statuses.remove(link);
                }
                statuses.extend(own_status(&state, &observed));
                statuses.extend(status_of(&state, &observed, looked_at));
                Self { state, observed, statuses, unwatched, unauthorised, recovery }
            }
        }
    }
}

/// A chain that lost its last link is of interest while it runs a generation that is pinned here. It was looked at when it did.
fn of_interest(state: &State, seen: &Observed, mut observed: Observed) -> Observed {
    let Observed { chains, missing, unseen, interfaces, .. } = &mut observed;
    let generations = &seen.generations;
    for chain in seen.chains.keys().chain(&seen.missing).chain(seen.unseen.keys()) {
        let runs = |seen: &ObservedChain| {
            seen.live.generations().iter().any(|live| generations.contains_key(&live.generation))
        };
        if !state.links.values().any(|link| link.chain() == Some(*chain)) {
            missing.remove(chain);
            unseen.remove(chain);
            if !chains.get(chain).is_some_and(runs) {
                chains.remove(chain);
            }
        }
    }
    let is_asked = |name: &ChainName| state.links.values().any(|link| link.placement.asked() == Some(name));
    for name in seen.interfaces.keys().filter(|name| !is_asked(name)) {
        interfaces.remove(name);
    }
    observed
}
