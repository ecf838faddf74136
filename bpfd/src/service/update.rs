//! Update: another place for a link in its chain.

use bpfd_core::changes::{self, Fresh, RequestError};
use bpfd_core::ident::RequestKey;
use bpfd_core::policy::Principal;
use bpfd_core::request::{Apply, UpdateRequest};
use bpfd_core::state::{Change, Owner, State};

use super::change::ChangeRequest;
use super::{Changed, Service};
use crate::engine::EngineError;

impl Service {
    /// The moved link is the outcome's.
    pub async fn update(
        &self,
        principal: Principal,
        request: UpdateRequest,
        apply: Apply,
    ) -> Result<Changed, EngineError> {
        self.change(principal, request, apply).await
    }
}

impl ChangeRequest for UpdateRequest {
    fn key(&self) -> Option<RequestKey> {
        self.request
    }

    fn changes(&self, state: &State, _: &Owner, _: &Fresh) -> Result<Vec<Change>, RequestError> {
        changes::update(state, self)
    }
}
