//! What a daemon spends while something is done: its system calls, counted by strace(1), and its time on a processor. A count is the
//! same on a busy machine: tests may fail on it, as they may not on a time.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

use crate::host::{Host, eventually};

/// How often each system call was made.
pub type Calls = BTreeMap<String, u64>;

impl Host {
    /// What the daemon, its threads and the workers that it starts meanwhile call while `work` is done, and until it is quiet again.
    #[track_caller]
    pub fn calls(&self, work: impl FnOnce()) -> Calls {
        let pid = self.pid().to_string();
        let mut strace = Command::new("strace");
        strace.args(["--follow-forks", "--summary-only", "--summary-columns=calls,name", "--attach", &pid]);
        let mut strace = strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(strace.stderr.take().unwrap());
        // Attached to every thread once it says so.
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert!(line.contains("attached"), "strace: {line}");
        work();
        self.await_quiet();
        kill_process(Pid::from_child(&strace), Signal::INT).unwrap();
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        strace.wait().unwrap();
        counted(&rest)
    }

    /// Waits until the daemon has done what follows from a change: the news of it, which it hears as everybody's.
    #[track_caller]
    pub fn await_quiet(&self) {
        assert!(eventually(|| self.settled(), |settled| *settled), "the daemon goes on and on{}", self.log());
    }

    /// Time that the daemon's threads ran on a processor: the same on a busy machine.
    pub fn processor_time(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().map(Result::unwrap);
        let of = |task: fs::DirEntry| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
        };
        tasks.filter_map(of).sum()
    }

    /// Whether every thread of the daemon sleeps, and none woke in between.
    fn settled(&self) -> bool {
        const BETWEEN: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let before = self.threads();
        // Nothing to wait for but that nothing happens.
        poll(&mut [], Some(&BETWEEN)).unwrap();
        before.values().all(|(asleep, _)| *asleep) && self.threads() == before
    }

    /// Of each thread whether it sleeps, and how often it went to sleep.
    fn threads(&self) -> BTreeMap<OsString, (bool, String)> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().map(Result::unwrap);
        // A thread that ends meanwhile has no status.
        let status = |task: fs::DirEntry| {
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let asleep = field("State:")?.starts_with('S');
            Some((task.file_name(), (asleep, field("voluntary_ctxt_switches:")?.to_owned())))
        };
        tasks.filter_map(status).collect()
    }
}

/// Rows of two words, a number and a name; the last is the sum.
fn counted(summary: &str) -> Calls {
    let row = |line: &str| {
        let (number, name) = line.trim().split_once(char::is_whitespace)?;
        Some((name.trim().to_owned(), number.parse().ok()?))
    };
    summary.lines().filter_map(row).filter(|(name, _)| name != "total").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read() {
        let summary = "strace: Process 7 detached\n    calls syscall\n--------- ----------------\n       12 futex\n        1 fsync\n--------- ----------------\n       13 total\n";
        let calls = counted(summary);
        assert_eq!(calls, Calls::from([("futex".to_owned(), 12), ("fsync".to_owned(), 1)]));
    }
}
