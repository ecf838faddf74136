//! The audit log: who asked for what, before it happens, and how it ended; refusals, but not without end.
#![expect(clippy::unwrap_used, reason = "the lints exempt test functions, not what they share")]

use std::os::unix::process::ExitStatusExt;

use bpfd_tests::{Host, eventually, example};
use insta::assert_snapshot;
use serde_json::Value;

fn records(host: &Host) -> Vec<Value> {
    let path = host.path(&format!("{}/var/log/bpfd/audit.jsonl", host.root().display()));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What an operation is for, with `UID` for the identities of apps and links.
fn changes(begin: &Value) -> Vec<String> {
    let told = begin["changes"].as_array().unwrap().iter().map(|change| change.as_str().unwrap());
    let uid = |word: &str| word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mask = |text: &str| {
        text.split_inclusive(['(', ')'])
            .map(|part| match part.strip_suffix(')') {
                Some(word) if uid(word) => "UID)".to_owned(),
                _ => part.to_owned(),
            })
            .collect()
    };
    told.map(mask).collect()
}

/// A line for each record: who and what, or whether it was done.
fn told(records: &[Value]) -> String {
    let text = |record: &Value, key: &str| record[key].as_str().unwrap_or_default().to_owned();
    let line = |record: &Value| match record["record"].as_str().unwrap() {
        "begin" => format!("{}: {}\n", text(&record["owner"], "user"), changes(record).join("; ")),
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

/// The steps of the one operation that began, by its plan and by the records before each of them.
fn steps(records: &[Value]) -> (Vec<&str>, Vec<&str>) {
    let text = |record: &'static str, key: &'static str| {
        let of = records.iter().filter(move |found| found["record"] == record);
        of.flat_map(move |found| found[key].as_str().unwrap().lines())
    };
    (text("begin", "plan").filter(|line| *line != "-- committed").collect(), text("intent", "step").collect())
}

#[test]
fn each_step_is_on_record_before_it_is_taken() {
    let mut host = Host::without_daemon();
    host.start_with(&[("FAILPOINTS", "step-swap-before=return")]);
    let before = records(&host).len();
    let load = format!("load --path {} --name a xdp -i uplink", example("xdp-pass"));
    assert_ne!(host.bpfctl(&load).code, 0, "the daemon dies");
    assert_eq!(host.wait().signal(), Some(9));
    assert!(!host.shell("ip link show uplink").contains("xdp"), "the interface is not changed yet");
    let died = records(&host).split_off(before);
    let (planned, recorded) = steps(&died);
    assert!(!recorded.is_empty() && planned.starts_with(&recorded), "{died:?}");
    assert!(recorded.last().unwrap().starts_with("swap"), "{died:?}");
    assert!(died.iter().all(|record| record["record"] != "end"), "{died:?}");

    let broken_off = records(&host).len();
    host.start();
    let repaired = records(&host).split_off(broken_off);
    let ended: Vec<&Value> = repaired.iter().filter(|record| record["record"] == "end").collect();
    let [end] = ended.as_slice() else { panic!("{repaired:?}") };
    assert_eq!((&end["operation"], &end["result"]), (&died[0]["operation"], &"undone, by a repair".into()));
    // What is cleaned up past the commit point too.
    for line in [load.as_str(), "detach a/pass@uplink:xdp", "unload a"] {
        let before = records(&host).len();
        host.bpfctl(line).ok();
        let done = records(&host).split_off(before);
        let (planned, recorded) = steps(&done);
        assert_eq!(planned, recorded, "{line}");
        let (first, last) = (done.first().unwrap(), done.last().unwrap());
        assert_eq!((&first["record"], &first["owner"]["user"]), (&"begin".into(), &"root".into()), "{line}");
        assert_eq!((&last["record"], &last["result"]), (&"end".into(), &"done".into()), "{line}");
    }
}

#[test]
fn a_record_says_what_it_is_for_when_the_rows_are_gone() {
    let host = Host::new();
    let before = records(&host).len();
    let load = format!("load --path {} --name a xdp -i uplink", example("xdp-pass"));
    for line in [&load, "update a --priority 7 --proceed-on pass,drop", "unload a"] {
        host.bpfctl(line).ok();
    }
    let told = told(&records(&host).split_off(before));
    let object = told.split_once("sha256:").unwrap().1.split_once(',').unwrap().0;
    let steps = |line: &&str| *line != "intent";
    let told = told.lines().filter(steps).collect::<Vec<_>>().join("\n").replace(object, "SHA256");
    assert_snapshot!(told, @"
    root: load app `a` (UID): object sha256:SHA256, uploaded; attach link `a/pass@uplink:xdp` (UID): priority 50, proceed-on {pass}
    done
    root: move link `a/pass@uplink:xdp` (UID): priority 7, proceed-on {drop,pass}
    done
    root: unload app `a` (UID)
    done
    ");
}

#[test]
fn a_member_who_is_refused_without_end_is_counted() {
    let mut host = Host::without_daemon();
    host.make_group();
    host.start();
    let before = records(&host).len();
    // The tree may be in a directory that is its owner's alone.
    std::fs::copy(example("xdp-pass"), host.path("/run/pass.o")).unwrap();
    for _ in 0..15 {
        host.bpfctl_as_member("load --path /run/pass.o").refused(4);
    }
    assert_eq!(told(&records(&host).split_off(before)), "member may not load\n".repeat(10));
}
