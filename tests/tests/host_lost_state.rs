//! A database that is lost, emptied, restored or another host's takes no program off: what runs is adopted, and an administrator decides.
//! Each case loses the state of a daemon that runs, and compares what runs and what is listed with what was before.
//!
//! Long because each way to lose the state is a case, and all say it in the same words.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the lints exempt test functions, not what they share"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use bpfd_client::proto::v1 as pb;
use bpfd_tests::{Census, Host, example};
use insta::assert_snapshot;
use serde_json::Value;

const PINS: &str = "/run/case/sys/fs/bpf/bpfd/v1";
const LIB: &str = "/run/case/var/lib/bpfd";

/// The counters c, b and a on `uplink`, one that waits for its interface, and a tracepoint.
fn busy() -> Host {
    let host = Host::with_counters();
    let (counter, tracer) = (example("xdp-counter"), example("tracepoint-count"));
    for line in [
        format!("load --path {counter} --name w --label team=edge xdp -i later --priority 7 --when-present"),
        format!("load --path {tracer} --name t tracepoint sched/sched_switch"),
    ] {
        host.bpfctl(&line).ok();
    }
    host
}

/// The files of the database of a daemon that does not run.
fn kept(host: &Host) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = ["state.db", "state.db-wal"].map(|file| host.path(LIB).join(file)).into_iter();
    files
        .filter(|file| file.exists())
        .map(|file| (PathBuf::from(file.file_name().unwrap()), fs::read(file).unwrap()))
        .collect()
}

/// Puts them in the place of what is there.
fn restore(host: &Host, kept: &BTreeMap<PathBuf, Vec<u8>>) {
    host.shell(LOSE);
    kept.iter().for_each(|(file, bytes)| fs::write(host.path(LIB).join(file), bytes).unwrap());
}

const LOSE: &str = "rm /run/case/var/lib/bpfd/state.db*";

/// What runs: the numbers of programs and links that are pinned. Records may be written again.
fn runs(host: &Host) -> Census {
    Census { maps: BTreeSet::new(), ..host.pinned() }
}

/// What is listed, and what the chain of `uplink` is.
fn shown(host: &Host) -> [Vec<Value>; 3] {
    ["list apps", "list links", "chain show uplink"].map(|line| host.items(line))
}

/// Each counter on `uplink` counts each packet, and the tracepoint goes on.
#[track_caller]
fn counts(host: &Host) {
    // One of them counts 1 a packet, the others 10 and 100.
    let counted = || [("a", 1), ("b", 10), ("c", 100)].map(|(app, step)| host.counted(app) / step);
    let (before, switches) = (counted(), host.sum("t", "switches"));
    host.ping(10);
    assert_eq!(counted(), before.map(|packets| packets + 10));
    assert!(host.sum("t", "switches") > switches);
}

fn state(host: &Host) -> pb::GetStateResponse {
    host.ask(async |daemon| daemon.state(pb::GetStateRequest {}).await)
}

/// What differs, as `only-runs app a`.
fn differences(host: &Host) -> BTreeSet<String> {
    let differences = state(host).differences.into_iter();
    let side = |side: pb::StateSide| side.as_str_name().replace("STATE_SIDE_", "").to_ascii_lowercase();
    differences.map(|it| format!("{} {} {}", side(it.side()), it.thing, it.name)).collect()
}

fn texts(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// The daemon is RECOVERED, and says so wherever somebody looks.
#[track_caller]
fn recovered(host: &Host, cause: &str) {
    let info = host.ask(async |daemon| daemon.info(pb::GetInfoRequest {}).await);
    assert_eq!((info.state(), info.causes[0].as_str()), (pb::DaemonState::Recovered, cause));
    let told = state(host);
    assert_eq!((told.state(), told.cause.as_str()), (pb::DaemonState::Recovered, cause));
    let doctor = host.bpfctl("doctor");
    assert!(doctor.code == 12 && doctor.stdout.contains(&format!("RECOVERED: {cause}")), "{doctor}");
    for line in ["list", "chain show uplink"] {
        let said = host.bpfctl(line);
        assert!(said.code == 0 && said.stderr.contains("bpfd is RECOVERED"), "{said}");
    }
}

#[track_caller]
fn ready(host: &Host) {
    let info = host.ask(async |daemon| daemon.info(pb::GetInfoRequest {}).await);
    assert_eq!((info.state(), info.causes), (pb::DaemonState::Ready, vec![]));
    assert_eq!(state(host).state(), pb::DaemonState::Ready);
    host.check();
}

/// Starts after the loss: all runs as before, through another start too; then what runs is adopted, which changes nothing.
#[track_caller]
fn goes_on(host: &mut Host, before: &(Census, [Vec<Value>; 3]), cause: &str) {
    for _ in 0..2 {
        host.start();
        assert_eq!(runs(host), before.0, "{}", host.log());
        assert_eq!(shown(host), before.1, "{}", host.log());
        counts(host);
        recovered(host, cause);
        host.kill();
    }
    host.start();
    host.bpfctl("state adopt").ok();
    ready(host);
    assert_eq!((runs(host), shown(host)), *before, "{}", host.log());
    host.stop();
    host.start();
    ready(host);
    assert_eq!((runs(host), shown(host)), *before, "{}", host.log());
    counts(host);
}

fn before(host: &Host) -> (Census, [Vec<Value>; 3]) {
    (runs(host), shown(host))
}

const ANOTHER: &str = "the pins belonged to another database";

const INCOMPLETE: &str = "nothing says which database the pins belong to, and this one lacks some of what is pinned";

const ALL: [&str; 10] = [
    "only_runs app a",
    "only_runs app b",
    "only_runs app c",
    "only_runs app t",
    "only_runs app w",
    "only_runs link a/count@uplink:xdp",
    "only_runs link b/count@uplink:xdp",
    "only_runs link c/count@uplink:xdp",
    "only_runs link t/on_switch@tracepoint:sched/sched_switch",
    "only_runs link w/count@later:xdp",
];

#[test]
fn without_its_database_everything_runs_on() {
    let mut host = busy();
    let before = before(&host);
    host.stop();
    host.shell(LOSE);
    host.start();
    assert_eq!(differences(&host), texts(&ALL));
    host.stop();
    goes_on(&mut host, &before, ANOTHER);
}

#[test]
fn without_its_database_and_the_state_map_everything_runs_on() {
    let mut host = busy();
    let before = before(&host);
    host.kill();
    host.shell(&format!("{LOSE} {PINS}/state"));
    host.start();
    assert_eq!(differences(&host), texts(&ALL));
    host.kill();
    host.shell(&format!("rm {PINS}/state"));
    goes_on(&mut host, &before, INCOMPLETE);
}

#[test]
fn with_a_database_of_before_and_no_state_map_everything_runs_on() {
    let mut host = busy();
    host.stop();
    let kept = kept(&host);
    host.start();
    // Of a link that both know, only its record tells that the database is of before.
    host.bpfctl("update a/count@uplink:xdp --priority 5").ok();
    let before = before(&host);
    host.stop();
    restore(&host, &kept);
    host.shell(&format!("rm {PINS}/state"));
    host.start();
    assert_eq!(differences(&host), texts(&["differs link a/count@uplink:xdp"]));
    host.stop();
    goes_on(&mut host, &before, INCOMPLETE);
}

#[test]
fn without_the_state_map_a_whole_database_is_taken_as_it_is() {
    let mut host = busy();
    let before = before(&host);
    host.kill();
    host.shell(&format!("rm {PINS}/state"));
    host.start();
    ready(&host);
    assert_eq!((runs(&host), shown(&host)), before, "{}", host.log());
    counts(&host);
    // From now on that is known, whatever is lost.
    host.stop();
    host.shell(LOSE);
    goes_on(&mut host, &before, ANOTHER);
}

#[test]
fn with_an_empty_database_everything_runs_on() {
    let mut host = busy();
    let before = before(&host);
    host.kill();
    host.shell(&format!(": >{LIB}/state.db"));
    goes_on(&mut host, &before, ANOTHER);
}

#[test]
fn with_a_database_of_before_everything_runs_on() {
    let mut host = busy();
    host.bpfctl(&format!("load --path {} --name gone xdp -i uplink --priority 1", example("xdp-counter"))).ok();
    host.stop();
    let kept = kept(&host);
    host.start();
    host.bpfctl("unload gone").ok();
    host.bpfctl("update a/count@uplink:xdp --priority 5").ok();
    host.counter("n", 60, 1);
    let before = before(&host);
    host.stop();
    restore(&host, &kept);
    host.start();
    let expected = [
        "differs link a/count@uplink:xdp",
        "only_in_database app gone",
        "only_in_database link gone/count@uplink:xdp",
        "only_runs app n",
        "only_runs link n/count@uplink:xdp",
    ];
    assert_eq!(differences(&host), texts(&expected));
    host.stop();
    goes_on(&mut host, &before, "the database is older than the pins were: it lacks the last 3 changes");
}

#[test]
fn without_the_end_of_its_database_everything_runs_on() {
    let mut host = busy();
    // A database of this size is in its log alone.
    let before = before(&host);
    host.kill();
    let log = host.path(LIB).join("state.db-wal");
    assert!(fs::metadata(&log).unwrap().len() > 0);
    fs::remove_file(log).unwrap();
    goes_on(&mut host, &before, ANOTHER);
}

#[test]
fn with_the_database_of_another_host_everything_runs_on() {
    let mut other = Host::new();
    other.counter("a", 30, 1);
    other.counter("z", 40, 1);
    other.stop();
    let foreign = kept(&other);
    let mut host = busy();
    let before = before(&host);
    host.stop();
    restore(&host, &foreign);
    host.start();
    let kept = ["app a", "app z", "link a/count@uplink:xdp", "link z/count@uplink:xdp"];
    let expected = texts(&ALL).into_iter().chain(kept.map(|kept| format!("only_in_database {kept}")));
    assert_eq!(differences(&host), expected.collect());
    host.stop();
    goes_on(&mut host, &before, ANOTHER);
    other.start();
}

/// What `docs/operations.md` says that `bpfctl state show` prints on such a host.
fn on_the_page() -> String {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md")).unwrap();
    let (_, block) = page.split_once("$ bpfctl state show\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    block.trim_end().lines().map(|line| format!("{}\n", line.strip_prefix("   ").unwrap_or_default())).collect()
}

#[test]
fn what_is_discarded_goes_and_what_the_database_had_comes_back() {
    let mut host = busy();
    host.bpfctl(&format!("load --path {} --name gone xdp -i uplink --priority 1", example("xdp-counter"))).ok();
    host.stop();
    let kept = kept(&host);
    host.start();
    let before = shown(&host);
    host.bpfctl("unload gone").ok();
    host.bpfctl("update a/count@uplink:xdp --priority 5").ok();
    host.counter("n", 60, 1);
    host.stop();
    restore(&host, &kept);
    host.start();
    assert_eq!(host.bpfctl("state show").ok(), on_the_page());
    // Who may not, and who did not say that programs may go, changes nothing.
    assert_snapshot!(host.refuses(2, "state discard"), @"
    removes app n
    removes link n/count@uplink:xdp
    error: did not discard the state
    cause: programs would be removed, and there is no terminal to ask on
    hint: give --yes; `bpfctl state show` shows all that differs
    ");
    let (ran, links) = (runs(&host), host.items("list links"));
    host.bpfctl("state discard --yes").ok();
    ready(&host);
    assert_ne!(runs(&host), ran);
    assert_ne!(host.items("list links"), links);
    let names = |items: &[Value]| -> Vec<String> { items.iter().map(|item| item["name"].to_string()).collect() };
    assert_eq!(names(&host.items("list links")), names(&before[1]));
    assert_eq!(host.items("chain show uplink")[0]["members"].as_array().unwrap().len(), 4);
    host.ping(10);
    assert_eq!(host.counted("gone"), 10);
    host.stop();
    host.start();
    ready(&host);
    let audit = fs::read_to_string(host.path("/run/case/var/log/bpfd/audit.jsonl")).unwrap();
    let decided: Vec<&str> = audit.lines().filter(|line| line.contains("discard the state")).collect();
    assert_eq!(decided.len(), 1, "{audit}");
    assert!(
        decided[0].contains("remove app `n`") && decided[0].contains("remove link `n/count@uplink:xdp`"),
        "{decided:?}"
    );
}

#[test]
fn without_a_database_to_go_back_to_everything_is_discarded() {
    let mut host = busy();
    host.kill();
    host.shell(LOSE);
    host.start();
    host.bpfctl("state discard --yes").ok();
    ready(&host);
    assert_eq!(host.items("list apps"), Vec::<Value>::new());
    assert_eq!(runs(&host), Census::default());
    assert!(!host.shell("ip link show uplink").contains("xdp"));
    assert_snapshot!(host.bpfctl("state discard").stable(), @"
    $ bpfctl state discard
    --- stderr
    nothing to decide: the database is the one that the pins belong to
    ");
}

#[test]
fn a_recovered_daemon_goes_on_to_make_changes() {
    let mut host = busy();
    host.stop();
    host.shell(LOSE);
    host.start();
    host.counter("n", 60, 1000);
    host.bpfctl("detach b/count@uplink:xdp").ok();
    host.bpfctl("update a/count@uplink:xdp --priority 1").ok();
    host.bpfctl("unload t").ok();
    host.shell("ip link add later type veth peer name other");
    host.await_output("list links -i later", "ATTACHED");
    let before = before(&host);
    host.kill();
    host.start();
    assert_eq!((runs(&host), shown(&host)), before, "{}", host.log());
    recovered(&host, ANOTHER);
    host.ping(10);
    assert_eq!((host.counted("n"), host.counted("b")), (10_000, 0));
    host.bpfctl("state adopt").ok();
    ready(&host);
    assert_eq!((runs(&host), shown(&host)), before, "{}", host.log());
    host.shell("ip link del later");
    host.check_settled();
}

#[test]
fn what_has_no_readable_record_is_left_until_that_is_decided() {
    let mut host = busy();
    let uid = host.items("list links -i uplink")[1]["uid"].as_str().unwrap().to_owned();
    let before = runs(&host);
    host.stop();
    host.shell(&format!("rm {LIB}/state.db* {PINS}/record/{uid}"));
    for _ in 0..2 {
        host.start();
        assert_eq!(runs(&host), before, "{}", host.log());
        host.ping(10);
        recovered(&host, ANOTHER);
        assert!(differences(&host).contains(&format!("unrecorded link {uid}")), "{:?}", differences(&host));
        host.kill();
    }
    host.start();
    // Its chain is left as it is.
    let refused = host.bpfctl("detach a/count@uplink:xdp").refused(8);
    assert!(refused.contains("which has no row and no readable record"), "{refused}");
    let refused = host.bpfctl("state adopt").refused(2);
    assert!(refused.starts_with("removes link UID\nerror: did not adopt the state\n"), "{refused}");
    assert_eq!(runs(&host), before);
    let counted = || ["a", "b"].map(|app| host.counted(app));
    let [a, b] = counted();
    host.bpfctl("state adopt --yes").ok();
    ready(&host);
    host.ping(10);
    assert_eq!(counted(), [a + 10, b]);
}

#[test]
fn an_app_whose_object_is_lost_too_runs_on_and_that_is_said() {
    let mut host = busy();
    let before = before(&host);
    host.stop();
    host.shell(&format!("rm {LIB}/state.db* {LIB}/objects/*"));
    host.start();
    assert_eq!((runs(&host), shown(&host)), before, "{}", host.log());
    let lost: Vec<String> = differences(&host).into_iter().filter(|it| it.starts_with("object_lost")).collect();
    assert_eq!(lost, ["a", "b", "c", "t", "w"].map(|app| format!("object_lost app {app}")));
    counts(&host);
    host.bpfctl("state adopt").ok();
    ready(&host);
    counts(&host);
}

#[test]
fn a_daemon_that_dies_while_it_adopts_adopts_the_next_time() {
    let mut host = busy();
    let before = before(&host);
    host.stop();
    host.shell(LOSE);
    for side in ["before", "after"] {
        host.starts_and_dies(&format!("repair-lost-{side}"));
    }
    goes_on(&mut host, &before, ANOTHER);
}

#[test]
fn a_start_that_adopts_does_not_attach_what_somebody_took_off() {
    let mut host = busy();
    host.stop();
    host.shell("ip link set uplink xdp off");
    host.shell(LOSE);
    let before = runs(&host);
    host.start();
    let now = runs(&host);
    // News of the interface may come at any time, and what runs nowhere and is explained by a row is swept then.
    assert!(now.programs.is_subset(&before.programs) && now.links == before.links, "{}", host.log());
    assert!(!host.shell("ip link show uplink").contains("xdp"));
    host.bpfctl("state adopt").ok();
    ready(&host);
    counts(&host);
}

#[test]
fn a_state_map_that_cannot_be_read_takes_no_program_off() {
    let mut host = busy();
    let before = before(&host);
    host.stop();
    host.shell(LOSE);
    let app = host.shell(&format!("cd {PINS}; rm state; set -- */record; ln $1 state; echo $1"));
    assert!(app.contains("/record"), "{app}");
    goes_on(&mut host, &before, "what says which database the pins belong to cannot be read");
}

#[test]
fn an_unreadable_row_stops_the_start_and_takes_nothing_off() {
    let mut host = busy();
    let before = before(&host);
    host.kill();
    let database = host.path(LIB).join("state.db");
    for (what, damage) in [
        ("an app", "UPDATE apps SET body = json_set(body, '$.owner', 'nobody') WHERE name = 'b'"),
        ("a link", "UPDATE links SET body = json_remove(body, '$.placement')"),
    ] {
        let kept = kept(&host);
        // SQLite follows links in a path, and would leave the case by /proc/PID/root.
        let copies = tempfile::tempdir().unwrap();
        kept.iter().for_each(|(file, bytes)| fs::write(copies.path().join(file), bytes).unwrap());
        let db = rusqlite::Connection::open(copies.path().join("state.db")).unwrap();
        assert!(db.execute(damage, []).unwrap() > 0, "{what}");
        db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        drop(db);
        host.shell(LOSE);
        fs::copy(copies.path().join("state.db"), &database).unwrap();
        let ended = host.spawn(&[]).err();
        assert_eq!(ended.and_then(|status| status.code()), Some(1), "{what}{}", host.log());
        let told = format!("the state database holds a row that cannot be read: {what}; move `state.db` and");
        assert!(host.log().contains(&told), "{what}{}", host.log());
        assert_eq!(runs(&host), before.0, "{what}{}", host.log());
        restore(&host, &kept);
    }
    // As it says.
    host.shell(&format!("cd {LIB}; mkdir away; mv state.db* away"));
    goes_on(&mut host, &before, ANOTHER);
}

#[test]
fn a_database_without_a_difference_is_taken_as_it_is() {
    let mut host = busy();
    host.stop();
    let kept = kept(&host);
    host.start();
    host.bpfctl("update a/count@uplink:xdp --priority 5").ok();
    host.counter("n", 60, 1);
    host.bpfctl("unload --all").ok();
    host.stop();
    restore(&host, &kept);
    host.shell(&format!("rm -r {PINS}"));
    // No map and no pins: as after a boot.
    host.start();
    ready(&host);
    counts(&host);
    host.bpfctl("unload --all").ok();
    host.stop();
    host.shell(LOSE);
    // A map and no pins: nothing is to be decided.
    host.start();
    ready(&host);
    assert_eq!(host.items("list apps"), Vec::<Value>::new());
}

#[test]
fn only_root_decides() {
    let mut host = Host::without_daemon();
    host.make_group();
    host.start();
    host.counter("a", 50, 1);
    host.stop();
    host.shell(LOSE);
    host.start();
    let before = before(&host);
    for verb in ["adopt", "discard --yes"] {
        let refused = host.bpfctl_as_member(&format!("state {verb}")).refused(4);
        assert!(refused.contains("only root decides about a state that was lost"), "{refused}");
    }
    assert!(host.bpfctl_as_viewer("state show").stdout.contains("only runs"));
    assert_eq!((runs(&host), shown(&host)), before);
    recovered(&host, ANOTHER);
    host.bpfctl("state adopt").ok();
    ready(&host);
}
