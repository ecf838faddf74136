//! What attach, update, detach and unload have in common: one change of the state, carried out by the engine.

use std::collections::BTreeSet;
use std::sync::Arc;

use bpfd_core::changes::{Fresh, RequestError};
use bpfd_core::hook::ChainId;
use bpfd_core::ident::{LinkUid, RequestKey};
use bpfd_core::ordering::unmet;
use bpfd_core::plan::PlanError;
use bpfd_core::policy::{Ask, Asked, Principal, Verb, at_the_door};
use bpfd_core::report::Warning;
use bpfd_core::request::Apply;
use bpfd_core::snapshot::Snapshot;
use bpfd_core::state::{Change, Link, Owner, State};
use bpfd_policy::Policy;

use super::Service;
use super::near::Misspelt;
use crate::engine::{Answer, Context, Engine, EngineError, Pending};
use crate::execute::ExecuteError;
use crate::store::Earlier;
use crate::turns::Line;

/// What a change did, or would do.
#[derive(Debug)]
pub struct Changed {
    /// The rows, and the plan if only that was asked for.
    pub answer: Answer,
    /// What there was before: it has the names of what is gone.
    pub before: Arc<Snapshot>,
    /// What there is now.
    pub now: Arc<Snapshot>,
    /// Things to know.
    pub warnings: Vec<Warning>,
}

impl Changed {
    /// The answer to a request that was carried out before. What it took away has its name still.
    pub(super) fn again(answer: Answer, now: &Arc<Snapshot>) -> Self {
        let mut before = Snapshot::clone(now);
        before.state.apps.extend(answer.outcome.apps.iter().map(|app| (app.uid, app.clone())));
        Self { answer, before: Arc::new(before), now: now.clone(), warnings: vec![] }
    }
}

/// A request that one change of the state carries out.
pub(crate) trait ChangeRequest: Ask + Send + Sync + 'static {
    /// The caller's idempotency key.
    fn key(&self) -> Option<RequestKey>;

    /// How many links it makes at most.
    fn new_links(&self) -> usize {
        0
    }

    /// What it means in a state.
    fn changes(&self, state: &State, owner: &Owner, fresh: &Fresh) -> Result<Vec<Change>, RequestError>;

    /// What `--all` leaves of a state.
    fn leaves(&self, _: &State) -> Vec<Warning> {
        vec![]
    }
}

/// What to do about a link that cannot run beside others, as far as a caller may know of it. `None` if there is no such link: it is one
/// that the request would have made.
fn in_the_way(policy: &Policy, principal: &Principal, state: &State, link: LinkUid) -> Option<String> {
    let link = state.links.get(&link)?;
    let is_own = principal.uid == 0 || link.owner.uid == principal.uid;
    if !is_own && at_the_door(policy, principal, &Asked::verb(Verb::List)).is_err() {
        return Some("the program of another user is in the way: choose another interface, or ask root".to_owned());
    }
    let (name, owner) = (state.link_name(link), &link.owner);
    let is_unique = state.links.values().filter(|other| state.link_name(other) == name).count() == 1;
    let detach = match (is_own, is_unique) {
        (true, true) => format!("detach it (`bpfctl detach {name}`)"),
        (true, false) => format!("detach it (`bpfctl detach uid:{}`)", link.uid),
        (false, _) if owner.uid == 0 => "ask root to detach it".to_owned(),
        (false, _) => format!("ask {owner} or root to detach it"),
    };
    Some(format!("link `{name}` of {owner} cannot run beside other programs: {detach}, or choose another interface"))
}

impl Service {
    /// Attaches, moves or unloads. For a detach see [`Service::detach`].
    pub(crate) async fn change<R: ChangeRequest>(
        &self,
        principal: Principal,
        request: R,
        apply: Apply,
    ) -> Result<Changed, EngineError> {
        let before = self.snapshot();
        if let Some(answer) = self.earlier(&principal, request.key(), apply, &before.state)? {
            return Ok(Changed::again(answer, &before));
        }
        let (request, principal) = self.permit(principal, request).await?.into_parts();
        let mut warnings = request.leaves(&before.state);
        let (owner, asks) = (principal.owner(), principal.clone());
        let line = Line::User(principal.uid);
        let context = Context {
            principal,
            request: request.key(),
            validate_only: apply == Apply::ValidateOnly,
            new_links: request.new_links(),
        };
        let attempt = move |engine: &mut Engine<_>, pending: &mut Pending<_>| {
            engine.change(&context, pending, |state, fresh| request.changes(state, &owner, fresh))
        };
        let answer = match self.engine.change(line, vec![], attempt).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.explained(&asks, error).await),
        };
        warnings.extend(self.unordered(&answer));
        Ok(Changed { answer, before, now: self.snapshot(), warnings })
    }

    /// What the policy's orders say of the chains of these links that cannot hold.
    pub(super) fn unordered(&self, answer: &Answer) -> Vec<Warning> {
        let chains: BTreeSet<ChainId> = answer.outcome.links.iter().filter_map(Link::chain).collect();
        unmet(&self.trust.policy().orders, &self.snapshot().state, chains)
    }

    /// An error with what its caller can ask next: of somebody else's program, the processes that hold it, looked up for those alone who
    /// are told of them; of a verifier's refusal, the log; of a link that is in the way of others, which it is; of a name that leads
    /// nowhere, the one that was probably meant.
    pub(super) async fn explained(&self, principal: &Principal, error: EngineError) -> EngineError {
        let (uid, line) = (principal.uid, Line::User(principal.uid));
        match error {
            EngineError::Plan(error @ (PlanError::NoInterface(_) | PlanError::NoNetns(_))) => {
                let misspelt = Misspelt::of(&error);
                let near = match misspelt {
                    Some(misspelt) => self.near(principal, misspelt).await,
                    None => None,
                };
                match near {
                    Some(near) => EngineError::Misspelt { error, near },
                    None => error.into(),
                }
            }
            EngineError::Execute(ExecuteError::Step(error)) => {
                let link = error.blamed();
                let error = match self.logs.rejected(uid, error) {
                    Ok(rejected) => EngineError::Rejected(Box::new(rejected)),
                    Err(error) => ExecuteError::Step(error).into(),
                };
                match link.and_then(|link| in_the_way(&self.trust.policy(), principal, &self.snapshot().state, link)) {
                    Some(hint) => EngineError::InTheWay { error: Box::new(error), hint },
                    None => error,
                }
            }
            EngineError::Plan(PlanError::Foreign { chain, mut holder, driven }) => {
                holder.holders = self.reads.holders(line, holder.clone()).await.unwrap_or_default();
                PlanError::Foreign { chain, holder, driven }.into()
            }
            other => other,
        }
    }

    /// The answer to this caller's request of that key, if it was carried out before.
    pub(super) fn earlier(
        &self,
        principal: &Principal,
        key: Option<RequestKey>,
        apply: Apply,
        state: &State,
    ) -> Result<Option<Answer>, EngineError> {
        let (Some(key), Apply::Write) = (key, apply) else { return Ok(None) };
        match tokio::task::block_in_place(|| self.answers.of(key, &principal.owner(), state))? {
            None => Ok(None),
            Some(Earlier::Answered(outcome)) => Ok(Some(Answer { outcome, plan: None })),
            Some(Earlier::Another) => Err(EngineError::Reused(key.id)),
        }
    }
}
