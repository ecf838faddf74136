//! What the engine sees, and what readers are shown: the state beside the kernel as it was seen last.
//!
//! It must never change anything.

use std::sync::Arc;

use bpfd_core::kernel::{Kernel, ObserveError, Observed, Scope};
use bpfd_core::unauthorised::Unauthorised;

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
        let seen = self.remembered(seen);
        let next = self.published.borrow().after(&self.state, seen, scope);
        let unauthorised = Arc::new(self.unauthorised(&next));
        let next = Snapshot { recovery: self.recovery.clone(), unauthorised, ..next };
        self.published.send_replace(Arc::new(next));
    }

    /// What the policy of now refuses, and what it refused to start and does not run since.
    fn unauthorised(&mut self, shown: &Snapshot) -> Unauthorised {
        let Snapshot { state, observed, .. } = shown;
        let policy = self.policy();
        self.judged.again(&policy, state).and_still(&self.unauthorised, state, observed)
    }

    /// Shows readers what a new policy would refuse of what there is.
    pub fn judge(&mut self) {
        let shown = self.published.borrow().clone();
        self.unauthorised = (self.judge)(&shown.state, &shown.observed);
        let unauthorised = self.unauthorised(&shown);
        for (link, why) in unauthorised.links.iter().filter(|(link, _)| !shown.unauthorised.links.contains_key(link)) {
            tracing::warn!(%link, why, "UNAUTHORISED: the policy would not allow this link now; it stays");
        }
        let next = Snapshot { unauthorised: Arc::new(unauthorised), ..Snapshot::clone(&shown) };
        self.published.send_replace(Arc::new(next));
    }

    /// The kernel as it is, and what is remembered of it.
    pub(super) fn observe(&mut self, scope: &Scope) -> Result<Observed, ObserveError> {
        let observed = self.kernel.observe(scope)?;
        Ok(self.remembered(observed))
    }

    /// What was observed, and what nobody can look up: see [`Observed::barred`] and [`Observed::spared`].
    pub(super) fn remembered(&self, observed: Observed) -> Observed {
        let spared = self.recovery.as_ref().map(|recovery| recovery.spared.clone()).unwrap_or_default();
        Observed { barred: self.barred.clone(), spared, ..observed }
    }
}
