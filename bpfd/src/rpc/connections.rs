//! Connections: who may have how many at a time, and when one ends that nobody uses.
//!
//! ```text
//! accepted ── room ───────────────▶ Open ── 5 s without a handshake, 60 s without a call, or its place is wanted ──▶ ended
//!          └─ no room, and no place of its user is idle ──▶ Refused: each call is answered with why, for 5 s ──▶ ended
//! ```
//! Root's connections are root's alone: what others do takes none of them. One with a call under way is never ended here. Must never
//! decide what a caller may ask.

mod places;

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Task, Poll};
use std::time::{Duration, Instant};

use bpfd_core::policy::Principal;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

pub(super) use self::places::Call;
use self::places::{Activity, GREETING, HANDSHAKE, Live, Refused, Table};
use super::PeerStream;

/// Refused connections of one user id that are told why at a time; more are closed without a word.
const TOLD: usize = 4;
/// Between two words in the log about connections that were refused: whoever makes them must not fill it.
const QUIET: Duration = Duration::from_secs(10);
/// Every connection that lives.
#[derive(Clone, Default)]
pub(super) struct Connections(Arc<Mutex<Table>>);

/// What handlers, and what counts their messages, see of a connection.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) principal: Arc<Principal>,
    pub(super) live: Arc<Live>,
    pub(super) refused: Option<Refused>,
}

/// A connection that counts while it lives.
pub(super) struct Connection {
    peer: PeerStream,
    live: Arc<Live>,
    refused: Option<Refused>,
    connections: Connections,
    timer: Pin<Box<Sleep>>,
}

impl Connections {
    /// A place for one more; `None` if there is none, not even to be told so.
    fn enter(&self, peer: PeerStream) -> Option<Connection> {
        let uid = peer.uid();
        let mut table = self.table();
        let refused = table.room(uid).err();
        let live = Arc::new(Live::new());
        match refused {
            None => table.open.entry(uid).or_default().push(live.clone()),
            Some(_) => {
                let told = table.told.entry(uid).or_default();
                if *told >= TOLD {
                    return None;
                }
                *told += 1;
            }
        }
        drop(table);
        let timer = Box::pin(tokio::time::sleep(HANDSHAKE));
        Some(Connection { peer, live, refused, connections: self.clone(), timer })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts for ever. A connection whose peer cannot be told, or for which there is no place at all, is closed.
pub(super) async fn accept(
    listener: UnixListener,
    connections: Connections,
    incoming: mpsc::Sender<io::Result<Connection>>,
) {
    let mut closed = Closed::default();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // EMFILE and the like: the backlog waits until a descriptor is free.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        match PeerStream::new(stream).map(|peer| connections.enter(peer)) {
            Ok(Some(connection)) => {
                if connection.refused.is_some() {
                    closed.one_more(Instant::now());
                }
                if incoming.send(Ok(connection)).await.is_err() {
                    return;
                }
            }
            Ok(None) => closed.one_more(Instant::now()),
            Err(error) => tracing::warn!(%error, "a connection without peer credentials was closed"),
        }
    }
}

/// Connections that were refused because there are too many.
#[derive(Default)]
struct Closed {
    unsaid: u64,
    said: Option<Instant>,
}

impl Closed {
    /// Says how many there were, unless it was said a moment ago.
    fn one_more(&mut self, now: Instant) {
        self.unsaid += 1;
        if self.said.is_none_or(|said| now.duration_since(said) >= QUIET) {
            tracing::warn!(connections = self.unsaid, "a user has too many connections; the latest were refused");
            *self = Self { unsaid: 0, said: Some(now) };
        }
    }
}

impl Connection {
    /// When it ends unless something happens. One that is refused only lives to be told.
    fn deadline(&self, activity: &Activity) -> Option<Instant> {
        match self.refused {
            None => activity.deadline(),
            Some(_) => Some(activity.since + HANDSHAKE),
        }
    }

    /// Whether it must end now; else its reader is woken when it may have to.
    fn poll_end(&mut self, cx: &mut Task<'_>) -> bool {
        let deadline = {
            let mut activity = self.live.activity();
            if activity.end {
                return true;
            }
            activity.reader = Some(cx.waker().clone());
            self.deadline(&activity)
        };
        let Some(deadline) = deadline else { return false };
        if deadline <= Instant::now() {
            return true;
        }
        self.timer.as_mut().reset(deadline.into());
        // Ready only if the time has come since the line above.
        self.timer.as_mut().poll(cx).is_ready()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let uid = self.peer.uid();
        let mut table = self.connections.table();
        match self.refused {
            None => {
                if let Some(open) = table.open.get_mut(&uid) {
                    open.retain(|live| !Arc::ptr_eq(live, &self.live));
                    if open.is_empty() {
                        table.open.remove(&uid);
                    }
                }
            }
            Some(_) => {
                let left = table.told.get(&uid).map_or(0, |told| told.saturating_sub(1));
                match left {
                    0 => table.told.remove(&uid),
                    left => table.told.insert(uid, left),
                };
            }
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        Caller { principal: self.peer.connect_info(), live: self.live.clone(), refused: self.refused }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Task<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.peer).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                let came = buf.filled().len().saturating_sub(before);
                let mut activity = self.live.activity();
                activity.greeting = activity.greeting.saturating_add(came).min(GREETING);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => match self.poll_end(cx) {
                true => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                false => Poll::Pending,
            },
        }
    }
}

impl AsyncWrite for Connection {
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
