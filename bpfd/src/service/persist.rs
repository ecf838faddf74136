//! Persist: whether an app, with links of it, is there after a reboot. The app and these links are the outcome's.

use bpfd_core::changes::{self, Fresh, RequestError};
use bpfd_core::ident::RequestKey;
use bpfd_core::request::PersistRequest;
use bpfd_core::state::{Change, Owner, State};

use super::change::ChangeRequest;

impl ChangeRequest for PersistRequest {
    fn key(&self) -> Option<RequestKey> {
        self.request
    }

    fn changes(&self, state: &State, _: &Owner, _: &Fresh) -> Result<Vec<Change>, RequestError> {
        changes::persist(state, self)
    }
}
