//! A daemon without a capability that it needs: it says which, and does not take the kernel's refusal for the kernel's word.
//!
//! CAP_SYS_ADMIN counts as each of the others (capable() and its kin, `include/linux/capability.h`), so it is taken away too.
#![expect(clippy::unwrap_used, reason = "the lints exempt test functions, not what they share")]

use bpfd_tests::Host;
use insta::assert_snapshot;

/// A host on which a daemon ran: the bpffs is mounted, which needs CAP_SYS_ADMIN.
fn mounted() -> Host {
    let mut host = Host::new();
    host.stop();
    host
}

/// Why a daemon without these does not start.
#[track_caller]
fn refused(host: &Host, capabilities: &[&str]) -> String {
    let status = host.spawn_without(capabilities).map(drop).unwrap_err();
    assert_eq!(status.code(), Some(1), "{}", host.log());
    let log = host.log();
    let said: Vec<&str> = log.lines().filter_map(|line| Some(line.split_once(" ERROR ")?.1)).collect();
    said.join("\n")
}

#[test]
fn without_a_capability_the_daemon_does_not_start_and_names_it() {
    let host = mounted();
    assert_snapshot!(refused(&host, &["sys_admin", "bpf"]), @"cannot open the pins or probe the kernel: cannot find out whether this kernel supports freplace, because bpfd lacks CAP_BPF");
    assert_snapshot!(refused(&host, &["sys_admin", "net_admin"]), @"cannot open the pins or probe the kernel: cannot find out whether this kernel supports freplace, because bpfd lacks CAP_NET_ADMIN");
    // The verifier says EACCES, where the others' answer is EPERM.
    assert_snapshot!(refused(&host, &["sys_admin", "perfmon"]), @"cannot open the pins or probe the kernel: cannot find out whether this kernel supports freplace, because bpfd lacks CAP_PERFMON");
    assert_snapshot!(refused(&host, &["sys_admin", "bpf", "perfmon"]), @"cannot open the pins or probe the kernel: cannot find out whether this kernel supports freplace, because bpfd lacks CAP_BPF, CAP_PERFMON");
    assert_snapshot!(refused(&host, &["sys_admin", "bpf", "perfmon", "net_admin"]), @"cannot open the pins or probe the kernel: cannot find out whether this kernel supports freplace, because bpfd lacks CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN");
    // The control: CAP_SYS_ADMIN is no part of the try.
    drop(host.spawn_without(&["sys_admin"]).unwrap());
}

#[test]
fn without_cap_perfmon_a_kernel_that_forbids_sharing_is_not_believed() {
    let mut host = Host::new();
    if host.shares() {
        println!("skipped: this kernel does not forbid sharing");
        return;
    }
    host.stop();
    assert_snapshot!(refused(&host, &["perfmon"]), @"cannot open the pins or probe the kernel: cannot find out whether this kernel supports freplace, because bpfd lacks CAP_PERFMON");
    // The control: the same refusal with every capability is believed.
    host.start();
}
