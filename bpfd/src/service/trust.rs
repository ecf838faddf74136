//! Trust: keys to trust, and the policy read again. Root only, which is the policy's own decision.

use std::sync::Arc;

use bpfd_core::ask::TrustAsk;
use bpfd_core::names::printable;
use bpfd_core::policy::Principal;
use bpfd_core::request::Apply;
use bpfd_policy::Policy;
use bytecode_image::key::VerifyingKey;

use super::{Refused, Service};
use crate::trust::{Added, TrustError};

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
            Apply::Write => self.recorded(principal.owner(), vec![change], async move { add() }).await,
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

    async fn reload(&self, principal: Principal, change: &str) -> Result<Arc<Policy>, Refused<TrustError>> {
        let (TrustAsk(()), principal) = self.permit(principal, TrustAsk(())).await?.into_parts();
        let trust = self.trust.clone();
        let reload = async move { tokio::task::block_in_place(|| trust.reload()) };
        self.recorded(principal.owner(), vec![change.to_owned()], reload).await
    }
}

/// A key in a record: by its fingerprint.
fn key_words(pem: &str) -> String {
    VerifyingKey::from_pem(pem)
        .map_or_else(|_no_key| "an unreadable key".to_owned(), |key| format!("key {}", key.fingerprint()))
}
