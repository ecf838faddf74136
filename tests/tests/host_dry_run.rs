//! `--dry-run`: the steps that a change would take, and a host on which nothing has happened.

use bpfd_tests::{Census, Host, example};
use insta::assert_snapshot;
use serde_json::Value;

/// What a caller, the kernel and the daemon's directories know.
fn seen(host: &Host) -> (String, String, Census) {
    let said = ["list -o json", "list links -o json", "chain show uplink -o json"].map(|line| host.bpfctl(line).ok());
    (said.concat(), host.shell("find /run/case/sys/fs/bpf | sort; ip -o link show uplink"), host.pinned())
}

#[test]
fn a_dry_run_of_each_verb_shows_its_steps_and_changes_nothing() {
    let host = Host::new();
    let object = example("xdp-counter");
    let dry_load = format!("load --path {object} --name b --dry-run xdp -i uplink --priority 20");
    assert_snapshot!(host.bpfctl(&dry_load).ok(), @"
    pin app UID
    build generation UID for uplink:xdp: count 20 {pass}
    pin generation UID
    swap uplink:xdp (auto): nothing -> UID
    -- committed
    record app UID
    record link UID
    ");
    assert_eq!(host.bpfctl("list").stderr, "no programs\n");

    host.bpfctl(&format!("load --path {object} --name a xdp -i uplink --priority 50")).ok();
    host.ping(5);
    let before = seen(&host);
    assert_snapshot!(host.bpfctl(&dry_load).ok(), @"
    pin app UID
    build generation UID for uplink:xdp: count 20 {pass} count 50 {pass}
    pin generation UID
    swap uplink:xdp (native): UID -> UID
    -- committed
    record app UID
    record link UID
    unpin generation UID
    ");
    assert_snapshot!(host.bpfctl("attach a xdp --netns far -i far --dry-run").ok(), @"
    build generation UID for far:far:xdp: count 50 {pass}
    pin generation UID
    swap far:far:xdp (auto): nothing -> UID
    -- committed
    record link UID
    ");
    assert_snapshot!(host.bpfctl("update a/count@uplink:xdp --priority 10 --dry-run").ok(), @"
    build generation UID for uplink:xdp: count 10 {pass}
    pin generation UID
    swap uplink:xdp (native): UID -> UID
    -- committed
    record link UID
    unpin generation UID
    ");
    assert_snapshot!(host.bpfctl("detach --all -i uplink --dry-run").ok(), @"
    swap uplink:xdp (native): UID -> nothing
    -- committed
    remove the record of link UID
    unpin generation UID
    ");
    assert_snapshot!(host.bpfctl("unload a --dry-run").ok(), @"
    swap uplink:xdp (native): UID -> nothing
    -- committed
    remove the record of link UID
    unpin generation UID
    unpin app UID
    ");
    // What is refused is refused as ever.
    assert_snapshot!(host.bpfctl("unload b --dry-run").refused(3), @"
    error: cannot unload `b`
    cause: no app `b`
    hint: `bpfctl list` shows apps
    ");
    assert_eq!(seen(&host), before);
    host.ping(5);
    assert_eq!(host.counted("a"), 10);
    host.check();

    // The control: without the flag the same words do change what is seen.
    host.bpfctl("update a/count@uplink:xdp --priority 10").ok();
    assert_ne!(seen(&host), before);
}

#[test]
fn a_dry_run_answers_in_the_form_of_the_verb_and_uses_up_no_numbers() {
    let host = Host::new();
    let load = format!("load --path {} --name a xdp -i uplink", example("xdp-counter"));
    let said = |line: &str| {
        let said = host.bpfctl(&format!("{line} -o json"));
        serde_json::from_str::<Value>(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
    };
    // Uids and times are each one's own, and what runs has numbers of the kernel.
    let fields = |document: &Value| {
        let item = &document["items"][0];
        let names: Vec<String> = item.as_object().unwrap().keys().cloned().collect();
        (document["kind"].clone(), item["name"].clone(), item["handle"].clone(), item["cause"].clone(), names)
    };
    let dry = said(&format!("{load} --dry-run"));
    assert!(dry["plan"].as_array().unwrap().iter().any(|step| step == "-- committed"), "{dry}");
    // What is refused uses up none either.
    host.refuses(3, &load.replace("uplink", "uplinks"));
    let done = said(&load);
    assert_eq!(fields(&dry), fields(&done));
    assert_eq!((&done["plan"], &done["items"][0]["handle"]), (&Value::Null, &Value::from(1)));
    for line in ["update a/count@uplink:xdp --priority 7", "detach a/count@uplink:xdp", "unload a"] {
        let dry = said(&format!("{line} --dry-run"));
        assert!(!dry["plan"].as_array().unwrap().is_empty(), "{dry}");
        assert_eq!(dry["kind"], said(line)["kind"], "{line}");
    }
}
