//! What readers are shown: the state beside the kernel as the engine saw it last.
//!
//! It must never change anything.

use std::collections::BTreeSet;
use std::sync::Arc;

use bpfd_core::chain::status_of;
use bpfd_core::hook::ChainKey;
use bpfd_core::ident::TopUid;
use bpfd_core::kernel::{Kernel, ObserveError, Observed, ObservedChain, Scope};
use bpfd_core::plan::{own_status, status};

use super::{Engine, Snapshot};

impl<K: Kernel> Engine<K> {
    /// Shows readers the state, beside the kernel as it is now in this scope.
    pub(super) fn publish(&mut self, scope: &Scope) -> Result<(), ObserveError> {
        let seen = self.kernel.observe(scope)?;
        self.show(scope, seen);
        Ok(())
    }

    /// The same after a change, which has happened whatever can be seen.
    pub(super) fn show_now(&mut self, scope: &Scope) {
        if let Err(error) = self.publish(scope) {
            tracing::warn!(%error, "cannot publish the new state: reads return the previous snapshot until the next observation");
        }
    }

    /// Shows readers the state, beside the kernel as it was just seen in this scope, and as it was seen last elsewhere.
    pub(super) fn show(&mut self, scope: &Scope, seen: Observed) {
        let seen = Observed { barred: self.barred.clone(), ..seen };
        let before = self.published.borrow().clone();
        let chains = self.state.chains();
        let looked_at: BTreeSet<ChainKey> = seen.chains.keys().cloned().collect();
        let observed = match scope {
            Scope::Everything(_) => seen,
            Scope::Chains(_) => {
                let mut observed = seen.over(&before.observed, |_| true);
                let pinned: BTreeSet<TopUid> = observed.tops.keys().copied().collect();
                // One that lost its last link is of interest while it runs a generation that is pinned here.
                let runs = |seen: &ObservedChain| seen.live.top().is_some_and(|top| pinned.contains(&top));
                observed.chains.retain(|chain, seen| chains.contains(chain) || runs(seen));
                observed
            }
        };
        let statuses = match scope {
            Scope::Everything(_) => status(&self.state, &observed),
            Scope::Chains(_) => {
                let mut statuses = before.statuses.clone();
                statuses.retain(|link, _| self.state.links.contains_key(link));
                statuses.extend(own_status(&self.state, &observed));
                statuses.extend(status_of(&self.state, &observed, &looked_at));
                statuses
            }
        };
        self.published.send_replace(Arc::new(Snapshot { state: self.state.clone(), observed, statuses }));
    }
}
