//! `bpfd.v1`: messages to requests of the service, results and errors to messages and statuses. A codec and nothing else.

use bpfd_core::ident::{AppUid, KernelId};
use bpfd_core::request::Apply;
use bpfd_core::snapshot::Snapshot;
use bpfd_proto::codec::v1::{self as codec, BadField, Fitted, Paths};
use bpfd_proto::status::Refusal;
use bpfd_proto::v1::{self as pb, ErrorReason};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::principal;
use crate::kernel::map_path;
use crate::layout::Layout;
use crate::progress::{Report, in_order};
use crate::service::{Listed, Page};
use crate::waiter::{Stopping, Waiter};

mod app;
mod chain;
mod image;
mod link;
mod map;
mod policy;
mod status;
mod system;

pub(super) use app::Apps;
pub(super) use chain::Chains;
pub(super) use image::ImageApi;
pub(super) use link::Links;
pub(super) use map::MapApi;
pub(super) use policy::PolicyApi;
pub(super) use status::denied;
pub(super) use system::System;

/// Reports that wait for a slow reader; more are dropped.
const REPORTS: usize = 64;

type Streamed<T> = ReceiverStream<Result<T, Status>>;

/// The stream of a piece of work: reports as it goes on, then its result. The work hears when its reader has left, or when the daemon
/// is to stop.
fn streamed<T, W>(
    stopping: Stopping,
    event: fn(pb::Progress) -> T,
    work: impl FnOnce(Report, Waiter) -> W,
) -> Response<Streamed<T>>
where
    T: Send + 'static,
    W: Future<Output = Result<T, Status>> + Send + 'static,
{
    let (events, stream) = mpsc::channel(REPORTS);
    let reports = events.clone();
    // A full queue: the reader is slow, and misses a report.
    let report = in_order(move |told| reports.try_send(Ok(event(codec::progress(told)))).unwrap_or_default());
    let waiter = Waiter::default();
    let work = work(report, waiter.clone());
    tokio::spawn(async move {
        let answer = stopping.while_wanted(&waiter, &events, work).await;
        if events.send(answer).await.is_err() {
            tracing::info!("the client left before the answer");
        }
    });
    Response::new(ReceiverStream::new(stream))
}

/// What `validate_only` says.
fn apply(validate_only: bool) -> Apply {
    if validate_only { Apply::ValidateOnly } else { Apply::Write }
}

fn page(size: Option<u32>, token: String) -> Result<Page, Status> {
    Ok(Page { size: codec::page_size(size).map_err(bad_field)?, after: token })
}

/// As much of a page as fits one message, and the token of the next page.
fn fitting<T, M: Message>(listed: Listed<T>, message: impl Fn(&Snapshot, T) -> M) -> (Vec<M>, String) {
    let Listed { snapshot, items, next } = listed;
    let (snapshot, message) = (&snapshot, &message);
    let made = items.into_iter().map(|(place, item)| (place, move || message(snapshot, item)));
    let Fitted { items, next, oversized } = codec::fitting(made, next);
    for place in oversized {
        tracing::error!(place, "an item is too large for a message and is left out of the list");
    }
    (items, next)
}

fn bad_field(error: BadField) -> Status {
    let BadField { field, why } = error;
    Refusal::new(ErrorReason::InvalidRequest, "the request is not valid").cause(why).fact("field", field).into()
}

impl Paths for Layout {
    fn map_pin(&self, app: AppUid, map: &str) -> Option<String> {
        map_path(&self.pins(), app, map).map(|path| path.display().to_string())
    }

    fn libxdp_pin(&self, ifindex: u32, dispatcher: KernelId, slot: u32) -> Option<String> {
        let path = self.bpffs.join(format!("xdp/dispatch-{ifindex}-{dispatcher}/prog{slot}-prog"));
        path.exists().then(|| path.display().to_string())
    }
}
