//! The way to the engine from any thread: jobs go in a queue, where each user has a line, and the engine's own thread does them by
//! turns.
//!
//! It must never change anything itself, and never wait for an answer on a thread that serves others.

use std::sync::{Arc, mpsc};
use std::thread;

use bpfd_core::ident::AppUid;
use bpfd_core::kernel::{Kernel, Need};
use tokio::sync::{RwLock, oneshot, watch};

use super::{Acts, Chains, Engine, EngineError, News, Pending, Progress, Settling, Snapshot};
use crate::fail_points;
use crate::queue::{Queue, Work};
use crate::repair::{RepairError, Repaired};
use crate::turns::{Line, Serves};

/// Changes of users but root that programs are made for at the same time: each may hold a core for seconds.
const MAKERS: usize = 2;

/// What is told how news were dealt with.
pub type WhenSettled<K> = Box<dyn FnOnce(&EngineHandle<K>, Result<Repaired, RepairError>) + Send>;

type Job<K> = Box<dyn FnOnce(&mut Engine<K>) + Send>;

/// See the module.
pub struct EngineHandle<K: Kernel> {
    jobs: Queue<Job<K>>,
    makers: Queue<Work<()>>,
    chains: Arc<Chains>,
    /// Held for reading by each change until its end.
    under_way: Arc<RwLock<()>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    acts: Arc<Acts>,
}

impl<K: Kernel> Clone for EngineHandle<K> {
    fn clone(&self) -> Self {
        let Self { jobs, makers, chains, under_way, snapshots, acts } = self;
        Self {
            jobs: jobs.clone(),
            makers: makers.clone(),
            chains: chains.clone(),
            under_way: under_way.clone(),
            snapshots: snapshots.clone(),
            acts: acts.clone(),
        }
    }
}

impl<K> EngineHandle<K>
where
    K: Kernel<Maker: 'static> + Send + 'static,
{
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
                    if ready.send(Ok((engine.snapshots(), engine.acts(), engine.turns(), repaired))).is_err() {
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
            queue.each(Serves::All, |job| job(&mut engine));
        })?;
        let (snapshots, acts, chains, repaired) = started.recv().map_err(|_| StartError::Vanished)??;
        let makers = Queue::with_threads("make", MAKERS, || ())?;
        Ok((Self { jobs, makers, chains, under_way: Arc::default(), snapshots, acts }, repaired))
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

    /// Does a job that needs no place: what goes on record for a call, since the calls under way are limited, and a part of a change,
    /// which has one.
    pub async fn enqueue<T, F>(&self, line: Line, job: F) -> Result<T, EngineError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Engine<K>) -> T + Send + 'static,
    {
        let (job, result) = answered(job);
        self.jobs.push(line, job);
        result.await.map_err(|_| EngineError::Stopped)
    }

    /// Carries a change out: `attempt` runs on the engine's thread as often as it takes, and what the verifier must see is made by other
    /// threads between. Once begun it goes to its end, even if the caller leaves.
    pub async fn change<T, E, F>(&self, line: Line, staged: Vec<(AppUid, K::Staged)>, attempt: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<EngineError> + Send + 'static,
        F: Fn(&mut Engine<K>, &mut Pending<K>) -> Result<Progress<T, K>, E> + Send + Sync + 'static,
    {
        let place = self.jobs.place(line).map_err(EngineError::from)?;
        let (engine, attempt) = (self.clone(), Arc::new(attempt));
        let changing = tokio::spawn(async move {
            let (_place, _under_way) = (place, engine.under_way.clone().read_owned().await);
            let mut pending = Pending::new(staged);
            loop {
                let (attempt, mut changed) = (attempt.clone(), pending);
                let job = move |engine: &mut Engine<K>| {
                    let progress = attempt(engine, &mut changed);
                    (changed, progress)
                };
                let progress;
                (pending, progress) = engine.enqueue(line, job).await?;
                match progress? {
                    Progress::Done(done) => return Ok(done),
                    Progress::Wait(targets) => pending.hold(engine.chains.hold(targets).await),
                    Progress::Make(needs) => pending = engine.make(line, pending, needs).await?,
                }
            }
        });
        changing.await.map_err(|_panicked| EngineError::Stopped)?
    }

    /// Has what a change needs made by another thread.
    async fn make(
        &self,
        line: Line,
        mut pending: Pending<K>,
        needs: Vec<(Need, K::Maker)>,
    ) -> Result<Pending<K>, EngineError> {
        let (answer, made) = oneshot::channel();
        let work = move |(): &mut ()| {
            for (need, maker) in needs {
                let made = maker();
                pending.made(need, made);
            }
            fail_points::hold("change-made");
            answer
                .send(pending)
                .unwrap_or_else(|_| tracing::info!("what was made for a change is not wanted any more"));
        };
        self.makers.push(line, Box::new(work));
        made.await.map_err(|_panicked| EngineError::Stopped)
    }

    /// Has the engine deal with news, by nobody waiting; what the verifier must see for them is made by other threads. `news` are taken
    /// when it begins, and `done` is called with how it ended, on the engine's thread.
    pub fn settle(&self, news: impl FnOnce() -> News + Send + 'static, done: WhenSettled<K>) {
        self.settle_on(Settling::default(), Box::new(news), done);
    }

    fn settle_on(&self, mut settling: Settling<K>, news: Box<dyn FnOnce() -> News + Send>, done: WhenSettled<K>) {
        let handle = self.clone();
        let job = move |engine: &mut Engine<K>| {
            let news = news();
            match engine.settle(&news, &mut settling) {
                Ok(Progress::Make(needs)) => {
                    let makers = handle.makers.clone();
                    let work = move |(): &mut ()| {
                        for (need, maker) in needs {
                            let made = maker();
                            settling.made(need, made);
                        }
                        handle.settle_on(settling, Box::new(|| news), done);
                    };
                    makers.push(Line::Daemon, Box::new(work));
                }
                Ok(Progress::Done(repaired)) => done(&handle, Ok(repaired)),
                // News wait for no chain.
                Ok(Progress::Wait(_)) => done(&handle, Ok(Repaired::default())),
                Err(error) => done(&handle, Err(error)),
            }
        };
        self.jobs.push(Line::Daemon, Box::new(job));
    }

    /// Waits until nothing is left to be done.
    pub async fn idle(&self) -> Result<(), EngineError> {
        let _none_under_way = self.under_way.write().await;
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
