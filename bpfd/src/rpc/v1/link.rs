//! LinkService: attach, move, detach, and how links stand.

use std::sync::Arc;

use bpfd_core::request::{AppRef, AttachRequest, DetachRequest, LinkRef, UpdateRequest};
use bpfd_proto::codec::v1::{self as codec, BadField};
use bpfd_proto::status::Refusal;
use bpfd_proto::v1 as pb;
use bpfd_proto::v1::ErrorReason;
use tonic::{Request, Response, Status};

use super::{apply, bad_field, fitting, page, principal, status};
use crate::engine::Answer;
use crate::service::{Changed, DetachError, GetLinkError, LinkFilter, Service};

pub(in crate::rpc) struct Links(pub(in crate::rpc) Arc<Service>);

#[tonic::async_trait]
impl pb::link_service_server::LinkService for Links {
    async fn attach(&self, request: Request<pb::AttachRequest>) -> Result<Response<pb::AttachResponse>, Status> {
        let principal = principal(&request)?;
        let attach = AttachRequest::try_from(request.get_ref()).map_err(bad_field)?;
        let message = status::attaching(&attach);
        let changed = self.0.change(principal, attach, apply(request.get_ref().validate_only)).await;
        let Changed { answer, before: _, now, warnings } = changed.map_err(|error| status::engine(&message, &error))?;
        let Answer { outcome, plan } = answer;
        Ok(Response::new(pb::AttachResponse {
            link: outcome.links.first().map(|link| codec::link(&now, link)),
            warnings: codec::warnings(warnings),
            plan: codec::plan(plan),
        }))
    }

    async fn update_link(
        &self,
        request: Request<pb::UpdateLinkRequest>,
    ) -> Result<Response<pb::UpdateLinkResponse>, Status> {
        let principal = principal(&request)?;
        let update = UpdateRequest::try_from(request.get_ref()).map_err(bad_field)?;
        let message = format!("cannot update `{}`", update.link);
        let changed = self.0.change(principal, update, apply(request.get_ref().validate_only)).await;
        let Changed { answer, before: _, now, warnings } = changed.map_err(|error| status::engine(&message, &error))?;
        let Answer { outcome, plan } = answer;
        Ok(Response::new(pb::UpdateLinkResponse {
            link: outcome.links.first().map(|link| codec::link(&now, link)),
            warnings: codec::warnings(warnings),
            plan: codec::plan(plan),
        }))
    }

    async fn detach(&self, request: Request<pb::DetachRequest>) -> Result<Response<pb::DetachResponse>, Status> {
        let principal = principal(&request)?;
        let detach = DetachRequest::try_from(request.get_ref()).map_err(bad_field)?;
        let message = status::detaching(&detach);
        let changed = self.0.detach(principal, detach, apply(request.get_ref().validate_only)).await;
        let Changed { answer, before, now: _, warnings } = changed.map_err(|error| match error {
            DetachError::Engine(error) => status::engine(&message, &error),
            DetachError::Look(error) => status::look(&error),
        })?;
        let Answer { outcome, plan } = answer;
        Ok(Response::new(pb::DetachResponse {
            links: codec::texts(outcome.links.iter().map(|link| before.state.link_name(link)).collect()),
            warnings: codec::warnings(warnings),
            plan: codec::plan(plan),
        }))
    }

    async fn get_link(&self, request: Request<pb::GetLinkRequest>) -> Result<Response<pb::Link>, Status> {
        let principal = principal(&request)?;
        let link: LinkRef = request.get_ref().link.parse().map_err(|error| bad("link", error))?;
        let (snapshot, link) = self.0.link(principal, link).await.map_err(|error| match error {
            GetLinkError::Denied(denied) => status::denied(&denied),
            GetLinkError::NoOne(error) => {
                Refusal::new(ErrorReason::NotFoundLink, error.to_string()).hint("`bpfctl list` shows links")
            }
        })?;
        Ok(Response::new(codec::link(&snapshot, &link)))
    }

    async fn list_links(
        &self,
        request: Request<pb::ListLinksRequest>,
    ) -> Result<Response<pb::ListLinksResponse>, Status> {
        let principal = principal(&request)?;
        let pb::ListLinksRequest { interface, netns, app, page_size, page_token, user_labels } = request.into_inner();
        let interface = interface.map(|interface| codec::interface_name(netns.as_deref(), &interface));
        let interface = interface.transpose().map_err(bad_field)?;
        let app = app.map(|app| app.parse::<AppRef>().map_err(|error| bad("app", error))).transpose()?;
        let labels = codec::label_selectors(&user_labels).map_err(bad_field)?;
        let filter = LinkFilter { interface, app, labels };
        let listed = self.0.links(principal, filter, &page(page_size, page_token)?).await;
        let listed = listed.map_err(|error| status::look(&error))?;
        let (links, next_page_token) = fitting(listed, |snapshot, link| codec::link(snapshot, &link));
        Ok(Response::new(pb::ListLinksResponse { links, next_page_token }))
    }
}

fn bad(field: &'static str, error: impl ToString) -> Status {
    bad_field(BadField { field, why: error.to_string() })
}
