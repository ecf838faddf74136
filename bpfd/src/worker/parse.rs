//! Foreign objects: read, and made ready for this kernel as a dry run, by a worker that may compute and talk and nothing else. What
//! it answers is a verdict and facts to decide on; what is loaded the daemon makes itself, from the same bytes, afterwards.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::Duration;

use bpfd_core::kernel::Recipe;
use bpfd_sys::channel::Channel;
use bpfd_sys::confine;
use bpfd_sys::seal::Sealed;
use bpfd_sys::worker::{CallError, Identity, Limits, Spec, Stderr};
use ebpf::inspect::Object;
use ebpf::map_types::{self, MapTypes, MapTypesError};
use ebpf::relocate::KernelBtf;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::passed::Passed;
use super::ready::Started;
use super::{WorkerError, Workers, answer_calls, call};
use crate::causes::error_chain;
use crate::kernel::{Fitted, Loader, OPTIONS_LIMIT, ObjectError, Release, finish, fit, guarded};

pub(super) const KIND: &str = "parse";

/// The largest object (design, limits of images and uploads).
const OBJECT_LIMIT: usize = 16 << 20;
/// Kernels' own types are 5 to 12 MiB.
const TYPES_LIMIT: usize = 64 << 20;
/// Wall-clock time of one object. The slowest honest ones take a tenth of a second.
const LIMIT: Duration = Duration::from_secs(20);
/// Seconds of CPU time of one object, whatever else the machine does.
const CPU_SECONDS: u64 = 10;
/// A number that no descriptor of a worker has, for maps that do not exist.
const NO_MAP: RawFd = 1 << 20;

/// Why an object did not pass.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// The object has no such type.
    #[error("the object has no type `{0}` with a size")]
    NoType(String),
    /// The object is at fault.
    #[error("{0}")]
    Refused(String),
    /// It took too long to read.
    #[error("the parse worker did not finish within {} s", .0.as_secs())]
    TooSlow(Duration),
    /// It took too much time of a processor.
    #[error("reading the object takes more than {0} s of CPU time")]
    OutOfTime(u64),
    /// The reader died of it: of memory, of a forbidden call, or of a fault of its own.
    #[error("the parse worker crashed while it read the object ({status})")]
    Died {
        /// How it ended.
        status: String,
        /// What it said last; the object may have chosen the words.
        stderr: String,
    },
    /// The worker could not be run or talked to: not the object's fault.
    #[error("cannot run the parse worker: {0}")]
    Worker(String),
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Request {
    Inspect,
    /// What a map holds, and what the records of this type are.
    MapTypes {
        map: String,
        record: Option<String>,
    },
    /// With the kernel's types and its configuration behind the object, where the host has them.
    Rehearse {
        recipe: Recipe,
        types: bool,
        options: bool,
    },
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Object(Box<Object>),
    MapTypes(Box<MapTypes>),
    /// The object has no type of this name.
    NoType(String),
    Fits,
    Refused(String),
}

/// One object, and the worker that reads it and no other.
#[derive(Debug)]
pub struct Reader {
    started: Started,
    object: Sealed,
    passed: Passed,
}

impl Reader {
    /// Of these bytes.
    pub fn of(workers: &Workers, elf: &[u8]) -> Result<Self, ParseError> {
        let object = Sealed::from_bytes(elf).map_err(trouble)?;
        Ok(Self { started: workers.reader().map_err(trouble)?, object, passed: workers.passed.clone() })
    }

    /// What the object holds.
    pub fn inspect(&mut self) -> Result<Object, ParseError> {
        match self.ask(&Request::Inspect, &[])? {
            Answer::Object(object) => Ok(*object),
            other => Err(unexpected(other)),
        }
    }

    /// What a map of the object holds.
    fn map_types(&mut self, map: &str, record: Option<&str>) -> Result<MapTypes, ParseError> {
        let request = Request::MapTypes { map: map.to_owned(), record: record.map(str::to_owned) };
        match self.ask(&request, &[])? {
            Answer::MapTypes(types) => Ok(*types),
            other => Err(unexpected(other)),
        }
    }

    /// Whether it can be made ready for a recipe on this kernel. [`Loader::prepare`] is for objects that passed this.
    pub fn rehearse(&mut self, loader: &Loader, recipe: &Recipe) -> Result<(), ParseError> {
        let types = loader.sealed_types().map_err(trouble)?;
        // An object that asks for them is refused when the daemon reads them; the others need none.
        let options = loader.sealed_options().unwrap_or_else(|error| {
            tracing::warn!(error = error_chain(&error), "cannot read the kernel's configuration");
            None
        });
        let (has_types, has_options) = (types.is_some(), options.is_some());
        let request = Request::Rehearse { recipe: recipe.clone(), types: has_types, options: has_options };
        let beside: Vec<Arc<Sealed>> = types.into_iter().chain(options).collect();
        match self.ask(&request, &beside)? {
            Answer::Fits => {
                self.passed.note(recipe);
                Ok(())
            }
            other => Err(unexpected(other)),
        }
    }

    /// No more questions: the worker is ended. It is waited for when this is dropped, which others need not wait for.
    pub fn end(&mut self) {
        self.started.worker.kill();
    }

    fn ask(&mut self, request: &Request, beside: &[Arc<Sealed>]) -> Result<Answer, ParseError> {
        let object = std::iter::once(self.object.as_fd());
        let fds: Vec<BorrowedFd<'_>> = object.chain(beside.iter().map(|sealed| sealed.as_fd())).collect();
        match call(&mut self.started.worker, request, &fds, LIMIT) {
            Ok((answer, _fds)) => Ok(answer),
            Err(WorkerError::Call(CallError::Deadline)) => Err(ParseError::TooSlow(LIMIT)),
            Err(WorkerError::Call(CallError::Died { status, .. }))
                if status.signal() == Some(Signal::XCPU.as_raw()) =>
            {
                Err(ParseError::OutOfTime(CPU_SECONDS))
            }
            Err(WorkerError::Call(CallError::Died { status, stderr })) => {
                Err(ParseError::Died { status: status.to_string(), stderr })
            }
            Err(error) => Err(ParseError::Worker(error_chain(&error))),
        }
    }
}

/// What an object holds.
pub fn inspect(workers: &Workers, elf: &[u8]) -> Result<Object, ParseError> {
    Reader::of(workers, elf)?.inspect()
}

/// What a map of an object holds, with records of this type.
pub fn map_types(workers: &Workers, elf: &[u8], map: &str, record: Option<&str>) -> Result<MapTypes, ParseError> {
    Reader::of(workers, elf)?.map_types(map, record)
}

/// An answer that is none to what was asked.
fn unexpected(answer: Answer) -> ParseError {
    match answer {
        Answer::Refused(why) => ParseError::Refused(why),
        Answer::NoType(name) => ParseError::NoType(name),
        Answer::Object(_) | Answer::MapTypes(_) | Answer::Fits => {
            ParseError::Worker("its answer is for another question".to_owned())
        }
    }
}

/// [`Reader::rehearse`], of an object that was inspected before. What passed in this process passes again, without a worker; `elf` is what
/// the recipe's digest says.
pub fn rehearse(workers: &Workers, loader: &Loader, elf: &[u8], recipe: &Recipe) -> Result<(), ParseError> {
    if workers.passed.has(recipe) { Ok(()) } else { Reader::of(workers, elf)?.rehearse(loader, recipe) }
}

fn trouble(error: io::Error) -> ParseError {
    ParseError::Worker(error.to_string())
}

/// A worker that waits for its object.
pub(super) fn start(workers: &Workers) -> io::Result<Started> {
    // Address space is far above what is used: the binary and its allocator reserve much that they never touch. Time is counted by each
    // call: a worker waits for as long as no object comes.
    let limits =
        Limits { address_space: 768 << 20, cpu_seconds: CPU_SECONDS, open_files: 16, file_size: 0, wall: None };
    Started::now(&workers.identities, |lent| {
        let identity = Identity::Own(lent.ids());
        workers.spawn(&Spec { kind: KIND.to_owned(), limits, identity, stderr: Stderr::Keep })
    })
}

/// The worker's side.
pub(super) fn serve(channel: &Channel) -> Result<(), String> {
    // Before confinement: it reads files.
    let release = Release::running();
    confine::parser().map_err(|error| error_chain(&error))?;
    answer_calls(channel, |request, fds| (answer(request, fds, &release), Vec::new()))
}

fn answer(request: Request, fds: Vec<OwnedFd>, release: &Release) -> Answer {
    let judged = judge(request, fds, release);
    judged.unwrap_or_else(|ObjectError(why)| Answer::Refused(why))
}

fn judge(request: Request, fds: Vec<OwnedFd>, release: &Release) -> Result<Answer, ObjectError> {
    let mut fds = fds.into_iter();
    let elf = read(fds.next(), OBJECT_LIMIT)?;
    match request {
        Request::Inspect => {
            let object = guarded(|| ebpf::inspect::inspect(&elf).map_err(|error| ObjectError(error_chain(&error))))?;
            Ok(Answer::Object(Box::new(object)))
        }
        Request::MapTypes { map, record } => guarded(|| match map_types::map_types(&elf, &map, record.as_deref()) {
            Ok(types) => Ok(Answer::MapTypes(Box::new(types))),
            Err(MapTypesError::NoType(name)) => Ok(Answer::NoType(name)),
            Err(MapTypesError::Object(error)) => Err(ObjectError(error_chain(&error))),
        }),
        Request::Rehearse { recipe, types: has_types, options: has_options } => {
            let kernel_types = if has_types { fds.next() } else { None };
            let kernel_options = if has_options { fds.next() } else { None };
            let types = || kernel_types.map(types).transpose();
            let options = || kernel_options.map(options).transpose();
            let Fitted { unlinked, .. } = fit(&elf, &recipe, types, release, options)?;
            let maps = unlinked.maps().iter().map(|map| map.name().to_owned()).zip(NO_MAP..);
            finish(&unlinked, &maps.collect::<BTreeMap<_, _>>())?;
            Ok(Answer::Fits)
        }
    }
}

fn types(fd: OwnedFd) -> Result<Arc<KernelBtf>, ObjectError> {
    let bytes = read(Some(fd), TYPES_LIMIT)?;
    KernelBtf::parse(&bytes).map(Arc::new).map_err(|error| ObjectError(error_chain(&error)))
}

fn options(fd: OwnedFd) -> Result<Arc<str>, ObjectError> {
    Ok(String::from_utf8_lossy(&read(Some(fd), OPTIONS_LIMIT)?).into())
}

fn read(fd: Option<OwnedFd>, limit: usize) -> Result<Vec<u8>, ObjectError> {
    let fd = fd.ok_or_else(|| ObjectError("no object came with the request".to_owned()))?;
    let bytes = Sealed::verify(fd).and_then(|sealed| sealed.read(limit));
    bytes.map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => ObjectError(format!("it is larger than {} MiB", limit >> 20)),
        _ => ObjectError(format!("it cannot be read: {error}")),
    })
}
