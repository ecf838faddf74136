//! What bpfd stands on fails: a full disk, a damaged database, events of interfaces that are not heard any more. Nothing is detached by it,
//! what removes goes on, and `doctor` says so.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use bpfd_tests::{Host, example};
use insta::assert_snapshot;

#[track_caller]
fn load(host: &Host, name: &str, options: &str) {
    let object = example("xdp-counter");
    host.bpfctl(&format!("load --path {object} --name {name} {options}")).ok();
}

/// The records of the audit log.
fn records(host: &Host) -> Vec<String> {
    let text = std::fs::read_to_string(host.path("/run/case/var/log/bpfd/audit.jsonl")).unwrap();
    let kind =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["record"].as_str().unwrap().to_owned();
    text.lines().map(kind).collect()
}

/// Writes until the file system has no room.
fn fill(host: &Host, directory: &str) {
    host.shell(&format!("dd if=/dev/zero of={directory}/ballast-$(date +%s%N) bs=4k 2>/dev/null || true"));
}

#[test]
fn on_a_full_disk_nothing_is_added_and_removals_go_on() {
    let mut host = Host::without_daemon();
    let (lib, log) = ("/run/case/var/lib/bpfd", "/run/case/var/log/bpfd");
    for directory in [lib, log] {
        host.shell(&format!("mkdir -p -m 0700 {directory}; mount -t tmpfs -o size=24m,mode=0700 none {directory}"));
    }
    host.start();
    for name in ["a", "b", "c", "d", "e", "f"] {
        load(&host, name, "xdp -i uplink");
    }
    fill(&host, lib);
    fill(&host, log);
    let object = example("xdp-counter");
    let refused = host.bpfctl(&format!("load --path {object} --name x xdp -i uplink")).refused(1);
    assert!(refused.contains("No space left on device"), "{refused}");
    host.bpfctl("detach a/count@uplink:xdp").ok();
    // The room that was kept is used now: nothing is added until there is as much again.
    assert_snapshot!(host.refuses(1, "attach a xdp -i uplink"), @"
    error: cannot attach `a` to `uplink`
    cause: the file system of the state database is full: nothing is added, and removals use the room that was kept for them: No space left on device (os error 28)
    hint: nothing was changed; is the disk of /var/lib/bpfd full? `df /var/lib/bpfd`
    ");
    assert_eq!(host.bpfctl("doctor").code, 12);
    let doctor = host.bpfctl("doctor").stdout;
    assert!(
        doctor.contains("the file system of `/run/case/var/lib/bpfd`, with the state database, is full"),
        "{doctor}"
    );
    host.bpfctl("unload b").ok();

    // Others take what was given back: there is more. In the audit log there is not: records of removals are counted.
    fill(&host, lib);
    host.shell(&format!(": >{log}/reserve"));
    fill(&host, log);
    for name in ["d", "e", "f"] {
        host.bpfctl(&format!("unload {name}")).ok();
    }
    assert!(host.log().contains("a removal goes on without its record"), "{}", host.log());
    // A count is short: it may find room where a record did not.
    let lost = |host: &Host| records(host).iter().filter(|record| *record == "lost").count();
    let before = lost(&host);
    let free = format!("rm {lib}/ballast-* {log}/ballast-*");
    host.shell(&free);
    host.bpfctl("attach a xdp -i uplink").ok();
    assert!(lost(&host) > before, "{:?}", records(&host));
    assert_eq!(host.bpfctl("doctor").code, 0, "{}", host.bpfctl("doctor").stdout);

    // A start finds no room either.
    fill(&host, lib);
    fill(&host, log);
    host.kill();
    host.start();
    assert_eq!(host.items("list links").len(), 2, "those of a and c");
    host.bpfctl("unload c").ok();
    host.bpfctl("unload a").ok();
    host.shell(&free);
    host.stop();
    host.shell(&format!("umount {lib}; umount {log}"));
}

#[test]
fn a_damaged_database_stops_the_start_and_takes_nothing_off() {
    let mut host = Host::new();
    for name in ["a", "b"] {
        load(&host, name, "xdp -i uplink");
    }
    let lib = "/run/case/var/lib/bpfd";
    let before = host.pinned();
    host.stop();
    // What is in its log only is not damaged with it.
    let elsewhere = tempfile::tempdir().unwrap();
    for file in ["state.db", "state.db-wal"] {
        // SQLite removes its log when it closes a database in peace.
        let log = std::fs::read(host.path(&format!("{lib}/{file}"))).unwrap_or_default();
        std::fs::write(elsewhere.path().join(file), log).unwrap();
    }
    let database = rusqlite::Connection::open(elsewhere.path().join("state.db")).unwrap();
    database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(database);
    let whole = std::fs::read(elsewhere.path().join("state.db")).unwrap();
    host.shell(&format!("rm -f {lib}/state.db-wal {lib}/state.db-shm"));
    for (what, at) in [("its first page", 0), ("another page", 4096)] {
        let mut damaged = whole.clone();
        damaged[at..at + 512].fill(0xa5);
        std::fs::write(host.path(&format!("{lib}/state.db")), damaged).unwrap();
        let ended = host.spawn(&[]).err().unwrap_or_else(|| panic!("{what}: it started"));
        assert_eq!(ended.code(), Some(1), "{what}{}", host.log());
        assert!(host.log().contains("the state database is damaged"), "{what}{}", host.log());
        assert!(host.log().contains("move `state.db` and `state.db-wal` away"), "{what}{}", host.log());
        assert_eq!(host.pinned(), before, "{what}");
    }
    host.shell(&format!("mv {lib}/state.db {lib}/damaged; rm -f {lib}/state.db-wal"));
    host.start();
    assert!(host.bpfctl("list links").stderr.contains("RECOVERED"));
    assert_eq!(host.items("list links").len(), 2);
    host.bpfctl("state adopt").ok();
    host.check();
}

#[test]
fn a_daemon_that_does_not_hear_of_interfaces_says_so() {
    let mut host = Host::without_daemon();
    for (point, what) in [("watch", ""), ("interfaces-watch", " for patterns of programs.d")] {
        host.start_with(&[("FAILPOINTS", &format!("{point}-fails=return"))]);
        let shown = host.await_output("version", "degraded");
        let cause = format!("interfaces are not watched any more{what}: a test asked for it");
        assert!(shown.stdout.contains(&cause), "{shown}");
        let doctor = host.bpfctl("doctor");
        assert_eq!(doctor.code, 12, "{doctor}");
        assert!(doctor.stdout.contains("restart bpfd: nothing is detached by that"), "{doctor}");
        host.stop();
    }
    host.start_with(&[("FAILPOINTS", "watch-fails=return")]);
    load(&host, "a", "xdp -i uplink");
    host.bpfctl("unload a").ok();
    host.kill();
    host.start();
    host.check();
}
