//! The audit log: who asked for what, before it happens, and how it ended; refusals, but not without end; and that nobody can take a
//! record out of it.
#![expect(clippy::unwrap_used, reason = "the lints exempt test functions, not what they share")]

use std::os::unix::process::ExitStatusExt;

use bpfd_tests::{Host, eventually, example};
use insta::assert_snapshot;
use serde_json::{Value, json};

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
    let (of_it, of_repair): (Vec<&Value>, Vec<&Value>) =
        repaired.iter().partition(|record| record["operation"] == died[0]["operation"]);
    let [end] = of_it.as_slice() else { panic!("{repaired:?}") };
    assert_eq!((&end["record"], &end["result"]), (&"end".into(), &"undone, by a repair".into()));
    // What the repair does is on record as well.
    assert_eq!((&of_repair[0]["record"], &of_repair[0]["kind"]), (&"begin".into(), &"repair".into()), "{repaired:?}");
    let of_repair: Vec<Value> = of_repair.into_iter().cloned().collect();
    let (planned, recorded) = steps(&of_repair);
    assert!(!recorded.is_empty() && planned == recorded, "{of_repair:?}");
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
    const TIMES: usize = 200;
    let mut host = Host::without_daemon();
    host.make_group();
    host.start();
    let before = records(&host).len();
    // The tree may be in a directory that is its owner's alone.
    std::fs::copy(example("xdp-pass"), host.path("/run/pass.o")).unwrap();
    host.bpfctl_as_member("load --path /run/pass.o").refused(4);
    assert_eq!(told(&records(&host).split_off(before)), "member may not load\n");
    let since = std::time::Instant::now();
    let refused = host.shell(&format!(
        "seq {TIMES} | setpriv --reuid 4711 --regid 4711 --groups 815 env BPFD_SOCKET=/run/case/run/bpfd/bpfd.sock \
         xargs -P 8 -n 1 sh -c '/run/bin/bpfctl load --path /run/pass.o 2>/dev/null; echo $?' | sort | uniq -c"
    ));
    assert_eq!(refused.split_whitespace().collect::<Vec<_>>(), [&TIMES.to_string(), "4"]);
    // Ten of each second that it took.
    let seconds = usize::try_from(since.elapsed().as_secs()).unwrap();
    let written = told(&records(&host).split_off(before)).lines().count();
    assert!((10..=10 * (seconds + 2)).contains(&written), "{written} of {TIMES} in {seconds} s");
}

#[test]
fn an_event_that_changes_a_chain_is_on_record() {
    let host = Host::new();
    let load = format!("load --path {} --name a xdp -i later --when-present", example("xdp-pass"));
    host.bpfctl(&load).ok();
    let before = records(&host).len();
    host.shell("ip link add later type veth peer name later-far; ip link set later up");
    let ended = |records: &Vec<Value>| records.iter().any(|record| record["record"] == "end");
    let records = eventually(|| records(&host).split_off(before), ended);
    let begin = &records[0];
    assert_eq!((&begin["record"], &begin["kind"]), (&"begin".into(), &"event".into()), "{records:?}");
    let (planned, recorded) = steps(&records);
    assert!(recorded.iter().any(|step| step.starts_with("swap")) && planned == recorded, "{records:?}");
    let end = records.last().unwrap();
    assert_eq!((&end["operation"], &end["result"]), (&begin["operation"], &"done".into()), "{records:?}");
    assert_eq!(begin["apps"], json!(["a"]));
    let follow = "follow a change of an interface, a filter or a network namespace";
    assert_eq!(changes(begin), [follow, "link `a/pass@later:xdp` (UID)"]);
    host.shell("ip link del later");
}

#[test]
fn what_a_repair_mends_is_on_record_by_name() {
    let mut host = Host::new();
    host.shell("ip link add second type veth peer name second-far; ip link set second up");
    for (name, options) in [("a", "--persist xdp -i uplink"), ("b", ""), ("c", "--persist xdp -i second")] {
        let load = format!("load --path {} --name {name} {options}", example("xdp-pass"));
        host.bpfctl(load.trim_end()).ok();
    }
    host.stop();
    let mut before = records(&host).len();
    let mut mended = |host: &mut Host| {
        host.start();
        let all = records(host);
        let of_start = all.iter().skip(std::mem::replace(&mut before, all.len()));
        let begun = of_start.filter(|record| record["record"] == "begin");
        begun.map(|begin| (begin["kind"].clone(), begin["apps"].clone(), changes(begin))).collect::<Vec<_>>()
    };
    assert_eq!(mended(&mut host), [], "there was nothing to mend");
    host.stop();
    host.shell("ip link set dev uplink xdp off");
    let make = "make the kernel what the database says".to_owned();
    let link = |name: &str| format!("link `{name}` (UID)");
    let on_uplink = link("a/pass@uplink:xdp");
    assert_eq!(mended(&mut host), [("repair".into(), json!(["a"]), vec![make.clone(), on_uplink.clone()])]);
    assert!(
        audit(&host, "show --app a")
            .ok()
            .contains("make the kernel what the database says; link `a/pass@uplink:xdp` (")
    );
    assert!(!audit(&host, "show --app c").ok().contains("make the kernel"), "what was not touched is not named");
    host.reboot();
    let ended = "app `b` ended with the last boot: it is not persistent".to_owned();
    let loaded = ["app `a` (UID)", "app `c` (UID)"].map(str::to_owned);
    let (first, mut rest) =
        mended(&mut host).split_first().map(|(first, rest)| (first.clone(), rest.to_vec())).unwrap();
    assert_eq!(first, ("repair".into(), json!(["b"]), vec![ended]));
    let (kind, apps, mut told) = rest.remove(0);
    told.sort();
    let [a, c] = loaded;
    assert_eq!(
        (kind, apps, told),
        ("repair".into(), json!(["a", "c"]), vec![a, c, on_uplink, link("c/pass@second:xdp"), make])
    );
    assert!(rest.is_empty(), "{rest:?}");
}

/// `bpfctl audit` on the files of the case.
fn audit(host: &Host, line: &str) -> bpfd_tests::Output {
    host.bpfctl(&format!("audit {line} --dir /run/case/var/log/bpfd"))
}

#[test]
fn a_log_that_was_changed_is_told_by_line_and_record() {
    const ANCHOR: &str = "--anchor /run/case/var/lib/bpfd/audit.head";
    let mut host = Host::new();
    for name in ["a", "b"] {
        host.bpfctl(&format!("load --path {} --name {name}", example("xdp-pass"))).ok();
    }
    let log = host.path("/run/case/var/log/bpfd/audit.jsonl");
    let verify = format!("verify {ANCHOR}");
    audit(&host, &verify).ok();
    let kept = audit(&host, &format!("{verify} -q")).stdout;
    let kept = kept.trim();
    // The daemon is needed for nothing of this.
    host.stop();
    let whole = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let without = |number: usize| {
        let left: Vec<&str> = (1..).zip(&lines).filter(|(line, _)| *line != number).map(|(_, line)| *line).collect();
        left.join("\n") + "\n"
    };
    let found = |text: &str| {
        std::fs::write(&log, text).unwrap();
        let output = audit(&host, &format!("{verify} --no-headers"));
        assert_eq!(output.code, 12, "{output}");
        output.stdout.lines().next().unwrap().to_owned()
    };
    let last = lines.len();
    assert_eq!(
        found(&whole.replacen("load app `a`", "load app `c`", 1)),
        "audit.jsonl:1  record 1 was changed after it was written"
    );
    assert_eq!(
        found(&without(2)),
        "audit.jsonl:2  record 3 is where record 2 should be: record 2 is missing, or out of order"
    );
    assert_eq!(found(&without(1)), "-  record 1 is missing at the start, and rotation has not deleted them");
    assert_eq!(found(&without(last)), format!("-  record {last} is missing at the end"));
    // A start mends nothing.
    host.start();
    host.bpfctl("unload b").ok();
    assert_eq!(audit(&host, &verify).code, 12);
    // Without the anchor, only the head that somebody kept tells.
    host.stop();
    std::fs::write(&log, without(last)).unwrap();
    assert_eq!(audit(&host, "verify").code, 0);
    assert_eq!(audit(&host, &format!("verify --head {kept}")).code, 12);
    std::fs::write(&log, &whole).unwrap();
    audit(&host, &format!("verify --head {kept}")).ok();
    // The anchor has seen later records.
    let head = host.path("/run/case/var/lib/bpfd/audit.head");
    std::fs::remove_file(head).unwrap();
    host.start();
    audit(&host, &verify).ok();
    let log = records(&host);
    assert!(log.iter().any(|record| record["record"] == "unanchored"), "{log:?}");
}

#[test]
fn records_are_shown_by_caller_app_time_and_operation() {
    let mut host = Host::without_daemon();
    host.make_group();
    host.start();
    std::fs::copy(example("xdp-pass"), host.path("/run/pass.o")).unwrap();
    for name in ["a", "b"] {
        host.bpfctl(&format!("load --path /run/pass.o --name {name} xdp -i uplink")).ok();
    }
    host.bpfctl_as_member("load --path /run/pass.o --name c").refused(4);
    let kinds = |line: &str| {
        let shown = audit(&host, &format!("{line} -o json")).ok();
        let record = |line: &str| serde_json::from_str::<Value>(line).unwrap()["record"].as_str().unwrap().to_owned();
        shown.lines().map(record).collect::<Vec<_>>()
    };
    let all = kinds("show");
    assert_eq!(all.iter().filter(|record| *record == "begin").count(), 2, "{all:?}");
    assert_eq!(kinds("show --principal member"), ["denied"]);
    assert_eq!(kinds("show --principal 4711"), ["denied"]);
    assert_eq!(kinds("show --principal 0"), kinds("show --principal root"));
    assert_eq!(kinds("show --principal root").len(), all.len() - 1);
    assert_eq!(kinds("show --app a").iter().filter(|record| *record == "begin").count(), 1);
    assert_eq!(kinds("show --since 2h").len(), all.len());
    assert_eq!(kinds("show --until 2h"), Vec::<String>::new());
    assert_eq!(kinds("tail -n 1"), ["denied"]);
    let operation = audit(&host, "show --app b -q").ok();
    let shown = audit(&host, &format!("show {}", &operation[..8])).ok();
    let first = shown.lines().nth(1).unwrap();
    assert!(first.contains("begin") && first.contains("root: load app `b`"), "{shown}");
    assert!(shown.contains("  swap") && shown.trim_end().ends_with("done"), "{shown}");
    // Nobody else reads it.
    host.bpfctl_as_member("audit tail --dir /run/case/var/log/bpfd").refused(4);
}

#[test]
fn a_log_that_is_followed_shows_new_records_over_a_rotation() {
    use std::io::{BufRead as _, BufReader};
    let mut host = Host::without_daemon();
    // The file is full when the first record comes, with lines of an earlier version.
    let directory = host.path("/run/case/var/log/bpfd");
    std::fs::create_dir_all(&directory).unwrap();
    let old = format!("{{\"record\":\"end\",\"result\":\"{}\"}}\n", "x".repeat(1 << 20));
    std::fs::write(directory.join("audit.jsonl"), old.repeat(32)).unwrap();
    host.start();
    let mut follow = host.command("/run/bin/bpfctl");
    follow.args(["audit", "tail", "-f", "-o", "json", "--dir", "/run/case/var/log/bpfd"]);
    let mut follow = follow.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut next_end = || loop {
        let record: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        if record["record"] == "end" && record["operation"].is_string() {
            return record["operation"].clone();
        }
    };
    let load = |name: &str| {
        host.bpfctl(&format!("load --path {} --name {name}", example("xdp-pass"))).ok();
        records(&host).last().unwrap()["operation"].clone()
    };
    assert_eq!([load("a"), load("b")], [next_end(), next_end()]);
    assert!(directory.join("audit.jsonl.1").exists());
    assert_eq!(records(&host)[0]["record"], "continued");
    follow.kill().unwrap();
    follow.wait().unwrap();
}

#[test]
fn the_journal_has_a_copy_if_that_is_configured() {
    let mut host = Host::without_daemon();
    host.shell("mkdir -p /run/case/run/systemd/journal /run/case/etc/bpfd");
    let socket = host.path("/run/case/run/systemd/journal/socket");
    let journal = std::os::unix::net::UnixDatagram::bind(socket).unwrap();
    std::fs::write(host.path("/run/case/etc/bpfd/bpfd.toml"), "[audit]\njournal = true\n").unwrap();
    host.start();
    host.bpfctl(&format!("load --path {} --name a", example("xdp-pass"))).ok();
    journal.set_nonblocking(true).unwrap();
    let mut hashes = Vec::new();
    let mut datagram = vec![0; 1 << 20];
    while let Ok(length) = journal.recv(&mut datagram) {
        let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
        let (_, hash) = text.split_once("BPFD_HASH\n@\0\0\0\0\0\0\0").unwrap();
        hashes.push(hash[..64].to_owned());
    }
    let written = records(&host);
    let written: Vec<&str> = written.iter().map(|record| record["hash"].as_str().unwrap()).collect();
    assert_eq!(hashes, written);
}
