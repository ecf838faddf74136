//! The way to the engine from any thread: jobs go in a queue, where each user has a line, and the engine's own thread does them by
//! turns.
//!
//! It must never change anything itself, and never wait for an answer on a thread that serves others.

use std::sync::{Arc, mpsc};
use std::thread;

use bpfd_core::kernel::Kernel;
use tokio::sync::{oneshot, watch};

use super::{Acts, Engine, EngineError, Snapshot};
use crate::queue::Queue;
use crate::repair::{RepairError, Repaired};
use crate::turns::Line;

type Job<K> = Box<dyn FnOnce(&mut Engine<K>) + Send>;

/// See the module.
pub struct EngineHandle<K: Kernel> {
    jobs: Queue<Job<K>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    acts: Arc<Acts>,
}

impl<K: Kernel> Clone for EngineHandle<K> {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone(), snapshots: self.snapshots.clone(), acts: self.acts.clone() }
    }
}

impl<K: Kernel + Send + 'static> EngineHandle<K> {
    /// Makes the engine on its own thread and waits until it is repaired and ready.
    pub fn spawn<F>(make: F) -> Result<(Self, Repaired), StartError>
    where
        F: FnOnce() -> Result<(Engine<K>, Repaired), RepairError> + Send + 'static,
    {
        let (jobs, queue) = Queue::<Job<K>>::new();
        let (ready, started) = mpsc::channel();
        thread::Builder::new().name("engine".to_owned()).spawn(move || {
            let mut engine = match make() {
                Ok((engine, repaired)) => {
                    if ready.send(Ok((engine.snapshots(), engine.acts(), repaired))).is_err() {
                        return;
                    }
                    engine
                }
                Err(error) => {
                    if ready.send(Err(error)).is_err() {
                        tracing::error!("the engine failed to start, and the daemon no longer waits for it");
                    }
                    return;
                }
            };
            let _end_with_me = AbortOnPanic;
            while let Some(job) = queue.next() {
                job(&mut engine);
            }
        })?;
        let (snapshots, acts, repaired) = started.recv().map_err(|_| StartError::Vanished)??;
        Ok((Self { jobs, snapshots, acts }, repaired))
    }

    /// Does `job` on the engine's thread, in its turn; refused at once if this line is full.
    pub async fn call<T, F>(&self, line: Line, job: F) -> Result<T, EngineError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Engine<K>) -> T + Send + 'static,
    {
        let place = self.jobs.place(line)?;
        let (job, result) = answered(job);
        self.jobs.push(
            line,
            Box::new(move |engine| {
                job(engine);
                drop(place);
            }),
        );
        result.await.map_err(|_| EngineError::Stopped)
    }

    /// Does what goes on record for a call: it is never refused, since the calls under way are limited.
    pub async fn record<T, F>(&self, line: Line, job: F) -> Result<T, EngineError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Engine<K>) -> T + Send + 'static,
    {
        let (job, result) = answered(job);
        self.jobs.push(line, job);
        result.await.map_err(|_| EngineError::Stopped)
    }

    /// Has a job of the daemon's own done some time, by nobody waiting.
    pub fn post(&self, job: impl FnOnce(&mut Engine<K>) + Send + 'static) {
        self.jobs.push(Line::Daemon, Box::new(job));
    }

    /// Waits until nothing is left to be done.
    pub async fn idle(&self) -> Result<(), EngineError> {
        let (job, result) = answered(|_: &mut Engine<K>| ());
        self.jobs.push_last(job);
        result.await.map_err(|_| EngineError::Stopped)
    }

    /// A receiver of snapshots; it ends with the engine.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// See [`Acts::steady`].
    pub fn acts(&self) -> Option<u64> {
        self.acts.steady()
    }

    /// The last published snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }
}

/// A job with a way to its answer.
fn answered<K: Kernel, T: Send + 'static>(
    job: impl FnOnce(&mut Engine<K>) -> T + Send + 'static,
) -> (Job<K>, oneshot::Receiver<T>) {
    let (answer, result) = oneshot::channel();
    let job: Job<K> = Box::new(move |engine| {
        if answer.send(job(engine)).is_err() {
            tracing::info!("the client left before the answer");
        }
    });
    (job, result)
}

/// A panic in the midst of a change leaves what a crash leaves, and a start repairs that; a daemon without its engine would only
/// refuse everybody.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("the engine panicked: aborting; the next start of bpfd repairs the state");
            std::process::abort();
        }
    }
}

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No thread.
    #[error("cannot start the engine's thread")]
    Thread(#[from] std::io::Error),
    /// Repair could not begin.
    #[error("cannot repair what the last run left")]
    Repair(#[from] RepairError),
    /// The thread ended without a word: it panicked, and said so on stderr.
    #[error("the engine's thread ended while starting")]
    Vanished,
}
