//! What is asked before a change is planned: whether it was made already, and whether its user may have so much.
//!
//! It must never change anything.

use bpfd_core::kernel::Kernel;
use bpfd_core::policy::Principal;
use bpfd_core::quota::{OverQuota, Usage};
use bpfd_core::state::Change;

use super::{Context, Engine, EngineError};
use crate::store::{Earlier, Outcome};

impl<K: Kernel> Engine<K> {
    /// The answer to a repeated request.
    pub(super) fn answered(&self, context: &Context) -> Result<Option<Outcome>, EngineError> {
        let (Some(key), false) = (context.request, context.validate_only) else { return Ok(None) };
        match self.store.answer(key, &context.principal.owner(), &self.state)? {
            Some(Earlier::Answered(outcome)) => Ok(Some(outcome)),
            Some(Earlier::Another) => Err(EngineError::Reused(key.id)),
            None => Ok(None),
        }
    }

    /// Of the policy of now, beside what the user has.
    pub(super) fn within_quota(&self, principal: &Principal, changes: &[Change]) -> Result<(), OverQuota> {
        let Some(quota) = self.policy().quota(principal) else { return Ok(()) };
        Usage::of_user(&self.state, principal.uid, self.cpus).may_add(Usage::of_changes(changes, self.cpus), quota)
    }
}
