//! Messages under way: what is held of each caller's requests before a handler has them, within limits.
//!
//! A request's bytes are counted from the head of a message on, which says how long it is: a message that would take its caller, or all
//! callers together, over the limit is refused before it is read. So is one of more than 64 KiB from somebody who may not ask for such
//! a thing at all. A caller who does not go on with what was begun is not waited for. Must never look inside a message.

mod held;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use bpfd_core::policy::{Asked, Principal, SourceFacts, Verb};
use bpfd_proto::MESSAGE_LIMIT;
use bpfd_proto::status::Refusal;
use bpfd_proto::v1::ErrorReason;
use http_body::Frame;
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Bytes, Service, http};

use self::held::{CALLS, CALLS_BESIDE_OTHERS, Full, Held, OF_ONE, OF_OTHERS, Share};
use super::connections::{Call, Caller};
use super::v1;
use crate::service::Service as Verbs;

/// What is taken of a message before it is known whether its sender may ask for such a thing: every request but an upload, and a load
/// with very many settings, is smaller.
const UNASKED: u64 = 64 << 10;
/// From the end of one message to the end of the next: a client of this host has it at hand.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a refusal for lack of room is held back: a client that asks again at once then asks once in this time on each stream.
/// Without it, refusing some thousand calls a second takes more of a processor than carrying out those that are taken.
const PAUSE: Duration = Duration::from_secs(1);
/// The header of an answer that is nothing but a status (gRPC over HTTP2, "Trailers-Only").
const STATUS: &str = "grpc-status";
/// RESOURCE_EXHAUSTED.
const NO_ROOM: &str = "8";
/// The head of a message: whether it is compressed, and its length (gRPC over HTTP2, "Length-Prefixed-Message").
const HEAD: usize = 5;

impl From<Full> for Status {
    fn from(full: Full) -> Self {
        let cause = match full {
            Full::OfOne => {
                format!("your requests that are under way have {} MiB, the most that is held of one user", OF_ONE >> 20)
            }
            Full::OfOthers => {
                format!("requests that are under way have {} MiB, the most that is held", OF_OTHERS >> 20)
            }
            Full::Calls => format!("{CALLS} calls of your user id are under way"),
            Full::CallsOfOthers => {
                format!("{CALLS} calls of users other than root are under way, {CALLS_BESIDE_OTHERS} of them yours")
            }
            Full::CallsOfRule(limit) => {
                format!("{limit} calls of your user id are under way, the most that a rule of the policy allows")
            }
            Full::Rate(limit) => format!("a rule of the policy allows you {limit} calls a minute"),
        };
        busy().cause(cause).hint("try again when some of them have ended").into()
    }
}

fn busy() -> Refusal {
    Refusal::new(ErrorReason::ResourceExhausted, "bpfd takes no more requests from you now")
}

/// The least that a method asks for, whatever is in its message: what is denied this is denied all of it.
fn least(path: &str) -> Asked {
    let method = path.strip_prefix("/bpfd.v1.").unwrap_or_default();
    match method {
        "AppService/UploadObject" => Asked::load(SourceFacts::Upload { object: None }),
        "AppService/Load" => Asked::verb(Verb::Load),
        "AppService/Unload" => Asked::verb(Verb::Unload),
        "LinkService/Attach" => Asked::verb(Verb::Attach),
        "LinkService/UpdateLink" => Asked::verb(Verb::Update),
        "LinkService/Detach" => Asked::verb(Verb::Detach),
        "ImageService/Pull"
        | "ImageService/RemoveImages"
        | "ImageService/TagImage"
        | "ImageService/ImportImages"
        | "ImageService/ExportImages" => Asked::verb(Verb::Pull),
        "SystemService/AdoptState" | "SystemService/DiscardState" => Asked::verb(Verb::Recover),
        "PolicyService/AddTrust"
        | "PolicyService/ReloadPolicy"
        | "PolicyService/GetPolicy"
        | "PolicyService/EnforcePolicy" => Asked::verb(Verb::Trust),
        "MapService/UpdateElement" | "MapService/DeleteElement" => Asked::verb(Verb::MapWrite),
        "MapService/ListMaps"
        | "MapService/GetElement"
        | "MapService/DumpMap"
        | "MapService/WatchMap"
        | "MapService/ReadRecords" => Asked::verb(Verb::MapRead),
        // Whatever else there is only looks.
        _ => Asked::verb(Verb::List),
    }
}

/// Where in the stream of messages a body is.
#[derive(Default)]
struct Messages {
    head: [u8; HEAD],
    of_head: usize,
    /// Of the message whose head was read.
    left: u64,
}

impl Messages {
    /// Walks over bytes that came: `begins` is asked about each message, by its length; gives whether one ended.
    fn take(&mut self, mut bytes: &[u8], mut begins: impl FnMut(u64) -> Result<(), Status>) -> Result<bool, Status> {
        let mut ended = false;
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let left = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left = self.left.saturating_sub(u64::try_from(left).unwrap_or(u64::MAX));
                bytes = bytes.get(left..).unwrap_or_default();
                ended |= self.left == 0;
                continue;
            }
            if let Some(place) = self.head.get_mut(self.of_head) {
                *place = *first;
            }
            self.of_head += 1;
            bytes = rest;
            if self.of_head == HEAD {
                self.of_head = 0;
                let [_compressed, length @ ..] = self.head;
                self.left = u32::from_be_bytes(length).into();
                ended |= self.left == 0;
                begins(self.left)?;
            }
        }
        Ok(ended)
    }
}

/// A request's body, counted while it is read.
struct Counted {
    body: Body,
    messages: Messages,
    share: Arc<Share>,
    timer: Pin<Box<Sleep>>,
    service: Arc<Verbs>,
    principal: Arc<Principal>,
    method: Arc<str>,
    /// It was refused: nothing more is read.
    over: bool,
}

impl Counted {
    /// A message of so many bytes begins.
    fn begins(&self, length: u64) -> Result<(), Status> {
        // The codec refuses it in its own words, without a byte of it.
        if usize::try_from(length).map_or(true, |length| length > MESSAGE_LIMIT) {
            return Ok(());
        }
        if length > UNASKED {
            let may = self.service.may_ask(&self.principal, &least(&self.method));
            may.map_err(|denied| Status::from(v1::denied(&denied)))?;
        }
        Ok(self.share.hold(length)?)
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let mut messages = std::mem::take(&mut this.messages);
                let bytes = frame.data_ref().map(AsRef::as_ref).unwrap_or_default();
                let taken = messages.take(bytes, |length| this.begins(length));
                this.messages = messages;
                match taken {
                    Ok(true) => this.timer.as_mut().reset(Instant::now() + PATIENCE),
                    Ok(false) => {}
                    Err(refused) => {
                        this.over = true;
                        return Poll::Ready(Some(Err(refused)));
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Pending if this.timer.as_mut().poll(cx).is_ready() => {
                this.over = true;
                let refusal = Refusal::new(ErrorReason::Timeout, "the request did not come to its end")
                    .cause(format!("no more of it arrived within {} s", PATIENCE.as_secs()));
                Poll::Ready(Some(Err(refusal.into())))
            }
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }
}

/// An answer's body: its call is under way until it is read, or given up.
pub(super) struct Answer<B> {
    body: B,
    _call: Option<(Call, Arc<Share>)>,
}

impl<B: http_body::Body + Unpin> http_body::Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// What stands before every service.
#[derive(Clone)]
pub(super) struct Intake {
    held: Arc<Held>,
    service: Arc<Verbs>,
}

/// A service behind it.
#[derive(Clone)]
pub(super) struct Behind<S> {
    intake: Intake,
    service: S,
}

impl Intake {
    pub(super) fn new(service: Arc<Verbs>) -> Self {
        Self { held: Arc::default(), service }
    }
}

impl<S> tower::Layer<S> for Intake {
    type Service = Behind<S>;

    fn layer(&self, service: S) -> Behind<S> {
        Behind { intake: self.clone(), service }
    }
}

type Answering<B, E> = Pin<Box<dyn Future<Output = Result<http::Response<Answer<B>>, E>> + Send>>;

impl<S, B> Service<http::Request<Body>> for Behind<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Default + Send + 'static,
{
    type Response = http::Response<Answer<B>>;
    type Error = S::Error;
    type Future = Answering<B, S::Error>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let Some(caller) = request.extensions().get::<Caller>().cloned() else {
            let status = Status::unauthenticated("the connection has no peer credentials");
            return Box::pin(std::future::ready(Ok(refused(status))));
        };
        let Caller { principal, live, refused } = caller;
        if let Some(refused) = refused {
            let hint = "end some of them; `ss -xp` shows whose they are";
            return no_room(live.call(), busy().cause(refused.why()).hint(hint).into());
        }
        let call = live.call();
        let rate = self.intake.service.trust.policy().rate(&principal);
        let share = match self.intake.held.call(principal.uid, rate, std::time::Instant::now()) {
            Ok(share) => Arc::new(share),
            Err(full) => return no_room(call, full.into()),
        };
        request.extensions_mut().insert(principal.clone());
        let is_root = principal.uid == 0;
        let method = request.uri().path().into();
        let (service, kept) = (self.intake.service.clone(), share.clone());
        let request = request.map(|body| {
            let (messages, timer) = (Messages::default(), Box::pin(tokio::time::sleep(PATIENCE)));
            Body::new(Counted { body, messages, share: kept, timer, service, principal, method, over: false })
        });
        let answering = self.service.call(request);
        Box::pin(async move {
            let answer = answering.await?;
            // The handler has the messages, and is bounded by itself.
            share.let_go();
            // Its share of calls is kept meanwhile.
            if !is_root && answer.headers().get(STATUS).is_some_and(|status| status == NO_ROOM) {
                tokio::time::sleep(PAUSE).await;
            }
            Ok(answer.map(|body| Answer { body, _call: Some((call, share)) }))
        })
    }
}

fn refused<B: Default>(status: Status) -> http::Response<Answer<B>> {
    status.into_http::<B>().map(|body| Answer { body, _call: None })
}

/// Refuses, later.
fn no_room<B: Default + Send + 'static, E: Send + 'static>(call: Call, status: Status) -> Answering<B, E> {
    Box::pin(async move {
        tokio::time::sleep(PAUSE).await;
        drop(call);
        Ok(refused(status))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let head = u32::try_from(length).unwrap().to_be_bytes();
        [&[0], head.as_slice(), &vec![7; length]].concat()
    }

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let stream = [message(3), message(0), message(300)].concat();
        for piece in [1, 2, 4, 5, 7, 64, 1000] {
            let (mut messages, mut begun, mut ended) = (Messages::default(), Vec::new(), 0);
            for bytes in stream.chunks(piece) {
                let more = messages.take(bytes, |length| {
                    begun.push(length);
                    Ok(())
                });
                ended += u32::from(more.unwrap());
            }
            assert_eq!(begun, [3, 0, 300], "in pieces of {piece}");
            assert!(ended >= 1 && messages.left == 0 && messages.of_head == 0);
        }
    }

    #[test]
    fn an_answer_in_words_has_each_limit() {
        let told = |full: Full| Status::from(full).message().to_owned();
        assert_eq!(told(Full::Calls), "bpfd takes no more requests from you now");
    }
}
