//! A worker that stands still, stopped by somebody who may, or by what it reads: it costs the daemon neither its end nor its next start.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::world::Images;

/// More than a stop takes, and less than the 20 seconds after which a worker that reads an object is ended.
const SOON: Duration = Duration::from_secs(15);

/// A worker of the daemon that reads an object now.
fn reader(daemon: u32) -> Option<u32> {
    let threads = fs::read_dir(format!("/proc/{daemon}/task")).unwrap();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let reads = |pid: &u32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("\0--worker\0parse")
    };
    children.collect::<String>().split_whitespace().filter_map(|pid| pid.parse().ok()).find(reads)
}

/// Stops one process, and says whether it stands still now: it may have ended first.
fn stands_still(pid: u32) -> bool {
    let process = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let stopped = kill_process(process, Signal::STOP).is_ok();
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stopped && state.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
}

#[test]
fn a_daemon_that_stops_does_not_wait_for_a_worker_that_stands_still() {
    let mut images = Images::signed();
    images.host.bpfctl("image pull -q registry/team/app:1").ok();
    let daemon = images.host.pid();
    // Each pull has a worker read the object, for some milliseconds: one of them is met.
    let met = (0..40).find_map(|_| {
        let mut command = images.host.command("/run/bin/bpfctl");
        command.args(["image", "pull", "-q", "registry/team/app:1"]).env("BPFD_SOCKET", "/run/case/run/bpfd/bpfd.sock");
        let mut caller = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while caller.try_wait().unwrap().is_none() {
            if reader(daemon).is_some_and(stands_still) {
                return Some(caller);
            }
        }
        None
    });
    let mut caller = met.expect("a worker is met");
    let asked = Instant::now();
    images.host.stop();
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    assert_ne!(caller.wait().unwrap().code(), Some(0));
    images.host.start();
    images.host.bpfctl("image pull -q registry/team/app:1").ok();
}
