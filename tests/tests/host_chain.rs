//! Several programs on one interface: ordered, and moved, with every packet counted. In guests too; what else verbs do to a chain is
//! in `host_verbs`.

use bpfd_tests::{Host, eventually, example};
use insta::assert_snapshot;

#[test]
fn programs_run_by_priority_and_each_counts_every_packet() {
    let host = Host::with_counters();
    host.ping(100);
    assert_eq!(["a", "b", "c"].map(|app| host.counted(app)), [100, 1_000, 10_000]);
    assert_snapshot!(host.bpfctl("list").ok(), @"
    PROGRAM  TYPE  HOOK        PRIO  POS  STATE
    a/count  xdp   uplink:xdp  90    3    ATTACHED
    b/count  xdp   uplink:xdp  50    2    ATTACHED
    c/count  xdp   uplink:xdp  20    1    ATTACHED
    ");
    assert_snapshot!(host.bpfctl("list links").ok(), @"
    PROGRAM  TYPE  HOOK        PRIO  POS  STATE
    c/count  xdp   uplink:xdp  20    1    ATTACHED
    b/count  xdp   uplink:xdp  50    2    ATTACHED
    a/count  xdp   uplink:xdp  90    3    ATTACHED
    ");
    assert_snapshot!(host.bpfctl("chain show uplink").ok(), @"
    chain:      uplink:xdp
    mode:       MODE
    xdp mode:   native
    kernel id:  ID

    POS  SLOT  PRIO  PROGRAM  PROCEED-ON  KERNEL-ID  OWNER  STATE
    1    -     20    c/count  pass        ID         uid 0  ATTACHED
    2    -     50    b/count  pass        ID         uid 0  ATTACHED
    3    -     90    a/count  pass        ID         uid 0  ATTACHED
    ");
    host.check();
}

#[test]
fn a_verdict_ends_the_chain_where_it_stands_unless_told_to_proceed() {
    let host = Host::new();
    host.counter("before", 10, 1);
    let drop = example("xdp-drop-port");
    host.bpfctl(&format!("load --path {drop} --name drop --set port=9 xdp -i uplink --priority 20")).ok();
    host.counter("after", 30, 1);
    let counted = || ["before", "after"].map(|app| host.counted(app));
    // Datagrams are handled after they were sent, now and then by a thread of the kernel's that comes later than this one.
    let come_to = |wanted: ([u64; 2], u64)| {
        assert_eq!(eventually(|| (counted(), host.sum("drop", "dropped")), |seen| *seen == wanted), wanted);
    };
    host.send_datagrams(9, 50);
    come_to(([50, 0], 50));
    host.send_datagrams(10, 50);
    come_to(([100, 50], 50));
    host.bpfctl("update drop/drop_port@uplink:xdp --proceed-on pass,drop").ok();
    host.send_datagrams(9, 50);
    come_to(([150, 100], 100));
    host.bpfctl("update drop/drop_port@uplink:xdp --proceed-on pass --priority 5").ok();
    host.send_datagrams(9, 50);
    come_to(([150, 100], 150));
}

#[test]
fn moving_programs_loses_no_packet_and_counts_none_twice() {
    let host = Host::with_counters();
    let flood = host.flood();
    for priority in [95, 5].repeat(5) {
        host.bpfctl(&format!("update b/count@uplink:xdp --priority {priority}")).ok();
    }
    let packets = flood.end();
    assert_eq!(["a", "b", "c"].map(|app| host.counted(app)), [packets, 10 * packets, 100 * packets]);
}

/// The control of the test before: what is not one swap is noticed.

#[test]
fn detaching_and_attaching_again_misses_packets() {
    let host = Host::with_counters();
    let flood = host.flood();
    for _ in 0..5 {
        host.bpfctl("detach b/count@uplink:xdp").ok();
        host.bpfctl("attach b xdp -i uplink").ok();
    }
    let packets = flood.end();
    assert!(host.counted("b") < 10 * packets, "{} counted", host.counted("b"));
    assert_eq!(["a", "c"].map(|app| host.counted(app)), [packets, 100 * packets]);
}
