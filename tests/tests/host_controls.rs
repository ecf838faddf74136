//! Controls of the harness itself: a case in which something is wrong must fail.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bpfd_tests::{Host, example};

/// Whether this fails, and which words it fails with.
fn failure<T>(case: impl FnOnce() -> T) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(|| drop(case()))).err()?;
    panic.downcast_ref::<String>().cloned()
}

#[test]
fn a_case_that_leaves_a_program_on_an_interface_fails() {
    let host = Host::new();
    host.shell(&format!("ip link set uplink xdpgeneric obj {} sec xdp", example("xdp-pass")));
    let failed = failure(|| host);
    assert!(failed.as_ref().is_some_and(|words| words.contains("left on an interface")), "{failed:?}");
}

#[test]
fn a_case_whose_daemon_was_killed_by_somebody_else_fails() {
    let host = Host::new();
    host.shell(&format!("kill -9 {}", host.pid()));
    assert!(failure(|| host).is_some());
}

#[test]
fn a_pin_that_bpfd_did_not_make_is_counted() {
    let host = Host::new();
    host.bpfctl(&format!("load --path {} --name a", example("xdp-pass"))).ok();
    host.shell(&format!("bpftool prog load {} /run/case/sys/fs/bpf/more", example("xdp-pass")));
    let failed = failure(|| host.check());
    assert!(failed.as_ref().is_some_and(|words| words.contains("K8")), "{failed:?}");
    host.shell("rm /run/case/sys/fs/bpf/more");
    host.check();
}

#[test]
fn a_refusal_that_changes_something_is_noticed() {
    let host = Host::new();
    let failed = failure(|| host.unchanged(|| host.bpfctl(&format!("load --path {}", example("xdp-pass")))));
    assert!(failed.as_ref().is_some_and(|words| words.contains("changed by")), "{failed:?}");
}

#[test]
fn packets_that_do_not_come_back_are_noticed() {
    let host = Host::new();
    host.shell("ip addr del 10.9.0.1/24 dev uplink");
    let failed = failure(|| host.ping(2));
    assert!(failed.as_ref().is_some_and(|words| words.contains("2 packets transmitted, 0 received")), "{failed:?}");
}
