//! LinkService: attach, move, detach, and how links stand.

use std::sync::Arc;

use bpfd_core::ask::Look;
use bpfd_core::changes;
use bpfd_core::request::{AppRef, AttachRequest, DetachRequest, DetachWhich, HookAsk, LinkRef, UpdateRequest};
use bpfd_core::state::Link;
use bpfd_core::wire;
use bpfd_proto::status::Refusal;
use bpfd_proto::v1 as pb;
use bpfd_proto::v1::ErrorReason;
use tonic::{Request, Response, Status};

use super::chain::look;
use super::{Context, principal, status, view};
use crate::engine::{self, Engine};
use crate::pages::{self, Page};

pub(super) struct Links(pub(super) Arc<Context>);

#[tonic::async_trait]
impl pb::link_service_server::LinkService for Links {
    async fn attach(&self, request: Request<pb::AttachRequest>) -> Result<Response<pb::AttachResponse>, Status> {
        let validate_only = request.get_ref().validate_only;
        let ask = self.0.authorize(&request, |message| AttachRequest::try_from(message)).await?;
        let (ask, principal) = ask.into_parts();
        let place = match &ask.attach.hook {
            HookAsk::Xdp { chain, .. } => format!("`{}`", chain.interface),
            HookAsk::Tracepoint(Some(tracepoint)) => format!("tracepoint `{tracepoint}`"),
            HookAsk::Tracepoint(None) => "its tracepoint".to_owned(),
        };
        let message = format!("cannot attach `{}` to {place}", ask.app);
        let owner = principal.owner();
        let change = engine::Context { principal, request: ask.request, validate_only, new_links: 1 };
        let job = move |engine: &mut Engine<_>| {
            engine.change(&change, None, |state, fresh| changes::attach(state, &ask, &owner, fresh))
        };
        let answer = self.0.engine.call(job).await.and_then(|result| result);
        let engine::Answer { outcome, plan } = answer.map_err(|error| status::engine(&message, error))?;
        let snapshot = self.0.snapshot();
        Ok(Response::new(pb::AttachResponse {
            link: outcome.links.first().map(|link| view::link(&snapshot, link)),
            warnings: vec![],
            plan: view::plan(plan),
        }))
    }

    async fn update_link(
        &self,
        request: Request<pb::UpdateLinkRequest>,
    ) -> Result<Response<pb::UpdateLinkResponse>, Status> {
        let validate_only = request.get_ref().validate_only;
        let ask = self.0.authorize(&request, |message| UpdateRequest::try_from(message)).await?;
        let (ask, principal) = ask.into_parts();
        let message = format!("cannot update `{}`", ask.link);
        let change = engine::Context { principal, request: ask.request, validate_only, new_links: 0 };
        let job = move |engine: &mut Engine<_>| engine.change(&change, None, |state, _| changes::update(state, &ask));
        let answer = self.0.engine.call(job).await.and_then(|result| result);
        let engine::Answer { outcome, plan } = answer.map_err(|error| status::engine(&message, error))?;
        let snapshot = self.0.snapshot();
        Ok(Response::new(pb::UpdateLinkResponse {
            link: outcome.links.first().map(|link| view::link(&snapshot, link)),
            warnings: vec![],
            plan: view::plan(plan),
        }))
    }

    async fn detach(&self, request: Request<pb::DetachRequest>) -> Result<Response<pb::DetachResponse>, Status> {
        let validate_only = request.get_ref().validate_only;
        let ask = self.0.authorize(&request, |message| DetachRequest::try_from(message)).await?;
        let (ask, principal) = ask.into_parts();
        let message = match &ask.which {
            DetachWhich::Links(links) => {
                let names: Vec<String> = links.iter().map(|link| format!("`{link}`")).collect();
                format!("cannot detach {}", names.join(", "))
            }
            DetachWhich::All(chain) => format!("cannot detach all of `{}`", chain.interface),
        };
        let change = engine::Context { principal, request: ask.request, validate_only, new_links: 0 };
        let before = self.0.snapshot();
        let all_of = match &ask.which {
            DetachWhich::All(chain) => Some(chain.clone()),
            DetachWhich::Links(_) => None,
        };
        let stays = |link: &Link| view::stays(&format!("link `{}`", before.state.link_name(link)), &link.owner);
        let warnings = changes::links_left(&before.state, &ask).into_iter().map(stays).collect();
        let job = move |engine: &mut Engine<_>| engine.change(&change, None, |state, _| changes::detach(state, &ask));
        let answer = self.0.engine.call(job).await.and_then(|result| result);
        let engine::Answer { outcome, plan } = answer.map_err(|error| status::engine(&message, error))?;
        if let Some(chain) = all_of.filter(|chain| outcome.links.is_empty() && !before.state.chains().contains(chain)) {
            look(&self.0, chain).await?;
        }
        Ok(Response::new(pb::DetachResponse {
            links: pages::texts(outcome.links.iter().map(|link| before.state.link_name(link)).collect()),
            warnings: view::few(warnings),
            plan: view::plan(plan),
        }))
    }

    async fn get_link(&self, request: Request<pb::GetLinkRequest>) -> Result<Response<pb::Link>, Status> {
        self.0.permit(principal(&request)?, Look).await?;
        let snapshot = self.0.snapshot();
        let asked = request.get_ref().link.parse::<LinkRef>().map_err(|error| {
            Refusal::new(ErrorReason::InvalidRequest, "the request is not valid").cause(error.to_string())
        })?;
        let link = asked.resolve(&snapshot.state).map_err(|error| {
            Refusal::new(ErrorReason::NotFoundLink, error.to_string()).hint("`bpfctl list` shows links")
        })?;
        Ok(Response::new(view::link(&snapshot, link)))
    }

    async fn list_links(
        &self,
        request: Request<pb::ListLinksRequest>,
    ) -> Result<Response<pb::ListLinksResponse>, Status> {
        self.0.permit(principal(&request)?, Look).await?;
        let pb::ListLinksRequest { interface, netns, app, page_size, page_token } = request.into_inner();
        let size = pages::size(page_size).map_err(super::bad_field)?;
        let chain = interface.map(|interface| wire::xdp_chain(netns.as_deref(), &interface));
        let chain = chain.transpose().map_err(super::bad_field)?;
        let snapshot = self.0.snapshot();
        // A link may wait for its interface; a name that no link has either is a slip.
        if let Some(chain) = chain.as_ref().filter(|chain| !snapshot.state.chains().contains(*chain)) {
            look(&self.0, chain.clone()).await?;
        }
        let app = app
            .map(|app| app.parse::<AppRef>().ok().and_then(|app| app.resolve(&snapshot.state).ok()).map(|app| app.uid));
        let wanted = |link: &&Link| {
            let of_app = app.is_none_or(|app| app == Some(link.app));
            of_app && chain.as_ref().is_none_or(|chain| link.placement.chain() == Some(chain))
        };
        // In the order of their hooks, then as they run.
        let key = |link: &&Link| {
            let place = link
                .placement
                .chain()
                .and_then(|key| snapshot.observed.members(key).iter().position(|member| member.link == link.uid));
            format!("{} {:05} {}", link.placement, place.unwrap_or(99_999), link.uid)
        };
        let links = snapshot.state.links.values().filter(wanted).map(|link| (key(&link), link));
        let mut links: Vec<(String, &Link)> = links.filter(|(place, _)| *place > page_token).collect();
        links.sort_by(|(one, _), (other, _)| one.cmp(other));
        let snapshot = &snapshot;
        let made = links.into_iter().map(|(place, link)| (place, || view::link(snapshot, link)));
        let Page { items: links, next: next_page_token } = pages::page(size, made);
        Ok(Response::new(pb::ListLinksResponse { links, next_page_token }))
    }
}
