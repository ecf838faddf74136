//! Attach: one program of a loaded app on one hook. The new link is the outcome's.

use bpfd_core::changes::{self, Fresh, RequestError};
use bpfd_core::ident::RequestKey;
use bpfd_core::request::AttachRequest;
use bpfd_core::state::{Change, Owner, State};

use super::change::ChangeRequest;

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
