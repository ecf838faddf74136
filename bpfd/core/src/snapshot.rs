//! What readers see: intent beside what the kernel had at one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::adopt::Recovery;
use crate::chain::status_of;
use crate::ident::{AppUid, GenerationUid, LinkUid};
use crate::kernel::{Observed, ObservedChain, Scope, Targets};
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
                let observed = of_interest(&state, seen.clone().over(&self.observed));
                let mut statuses = self.statuses.clone();
                statuses.retain(|link, _| state.links.contains_key(link));
                statuses.extend(own_status(&state, &observed));
                statuses.extend(status_of(&state, &observed, looked_at));
                Self { state, observed, statuses, unwatched, unauthorised, recovery }
            }
        }
    }
}

/// A chain that lost its last link is of interest while it runs a generation that is pinned here.
fn of_interest(state: &State, mut observed: Observed) -> Observed {
    let Targets { names, chains } = Targets::of(state.links.values());
    let pinned: BTreeSet<GenerationUid> = observed.generations.keys().copied().collect();
    let runs = |seen: &ObservedChain| seen.live.generations().iter().any(|live| pinned.contains(&live.generation));
    observed.chains.retain(|chain, seen| chains.contains(chain) || runs(seen));
    observed.missing.retain(|chain| chains.contains(chain));
    observed.unseen.retain(|chain, _| chains.contains(chain));
    observed.interfaces.retain(|name, _| names.contains(name));
    observed
}
