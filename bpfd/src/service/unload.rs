//! Unload: apps by name, or all that the caller may unload, and their links with them. What went is the outcome's.

use bpfd_core::changes::{self, Fresh, RequestError};
use bpfd_core::ident::RequestKey;
use bpfd_core::report::Warning;
use bpfd_core::request::UnloadRequest;
use bpfd_core::state::{App, Change, Owner, State};

use super::change::ChangeRequest;

impl ChangeRequest for UnloadRequest {
    fn key(&self) -> Option<RequestKey> {
        self.request
    }

    fn changes(&self, state: &State, _: &Owner, _: &Fresh) -> Result<Vec<Change>, RequestError> {
        changes::unload(state, self)
    }

    fn leaves(&self, state: &State) -> Vec<Warning> {
        let stays = |app: &App| Warning::Stays { thing: format!("app `{}`", app.name), owner: app.owner.clone() };
        changes::apps_left(state, self).into_iter().map(stays).collect()
    }
}
