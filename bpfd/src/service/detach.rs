//! Detach: links by name, or all that the caller may detach from one interface.

use bpfd_core::changes::{self, Fresh, RequestError};
use bpfd_core::hook::{InterfaceName, Point};
use bpfd_core::ident::RequestKey;
use bpfd_core::policy::Principal;
use bpfd_core::report::Warning;
use bpfd_core::request::{Apply, DetachRequest, DetachWhich};
use bpfd_core::state::{Change, Link, Owner, State};

use super::change::ChangeRequest;
use super::{Changed, LookError, Service};
use crate::engine::EngineError;

/// Why nothing was detached.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The interface is absent.
    #[error(transparent)]
    Look(#[from] LookError),
}

impl Service {
    /// The links that went are the outcome's. All of an interface that nobody knows is an error; all of one without links is none.
    pub async fn detach(
        &self,
        principal: Principal,
        request: DetachRequest,
        apply: Apply,
    ) -> Result<Changed, DetachError> {
        let all_of = match &request.which {
            DetachWhich::All(interface) => Some(interface.clone()),
            DetachWhich::Links(_) => None,
        };
        let asks = principal.clone();
        let changed = self.change(principal, request, apply).await?;
        let unknown = |name: &InterfaceName| changed.before.state.links_on(name).is_empty();
        if let Some(name) = all_of.filter(|name| changed.answer.outcome.links.is_empty() && unknown(name)) {
            self.look(&asks, &name.chain(Point::Xdp)).await?;
        }
        Ok(changed)
    }
}

impl ChangeRequest for DetachRequest {
    fn key(&self) -> Option<RequestKey> {
        self.request
    }

    fn changes(&self, state: &State, _: &Owner, _: &Fresh) -> Result<Vec<Change>, RequestError> {
        changes::detach(state, self)
    }

    fn leaves(&self, state: &State) -> Vec<Warning> {
        let stays = |link: &Link| Warning::Stays {
            thing: format!("link `{}`", state.link_name(link)),
            owner: link.owner.clone(),
        };
        changes::links_left(state, self).into_iter().map(stays).collect()
    }
}
