//! MapService: what maps hold. Streams are read from when their callers take what they have, and end when these leave or the daemon stops.

use std::sync::Arc;

use bpfd_core::maps::{DeleteElement, DumpMap, GetElement, MapRef, MapUse, ReadRecords, UpdateElement, WatchMap};
use bpfd_core::request::AppRef;
use bpfd_proto::codec::v1::{self as codec};
use bpfd_proto::v1 as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Streamed, bad_field, fitting, page, principal, status};
use crate::maps::{Change, DumpEnd, Page, TypeNames};
use crate::service::{Dump, ListedMap, Piece, Records, Service, Watching};
use crate::waiter::Stopping;

/// Messages that wait for a slow reader: each may have half a MiB.
const WAITING: usize = 1;

pub(in crate::rpc) struct MapApi(pub(in crate::rpc) Arc<Service>, pub(in crate::rpc) Stopping);

/// What a caller takes piece by piece.
trait Source: Send + 'static {
    type Message: Send + 'static;

    /// The next message; `None` after the last.
    fn next(&mut self, service: &Service) -> impl Future<Output = Result<Option<Self::Message>, Status>> + Send;
}

impl MapApi {
    /// The stream of a source, with a message that is sent before all others.
    fn poured<S: Source>(&self, mut source: S, first: Option<S::Message>) -> Response<Streamed<S::Message>> {
        let (messages, stream) = mpsc::channel(WAITING);
        let (service, stopping) = (self.0.clone(), self.1.clone());
        tokio::spawn(async move {
            if let Some(first) = first
                && messages.send(Ok(first)).await.is_err()
            {
                return;
            }
            loop {
                let next = tokio::select! {
                    next = source.next(&service) => next,
                    () = messages.closed() => return,
                    () = stopping.begun() => Err(status::stopping()),
                };
                let (message, over) = match next {
                    Ok(Some(message)) => (Ok(message), false),
                    Ok(None) => return,
                    Err(status) => (Err(status), true),
                };
                if messages.send(message).await.is_err() || over {
                    return;
                }
            }
        });
        Response::new(ReceiverStream::new(stream))
    }
}

#[tonic::async_trait]
impl pb::map_service_server::MapService for MapApi {
    async fn list_maps(&self, request: Request<pb::ListMapsRequest>) -> Result<Response<pb::ListMapsResponse>, Status> {
        let principal = principal(&request)?;
        let pb::ListMapsRequest { app, page_size, page_token } = request.into_inner();
        let app = app.map(|app| app.parse::<AppRef>().map_err(|_no_name| status::no_app(&app))).transpose()?;
        let listed = self.0.maps(principal, app, &page(page_size, page_token)?).await;
        let listed = listed.map_err(|error| status::map("cannot list maps", error))?;
        let (maps, next_page_token) = fitting(listed, |snapshot, ListedMap { app, map, types }| {
            let TypeNames { key, value } = types;
            let usable = MapUse::of(&map.name, &map.kind);
            pb::AppMap {
                app: app.name.to_string(),
                app_uid: app.uid.to_string(),
                map: Some(codec::map(snapshot, &app, &map, &self.0.layout)),
                r#use: codec::map_use(usable).into(),
                key_type: key,
                value_type: value,
            }
        });
        Ok(Response::new(pb::ListMapsResponse { maps, next_page_token }))
    }

    async fn get_element(
        &self,
        request: Request<pb::GetElementRequest>,
    ) -> Result<Response<pb::GetElementResponse>, Status> {
        let principal = principal(&request)?;
        let request = GetElement::try_from(request.get_ref()).map_err(bad_field)?;
        let message = format!("cannot read an element of `{}`", name(&request.map));
        let element = self.0.element(principal, request).await.map_err(|error| status::map(&message, error))?;
        Ok(Response::new(pb::GetElementResponse { element: Some(shown(element)) }))
    }

    type DumpMapStream = Streamed<pb::DumpMapResponse>;

    async fn dump_map(&self, request: Request<pb::DumpMapRequest>) -> Result<Response<Self::DumpMapStream>, Status> {
        let principal = principal(&request)?;
        let request = DumpMap::try_from(request.get_ref()).map_err(bad_field)?;
        let message = format!("cannot dump `{}`", name(&request.map));
        let dump = self.0.dump_map(principal, request).await.map_err(|error| status::map(&message, error))?;
        Ok(self.poured((dump, message), None))
    }

    async fn update_element(
        &self,
        request: Request<pb::UpdateElementRequest>,
    ) -> Result<Response<pb::UpdateElementResponse>, Status> {
        let principal = principal(&request)?;
        let request = UpdateElement::try_from(request.get_ref()).map_err(bad_field)?;
        let message = format!("cannot write to `{}`", name(&request.map));
        self.0.update_element(principal, request).await.map_err(|error| status::map(&message, error))?;
        Ok(Response::new(pb::UpdateElementResponse {}))
    }

    async fn delete_element(
        &self,
        request: Request<pb::DeleteElementRequest>,
    ) -> Result<Response<pb::DeleteElementResponse>, Status> {
        let principal = principal(&request)?;
        let request = DeleteElement::try_from(request.get_ref()).map_err(bad_field)?;
        let message = format!("cannot remove an element of `{}`", name(&request.map));
        self.0.delete_element(principal, request).await.map_err(|error| status::map(&message, error))?;
        Ok(Response::new(pb::DeleteElementResponse {}))
    }

    type WatchMapStream = Streamed<pb::WatchMapResponse>;

    async fn watch_map(&self, request: Request<pb::WatchMapRequest>) -> Result<Response<Self::WatchMapStream>, Status> {
        let principal = principal(&request)?;
        let request = WatchMap::try_from(request.get_ref()).map_err(bad_field)?;
        let message = format!("cannot watch `{}`", name(&request.map));
        let watch = self.0.watch_map(principal, request).await.map_err(|error| status::map(&message, error))?;
        Ok(self.poured((watch, message), None))
    }

    type ReadRecordsStream = Streamed<pb::ReadRecordsResponse>;

    async fn read_records(
        &self,
        request: Request<pb::ReadRecordsRequest>,
    ) -> Result<Response<Self::ReadRecordsStream>, Status> {
        let principal = principal(&request)?;
        let request = ReadRecords::try_from(request.get_ref()).map_err(bad_field)?;
        let message = format!("cannot read the records of `{}`", name(&request.map));
        let records = self.0.read_records(principal, request).await.map_err(|error| status::map(&message, error))?;
        Ok(self.poured((records, message), Some(pb::ReadRecordsResponse::default())))
    }
}

fn name(map: &MapRef) -> String {
    format!("{}/{}", map.app, map.map)
}

fn shown((key, value): (String, String)) -> pb::MapElement {
    pb::MapElement { key, value }
}

impl Source for (Dump, String) {
    type Message = pb::DumpMapResponse;

    async fn next(&mut self, service: &Service) -> Result<Option<pb::DumpMapResponse>, Status> {
        let (dump, message) = self;
        let page = dump.next(service).await.map_err(|error| status::map(message, error))?;
        Ok(page.map(|Page { elements, end }| {
            let end = end.map(|end| match end {
                DumpEnd::Complete => pb::DumpEnd::Complete,
                DumpEnd::Limit => pb::DumpEnd::Limit,
                DumpEnd::Changed => pb::DumpEnd::Changed,
            });
            let elements = elements.into_iter().map(shown).collect();
            pb::DumpMapResponse { elements, end: end.map(Into::into) }
        }))
    }
}

impl Source for (Watching, String) {
    type Message = pb::WatchMapResponse;

    async fn next(&mut self, service: &Service) -> Result<Option<pb::WatchMapResponse>, Status> {
        use pb::MapChangeKind as Kind;
        let (watch, message) = self;
        let part = watch.next(service).await.map_err(|error| status::map(message, error))?;
        let change = |change| {
            let (kind, key, value) = match change {
                Change::Present(key, value) => (Kind::Present, key, value),
                Change::Changed(key, value) => (Kind::Changed, key, value),
                Change::Gone(key) => (Kind::Gone, key, String::new()),
            };
            pb::MapChange { kind: kind.into(), element: Some(shown((key, value))) }
        };
        Ok(part
            .map(|(changes, last)| pb::WatchMapResponse { changes: changes.into_iter().map(change).collect(), last }))
    }
}

impl Source for (Records, String) {
    type Message = pb::ReadRecordsResponse;

    async fn next(&mut self, service: &Service) -> Result<Option<pb::ReadRecordsResponse>, Status> {
        let (records, message) = self;
        let piece = records.next(service).await.map_err(|error| status::map(message, error))?;
        let record = |(value, size)| pb::MapRecord { value, size: u32::try_from(size).unwrap_or(u32::MAX) };
        Ok(piece.map(|Piece { records, lost }| pb::ReadRecordsResponse {
            records: records.into_iter().map(record).collect(),
            lost,
        }))
    }
}
