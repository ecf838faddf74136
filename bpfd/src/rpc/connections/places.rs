//! Who has how many connections, and which of them makes room: those that say nothing, for longest first. Must never touch a socket.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

/// Connections of one user id: a client needs one, a shell loop a few.
const OF_ONE: usize = 64;
/// Connections of everybody but root together: a quarter of the descriptors that a service starts with.
const OF_OTHERS: usize = 256;
/// From the connection to the client's first frame: a client of this host sends it at once.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(5);
/// Without a call under way: clients connect again by themselves.
const IDLE: Duration = Duration::from_secs(60);
/// The client's part of the handshake: the preface, and the head of a SETTINGS frame (RFC 9113, 3.4).
pub(super) const GREETING: usize = 24 + 9;

#[derive(Default)]
pub(super) struct Table {
    pub(super) open: BTreeMap<u32, Vec<Arc<Live>>>,
    pub(super) told: BTreeMap<u32, usize>,
}

/// What is known of a connection, by whoever carries its bytes and by whoever serves its calls.
#[derive(Debug)]
pub(in crate::rpc) struct Live(Mutex<Activity>);

#[derive(Debug)]
pub(super) struct Activity {
    /// Calls under way.
    calls: usize,
    /// When it was accepted, or when its last call ended.
    pub(super) since: Instant,
    /// Bytes of the handshake that have come.
    pub(super) greeting: usize,
    pub(super) end: bool,
    pub(super) reader: Option<Waker>,
}

/// A call under way, until it is dropped.
#[derive(Debug)]
pub(in crate::rpc) struct Call(Arc<Live>);

/// Why a connection is only told so.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::rpc) enum Refused {
    /// Its user has [`OF_ONE`].
    TooMany,
    /// All users but root have [`OF_OTHERS`].
    TooManyOfAll,
}

impl Refused {
    /// In a sentence.
    pub(in crate::rpc) fn why(self) -> String {
        match self {
            Self::TooMany => format!("there are {OF_ONE} connections of your user id, with calls under way on each"),
            Self::TooManyOfAll => format!("there are {OF_OTHERS} connections, with calls under way on each"),
        }
    }
}

impl Live {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Activity { calls: 0, since: Instant::now(), greeting: 0, end: false, reader: None }))
    }

    /// A call begins.
    pub(in crate::rpc) fn call(self: &Arc<Self>) -> Call {
        self.activity().calls += 1;
        Call(self.clone())
    }

    pub(super) fn activity(&self) -> MutexGuard<'_, Activity> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Activity {
    /// When it ends unless something happens; never with a call under way.
    pub(super) fn deadline(&self) -> Option<Instant> {
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

impl Table {
    /// Makes room for one more of this user, by ending one that is idle if there is no other way.
    pub(super) fn room(&mut self, uid: u32) -> Result<(), Refused> {
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
