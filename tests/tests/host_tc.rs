//! Traffic control: programs of an interface's tc hooks, by tcx where the kernel has it, and by filters of a clsact qdisc. Each case in both
//! forms; a kernel without tcx has the second alone. In guests too.
//!
//! Long because the cases are read beside each other: they have the same two hosts.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the lints exempt test functions, not what they share"
)]

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use bpfd_sys::bpf::{Direction, obj_get, prog_attach_tcx};
use bpfd_sys::netlink::Route;
use bpfd_sys::netns::Netns;
use bpfd_tests::{Host, Output, example};
use insta::{allow_duplicates, assert_snapshot};
use serde_json::Value;

/// How programs are attached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    Tcx,
    Clsact,
}

/// A host for each form that this kernel has.
fn hosts() -> Vec<(Form, Host)> {
    [("clsact", Form::Clsact), ("auto", Form::Tcx)]
        .into_iter()
        .map(|(word, form)| {
            let mut host = Host::without_daemon();
            set_form(&host, word);
            host.start();
            (form, host)
        })
        .filter(|(form, host)| *form == Form::Clsact || has_tcx(host))
        .collect()
}

fn set_form(host: &Host, word: &str) {
    let etc = host.path(&format!("{}/etc/bpfd", host.root().display()));
    std::fs::create_dir_all(&etc).unwrap();
    std::fs::write(etc.join("bpfd.toml"), format!("[chain]\ntc = \"{word}\"\n")).unwrap();
}

/// Whether the kernel has tcx.
fn has_tcx(host: &Host) -> bool {
    let release = host.shell("uname -r");
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(6))
}

#[track_caller]
fn load(host: &Host, name: &str, step: u32, options: &str) -> Output {
    let (object, program) = (example("tc-counter"), if name.starts_with("stop") { "stop" } else { "count" });
    host.bpfctl(&format!("load --path {object} --name {name} --set step={step} --program {program} tc {options}"))
}

/// Which apps run at a hook, in order, and `FOREIGN` for those of others.
#[track_caller]
fn runs(host: &Host, interface: &str, hook: &str) -> Vec<String> {
    let chains = host.items(&format!("chain show {interface} --hook {hook}"));
    let members = chains[0]["members"].as_array().cloned().unwrap_or_default();
    let name = |member: &Value| match member["link"]["app"].as_str() {
        Some(app) => app.to_owned(),
        None => "FOREIGN".to_owned(),
    };
    members.iter().map(name).collect()
}

/// What of 10 packets from `far` each of these apps counts, in steps of its own.
#[track_caller]
fn counted(host: &Host, apps: &[&str]) -> Vec<u64> {
    let look = || apps.iter().map(|app| host.counted(app)).collect::<Vec<_>>();
    let before = look();
    host.send_datagrams(4711, 10);
    let after = look();
    after.iter().zip(&before).map(|(after, before)| after - before).collect()
}

#[test]
fn programs_run_in_the_order_of_their_priorities_until_one_ends_the_chain() {
    for (form, mut host) in hosts() {
        assert_eq!(
            load(&host, "a", 1, "-i uplink -d ingress -p 90").ok(),
            "\
PROGRAM  TYPE  HOOK               PRIO  POS  STATE
a/count  tc    uplink:tc-ingress  90    1    ATTACHED
"
        );
        load(&host, "b", 10, "-i uplink -d ingress -p 50").ok();
        load(&host, "c", 100, "-i uplink -d ingress -p 20").ok();
        assert_eq!(runs(&host, "uplink", "tc-ingress"), ["c", "b", "a"], "{form:?}");
        assert_eq!(counted(&host, &["a", "b", "c"]), [10, 100, 1000], "{form:?}");

        // The chain ends between them.
        load(&host, "stop", 1000, "-i uplink -d ingress -p 60").ok();
        assert_eq!(counted(&host, &["a", "b", "c", "stop"]), [0, 100, 1000, 10_000], "{form:?}");
        host.bpfctl("update stop/stop@uplink:tc-ingress --priority 40").ok();
        assert_eq!(runs(&host, "uplink", "tc-ingress"), ["c", "stop", "b", "a"], "{form:?}");
        assert_eq!(counted(&host, &["a", "b", "c", "stop"]), [0, 0, 1000, 10_000], "{form:?}");
        // Another priority, the same place.
        host.bpfctl("update stop/stop@uplink:tc-ingress --priority 45").ok();
        host.bpfctl("update a/count@uplink:tc-ingress --priority 0").ok();
        assert_eq!(runs(&host, "uplink", "tc-ingress"), ["a", "c", "stop", "b"], "{form:?}");
        assert_eq!(counted(&host, &["a", "b", "c", "stop"]), [10, 0, 1000, 10_000], "{form:?}");
        host.check();

        // They run on without the daemon, and are found by the next one.
        for end in [Host::stop, Host::kill] {
            let before = host.counted("a");
            end(&mut host);
            host.send_datagrams(4711, 10);
            host.start();
            assert_eq!(host.counted("a"), before + 10, "{form:?}");
            assert_eq!(counted(&host, &["a", "b", "c", "stop"]), [10, 0, 1000, 10_000], "{form:?}");
            host.check();
        }
        host.bpfctl("detach stop/stop@uplink:tc-ingress").ok();
        host.bpfctl("unload c").ok();
        assert_eq!(runs(&host, "uplink", "tc-ingress"), ["a", "b"], "{form:?}");
        assert_eq!(counted(&host, &["a", "b"]), [10, 100], "{form:?}");
        host.check();
        host.bpfctl("unload --all").ok();
        assert_eq!(host.shell("tc filter show dev uplink ingress; tc qdisc show dev uplink clsact"), "", "{form:?}");
        assert!(host.items("chain list").is_empty(), "{form:?}");
        host.check();
    }
}

/// Sends datagrams from `far` without a pause while something is done.
fn beside_datagrams(host: &Host, work: impl FnOnce()) {
    let far = Netns::open(&host.path("/run/netns/far")).unwrap();
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let send = || {
                let socket = UdpSocket::bind("10.9.0.2:0").unwrap();
                while !ends.load(Ordering::Relaxed) {
                    socket.send_to(b"packet", ("10.9.0.1", 4711)).unwrap();
                }
            };
            far.within(send).unwrap();
        });
        work();
        ends.store(true, Ordering::Relaxed);
        sender.join().unwrap();
    });
}

#[test]
fn no_packet_passes_a_program_by_that_moves() {
    for (form, host) in hosts() {
        load(&host, "stop", 1, "-i uplink -d ingress -p 40").ok();
        load(&host, "x", 1, "-i uplink -d ingress -p 50").ok();
        load(&host, "last", 1, "-i uplink -d ingress -p 1000").ok();
        beside_datagrams(&host, || {
            for priority in [60, 40, 70, 30, 60, 45] {
                host.bpfctl(&format!("update stop/stop@uplink:tc-ingress --priority {priority}")).ok();
            }
        });
        assert!(host.counted("stop") > 0, "{form:?}");
        assert_eq!(host.counted("last"), 0, "{form:?}");
        // The control: it leaves its place before it comes to another one.
        beside_datagrams(&host, || {
            host.bpfctl("detach stop/stop@uplink:tc-ingress").ok();
            host.bpfctl("attach stop tc -i uplink -d ingress -p 60").ok();
        });
        assert!(host.counted("last") > 0, "{form:?}");
    }
}

#[test]
fn what_an_interface_sends_has_a_chain_of_its_own() {
    for (form, host) in hosts() {
        load(&host, "in", 1, "-i uplink -d ingress").ok();
        host.bpfctl("attach in tc -i uplink --direction egress --priority 10").ok();
        load(&host, "out", 10, "-i uplink -d egress").ok();
        assert_eq!(runs(&host, "uplink", "tc-ingress"), ["in"], "{form:?}");
        assert_eq!(runs(&host, "uplink", "tc-egress"), ["in", "out"], "{form:?}");
        let before = (host.counted("in"), host.counted("out"));
        host.ping(10);
        assert_eq!((host.counted("in"), host.counted("out")), (before.0 + 20, before.1 + 100), "{form:?}");
        host.check();
        // XDP comes first, and has nothing to do with it.
        host.counter("x", 50, 1);
        host.ping(10);
        assert_eq!((host.counted("x"), host.counted("out")), (10, before.1 + 200), "{form:?}");
        allow_duplicates! {
        assert_snapshot!(host.bpfctl("list links -i uplink").ok(), @"
        PROGRAM    TYPE  HOOK               PRIO  POS  STATE
        in/count   tc    uplink:tc-egress   10    1    ATTACHED
        out/count  tc    uplink:tc-egress   50    2    ATTACHED
        in/count   tc    uplink:tc-ingress  50    1    ATTACHED
        x/count    xdp   uplink:xdp         50    1    ATTACHED
        ");
        }
        host.bpfctl("detach --all -i uplink").ok();
        assert!(host.items("list links").is_empty(), "{form:?}");
        host.check();
    }
}

#[test]
fn programs_of_others_stay_where_they_are_and_are_shown() {
    for (form, mut host) in hosts() {
        let object = example("tc-counter");
        // By hand, before and after ours come.
        host.shell(&format!("bpftool prog loadall {object} /run/case/sys/fs/bpf/theirs"));
        let join = |pin: &str, preference: u32| {
            let pin = format!("/run/case/sys/fs/bpf/theirs/{pin}");
            match form {
                Form::Tcx => {
                    let program = obj_get(&host.path(&pin)).unwrap();
                    let uplink = || {
                        let index = Route::open().unwrap().link_named("uplink").unwrap().unwrap().index;
                        prog_attach_tcx(program.as_fd(), index, Direction::Ingress).unwrap();
                    };
                    host.within(uplink);
                }
                Form::Clsact => {
                    let add = format!("tc filter add dev uplink ingress pref {preference} bpf da object-pinned {pin}");
                    drop(host.shell(&add));
                }
            }
        };
        if form == Form::Clsact {
            host.shell("tc qdisc add dev uplink clsact");
        }
        join("count", 1);
        load(&host, "b", 1, "-i uplink -d ingress").ok();
        load(&host, "a", 10, "-i uplink -d ingress -p 10").ok();
        // Where nothing of ours is, a program comes after what is there.
        assert_eq!(runs(&host, "uplink", "tc-ingress"), ["FOREIGN", "a", "b"], "{form:?}");
        let shown = host.bpfctl("chain show uplink --hook tc-ingress").ok();
        assert!(shown.contains("FOREIGN") && shown.contains("count"), "{shown}");
        let place = if form == Form::Clsact { "POS  PREF" } else { "POS  SLOT" };
        assert!(shown.contains(place), "{shown}");
        join("stop", 65_000);
        host.bpfctl("update a/count@uplink:tc-ingress --priority 99").ok();
        // Next to its neighbour, and not behind what somebody else added at the end.
        assert_eq!(runs(&host, "uplink", "tc-ingress"), ["FOREIGN", "b", "a", "FOREIGN"], "{form:?}");
        assert_eq!(counted(&host, &["a", "b"]), [100, 10], "{form:?}");
        host.check();
        host.kill();
        host.start();
        host.bpfctl("unload --all").ok();
        assert_eq!(runs(&host, "uplink", "tc-ingress"), ["FOREIGN", "FOREIGN"], "{form:?}");
        host.check();
        if form == Form::Clsact {
            assert!(host.shell("tc qdisc show dev uplink clsact").contains("clsact"), "it is not bpfd's");
        }
    }
}

#[test]
fn tools_see_what_runs() {
    for (form, host) in hosts() {
        // Somebody else's qdisc, which is used and left.
        host.shell("tc qdisc add dev uplink clsact");
        load(&host, "a", 1, "-i uplink -d egress").ok();
        let filters = host.shell("tc filter show dev uplink egress");
        let net = host.shell("bpftool net show dev uplink 2>/dev/null || true");
        match form {
            Form::Tcx => {
                assert_eq!(filters, "");
                assert!(net.contains("tcx/egress count ") || !net.contains("tcx"), "{net}");
            }
            Form::Clsact => {
                assert!(filters.contains("count direct-action") && filters.contains("pref 24999"), "{filters}");
                assert!(net.contains("clsact/egress count"), "{net}");
            }
        }
        host.bpfctl("unload a").ok();
        assert!(host.shell("tc qdisc show dev uplink clsact").contains("clsact"), "{form:?}");
    }
}

#[test]
fn a_filter_that_somebody_removes_is_missed_and_a_restart_puts_it_back() {
    let (_, mut host) = hosts().into_iter().find(|(form, _)| *form == Form::Clsact).unwrap();
    load(&host, "a", 1, "-i uplink -d ingress").ok();
    load(&host, "b", 1, "-i uplink -d ingress -p 60").ok();
    host.shell("tc filter del dev uplink ingress pref 24999");
    assert!(host.await_output("list links", "DRIFTED").stdout.contains("b/count"));
    host.kill();
    host.start();
    assert_eq!(runs(&host, "uplink", "tc-ingress"), ["a", "b"]);
    host.check();
    // All of it at once.
    host.shell("tc qdisc del dev uplink clsact");
    host.await_output("list links", "DRIFTED").ok();
    host.kill();
    host.start();
    assert_eq!(counted(&host, &["a", "b"]), [10, 10]);
    host.check();
}

#[test]
fn links_wait_for_their_interface_and_go_with_it_and_come_back() {
    for (form, host) in hosts() {
        let absent =
            host.refuses(3, &format!("load --path {} --program count tc -i one -d ingress", example("tc-counter")));
        assert!(absent.contains("no interface `one`"), "{absent}");
        host.bpfctl(&format!(
            "load --path {} --name a --program count --when-present tc -i one -d ingress",
            example("tc-counter")
        ))
        .ok();
        host.await_output("list links", "WAITING").ok();
        for _ in 0..2 {
            host.shell("ip link add one type veth peer name two");
            host.await_output("list links", "ATTACHED").ok();
            assert_eq!(runs(&host, "one", "tc-ingress"), ["a"], "{form:?}");
            host.check_settled();
            host.shell("ip link set one name wan0");
            host.await_output("list links", "now wan0:tc-ingress").ok();
            assert_eq!(runs(&host, "wan0", "tc-ingress"), ["a"], "{form:?}");
            host.check_settled();
            host.shell("ip link del wan0");
            host.await_output("list links", "WAITING").ok();
        }
        host.bpfctl("unload a").ok();
        host.check();
    }
}

#[test]
fn without_the_database_a_chain_runs_on() {
    for (form, mut host) in hosts() {
        load(&host, "a", 1, "-i uplink -d ingress -p 90").ok();
        load(&host, "b", 10, "-i uplink -d ingress -p 50").ok();
        load(&host, "out", 1, "-i uplink -d egress").ok();
        for lost in ["state.db*", "state.db* /run/case/sys/fs/bpf/bpfd/v1/state"] {
            let listed = host.bpfctl("list links").stdout;
            let filters = host.shell("tc filter show dev uplink ingress; tc filter show dev uplink egress");
            host.kill();
            host.shell(&format!("cd /run/case/var/lib/bpfd; rm {lost}"));
            host.start();
            assert!(host.bpfctl("doctor").stdout.contains("RECOVERED"), "{form:?} {lost}{}", host.log());
            let now = host.shell("tc filter show dev uplink ingress; tc filter show dev uplink egress");
            assert_eq!((host.bpfctl("list links").stdout, now), (listed, filters), "{form:?} {lost}");
            assert_eq!(counted(&host, &["a", "b"]), [10, 100], "{form:?} {lost}");
            host.bpfctl("state adopt").ok();
            host.check();
        }
        host.bpfctl("update a/count@uplink:tc-ingress --priority 10").ok();
        assert_eq!(runs(&host, "uplink", "tc-ingress"), ["a", "b"], "{form:?}");
        host.bpfctl("unload --all").ok();
        assert_eq!(host.shell("tc filter show dev uplink ingress; tc qdisc show dev uplink clsact"), "", "{form:?}");
        host.check();
    }
}

#[test]
fn a_renamed_interface_keeps_its_tc_chain_and_both_names_find_it() {
    for (form, mut host) in hosts() {
        host.shell("ip link add one type veth peer name two");
        load(&host, "a", 1, "-i one -d ingress").ok();
        load(&host, "b", 1, "-i one -d ingress -p 60").ok();
        for (from, to, is_running) in [("one", "wan0", true), ("wan0", "lan0", false)] {
            let programs = host.pinned().programs;
            if !is_running {
                host.kill();
            }
            host.shell(&format!("ip link set {from} name {to}"));
            if !is_running {
                host.start();
            }
            host.await_output("list links", &format!("(now {to}:tc-ingress)")).ok();
            assert_eq!(host.pinned().programs, programs, "{form:?} {to}: nothing was replaced");
            for name in ["one", to] {
                assert_eq!(runs(&host, name, "tc-ingress"), ["a", "b"], "{form:?} {name}");
            }
            host.check_settled();
        }
        host.bpfctl("update a/count@one:tc-ingress --priority 70").ok();
        host.bpfctl("detach b/count@lan0:tc-ingress").ok();
        assert_eq!(runs(&host, "lan0", "tc-ingress"), ["a"], "{form:?}");
        host.bpfctl("detach a/count@one:tc-ingress").ok();
        assert_eq!(host.shell("tc filter show dev lan0 ingress; tc qdisc show dev lan0 clsact"), "", "{form:?}");
        host.check();
    }
}

#[test]
fn two_names_of_a_namespace_make_one_tc_chain() {
    for (form, mut host) in hosts() {
        host.shell("ip netns add blue; ip -n blue link add v0 type veth peer name v1; ip -n blue link set v0 up");
        load(&host, "a", 1, "-i v0 -d ingress --netns blue -p 60").ok();
        load(&host, "b", 1, "-i v0 -d ingress --netns cyan --when-present -p 50").ok();
        host.shell("touch /run/netns/cyan; mount --bind /run/netns/blue /run/netns/cyan");
        let together = "
PROGRAM  TYPE  HOOK                PRIO  POS  STATE
a/count  tc    blue:v0:tc-ingress  60    2    ATTACHED
b/count  tc    cyan:v0:tc-ingress  50    1    ATTACHED";
        host.await_output("list links", "cyan:v0:tc-ingress  50    1").ok();
        for restarted in [false, true] {
            if restarted {
                let programs = host.pinned().programs;
                host.kill();
                host.start();
                assert_eq!(host.pinned().programs, programs, "{form:?}");
            }
            assert_eq!(host.bpfctl("list links").ok().trim(), together.trim(), "{form:?} {restarted}");
            for netns in ["blue", "cyan"] {
                let chain = host.items(&format!("chain show v0 --netns {netns} --hook tc-ingress"));
                assert_eq!(chain[0]["members"].as_array().map(Vec::len), Some(2), "{form:?} {netns}");
            }
            host.check_settled();
        }
        // What goes by one name takes nothing of the other.
        host.bpfctl("detach b/count@cyan:v0:tc-ingress").ok();
        let left = "a/count  tc    blue:v0:tc-ingress  60    1    ATTACHED";
        assert_eq!(host.bpfctl("list links").ok().lines().last(), Some(left), "{form:?}");
        host.bpfctl("attach b tc -i v0 -d ingress --netns cyan -p 70").ok();
        host.shell("umount /run/netns/cyan; rm /run/netns/cyan");
        host.await_output("list links", "now blue:v0:tc-ingress").ok();
        host.check_settled();
        host.bpfctl("unload --all").ok();
        host.check();
    }
}

#[test]
fn interfaces_of_other_namespaces_have_tc_hooks_too() {
    for (form, host) in hosts() {
        host.shell("ip netns add blue; ip -n blue link add one type veth peer name two");
        load(&host, "a", 1, "-i one -d egress --netns blue").ok();
        load(&host, "b", 1, "-i one -d egress --netns blue -p 10").ok();
        let chains = host.items("chain show one --netns blue --hook tc-egress");
        assert_eq!(chains[0]["members"].as_array().unwrap().len(), 2, "{form:?}");
        host.bpfctl("update b/count@blue:one:tc-egress --priority 90").ok();
        host.check();
        host.bpfctl("unload --all").ok();
        host.check();
    }
}

#[test]
fn another_form_takes_over_without_a_gap() {
    let mut host = Host::without_daemon();
    set_form(&host, "clsact");
    host.start();
    if !has_tcx(&host) {
        println!("skipped: needs Linux 6.6 for tcx");
        return;
    }
    load(&host, "a", 1, "-i uplink -d ingress").ok();
    load(&host, "b", 10, "-i uplink -d ingress -p 60").ok();
    for (word, mode) in [("tcx", "TCX"), ("clsact", "CLSACT")] {
        host.stop();
        set_form(&host, word);
        host.start();
        let chains = host.items("chain show uplink --hook tc-ingress");
        assert_eq!(chains[0]["mode"], format!("CHAIN_MODE_{mode}"));
        assert_eq!(runs(&host, "uplink", "tc-ingress"), ["a", "b"]);
        assert_eq!(counted(&host, &["a", "b"]), [10, 100]);
        host.check();
    }
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    let (_, host) = hosts().into_iter().find(|(form, _)| *form == Form::Clsact).unwrap();
    load(&host, "a", 1, "-i uplink -d ingress").ok();
    assert_snapshot!(host.refuses(2, "attach a tc -i uplink -d egress --proceed-on ok"), @"
    error: cannot attach `a` to `uplink`
    cause: a program at tc-egress cannot go on after {ok}: the kernel runs the next one after `next` (TC_ACT_UNSPEC) alone
    hint: leave the proceed-on set out: the hook's own applies
    ");
    assert_snapshot!(host.refuses(2, "update a/count@uplink:tc-ingress --proceed-on next,ok"), @"
    error: cannot update `a/count@uplink:tc-ingress`
    cause: a program at tc-ingress cannot go on after {next,ok}: the kernel runs the next one after `next` (TC_ACT_UNSPEC) alone
    hint: leave the proceed-on set out: the hook's own applies
    ");
    host.bpfctl("update a/count@uplink:tc-ingress --proceed-on next").ok();
    host.counter("x", 50, 1);
    assert_snapshot!(host.refuses(3, "attach x tc -i uplink -d egress"), @"
    error: cannot attach `x` to `uplink`
    cause: `x` has no tc program
    ");
    assert_snapshot!(host.refuses(3, "attach a xdp -i uplink"), @"
    error: cannot attach `a` to `uplink`
    cause: `a` has no xdp program
    ");
    assert_snapshot!(host.refuses(2, "update x/count@uplink:xdp --proceed-on next"), @"
    error: cannot update `x/count@uplink:xdp`
    cause: a program at xdp cannot go on after {next}: these are verdicts of tc
    hint: leave the proceed-on set out: the hook's own applies
    ");
    host.shell("ip link add one type veth peer name two; tc qdisc add dev one ingress");
    assert_snapshot!(host.refuses(1, "attach a tc -i one -d ingress"), @"
    error: cannot attach `a` to `one`
    cause: `one:tc-ingress` has a qdisc of kind `ingress` where its clsact qdisc would be
    hint: `tc qdisc del dev one ingress` removes it
    ");
    host.check();
}

/// The filters of `v0` in the namespace that `/run/hold` keeps.
fn held_filters(host: &Host) -> String {
    host.shell("nsenter --net=/run/hold tc filter show dev v0 ingress | grep -o 'bpf.*id [0-9]*' || true")
}

/// Without the number of a namespace.
fn unnumbered(text: &str) -> String {
    let mut rest = text;
    let mut short = String::new();
    while let Some((before, after)) = ["netnsid/", "network namespace "]
        .iter()
        .filter_map(|mark| Some((rest.find(mark)?, mark.len())))
        .min()
        .map(|(at, length)| rest.split_at(at + length))
    {
        rest = after.trim_start_matches(|letter: char| letter.is_ascii_digit());
        short += before;
        short += if rest.len() < after.len() { "N" } else { "" };
    }
    short + rest
}

#[test]
fn programs_in_a_namespace_that_lost_its_name_run_on_and_nobody_claims_to_know_their_order() {
    for (form, mut host) in hosts() {
        host.shell("ip netns add blue; ip -n blue link add v0 type veth peer name v1; ip -n blue link set v0 up");
        host.shell("touch /run/hold; mount --bind /run/netns/blue /run/hold");
        // Those of one priority would be in the order of their names.
        for (name, priority) in [("c", 50), ("a", 5), ("b", 20)] {
            load(&host, name, 1, &format!("-i v0 --netns blue -d ingress -p {priority}")).ok();
        }
        let before = held_filters(&host);
        assert_eq!(before.lines().count(), if form == Form::Clsact { 3 } else { 0 }, "{before}");
        host.shell("ip netns del blue");
        host.await_output("list links", "now netnsid/").ok();
        for restarted in [false, true] {
            if restarted {
                host.kill();
                host.start();
            }
            let listed = unnumbered(&host.bpfctl("list links").ok());
            let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            let now = "blue:v0:tc-ingress (now netnsid/N:v0:tc-ingress)";
            let wanted = [("a", 5), ("b", 20), ("c", 50)]
                .map(|(app, priority)| format!("{app}/count tc {now} {priority} - ATTACHED"));
            assert_eq!(listed.lines().skip(1).map(words).collect::<Vec<_>>(), wanted, "{form:?}");
            let shown = host.items("list links");
            assert!(shown.iter().all(|link| link.get("position").is_none()), "{shown:?}");
            let chain = host.bpfctl("chain show v0 --netns blue --hook tc-ingress").ok();
            let members: Vec<&str> = chain.lines().filter(|line| line.contains("ATTACHED")).collect();
            assert!(members.len() == 3 && members.iter().all(|line| line.starts_with("-  ")), "{chain}");
            host.check();
            if form == Form::Clsact {
                allow_duplicates! {
                assert_snapshot!(unnumbered(&host.refuses(8, "detach b/count@blue:v0:tc-ingress")), @"
                error: cannot detach `b/count@blue:v0:tc-ingress`
                cause: `v0` is in network namespace `netnsid/N`, which has no name: bpfd can look there, but change nothing, and `b/count` still runs
                hint: give it a name: `lsns -t net -o NETNSID,PID` shows a process of network namespace N, `ip netns attach NAME PID` names its namespace; then ask again
                ");
                }
                host.refuses(8, "unload c");
                host.refuses(8, "update a/count@blue:v0:tc-ingress --priority 60");
            }
            assert_eq!(held_filters(&host), before, "{form:?}");
        }
        // What a link holds goes by it, from here.
        if form == Form::Tcx {
            host.bpfctl("unload c").ok();
            host.check();
        }
        host.shell("touch /run/netns/blue; mount --bind /run/hold /run/netns/blue");
        host.await_output("list links", "b/count  tc    blue:v0:tc-ingress  20    2    ATTACHED").ok();
        host.check_settled();
        assert_eq!(held_filters(&host), before, "{form:?}");
        host.bpfctl("unload --all").ok();
        assert_eq!(held_filters(&host), "", "{form:?}");
        host.check();
        host.shell("umount /run/hold");
    }
}

#[test]
fn filters_of_a_namespace_that_nobody_can_tell_are_not_said_to_be_gone_nor_to_run() {
    let (_, mut host) = hosts().into_iter().find(|(form, _)| *form == Form::Clsact).unwrap();
    // The kernel gives it a number, as that of a peer, before bpfd does: once that is free, another namespace gets it.
    host.shell("ip netns add blue; ip link add near type veth peer name v0 netns blue; ip link show");
    host.shell("touch /run/hold; mount --bind /run/netns/blue /run/hold");
    load(&host, "a", 1, "-i v0 --netns blue -d ingress").ok();
    load(&host, "b", 1, "-i v0 --netns blue -d ingress").ok();
    let before = held_filters(&host);
    host.shell("umount /run/netns/blue; rm /run/netns/blue");
    host.await_output("list links", "now netnsid/").ok();
    assert!(host.items("list links").iter().all(|link| link["state"] == "LINK_STATE_ATTACHED"));
    host.check();
    host.kill();
    host.start();
    let shown = host.items("list links");
    assert!(shown.iter().all(|link| link["state"] == "LINK_STATE_DRIFTED"), "{shown:?}");
    assert_snapshot!(shown[0]["cause"].as_str().unwrap(), @"its network namespace has no name now, and its tc filters, which nobody can look at there, run on as long as it lives; give it a name: `ip netns attach NAME PID`");
    assert_snapshot!(unnumbered(&host.refuses(8, "unload b")), @"
    error: cannot unload `b`
    cause: the network namespace of `netnsid/N:v0:tc-ingress` has no name now, and `a/count`, `b/count` may still run there
    hint: give it a name: `lsns -t net -o NETNSID,PID` shows a process of network namespace N, `ip netns attach NAME PID` names its namespace; then ask again
    ");
    assert_eq!(held_filters(&host), before);
    // As the hint says.
    host.shell("touch /run/netns/green; mount --bind /run/hold /run/netns/green");
    host.await_output("list links", "(now green:v0:tc-ingress)  50    2    ATTACHED").ok();
    host.check_settled();
    host.shell("umount /run/netns/green; rm /run/netns/green");
    host.await_output("list links", "now netnsid/").ok();
    host.shell("umount /run/hold");
    host.await_output("list links", "WAITING").ok();
    host.check();
}
