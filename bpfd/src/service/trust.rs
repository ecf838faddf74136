//! Trust: keys to trust, and the policy read again. Root only, which is the policy's own decision.

use std::sync::Arc;

use bpfd_core::ask::TrustAsk;
use bpfd_core::names::printable;
use bpfd_core::policy::Principal;
use bpfd_core::request::Apply;
use bpfd_policy::Policy;
use bytecode_image::key::VerifyingKey;

use super::{Refused, Service};
use crate::engine::Engine;
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

    /// What the policy of now says of what there is.
    async fn judge_again(&self) {
        if let Err(error) = self.engine.enqueue(Line::User(0), Engine::judge).await {
            tracing::error!(%error, "cannot judge what there is by the new policy");
        }
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
