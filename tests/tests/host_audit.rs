//! The audit log: who asked for what, before it happens, and how it ended; refusals, but not without end.
#![expect(clippy::unwrap_used, reason = "the lints exempt test functions, not what they share")]

use bpfd_tests::{Host, eventually, example};
use insta::assert_snapshot;
use serde_json::Value;

fn records(host: &Host) -> Vec<Value> {
    let path = host.path(&format!("{}/var/log/bpfd/audit.jsonl", host.root().display()));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A line for each record: who and what, or whether it was done.
fn told(records: &[Value]) -> String {
    let text = |record: &Value, key: &str| record[key].as_str().unwrap_or_default().to_owned();
    let line = |record: &Value| match record["record"].as_str().unwrap() {
        "begin" => format!("{}: {}\n", text(&record["owner"], "user"), text(record, "plan")),
        "end" if record["result"] == "done" => "done\n".to_owned(),
        "end" => "not done\n".to_owned(),
        "denied" => format!("{} may not {}\n", text(record, "principal"), text(record, "verb")),
        other => format!("{other}\n"),
    };
    records.iter().map(line).collect()
}

#[test]
fn trust_and_policy_are_on_record() {
    let host = Host::new();
    host.bpfctl("keygen /run/ci.key").ok();
    let before = records(&host).len();
    host.bpfctl("trust add ci --key /run/ci.key.pub --scope registry/bpf/**").ok();
    host.bpfctl("trust add ci --key /run/ci.key.pub --scope registry/other").refused(8);
    host.bpfctl("image pull 127.0.0.1:9/nobody/answers").refused(9);
    // Reading the policy again has no verb.
    host.shell(&format!("kill -HUP {}", host.pid()));
    let records = eventually(|| records(&host).split_off(before), |records| records.len() >= 8);
    assert!(records.iter().all(|record| record["time"].as_str().unwrap().ends_with('Z')), "{records:?}");
    let told = told(&records);
    let print = told.split_once("key sha256:").unwrap().1.split_once(' ').unwrap().0;
    assert_snapshot!(told.replace(print, "PRINT"), @"
    root: trust key sha256:PRINT for `registry/bpf/**` by the name `ci`
    done
    root: trust key sha256:PRINT for `registry/other` by the name `ci`
    not done
    root: pull `127.0.0.1:9/nobody/answers:latest`
    not done
    root: read the policy again, by a signal
    done
    ");
}

#[test]
fn a_member_who_is_refused_without_end_is_counted() {
    let mut host = Host::without_daemon();
    host.make_group();
    host.start();
    let before = records(&host).len();
    let object = example("xdp-pass");
    for _ in 0..15 {
        host.bpfctl_as_member(&format!("load --path {object}")).refused(4);
    }
    assert_eq!(told(&records(&host).split_off(before)), "member may not load\n".repeat(10));
}
