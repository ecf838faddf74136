//! What `bpfctl` exits with, one case a code, on the built daemon (docs/cli.md). Two codes are elsewhere: 6 needs a registry
//! (`host_bad_images/contents.rs`), and no kernel lacks what 11 is about on every host (`bpfctl/tests/daemon.rs` has its reasons).

use std::fs;

use bpfd_tests::{Host, broken, example};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn each_failure_has_the_code_that_is_documented() {
    let mut host = Host::without_daemon();
    host.make_group();
    host.start();
    let object = example("xdp-counter");
    fs::write(host.path("/run/text.o"), "no object").unwrap();
    let load = format!("load --path {object} --name a xdp -i uplink");

    assert_eq!(host.bpfctl("list").code, 0);
    host.refuses(1, "load --path /run/text.o");
    host.refuses(2, "list links --sort colour");
    host.refuses(3, "get app a");
    assert_eq!(host.unchanged(|| host.bpfctl_as_member(&load)).code, 4);
    host.refuses(5, &format!("load --path {} --program direct xdp -i uplink", broken("rejected")));
    host.refuses(7, "list --socket /run/nothing.sock");
    host.refuses(9, "image pull 127.0.0.1:1/team/app:1");
    assert_eq!(host.bpfctl("doctor").code, 0);

    // What is there is no failure, and no conflict before it is.
    host.bpfctl(&load).ok();
    assert_eq!(host.bpfctl("get app a").code, 0);
    host.refuses(8, &load);

    host.shell("ip link set uplink xdp off");
    assert_eq!(host.bpfctl("doctor").code, 12);
    host.bpfctl("unload a").ok();
}

#[test]
fn a_daemon_that_hangs_is_code_10() {
    let host = Host::new();
    let daemon = Pid::from_raw(i32::try_from(host.pid()).unwrap()).unwrap();
    kill_process(daemon, Signal::STOP).unwrap();
    let hung = host.bpfctl("list --timeout 1");
    kill_process(daemon, Signal::CONT).unwrap();
    assert_eq!(hung.code, 10, "{hung}");
    assert_eq!(host.bpfctl("list --timeout 30").code, 0);
}
