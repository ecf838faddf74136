//! A parse worker that waits for an object: each reads one, and another takes its place. To start one costs more than most objects do
//! to read.
//!
//! A worker dies with the thread that started it: a thread of this file starts all of them, and lasts as long as somebody may take
//! one. This file must never give a worker to two callers.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use bpfd_sys::worker::Worker;

use super::identity::{Identities, Identity};

/// A worker, and whom it runs as.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) worker: Worker,
    // Dropped after the worker.
    _lent: Identity,
}

impl Started {
    /// Starts one in the calling thread, which it dies with.
    pub(super) fn now(
        identities: &Arc<Identities>,
        spawn: impl FnOnce(&Identity) -> io::Result<Worker>,
    ) -> io::Result<Self> {
        let lent = identities.lend()?;
        Ok(Self { worker: spawn(&lent)?, _lent: lent })
    }
}

/// The one that waits. One alone: it has a fifth of an idle daemon's memory, and its successor is started when it is taken.
#[derive(Debug)]
pub(super) struct Ready {
    shared: Arc<Shared>,
    /// Whether a start would take the only processor from a change.
    is_patient: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Option<io::Result<Started>>,
    /// How many want one now.
    asked: usize,
    /// Changes under way that a start would slow down.
    busy: usize,
    is_closed: bool,
}

/// A change that is under way. On a host with one processor no worker is started meanwhile that nobody waits for.
#[derive(Debug)]
pub struct Busy(Option<Arc<Shared>>);

impl Ready {
    /// Begins to start workers, in a thread of its own that ends when this is dropped.
    pub(super) fn keep(start: impl Fn() -> io::Result<Started> + Send + 'static) -> io::Result<Self> {
        let is_patient = thread::available_parallelism()?.get() == 1;
        let shared = Arc::new(Shared::default());
        let refills = shared.clone();
        thread::Builder::new().name("parse-workers".to_owned()).spawn(move || {
            let _closes = Closes(&refills);
            refills.refill(start);
        })?;
        Ok(Self { shared, is_patient })
    }

    /// One that waits, or the reason why it could not be started, a while ago.
    pub(super) fn take(&self) -> io::Result<Started> {
        let started = self.shared.take()?;
        // One that ended while it waited ended of something else than an object.
        if started.worker.has_ended()? { self.shared.take() } else { Ok(started) }
    }

    /// Until it is dropped, a change is under way.
    pub(super) fn busy(&self) -> Busy {
        if !self.is_patient {
            return Busy(None);
        }
        self.shared.state().busy += 1;
        Busy(Some(self.shared.clone()))
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// However the thread ends that starts workers, nobody waits for one of it any more.
struct Closes<'a>(&'a Shared);

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.state().busy -= 1;
            shared.changed.notify_all();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, hold: impl FnMut(&mut State) -> bool) -> MutexGuard<'_, State> {
        self.changed.wait_while(self.state(), hold).unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.state().is_closed = true;
        self.changed.notify_all();
    }

    fn take(&self) -> io::Result<Started> {
        self.state().asked += 1;
        self.changed.notify_all();
        let mut state = self.wait_while(|state| state.waiting.is_none() && !state.is_closed);
        state.asked -= 1;
        let taken = state.waiting.take().unwrap_or_else(|| Err(io::Error::other("no worker waits")));
        drop(state);
        self.changed.notify_all();
        taken
    }

    fn refill(&self, start: impl Fn() -> io::Result<Started>) {
        loop {
            let may_start = |state: &State| state.waiting.is_none() && (state.busy == 0 || state.asked > 0);
            if self.wait_while(|state| !state.is_closed && !may_start(state)).is_closed {
                return;
            }
            let started = start();
            self.state().waiting = Some(started);
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_a_thread_that_starts_no_worker_any_more() {
        let ready = Ready::keep(|| panic!("a fault of its own")).unwrap();
        assert!(ready.take().is_err());
        assert!(ready.take().is_err());
    }
}
