//! Trust: keys to trust, and the policy read again. Root only, which is the policy's own decision.

use std::collections::BTreeSet;
use std::sync::Arc;

use bpfd_core::ask::TrustAsk;
use bpfd_core::changes::Fresh;
use bpfd_core::hook::ChainId;
use bpfd_core::names::printable;
use bpfd_core::ordering::disordered;
use bpfd_core::policy::Principal;
use bpfd_core::request::Apply;
use bpfd_core::state::{Change, State};
use bpfd_policy::Policy;
use bytecode_image::key::VerifyingKey;

use super::{Refused, Service};
use crate::causes::error_chain;
use crate::engine::{Context, Engine, EngineError, Pending};
use crate::trust::{Added, TrustError};
use crate::turns::Line;

/// Whose signatures are to count, for which images.
#[derive(Clone, Debug)]
pub struct NewSigner {
    /// The signer's name.
    pub name: String,
    /// The public key.
    pub pem: String,
    /// The images.
    pub scope: String,
}

impl Service {
    /// Adds a signer to the policy.
    pub async fn add_trust(
        &self,
        principal: Principal,
        signer: NewSigner,
        apply: Apply,
    ) -> Result<Added, Refused<TrustError>> {
        let (TrustAsk(signer), principal) = self.permit(principal, TrustAsk(signer)).await?.into_parts();
        let NewSigner { name, pem, scope } = signer;
        let (name_words, scope_words) = (printable(&name), printable(&scope));
        let change = format!("trust {} for `{scope_words}` by the name `{name_words}`", key_words(&pem));
        let trust = self.trust.clone();
        let add = move || tokio::task::block_in_place(|| trust.add(&name, &pem, &scope, apply));
        match apply {
            Apply::ValidateOnly => add().map_err(Refused::Failed),
            Apply::Write => {
                let added = self.recorded(principal.owner(), vec![change], async move { add() }).await;
                self.judge_again().await;
                added
            }
        }
    }

    /// Reads the policy again. If it cannot be read, what held before holds on.
    pub async fn reload_policy(&self, principal: Principal) -> Result<Arc<Policy>, Refused<TrustError>> {
        self.reload(principal, "read the policy again").await
    }

    /// The same, because a signal said so.
    pub async fn reload_policy_by_signal(&self) -> Result<Arc<Policy>, Refused<TrustError>> {
        self.reload(Principal::daemon(), "read the policy again, by a signal").await
    }

    /// The same, because a file changed. `None` if nothing that holds is another one.
    pub async fn reload_policy_by_change(&self) -> Option<Result<Arc<Policy>, Refused<TrustError>>> {
        let trust = self.trust.clone();
        if !tokio::task::block_in_place(|| trust.differs()) {
            return None;
        }
        Some(self.reload(Principal::daemon(), "read the policy again, as its files changed").await)
    }

    /// Looks up the names that have no number yet.
    pub async fn look_up_names(&self) {
        let trust = self.trust.clone();
        if tokio::task::block_in_place(|| trust.look_up_again()) {
            tracing::info!("found out who users or groups are that the policy names");
            self.judge_again().await;
        }
    }

    /// What the policy of now says of what there is, and how it orders that.
    async fn judge_again(&self) {
        if let Err(error) = self.engine.enqueue(Line::User(0), Engine::judge).await {
            tracing::error!(%error, "cannot judge what there is by the new policy");
        }
        self.reorder().await;
    }

    /// Has the links of each chain where the policy's orders have them: all chains at once or, where that fails, one by one.
    async fn reorder(&self) {
        // What another reading of the files began is not done twice.
        let _one_at_a_time = self.ordering.lock().await;
        let chains = disordered(&self.trust.policy().orders, &self.snapshot().state);
        if chains.is_empty() {
            return;
        }
        let Err(error) = self.reorder_these(chains.clone()).await else { return };
        tracing::info!(error = error_chain(&error), "ordering each chain alone");
        for chain in chains {
            if let Err(error) = self.reorder_these(BTreeSet::from([chain])).await {
                let (index, error) = (chain.interface.index, error_chain(&error));
                tracing::error!(index, point = %chain.point, error, "cannot order a chain as the policy has it");
            }
        }
    }

    async fn reorder_these(&self, chains: BTreeSet<ChainId>) -> Result<(), EngineError> {
        let principal = Principal::daemon();
        let context = Context { principal, request: None, validate_only: false, new_links: 0 };
        let build =
            move |_: &State, _: &Fresh| Ok(chains.iter().map(|chain| Change::Reorder { chain: *chain }).collect());
        let attempt = move |engine: &mut Engine<_>, pending: &mut Pending<_>| engine.change(&context, pending, &build);
        self.engine.change(Line::User(0), vec![], attempt).await.map(drop)
    }

    async fn reload(&self, principal: Principal, change: &str) -> Result<Arc<Policy>, Refused<TrustError>> {
        let (TrustAsk(()), principal) = self.permit(principal, TrustAsk(())).await?.into_parts();
        let trust = self.trust.clone();
        let reload = async move { tokio::task::block_in_place(|| trust.reload()) };
        let reloaded = self.recorded(principal.owner(), vec![change.to_owned()], reload).await;
        self.judge_again().await;
        reloaded
    }
}

/// A key in a record: by its fingerprint.
fn key_words(pem: &str) -> String {
    VerifyingKey::from_pem(pem)
        .map_or_else(|_no_key| "an unreadable key".to_owned(), |key| format!("key {}", key.fingerprint()))
}
