//! The way to the engine from any thread: jobs go in a queue, and the engine's own thread does them in order.
//!
//! It must never change anything itself, and never wait for an answer on a thread that serves others.

use std::sync::{Arc, mpsc};
use std::thread;

use bpfd_core::kernel::Kernel;
use tokio::sync::{oneshot, watch};

use super::{Engine, EngineError, Snapshot};
use crate::repair::{RepairError, Repaired};

type Job<K> = Box<dyn FnOnce(&mut Engine<K>) + Send>;

/// A way to the engine from anywhere: jobs go in a queue, one thread does them in order.
pub struct EngineHandle<K: Kernel> {
    jobs: mpsc::Sender<Job<K>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
}

impl<K: Kernel> Clone for EngineHandle<K> {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone(), snapshots: self.snapshots.clone() }
    }
}

impl<K: Kernel + Send + 'static> EngineHandle<K> {
    /// Makes the engine on its own thread and waits until it is repaired and ready.
    pub fn spawn<F>(make: F) -> Result<(Self, Repaired), StartError>
    where
        F: FnOnce() -> Result<(Engine<K>, Repaired), RepairError> + Send + 'static,
    {
        let (jobs, queue) = mpsc::channel::<Job<K>>();
        let (ready, started) = mpsc::channel();
        thread::Builder::new().name("engine".to_owned()).spawn(move || {
            let mut engine = match make() {
                Ok((engine, repaired)) => {
                    if ready.send(Ok((engine.snapshots(), repaired))).is_err() {
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
            while let Ok(job) = queue.recv() {
                job(&mut engine);
            }
        })?;
        let (snapshots, repaired) = started.recv().map_err(|_| StartError::Vanished)??;
        Ok((Self { jobs, snapshots }, repaired))
    }

    /// Does `job` on the engine's thread.
    pub async fn call<T, F>(&self, job: F) -> Result<T, EngineError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Engine<K>) -> T + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let job: Job<K> = Box::new(move |engine| {
            if answer.send(job(engine)).is_err() {
                tracing::info!("the client left before the answer");
            }
        });
        self.jobs.send(job).map_err(|_| EngineError::Stopped)?;
        result.await.map_err(|_| EngineError::Stopped)
    }

    /// Has `job` done some time, by nobody waiting; `false` if the engine has stopped.
    pub fn post(&self, job: impl FnOnce(&mut Engine<K>) + Send + 'static) -> bool {
        self.jobs.send(Box::new(job)).is_ok()
    }

    /// A receiver of snapshots; it ends with the engine.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// The last published snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }
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
