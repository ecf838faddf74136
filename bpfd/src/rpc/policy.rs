//! PolicyService: keys to trust, and the policy read again. Root only, which is the policy's own decision.

use std::sync::Arc;

use bpfd_core::ask::TrustAsk;
use bpfd_core::names::printable;
use bpfd_core::wire::{self, BadField};
use bpfd_policy::Policy;
use bpfd_proto::status::Refusal;
use bpfd_proto::v1 as pb;
use bpfd_proto::v1::ErrorReason;
use bytecode_image::key::VerifyingKey;
use tonic::{Request, Response, Status};

use super::{Context, bad_field, principal};
use crate::causes::error_chain;
use crate::trust::{Added, Apply, TrustError};

/// Bytes of a key's PEM: P-256 and Ed25519 have 200.
const KEY: usize = 16 << 10;

pub(super) struct PolicyApi {
    pub(super) context: Arc<Context>,
}

#[tonic::async_trait]
impl pb::policy_service_server::PolicyService for PolicyApi {
    async fn add_trust(&self, request: Request<pb::AddTrustRequest>) -> Result<Response<pb::AddTrustResponse>, Status> {
        let principal = principal(&request)?;
        let pb::AddTrustRequest { request_id, validate_only, name, public_key, scope } = request.into_inner();
        wire::request_id(&request_id).map_err(bad_field)?;
        let bad = |why: String| bad_field(BadField { field: "public_key", why });
        if public_key.len() > KEY {
            return Err(bad(format!("a public key has at most {KEY} bytes")));
        }
        let pem = String::from_utf8(public_key).map_err(|_not_text| bad("the key is not PEM text".to_owned()))?;
        let ask = self.context.permit(principal, TrustAsk((name, pem, scope))).await?;
        let apply = if validate_only { Apply::ValidateOnly } else { Apply::Write };
        let trust = self.context.trust.clone();
        let (TrustAsk((name, pem, scope)), principal) = ask.into_parts();
        let message = format!("cannot trust `{}`", printable(&name));
        let plan = format!("trust {} for `{}` by the name `{}`", key_words(&pem), printable(&scope), printable(&name));
        let add = move |apply| tokio::task::block_in_place(|| trust.add(&name, &pem, &scope, apply));
        let added = match apply {
            Apply::ValidateOnly => add(apply),
            Apply::Write => self.context.recorded(principal.owner(), plan, async move { add(apply) }).await?,
        };
        let Added { path, key } = added.map_err(|error| refusal(message, &error))?;
        Ok(Response::new(pb::AddTrustResponse { path: path.display().to_string(), key_sha256: key.hex() }))
    }

    async fn reload_policy(
        &self,
        request: Request<pb::ReloadPolicyRequest>,
    ) -> Result<Response<pb::ReloadPolicyResponse>, Status> {
        let principal = principal(&request)?;
        wire::request_id(&request.get_ref().request_id).map_err(bad_field)?;
        let (TrustAsk(()), principal) = self.context.permit(principal, TrustAsk(())).await?.into_parts();
        let reloaded = self.context.reload_policy(principal.owner(), "read the policy again").await?;
        let reloaded = reloaded.map_err(|error| refusal("cannot reload the policy".to_owned(), &error))?;
        let Policy { files, signers, images } = reloaded.as_ref();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(Response::new(pb::ReloadPolicyResponse {
            files: files.clone(),
            signers: count(signers.len()),
            images: count(images.len()),
            // A policy that has any is refused.
            rules: 0,
        }))
    }
}

/// A key in a record: by its fingerprint.
fn key_words(pem: &str) -> String {
    VerifyingKey::from_pem(pem)
        .map_or_else(|_no_key| "what is no key".to_owned(), |key| format!("key {}", key.fingerprint()))
}

fn refusal(message: String, error: &TrustError) -> Refusal {
    let refusal = |reason| Refusal::new(reason, message.clone()).cause(error_chain(error));
    match error {
        TrustError::File(_) => refusal(ErrorReason::InvalidPolicy),
        TrustError::Policy(_) => {
            refusal(ErrorReason::InvalidPolicy).hint("what held before still holds; mend the file and try again")
        }
        TrustError::Name(_) | TrustError::Scope(_) => refusal(ErrorReason::InvalidRequest),
        TrustError::Key(_) => {
            refusal(ErrorReason::InvalidRequest).hint("`bpfctl keygen` makes a pair; the public half ends in `.pub`")
        }
        TrustError::NameTaken { .. } => {
            refusal(ErrorReason::NameTaken).hint("choose another name, or edit the file and reload")
        }
    }
}
