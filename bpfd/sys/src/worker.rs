//! Worker processes: the daemon's own binary, run again as `--worker KIND`, with one channel, few rights and hard
//! limits. What a worker may still do it gives up itself ([`crate::confine`]).
//!
//! The channel is the worker's standard input: the standard library places it there without a race with its own
//! descriptors, and a socket-activated service gets it the same way. The environment is empty, standard output goes to
//! /dev/null. A worker never outlives its [`Worker`], nor the thread that spawned it (`PR_SET_PDEATHSIG` counts the
//! thread as the parent), so a worker that serves many calls is spawned from a thread that lasts.
//!
//! A worker takes its identity itself, as the first thing it does ([`begin`]): it is started as root and made not dumpable before
//! it has the user id that it keeps, so no other process of that id can ever trace it or read its memory.
use crate::channel::{Channel, ChannelError, Message};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Gid, Uid};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Resource, Rlimit, Signal, set_dumpable_behavior};
use std::fmt;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// A pipe holds 64 KiB, and more is never kept.
const STDERR_LIMIT: u64 = 64 << 10;

/// How long a worker that closed its channel may take to end before it is killed: it is in exit(2) by then.
const ENDING: Duration = Duration::from_secs(2);

/// `CLOSE_RANGE_CLOEXEC` (include/uapi/linux/close_range.h).
const CLOSE_RANGE_CLOEXEC: u32 = 1 << 2;

/// What to run, and within which bounds.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The word after `--worker`.
    pub kind: String,
    /// Bounds the kernel keeps.
    pub limits: Limits,
    /// Whom it runs as.
    pub identity: Identity,
    /// Where its standard error goes.
    pub stderr: Stderr,
}

/// Resource limits (setrlimit(2)); core dumps are always off.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of address space (`RLIMIT_AS`).
    pub address_space: u64,
    /// Seconds of CPU time (`RLIMIT_CPU`).
    pub cpu_seconds: u64,
    /// Open descriptors (`RLIMIT_NOFILE`).
    pub open_files: u64,
    /// Bytes of any file it writes (`RLIMIT_FSIZE`), memory files too.
    pub file_size: u64,
    /// Wall-clock time to live, in whole seconds, rounded up (alarm(2)): a last resort beside the deadlines of the
    /// calls. `None` for a worker that stays.
    pub wall: Option<Duration>,
}

/// Whom a worker runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// As the daemon.
    Same,
    /// As this user and group, without supplementary groups or capabilities. The daemon must be root.
    Own(Ids),
}

/// A user and a group, never root's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    uid: u32,
    gid: u32,
}

impl Ids {
    /// `None` for root's, and for the number that stands for "no change" (`setresuid(2)`).
    pub fn new(uid: u32, gid: u32) -> Option<Self> {
        let own = |id: u32| id != 0 && id != u32::MAX;
        (own(uid) && own(gid)).then_some(Self { uid, gid })
    }

    /// The user.
    pub fn uid(self) -> u32 {
        self.uid
    }

    /// The group.
    pub fn gid(self) -> u32 {
        self.gid
    }
}

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

impl FromStr for Ids {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let ids = text.split_once(':').and_then(|(uid, gid)| Self::new(uid.parse().ok()?, gid.parse().ok()?));
        ids.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a user and a group other than root's"))
    }
}

/// Where a worker's standard error goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stderr {
    /// To the daemon's.
    Inherit,
    /// Nowhere.
    Discard,
    /// Its first 64 KiB are kept, for [`CallError::Died`].
    Keep,
}

/// A running worker. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Worker {
    channel: Channel,
    child: Child,
    /// Readable once the worker has ended.
    pidfd: OwnedFd,
    stderr: Option<PipeReader>,
}

/// A call had no answer. The worker is dead after any of these.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It took too long and was killed.
    #[error("the worker did not answer before the deadline")]
    Deadline,
    /// It ended by itself, or by a limit: `SIGSYS` is a forbidden system call, `SIGXCPU` or `SIGKILL` the CPU limit,
    /// `SIGALRM` the wall-clock limit.
    #[error("the worker died ({status})")]
    Died {
        /// How.
        status: ExitStatus,
        /// With [`Stderr::Keep`], what it said. Its words are not to be trusted.
        stderr: String,
    },
    /// The message could not be sent, or what came back is no message.
    #[error("cannot communicate with the worker")]
    Channel(#[source] ChannelError),
}

impl Worker {
    /// Runs this binary (the one that is running, even if the file was replaced since).
    pub fn spawn(spec: &Spec) -> io::Result<Self> {
        Self::spawn_program(Path::new("/proc/self/exe"), spec)
    }

    /// Runs another binary.
    pub fn spawn_program(program: &Path, spec: &Spec) -> io::Result<Self> {
        let Spec { kind, limits, identity, stderr } = spec;
        let (channel, far_end) = Channel::pair()?;
        let binary = open(program, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let mut command = Command::new(format!("/proc/self/fd/{}", binary.as_raw_fd()));
        command.arg0("bpfd").arg("--worker").arg(kind).env_clear().current_dir("/");
        command.stdin(Stdio::from(far_end.into_fd())).stdout(Stdio::null());
        let stderr = match stderr {
            Stderr::Inherit => None,
            Stderr::Discard => {
                command.stderr(Stdio::null());
                None
            }
            Stderr::Keep => {
                let (reader, writer) = io::pipe()?;
                // A worker that talks too much loses words instead of blocking; reading never blocks us.
                for end in [reader.as_fd(), writer.as_fd()] {
                    fcntl_setfl(end, fcntl_getfl(end)? | OFlags::NONBLOCK)?;
                }
                command.stderr(Stdio::from(OwnedFd::from(writer)));
                Some(reader)
            }
        };
        match identity {
            Identity::Same => {}
            Identity::Own(ids) => {
                command.arg(ids.to_string());
            }
        }
        let (limits, parent) = (*limits, rustix::process::getpid());
        // SAFETY: between fork and exec of a threaded process only async-signal-safe calls are allowed: `restrict`
        // makes plain system calls, and neither allocates nor locks.
        unsafe { command.pre_exec(move || restrict(limits, parent)) };
        let mut child = command.spawn()?;
        match rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { channel, child, pidfd, stderr }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error.into())
            }
        }
    }

    /// The channel, for a conversation of more than calls.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Sends a message and waits for one. After an error the worker is dead.
    pub fn call(&mut self, message: &[u8], fds: &[BorrowedFd<'_>], deadline: Instant) -> Result<Message, CallError> {
        let answer = self.channel.send(message, fds, deadline).and_then(|()| self.channel.receive(deadline));
        answer.map_err(|error| self.cause(error))
    }

    /// Waits for one more message of an answer in several. After an error the worker is dead.
    pub fn receive(&mut self, deadline: Instant) -> Result<Message, CallError> {
        self.channel.receive(deadline).map_err(|error| self.cause(error))
    }

    /// Ends it, and does not wait until it is gone: the kernel takes its memory back meanwhile. Dropping it waits.
    pub fn kill(&mut self) {
        // Does not fail for a child of ours.
        let _killed = self.child.kill();
    }

    /// A way to end it from another thread, while this one waits for an answer.
    pub fn ender(&self) -> io::Result<Ender> {
        Ok(Ender(self.pidfd.try_clone()?))
    }

    /// Whether it is no more.
    pub fn has_ended(&self) -> io::Result<bool> {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        Ok(rustix::event::poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&now))? > 0)
    }

    /// Closes the channel and waits for the worker to end; kills it at `deadline`.
    pub fn finish(mut self, deadline: Instant) -> io::Result<ExitStatus> {
        rustix::net::shutdown(self.channel.as_fd(), rustix::net::Shutdown::Both)?;
        self.end(deadline)
    }

    /// What the worker died of, having made sure that it is dead.
    fn cause(&mut self, error: ChannelError) -> CallError {
        let status = match error {
            ChannelError::Closed => self.end(Instant::now() + ENDING),
            ChannelError::Deadline
            | ChannelError::TooLong(_)
            | ChannelError::TooManyFds(_)
            | ChannelError::FdsCut
            | ChannelError::Malformed
            | ChannelError::Io(_) => self.end(Instant::now()),
        };
        match (error, status) {
            (ChannelError::Closed, Ok(status)) => CallError::Died { status, stderr: self.last_words() },
            (ChannelError::Deadline, Ok(_killed)) => CallError::Deadline,
            (error, Ok(_killed)) => CallError::Channel(error),
            (_, Err(error)) => CallError::Channel(ChannelError::Io(error)),
        }
    }

    /// Waits until `deadline`, then kills; reaps in any case.
    fn end(&mut self, deadline: Instant) -> io::Result<ExitStatus> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match rustix::event::poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&left)) {
                Ok(0) => {
                    self.child.kill()?;
                    return self.child.wait();
                }
                Ok(_ended) => return self.child.wait(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn last_words(&mut self) -> String {
        let mut words = Vec::new();
        if let Some(stderr) = &mut self.stderr {
            // Ends with WouldBlock instead of the end of file if something else holds the pipe; what came counts.
            let _end = stderr.take(STDERR_LIMIT).read_to_end(&mut words);
        }
        String::from_utf8_lossy(&words).into_owned()
    }
}

/// Ends one worker, and never another process: it holds the process itself, not its number.
#[derive(Debug)]
pub struct Ender(OwnedFd);

impl Ender {
    /// Kills it: who waits for its answer hears that it died. One that is gone stays gone.
    pub fn end(&self) {
        // Fails for a process that was reaped, and for nothing else: it is our child.
        let _gone = rustix::process::pidfd_send_signal(&self.0, Signal::KILL);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
        // Does not fail for a child of ours; one that was reaped already is remembered by `Child`.
        let _reaped = self.child.wait();
    }
}

/// In the worker, before anything else and while it has one thread: it becomes who it is to be, and can no longer be traced. `ids` is
/// the word after its kind. Gives the channel to the daemon; nothing was read from it.
pub fn begin(ids: Option<&str>) -> io::Result<Channel> {
    // rustix reads `/proc/self/auxv` when it is first needed where the kernel has no `PR_GET_AUXV` (before Linux 6.4), and panics if it
    // cannot: of a process that is not dumpable the file is root's.
    let _page = rustix::param::page_size();
    // The order matters: a process is traced, and its memory read, by who has its user id and finds it dumpable
    // (`__ptrace_may_access` of kernel/ptrace.c). Such a process has never both.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    if let Some(ids) = ids {
        let Ids { uid, gid } = ids.parse()?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        // A change of ids sets this to the host's `fs.suid_dumpable` and forgets the death signal (`commit_creds` of kernel/cred.c).
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    }
    // A daemon that died meanwhile has closed its end: the first read finds out.
    Channel::from_fd(io::stdin().as_fd().try_clone_to_owned()?)
}

/// In the child, between fork and exec: no memory may be taken and no lock.
fn restrict(limits: Limits, parent: Pid) -> io::Result<()> {
    let Limits { address_space, cpu_seconds, open_files, file_size, wall } = limits;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before the line above.
    if rustix::process::getppid() != Some(parent) {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    rustix::thread::set_no_new_privs(true)?;
    for (resource, limit) in [
        (Resource::As, address_space),
        (Resource::Cpu, cpu_seconds),
        (Resource::Nofile, open_files),
        (Resource::Fsize, file_size),
        (Resource::Core, 0),
    ] {
        // The kernel kills at the hard limit of CPU time, and says which limit it was at the soft one (`check_process_timers`).
        let maximum = if resource == Resource::Cpu { limit.saturating_add(1) } else { limit };
        rustix::process::setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(maximum) })?;
    }
    if let Some(wall) = wall {
        let seconds = u32::try_from(wall.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
        // SAFETY: alarm(2) takes a number and is async-signal-safe; the alarm survives exec.
        let _no_earlier_alarm = unsafe { libc::alarm(seconds) };
    }
    // Descriptors of ours are all close-on-exec; this is for those a library may have opened otherwise. Linux before
    // 5.11 does not know the flag, and goes without.
    // SAFETY: close_range(2) takes numbers; it closes nothing now, it only marks.
    let _marked = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    Ok(())
}
