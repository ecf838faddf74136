//! The policy itself, asked about: who the caller is to it, what somebody may, what its rules are; and what it refuses taken away.

use std::sync::Arc;

use bpfd_core::ask::TrustAsk;
use bpfd_core::changes::Fresh;
use bpfd_core::policy::{Credentials, Denied, Principal, Stage, Unit};
use bpfd_core::request::Apply;
use bpfd_core::state::{App, Change, Link, State};
use bpfd_core::unauthorised::unauthorised;
use bpfd_policy::Policy;
use bpfd_policy::decide::Allowed;
use bpfd_policy::expect::{BadQuestion, Question};

use super::{Changed, Service};
use crate::engine::{Context, Engine, EngineError, Pending};
use crate::images::Explain;
use crate::trust::Files;
use crate::turns::Line;
use crate::worker::names;

/// Who a caller is to the policy.
#[derive(Clone, Debug)]
pub struct WhoIs {
    /// As the kernel told.
    pub principal: Principal,
    /// The rules about it, whatever it asks, in their order.
    pub rules: Vec<String>,
}

/// What may be asked for, and by whom.
#[derive(Clone, Debug)]
pub struct CanAsk {
    /// What.
    pub question: Question,
    /// Another user, for root to ask about.
    pub user: Option<String>,
    /// In this unit.
    pub unit: Option<String>,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum WhoseError {
    /// Somebody else's matter.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// It means nothing.
    #[error(transparent)]
    Question(#[from] BadQuestion),
    /// Nobody is called so.
    #[error("no user `{0}`")]
    NoUser(String),
}

/// The policy in force.
#[derive(Clone, Debug)]
pub struct SeenPolicy {
    /// The policy.
    pub policy: Arc<Policy>,
    /// How its files are.
    pub files: Files,
}

/// What a policy took away, or would.
#[derive(Debug)]
pub struct Enforced {
    /// The rows.
    pub changed: Changed,
    /// Each app or link that went, and why.
    pub refused: Vec<(String, String)>,
}

impl Service {
    /// Who the caller is. Everybody may ask that of itself.
    pub fn whoami(&self, principal: Principal) -> WhoIs {
        let policy = self.trust.policy();
        let rules = policy.rules_about(&principal).map(|rule| rule.id.to_string()).collect();
        WhoIs { principal, rules }
    }

    /// What the policy says of a question. Everybody may ask for itself, root for anybody.
    pub async fn can_i(&self, principal: Principal, ask: CanAsk) -> Result<Result<Allowed, Denied>, WhoseError> {
        let CanAsk { mut question, user, unit } = ask;
        let caller = match (user, unit) {
            (None, None) => principal,
            (user, unit) => {
                let (_, root) = self.permit(principal, TrustAsk(())).await?.into_parts();
                let base = match user {
                    None => root,
                    Some(name) => self.somebody(&name)?,
                };
                let unit = unit.map_or(Unit::None, Unit::Is);
                Principal { credentials: Credentials { unit, ..base.credentials }, ..base }
            }
        };
        if let (Some(image), None) = (&question.image, &question.signed_by) {
            // Whose signatures count is known of an image that is stored.
            let verdict = self.images.verify(caller.uid, image, Explain::Verdict).await.ok();
            question.signed_by = verdict.filter(|verdict| verdict.trusted).map(|verdict| verdict.signers);
        }
        let asked = question.asked(&caller)?;
        Ok(self.trust.policy().decide(&caller, &asked, Stage::First))
    }

    fn somebody(&self, name: &str) -> Result<Principal, WhoseError> {
        let found = tokio::task::block_in_place(|| names::member(&self.workers, name));
        let (uid, groups) = found.ok_or_else(|| WhoseError::NoUser(name.to_owned()))?;
        let credentials = Credentials { groups: Some(groups), unit: Unit::None };
        Ok(Principal { uid, user: Some(name.to_owned()), credentials, pid: 0 })
    }

    /// The policy: root's to see, since it tells of everybody.
    pub async fn seen_policy(&self, principal: Principal) -> Result<SeenPolicy, Denied> {
        self.permit(principal, TrustAsk(())).await?;
        Ok(SeenPolicy { policy: self.trust.policy(), files: self.trust.files() })
    }

    /// Takes away what the policy refuses: links first, then apps with the links that are left in them.
    pub async fn enforce(&self, principal: Principal, apply: Apply) -> Result<Enforced, EngineError> {
        let (_, principal) = self.permit(principal, TrustAsk(())).await?.into_parts();
        let before = self.snapshot();
        let policy = self.trust.policy();
        let (earlier, observed) = (before.unauthorised.clone(), before.observed.clone());
        let found_in = move |state: &State| unauthorised(&policy, state).and_still(&earlier, state, &observed);
        let found = found_in(&before.state);
        let app = |(uid, why): (_, &String)| {
            before.state.apps.get(uid).map(|app: &App| (format!("app `{}`", app.name), why.clone()))
        };
        let link = |(uid, why): (_, &String)| {
            before
                .state
                .links
                .get(uid)
                .map(|link: &Link| (format!("link `{}`", before.state.link_name(link)), why.clone()))
        };
        let refused = found.apps.iter().filter_map(app).chain(found.links.iter().filter_map(link)).collect();
        let build = move |state: &State, _: &Fresh| {
            let found = found_in(state);
            let alone = found
                .links
                .keys()
                .filter(|link| state.links.get(link).is_some_and(|link: &Link| !found.apps.contains_key(&link.app)));
            let links = alone.copied().map(Change::Detach);
            Ok(links.chain(found.apps.keys().copied().map(Change::Unload)).collect())
        };
        let (asks, line) = (principal.clone(), Line::User(principal.uid));
        let context = Context { principal, request: None, validate_only: apply == Apply::ValidateOnly, new_links: 0 };
        let attempt = move |engine: &mut Engine<_>, pending: &mut Pending<_>| engine.change(&context, pending, &build);
        let answer = match self.engine.change(line, vec![], attempt).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.explained(&asks, error).await),
        };
        Ok(Enforced { changed: Changed { answer, before, now: self.snapshot(), warnings: vec![] }, refused })
    }
}
