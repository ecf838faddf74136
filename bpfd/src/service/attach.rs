//! Attach: one program of a loaded app on one hook.

use bpfd_core::changes::{self, Fresh, RequestError};
use bpfd_core::ident::RequestKey;
use bpfd_core::policy::Principal;
use bpfd_core::request::{Apply, AttachRequest};
use bpfd_core::state::{Change, Owner, State};

use super::change::ChangeRequest;
use super::{Changed, Service};
use crate::engine::EngineError;

impl Service {
    /// The new link is the outcome's.
    pub async fn attach(
        &self,
        principal: Principal,
        request: AttachRequest,
        apply: Apply,
    ) -> Result<Changed, EngineError> {
        self.change(principal, request, apply).await
    }
}

impl ChangeRequest for AttachRequest {
    fn key(&self) -> Option<RequestKey> {
        self.request
    }

    fn new_links(&self) -> usize {
        1
    }

    fn changes(&self, state: &State, owner: &Owner, fresh: &Fresh) -> Result<Vec<Change>, RequestError> {
        changes::attach(state, self, owner, fresh)
    }
}
