//! Orders of the policy on the built daemon: where links come to run when they are attached, moved, when files change, after a restart
//! and when an interface comes; what is refused; and that a change of the files loses no packet. XDP, and tc in both forms.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "the lints exempt test functions, not what they share"
)]

use std::fs;

use bpfd_client::proto::v1 as pb;
use bpfd_tests::{Host, eventually, example};
use insta::assert_snapshot;
use serde_json::Value;

const ETC: &str = "/run/case/etc/bpfd";

fn write(host: &Host, file: &str, text: &str) {
    let path = host.path(&format!("{ETC}/{file}"));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, &path).unwrap();
}

/// One order about `uplink`.
fn order(says: &str) -> String {
    format!("version = 1\n[[order]]\nid = \"edge\"\nchain = {{ interfaces = [\"uplink\", \"late\"] }}\n{says}\n")
}

fn host(orders: &str) -> Host {
    let mut host = Host::without_daemon();
    write(&host, "policy.toml", orders);
    host.start();
    host
}

/// Which apps run, in order, each with the priority that it has there.
#[track_caller]
fn runs(host: &Host, chain: &str) -> Vec<String> {
    let chains = host.items(&format!("chain show {chain}"));
    let [chain] = chains.as_slice() else { panic!("{chains:?}") };
    let members = chain["members"].as_array().cloned().unwrap_or_default();
    let told = |member: &Value| {
        let app = member["link"]["app"].as_str().unwrap_or("FOREIGN");
        format!("{app} {}", member["effectivePriority"].as_u64().unwrap_or(0))
    };
    members.iter().map(told).collect()
}

/// What `doctor` finds about orders.
fn doctor(host: &Host) -> Vec<String> {
    // It fails if the disk is full, and says so beside.
    let found: Value = serde_json::from_str(&host.bpfctl("doctor -o json").stdout).unwrap();
    let checks = found["items"].as_array().cloned().unwrap_or_default();
    let checks = checks.into_iter().filter(|check| check["id"] == "orders");
    let told = |check: Value| {
        let status = check["status"].as_str().unwrap_or_default().replace("CHECK_STATUS_", "").to_lowercase();
        format!("{status}: {}", check["detail"].as_str().unwrap_or_default())
    };
    checks.map(told).collect()
}

/// The words of each operation that began, from the audit log.
fn operations(host: &Host) -> Vec<String> {
    let path = host.path(&format!("{}/var/log/bpfd/audit.jsonl", host.root().display()));
    let records = fs::read_to_string(path).unwrap();
    let records = records.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let begun = records.filter(|record| record["record"] == "begin");
    begun.map(|record| format!("{} | {}", record["changes"], record["plan"].as_str().unwrap_or_default())).collect()
}

#[track_caller]
fn drop_port(host: &Host, priority: u32) -> String {
    let drop = example("xdp-drop-port");
    let load = format!("load --path {drop} --name fw --set port=9 xdp -i uplink --priority {priority}");
    let done = host.bpfctl(&load);
    // After what it says of its progress.
    let told = done.stderr.lines().last().unwrap_or_default().to_owned();
    done.ok();
    told
}

#[test]
fn a_link_runs_where_the_order_has_it_whatever_it_asks_for() {
    let host = host(&order("first = [\"fw\"]"));
    host.counter("seen", 20, 1);
    assert_snapshot!(drop_port(&host, 90), @"`fw/drop_port@uplink:xdp` runs at priority 19, not 90, by order `edge` of the policy");
    let counted = || (host.counted("seen"), host.sum("fw", "dropped"));
    host.send_datagrams(9, 50);
    assert_eq!(eventually(counted, |seen| *seen == (0, 50)), (0, 50));
    assert_snapshot!(host.bpfctl("chain show uplink").ok(), @"
    chain:      uplink:xdp
    mode:       MODE
    xdp mode:   native
    kernel id:  ID

    POS  SLOT  PRIO  ASKED  ORDER  PROGRAM       PROCEED-ON  KERNEL-ID  OWNER  STATE
    1    -     19    90     edge   fw/drop_port  pass        ID         uid 0  ATTACHED
    2    -     20    20     -      seen/count    pass        ID         uid 0  ATTACHED
    ");
    assert_snapshot!(host.bpfctl("get link fw/drop_port@uplink:xdp").ok().lines().filter(|line| line.starts_with("priority")).collect::<String>(), @"priority:    19, by order `edge`; 90 was asked for");
    // Whoever comes later, and whoever moves, too: one link moves, the others keep what they asked for.
    host.counter("early", 5, 1);
    assert_eq!(runs(&host, "uplink"), ["fw 4", "early 5", "seen 20"]);
    host.bpfctl("update fw/drop_port@uplink:xdp --priority 2").ok();
    assert_eq!(runs(&host, "uplink"), ["fw 2", "early 5", "seen 20"]);
    host.bpfctl("update fw/drop_port@uplink:xdp --priority 500").ok();
    host.bpfctl("detach early/count@uplink:xdp").ok();
    assert_eq!(runs(&host, "uplink"), ["fw 19", "seen 20"]);
    host.send_datagrams(9, 50);
    assert_eq!(eventually(counted, |seen| *seen == (0, 100)), (0, 100));
    host.check();
}

#[test]
fn a_change_of_the_files_orders_each_chain_anew_in_one_swap_and_no_packet_is_lost() {
    let host = host("version = 1\n");
    for (name, priority, step) in [("a", 90, 1), ("b", 50, 10), ("c", 20, 100)] {
        host.counter(name, priority, step);
    }
    host.bpfctl("attach a xdp -i lo").ok();
    let before = operations(&host).len();
    let flood = host.flood();
    for round in 0..4 {
        for (says, wanted) in
            [("first = [\"a\"]", ["a 19", "c 20", "b 50"]), ("last = [\"c\"]", ["b 50", "a 90", "c 91"])]
        {
            write(&host, "policy.toml", &order(says));
            host.bpfctl("policy reload").ok();
            assert_eq!(runs(&host, "uplink"), wanted, "round {round}: {says}");
        }
    }
    write(&host, "policy.toml", "version = 1\n");
    host.bpfctl("policy reload").ok();
    assert_eq!(runs(&host, "uplink"), ["c 20", "b 50", "a 90"], "as asked for");
    host.bpfctl("policy reload").ok();
    let packets = flood.end();
    assert_eq!(["a", "b", "c"].map(|app| host.counted(app)), [packets, 10 * packets, 100 * packets]);
    // One operation each, which swaps one chain: the other one is none of these orders'.
    let orders: Vec<String> =
        operations(&host).split_off(before).into_iter().filter(|operation| operation.contains("\"order ")).collect();
    assert_eq!(orders.len(), 9, "{orders:#?}");
    assert!(orders.iter().all(|operation| operation.matches("swap ").count() == 1), "{orders:#?}");
    assert!(orders[0].contains("link `a/count@uplink:xdp` from priority 90 to 19, by order `edge`"), "{}", orders[0]);
    host.check();
}

#[test]
fn what_contradicts_a_strict_order_is_refused() {
    let host = host(&order("first = [\"fw\"]\nstrict = true"));
    drop_port(&host, 20);
    host.bpfctl(&format!("load --path {} --name early", example("xdp-counter"))).ok();
    assert_snapshot!(host.refuses(4, "attach early xdp -i uplink --priority 5"), @"
    error: cannot attach `early` to `uplink`
    cause: order `edge` has `fw/drop_port@uplink:xdp` run before `early/count@uplink:xdp`, and at priorities 20 and 5 it would not
    hint: ask for another priority, or ask an administrator: order `edge` is strict
    ");
    host.counter("seen", 50, 1);
    assert_snapshot!(host.refuses(4, "update seen/count@uplink:xdp --priority 19"), @"
    error: cannot update `seen/count@uplink:xdp`
    cause: order `edge` has `fw/drop_port@uplink:xdp` run before `seen/count@uplink:xdp`, and at priorities 20 and 19 it would not
    hint: ask for another priority, or ask an administrator: order `edge` is strict
    ");
    assert_snapshot!(host.refuses(4, "update fw/drop_port@uplink:xdp --priority 51"), @"
    error: cannot update `fw/drop_port@uplink:xdp`
    cause: order `edge` has `fw/drop_port@uplink:xdp` run before `seen/count@uplink:xdp`, and at priorities 51 and 50 it would not
    hint: ask for another priority, or ask an administrator: order `edge` is strict
    ");
    // It is about requests: what is there is placed.
    host.bpfctl("update fw/drop_port@uplink:xdp --priority 49").ok();
    host.bpfctl("attach seen xdp -i lo --priority 5").ok();
    write(&host, "policy.toml", &order("first = [\"seen\"]\nstrict = true"));
    host.bpfctl("policy reload").ok();
    assert_eq!(runs(&host, "uplink"), ["seen 49", "fw 49"]);
    host.check();
}

#[test]
fn orders_that_contradict_each_other_are_refused_with_both_places_and_the_old_ones_stay() {
    let host = host(&order("first = [\"a\"]"));
    host.counter("b", 50, 1);
    host.counter("a", 90, 1);
    let before = "chain = { interfaces = [\"up*\"] }\nbefore = [{ app = \"b\", than = \"a\" }]\n";
    write(&host, "policy.d/b.toml", &format!("version = 1\n[[order]]\nid = \"b\"\n{before}"));
    assert_snapshot!(host.bpfctl(&format!("policy check --dir {ETC}")).refused(2), @"
    error: the policy would be refused
    cause: policy is refused at /run/case/etc/bpfd/policy.d/b.toml:5:11: on `uplink:xdp` this contradicts /run/case/etc/bpfd/policy.toml:5:10, where `a` runs before `b`: here `b` runs before `a`
    ");
    assert_snapshot!(host.bpfctl("policy reload").refused(2), @"
    error: cannot reload the policy
    cause: policy is refused at /run/case/etc/bpfd/policy.d/b.toml:5:11: on `uplink:xdp` this contradicts /run/case/etc/bpfd/policy.toml:5:10, where `a` runs before `b`: here `b` runs before `a`
    hint: the previous policy stays in force; correct the file and try again
    ");
    assert_eq!(runs(&host, "uplink"), ["a 49", "b 50"]);
    let info = host.ask(async |daemon| daemon.info(pb::GetInfoRequest {}).await);
    assert_eq!(info.state(), pb::DaemonState::Degraded);
    fs::remove_file(host.path(&format!("{ETC}/policy.d/b.toml"))).unwrap();
    host.bpfctl("policy reload").ok();
    assert_snapshot!(host.bpfctl("policy show").stdout.split("\n\n").last().unwrap_or_default(), @r#"
    [[order]]
    id = "edge"
    chain = { interfaces = ["uplink", "late"] }
    first = ["a"]
    "#);
    host.check();
}

#[test]
fn orders_hold_after_a_restart_a_reboot_and_on_an_interface_that_comes() {
    let mut host = host("version = 1\n");
    host.counter("b", 50, 1);
    host.bpfctl(&format!("load --path {} --name a --persist xdp -i uplink --priority 90", example("xdp-counter"))).ok();
    host.bpfctl("attach b xdp -i late --when-present --priority 10").ok();
    host.bpfctl("attach a xdp -i late --when-present --priority 20").ok();
    host.stop();
    write(&host, "policy.toml", &order("first = [\"a\"]"));
    host.start();
    assert_eq!(runs(&host, "uplink"), ["a 49", "b 50"]);
    host.check();
    host.shell("ip link add late type veth peer name late2; ip link set late up");
    let late = || host.bpfctl("chain show late -o json").stdout;
    eventually(late, |shown| shown.matches("ATTACHED").count() == 2);
    assert_eq!(runs(&host, "late"), ["a 9", "b 10"]);
    // Gone and back.
    host.shell("ip link del late; ip link add late type veth peer name late2; ip link set late up");
    eventually(late, |shown| shown.matches("ATTACHED").count() == 2);
    assert_eq!(runs(&host, "late"), ["a 9", "b 10"]);
    host.check_settled();
    host.kill();
    host.start();
    assert_eq!(
        (runs(&host, "uplink"), runs(&host, "late")),
        (vec!["a 49".into(), "b 50".into()], vec!["a 9".into(), "b 10".into()])
    );
    host.shell("ip link del late");
    host.check_settled();
}

#[test]
fn what_only_a_label_makes_a_contradiction_is_told_and_the_earlier_order_holds() {
    let says = "before = [{ app = \"a\", than = \"b\" }, { app = \"b\", than = \"team=edge\" }]";
    let host = host(&order(says));
    host.counter("b", 50, 1);
    let load = format!("load --path {} --name a --label team=edge xdp -i uplink --priority 90", example("xdp-counter"));
    let done = host.bpfctl(&load);
    assert_eq!(done.code, 0, "{done}");
    assert_snapshot!(done.stderr, @"
    reading the object
    loading programs
    attaching
    warning: order `edge` has `b/count@uplink:xdp` run before `a/count@uplink:xdp`, and an order before it the opposite
    hint: `bpfctl policy show` shows both; ask an administrator to correct the one that is wrong
    `a/count@uplink:xdp` runs at priority 49, not 90, by order `edge` of the policy
    ");
    assert_eq!(runs(&host, "uplink"), ["a 49", "b 50"]);
    assert_eq!(
        doctor(&host),
        [
            "warn: order `edge` cannot hold: it has `b/count@uplink:xdp` run before `a/count@uplink:xdp`, and an order before it the opposite"
        ]
    );
    host.bpfctl("unload a").ok();
    assert_eq!(doctor(&host), [""; 0]);
    host.check();
}

#[test]
fn doctor_tells_of_a_chain_that_could_not_be_ordered() {
    let lib = "/run/case/var/lib/bpfd";
    let mut host = Host::without_daemon();
    host.shell(&format!("mkdir -p -m 0700 {lib}; mount -t tmpfs -o size=24m,mode=0700 none {lib}"));
    write(&host, "policy.toml", "version = 1\n");
    host.start();
    host.counter("a", 50, 1);
    host.counter("b", 60, 1);
    assert_eq!(doctor(&host), [""; 0]);
    // Without a place for its journal no chain is changed.
    host.shell(&format!("dd if=/dev/zero of={lib}/ballast bs=4k 2>/dev/null || true"));
    write(&host, "policy.toml", &order("first = [\"b\"]"));
    let unordered = ["warn: chains that are not ordered as the policy has it: 1"];
    eventually(|| doctor(&host), |found| *found == unordered);
    assert_eq!(runs(&host, "uplink"), ["a 50", "b 60"]);
    host.shell(&format!("rm {lib}/ballast"));
    host.bpfctl("policy reload").ok();
    assert_eq!(runs(&host, "uplink"), ["b 49", "a 50"]);
    assert_eq!(doctor(&host), [""; 0]);
    host.check();
}

#[test]
fn orders_hold_for_tc_in_both_forms() {
    for form in ["clsact", "auto"] {
        let mut host = Host::without_daemon();
        write(&host, "bpfd.toml", &format!("[chain]\ntc = \"{form}\"\n"));
        write(&host, "policy.toml", &order("first = [\"fw\"]").replace("chain = {", "chain = { kinds = [\"tc\"],"));
        host.start();
        let object = example("tc-counter");
        let load = |name: &str, program: &str, step: u32, hook: &str| {
            let what = format!("load --path {object} --name {name} --set step={step} --program {program}");
            host.bpfctl(&format!("{what} tc -i uplink {hook}")).ok();
        };
        load("a", "count", 1, "-d ingress -p 20");
        load("b", "count", 10, "-d ingress -p 30");
        load("fw", "stop", 100, "-d ingress -p 90");
        let ingress = || runs(&host, "uplink --hook tc-ingress");
        assert_eq!(ingress(), ["fw 19", "a 20", "b 30"], "{form}");
        let counted = || ["a", "b", "fw"].map(|app| host.counted(app));
        let before = counted();
        host.send_datagrams(4711, 10);
        let after = counted();
        assert_eq!([0, 1, 2].map(|at| after[at] - before[at]), [0, 0, 1000], "{form}");
        // Two that only count: no packet passes one by. What moves is at both places for a moment, as with `update`.
        host.bpfctl("unload fw").ok();
        let (before, flood) = (["a", "b"].map(|app| host.counted(app)), host.flood());
        for _ in 0..3 {
            write(&host, "policy.toml", &order("before = [{ app = \"b\", than = \"a\" }]"));
            host.bpfctl("policy reload").ok();
            assert_eq!(ingress(), ["b 19", "a 20"], "{form}");
            write(&host, "policy.toml", &order("last = [\"b\"]"));
            host.bpfctl("policy reload").ok();
            assert_eq!(ingress(), ["a 20", "b 30"], "{form}");
        }
        let packets = flood.end();
        let after = ["a", "b"].map(|app| host.counted(app));
        let counted = [after[0] - before[0], after[1] - before[1]];
        assert!(counted[0] >= packets && counted[1] >= 10 * packets, "{form}: {counted:?} of {packets}");
        host.check();
    }
}
