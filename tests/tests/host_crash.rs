//! The daemon killed between any two of its writes and steps, for each verb. Whatever the instant: packets go on, the next start
//! repairs, and the host is as before or as asked, by the table of `spec/state.md`.
//!
//! Needs bpfd with its fail points compiled in. A point that a verb never comes to fails the case.
#![expect(clippy::unwrap_used, reason = "the lint exempts test functions, not what they share")]

use std::fs;
use std::os::unix::process::ExitStatusExt;

use bpfd_client::proto::v1::{self as pb, hook::Hook, load_request, program_selector::Selector};
use bpfd_client::{ClientError, request_id};
use bpfd_tests::points::{self, Became, Point, around};
use bpfd_tests::{Host, broken, example};

/// One verb on a host where the counter `a` is attached, and how to take it back.
struct Verb {
    before: &'static [&'static str],
    line: &'static str,
    back: &'static str,
}

/// Which hook of `uplink` programs are attached to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum At {
    Xdp,
    Tc,
}

impl At {
    /// A command, which is written for XDP.
    fn line(self, text: &str) -> String {
        match self {
            Self::Xdp => line(text),
            Self::Tc => {
                let counter = format!("{} --program count", example("tc-counter"));
                let text = text.replace("COUNTER", &counter).replace("uplink:xdp", "uplink:tc-ingress");
                text.replace("xdp -i uplink", "tc -i uplink -d ingress")
            }
        }
    }

    /// Whether `x` is attached, by what is listed.
    fn has_x(self, shown: &str) -> bool {
        let hook = match self {
            Self::Xdp => "uplink:xdp",
            Self::Tc => "uplink:tc-ingress",
        };
        shown.lines().any(|line| line.starts_with("x/count ") && line.contains(hook))
    }
}

const LOAD: &str = "load --path COUNTER --name x xdp -i uplink --priority 20";
const LOAD_ALONE: &str = "load --path COUNTER --name x";
const LOAD_ALONE_TOO: &str = "load --path COUNTER --name y";
const TRACE: &str = "load --path TRACER --name t tracepoint sched/sched_switch";
const UNTRACE: &str = "detach t/on_switch@tracepoint:sched/sched_switch";

fn line(text: &str) -> String {
    text.replace("COUNTER", &example("xdp-counter")).replace("TRACER", &example("tracepoint-count"))
}

/// A host where `a` counts, and what the verb needs is there.
fn host(at: At, verb: &Verb) -> Host {
    let host = Host::new();
    host.bpfctl(&at.line("load --path COUNTER --name a xdp -i uplink --priority 50")).ok();
    verb.before.iter().for_each(|before| drop(host.bpfctl(&at.line(before)).ok()));
    host
}

/// What is loaded and attached where.
fn shown(host: &Host) -> String {
    host.bpfctl("list").ok()
}

/// Starts a daemon that dies at a point, and asks it: false if it did not die.
fn dies(host: &mut Host, point: &str, line: &str) -> bool {
    host.kill();
    host.start_with(&[("FAILPOINTS", point)]);
    let asked = host.bpfctl(line);
    if asked.code == 0 {
        return false;
    }
    assert_eq!((asked.code, host.wait().signal()), (7, Some(9)), "{point}: {asked}");
    true
}

/// Kills the daemon at each point in turn; the host is put back in between.
fn at_each(points: &[Point], verb: &Verb) {
    at_each_of(At::Xdp, points, verb);
}

fn at_each_of(at: At, points: &[Point], verb: &Verb) {
    let mut host = host(at, verb);
    let before = shown(&host);
    let (line, back) = (at.line(verb.line), at.line(verb.back));
    host.bpfctl(&line).ok();
    let after = shown(&host);
    assert_ne!(before, after);
    host.bpfctl(&back).ok();
    let mut packets = 0;
    for Point { name, passed, became } in points {
        let point = &format!("{name}={passed}*off->return");
        assert!(dies(&mut host, point, &line), "`{line}` never came to {point}");
        // The end that the next start writes was missing.
        if ["audit-begin-after", "audit-end-before"].contains(&name.as_str()) {
            assert_eq!(host.audit().unended.len(), 1, "killed at {point}");
        }
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
        // Each operation has one begin and one end, whatever died.
        assert_eq!(host.audit().unended, Vec::<String>::new(), "killed at {point}{}", host.log());
        let counts = |host: &Host| at.has_x(&now).then(|| host.counted("x"));
        let first = counts(&host);
        host.ping(5);
        assert_eq!(counts(&host), first.map(|first| first + 5), "killed at {point}");
        packets += 10;
        assert_eq!(host.counted("a"), packets, "killed at {point}");
        if *became == Became::Done {
            host.bpfctl(&back).ok();
        }
        assert_eq!(shown(&host), before, "put back after {point}");
    }
}

#[test]
fn on_tc_each_verb_happens_wholly_or_not_at_all() {
    let each = |steps: &points::Steps, before: &'static [&'static str], line, back| {
        at_each_of(At::Tc, &steps.points(), &Verb { before, line, back });
    };
    each(&points::TC_LOAD, &[], LOAD, "unload x");
    let (up, down) = ("update x/count@uplink:xdp --priority 20", "update x/count@uplink:xdp --priority 90");
    each(&points::TC_MOVE, &[LOAD], down, up);
    each(&points::TC_UPDATE, &[LOAD], "update x/count@uplink:xdp --priority 30", up);
    each(&points::TC_DETACH, &[LOAD], "detach x/count@uplink:xdp", "attach x xdp -i uplink --priority 20");
    each(&points::TC_UNLOAD, &[LOAD], "unload x", LOAD);
}

#[test]
fn a_load_with_an_attachment_happens_wholly_or_not_at_all() {
    let verb = Verb { before: &[], line: LOAD, back: "unload x" };
    at_each(&points::LOAD.points(), &verb);
}

#[test]
fn a_load_without_an_attachment_happens_wholly_or_not_at_all() {
    at_each(&points::LOAD_ALONE.points(), &Verb { before: &[], line: LOAD_ALONE, back: "unload x" });
}

#[test]
fn an_attach_happens_wholly_or_not_at_all() {
    let verb =
        Verb { before: &[LOAD_ALONE], line: "attach x xdp -i uplink --priority 20", back: "detach x/count@uplink:xdp" };
    at_each(&points::ATTACH.points(), &verb);
}

#[test]
fn an_update_happens_wholly_or_not_at_all() {
    let verb = Verb {
        before: &[LOAD],
        line: "update x/count@uplink:xdp --priority 90",
        back: "update x/count@uplink:xdp --priority 20",
    };
    at_each(&points::UPDATE.points(), &verb);
}

#[test]
fn a_detach_that_was_begun_is_ended() {
    let verb =
        Verb { before: &[LOAD], line: "detach x/count@uplink:xdp", back: "attach x xdp -i uplink --priority 20" };
    at_each(&points::DETACH.points(), &verb);
}

#[test]
fn an_unload_that_was_begun_is_ended() {
    let verb = Verb { before: &[LOAD], line: "unload x", back: LOAD };
    at_each(&points::UNLOAD.points(), &verb);
}

#[test]
fn a_tracepoint_is_attached_and_detached_wholly_or_not_at_all() {
    at_each(&points::TRACE.points(), &Verb { before: &[], line: TRACE, back: "unload t" });
    at_each(&points::UNTRACE.points(), &Verb { before: &[TRACE], line: UNTRACE, back: "attach t tracepoint" });
}

/// One load onto a tracepoint, onto `uplink` and onto `wide`, whose packets are too long for the program: the last swap is refused.
fn refused_at_the_last_step(host: &Host) -> Result<(), ClientError> {
    host.try_ask(async |daemon| {
        let uploaded = daemon.upload(&fs::read(broken("all_kinds")).unwrap()).await?;
        let function = |name: &str| pb::ProgramSelector { selector: Some(Selector::Function(name.to_owned())) };
        let attachment = |function: &str, hook| pb::Attachment {
            function: Some(function.to_owned()),
            hook: Some(pb::Hook { hook: Some(hook) }),
            ..Default::default()
        };
        let xdp = |interface: &str| {
            attachment("xdp_first", Hook::Xdp(pb::XdpHook { netns: None, interface: interface.to_owned() }))
        };
        let switch = pb::TracepointHook { category: "sched".to_owned(), event: "sched_switch".to_owned() };
        let request = pb::LoadRequest {
            request_id: request_id(),
            name: Some("x".to_owned()),
            source: Some(load_request::Source::ObjectSha256(uploaded.sha256)),
            programs: ["xdp_first", "on_switch"].map(function).into(),
            attach: vec![attachment("on_switch", Hook::Tracepoint(switch)), xdp("uplink"), xdp("wide")],
            ..Default::default()
        };
        daemon.load(request, |_| {}).await.map(drop)
    })
}

#[test]
fn a_refusal_that_is_killed_while_it_is_undone_never_happened() {
    let mut host = host(At::Xdp, &Verb { before: &[], line: "", back: "" });
    host.shell("ip link add wide mtu 9000 type veth peer name wider mtu 9000");
    let before = shown(&host);
    // The control: nobody is killed, and it is refused for its packets.
    let refused = format!("{:?}", refused_at_the_last_step(&host).unwrap_err());
    assert!(refused.contains("MTU"), "{refused}");
    assert_eq!(shown(&host), before);
    host.check();
    let mut packets = 0;
    for point in points::UNDONE {
        host.kill();
        host.start_with(&[("FAILPOINTS", &format!("{point}=return"))]);
        let asked = refused_at_the_last_step(&host);
        assert!(asked.is_err(), "{point}");
        assert_eq!(host.wait().signal(), Some(9), "never came to {point}: {asked:?}");
        host.ping(5);
        host.start();
        assert_eq!(shown(&host), before, "killed at {point}{}", host.log());
        host.check();
        host.ping(5);
        packets += 10;
        assert_eq!(host.counted("a"), packets, "killed at {point}");
    }
}

/// A start that dies while it repairs leaves no more than the first crash did.
#[test]
fn a_repair_that_is_killed_is_repaired() {
    let update = Verb { before: &[LOAD], line: "update x/count@uplink:xdp --priority 90", back: "" };
    let untrace = Verb { before: &[LOAD, TRACE], line: UNTRACE, back: "" };
    let unload = Verb { before: &[LOAD, LOAD_ALONE_TOO], line: "unload y", back: "" };
    let unrecord = Verb { before: &[LOAD, TRACE], line: UNTRACE, back: "" };
    for (verb, died_at, steps) in [
        (update, "step-pin-top-after", ["verdict", points::REPAIRED_REMOVALS[0]].as_slice()),
        (untrace, "step-detach-link-before", &points::REPAIRED_REMOVALS[1..2]),
        (unload, "step-unpin-app-before", &points::REPAIRED_REMOVALS[2..3]),
        (unrecord, "step-unrecord-before", &points::REPAIRED_REMOVALS[3..]),
    ] {
        for point in steps.iter().flat_map(|step| around("repair", step)) {
            let mut host = host(At::Xdp, &verb);
            assert!(dies(&mut host, &format!("{died_at}=return"), &line(verb.line)));
            host.starts_and_dies(&point);
            host.ping(5);
            host.start();
            host.check();
            host.ping(5);
            assert_eq!(["a", "x"].map(|app| host.counted(app)), [10, 10], "killed at {point}");
        }
    }
}

#[test]
fn a_repair_after_a_boot_that_is_killed_is_repaired() {
    let verb = Verb { before: &[LOAD, TRACE], line: "", back: "" };
    for point in points::REPAIRED_AFTER_A_BOOT.iter().flat_map(|step| around("repair", step)) {
        let mut host = host(At::Xdp, &verb);
        host.kill();
        host.shell("ip link set uplink xdp off; rm -r /run/case/sys/fs/bpf/bpfd");
        host.starts_and_dies(&point);
        host.start();
        host.check();
        host.ping(5);
        assert_eq!(["a", "x"].map(|app| host.counted(app)), [5, 5], "killed at {point}");
    }
}

/// The control: where there is no such point nothing dies, and that is noticed.
#[test]
fn a_point_that_is_never_reached_is_noticed() {
    let verb = Verb { before: &[], line: LOAD, back: "unload x" };
    let mut host = host(At::Xdp, &verb);
    assert!(!dies(&mut host, "step-nosuch-after=return", &line(verb.line)));
    host.check();
}

/// The control of every `Done`: it is the journal that knows what the kernel already had.
#[test]
fn without_its_journal_a_move_that_was_made_is_forgotten() {
    let verb = Verb { before: &[LOAD], line: "update x/count@uplink:xdp --priority 90", back: "" };
    let mut host = host(At::Xdp, &verb);
    let before = shown(&host);
    assert!(dies(&mut host, "step-swap-after=return", &line(verb.line)));
    forget_the_journal(&host);
    host.start();
    assert_eq!(shown(&host), before);
    assert_eq!(state(&host), (pb::DaemonState::Ready, vec![]));
    host.check();
}

fn state(host: &Host) -> (pb::DaemonState, Vec<String>) {
    let info = host.ask(async |daemon| daemon.info(pb::GetInfoRequest {}).await);
    (info.state(), info.causes)
}

#[test]
fn a_start_says_how_a_change_ended_that_was_broken_off() {
    let verb = Verb { before: &[LOAD], line: "update x/count@uplink:xdp --priority 90", back: "" };
    let mut host = host(At::Xdp, &verb);
    assert_eq!(state(&host), (pb::DaemonState::Ready, vec![]));
    for (point, how) in [("step-swap-before", "undone"), ("step-swap-after", "carried out")] {
        assert!(dies(&mut host, &format!("{point}=return"), &line(verb.line)));
        host.start();
        let told = format!("a change that a crash interrupted was {how}");
        assert_eq!(state(&host), (pb::DaemonState::Ready, vec![told]));
    }
    host.stop();
    host.start();
    assert_eq!(state(&host), (pb::DaemonState::Ready, vec![]));
}

/// SQLite follows `/proc/PID/root` to where it seems to lead, so that the database is opened in another place.
fn forget_the_journal(host: &Host) {
    let elsewhere = tempfile::tempdir().unwrap();
    let lib = host.path("/run/case/var/lib/bpfd");
    for file in ["state.db", "state.db-wal"] {
        fs::copy(lib.join(file), elsewhere.path().join(file)).unwrap();
    }
    let database = rusqlite::Connection::open(elsewhere.path().join("state.db")).unwrap();
    assert_eq!(database.execute("DELETE FROM operations", []).unwrap(), 1);
    // The last connection to close writes the log back.
    database.close().unwrap();
    fs::copy(elsewhere.path().join("state.db"), lib.join("state.db")).unwrap();
    fs::remove_file(lib.join("state.db-wal")).unwrap();
}
