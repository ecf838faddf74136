//! The daemon and its host over time: stopped, killed and started again; interfaces that come and go; programs of others.

use std::fs;

use bpfd_tests::{Host, eventually, example};
use insta::assert_snapshot;

/// Three counters on `uplink`, in the order b, c, a.
fn three() -> Host {
    let host = Host::new();
    let object = example("xdp-counter");
    for (name, priority) in [("a", 90), ("b", 20), ("c", 50)] {
        host.bpfctl(&format!("load --path {object} --name {name} xdp -i uplink --priority {priority}")).ok();
    }
    host
}

fn counted(host: &Host) -> [u64; 3] {
    ["a", "b", "c"].map(|app| host.counted(app))
}

#[test]
fn a_killed_daemon_leaves_its_programs_running_and_finds_them_again() {
    let mut host = three();
    let before = host.bpfctl("chain show uplink").stdout;
    let flood = host.flood();
    host.kill();
    host.start();
    let packets = flood.end();
    assert_eq!(counted(&host), [packets; 3]);
    assert_eq!(host.bpfctl("chain show uplink").stdout, before, "not even built anew");
    host.check();
    host.bpfctl("update a/count@uplink:xdp --priority 1").ok();
    host.ping(10);
    assert_eq!(counted(&host), [packets + 10; 3]);
}

#[test]
fn a_stopped_daemon_leaves_its_programs_running_too() {
    let mut host = three();
    host.stop();
    host.ping(10);
    assert_snapshot!(host.bpfctl("list").refused(7), @"
    error: cannot reach bpfd at `/run/case/run/bpfd/bpfd.sock`
    cause: the socket exists, but no process listens on it
    hint: start the daemon with `systemctl start bpfd` or `sudo bpfd`
    ");
    host.start();
    host.ping(10);
    assert_eq!(counted(&host), [20; 3]);
    host.check();
}

#[test]
fn what_a_restart_finds_missing_is_loaded_and_built_anew() {
    let mut host = three();
    host.kill();
    // What a boot leaves: rows, and a kernel that knows nothing of them.
    host.shell("ip link set uplink xdp off; rm -rf /run/case/sys/fs/bpf/bpfd /run/case/sys/fs/bpf/xdp");
    host.start();
    host.ping(10);
    assert_eq!(counted(&host), [10; 3]);
    assert_snapshot!(host.bpfctl("chain show uplink").ok(), @"
    chain:      uplink:xdp
    mode:       MODE
    xdp mode:   native
    kernel id:  ID

    POS  SLOT  PRIO  PROGRAM  PROCEED-ON  KERNEL-ID  OWNER  STATE
    1    -     20    b/count  pass        ID         uid 0  ATTACHED
    2    -     50    c/count  pass        ID         uid 0  ATTACHED
    3    -     90    a/count  pass        ID         uid 0  ATTACHED
    ");
    host.check();
}

#[test]
fn a_program_waits_for_its_interface() {
    let host = Host::new();
    let object = example("xdp-counter");
    assert_snapshot!(host.bpfctl(&format!("load --path {object} --name a xdp -i later --when-present")).ok(), @"
    PROGRAM  TYPE  HOOK       PRIO  POS  STATE
    a/count  xdp   later:xdp  50    -    WAITING
    ");
    host.check();
    host.shell("ip link add later type veth peer name other");
    assert_snapshot!(host.await_output("list", "ATTACHED").ok(), @"
    PROGRAM  TYPE  HOOK       PRIO  POS  STATE
    a/count  xdp   later:xdp  50    1    ATTACHED
    ");
    host.check();
    host.shell("ip link del later");
    assert_snapshot!(host.await_output("list", "WAITING").ok(), @"
    PROGRAM  TYPE  HOOK       PRIO  POS  STATE
    a/count  xdp   later:xdp  50    -    WAITING
    ");
    host.check();
}

#[test]
fn a_second_daemon_on_the_same_root_does_not_start() {
    let host = three();
    assert_eq!(host.spawn(&[]).unwrap_err().code(), Some(1));
    assert_snapshot!(host.log().split_once("ERROR ").map(|(_, error)| error).unwrap_or_default(), @"cannot open the pins or probe the kernel: another bpfd uses `/run/case/sys/fs/bpf`");
    host.ping(10);
    assert_eq!(counted(&host), [10; 3]);
    host.check();
}

#[test]
fn programs_of_others_are_shown_with_who_holds_them() {
    let host = Host::new();
    host.shell(&format!("ip link set uplink xdpgeneric obj {} sec xdp", example("xdp-pass")));
    assert_snapshot!(host.bpfctl("chain show uplink").ok(), @"
    chain:      uplink:xdp
    mode:       MODE
    xdp mode:   generic
    kernel id:  ID

    POS  SLOT  PRIO  PROGRAM  PROCEED-ON  KERNEL-ID  OWNER  STATE
    1    -     0     pass     -           ID         -      FOREIGN
    ");
    host.shell("ip link set uplink xdpgeneric off");
    assert_snapshot!(host.bpfctl("chain show uplink").ok(), @"
    chain:      uplink:xdp
    mode:       MODE
    xdp mode:   -
    kernel id:  -
    ");
}

#[test]
fn drift_is_found_and_a_restart_repairs_it() {
    let mut host = three();
    host.shell("ip link set uplink xdp off");
    assert_snapshot!(host.bpfctl("doctor").stable(), @"
    $ bpfctl doctor
    STATUS  CHECK             FOUND
    ok      xdp-chain-mode    MODE
    fail    K1                link `a/count@uplink:xdp` is not as requested: the interface runs no XDP program
    fail    K1                link `b/count@uplink:xdp` is not as requested: the interface runs no XDP program
    fail    K1                link `c/count@uplink:xdp` is not as requested: the interface runs no XDP program
    fail    K11               the kernel differs from the database: a repair would take 3 steps

    K1: restart bpfd: start-up repairs what it can
    K1: restart bpfd: start-up repairs what it can
    K1: restart bpfd: start-up repairs what it can
    K11: restart bpfd: start-up repairs what it can
    --- exit 12
    ");
    assert_snapshot!(host.bpfctl("chain show uplink").stable(), @"
    $ bpfctl chain show uplink
    chain:      uplink:xdp
    mode:       MODE
    xdp mode:   -
    kernel id:  -
    --- stderr
    warning: `b/count@uplink:xdp` is not as requested: the interface runs no XDP program
    warning: `c/count@uplink:xdp` is not as requested: the interface runs no XDP program
    warning: `a/count@uplink:xdp` is not as requested: the interface runs no XDP program
    ");
    host.stop();
    host.start();
    host.ping(10);
    assert_eq!(counted(&host), [10; 3]);
    host.check();
}

/// The control of `Host::check`: each of these must be found.
#[test]
fn what_is_broken_by_hand_is_found_by_doctor() {
    let mut host = three();
    let pins = host.path("/run/case/sys/fs/bpf/bpfd/v1");
    // The news of what was loaded may come now, and a look sweeps what no row knows: then it is made again.
    let make = || fs::create_dir_all(pins.join("0123456789abcdef0123456789abcdef")).unwrap();
    let doctor = || {
        make();
        host.bpfctl("doctor")
    };
    assert_snapshot!(eventually(doctor, |found| found.code == 12).stable(), @"
    $ bpfctl doctor
    STATUS  CHECK             FOUND
    ok      xdp-chain-mode    MODE
    fail    K3                app UID is pinned but is not in the database
    fail    K11               the kernel differs from the database: a repair would take 1 steps

    K3: restart bpfd: start-up repairs what it can
    K11: restart bpfd: start-up repairs what it can
    --- exit 12
    ");
    let findings = || {
        make();
        host.findings()
    };
    assert!(!eventually(findings, |found| !found.is_empty()).is_empty());
    host.stop();
    host.start();
    host.check();
    let uid = host.items("get app a")[0]["uid"].as_str().unwrap().to_owned();
    fs::remove_file(pins.join(&uid).join("map_packets")).unwrap();
    assert_snapshot!(host.bpfctl("doctor").stable(), @"
    $ bpfctl doctor
    STATUS  CHECK             FOUND
    ok      xdp-chain-mode    MODE
    fail    K3                map `packets` of `a` is not pinned

    K3: a restart changes nothing here: the finding says what differs
    --- exit 12
    ");
    assert!(!host.findings().is_empty());
    host.bpfctl("unload a").ok();
    host.check();
}
