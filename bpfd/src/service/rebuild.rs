//! Rebuild: the dispatcher of a chain is made again with another version of its configuration, in one swap.

use bpfd_core::changes::{self, Fresh, RequestError};
use bpfd_core::ident::RequestKey;
use bpfd_core::request::RebuildRequest;
use bpfd_core::state::{Change, Owner, State};

use super::change::ChangeRequest;

impl ChangeRequest for RebuildRequest {
    /// Done twice, the second changes nothing.
    fn key(&self) -> Option<RequestKey> {
        None
    }

    fn changes(&self, state: &State, _: &Owner, _: &Fresh) -> Result<Vec<Change>, RequestError> {
        changes::rebuild(state, self)
    }
}
