//! Chains that are shared with Debian's xdp-loader, by libxdp's protocol: both sides list, order and keep each other's programs. The
//! host's kernel may forbid this; the guests' do not.
#![expect(clippy::unwrap_used, clippy::panic, reason = "the lints exempt test functions, not what they share")]

use std::os::fd::AsFd;
use std::process::Output as Done;

use bpfd_client::proto::v1::{self as pb, hook::Hook};
use bpfd_client::request_id;
use bpfd_sys::bpf::{Map, ProgId, map_by_id, prog_by_id, prog_info};
use bpfd_tests::points::{REPAIRED_SHARED, around};
use bpfd_tests::{Host, broken, eventually, example, proprietary};
use insta::assert_snapshot;

const BPFFS: &str = "/run/case/sys/fs/bpf";

/// One program as a side lists it: priority and the kernel's number.
type Row = (u64, u64);

#[track_caller]
fn ours(host: &Host, name: &str, priority: u32) {
    let object = example("xdp-counter");
    host.bpfctl(&format!("load --path {object} --name {name} xdp -i uplink --priority {priority}")).ok();
}

fn xdp_loader(host: &Host, line: &str) -> Done {
    host.command("xdp-loader").args(line.split_whitespace()).env("LIBXDP_BPFFS", BPFFS).output().unwrap()
}

#[track_caller]
fn peer(host: &Host, line: &str) -> String {
    let done = xdp_loader(host, line);
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success(), "xdp-loader {line}: {said}{}", host.log());
    said
}

/// A program of the peer's own at a priority that no other has; gives its counter.
#[track_caller]
fn theirs(host: &Host, priority: u64) -> Map {
    let object = example("xdp-counter");
    peer(host, &format!("load -P {priority} uplink {object}"));
    let (_, id) = status(host).into_iter().find(|(found, _)| *found == priority).unwrap();
    let program = prog_by_id(ProgId(u32::try_from(id).unwrap())).unwrap();
    let maps = prog_info(program.as_fd()).unwrap().map_ids.into_iter();
    let mut maps = maps.map(|id| Map::from_fd(map_by_id(id).unwrap()).unwrap());
    maps.find(|map| map.info().unwrap().name == "packets").unwrap()
}

fn counted(map: &Map) -> u64 {
    let values = map.lookup(&[0; 4]).unwrap().unwrap();
    values.chunks(8).map(|value| u64::from_ne_bytes(value.try_into().unwrap())).sum()
}

/// What the peer lists in the dispatcher.
#[track_caller]
fn status(host: &Host) -> Vec<Row> {
    let said = peer(host, "status uplink");
    let rows = said.lines().filter_map(|line| line.trim().strip_prefix("=>"));
    let number = |word: Option<&str>| word.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    rows.map(|row| {
        let words: Vec<&str> = row.split_whitespace().collect();
        (number(words.first().copied()), number(words.get(2).copied()))
    })
    .collect()
}

/// What bpfd lists, all of it.
#[track_caller]
fn chain(host: &Host) -> Vec<Row> {
    let chains = host.items("chain show uplink");
    let [chain] = chains.as_slice() else { panic!("{chains:?}") };
    let rows = chain["members"].as_array().cloned().unwrap_or_default();
    rows.iter()
        .map(|row| {
            (
                row["effectivePriority"].as_u64().unwrap_or(0),
                row["kernelProgramId"].as_u64().unwrap_or_else(|| panic!("{row}")),
            )
        })
        .collect()
}

/// Both sides see the same; gives the priorities.
#[track_caller]
fn agreed(host: &Host) -> Vec<u64> {
    let (chain, status) = (chain(host), status(host));
    assert_eq!(chain, status, "bpfd and xdp-loader{}", host.log());
    chain.into_iter().map(|(priority, _)| priority).collect()
}

/// Everybody leaves; what the end of a case counts is of bpfd alone.
#[track_caller]
fn empty(host: &Host) {
    host.check_settled();
    host.bpfctl("unload --all").ok();
    peer(host, "unload -a uplink");
    host.check_settled();
}

#[test]
fn a_program_that_tail_calls_runs_beside_a_peers() {
    let host = Host::new();
    let after = theirs(&host, 30);
    let load = format!("load --path {} --name tails --program entry", broken("tail_calls"));
    host.bpfctl(&format!("{load} xdp -i uplink --priority 10")).ok();
    assert_eq!(agreed(&host), [10, 30]);
    host.ping(20);
    // Each program of the tail call, and the peer's, which follows the chain's verdict.
    let counts = ["entries", "firsts", "seconds"].map(|map| host.sum("tails", map));
    assert_eq!((counts, counted(&after)), ([20; 3], 20));
    empty(&host);
}

#[test]
fn both_sides_list_order_and_keep_each_others_programs() {
    let host = Host::new();
    let first = theirs(&host, 30);
    ours(&host, "a", 10);
    ours(&host, "b", 50);
    let second = theirs(&host, 40);
    assert_eq!(agreed(&host), [10, 30, 40, 50]);
    host.ping(20);
    assert_eq!([host.counted("a"), host.counted("b")], [20, 20]);
    assert_eq!([counted(&first), counted(&second)], [20, 20]);
    host.check_settled();

    // Each side takes away one of its own.
    host.bpfctl("unload a").ok();
    assert_eq!(agreed(&host), [30, 40, 50]);
    let (_, id) = status(&host)[1];
    peer(&host, &format!("unload -i {id} uplink"));
    assert_eq!(agreed(&host), [30, 50]);
    host.ping(5);
    assert_eq!((host.counted("b"), counted(&first), counted(&second)), (25, 25, 20));
    host.check_settled();

    host.bpfctl("unload b").ok();
    assert_eq!(status(&host).len(), 1);
    host.ping(5);
    assert_eq!(counted(&first), 30);
    peer(&host, "unload -a uplink");
    host.check_settled();
}

#[test]
fn a_peer_that_sorts_a_chain_again_keeps_the_order_of_the_policy() {
    let host = Host::new();
    ours(&host, "a", 20);
    let between = theirs(&host, 25);
    let load = format!("load --path {} --name stop --set port=9", example("xdp-drop-port"));
    host.bpfctl(&format!("{load} xdp -i uplink --priority 90")).ok();
    assert_eq!(agreed(&host), [20, 25, 90]);
    let order = "version = 1\n[[order]]\nid = \"first\"\nchain = { interfaces = [\"uplink\"] }\nfirst = [\"stop\"]\n";
    let etc = host.path("/run/case/etc/bpfd");
    std::fs::create_dir_all(&etc).unwrap();
    std::fs::write(etc.join("policy.toml"), order).unwrap();
    host.bpfctl("policy reload").ok();
    assert_eq!(agreed(&host), [19, 20, 25]);
    // Datagrams for that port end at the first program, whoever built the dispatcher last.
    let ends_first = |dropped: u64| {
        let before = (host.counted("a"), counted(&between));
        host.send_datagrams(9, 20);
        let come = eventually(|| host.sum("stop", "dropped"), |sum| *sum == dropped);
        assert_eq!((come, host.counted("a"), counted(&between)), (dropped, before.0, before.1));
    };
    ends_first(20);
    theirs(&host, 15);
    assert_eq!(agreed(&host), [15, 19, 20, 25]);
    let later = theirs(&host, 40);
    assert_eq!(agreed(&host), [15, 19, 20, 25, 40]);
    let before = counted(&later);
    ends_first(40);
    assert_eq!(counted(&later), before);
    // Both of the peer's that came go again: it sorts what is left.
    for at in [4, 0] {
        let (_, id) = status(&host)[at];
        peer(&host, &format!("unload -i {id} uplink"));
    }
    assert_eq!(agreed(&host), [19, 20, 25]);
    ends_first(60);
    host.check_settled();
    // Without the order each has what it asked for, and the peer's program is where it was.
    std::fs::write(etc.join("policy.toml"), "version = 1\n").unwrap();
    host.bpfctl("policy reload").ok();
    assert_eq!(agreed(&host), [20, 25, 90]);
    empty(&host);
}

#[test]
fn a_peer_comes_to_an_interface_of_ours_and_goes_again() {
    let host = Host::new();
    ours(&host, "alone", 50);
    host.ping(3);
    assert_eq!(host.counted("alone"), 3, "alone, it stands in for the dispatcher itself");
    assert_eq!(agreed(&host), [50]);
    let guest = theirs(&host, 60);
    assert_eq!(agreed(&host), [50, 60]);
    host.ping(4);
    assert_eq!((host.counted("alone"), counted(&guest)), (7, 4));
    let (_, id) = status(&host)[1];
    peer(&host, &format!("unload -i {id} uplink"));
    assert_eq!(agreed(&host), [50]);
    host.ping(5);
    assert_eq!(host.counted("alone"), 12);
    host.bpfctl("unload alone").ok();
    assert!(!host.shell("ip link show uplink").contains("xdp"), "nothing is left on the interface");
    let left = host.shell(&format!("ls {BPFFS}/xdp {BPFFS}/bpfd/v1/top {BPFFS}/bpfd/v1/ext"));
    assert!(!left.contains("dispatch") && !left.lines().any(|line| line.len() == 32), "{left}");
    host.check_settled();
}

#[test]
fn an_eleventh_program_is_refused_and_changes_nothing() {
    let host = Host::new();
    let first = theirs(&host, 500);
    ours(&host, "a", 10);
    for priority in 11..19 {
        let uplink = pb::XdpHook { netns: None, interface: "uplink".to_owned() };
        let hook = Some(pb::Hook { hook: Some(Hook::Xdp(uplink)) });
        let attachment = Some(pb::Attachment { hook, priority: Some(priority), ..Default::default() });
        let (app, request_id) = ("a".to_owned(), request_id());
        let request = pb::AttachRequest { request_id, app, attachment, ..Default::default() };
        host.ask(async |daemon| daemon.attach(request).await);
    }
    let full = agreed(&host);
    assert_eq!(full.len(), 10);
    let object = example("xdp-counter");
    let more = format!("load --path {object} --name more xdp -i uplink --priority 5");
    assert_snapshot!(host.refuses(8, &more), @"
    reading the object
    loading programs
    attaching
    error: cannot load `more`
    cause: `uplink` would have 11 XDP programs, and a dispatcher has 10 slots
    hint: `bpfctl chain show uplink` shows which programs use the slots; detach one of them
    ");
    assert_eq!(agreed(&host), full);
    host.ping(2);
    assert_eq!((host.counted("a"), counted(&first)), (2 * 9, 2));
    empty(&host);
}

#[test]
fn a_restart_finds_everything_and_goes_on() {
    let mut host = Host::new();
    let first = theirs(&host, 30);
    ours(&host, "a", 10);
    host.kill();
    // While bpfd is away, the peer rebuilds the dispatcher with bpfd's program in it.
    let later = theirs(&host, 20);
    host.ping(3);
    // A start that dies around taking references to it leaves no more than the peer did.
    for point in around("repair", REPAIRED_SHARED[2]) {
        host.starts_and_dies(&point);
    }
    host.start();
    assert_eq!(agreed(&host), [10, 20, 30]);
    assert_eq!((host.counted("a"), counted(&later)), (3, 3));
    ours(&host, "b", 25);
    assert_eq!(agreed(&host), [10, 20, 25, 30]);
    host.ping(2);
    assert_eq!((host.counted("a"), host.counted("b"), counted(&first)), (5, 2, 5));
    empty(&host);
}

#[test]
fn a_clean_from_another_network_namespace_ends_the_peers_programs_and_none_of_ours() {
    let host = Host::new();
    ours(&host, "a", 10);
    ours(&host, "b", 30);
    let peer = theirs(&host, 20);
    // bpfd has seen the peer's dispatcher, and holds it.
    host.await_output("doctor -o json", "\"items\"");
    host.await_output("chain show uplink", "libxdp");
    eventually_held(&host);
    host.ping(2);
    host.shell(&format!("LIBXDP_BPFFS={BPFFS} unshare -n xdp-loader clean"));
    host.ping(3);
    assert_eq!((host.counted("a"), host.counted("b"), counted(&peer)), (5, 5, 2));
    let shown = host.bpfctl("chain show uplink");
    assert_eq!(shown.code, 0, "{shown}");
    assert_snapshot!(shown.stderr, @"warning: `count` is no longer in its slot: somebody removed its pins");
    host.bpfctl("detach b/count@uplink:xdp").ok();
    host.ping(1);
    assert_eq!((host.counted("a"), host.counted("b")), (6, 5));
    host.bpfctl("unload a").ok();
    assert!(!host.shell("ip link show uplink").contains("xdp"), "nothing is left on the interface");
    host.check_settled();
}

/// The dispatcher that runs has references of bpfd's own: it heard of the peer's change.
#[track_caller]
fn eventually_held(host: &Host) {
    // A generation that a peer made is named by `peer` in hexadecimal.
    let adopted = |held: &String| held.contains("70656572");
    let held = eventually(|| host.shell(&format!("ls {BPFFS}/bpfd/v1/top")), adopted);
    assert!(adopted(&held), "{held}{}", host.log());
}

#[test]
fn a_setting_keeps_chains_fused_where_the_kernel_could_share_them() {
    let host = Host::fused();
    ours(&host, "a", 10);
    ours(&host, "b", 20);
    host.ping(3);
    assert_eq!((host.counted("a"), host.counted("b")), (3, 3));
    let shown = host.bpfctl("chain show uplink -o json").ok();
    assert!(shown.to_lowercase().contains("fused"), "{shown}");
    host.check();
}

/// How each link stands, in their order: app, state and cause.
fn stand(host: &Host) -> Vec<(String, String, String)> {
    let text = |link: &serde_json::Value, key: &str| link[key].as_str().unwrap_or_default().to_owned();
    let links = host.items("list links");
    links.iter().map(|link| (text(link, "app"), text(link, "state"), text(link, "cause"))).collect()
}

#[test]
fn a_chain_in_a_new_form_runs_without_the_program_that_does_not_go_into_it() {
    let mut host = Host::new();
    ours(&host, "a", 10);
    ours(&host, "b", 90);
    std::fs::write(host.path("/run/closed.o"), proprietary("xdp-pass")).unwrap();
    host.bpfctl("load --path /run/closed.o xdp -i uplink --priority 50").ok();
    let attached = |app: &str| (app.to_owned(), "LINK_STATE_ATTACHED".to_owned(), String::new());
    assert_eq!(stand(&host), ["a", "closed", "b"].map(attached));
    host.ping(2);

    // What runs is left as it runs, and doctor says why.
    host.stop();
    host.set_fused();
    host.start();
    assert_eq!(stand(&host), ["a", "closed", "b"].map(attached));
    host.ping(3);
    assert_eq!((host.counted("a"), host.counted("b")), (5, 5));

    // Taken off meanwhile, it has to be built: the others share one program.
    host.stop();
    host.shell("ip link set uplink xdp off");
    host.start();
    host.ping(4);
    assert_eq!((host.counted("a"), host.counted("b")), (9, 9));
    let stands = stand(&host);
    let closed = stands.iter().find(|(app, ..)| app == "closed").unwrap();
    assert_eq!(closed.1, "LINK_STATE_DRIFTED", "{stands:?}");
    assert_snapshot!(closed.2, @"`pass` cannot be fused with other programs: `count` is under a GPL-compatible licence and `pass` is under `Proprietary`: they cannot be one program");
    assert_eq!(stands.iter().filter(|stand| **stand == attached(&stand.0)).count(), 2, "{stands:?}");
    host.bpfctl("update b/count@uplink:xdp --priority 1").ok();
    host.bpfctl("unload closed").ok();
    host.ping(1);
    assert_eq!((host.counted("a"), host.counted("b")), (10, 10));
    // What a start could not do is told until the next one.
    host.stop();
    host.start();
    host.check();
}

#[test]
fn an_interface_that_bpfd_toml_names_has_its_own_mode_and_counts_on_when_that_changes() {
    let mut host = Host::with_counters();
    let mode = |host: &Host| host.items("chain show uplink")[0]["mode"].as_str().unwrap().to_owned();
    assert_eq!(mode(&host), "CHAIN_MODE_LIBXDP");
    for (set, shown) in [("uplink = \"fused\"\n", "CHAIN_MODE_FUSED"), ("other = \"fused\"\n", "CHAIN_MODE_LIBXDP")] {
        host.stop();
        let file = host.path("/run/case/etc/bpfd/bpfd.toml");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, format!("[chain.interfaces]\n{set}")).unwrap();
        host.start();
        assert_eq!(mode(&host), shown, "{set}");
        let before = host.sum("a", "packets");
        host.ping(1);
        assert!(host.sum("a", "packets") > before, "{set}");
    }
}
