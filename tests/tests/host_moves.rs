//! Interfaces that are moved to another network namespace, with a name or without: their links follow, what runs is never said to be gone,
//! and what cannot be detached is not said to be detached. In guests too. The daemon hears of all of it by itself.

use bpfd_tests::{Host, eventually, example};
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

/// A network namespace that a bind mount alone keeps, and the words that enter it.
const HOLD: &str = "touch /run/hold; unshare --net=/run/hold true";
const IN_HOLD: &str = "nsenter --net=/run/hold ip";

/// What a link is called now, and its state.
#[track_caller]
fn links(host: &Host) -> Vec<String> {
    let lines = host.bpfctl("list links").ok();
    lines.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// Waits until a link is shown in a namespace without a name, by its number: what a chain of it is called then.
#[track_caller]
fn await_number(host: &Host, path: &str) -> String {
    let shown = || {
        let links = host.items("list links");
        let now = links.first().and_then(|link| link["nameNow"].as_str()).unwrap_or_default();
        now.split_once('@').map(|(_, chain)| chain.to_owned()).unwrap_or_default()
    };
    let is_numbered = |chain: &String| {
        chain.strip_prefix("netnsid/").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let chain = eventually(shown, is_numbered);
    assert!(is_numbered(&chain), "never a number: {chain}{}", host.log());
    let number = chain.trim_start_matches("netnsid/").split(':').next().unwrap_or_default();
    // It is the number of one, and of none that has a name.
    let known = host.shell(&format!("ip netns list-id nsid {number}"));
    assert!(known.contains(number) && !known.contains("name"), "{known}");
    // Another observation says the same.
    let seen = host.items(&format!("chain show {path}"));
    let netns = seen.first().and_then(|chain| chain.get("netns")?.as_str());
    assert_eq!(netns, Some(format!("netnsid/{number}").as_str()), "{seen:?}");
    chain
}

/// Without the number of a namespace, which the kernel chose.
fn unnumbered(text: &str) -> String {
    let mut parts = text.split("netnsid/");
    let first = parts.next().unwrap_or_default().to_owned();
    let text =
        parts.fold(first, |text, part| text + "netnsid/N" + part.trim_start_matches(|c: char| c.is_ascii_digit()));
    let mut parts = text.split("network namespace ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        text + "network namespace " + if rest.len() < part.len() { "N" } else { "" } + rest
    })
}

#[test]
fn an_xdp_program_follows_its_interface_to_a_namespace_with_a_name_and_back() {
    let mut host = Host::new();
    host.shell("ip link add one type veth peer name two; ip netns add blue; ip netns add green");
    load(&host, "a", "-i one");
    load(&host, "b", "-i one --priority 60");
    for (from, to, restarted) in [("ip", "blue", false), ("ip -n blue", "green", true), ("ip -n green", "blue", false)]
    {
        if restarted {
            host.kill();
        }
        host.shell(&format!("{from} link set one netns {to}"));
        if restarted {
            host.start();
        }
        host.await_output("list links", &format!("now {to}:one:xdp")).ok();
        assert_eq!(
            links(&host),
            [
                format!("a/count xdp one:xdp (now {to}:one:xdp) 50 1 ATTACHED"),
                format!("b/count xdp one:xdp (now {to}:one:xdp) 60 2 ATTACHED")
            ],
            "{:#?}",
            host.items("list links")
        );
        host.check_settled();
    }
    host.shell(
        "touch /run/netns/home; mount --bind /proc/self/ns/net /run/netns/home; ip -n blue link set one netns home",
    );
    host.await_output("list links", "a/count  xdp   one:xdp  50    1    ATTACHED").ok();
    host.shell("umount /run/netns/home; rm /run/netns/home");
    host.check_settled();
    assert_ne!(runs(&host, "ip", "one"), "");

    // Another one takes its name.
    host.shell("ip link set one netns blue; ip link add one type veth peer name three");
    host.await_output("list links", "DRIFTED").ok();
    let cause = host.items("list links")[0]["cause"].as_str().unwrap().to_owned();
    assert!(cause.contains("which is `blue:one:xdp` now, and not interface"), "{cause}");
    assert_eq!(runs(&host, "ip", "one"), "");
    host.shell("ip link del one");
    host.await_output("list links", "ATTACHED").ok();
    host.bpfctl("detach a/count@blue:one:xdp").ok();
    host.bpfctl("unload b").ok();
    assert_eq!(runs(&host, "ip -n blue", "one"), "");
    host.check();
}

#[test]
fn an_xdp_program_in_a_namespace_without_a_name_is_seen_and_not_said_to_be_detached() {
    let mut host = Host::new();
    host.shell(&format!("ip link add one type veth peer name two; {HOLD}"));
    load(&host, "a", "-i one");
    let before = runs(&host, "ip", "one");
    host.shell("ip link set one netns /run/hold");
    await_number(&host, "one");
    assert_snapshot!(unnumbered(&host.refuses(8, "detach a/count@one:xdp")), @"
    error: cannot detach `a/count@one:xdp`
    cause: `one` is in network namespace `netnsid/N`, which has no name: bpfd can look there, but change nothing, and `a/count` still runs
    hint: give it a name: `lsns -t net -o NETNSID,PID` shows a process of network namespace N, `ip netns attach NAME PID` names its namespace; then ask again
    ");
    for restarted in [false, true] {
        if restarted {
            host.kill();
            host.start();
        }
        assert_eq!(unnumbered(&links(&host)[0]), "a/count xdp one:xdp (now netnsid/N:one:xdp) 50 1 ATTACHED");
        assert_eq!(runs(&host, IN_HOLD, "one"), before);
        host.check();
        host.refuses(8, "detach a/count@one:xdp");
        host.refuses(8, "unload a");
        host.refuses(8, "detach --all -i one");
        host.refuses(8, "unload --all");
        host.refuses(8, "update a/count@one:xdp --priority 10");
        assert_eq!(runs(&host, IN_HOLD, "one"), before);
    }
    // Another one takes its name: it does not get the program.
    host.shell("ip link add one type veth peer name three");
    host.await_output("list links", "DRIFTED").ok();
    assert_eq!(runs(&host, "ip", "one"), "");
    host.shell("ip link del one");
    // The hint's way: it gets a name.
    host.shell("touch /run/netns/blue; mount --bind /run/hold /run/netns/blue");
    host.await_output("list links", "now blue:one:xdp").ok();
    host.check_settled();
    host.bpfctl("detach a/count@one:xdp").ok();
    assert_eq!(runs(&host, "ip -n blue", "one"), "");
    host.check();

    // A namespace that ends takes its interfaces along: nothing keeps it alive.
    host.bpfctl("attach a xdp -i one --netns blue").ok();
    host.shell("umount /run/netns/blue; rm /run/netns/blue");
    await_number(&host, "one --netns blue");
    host.refuses(8, "unload a");
    host.shell("umount /run/hold");
    host.await_output("list links", "WAITING").ok();
    host.check();
}

#[test]
fn a_tcx_program_follows_its_interface_and_is_detached_wherever_it_is() {
    let mut host = Host::new();
    let object = example("tc-counter");
    host.shell(&format!("ip link add one type veth peer name two; ip link set two up; ip netns add blue; {HOLD}"));
    host.bpfctl(&format!("load --path {object} --name a --program count tc -i one -d egress")).ok();
    if host.items("chain show one --hook tc-egress")[0]["mode"] != "CHAIN_MODE_TCX" {
        println!("skipped: needs Linux 6.6 for tcx");
        return;
    }
    host.bpfctl("attach a tc -i one -d egress --priority 60").ok();
    let counts = |host: &Host, enter: &str| {
        host.shell(&format!("{enter} ip link set one up; {enter} ip address replace 10.8.0.1/24 dev one"));
        let before = host.counted("a");
        host.shell(&format!("{enter} ping -q -c 1 -W 1 -b 10.8.0.255 || true"));
        host.counted("a") > before
    };
    host.shell("ip link set one netns blue");
    host.await_output("list links", "now blue:one:tc-egress").ok();
    host.check_settled();
    assert!(counts(&host, "ip netns exec blue"));
    // Another interface of its index, in a namespace with a name that has a number before that of the other has one.
    host.shell(
        "ip netns add red; ip netns set red auto
         ip -n red link add decoy index $(ip -n blue -o link show one | cut -d: -f1) type veth peer name other",
    );
    host.shell("ip -n blue link set one netns /run/hold");
    await_number(&host, "one --hook tc-egress");
    for restarted in [false, true] {
        if restarted {
            host.kill();
            host.start();
        }
        let shown = links(&host);
        assert!(shown.iter().all(|link| link.ends_with("ATTACHED")), "{shown:?}");
        host.check();
        assert!(counts(&host, "nsenter --net=/run/hold"));
    }
    host.bpfctl("unload a").ok();
    assert_eq!(host.shell("ls /run/case/sys/fs/bpf/bpfd/v1/top"), "");
    host.check();
    host.shell("umount /run/hold");
}

#[test]
fn filters_are_attached_again_where_their_interface_went() {
    let host = Host::without_daemon();
    let etc = host.path("/run/case/etc/bpfd");
    std::fs::create_dir_all(&etc).unwrap();
    std::fs::write(etc.join("bpfd.toml"), "[chain]\ntc = \"clsact\"\n").unwrap();
    let mut host = host;
    host.start();
    let object = example("tc-counter");
    host.shell("ip link add one type veth peer name two; ip netns add blue; ip netns add green");
    host.bpfctl(&format!("load --path {object} --name a --program count tc -i one -d egress")).ok();
    let filters = |host: &Host, ip: &str| host.shell(&format!("{ip} filter show dev one egress 2>/dev/null || true"));
    for (from, to) in [("ip", "blue"), ("ip -n blue", "green")] {
        host.shell(&format!("{from} link set one netns {to}"));
        host.await_output("list links", &format!("now {to}:one:tc-egress)  50    1    ATTACHED")).ok();
        host.check_settled();
        assert!(filters(&host, &format!("tc -n {to}")).contains("count"), "{}", host.log());
        assert!(host.log().contains("its tc filters went with its qdisc"), "{}", host.log());
    }
    // Another one of the index that it had is another one.
    host.shell("ip -n green link del one");
    host.await_output("list links", "WAITING").ok();
    host.shell("ip link add one type veth peer name two");
    host.await_output("list links", "one:tc-egress  50    1    ATTACHED").ok();
    host.check();
}
