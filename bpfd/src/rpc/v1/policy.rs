//! PolicyService: keys to trust, and the policy read again.

use std::sync::Arc;

use bpfd_core::names::printable;
use bpfd_policy::Policy;
use bpfd_proto::codec::v1::{self as codec, BadField};
use bpfd_proto::v1 as pb;
use tonic::{Request, Response, Status};

use super::{apply, bad_field, principal, status};
use crate::service::{NewSigner, Service};
use crate::trust::Added;

/// Bytes of a key's PEM: P-256 and Ed25519 have 200.
const KEY: usize = 16 << 10;

pub(in crate::rpc) struct PolicyApi {
    pub(in crate::rpc) context: Arc<Service>,
}

#[tonic::async_trait]
impl pb::policy_service_server::PolicyService for PolicyApi {
    async fn add_trust(&self, request: Request<pb::AddTrustRequest>) -> Result<Response<pb::AddTrustResponse>, Status> {
        let principal = principal(&request)?;
        let pb::AddTrustRequest { request_id, validate_only, name, public_key, scope } = request.into_inner();
        codec::request_id(&request_id).map_err(bad_field)?;
        let bad = |why: String| bad_field(BadField { field: "public_key", why });
        if public_key.len() > KEY {
            return Err(bad(format!("a public key has at most {KEY} bytes")));
        }
        let pem = String::from_utf8(public_key).map_err(|_not_text| bad("the key is not PEM text".to_owned()))?;
        let message = format!("cannot trust `{}`", printable(&name));
        let added = self.context.add_trust(principal, NewSigner { name, pem, scope }, apply(validate_only)).await;
        let Added { path, key } =
            added.map_err(|error| status::refused(error, |error| status::trust(message, &error)))?;
        Ok(Response::new(pb::AddTrustResponse { path: path.display().to_string(), key_sha256: key.hex() }))
    }

    async fn reload_policy(
        &self,
        request: Request<pb::ReloadPolicyRequest>,
    ) -> Result<Response<pb::ReloadPolicyResponse>, Status> {
        let principal = principal(&request)?;
        codec::request_id(&request.get_ref().request_id).map_err(bad_field)?;
        let reloaded = self.context.reload_policy(principal).await;
        let reloaded = reloaded.map_err(|error| {
            status::refused(error, |error| status::trust("cannot reload the policy".to_owned(), &error))
        })?;
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
