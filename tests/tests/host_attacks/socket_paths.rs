//! Somebody who may write above the sockets' directory, and puts links and directories of his own there while the daemon starts: it serves
//! in a directory of root's, or not at all, and what the links lead to stays as it was.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bpfd_tests::Host;
use rustix::fs::{AtFlags, Gid, Mode, Uid, mkdirat, symlinkat, unlinkat};

/// Somebody.
const UID: u32 = 4711;

#[test]
fn links_that_come_and_go_lead_the_daemon_nowhere() {
    let mut host = Host::without_daemon();
    host.make_group();
    // As /tmp is: nobody may take away what is root's, anybody may be there first.
    host.shell(&format!(
        "mkdir -p /run/case/run /run/case/var/log /run/theirs; chmod 1777 /run/case/run /run/case/var/log; chown {UID} /run/theirs
         echo secret >/run/kept; chmod 600 /run/kept; ln -s /run/kept /run/theirs/bpfd.sock; ln -s /run/kept /run/theirs/audit.jsonl"
    ));
    // The way there is root's alone.
    let places = ["run", "var/log"].map(|at| File::open(host.path(&format!("/run/case/{at}"))).unwrap());
    let ended = AtomicBool::new(false);
    let attack = || {
        rustix::thread::set_thread_groups(&[]).unwrap();
        let gid = Gid::from_raw(UID);
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        let uid = Uid::from_raw(UID);
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        let mut won = 0_u64;
        while !ended.load(Ordering::Relaxed) {
            for at in &places {
                // Each may fail, whenever root was first.
                won += u64::from(mkdirat(at, "bpfd", Mode::from_raw_mode(0o755)).is_ok());
                unlinkat(at, "bpfd", AtFlags::REMOVEDIR).unwrap_or_default();
                won += u64::from(symlinkat("/run/theirs", at, "bpfd").is_ok());
                unlinkat(at, "bpfd", AtFlags::empty()).unwrap_or_default();
            }
        }
        won
    };
    let (won, started) = thread::scope(|scope| {
        let attacker = scope.spawn(attack);
        let mut started = 0;
        for _ in 0..20 {
            match host.tries_to_start() {
                Ok(()) => {
                    started += 1;
                    let owners = host.shell("stat -c '%u %F' /run/case/run/bpfd /run/case/var/log/bpfd");
                    assert_eq!(owners, "0 directory\n0 directory\n");
                    host.stop();
                    host.shell("rm -rf /run/case/run/bpfd /run/case/var/log/bpfd");
                }
                Err(status) => assert_eq!(status.code(), Some(1), "{}", host.log()),
            }
        }
        ended.store(true, Ordering::Relaxed);
        (attacker.join().unwrap(), started)
    });
    assert!(won > 20, "the attacker was there {won} times, in {started} starts");
    assert_eq!(
        host.shell("cat /run/kept; stat -c '%u %a' /run/kept; ls -A /run/theirs"),
        "secret\n0 600\naudit.jsonl\nbpfd.sock\n"
    );
    host.shell("rm -rf /run/case/run/bpfd /run/case/var/log/bpfd");
    host.start();
}

#[test]
fn what_lies_in_the_place_of_a_socket_or_a_log_is_not_followed() {
    let mut host = Host::without_daemon();
    host.shell("mkdir -p /run/case/run/bpfd /run/case/var/log/bpfd; echo secret >/run/kept");
    for at in ["run/bpfd/bpfd.sock", "run/bpfd/bpfd-ro.sock", "var/log/bpfd/audit.jsonl"] {
        host.shell(&format!("ln -sf /run/kept /run/case/{at}"));
        let ended = host.tries_to_start();
        assert!(ended.is_err_and(|status| status.code() == Some(1)), "it starts, and must not: {at}");
        assert!(host.log().contains(at), "{at}{}", host.log());
        host.shell(&format!("rm /run/case/{at}"));
    }
    host.shell("chmod 777 /run/case/var/log/bpfd");
    assert!(host.tries_to_start().is_err());
    assert!(host.log().contains("/run/case/var/log/bpfd`: its mode is 777"), "{}", host.log());
    host.shell("chmod 700 /run/case/var/log/bpfd");
    assert_eq!(host.shell("cat /run/kept"), "secret\n");
    host.start();
}
