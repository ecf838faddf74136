//! The daemon killed between any two of its writes and steps, for each verb. Whatever the instant: packets go on, the next start
//! repairs, and the host is as before or as asked, by the table of `spec/state.md`.
//!
//! Needs bpfd with its fail points compiled in. A point that a verb never comes to fails the case.
#![expect(clippy::unwrap_used, reason = "the lint exempts test functions, not what they share")]

use std::fs;
use std::os::unix::process::ExitStatusExt;

use bpfd_tests::points::{
    Became, Point,
    Verb::{Adds, Removes},
    points,
};
use bpfd_tests::{Host, example};

/// One verb on a host where the counter `a` is attached, and how to take it back.
struct Verb {
    before: &'static [&'static str],
    line: &'static str,
    back: &'static str,
}

/// The steps of a change of a chain, before its commit and after it.
const CHAIN: [&str; 3] = ["build-top", "pin-top", "swap"];
const OLD: &str = "unpin-top";

fn adding() -> Vec<Point> {
    points(Adds, &CHAIN, &[OLD])
}

const LOAD: &str = "load --path COUNTER --name x xdp -i uplink --priority 20";
const LOAD_ALONE: &str = "load --path COUNTER --name x";

fn line(text: &str) -> String {
    text.replace("COUNTER", &example("xdp-counter")).replace("TRACER", &example("tracepoint-count"))
}

/// A host where `a` counts, and what the verb needs is there.
fn host(verb: &Verb) -> Host {
    let host = Host::new();
    host.bpfctl(&line("load --path COUNTER --name a xdp -i uplink --priority 50")).ok();
    verb.before.iter().for_each(|before| drop(host.bpfctl(&line(before)).ok()));
    host
}

/// What is loaded and attached where.
fn shown(host: &Host) -> String {
    host.bpfctl("list").ok()
}

/// Starts a daemon that dies at a point, and asks it: false if it did not die.
fn dies(host: &mut Host, point: &str, verb: &Verb) -> bool {
    host.kill();
    host.start_with(&[("FAILPOINTS", point)]);
    let asked = host.bpfctl(&line(verb.line));
    if asked.code == 0 {
        return false;
    }
    assert_eq!((asked.code, host.wait().signal()), (7, Some(9)), "{point}: {asked}");
    true
}

/// Kills the daemon at each point in turn; the host is put back in between.
fn at_each(points: &[Point], verb: &Verb) {
    let mut host = host(verb);
    let before = shown(&host);
    host.bpfctl(&line(verb.line)).ok();
    let after = shown(&host);
    assert_ne!(before, after);
    host.bpfctl(&line(verb.back)).ok();
    let mut packets = 0;
    for Point { name, passed, became } in points {
        let point = &format!("{name}={passed}*off->return");
        assert!(dies(&mut host, point, verb), "`{}` never came to {point}", verb.line);
        // What was attached goes on without a daemon.
        host.ping(5);
        host.start();
        let now = shown(&host);
        let wanted = match became {
            Became::Nothing => &before,
            Became::Done => &after,
        };
        assert_eq!(now, *wanted, "killed at {point}{}", host.log());
        host.check();
        let counts = |host: &Host| now.contains("x/count  xdp   uplink:xdp").then(|| host.counted("x"));
        let first = counts(&host);
        host.ping(5);
        assert_eq!(counts(&host), first.map(|first| first + 5), "killed at {point}");
        packets += 10;
        assert_eq!(host.counted("a"), packets, "killed at {point}");
        if *became == Became::Done {
            host.bpfctl(&line(verb.back)).ok();
        }
        assert_eq!(shown(&host), before, "put back after {point}");
    }
}

#[test]
fn a_load_with_an_attachment_happens_wholly_or_not_at_all() {
    let verb = Verb { before: &[], line: LOAD, back: "unload x" };
    at_each(&points(Adds, &["pin-app", "build-top", "pin-top", "swap"], &[OLD]), &verb);
}

#[test]
fn a_load_without_an_attachment_happens_wholly_or_not_at_all() {
    at_each(&points(Adds, &["pin-app"], &[]), &Verb { before: &[], line: LOAD_ALONE, back: "unload x" });
}

#[test]
fn an_attach_happens_wholly_or_not_at_all() {
    let verb =
        Verb { before: &[LOAD_ALONE], line: "attach x xdp -i uplink --priority 20", back: "detach x/count@uplink:xdp" };
    at_each(&adding(), &verb);
}

#[test]
fn an_update_happens_wholly_or_not_at_all() {
    let verb = Verb {
        before: &[LOAD],
        line: "update x/count@uplink:xdp --priority 90",
        back: "update x/count@uplink:xdp --priority 20",
    };
    at_each(&adding(), &verb);
}

#[test]
fn a_detach_that_was_begun_is_ended() {
    let verb =
        Verb { before: &[LOAD], line: "detach x/count@uplink:xdp", back: "attach x xdp -i uplink --priority 20" };
    at_each(&points(Removes, &CHAIN, &[OLD]), &verb);
}

#[test]
fn an_unload_that_was_begun_is_ended() {
    let verb = Verb { before: &[LOAD], line: "unload x", back: LOAD };
    at_each(&points(Removes, &CHAIN, &[OLD, "unpin-app"]), &verb);
}

#[test]
fn a_tracepoint_is_attached_and_detached_wholly_or_not_at_all() {
    const TRACE: &str = "load --path TRACER --name t tracepoint sched/sched_switch";
    at_each(&points(Adds, &["pin-app", "attach-link"], &[]), &Verb { before: &[], line: TRACE, back: "unload t" });
    let link = "detach t/on_switch@tracepoint:sched/sched_switch";
    at_each(
        &points(Removes, &[], &["detach-link"]),
        &Verb { before: &[TRACE], line: link, back: "attach t tracepoint" },
    );
}

/// A start that dies while it repairs leaves no more than the first crash did.
#[test]
fn a_repair_that_is_killed_is_repaired() {
    let verb = Verb { before: &[LOAD], line: "update x/count@uplink:xdp --priority 90", back: "" };
    for point in ["repair-verdict-before", "repair-verdict-after", "repair-unpin-top-before", "repair-unpin-top-after"]
    {
        let mut host = host(&verb);
        assert!(dies(&mut host, "step-pin-top-after=return", &verb));
        starts_and_dies(&host, point);
        host.ping(5);
        host.start();
        host.check();
        host.ping(5);
        assert_eq!(["a", "x"].map(|app| host.counted(app)), [10, 10], "killed at {point}");
    }
}

#[test]
fn a_repair_after_a_boot_that_is_killed_is_repaired() {
    let verb = Verb { before: &[LOAD], line: "", back: "" };
    for verb_of_step in ["pin-app", "build-top", "pin-top", "swap"] {
        for side in ["before", "after"] {
            let mut host = host(&verb);
            host.kill();
            host.shell("ip link set uplink xdp off; rm -r /run/case/sys/fs/bpf/bpfd");
            starts_and_dies(&host, &format!("repair-{verb_of_step}-{side}"));
            host.start();
            host.check();
            host.ping(5);
            let killed = format!("killed at repair-{verb_of_step}-{side}");
            assert_eq!(["a", "x"].map(|app| host.counted(app)), [5, 5], "{killed}");
        }
    }
}

#[track_caller]
fn starts_and_dies(host: &Host, point: &str) {
    let point = format!("{point}=return");
    let ended = host.spawn(&[("FAILPOINTS", &point)]).err();
    assert_eq!(ended.and_then(|status| status.signal()), Some(9), "{point}: {ended:?}{}", host.log());
}

/// The control: where there is no such point nothing dies, and that is noticed.
#[test]
fn a_point_that_is_never_reached_is_noticed() {
    let verb = Verb { before: &[], line: LOAD, back: "unload x" };
    let mut host = host(&verb);
    assert!(!dies(&mut host, "step-nosuch-after=return", &verb));
    host.check();
}

/// The control of every `Done`: it is the journal that knows what the kernel already had.
#[test]
fn without_its_journal_a_move_that_was_made_is_forgotten() {
    let verb = Verb { before: &[LOAD], line: "update x/count@uplink:xdp --priority 90", back: "" };
    let mut host = host(&verb);
    let before = shown(&host);
    assert!(dies(&mut host, "step-swap-after=return", &verb));
    forget_the_journal(&host);
    host.start();
    assert_eq!(shown(&host), before);
    host.check();
}

/// SQLite follows `/proc/PID/root` to where it seems to lead, so that the database is opened in another place.
fn forget_the_journal(host: &Host) {
    let elsewhere = tempfile::tempdir().unwrap();
    let lib = host.path("/run/case/var/lib/bpfd");
    for file in ["state.db", "state.db-wal"] {
        fs::copy(lib.join(file), elsewhere.path().join(file)).unwrap();
    }
    let database = rusqlite::Connection::open(elsewhere.path().join("state.db")).unwrap();
    database.execute("DELETE FROM steps", []).unwrap();
    assert_eq!(database.execute("DELETE FROM operations", []).unwrap(), 1);
    // The last connection to close writes the log back.
    database.close().unwrap();
    fs::copy(elsewhere.path().join("state.db"), lib.join("state.db")).unwrap();
    fs::remove_file(lib.join("state.db-wal")).unwrap();
}
