//! Update: another place for a link in its chain. The moved link is the outcome's.

use bpfd_core::changes::{self, Fresh, RequestError};
use bpfd_core::ident::RequestKey;
use bpfd_core::request::UpdateRequest;
use bpfd_core::state::{Change, Owner, State};

use super::change::ChangeRequest;

impl ChangeRequest for UpdateRequest {
    fn key(&self) -> Option<RequestKey> {
        self.request
    }

    fn changes(&self, state: &State, _: &Owner, _: &Fresh) -> Result<Vec<Change>, RequestError> {
        changes::update(state, self)
    }
}
