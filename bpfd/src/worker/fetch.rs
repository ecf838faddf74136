//! Pulls: a registry asked, and what it sends checked and written, by a worker that has the internet and one directory and nothing
//! else. What it answers is not believed: the daemon hashes every part again and decides by its own policy.
//!
//! The request, with the credentials for one host, goes over the channel and nowhere else. Must never be logged.

mod failure;

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bpfd_policy::Policy;
use bpfd_sys::channel::{Channel, ChannelError, Message};
use bpfd_sys::confine;
use bpfd_sys::worker::{self, CallError, Limits, Spec, Stderr, Worker};
use bytecode_image::candidate::Candidate;
use bytecode_image::fetch::{Phase, Progress, PullRequest, Pulled, pull as pull_image};
use bytecode_image::limits;
use bytecode_image::resolve::Selected;
use bytecode_image::store::Ingest;
use bytecode_image::transport::Wait;
use bytecode_image::verify;
use serde::{Deserialize, Serialize};

use super::identity::Identity;
use super::{TURN, WorkerError, Workers};
use crate::causes::error_chain;
use crate::waiter::Waiter;

pub use self::failure::FetchFailure;
pub(crate) use self::failure::reason_of;

pub(super) const KIND: &str = "fetch";

/// What name resolution of glibc, and the certificate stores of the distributions, need to be read.
const READABLE: [&str; 14] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/services",
    // Debian, Alpine, Arch, SUSE; entries are links into /usr.
    "/etc/ssl",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    // Fedora, RHEL.
    "/etc/pki",
    "/usr/share/pki",
    "/usr/lib/ssl",
    "/var/lib/ca-certificates",
];
/// Between two reports of one phase: callers get at most ten a second.
const PAUSE: Duration = Duration::from_millis(100);
/// How much longer the worker lives than its request may take, and how long it may take to end.
const GRACE: Duration = Duration::from_secs(2);

/// Characters kept of what a worker says about a pause.
const WAIT: usize = 400;

/// How far a pull is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Step {
    /// What is being done.
    pub phase: Phase,
    /// Bytes, or signatures.
    pub done: u64,
    /// Of how many, if that is known.
    pub total: Option<u64>,
}

/// How a pull ended.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Ended {
    /// By the worker.
    pub outcome: Result<Pulled, FetchFailure>,
    /// The most memory it had, by the kernel (`VmHWM` of proc_pid_status(5)), in KiB.
    pub peak_kib: u64,
}

#[derive(Debug, Deserialize, Serialize)]
struct Request {
    pull: PullRequest,
    policy: Policy,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Told {
    Step(Step),
    /// A request is sent again later, in words.
    Waits(String),
    Ended(Box<Ended>),
}

/// Has a worker pull into a directory that belongs to `identity`. The worker is gone when this returns; given up, it is ended. Blocks;
/// call it from a thread that outlives it.
#[expect(clippy::too_many_arguments, reason = "each is one thing that the worker is given or kept by")]
pub fn pull(
    workers: &Workers,
    identity: &Identity,
    ingest: BorrowedFd<'_>,
    request: PullRequest,
    policy: Policy,
    deadline: Instant,
    heard: impl Fn(Step),
    waiter: &Waiter,
) -> Result<Ended, WorkerError> {
    let wall = deadline.saturating_duration_since(Instant::now()) + GRACE;
    // Address space is far above what is used: allocators and thread stacks reserve much that they never touch.
    let limits =
        Limits { address_space: 1 << 30, cpu_seconds: 60, open_files: 64, file_size: limits::LAYER, wall: Some(wall) };
    let identity = worker::Identity::Own(identity.ids());
    let spec = Spec { kind: KIND.to_owned(), limits, identity, stderr: Stderr::Keep };
    let mut worker = workers.spawn(&spec).map_err(WorkerError::Start)?;
    let _running = waiter.runs(worker.ender().map_err(WorkerError::Start)?);
    let request = serde_json::to_vec(&Request { pull: request, policy }).map_err(WorkerError::Request)?;
    let ended = listen(&mut worker, &request, ingest, deadline + GRACE, heard)?;
    // It may have the files open that it wrote: they are taken in when nobody can change them any more.
    let gone = worker.finish(Instant::now() + GRACE).map_err(ChannelError::Io).map_err(CallError::Channel)?;
    tracing::debug!(peak_kib = ended.peak_kib, status = %gone, "the fetch worker ended");
    Ok(ended)
}

fn listen(
    worker: &mut Worker,
    request: &[u8],
    ingest: BorrowedFd<'_>,
    deadline: Instant,
    heard: impl Fn(Step),
) -> Result<Ended, WorkerError> {
    let mut message = worker.call(request, &[ingest], deadline)?;
    loop {
        match serde_json::from_slice(&message.bytes).map_err(WorkerError::Answer)? {
            Told::Step(step) => heard(step),
            Told::Waits(wait) => {
                let wait: String = wait.chars().filter(|c| !c.is_control()).take(WAIT).collect();
                tracing::info!("{wait}");
            }
            Told::Ended(ended) => {
                let Ended { outcome, peak_kib } = *ended;
                return Ok(Ended { outcome: outcome.map_err(FetchFailure::bounded), peak_kib });
            }
        }
        // One that never stops talking is never waited for.
        if Instant::now() > deadline {
            return Err(CallError::Deadline.into());
        }
        message = worker.receive(deadline)?;
    }
}

/// The worker's side: one pull, then the end.
pub(super) fn serve(channel: &Channel) -> Result<(), String> {
    // Opened before confinement, for the peak at the end.
    let status = File::open("/proc/self/status").map_err(|error| error.to_string())?;
    let Message { bytes, fds } = channel.receive(Instant::now() + TURN).map_err(|error| error.to_string())?;
    let [ingest]: [OwnedFd; 1] = fds.try_into().map_err(|_| "no directory came with the request".to_owned())?;
    let readable: Vec<&Path> = READABLE.iter().map(Path::new).collect();
    confine::fetcher(&readable, Some(ingest.as_fd())).map_err(|error| error_chain(&error))?;
    let outcome = run(channel, &bytes, ingest)?;
    let peak_kib = peak(status).map_err(|error| error.to_string())?;
    let ended = Told::Ended(Box::new(Ended { outcome, peak_kib }));
    say(channel, &ended)
}

fn run(channel: &Channel, request: &[u8], ingest: OwnedFd) -> Result<Result<Pulled, FetchFailure>, String> {
    let Request { pull, policy } = serde_json::from_slice(request).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let decide = |selected: &Selected, candidates: &[Candidate]| {
        verify::decide(&policy, selected.subject(), candidates, verify::now())
    };
    let told = Reports { channel, last: Mutex::new(None) };
    let pulled = runtime.block_on(pull_image(&pull, &Ingest::from_fd(ingest), decide, &told));
    // A name that is still being resolved in a thread is not waited for.
    runtime.shutdown_background();
    Ok(pulled.map_err(|error| FetchFailure::of(&error)))
}

struct Reports<'a> {
    channel: &'a Channel,
    last: Mutex<Option<(Phase, Instant)>>,
}

impl Progress for Reports<'_> {
    fn report(&self, phase: Phase, done: u64, total: Option<u64>) {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let end = total == Some(done);
        if !end && last.is_some_and(|(of, at)| of == phase && now.duration_since(at) < PAUSE) {
            return;
        }
        *last = Some((phase, now));
        // Nobody listens: the daemon is gone, and the kernel ends this process with it.
        say(self.channel, &Told::Step(Step { phase, done, total })).unwrap_or_default();
    }

    fn waits(&self, wait: &Wait) {
        say(self.channel, &Told::Waits(wait.to_string())).unwrap_or_default();
    }
}

fn say(channel: &Channel, told: &Told) -> Result<(), String> {
    let bytes = serde_json::to_vec(told).map_err(|error| error.to_string())?;
    channel.send(&bytes, &[], Instant::now() + TURN).map_err(|error| error.to_string())
}

fn peak(mut status: File) -> io::Result<u64> {
    let mut text = String::new();
    status.rewind()?;
    status.read_to_string(&mut text)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
