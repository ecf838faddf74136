//! Connections as somebody else, and calls that are begun and not finished: what no honest client makes.

use std::collections::VecDeque;
use std::fs::File;
use std::future::poll_fn;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bpfd_client::proto::v1 as pb;
use bpfd_client::{Client, ClientError, request_id};
use bpfd_tests::Host;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use rustix::fs::{Gid, Uid};
use tokio::runtime::Builder;

/// How long anything may take before the case fails.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Who connects.
#[derive(Clone, Copy)]
pub(crate) struct Who {
    pub(crate) uid: u32,
    pub(crate) group: u32,
    pub(crate) socket: &'static str,
}

/// The member of `bpfd-view` that [`Host::make_group`] makes.
pub(crate) const VIEWER: Who = Who { uid: 4712, group: 816, socket: "bpfd-ro.sock" };
/// The member of `bpfd` that it makes.
pub(crate) const MEMBER: Who = Who { uid: 4711, group: 815, socket: "bpfd.sock" };
pub(crate) const ROOT: Who = Who { uid: 0, group: 0, socket: "bpfd.sock" };

/// A connection on which nothing was said. The kernel keeps who made it, whoever uses it afterwards.
pub(crate) fn connect(host: &Host, who: Who) -> UnixStream {
    on_thread_of(host, who, |socket| UnixStream::connect(socket).unwrap())
}

/// What the daemon answers the member: one connection for many questions. Refused, all that it was told.
pub(crate) fn as_member<T: Send>(
    host: &Host,
    questions: impl AsyncFnOnce(&mut Client) -> Result<T, ClientError> + Send,
) -> Result<T, String> {
    on_thread_of(host, MEMBER, |socket| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let connected = Client::connect(socket, Duration::ZERO).await;
            match connected {
                Ok(mut client) => questions(&mut client).await,
                Err(error) => Err(error),
            }
            .map_err(|error| format!("{error:?}"))
        })
    })
}

/// Attaches the member's app `mine` where there is no interface yet.
pub(crate) fn waits_for(host: &Host, hooks: impl Iterator<Item = pb::XdpHook> + Send) -> Result<(), String> {
    as_member(host, async |client: &mut Client| {
        for hook in hooks {
            let hook = Some(pb::Hook { hook: Some(pb::hook::Hook::Xdp(hook)) });
            let attachment = pb::Attachment { hook, priority: Some(300), when_present: true, ..Default::default() };
            let (app, attachment) = ("mine".to_owned(), Some(attachment));
            client
                .attach(pb::AttachRequest { request_id: request_id(), app, attachment, ..Default::default() })
                .await?;
        }
        Ok(())
    })
}

/// Does something as somebody else, given the way to the socket.
fn on_thread_of<T: Send>(host: &Host, who: Who, work: impl FnOnce(&Path) -> T + Send) -> T {
    let door = Door::of(host);
    std::thread::scope(|scope| scope.spawn(|| work(&door.opened_as(who))).join().unwrap())
}

/// The way to a host's sockets, for threads of any user.
pub(crate) struct Door(File);

impl Door {
    pub(crate) fn of(host: &Host) -> Self {
        Self(File::open(host.path("/run/case/run/bpfd")).unwrap())
    }

    /// Makes this thread somebody else's, and gives the way to the socket.
    pub(crate) fn opened_as(&self, who: Who) -> PathBuf {
        let Who { uid, group, socket } = who;
        let ids = (Uid::from_raw(uid), Gid::from_raw(uid));
        rustix::thread::set_thread_groups(&[Gid::from_raw(group)]).unwrap();
        rustix::thread::set_thread_res_gid(ids.1, ids.1, ids.1).unwrap();
        rustix::thread::set_thread_res_uid(ids.0, ids.0, ids.0).unwrap();
        PathBuf::from(format!("/proc/self/fd/{}/{socket}", self.0.as_raw_fd()))
    }
}

/// A connection that has greeted. Use it within a `LocalSet`.
pub(crate) struct Raw(SendRequest<VecDeque<u8>>);

/// A call that is not at its end.
pub(crate) struct Begun {
    answer: ResponseFuture,
    request: SendStream<VecDeque<u8>>,
}

/// What came of sending.
pub(crate) enum Sent {
    /// Everything was taken, and nothing is answered.
    Taken(Begun),
    /// It was answered with this gRPC status instead, or the stream was reset.
    Answered(Option<String>),
}

impl Raw {
    pub(crate) async fn greet(stream: UnixStream) -> Self {
        Self::try_greet(stream).await.expect("a greeting")
    }

    /// `None` if the daemon ends the connection meanwhile.
    pub(crate) async fn try_greet(stream: UnixStream) -> Option<Self> {
        stream.set_nonblocking(true).unwrap();
        let stream = tokio::net::UnixStream::from_std(stream).unwrap();
        let (sender, connection) = h2::client::Builder::new().handshake(stream).await.ok()?;
        tokio::task::spawn_local(async move { drop(connection.await) });
        Some(Self(sender))
    }

    /// Begins a call: its headers, and no end.
    pub(crate) async fn begin(&mut self, path: &str) -> Begun {
        self.try_begin(path).await.expect("a call")
    }

    /// `None` if the daemon ends the connection meanwhile.
    pub(crate) async fn try_begin(&mut self, path: &str) -> Option<Begun> {
        self.begin_with(path, std::iter::empty()).await
    }

    /// The same with more headers.
    pub(crate) async fn begin_with(
        &mut self,
        path: &str,
        headers: impl Iterator<Item = (String, String)>,
    ) -> Option<Begun> {
        let request = http::Request::post(format!("http://bpfd{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let request = headers.fold(request, |request, (name, value)| request.header(name, value)).body(()).unwrap();
        let mut ready = self.0.clone().ready().await.ok()?;
        let (answer, request) = ready.send_request(request, false).ok()?;
        Some(Begun { answer, request })
    }
}

impl Begun {
    /// Sends the head of a message, and so much of it.
    pub(crate) async fn send(mut self, length: u32, bytes: usize) -> Sent {
        let head: VecDeque<u8> = [0].into_iter().chain(length.to_be_bytes()).collect();
        let mut left = bytes;
        if self.request.send_data(head, false).is_err() {
            return Sent::Answered(self.status().await);
        }
        while left > 0 {
            self.request.reserve_capacity(left.min(16 << 10));
            let Self { answer, request } = &mut self;
            // Room for more, or the answer.
            let room = tokio::select! {
                answer = answer => return Sent::Answered(answer.ok().and_then(|answer| status_of(answer.headers()))),
                room = poll_fn(|cx| request.poll_capacity(cx)) => room,
            };
            let Some(Ok(room)) = room else { return Sent::Answered(self.status().await) };
            let piece = room.min(left);
            if request_send(&mut self.request, piece).is_err() {
                return Sent::Answered(self.status().await);
            }
            left -= piece;
        }
        Sent::Taken(self)
    }

    /// Sends a whole message, and reads what is answered to its end; gives the gRPC status, if there was one.
    pub(crate) async fn ask(mut self, message: impl AsRef<[u8]>) -> Option<String> {
        let message = message.as_ref();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let whole: VecDeque<u8> = [0].into_iter().chain(length).chain(message.iter().copied()).collect();
        // It may be refused at its head.
        drop(self.request.send_data(whole, true));
        let answer = self.answer.await.ok()?;
        if let status @ Some(_) = status_of(answer.headers()) {
            return status;
        }
        let mut body = answer.into_body();
        while let Some(Ok(bytes)) = body.data().await {
            drop(body.flow_control().release_capacity(bytes.len()));
        }
        status_of(&body.trailers().await.ok()??)
    }

    /// The gRPC status of the answer, once there is one; `None` if the stream ends without.
    pub(crate) async fn status(self) -> Option<String> {
        let answer = tokio::time::timeout(LIMIT, self.answer).await.expect("an answer").ok()?;
        status_of(answer.headers())
    }
}

fn request_send(request: &mut SendStream<VecDeque<u8>>, bytes: usize) -> Result<(), h2::Error> {
    request.send_data(vec![0; bytes].into(), false)
}

fn status_of(headers: &http::HeaderMap) -> Option<String> {
    Some(headers.get("grpc-status")?.to_str().ok()?.to_owned())
}

/// The type of a HEADERS frame (RFC 9113, 6.2).
pub(crate) const HEADERS: u8 = 1;

/// What a client says first (RFC 9113, 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// All that a client says for one call, byte for byte: settings, headers, one message.
pub(crate) fn conversation(path: &str, settings: &[u8], message: &[u8]) -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u32, body: &[u8]| {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
    };
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let header = |(name, value): (&str, &str)| [vec![0], text(name), text(value)].concat();
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let headers: Vec<u8> = headers.into_iter().flat_map(header).collect();
    let message = [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat();
    [PREFACE, &frame(4, 0, 0, settings), &frame(HEADERS, 4, 1, &headers), &frame(0, 1, 1, &message)].concat()
}

/// Runs a case's calls.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work)
}
