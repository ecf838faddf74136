//! AppService: uploads, loads, what is loaded, unloads.

use std::sync::Arc;

use bpfd_core::names::printable;
use bpfd_core::request::{AppRef, LoadRequest, PersistRequest, UnloadRequest};
use bpfd_proto::codec::v1::{self as codec, BadField};
use bpfd_proto::status::Refusal;
use bpfd_proto::v1 as pb;
use bpfd_proto::v1::ErrorReason;
use tonic::{Request, Response, Status, Streaming};

use super::{Streamed, apply, bad_field, fitting, page, principal, status, streamed};
use crate::engine::Answer;
use crate::service::{AppFilter, Changed, Service};
use crate::waiter::Stopping;

/// Characters of a log in one message.
const LOG_PIECE: usize = 256 << 10;

pub(in crate::rpc) struct Apps(pub(in crate::rpc) Arc<Service>, pub(in crate::rpc) Stopping);

#[tonic::async_trait]
impl pb::app_service_server::AppService for Apps {
    async fn upload_object(
        &self,
        request: Request<Streaming<pb::UploadObjectRequest>>,
    ) -> Result<Response<pb::UploadObjectResponse>, Status> {
        let mut incoming = self.0.upload(principal(&request)?).await.map_err(status::upload)?;
        let mut pieces = request.into_inner();
        while let Some(pb::UploadObjectRequest { chunk }) = pieces.message().await? {
            if chunk.is_empty() {
                // Empty chunks never reach the size limit, so an upload of them would never end.
                return Err(bad_field(BadField { field: "chunk", why: "it is empty".to_owned() }));
            }
            incoming.write(&chunk).map_err(|error| status::upload(error.into()))?;
        }
        let (digest, size) = self.0.uploaded(incoming).await.map_err(status::upload)?;
        Ok(Response::new(pb::UploadObjectResponse { sha256: digest.to_string(), size }))
    }

    type LoadStream = Streamed<pb::LoadResponse>;

    async fn load(&self, request: Request<pb::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        use pb::load_response::Event;
        let principal = principal(&request)?;
        let request = request.into_inner();
        let (apply, dry) = (apply(request.validate_only), request.validate_only);
        let load = LoadRequest::try_from(&request).map_err(bad_field)?;
        let service = self.0.clone();
        let event = |progress| pb::LoadResponse { event: Some(Event::Progress(progress)) };
        Ok(streamed(self.1.clone(), event, |report, waiter| async move {
            let message = status::loading(&load);
            let changed = service.load(principal, load, apply, report, &waiter).await;
            let Changed { answer, before: _, now, warnings } = changed.map_err(|error| status::load(message, error))?;
            let Answer { outcome, plan } = answer;
            let app = outcome.apps.first().map(|app| codec::app(&now, app, &service.layout));
            let result = pb::LoadResult {
                // What was not loaded is no app whose pins are missing.
                app: app.map(|app| if dry { pb::App { cause: String::new(), ..app } } else { app }),
                links: outcome.links.iter().map(|link| codec::link(&now, link)).collect(),
                warnings: codec::warnings(warnings),
                plan: codec::plan(plan),
            };
            Ok(pb::LoadResponse { event: Some(Event::Result(result)) })
        }))
    }

    async fn get_app(&self, request: Request<pb::GetAppRequest>) -> Result<Response<pb::App>, Status> {
        let principal = principal(&request)?;
        let asked = &request.get_ref().app;
        let none = || {
            let message = format!("no app `{}`", printable(asked));
            Refusal::new(ErrorReason::NotFoundApp, message).hint("`bpfctl list` shows apps")
        };
        let app: AppRef = asked.parse().map_err(|_no_name| none())?;
        let (snapshot, app) = self.0.app(principal, app).await.map_err(status::app)?;
        Ok(Response::new(codec::app(&snapshot, &app, &self.0.layout)))
    }

    async fn list_apps(&self, request: Request<pb::ListAppsRequest>) -> Result<Response<pb::ListAppsResponse>, Status> {
        let principal = principal(&request)?;
        let pb::ListAppsRequest { interface, netns, page_size, page_token, user_labels } = request.into_inner();
        let interface = interface.map(|interface| codec::interface_name(netns.as_deref(), &interface));
        let interface = interface.transpose().map_err(bad_field)?;
        let labels = codec::label_selectors(&user_labels).map_err(bad_field)?;
        let listed = self.0.apps(principal, AppFilter { interface, labels }, &page(page_size, page_token)?).await;
        let listed = listed.map_err(|denied| status::denied(&denied))?;
        let (apps, next_page_token) = fitting(listed, |snapshot, app| codec::app(snapshot, &app, &self.0.layout));
        Ok(Response::new(pb::ListAppsResponse { apps, next_page_token }))
    }

    async fn unload(&self, request: Request<pb::UnloadRequest>) -> Result<Response<pb::UnloadResponse>, Status> {
        let principal = principal(&request)?;
        let unload = UnloadRequest::try_from(request.get_ref()).map_err(bad_field)?;
        let message = status::unloading(&unload);
        let changed = self.0.change(principal, unload, apply(request.get_ref().validate_only)).await;
        let Changed { answer, before, now: _, warnings } = changed.map_err(|error| status::engine(&message, &error))?;
        let Answer { outcome, plan } = answer;
        Ok(Response::new(pb::UnloadResponse {
            apps: codec::texts(outcome.apps.iter().map(|app| app.name.to_string()).collect()),
            links: codec::texts(outcome.links.iter().map(|link| before.state.link_name(link)).collect()),
            warnings: codec::warnings(warnings),
            plan: codec::plan(plan),
        }))
    }

    async fn persist(&self, request: Request<pb::PersistRequest>) -> Result<Response<pb::PersistResponse>, Status> {
        let principal = principal(&request)?;
        let persist = PersistRequest::try_from(request.get_ref()).map_err(bad_field)?;
        let message = status::persisting(&persist);
        let changed = self.0.change(principal, persist, apply(request.get_ref().validate_only)).await;
        let Changed { answer, before: _, now, .. } = changed.map_err(|error| status::engine(&message, &error))?;
        let Answer { outcome, plan } = answer;
        Ok(Response::new(pb::PersistResponse {
            app: outcome.apps.first().map(|app| codec::app(&now, app, &self.0.layout)),
            links: outcome.links.iter().map(|link| codec::link(&now, link)).collect(),
            plan: codec::plan(plan),
        }))
    }

    type GetLoadLogStream = tokio_stream::Iter<std::vec::IntoIter<Result<pb::GetLoadLogResponse, Status>>>;

    async fn get_load_log(
        &self,
        request: Request<pb::GetLoadLogRequest>,
    ) -> Result<Response<Self::GetLoadLogStream>, Status> {
        let principal = principal(&request)?;
        let log = self.0.load_log(principal, request.into_inner().log_id).await;
        let log = log.map_err(|denied| status::denied(&denied))?.ok_or_else(|| {
            Refusal::new(ErrorReason::NotFoundLog, "no such log")
                .hint("the daemon keeps the last 32 logs in memory; repeat the load to get a new one")
        })?;
        let pieces: Vec<_> = pieces(&log).into_iter().map(|text| Ok(pb::GetLoadLogResponse { text })).collect();
        Ok(Response::new(tokio_stream::iter(pieces)))
    }
}

/// The log in messages of whole lines; one longer than a message is cut.
pub(super) fn pieces(log: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for line in log.split_inclusive('\n') {
        let line: String = line.chars().take(LOG_PIECE / 4).collect();
        match pieces.last_mut() {
            Some(piece) if piece.len() + line.len() <= LOG_PIECE => piece.push_str(&line),
            _ => pieces.push(line),
        }
    }
    pieces
}
