//! Workers: the daemon's binary run again with few rights, for what the daemon should not do itself: read foreign bytes (`parse`),
//! ask registries (`fetch`), ask name services (`names`), enter namespaces (`netns`), look kernel objects up by number (`idlookup`).
//!
//! Each file has both ends of one kind, so that the two cannot drift apart: what the worker does, and what the daemon calls. A
//! request and its answer are JSON, one message each; descriptors travel beside them. A worker that dies is an error of the call
//! and never more: the next call starts another one.

pub mod fetch;
pub mod identity;
pub mod idlookup;
pub mod names;
pub mod netns;
pub(crate) mod numbers;
pub mod parse;
mod passed;
mod ready;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bpfd_sys::channel::{Channel, ChannelError, Message};
use bpfd_sys::worker::{CallError, Spec, Worker, begin};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::identity::{Identities, Identity};
use self::passed::Passed;
pub use self::ready::Busy;
use self::ready::{Ready, Started};

/// Which binary workers are run from, and whom they run as.
#[derive(Clone, Debug, Default)]
pub struct Workers {
    program: Option<PathBuf>,
    identities: Arc<Identities>,
    /// The parse worker that waits for an object.
    ready: Option<Arc<Ready>>,
    passed: Passed,
}

impl Workers {
    /// Of another binary than the running one, which is what tests need: theirs is a test.
    pub fn of(program: PathBuf) -> Self {
        Self { program: Some(program), ..Self::default() }
    }

    /// Of the running binary, under these identities; one that reads objects is started before there is one.
    pub fn with(identities: Identities) -> io::Result<Self> {
        let workers = Self { identities: Arc::new(identities), ..Self::default() };
        let starts = workers.clone();
        let ready = Some(Arc::new(Ready::keep(move || parse::start(&starts))?));
        Ok(Self { ready, ..workers })
    }

    /// A worker for one object.
    fn reader(&self) -> io::Result<Started> {
        match self.ready.as_ref().map(|ready| ready.take()) {
            Some(Ok(started)) => Ok(started),
            // What kept the next one from starting may have been a while ago.
            Some(Err(_)) | None => parse::start(self),
        }
    }

    /// Says that a change is under way, until the answer is dropped.
    pub fn busy(&self) -> Option<Busy> {
        self.ready.as_ref().map(|ready| ready.busy())
    }

    /// Whom one worker may run as.
    pub fn identity(&self) -> io::Result<Identity> {
        self.identities.lend()
    }

    pub(crate) fn spawn(&self, spec: &Spec) -> io::Result<Worker> {
        match &self.program {
            Some(program) => Worker::spawn_program(program, spec),
            None => Worker::spawn(spec),
        }
    }
}

/// The worker's side: serves calls of its kind on descriptor 0 until the daemon is gone. Gives the exit code. Nothing may have run
/// before it: confinement wants one thread. `ids` is whom it is to run as, if not as its daemon.
pub fn run(kind: &str, ids: Option<&str>) -> i32 {
    let served = begin(ids).map_err(|error| error.to_string()).and_then(|channel| match kind {
        fetch::KIND => fetch::serve(&channel),
        idlookup::KIND => idlookup::serve(&channel),
        names::KIND => names::serve(&channel),
        netns::KIND => netns::serve(&channel),
        parse::KIND => parse::serve(&channel),
        other => Err(format!("no worker is called `{other}`")),
    });
    match served {
        Ok(()) => 0,
        Err(error) => {
            complain(&error);
            1
        }
    }
}

/// A worker's standard error is kept or passed on by the daemon.
#[expect(clippy::print_stderr, reason = "a worker has no log of its own")]
fn complain(error: &str) {
    eprintln!("worker: {error}");
}

/// Why a call gave no answer. The worker is gone then.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It could not be started.
    #[error("cannot start the worker")]
    Start(#[source] io::Error),
    /// It ended, or was ended.
    #[error(transparent)]
    Call(#[from] CallError),
    /// What came back is not an answer.
    #[error("the worker's answer is malformed")]
    Answer(#[source] serde_json::Error),
    /// The request cannot be written.
    #[error("the request cannot be written")]
    Request(#[source] serde_json::Error),
}

/// A worker that stays between calls, started by the first one and again after it died. Its calls are questions, or give a descriptor that
/// is gone if nobody takes it: asking twice does no harm.
#[derive(Debug)]
pub(crate) struct Lasting {
    workers: Workers,
    spec: Spec,
    limit: Duration,
    running: Option<Worker>,
}

impl Lasting {
    pub(crate) fn new(workers: Workers, spec: Spec, limit: Duration) -> Self {
        Self { workers, spec, limit, running: None }
    }

    /// One call. Only the thread that made the first call may make another: the worker dies with its thread.
    pub(crate) fn call<Q: Serialize, A: DeserializeOwned>(
        &mut self,
        request: &Q,
    ) -> Result<(A, Vec<OwnedFd>), WorkerError> {
        self.call_with(request, &[])
    }

    /// The same, about these descriptors.
    pub(crate) fn call_with<Q: Serialize, A: DeserializeOwned>(
        &mut self,
        request: &Q,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(A, Vec<OwnedFd>), WorkerError> {
        if let Some(worker) = self.running.take() {
            match self.ask(worker, request, fds) {
                // It died between two calls, of something else than this one.
                Err(WorkerError::Call(CallError::Died { .. })) => {}
                answered => return answered,
            }
        }
        let worker = self.workers.spawn(&self.spec).map_err(WorkerError::Start)?;
        self.ask(worker, request, fds)
    }

    fn ask<Q: Serialize, A: DeserializeOwned>(
        &mut self,
        mut worker: Worker,
        request: &Q,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(A, Vec<OwnedFd>), WorkerError> {
        let answer = call(&mut worker, request, fds, self.limit)?;
        self.running = Some(worker);
        Ok(answer)
    }
}

/// One call to a worker. After an error the worker is of no more use.
pub(crate) fn call<Q: Serialize, A: DeserializeOwned>(
    worker: &mut Worker,
    request: &Q,
    fds: &[BorrowedFd<'_>],
    limit: Duration,
) -> Result<(A, Vec<OwnedFd>), WorkerError> {
    let request = serde_json::to_vec(request).map_err(WorkerError::Request)?;
    let Message { bytes, fds } = worker.call(&request, fds, Instant::now() + limit)?;
    Ok((serde_json::from_slice(&bytes).map_err(WorkerError::Answer)?, fds))
}

/// Answers calls until the other end closes.
fn answer_calls<Q: DeserializeOwned, A: Serialize>(
    channel: &Channel,
    mut answer: impl FnMut(Q, Vec<OwnedFd>) -> (A, Vec<OwnedFd>),
) -> Result<(), String> {
    loop {
        let Message { bytes, fds } = match channel.receive(Instant::now() + TURN) {
            Ok(message) => message,
            Err(ChannelError::Deadline) => continue,
            Err(ChannelError::Closed) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        let request = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        let (answer, fds) = answer(request, fds);
        let answer = serde_json::to_vec(&answer).map_err(|error| error.to_string())?;
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        channel.send(&answer, &fds, Instant::now() + TURN).map_err(|error| error.to_string())?;
    }
}

/// How long a worker waits for its daemon at a time; it goes on waiting afterwards.
const TURN: Duration = Duration::from_secs(60);

/// An error of the kernel on its way through JSON.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
struct Failure {
    errno: Option<i32>,
    text: String,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self { errno: error.raw_os_error(), text: error.to_string() }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        match failure.errno {
            Some(errno) => Self::from_raw_os_error(errno),
            None => Self::other(failure.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_could_not_be_started_before_is_started_when_an_object_comes() {
        let failed = || Err(io::Error::other("no process could be made then"));
        let ready = Some(Arc::new(Ready::keep(failed).unwrap()));
        let able = Workers { ready: ready.clone(), ..Workers::of(PathBuf::from("/bin/false")) };
        for _ in 0..5 {
            able.reader().unwrap();
        }
        let unable = Workers { ready, ..Workers::of(PathBuf::from("/nonexistent/bpfd")) };
        assert_eq!(unable.reader().unwrap_err().kind(), io::ErrorKind::NotFound, "what is in the way now");
    }
}
