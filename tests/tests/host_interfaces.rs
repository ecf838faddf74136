//! Which chain a link is in: it stays with its interface through renames, other interfaces of its name and a namespace that loses its
//! name; two names of one interface make one chain. In guests too, where chains are libxdp's. The daemon hears of all of it by itself.

use std::process::Stdio;

use bpfd_tests::{Host, Output, broken, example};
use insta::assert_snapshot;

/// What the interface that a command shows runs.
#[track_caller]
fn runs(host: &Host, ip: &str, interface: &str) -> String {
    host.shell(&format!("{ip} link show {interface} | grep -o 'prog/xdp id [0-9]*' || true")).trim().to_owned()
}

#[track_caller]
fn load(host: &Host, name: &str, options: &str) {
    let object = example("xdp-counter");
    host.bpfctl(&format!("load --path {object} --name {name} xdp {options}")).ok();
}

#[test]
fn a_renamed_interface_keeps_what_it_runs_and_its_links_have_both_names() {
    let mut host = Host::new();
    host.shell("ip link add one type veth peer name two");
    load(&host, "a", "-i one");
    load(&host, "b", "-i one --priority 60");
    let before = runs(&host, "ip", "one");
    host.shell("ip link set one name wan0");
    assert_snapshot!(host.await_output("list links", "now wan0").ok(), @"
    PROGRAM  TYPE  HOOK                    PRIO  POS  STATE
    a/count  xdp   one:xdp (now wan0:xdp)  50    1    ATTACHED
    b/count  xdp   one:xdp (now wan0:xdp)  60    2    ATTACHED
    ");
    host.check();
    assert_eq!(runs(&host, "ip", "wan0"), before);
    for name in ["wan0", "one"] {
        let shown = host.bpfctl(&format!("chain show {name}")).ok();
        assert_eq!(shown.lines().take(2).collect::<Vec<_>>(), ["chain:         wan0:xdp", "asked for as:  one:xdp"]);
        assert_eq!(host.items(&format!("list links -i {name}")).len(), 2, "{name}");
    }

    host.kill();
    host.start();
    assert_eq!(runs(&host, "ip", "wan0"), before, "a restart changes nothing");
    host.check();
    host.kill();
    host.shell("ip link set wan0 name lan0");
    host.start();
    assert_eq!(runs(&host, "ip", "lan0"), before, "nor does a rename while the daemon is away");

    host.bpfctl("update a/count@one:xdp --priority 70").ok();
    host.bpfctl("update b/count@lan0:xdp --priority 80").ok();
    assert_snapshot!(host.bpfctl("list links").ok(), @"
    PROGRAM  TYPE  HOOK                    PRIO  POS  STATE
    a/count  xdp   one:xdp (now lan0:xdp)  70    1    ATTACHED
    b/count  xdp   one:xdp (now lan0:xdp)  80    2    ATTACHED
    ");
    host.check();
    host.bpfctl("detach a/count@lan0:xdp").ok();
    host.bpfctl("detach b/count@one:xdp").ok();
    assert_eq!(runs(&host, "ip", "lan0"), "");
    host.check();
}

#[test]
fn names_that_are_exchanged_while_nobody_looks_exchange_no_programs() {
    let mut host = Host::new();
    host.shell("ip link add one type veth peer name two");
    load(&host, "a", "-i one");
    load(&host, "b", "-i two");
    let before = [runs(&host, "ip", "one"), runs(&host, "ip", "two")];
    host.kill();
    host.shell("ip link set one name other; ip link set two name one; ip link set other name two");
    host.start();
    assert_eq!([runs(&host, "ip", "two"), runs(&host, "ip", "one")], before);
    assert_snapshot!(host.bpfctl("list links").ok(), @"
    PROGRAM  TYPE  HOOK                   PRIO  POS  STATE
    a/count  xdp   one:xdp (now two:xdp)  50    1    DRIFTED
    b/count  xdp   two:xdp (now one:xdp)  50    1    DRIFTED
    ");
    host.shell("ip link set one name other; ip link set two name one; ip link set other name two");
    host.await_output("list links", "ATTACHED").ok();
    host.check_settled();
    assert_eq!([runs(&host, "ip", "one"), runs(&host, "ip", "two")], before);
}

#[test]
fn an_interface_that_takes_the_name_of_another_gets_nothing_by_itself() {
    let host = Host::new();
    host.shell("ip link add one index 91 type veth peer name two");
    load(&host, "a", "-i one");
    let before = runs(&host, "ip", "one");
    host.shell("ip link set one name wan0");
    host.await_output("list links", "now wan0").ok();
    host.shell("ip link add one index 92 type veth peer name three");
    host.await_output("list links", "DRIFTED").ok();
    assert_eq!([runs(&host, "ip", "wan0"), runs(&host, "ip", "one")], [before.clone(), String::new()]);
    let cause = host.items("list links")[0]["cause"].as_str().unwrap().to_owned();
    assert_snapshot!(cause, @"it protects interface 91, which is `wan0:xdp` now, and not interface 92, which took the name `one:xdp`: to protect that one, attach the program to it");
    assert!(host.bpfctl("doctor").stable().contains("K1: a restart changes nothing here"), "{}", host.log());

    host.bpfctl("attach a xdp -i one --priority 60").ok();
    assert_eq!(runs(&host, "ip", "wan0"), before);
    assert!(!runs(&host, "ip", "one").is_empty(), "somebody asked for it");
    // The interface goes: its link is for the one that has the name.
    host.shell("ip link del wan0");
    assert_snapshot!(host.await_output("list links -i one", "2 ").ok(), @"
    PROGRAM  TYPE  HOOK     PRIO  POS  STATE
    a/count  xdp   one:xdp  50    1    ATTACHED
    a/count  xdp   one:xdp  60    2    ATTACHED
    ");
    host.check();
}

#[test]
fn an_interface_that_is_made_again_gets_its_links() {
    let host = Host::new();
    for _ in 0..3 {
        host.shell("ip link add one type veth peer name two");
        if host.items("list links").is_empty() {
            load(&host, "a", "-i one");
        }
        host.await_output("list links", "ATTACHED").ok();
        assert!(!runs(&host, "ip", "one").is_empty());
        host.check();
        host.shell("ip link del one");
        host.await_output("list links", "WAITING").ok();
        host.check();
    }
}

#[test]
fn programs_that_are_too_much_together_are_left_out_from_the_end_of_their_chain() {
    let mut host = Host::fused();
    load(&host, "counter", "-i later --when-present --priority 5");
    // The verifier takes a million steps.
    for (name, program, priority) in [("first", "steps_700k", 10), ("second", "steps_800k", 20)] {
        let load = format!("load --path {} --name {name} --program {program}", broken("long_loops"));
        host.bpfctl(&format!("{load} xdp -i later --when-present --priority {priority}")).ok();
    }
    host.kill();
    host.shell("ip link add later type veth peer name other");
    host.start();
    assert_snapshot!(host.bpfctl("list links").ok(), @"
    PROGRAM            TYPE  HOOK       PRIO  POS  STATE
    counter/count      xdp   later:xdp  5     1    ATTACHED
    first/steps_700k   xdp   later:xdp  10    2    ATTACHED
    second/steps_800k  xdp   later:xdp  20    -    DRIFTED
    ");
    let cause = host.items("list links")[2]["cause"].as_str().unwrap().to_owned();
    // Kernels before 6.4 do not say how many.
    let known =
        "left out so that the others run: the kernel's verifier rejected `bpfd_fused`: BPF program is too large";
    assert!(cause.starts_with(known), "{cause}");
    assert!(!runs(&host, "ip", "later").is_empty());
    // The start could not have it, and that is said for as long as somebody wants it.
    assert!(host.findings().iter().any(|found| found.starts_with("start: ")), "{:?}", host.findings());
    host.bpfctl("unload second").ok();
    host.check();
}

#[test]
fn two_names_of_a_namespace_make_one_chain() {
    let mut host = Host::new();
    host.shell("ip netns add blue; ip -n blue link add v0 type veth peer name v1; ip -n blue link set v0 up");
    load(&host, "a", "-i v0 --netns blue --priority 60");
    load(&host, "b", "-i v0 --netns cyan --when-present --priority 50");
    host.shell("touch /run/netns/cyan; mount --bind /run/netns/blue /run/netns/cyan");
    host.await_output("list links -i v0 --netns cyan", "2 ").ok();
    let together = "
PROGRAM  TYPE  HOOK         PRIO  POS  STATE
a/count  xdp   blue:v0:xdp  60    2    ATTACHED
b/count  xdp   cyan:v0:xdp  50    1    ATTACHED";
    assert_eq!(host.bpfctl("list links").ok().trim(), together.trim());
    let before = runs(&host, "ip -n blue", "v0");
    for _ in 0..3 {
        host.shell("ip -n blue link set v0 alias x$(cat /proc/uptime | cut -c1-4)");
    }
    host.check();
    host.kill();
    host.start();
    host.check();
    assert_eq!(host.bpfctl("list links").ok().trim(), together.trim());
    assert_eq!(runs(&host, "ip -n blue", "v0"), before, "events and a restart change nothing");

    host.bpfctl("detach b/count@cyan:v0:xdp").ok();
    assert_eq!(host.bpfctl("list links").ok().lines().last(), Some("a/count  xdp   blue:v0:xdp  60    1    ATTACHED"));
    host.bpfctl("attach b xdp -i v0 --netns cyan --priority 70").ok();
    host.shell("umount /run/netns/cyan; rm /run/netns/cyan");
    host.await_output("list links", "now blue:v0:xdp").ok();
    host.check();
    host.bpfctl("detach --all -i v0 --netns blue").ok();
    assert_eq!(runs(&host, "ip -n blue", "v0"), "");
    host.check();
}

#[test]
fn a_namespace_that_loses_its_name_and_gets_it_back_runs_what_it_ran() {
    let mut host = Host::new();
    host.shell("ip netns add blue; ip -n blue link add v0 type veth peer name v1");
    host.shell("touch /run/hold; mount --bind /run/netns/blue /run/hold");
    load(&host, "a", "-i v0 --netns blue");
    let before = runs(&host, "ip -n blue", "v0");
    for restarted in [false, true] {
        host.shell("ip netns del blue");
        host.await_output("list links", "now netnsid/").ok();
        assert!(host.bpfctl("list links").ok().contains("ATTACHED"));
        assert_eq!(runs(&host, "nsenter --net=/run/hold ip", "v0"), before);
        host.check();
        if restarted {
            host.kill();
            host.start();
        }
        host.shell("touch /run/netns/blue; mount --bind /run/hold /run/netns/blue");
        host.await_output("list links", "blue:v0:xdp  50").ok();
        assert_eq!(runs(&host, "ip -n blue", "v0"), before, "restarted: {restarted}");
        host.check();
    }
    host.bpfctl("detach a/count@blue:v0:xdp").ok();
    assert_eq!(runs(&host, "ip -n blue", "v0"), "");
    host.check();
    host.shell("umount /run/hold");
}

#[test]
fn wait_waits_for_the_interface_and_ends_with_its_limit() {
    let host = Host::new();
    let object = example("xdp-counter");
    let late = host.bpfctl(&format!("load --path {object} --name a --wait --timeout 1 xdp -i late0"));
    assert_eq!(late.code, 10, "{late}");
    host.await_output("list links", "WAITING").ok();

    let mut waits = host.command("/run/bin/bpfctl");
    waits.args(["attach", "a", "xdp", "-i", "late1", "--wait", "--timeout", "60"]).stdout(Stdio::piped());
    waits.env("BPFD_SOCKET", host.root().join("run/bpfd/bpfd.sock"));
    let waits = waits.spawn().unwrap();
    // Not before somebody waits for it.
    host.await_output("list links", "late1:xdp").ok();
    host.shell("ip link add late1 type veth peer name later1");
    assert_snapshot!(Output::of("attach --wait", waits.wait_with_output().unwrap()).ok(), @"
    PROGRAM  TYPE  HOOK       PRIO  POS  STATE
    a/count  xdp   late1:xdp  50    1    ATTACHED
    ");
    // Nothing to wait for.
    host.bpfctl(&format!("load --path {object} --name b --wait xdp -i uplink")).ok();
    host.refuses(2, &format!("load --path {object} --wait"));
    host.refuses(2, &format!("load --path {object} --wait --dry-run xdp -i uplink"));
    host.refuses(2, "attach a --wait --dry-run xdp -i uplink");
    host.bpfctl("unload --all").ok();
    host.check();
}
