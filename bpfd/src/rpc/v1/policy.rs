//! PolicyService: the policy asked about, enforced and read again, and keys to trust.

use std::sync::Arc;

use bpfd_core::names::printable;
use bpfd_core::policy::{Credentials, Principal, Unit};
use bpfd_core::state::ProgramKind;
use bpfd_policy::decide::Allowed;
use bpfd_policy::expect::Question;
use bpfd_policy::order::Order;
use bpfd_policy::rule::{Direction, Rule};
use bpfd_policy::{Policy, builtin};
use bpfd_proto::codec::v1::{self as codec, BadField};
use bpfd_proto::v1 as pb;
use ebpf::kind::Sees;
use tonic::{Request, Response, Status};

use super::{apply, bad_field, principal, status};
use crate::engine::Answer;
use crate::service::{CanAsk, Changed, Enforced, NewSigner, SeenPolicy, Service, WhoIs, WhoseError};
use crate::trust::{Added, Files};

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

    async fn who_am_i(&self, request: Request<pb::WhoAmIRequest>) -> Result<Response<pb::WhoAmIResponse>, Status> {
        let WhoIs { principal, rules } = self.context.whoami(principal(&request)?);
        let Principal { uid, user, credentials: Credentials { groups, unit }, pid: _ } = principal;
        let unit = match unit {
            Unit::Is(name) => Some(name),
            Unit::None | Unit::Unknown => None,
        };
        let groups = groups.into_iter().flatten().collect();
        Ok(Response::new(pb::WhoAmIResponse { uid, user, groups, unit, rules }))
    }

    async fn can_i(&self, request: Request<pb::CanIRequest>) -> Result<Response<pb::CanIResponse>, Status> {
        let principal = principal(&request)?;
        let ask = can_ask(request.into_inner()).map_err(bad_field)?;
        let load = ask.question.verb == "load";
        let answer = self.context.can_i(principal, ask).await.map_err(|error| match error {
            WhoseError::Denied(denied) => status::denied(&denied).into(),
            WhoseError::Question(bad) => bad_field(BadField { field: "verb", why: bad.to_string() }),
            WhoseError::NoUser(_) => bad_field(BadField { field: "as_user", why: error.to_string() }),
        })?;
        Ok(Response::new(match answer {
            Ok(Allowed { rule, reach }) => {
                let reach = if load { reach.to_string() } else { String::new() };
                pb::CanIResponse { allowed: true, rule, reach, ..Default::default() }
            }
            Err(denied) => pb::CanIResponse { why: denied.why, hint: denied.hint, ..Default::default() },
        }))
    }

    async fn get_policy(
        &self,
        request: Request<pb::GetPolicyRequest>,
    ) -> Result<Response<pb::GetPolicyResponse>, Status> {
        let seen = self.context.seen_policy(principal(&request)?).await;
        let SeenPolicy { policy, files } = seen.map_err(|denied| status::denied(&denied))?;
        let unknown = policy.nameless();
        let Policy { files: read, signers, images, rules, orders } = policy.as_ref();
        let rule = |rule: &Rule| pb::PolicyRule {
            id: rule.id.to_string(),
            built_in: builtin::is_built_in(rule),
            text: rule.to_string(),
        };
        let unvetted = ProgramKind::ALL.iter().filter(|kind| kind.sees() == Sees::Packets);
        let order = |order: &Order| pb::PolicyOrder { id: order.id.to_string(), text: order.to_string() };
        Ok(Response::new(pb::GetPolicyResponse {
            files: read.clone(),
            fault: match files {
                Files::Good => String::new(),
                Files::Bad { why, at_start: _ } => why,
            },
            rules: rules.iter().map(rule).collect(),
            unknown_names: unknown.users.into_iter().chain(unknown.groups).collect(),
            signers: signers.keys().map(ToString::to_string).collect(),
            images: images.iter().map(|image| image.scope.to_string()).collect(),
            orders: orders.iter().map(order).collect(),
            packet_types: unvetted.map(ToString::to_string).collect(),
        }))
    }

    async fn enforce_policy(
        &self,
        request: Request<pb::EnforcePolicyRequest>,
    ) -> Result<Response<pb::EnforcePolicyResponse>, Status> {
        let principal = principal(&request)?;
        let apply = apply(request.get_ref().validate_only);
        let enforced = self.context.enforce(principal, apply).await;
        let Enforced { changed, refused } =
            enforced.map_err(|error| status::engine("cannot enforce the policy", &error))?;
        let Changed { answer: Answer { outcome, plan }, before, .. } = changed;
        let refused = refused.into_iter().map(|(thing, why)| pb::RefusedThing { thing, why });
        Ok(Response::new(pb::EnforcePolicyResponse {
            refused: refused.collect(),
            apps: codec::texts(outcome.apps.iter().map(|app| app.name.to_string()).collect()),
            links: codec::texts(outcome.links.iter().map(|link| before.state.link_name(link)).collect()),
            plan: codec::plan(plan),
        }))
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
        let Policy { files, signers, images, rules, orders } = reloaded.as_ref();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(Response::new(pb::ReloadPolicyResponse {
            files: files.clone(),
            signers: count(signers.len()),
            images: count(images.len()),
            rules: count(rules.iter().filter(|rule| !builtin::is_built_in(rule)).count()),
            orders: count(orders.len()),
        }))
    }
}

/// Longest text in a question: an image reference may have 512 bytes.
const TEXT: usize = 512;

fn can_ask(request: pb::CanIRequest) -> Result<CanAsk, BadField> {
    let pb::CanIRequest {
        verb,
        program_type,
        interface,
        netns,
        egress,
        priority,
        proceed_on,
        has_proceed_on,
        target,
        image,
        file,
        others,
        as_user,
        as_unit,
    } = request;
    let texts = [&program_type, &interface, &netns, &target, &image, &file, &as_user, &as_unit];
    let long = texts.into_iter().flatten().chain([&verb]).chain(&proceed_on).any(|text| text.len() > TEXT);
    if long || proceed_on.len() > TEXT {
        return Err(BadField { field: "verb", why: format!("a text of a question has at most {TEXT} bytes") });
    }
    let question = Question {
        verb,
        kind: program_type,
        interface,
        netns,
        direction: egress.then_some(Direction::Egress),
        priority,
        proceed_on: has_proceed_on.then(|| proceed_on.into_iter().collect()),
        target,
        image,
        signed_by: None,
        file,
        others,
    };
    Ok(CanAsk { question, user: as_user, unit: as_unit })
}
