//! Connections: who may have how many at a time, and when one ends that nobody uses.
//!
//! ```text
//! accepted ── room ───────────────▶ Open ── 5 s without a handshake, 60 s without a call, or its place is wanted ──▶ ended
//!          └─ no room, and no place of its user is idle ──▶ Refused: each call is answered with why, for 5 s ──▶ ended
//! ```
//! Root's connections are root's alone: what others do takes none of them. One with a call under way is never ended here. Must never
//! decide what a caller may ask.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Task, Poll, Waker};
use std::time::{Duration, Instant};

use bpfd_core::policy::Principal;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use super::PeerStream;

/// Connections of one user id: a client needs one, a shell loop a few.
const OF_ONE: usize = 64;
/// Connections of everybody but root together: a quarter of the descriptors that a service starts with.
const OF_OTHERS: usize = 256;
/// Refused connections of one user id that are told why at a time; more are closed without a word.
const TOLD: usize = 4;
/// From the connection to the client's first frame: a client of this host sends it at once.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Without a call under way: clients connect again by themselves.
const IDLE: Duration = Duration::from_secs(60);
/// Between two words in the log about connections that were refused: whoever makes them must not fill it.
const QUIET: Duration = Duration::from_secs(10);
/// The client's part of the handshake: the preface, and the head of a SETTINGS frame (RFC 9113, 3.4).
const GREETING: usize = 24 + 9;

/// Every connection that lives.
#[derive(Clone, Default)]
pub(super) struct Connections(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    open: BTreeMap<u32, Vec<Arc<Live>>>,
    told: BTreeMap<u32, usize>,
}

/// What is known of a connection, by whoever carries its bytes and by whoever serves its calls.
#[derive(Debug)]
pub(super) struct Live(Mutex<Activity>);

#[derive(Debug)]
struct Activity {
    /// Calls under way.
    calls: usize,
    /// When it was accepted, or when its last call ended.
    since: Instant,
    /// Bytes of the handshake that have come.
    greeting: usize,
    end: bool,
    reader: Option<Waker>,
}

/// A call under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Call(Arc<Live>);

/// Why a connection is only told so.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refused {
    /// Its user has [`OF_ONE`].
    TooMany,
    /// All users but root have [`OF_OTHERS`].
    TooManyOfAll,
}

impl Refused {
    /// In a sentence.
    pub(super) fn why(self) -> String {
        match self {
            Self::TooMany => format!("there are {OF_ONE} connections of your user id, with calls under way on each"),
            Self::TooManyOfAll => format!("there are {OF_OTHERS} connections, with calls under way on each"),
        }
    }
}

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

impl Live {
    fn new() -> Self {
        Self(Mutex::new(Activity { calls: 0, since: Instant::now(), greeting: 0, end: false, reader: None }))
    }

    /// A call begins.
    pub(super) fn call(self: &Arc<Self>) -> Call {
        self.activity().calls += 1;
        Call(self.clone())
    }

    fn activity(&self) -> MutexGuard<'_, Activity> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Activity {
    /// When it ends unless something happens; never with a call under way.
    fn deadline(&self) -> Option<Instant> {
        match (self.calls, self.greeting < GREETING) {
            (0, true) => Some(self.since + HANDSHAKE),
            (0, false) => Some(self.since + IDLE),
            (_under_way, _) => None,
        }
    }

    /// Ends it at the next look of its reader.
    fn end(&mut self) {
        self.end = true;
        self.reader.take().map(Waker::wake).unwrap_or_default();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut activity = self.0.activity();
        activity.calls = activity.calls.saturating_sub(1);
        if activity.calls == 0 {
            activity.since = Instant::now();
            // Its reader waits without a limit until it is told.
            activity.reader.take().map(Waker::wake).unwrap_or_default();
        }
    }
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

impl Table {
    /// Makes room for one more of this user, by ending one that is idle if there is no other way.
    fn room(&mut self, uid: u32) -> Result<(), Refused> {
        if self.open.get(&uid).map_or(0, Vec::len) >= OF_ONE && !self.end_one(uid) {
            return Err(Refused::TooMany);
        }
        let others = self.open.iter().filter(|(uid, _)| **uid != 0).map(|(_, open)| open.len()).sum::<usize>();
        if uid == 0 || others < OF_OTHERS {
            return Ok(());
        }
        // Of whoever has most, so that nobody can have all.
        let mut users: Vec<(usize, u32)> =
            self.open.iter().filter(|(uid, _)| **uid != 0).map(|(uid, open)| (open.len(), *uid)).collect();
        users.sort_unstable();
        let ended = users.into_iter().rev().any(|(_, uid)| self.end_one(uid));
        if ended { Ok(()) } else { Err(Refused::TooManyOfAll) }
    }

    /// Ends the connection of a user that has said nothing for longest: before one without a handshake, one that has none goes.
    fn end_one(&mut self, uid: u32) -> bool {
        let Some(open) = self.open.get_mut(&uid) else { return false };
        let idle = open.iter().enumerate().filter_map(|(place, live)| {
            let activity = live.activity();
            (activity.calls == 0).then_some((activity.greeting >= GREETING, activity.since, place))
        });
        let Some((_, _, place)) = idle.min() else { return false };
        let live = open.remove(place);
        live.activity().end();
        true
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
                tracing::warn!(%error, "cannot accept");
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

#[cfg(test)]
mod tests {
    use super::*;

    /// So many connections of a user, the last of which a call is under way on, if on any.
    fn open(table: &mut Table, uid: u32, number: usize, calls: usize) {
        let live = (0..number).map(|place| {
            let live = Arc::new(Live::new());
            live.activity().calls = usize::from(place < calls);
            live
        });
        table.open.insert(uid, live.collect());
    }

    #[test]
    fn a_new_connection_takes_the_place_of_one_that_says_nothing() {
        let mut table = Table::default();
        open(&mut table, 7, OF_ONE, OF_ONE - 1);
        let silent = table.open[&7][OF_ONE - 1].clone();
        assert_eq!(table.room(7), Ok(()));
        assert!(silent.activity().end);
        assert_eq!(table.open[&7].len(), OF_ONE - 1);
        open(&mut table, 7, OF_ONE, OF_ONE);
        assert_eq!(table.room(7), Err(Refused::TooMany));
    }

    #[test]
    fn one_that_never_greeted_goes_before_one_that_did() {
        let mut table = Table::default();
        open(&mut table, 7, OF_ONE, 0);
        for (place, live) in table.open[&7].iter().enumerate() {
            live.activity().greeting = if place == 9 { 0 } else { GREETING };
        }
        let silent = table.open[&7][9].clone();
        assert_eq!(table.room(7), Ok(()));
        assert!(silent.activity().end);
    }

    #[test]
    fn others_together_leave_root_its_own_and_each_other_a_place() {
        let mut table = Table::default();
        for uid in 1..=4 {
            open(&mut table, uid, OF_ONE, OF_ONE);
        }
        assert_eq!(table.room(5), Err(Refused::TooManyOfAll));
        assert_eq!(table.room(0), Ok(()));
        open(&mut table, 3, OF_ONE, OF_ONE - 1);
        assert_eq!(table.room(5), Ok(()));
        assert_eq!(table.open[&3].len(), OF_ONE - 1);
    }

    #[test]
    fn a_connection_with_a_call_has_no_deadline() {
        let live = Arc::new(Live::new());
        let left = || {
            let activity = live.activity();
            activity.deadline().map(|at| at - activity.since)
        };
        assert_eq!(left(), Some(HANDSHAKE));
        let call = live.call();
        assert_eq!(left(), None);
        live.activity().greeting = GREETING;
        drop(call);
        assert_eq!(left(), Some(IDLE));
    }
}
