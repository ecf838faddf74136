//! A worker that stands still, stopped by somebody who may, or by what it reads: it costs the daemon neither its end nor its next start.

use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bpfd_tests::eventually;
use rustix::process::{Pid, Signal, kill_process};

use crate::world::Images;

/// More than a stop takes, and less than the 20 seconds after which a worker that reads an object is ended.
const SOON: Duration = Duration::from_secs(15);
/// Workers that wait for an object.
const WAITING: usize = 1;

/// The workers of the daemon that read an object, or wait for one.
fn readers(daemon: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{daemon}/task")).unwrap();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let reads = |pid: &u32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("\0--worker\0parse")
    };
    children.collect::<String>().split_whitespace().filter_map(|pid| pid.parse().ok()).filter(reads).collect()
}

/// Stops one process, and says whether it stands still.
fn stands_still(pid: u32) -> bool {
    let process = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    let state = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let stopped = |state: &String| state.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'));
    stopped(&eventually(state, stopped))
}

#[test]
fn a_daemon_that_stops_does_not_wait_for_a_worker_that_stands_still() {
    let mut images = Images::signed();
    images.host.bpfctl("image pull -q registry/team/app:1").ok();
    let daemon = images.host.pid();
    // The next object is read by the one that waits.
    let waiting = eventually(|| readers(daemon), |waiting| waiting.len() == WAITING);
    assert!(waiting.len() == WAITING && waiting.into_iter().all(stands_still));
    let mut command = images.host.command("/run/bin/bpfctl");
    command.args(["image", "pull", "-q", "registry/team/app:1"]).env("BPFD_SOCKET", "/run/case/run/bpfd/bpfd.sock");
    let mut caller = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Another one takes the place of the one that has the object.
    assert!(eventually(|| readers(daemon), |now| now.len() > WAITING).len() > WAITING);
    let asked = Instant::now();
    images.host.stop();
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    assert_ne!(caller.wait().unwrap().code(), Some(0));
    images.host.start();
    images.host.bpfctl("image pull -q registry/team/app:1").ok();
}

#[test]
fn workers_that_die_again_and_again_cost_their_objects_and_nothing_else() {
    let images = Images::signed();
    let daemon = images.host.pid();
    let ended = AtomicBool::new(false);
    let killed = thread::scope(|scope| {
        // Whatever a worker does, it is ended: while it waits, and while it reads.
        let killer = scope.spawn(|| {
            let mut killed = 0;
            while !ended.load(Ordering::Relaxed) {
                for pid in readers(daemon) {
                    let process = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
                    killed += u32::from(kill_process(process, Signal::KILL).is_ok());
                }
            }
            killed
        });
        for number in 0..30 {
            // It may find a worker that lives long enough.
            let name = format!("n{number}");
            let load = images.host.bpfctl_as_member(&format!("load -q --image registry/team/app:1 --name {name}"));
            assert!(load.code == 0 || load.stderr.contains("worker"), "{load}");
            images.host.bpfctl("list").ok();
        }
        ended.store(true, Ordering::Relaxed);
        killer.join().unwrap()
    });
    assert!(killed > 30, "{killed} workers were ended");
    images.host.bpfctl("load -q --image registry/team/app:1 --name after xdp -i uplink").ok();
    // None is left beside those that wait.
    assert!(eventually(|| readers(daemon), |left| left.len() <= WAITING).len() <= WAITING);
}
