//! A verification that takes long, held by a fail point: only requests about the same chain wait for it, and what it was for may be gone
//! when it ends.
#![expect(clippy::unwrap_used, clippy::panic, reason = "the lints exempt test functions, not what they share")]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Stdio};

use bpfd_tests::{Host, eventually, example};
use insta::assert_snapshot;
use rustix::fs::OFlags;

const FIFO: &str = "/run/hold";
/// The second time that programs are made is held by another file: who opened the first may not have closed it yet.
const AGAIN: &str = "/run/hold-again";

/// A host with the counters a, b, c on `uplink`, e on `other`, and d nowhere. Each of these holds what is made for a change, in turn.
fn holding(files: &[&str]) -> Host {
    let mut host = Host::with_counters();
    host.shell(&format!(
        "mkfifo {FIFO} {AGAIN}; ip link add other type veth peer name beyond netns far; ip link set other up"
    ));
    let object = example("xdp-counter");
    host.bpfctl(&format!("load --path {object} --name d")).ok();
    host.bpfctl(&format!("load --path {object} --name e xdp -i other --when-present")).ok();
    host.stop();
    let holds: Vec<String> = files.iter().map(|file| format!("1*return({file})")).collect();
    host.start_with(&[("FAILPOINTS", &format!("change-made={}", holds.join("->")))]);
    host
}

/// Holds what comes to the point next, as long as this is open: there is a reader once something does.
fn hold(host: &Host, file: &str) -> File {
    let fifo = host.path(file);
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
    let open = || OpenOptions::new().write(true).custom_flags(flags).open(&fifo);
    eventually(open, Result::is_ok).unwrap()
}

/// Asks, and does not wait for the answer.
fn ask(host: &Host, line: &str) -> Child {
    let mut bpfctl = host.command("/run/bin/bpfctl");
    bpfctl.args(line.split(' ')).env("BPFD_SOCKET", "/run/case/run/bpfd/bpfd.sock");
    bpfctl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[track_caller]
fn waits(asked: &mut Child) {
    if let Some(status) = asked.try_wait().unwrap() {
        panic!("it did not wait: {status}");
    }
}

#[track_caller]
fn succeeds(asked: Child) {
    let said = asked.wait_with_output().unwrap();
    assert!(said.status.success(), "{said:?}");
}

/// The programs that an interface runs, in order.
#[track_caller]
fn order(host: &Host, interface: &str) -> Vec<String> {
    let shown = host.bpfctl(&format!("chain show {interface}")).ok();
    shown.split_whitespace().filter(|word| word.contains('/')).map(str::to_owned).collect()
}

#[test]
fn only_requests_about_its_chain_wait_for_a_verification() {
    let host = holding(&[FIFO]);
    let mut attach = ask(&host, "attach d xdp -i uplink --priority 70");
    let held = hold(&host, FIFO);
    let mut detach = ask(&host, "detach b/count@uplink:xdp");

    assert_snapshot!(host.bpfctl("list").ok(), @"
    PROGRAM  TYPE  HOOK        PRIO  POS  STATE
    a/count  xdp   uplink:xdp  90    3    ATTACHED
    b/count  xdp   uplink:xdp  50    2    ATTACHED
    c/count  xdp   uplink:xdp  20    1    ATTACHED
    d/count  xdp   -           -     -    LOADED
    e/count  xdp   other:xdp   50    1    ATTACHED
    ");
    assert_eq!(order(&host, "uplink"), ["c/count", "b/count", "a/count"]);
    assert_eq!(host.findings(), [""; 0]);
    host.bpfctl("attach d xdp -i other --priority 1").ok();
    assert_eq!(order(&host, "other"), ["d/count", "e/count"]);
    assert_snapshot!(host.bpfctl("detach e/count@other:xdp").ok(), @"detached e/count@other:xdp");
    assert_eq!(host.findings(), [""; 0]);
    for asked in [&mut attach, &mut detach] {
        waits(asked);
    }

    drop(held);
    [attach, detach].into_iter().for_each(succeeds);
    assert_snapshot!(host.bpfctl("list").ok(), @"
    PROGRAM  TYPE  HOOK        PRIO  POS  STATE
    a/count  xdp   uplink:xdp  90    3    ATTACHED
    b/count  xdp   -           -     -    LOADED
    c/count  xdp   uplink:xdp  20    1    ATTACHED
    d/count  xdp   other:xdp   1     1    ATTACHED
    d/count  xdp   uplink:xdp  70    2    ATTACHED
    e/count  xdp   -           -     -    LOADED
    ");
}

#[test]
fn what_was_planned_on_an_interface_that_is_gone_is_made_again() {
    let host = holding(&[FIFO, AGAIN]);
    let mut attach = ask(&host, "attach d xdp -i other --priority 70");
    let held = hold(&host, FIFO);
    host.shell("ip link del other; ip link add other type veth peer name beyond netns far; ip link set other up");
    host.await_output("list", "e/count  xdp   other:xdp   50    1    ATTACHED");
    waits(&mut attach);
    drop(held);
    if !host.shares() {
        // A fused program is for one interface: it comes to the point again.
        drop(hold(&host, AGAIN));
    }
    succeeds(attach);
    assert_eq!(order(&host, "other"), ["e/count", "d/count"]);
}

#[test]
fn a_daemon_that_dies_while_it_holds_what_was_made_leaves_nothing_of_it() {
    let mut host = holding(&[FIFO]);
    let attach = ask(&host, "attach d xdp -i uplink --priority 70");
    let held = hold(&host, FIFO);
    let before = host.pinned();
    host.kill();
    assert!(!attach.wait_with_output().unwrap().status.success());
    drop(held);
    host.start();
    assert_eq!(host.pinned(), before);
    assert_snapshot!(host.bpfctl("list").ok(), @"
    PROGRAM  TYPE  HOOK        PRIO  POS  STATE
    a/count  xdp   uplink:xdp  90    3    ATTACHED
    b/count  xdp   uplink:xdp  50    2    ATTACHED
    c/count  xdp   uplink:xdp  20    1    ATTACHED
    d/count  xdp   -           -     -    LOADED
    e/count  xdp   other:xdp   50    1    ATTACHED
    ");
}
