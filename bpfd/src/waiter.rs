//! Who waits for a piece of work, and that nobody does any more: callers leave, and the daemon is asked to stop. What is slow asks
//! here whether to go on. It must never end a change that the engine has begun.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bpfd_sys::worker::Ender;
use tokio::sync::{mpsc, watch};

/// Why nobody waits any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum GivenUp {
    /// The caller ended its call, or its connection.
    #[error("the caller left")]
    Left,
    /// The daemon was asked to stop.
    #[error("the daemon is stopping")]
    Stopping,
}

/// Of one piece of work; its clones are of the same.
#[derive(Clone, Debug, Default)]
pub struct Waiter(Arc<Work>);

#[derive(Debug, Default)]
struct Work {
    given_up: watch::Sender<Option<GivenUp>>,
    /// A worker that runs for it now.
    worker: Mutex<Option<Ender>>,
}

impl Waiter {
    /// Whether the work is still wanted: the answer before each of its steps.
    pub fn wanted(&self) -> Result<(), GivenUp> {
        match *self.0.given_up.borrow() {
            None => Ok(()),
            Some(why) => Err(why),
        }
    }

    /// Returns once it is not wanted any more.
    pub async fn given_up(&self) -> GivenUp {
        let mut told = self.0.given_up.subscribe();
        loop {
            let why = *told.borrow_and_update();
            if let Some(why) = why {
                return why;
            }
            // Cannot fail: the sender is of this work, and lives.
            if told.changed().await.is_err() {
                return GivenUp::Left;
            }
        }
    }

    /// It is not wanted any more: its worker is ended, and the next step is not taken.
    pub fn give_up(&self, why: GivenUp) {
        self.0.given_up.send_replace(Some(why));
        if let Some(worker) = self.worker().as_ref() {
            worker.end();
        }
    }

    /// A worker runs for it until what is returned is dropped.
    pub fn runs(&self, worker: Ender) -> Running<'_> {
        let mut running = self.worker();
        // Given up before: nobody else ends it.
        if self.wanted().is_err() {
            worker.end();
        }
        *running = Some(worker);
        Running(self)
    }

    fn worker(&self) -> MutexGuard<'_, Option<Ender>> {
        self.0.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Waiter::runs`].
#[derive(Debug)]
pub struct Running<'a>(&'a Waiter);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        *self.0.worker() = None;
    }
}

/// Whether the daemon was asked to stop.
#[derive(Clone, Debug)]
pub struct Stopping(watch::Receiver<bool>);

impl Stopping {
    /// With the one that says so.
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Returns once it was asked to, or serves no more.
    pub async fn begun(&self) {
        let mut told = self.0.clone();
        // An error is the end of who would say so.
        if let Err(error) = told.wait_for(|begun| *begun).await {
            tracing::debug!(%error, "the server has stopped");
        }
    }

    /// Does `work`, and tells it when who reads its `events` has left or the daemon is to stop. It is waited for all the same: it knows
    /// what must go to its end.
    pub async fn while_wanted<T, E>(
        &self,
        waiter: &Waiter,
        events: &mpsc::Sender<E>,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = pin!(work);
        let why = tokio::select! {
            done = &mut work => return done,
            () = events.closed() => GivenUp::Left,
            () = self.begun() => GivenUp::Stopping,
        };
        waiter.give_up(why);
        work.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_hears_that_its_reader_left_and_is_waited_for() {
        let (_stop, stopping) = Stopping::new();
        let waiter = Waiter::default();
        let (events, reader) = mpsc::channel::<()>(1);
        let work = async {
            assert_eq!(waiter.wanted(), Ok(()));
            drop(reader);
            (waiter.given_up().await, waiter.wanted())
        };
        let heard = stopping.while_wanted(&waiter, &events, work).await;
        assert_eq!(heard, (GivenUp::Left, Err(GivenUp::Left)));
    }

    #[tokio::test]
    async fn work_hears_that_the_daemon_stops() {
        let (stop, stopping) = Stopping::new();
        let waiter = Waiter::default();
        let (events, _reader) = mpsc::channel::<()>(1);
        stop.send_replace(true);
        assert_eq!(stopping.while_wanted(&waiter, &events, waiter.given_up()).await, GivenUp::Stopping);
    }
}
