//! The sockets: accepts, asks the kernel who it is, serves all services with their limits.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as Task, Poll};
use std::time::{Duration, Instant};

use bpfd_proto::v1::app_service_server::AppServiceServer;
use bpfd_proto::v1::chain_service_server::ChainServiceServer;
use bpfd_proto::v1::image_service_server::ImageServiceServer;
use bpfd_proto::v1::link_service_server::LinkServiceServer;
use bpfd_proto::v1::policy_service_server::PolicyServiceServer;
use bpfd_proto::v1::system_service_server::SystemServiceServer;
use bpfd_proto::{FILE_DESCRIPTOR_SET, MESSAGE_LIMIT};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use super::PeerStream;
use super::v1::{Apps, Chains, ImageApi, Links, PolicyApi, System};
use crate::service::Service;
use crate::waiter::Stopping;

/// Calls under way on one connection; the others wait.
const STREAMS: u32 = 32;
/// Connections of one user id: a client needs one, a shell loop a few.
const CONNECTIONS: usize = 64;
/// Between two words in the log about connections that were refused: whoever makes them must not fill it.
const QUIET: Duration = Duration::from_secs(10);
/// A dead client is noticed by its pings, so that its slot comes free.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// How long callers may take to read their last answers and to leave, once the daemon is asked to stop and nothing is left to do.
const ANSWERS: Duration = Duration::from_secs(2);

/// Serves all alike until `stop` is ready. Then what the engine was asked for is done and answered; pulls and loads that did not get so
/// far end.
pub async fn serve(
    context: Arc<Service>,
    listeners: Vec<UnixListener>,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let (health, healthy) = tonic_health::server::health_reporter();
    health.set_serving::<AppServiceServer<Apps>>().await;
    health.set_serving::<LinkServiceServer<Links>>().await;
    health.set_serving::<ChainServiceServer<Chains>>().await;
    health.set_serving::<ImageServiceServer<ImageApi>>().await;
    health.set_serving::<PolicyServiceServer<PolicyApi>>().await;
    health.set_serving::<SystemServiceServer<System>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    macro_rules! limited {
        ($server:ident, $service:expr) => {
            $server::new($service).max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(MESSAGE_LIMIT)
        };
    }
    let (begin, stopping) = Stopping::new();
    let engine = context.engine.clone();
    let stop = async move {
        stop.await;
        begin.send_replace(true);
    };
    let (incoming, connections) = mpsc::channel(16);
    let open = OpenByUid::default();
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, open.clone(), incoming.clone()));
    }
    drop(incoming);
    let serving = Server::builder()
        .max_concurrent_streams(STREAMS)
        .concurrency_limit_per_connection(usize::try_from(STREAMS).unwrap_or(usize::MAX))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_service(healthy)
        .add_service(reflection)
        .add_service(limited!(AppServiceServer, Apps(context.clone(), stopping.clone())))
        .add_service(limited!(LinkServiceServer, Links(context.clone())))
        .add_service(limited!(ChainServiceServer, Chains(context.clone())))
        .add_service(limited!(ImageServiceServer, ImageApi { context: context.clone(), stopping: stopping.clone() }))
        .add_service(limited!(PolicyServiceServer, PolicyApi { context: context.clone() }))
        .add_service(limited!(SystemServiceServer, System(context)))
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), stop);
    let overdue = async {
        stopping.begun().await;
        // Jobs are done in their order: this one comes after all that was asked for.
        let idle = engine.call(|_| ()).await;
        tokio::time::sleep(ANSWERS).await;
        idle
    };
    let served = tokio::select! {
        served = serving => served,
        idle = overdue => {
            tracing::warn!(idle = idle.is_ok(), "callers that do not read their answers, or do not leave, are left");
            Ok(())
        }
    };
    // What callers asked for that have left.
    if engine.call(|_| ()).await.is_err() {
        tracing::warn!("the engine stopped before the daemon");
    }
    accepting.abort_all();
    Ok(served?)
}

/// Why serving ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket.
    #[error("cannot serve the socket")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors that were built in.
    #[error("cannot describe the API")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Accepts for ever. A connection whose peer cannot be told, or one too many of a user, is closed.
async fn accept(listener: UnixListener, open: OpenByUid, connections: mpsc::Sender<io::Result<Counted>>) {
    let mut refused = Refused::default();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // EMFILE and the like: the backlog waits until a descriptor is free.
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let counted = PeerStream::new(stream).map(|peer| Counted::new(peer, &open));
        match counted {
            Ok(Some(connection)) => {
                if connections.send(Ok(connection)).await.is_err() {
                    return;
                }
            }
            Ok(None) => refused.one_more(Instant::now()),
            Err(error) => tracing::warn!(%error, "a connection without peer credentials was closed"),
        }
    }
}

/// Connections that were closed because their user has too many.
#[derive(Default)]
struct Refused {
    unsaid: u64,
    said: Option<Instant>,
}

impl Refused {
    /// Says how many there were, unless it was said a moment ago.
    fn one_more(&mut self, now: Instant) {
        self.unsaid += 1;
        if self.said.is_none_or(|said| now.duration_since(said) >= QUIET) {
            tracing::warn!(connections = self.unsaid, "a user has too many connections; the latest were closed");
            *self = Self { unsaid: 0, said: Some(now) };
        }
    }
}

type OpenByUid = Arc<Mutex<BTreeMap<u32, usize>>>;

/// A connection that counts against its user while it lives.
struct Counted {
    peer: PeerStream,
    open: OpenByUid,
}

impl Counted {
    fn new(peer: PeerStream, open: &OpenByUid) -> Option<Self> {
        let mut counts = open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer.uid()).or_default();
        if *count >= CONNECTIONS {
            return None;
        }
        *count += 1;
        Some(Self { peer, open: open.clone() })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.peer.uid()) {
            *count = count.saturating_sub(1);
        }
    }
}

impl Connected for Counted {
    type ConnectInfo = <PeerStream as Connected>::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer.connect_info()
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Task<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.peer).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Task<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.peer).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.peer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.peer).poll_shutdown(cx)
    }
}
