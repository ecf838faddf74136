//! AppService: uploads, loads, what is loaded, unloads.

use std::sync::Arc;

use bpfd_core::ask::{Look, UploadAsk};
use bpfd_core::changes;
use bpfd_core::request::{AppRef, Bytes, LoadRequest, UnloadRequest, UnloadWhich};
use bpfd_core::state::App;
use bpfd_core::wire::{self, BadField};
use bpfd_proto::status::Refusal;
use bpfd_proto::v1 as pb;
use bpfd_proto::v1::ErrorReason;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Context, principal, status, view};
use crate::causes::error_chain;
use crate::engine;
use crate::objects::IncomingError;
use crate::pages::{self, Page};
use crate::progress::in_order;
use crate::waiter::{Stopping, Waiter};

/// Reports that wait for a slow reader; more are dropped.
const REPORTS: usize = 64;
/// Characters of a log in one message.
const LOG_PIECE: usize = 256 << 10;

pub(super) struct Apps(pub(super) Arc<Context>, pub(super) Stopping);

#[tonic::async_trait]
impl pb::app_service_server::AppService for Apps {
    async fn upload_object(
        &self,
        request: Request<Streaming<pb::UploadObjectRequest>>,
    ) -> Result<Response<pb::UploadObjectResponse>, Status> {
        self.0.permit(principal(&request)?, UploadAsk).await?;
        let mut pieces = request.into_inner();
        let mut incoming = self.0.objects.incoming().map_err(|error| no_room(IncomingError::Write(error)))?;
        while let Some(pb::UploadObjectRequest { chunk }) = pieces.message().await? {
            if chunk.is_empty() {
                // Each costs a message, and an upload of them never ends.
                return Err(super::bad_field(BadField { field: "chunk", why: "it is empty".to_owned() }));
            }
            incoming.write(&chunk).map_err(no_room)?;
        }
        let finished = tokio::task::spawn_blocking(move || incoming.finish()).await;
        let (digest, size) = finished
            .map_err(|_| Status::internal("the upload was lost"))?
            .map_err(|error| no_room(IncomingError::Write(error)))?;
        Ok(Response::new(pb::UploadObjectResponse { sha256: digest.to_string(), size }))
    }

    type LoadStream = ReceiverStream<Result<pb::LoadResponse, Status>>;

    async fn load(&self, request: Request<pb::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        let validate_only = request.get_ref().validate_only;
        let ask = self.0.authorize(&request, |message| LoadRequest::try_from(message)).await?;
        let (events, stream) = mpsc::channel(REPORTS);
        let (context, stopping) = (self.0.clone(), self.1.clone());
        tokio::spawn(async move {
            let uid = ask.principal().uid;
            let doing = doing(ask.request());
            let reports = events.clone();
            let report = in_order(move |progress| {
                let event = pb::load_response::Event::Progress(view::progress(progress));
                // A full queue: the reader is slow, and misses a report.
                reports.try_send(Ok(pb::LoadResponse { event: Some(event) })).unwrap_or_default();
            });
            let waiter = Waiter::default();
            let load = context.loads.load(ask, validate_only, report, &waiter);
            let loaded = stopping.while_wanted(&waiter, &events, load).await;
            let answer = match loaded {
                Ok((answer, warnings)) => {
                    let snapshot = context.snapshot();
                    let engine::Answer { outcome, plan } = answer;
                    let pins = context.layout.pins();
                    Ok(pb::LoadResponse {
                        event: Some(pb::load_response::Event::Result(pb::LoadResult {
                            app: outcome.apps.first().map(|app| view::app(&snapshot, app, &pins)),
                            links: outcome.links.iter().map(|link| view::link(&snapshot, link)).collect(),
                            warnings: view::warnings(warnings),
                            plan: view::plan(plan),
                        })),
                    })
                }
                Err(error) => Err(status::load(&doing, error, uid, &context.logs).into_status()),
            };
            if events.send(answer).await.is_err() {
                tracing::info!("the caller left before the answer");
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn get_app(&self, request: Request<pb::GetAppRequest>) -> Result<Response<pb::App>, Status> {
        self.0.permit(principal(&request)?, Look).await?;
        let snapshot = self.0.snapshot();
        let asked = &request.get_ref().app;
        let found = asked.parse::<AppRef>().ok().and_then(|app| app.resolve(&snapshot.state).ok());
        let app = found.ok_or_else(|| {
            let asked = bpfd_core::names::printable(asked);
            Refusal::new(ErrorReason::NotFoundApp, format!("no app `{asked}`")).hint("`bpfctl list` shows apps")
        })?;
        Ok(Response::new(view::app(&snapshot, app, &self.0.layout.pins())))
    }

    async fn list_apps(&self, request: Request<pb::ListAppsRequest>) -> Result<Response<pb::ListAppsResponse>, Status> {
        self.0.permit(principal(&request)?, Look).await?;
        let pb::ListAppsRequest { interface, netns, page_size, page_token } = request.into_inner();
        let chain = interface.map(|interface| wire::xdp_chain(netns.as_deref(), &interface));
        let chain = chain.transpose().map_err(super::bad_field)?;
        let snapshot = self.0.snapshot();
        let on_chain = |app: &&App| match &chain {
            None => true,
            Some(chain) => snapshot.state.links_of(app.uid).any(|link| link.placement.chain() == Some(chain)),
        };
        let size = pages::size(page_size).map_err(super::bad_field)?;
        let left = |app: &&App| app.name.as_str() > page_token.as_str();
        let mut apps: Vec<&App> = snapshot.state.apps.values().filter(on_chain).filter(left).collect();
        apps.sort_by(|one, other| one.name.cmp(&other.name));
        let (snapshot, pins) = (&snapshot, self.0.layout.pins());
        let made = apps.into_iter().map(|app| (app.name.to_string(), || view::app(snapshot, app, &pins)));
        let Page { items: apps, next: next_page_token } = pages::page(size, made);
        Ok(Response::new(pb::ListAppsResponse { apps, next_page_token }))
    }

    async fn unload(&self, request: Request<pb::UnloadRequest>) -> Result<Response<pb::UnloadResponse>, Status> {
        let validate_only = request.get_ref().validate_only;
        let ask = self.0.authorize(&request, |message| UnloadRequest::try_from(message)).await?;
        let (ask, principal) = ask.into_parts();
        let message = match &ask.which {
            UnloadWhich::Apps(apps) => {
                let names: Vec<String> = apps.iter().map(|app| format!("`{app}`")).collect();
                format!("cannot unload {}", names.join(", "))
            }
            UnloadWhich::All => "cannot unload every app".to_owned(),
        };
        let change = engine::Context { principal, request: ask.request, validate_only, new_links: 0 };
        let before = self.0.snapshot();
        let stays = |app: &App| view::stays(&format!("app `{}`", app.name), &app.owner);
        let warnings = changes::apps_left(&before.state, &ask).into_iter().map(stays).collect();
        let job =
            move |engine: &mut engine::Engine<_>| engine.change(&change, None, |state, _| changes::unload(state, &ask));
        let answer = self.0.engine.call(job).await.and_then(|result| result);
        let engine::Answer { outcome, plan } = answer.map_err(|error| status::engine(&message, error))?;
        Ok(Response::new(pb::UnloadResponse {
            apps: pages::texts(outcome.apps.iter().map(|app| app.name.to_string()).collect()),
            links: pages::texts(outcome.links.iter().map(|link| before.state.link_name(link)).collect()),
            warnings: view::few(warnings),
            plan: view::plan(plan),
        }))
    }

    type GetLoadLogStream = tokio_stream::Iter<std::vec::IntoIter<Result<pb::GetLoadLogResponse, Status>>>;

    async fn get_load_log(
        &self,
        request: Request<pb::GetLoadLogRequest>,
    ) -> Result<Response<Self::GetLoadLogStream>, Status> {
        let caller = principal(&request)?;
        let uid = caller.uid;
        self.0.permit(caller, Look).await?;
        let log = self.0.logs.read(uid, &request.get_ref().log_id).ok_or_else(|| {
            Refusal::new(ErrorReason::NotFoundLog, "no such log")
                .hint("the last 32 are kept, until the daemon ends; load again to get another")
        })?;
        let pieces: Vec<_> = pieces(&log).into_iter().map(|text| Ok(pb::GetLoadLogResponse { text })).collect();
        Ok(Response::new(tokio_stream::iter(pieces)))
    }
}

/// The log in messages of whole lines; one longer than a message is cut.
fn pieces(log: &str) -> Vec<String> {
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

fn no_room(error: IncomingError) -> Status {
    let reason = match &error {
        IncomingError::TooLarge => ErrorReason::LimitExceeded,
        IncomingError::Write(_) => ErrorReason::ResourceExhausted,
    };
    Refusal::new(reason, "cannot take the object").cause(error_chain(&error)).into()
}

fn doing(request: &LoadRequest) -> String {
    let named = request.name.as_ref().map(ToString::to_string);
    let source = match &request.bytes {
        Bytes::Image { reference, .. } => Some(bpfd_core::names::printable(reference)),
        Bytes::Uploaded { stem, .. } => stem.as_deref().map(bpfd_core::names::printable),
    };
    named.or(source).map_or_else(|| "load the object".to_owned(), |name| format!("load `{name}`"))
}
