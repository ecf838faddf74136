//! Interfaces in named network namespaces that come and go, and namespaces that do: the daemon hears of it by itself. Nothing else
//! has it look: no request changes anything between an event and what is waited for.

use std::time::{Duration, Instant};

use bpfd_tests::{Host, example};

/// One program that waits for `later` in `blue`.
#[track_caller]
fn waits(host: &Host) {
    let object = example("xdp-counter");
    host.bpfctl(&format!("load --path {object} --name a xdp -i later --netns blue --when-present")).ok();
    becomes(host, "WAITING");
}

#[track_caller]
fn becomes(host: &Host, state: &str) {
    host.await_output("list links", state).ok();
    host.check();
}

/// Runs a command of a shell until it fails.
#[track_caller]
fn until_it_fails(host: &Host, command: &str) {
    let limit = Instant::now() + Duration::from_secs(60);
    while host.shell(&format!("{command} >/dev/null 2>&1 && echo goes on || true")).contains("goes on") {
        assert!(Instant::now() < limit, "`{command}` goes on{}", host.log());
    }
}

#[test]
fn a_program_waits_for_its_interface_in_a_namespace_without_a_number() {
    let host = Host::new();
    host.shell("ip netns add blue");
    waits(&host);
    let blue = || host.shell("ip netns list").lines().find(|line| line.starts_with("blue")).map(str::to_owned);
    assert_eq!(blue().as_deref(), Some("blue"), "a number");
    for _ in 0..2 {
        host.shell("ip -n blue link add later type veth peer name other");
        becomes(&host, "ATTACHED");
        // Its name may go: by its number it can be looked into then.
        assert!(blue().is_some_and(|line| line.starts_with("blue (id: ")), "{:?}", blue());
        host.shell("ip -n blue link del later");
        becomes(&host, "WAITING");
    }
}

#[test]
fn a_program_waits_for_its_namespace() {
    let host = Host::new();
    waits(&host);
    for _ in 0..2 {
        host.shell("ip netns add blue; ip -n blue link add later type veth peer name other");
        becomes(&host, "ATTACHED");
        host.shell("ip netns del blue");
        becomes(&host, "WAITING");
    }
}

#[test]
fn the_first_name_ever_is_noticed() {
    let mut host = Host::without_daemon();
    host.shell("umount --recursive --lazy /run/netns; rm -r /run/netns");
    host.start();
    waits(&host);
    host.shell("ip netns add blue; ip -n blue link add later type veth peer name other");
    becomes(&host, "ATTACHED");
    host.shell("ip netns del blue");
    becomes(&host, "WAITING");
}

#[test]
fn a_name_that_leads_elsewhere_is_followed_and_the_old_namespace_ends() {
    let host = Host::new();
    host.shell("ip netns add blue; ip link add outside type veth peer name later netns blue");
    let object = example("xdp-counter");
    host.bpfctl(&format!("load --path {object} --name a xdp -i later --netns blue")).ok();
    becomes(&host, "ATTACHED");
    host.shell("ip netns add green; ip netns del blue");
    becomes(&host, "WAITING");
    // Whoever still listened there would keep it, and the other end of the pair, alive.
    until_it_fails(&host, "ip link show outside");
    host.shell("ip -n green link add later type veth peer name other; touch /run/netns/blue");
    host.shell("mount --bind /run/netns/green /run/netns/blue");
    becomes(&host, "ATTACHED");
    host.shell("ip netns del green");
    becomes(&host, "ATTACHED");
    host.shell("ip netns del blue");
    becomes(&host, "WAITING");
}

#[test]
fn what_others_do_in_a_namespace_is_noticed() {
    let host = Host::new();
    host.shell("ip netns add blue; ip -n blue link add later type veth peer name other");
    // The kernel tells of programs only while an interface is up.
    host.shell("ip -n blue link set later up");
    let object = example("xdp-counter");
    host.bpfctl(&format!("load --path {object} --name a xdp -i later --netns blue")).ok();
    becomes(&host, "ATTACHED");
    host.shell("ip -n blue link set later xdp off");
    host.await_output("list links", "DRIFTED").ok();
    host.bpfctl("unload a").ok();
}

#[test]
fn a_namespace_is_let_go_of_with_its_last_link() {
    let host = Host::new();
    host.shell("ip netns add blue; ip link add outside type veth peer name later netns blue");
    let object = example("xdp-counter");
    host.bpfctl(&format!("load --path {object} --name a xdp -i later --netns blue")).ok();
    host.bpfctl("unload a").ok();
    host.shell("ip netns del blue");
    until_it_fails(&host, "ip link show outside");
}
