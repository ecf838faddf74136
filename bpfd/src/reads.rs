//! What readers are shown of the kernel as it is now: the published state beside an observation of their own, made by threads that no
//! change waits for and that wait for none.
//!
//! A look that a change was under way beside may have seen the half of it, and is repeated. It must never change anything.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bpfd_core::hook::ChainName;
use bpfd_core::invariants::{self, Broken};
use bpfd_core::kernel::{ForeignProgram, ObserveError, Observed, Scope, Targets};
use bpfd_core::names::Netns;
use bpfd_core::plan::status;
use bpfd_core::seat::seated;
use bpfd_core::snapshot::Snapshot;

use crate::engine::{EngineError, EngineHandle};
use crate::kernel::{HostKernel, Reader, held_by};
use crate::queue::{Queue, Work};
use crate::turns::Line;

/// Looks at the same time, of users but root.
const AT_ONCE: usize = 2;
/// How often a look is repeated that changes were made beside.
const LOOKS: u32 = 10;
/// How long one waits for the change beside it to end.
const PATIENCE: Duration = Duration::from_millis(100);

/// See the module.
pub struct Reads {
    engine: EngineHandle<HostKernel>,
    queue: Queue<Work<Reader>>,
}

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No turn, or no answer.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The kernel cannot be read.
    #[error(transparent)]
    Observe(#[from] ObserveError),
}

/// What one look saw.
struct Seen {
    snapshot: Arc<Snapshot>,
    observed: Result<Observed, ObserveError>,
    /// Whether no change was under way beside it.
    steady: bool,
}

impl Reads {
    /// Starts the threads.
    pub fn start(
        engine: EngineHandle<HostKernel>,
        reader: impl Fn() -> Reader + Clone + Send + 'static,
    ) -> io::Result<Self> {
        Ok(Self { engine, queue: Queue::with_threads("read", AT_ONCE, reader)? })
    }

    /// The state beside the kernel as it is now, with the chain of this name, which the state may not have.
    pub async fn chain(&self, line: Line, name: &ChainName) -> Result<Snapshot, ReadError> {
        let mut looks = 0;
        loop {
            let asked = name.clone();
            let look = move |reader: &mut Reader, snapshot: &Snapshot| {
                let links = Targets::of(snapshot.state.links_called(&asked));
                reader.chains(links.and(Targets::name(asked)), &snapshot.observed)
            };
            let Seen { snapshot, observed, steady } = self.look(line, look).await?;
            looks += 1;
            if steady || looks >= LOOKS {
                let observed = observed?;
                let state = seated(&snapshot.state, &observed);
                let statuses = status(&state, &observed);
                return Ok(Snapshot { state, observed, statuses, ..Snapshot::clone(&snapshot) });
            }
            self.pause().await;
        }
    }

    /// Every invariant that does not hold. If changes never cease, those that did not hold at any look.
    pub async fn check(&self, line: Line) -> Result<Vec<Broken>, ReadError> {
        let mut looks = 0;
        let mut always: Option<Vec<Broken>> = None;
        loop {
            let Seen { snapshot, observed, steady } = self
                .look(line, |reader, snapshot| {
                    reader.everything(&Scope::Everything(Targets::of(snapshot.state.links.values())))
                })
                .await?;
            looks += 1;
            if let Ok(observed) = &observed {
                let Observed { barred, spared, .. } = snapshot.observed.clone();
                let mut observed = Observed { barred, spared, ..observed.clone() };
                // What is not to run has a record all the same: the state says that it is wanted.
                observed.recorded.links.retain(|_, link| !snapshot.is_refused(link.app));
                let broken = invariants::check(&seated(&snapshot.wanted(), &observed), &observed);
                if steady {
                    return Ok(broken);
                }
                always = Some(match always {
                    None => broken,
                    Some(before) => before.into_iter().filter(|one| broken.contains(one)).collect(),
                });
            }
            match (observed, always.take()) {
                (Err(error), _) if steady => return Err(error.into()),
                (Err(error), None) if looks >= LOOKS => return Err(error.into()),
                (_, Some(broken)) if looks >= LOOKS => return Ok(broken),
                (_, before) => always = before,
            }
            self.pause().await;
        }
    }

    /// Who holds a program of somebody else's.
    pub async fn holders(&self, line: Line, foreign: ForeignProgram) -> Result<Vec<String>, ReadError> {
        Ok(self.on_thread(line, move |_| held_by(&foreign)).await?)
    }

    /// The names of the interfaces of a network namespace; of the named network namespaces, if none is asked for.
    pub async fn names(&self, line: Line, netns: Option<Netns>) -> Result<Vec<String>, ReadError> {
        let names = self.on_thread(line, move |reader| reader.names(netns.as_ref())).await?;
        Ok(names?)
    }

    async fn look(
        &self,
        line: Line,
        look: impl FnOnce(&mut Reader, &Snapshot) -> Result<Observed, ObserveError> + Send + 'static,
    ) -> Result<Seen, EngineError> {
        let engine = self.engine.clone();
        self.on_thread(line, move |reader| {
            let before = engine.acts();
            let snapshot = engine.snapshot();
            let observed = look(reader, &snapshot);
            let steady = before.is_some() && before == engine.acts();
            Seen { snapshot, observed, steady }
        })
        .await
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        line: Line,
        work: impl FnOnce(&mut Reader) -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        self.queue.answer(line, work).await?.ok_or(EngineError::Stopped)
    }

    /// Until a change was published, or for a moment.
    async fn pause(&self) {
        let mut snapshots = self.engine.snapshots();
        snapshots.mark_unchanged();
        let _either = tokio::time::timeout(PATIENCE, snapshots.changed()).await;
    }
}
