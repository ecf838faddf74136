//! What a change and an event cost the daemon in system calls: as much on a host with one chain as on one with 64. Counts, not times.
#![expect(clippy::unwrap_used, reason = "the lints exempt test functions, not what they share")]

use std::fmt::Write as _;

use bpfd_tests::{Calls, Host, example};

/// Chains on the larger host.
const MANY: u32 = 64;
/// System calls of one change, with those of the workers that it starts and of what follows from it.
const CHANGE: u64 = 400;
/// The same of an event of an interface that has no chain.
const EVENT: u64 = 20;
/// How much two counts of the same work differ: threads of the runtime sleep and wake as they like.
const NOISE: u64 = 40;
/// How often the same is counted. What the runtime does beside it (threads that end, timers) only adds: the least count is the work's.
const TRIES: usize = 3;

/// A host with a program on each of so many interfaces `i0`, `i1`, …, and an app `more` that runs nowhere.
fn with_chains(chains: u32) -> Host {
    let host = Host::new();
    let mut batch = String::new();
    // One more than there are chains.
    for index in 0..=chains {
        writeln!(batch, "link add i{index} type veth peer name i{index} netns far").unwrap();
        writeln!(batch, "link set i{index} up").unwrap();
    }
    host.shell(&format!("ip -batch - <<END\n{batch}END"));
    let object = example("xdp-counter");
    for name in ["app", "more"] {
        host.bpfctl(&format!("load --path {object} --name {name}")).ok();
    }
    for index in 0..chains {
        host.bpfctl(&format!("attach app xdp -i i{index}")).ok();
    }
    host
}

fn sum(calls: &Calls) -> u64 {
    calls.values().sum()
}

fn syncs(calls: &Calls) -> u64 {
    ["fsync", "fdatasync", "sync_file_range"].into_iter().filter_map(|name| calls.get(name)).sum()
}

/// The count with the least calls. Once in a thousand pages the database begins its log anew, and syncs once more.
fn least(counts: Vec<Calls>) -> Calls {
    counts.into_iter().min_by_key(|calls| (syncs(calls), sum(calls))).unwrap()
}

#[test]
fn a_change_costs_the_same_on_a_host_with_64_chains() {
    const VERBS: [(&str, &str); 3] = [
        ("attach", "attach more xdp -i i0"),
        ("update", "update more/count@i0:xdp --priority 7"),
        ("detach", "detach more/count@i0:xdp"),
    ];
    let [one, many] = [with_chains(1), with_chains(MANY)].map(|host| {
        let mut counts = VERBS.map(|_| Vec::new());
        for _ in 0..TRIES {
            for (counts, (_, line)) in counts.iter_mut().zip(VERBS) {
                host.await_quiet();
                counts.push(host.calls(|| drop(host.bpfctl(line).ok())));
            }
        }
        counts.map(least)
    });
    for ((one, many), (verb, _)) in one.iter().zip(&many).zip(VERBS) {
        for calls in [one, many] {
            assert!(sum(calls) <= CHANGE, "{verb}: {calls:?}");
            assert!(syncs(calls) <= 4, "{verb}: {calls:?}");
            assert_eq!(calls.get("execve"), None, "{verb} starts no worker");
        }
        assert!(sum(many) <= sum(one) + NOISE, "{verb}: {one:?}, with {MANY} chains {many:?}");
    }
}

#[test]
fn an_object_that_another_process_accepted_is_read_by_a_worker_again_and_then_known() {
    let mut host = with_chains(1);
    host.stop();
    host.start();
    let started = |line: &str| {
        host.await_quiet();
        let calls = host.calls(|| {
            host.bpfctl(line).ok();
            // Until the ones that were read have a successor.
            host.await_quiet();
        });
        calls.get("execve").copied().unwrap_or_default()
    };
    // Each that takes the place of a worker that read an object of the chain.
    assert!(started("attach more xdp -i i0") >= 1);
    // Beside it the worker that asks name services may be started, once.
    let again = (0..TRIES).map(|_| {
        host.bpfctl("detach more/count@i0:xdp").ok();
        started("attach more xdp -i i0")
    });
    assert_eq!(again.min(), Some(0));
}

#[test]
fn a_load_syncs_six_times_at_most() {
    let host = Host::new();
    let line = format!("load --path {}", example("tracepoint-count"));
    let calls = host.calls(|| drop(host.bpfctl(&line).ok()));
    assert!(syncs(&calls) <= 6, "{calls:?}");
}

#[test]
fn an_event_of_an_interface_without_a_chain_is_only_read() {
    let host = with_chains(1);
    let counted = |number| {
        host.await_quiet();
        host.calls(|| drop(host.shell(&format!("ip link set i1 mtu {}", 1400 + number))))
    };
    let unrelated = least((0..TRIES).map(counted).collect());
    assert!(sum(&unrelated) <= EVENT, "{unrelated:?}");
    // The control: what has to be looked at.
    let ours = host.calls(|| drop(host.shell("ip link del i0")));
    assert!(sum(&ours) > sum(&unrelated) + EVENT, "{ours:?}");
}
