//! Parse workers that wait for an object: each reads one, and another takes its place. To start one costs more than most objects do
//! to read.
//!
//! A worker dies with the thread that started it: a thread of this file starts all of them, and lasts as long as somebody may take
//! one. This file must never give a worker to two callers.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use bpfd_sys::worker::Worker;

use super::identity::{Identities, Identity};

/// Workers that wait. Each has a fifth of an idle daemon's memory, and its successor is started the moment that it is taken: a second load
/// waits for part of a start, if it comes within that time.
const WAITING: usize = 1;

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

/// The workers that wait.
#[derive(Debug)]
pub(super) struct Ready(Mutex<Receiver<io::Result<Started>>>);

impl Ready {
    /// Begins to start workers, in a thread of its own that ends when this is dropped.
    pub(super) fn keep(start: impl Fn() -> io::Result<Started> + Send + 'static) -> io::Result<Self> {
        // One more waits in the thread's hands.
        let (give, take) = sync_channel(WAITING - 1);
        thread::Builder::new().name("parse-workers".to_owned()).spawn(move || refill(&give, start))?;
        Ok(Self(Mutex::new(take)))
    }

    /// One that waits, or the reason why it could not be started, a while ago.
    pub(super) fn take(&self) -> io::Result<Started> {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..WAITING {
            let started = waiting.recv().map_err(io::Error::other)??;
            // One that ended while it waited ended of something else than an object.
            if !started.worker.has_ended()? {
                return Ok(started);
            }
        }
        waiting.recv().map_err(io::Error::other)?
    }
}

fn refill(give: &SyncSender<io::Result<Started>>, start: impl Fn() -> io::Result<Started>) {
    while give.send(start()).is_ok() {}
}
