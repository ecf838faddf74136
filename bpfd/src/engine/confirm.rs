//! The policy's decision on what a request turned out to mean. It must never decide by itself.

use bpfd_core::kernel::{Kernel, Observed};
use bpfd_core::policy::{Denied, confirm};
use bpfd_core::state::Change;

use super::{Context, Engine, EngineError};

impl<K: Kernel> Engine<K> {
    /// Puts a refusal on record.
    pub fn denied(&mut self, denied: &Denied) {
        tracing::info!(%denied, rules = ?denied.rules, "refused");
        self.audit
            .denied(denied)
            .unwrap_or_else(|error| tracing::error!(%error, "cannot record a refusal in the audit log"));
    }

    /// The policy's decision on changes. A refusal goes on record.
    pub(super) fn confirm(
        &mut self,
        context: &Context,
        changes: &[Change],
        observed: Option<&Observed>,
    ) -> Result<(), EngineError> {
        let confirmed = confirm(&self.policy(), &context.principal, &self.state, changes, observed);
        confirmed.inspect_err(|denied| self.denied(denied)).map_err(EngineError::from)
    }
}
