//! What bpfctl asks of a daemon and how it shows the answers, against a server in this process that speaks the real API over a
//! real socket. Whole outputs by snapshot; requests compared as messages. The test plays the daemon, so the daemon is not
//! tested here.
//!
//! Long because each verb has its case.

#![expect(clippy::unwrap_used, reason = "a test's own set-up may fail the test")]

#[path = "daemon/bug_report.rs"]
mod bug_report;
#[path = "daemon/fake.rs"]
mod fake;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use bpfd_proto::reason;
use bpfd_proto::v1::{self as pb, load_request, program_selector};

use fake::Daemon;

/// Runs the built bpfctl against the daemon, in the daemon's scratch directory.
fn bpfctl(daemon: &Daemon, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bpfctl"))
        .args(args)
        .current_dir(daemon.directory())
        .env("BPFD_SOCKET", daemon.socket())
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

/// The whole of what a user sees.
fn transcript(args: &[&str], output: &Output) -> String {
    let Output { status, stdout, stderr } = output;
    let (stdout, stderr) = (String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
    let mut text = format!("$ bpfctl {}\n{stdout}", args.join(" "));
    if !stderr.is_empty() {
        text.push_str(&format!("--- stderr\n{stderr}"));
    }
    text.push_str(&format!("--- exit {}\n", status.code().unwrap()));
    text
}

fn check(name: &str, commands: &[&[&str]]) {
    let daemon = Daemon::start();
    fs::write(daemon.directory().join("pass.o"), b"not read by a fake").unwrap();
    let all: Vec<String> = commands.iter().map(|args| transcript(args, &bpfctl(&daemon, args))).collect();
    insta::assert_snapshot!(name, all.join("\n"));
}

#[test]
fn the_policy_is_shown_and_asked() {
    check(
        "policy",
        &[
            &["whoami"],
            &["policy", "can-i", "load", "xdp", "--image", "registry/team/a"],
            &["policy", "can-i", "attach", "xdp", "-i", "eth0", "--priority", "50"],
            &["policy", "can-i", "attach", "xdp", "-i", "eth0", "-q"],
            &["policy", "can-i", "attach", "xdp", "--proceed-on", "maybe"],
            &["policy", "show"],
            &["policy", "enforce"],
            &["policy", "enforce", "--dry-run"],
            &["policy", "reload"],
        ],
    );
}

#[test]
fn policy_files_are_checked_and_tested_without_a_daemon() {
    let rule = "version = 1\n[[rule]]\nid = \"cni\"\neffect = \"allow\"\nwho = [{ user = \"cni\", unit = \"cni.service\" }]\n\
                verbs = [\"attach\"]\nprograms = {}\ninterfaces = { names = [\"veth*\"] }\nsource = { images = \"any\" }\n";
    let ask = |interface: &str| format!("ask = {{ verb = \"attach\", type = \"xdp\", interface = \"{interface}\" }}\n");
    let expect = |who: &str, interface: &str, result: &str| {
        format!(
            "[[expect]]\nname = \"{who} on {interface}\"\nwho = {{ user = \"{who}\", unit = \"cni.service\" }}\n{}result = \"{result}\"\n",
            ask(interface)
        )
    };
    let daemon = Daemon::start();
    let write = |file: &str, text: &str| {
        let path = daemon.directory().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("good/policy.toml", rule);
    write("good/policy.d/ci.toml", "version = 1\n[[signer]]\nname = \"ci\"\nkey = \"/etc/bpfd/keys/ci.pub\"\n");
    let key = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    write("good/keys/ci.pub", key);
    write("bad/policy.toml", &rule.replace("verbs", "verb"));
    write("empty/policy.txt", "");
    write("right.toml", &[expect("cni", "veth1", "allow"), expect("cni", "eth0", "deny")].concat());
    write("wrong.toml", &[expect("cni", "veth1", "deny"), expect("other", "veth1", "allow")].concat());
    write("slip.toml", &expect("cni", "veth1", "refuse"));
    let commands: [&[&str]; 8] = [
        &["policy", "check", "--dir", "good"],
        &["policy", "check", "--dir", "bad"],
        &["policy", "check", "--dir", "empty"],
        &["policy", "test", "right.toml", "--dir", "good"],
        &["policy", "test", "wrong.toml", "--dir", "good"],
        &["policy", "test", "slip.toml", "--dir", "good"],
        &["policy", "test", "right.toml", "--dir", "bad"],
        &["policy", "test", "absent.toml", "--dir", "good"],
    ];
    let all: Vec<String> = commands.iter().map(|args| transcript(args, &bpfctl(&daemon, args))).collect();
    // Only an old kernel warns of units.
    let without =
        |text: &String| !text.starts_with("warning: rules with `unit`") && !text.contains("they need Linux 6.5");
    let lines: Vec<String> = all.join("\n").lines().map(str::to_owned).filter(without).collect();
    insta::assert_snapshot!("policy_files", lines.join("\n"));
}

#[test]
fn load_shows_what_was_loaded_and_where() {
    check(
        "load",
        &[
            &["load", "--path", "pass.o", "--section-name", "pass", "xdp", "-i", "eth0", "--priority", "50"],
            &["load", "--image", "registry/foo:tag"],
            &["load", "--image", "registry/foo:tag", "-q"],
            &["load", "--path", "pass.o", "-o", "json", "xdp", "-i", "eth0"],
        ],
    );
}

#[test]
fn list_shows_each_link_and_each_program_without_one() {
    check(
        "list",
        &[
            &["list"],
            &["list", "-i", "eth1"],
            &["list", "-q"],
            &["list", "--no-headers"],
            &["list", "links"],
            &["list", "links", "-q"],
            &["list", "-o", "json"],
            &["list", "links", "-o", "json"],
        ],
    );
}

#[test]
fn a_result_has_the_form_that_is_asked_for() {
    check(
        "forms",
        &[
            &["list", "-o", "wide"],
            &["list", "links", "-o", "wide", "--no-headers"],
            &["list", "-o", "name"],
            &["list", "links", "-o", "yaml"],
            &["list", "-i", "eth1", "-o", "yaml"],
            &["chain", "show", "eth0", "-o", "wide"],
            &["chain", "show", "-o", "name"],
            &["image", "ls", "-o", "wide"],
            &["image", "ls", "-o", "name"],
            &["image", "ls", "-o", "yaml"],
            &["image", "ls", "-o", "wide", "-q"],
            &["unload", "counter", "--dry-run", "-o", "yaml"],
            &["doctor", "-o", "name"],
            &["doctor", "-o", "wide"],
            &["programs", "list", "-o", "name"],
            &["list", "-o", "xml"],
        ],
    );
}

#[test]
fn lists_are_sorted_and_filtered_by_what_their_items_have() {
    check(
        "listing",
        &[
            &["list", "--sort", "-name"],
            &["list", "--filter", "name=filter"],
            &["list", "links", "--sort", "priority", "-o", "name"],
            &["list", "links", "--sort=-PRIO", "-o", "name"],
            &["list", "links", "--filter", "state=waiting", "--filter", "interface=wlan0"],
            &["list", "links", "--filter", "state=drifted"],
            &["image", "ls", "--filter", "trusted=false"],
            &["image", "ls", "--filter", "signers=ci", "-q"],
            &["chain", "show", "--filter", "mode=libxdp", "-q"],
            &["chain", "list", "--filter", "mode=fused", "-q"],
            &["programs", "list", "--filter", "state=loading", "-o", "name"],
            &["list", "links", "--sort", "priorty"],
            &["list", "--sort", "priority"],
            &["list", "links", "--filter", "state=atached"],
            &["image", "ls", "--filter", "trusted"],
        ],
    );
}

#[test]
fn yaml_is_the_document_of_json() {
    let daemon = Daemon::start();
    for line in ["list", "list links", "chain show", "image ls", "doctor", "programs list", "state show", "version"] {
        let said = |form: &str| {
            let output = bpfctl(&daemon, &format!("{line} -o {form}").split_whitespace().collect::<Vec<_>>());
            String::from_utf8(output.stdout).unwrap()
        };
        let (json, yaml) = (said("json"), said("yaml"));
        let read: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
        assert_eq!(read, serde_json::from_str::<serde_json::Value>(&json).unwrap(), "{line}");
    }
}

#[test]
fn get_shows_everything_about_one_thing() {
    check(
        "get",
        &[
            &["get", "app", "counter"],
            &["get", "app", "counter", "-o", "json"],
            &["get", "link", "counter/pass@eth0:xdp"],
            &["get", "image", "registry/foo:tag"],
            &["get", "log", "7f3a"],
        ],
    );
}

#[test]
fn chain_show_has_the_members_of_others_too() {
    check(
        "chain",
        &[
            &["chain", "show", "eth0"],
            &["chain", "show", "eth0", "-o", "json"],
            &["chain", "list", "-q"],
            &["chain", "show", "-q"],
            &["chain", "rebuild", "eth0", "--dispatcher-version", "3"],
            &["chain", "rebuild", "eth0", "--dispatcher-version", "3", "--dry-run"],
        ],
    );
}

#[test]
fn changes_say_what_changed() {
    check(
        "changes",
        &[
            &["attach", "counter/pass", "xdp", "-i", "eth0"],
            &["update", "counter/pass@eth0:xdp", "--priority", "0"],
            &["detach", "counter/pass@eth0:xdp"],
            &["detach", "--all", "-i", "eth0"],
            &["detach", "--all", "-i", "eth1"],
            &["unload", "counter"],
            &["unload", "--all"],
            &["unload", "counter", "-o", "json"],
            &["image", "pull", "registry/foo:tag"],
            &["image", "ls"],
            &["image", "verify", "registry/foo:tag"],
            &["image", "rm", "registry/foo:tag"],
        ],
    );
}

#[test]
fn quiet_means_no_progress_in_any_form() {
    let daemon = Daemon::start();
    fs::write(daemon.directory().join("pass.o"), b"not read by a fake").unwrap();
    for line in ["load --path pass.o", "image pull registry/foo:tag"] {
        let said = |options: &str| {
            let output = bpfctl(&daemon, &format!("{line} {options}").split_whitespace().collect::<Vec<_>>());
            assert!(output.status.success() && !output.stdout.is_empty(), "{line} {options}");
            String::from_utf8(output.stderr).unwrap()
        };
        assert_ne!(said(""), "", "{line}");
        assert_ne!(said("-o json"), "", "{line}");
        assert_eq!(said("-q"), "", "{line}");
        assert_eq!(said("-q -o json"), "", "{line}");
    }
}

#[test]
fn a_dry_run_shows_the_steps_of_each_verb_that_changes_something() {
    check(
        "dry_run",
        &[
            &["load", "--path", "pass.o", "--dry-run", "xdp", "-i", "eth0"],
            &["load", "--image", "registry/foo:tag", "xdp", "-i", "eth0", "--dry-run"],
            &["load", "--path", "pass.o", "--dry-run", "-q"],
            &["attach", "counter/pass", "xdp", "-i", "eth0", "--dry-run"],
            &["attach", "counter/pass", "--dry-run", "xdp", "-i", "eth0"],
            &["update", "counter/pass@eth0:xdp", "--priority", "0", "--dry-run"],
            &["detach", "counter/pass@eth0:xdp", "--dry-run"],
            &["unload", "counter", "--dry-run"],
            &["unload", "counter", "--dry-run", "-o", "json"],
        ],
    );
}

#[test]
fn doctor_exits_with_12_only_for_what_is_wrong() {
    check("doctor", &[&["doctor"], &["doctor", "--strict"], &["doctor", "-q"], &["version"]]);
}

#[test]
fn a_decision_about_a_lost_state_says_what_goes_and_wants_consent() {
    check(
        "state",
        &[
            &["state", "show"],
            &["state", "show", "-q"],
            &["state", "show", "-o", "json"],
            &["state", "adopt"],
            &["state", "adopt", "--yes"],
            &["state", "discard"],
            &["state", "discard", "--yes"],
        ],
    );
}

#[test]
fn refusals_have_error_cause_and_hint() {
    let words: Vec<_> = [
        "NOT_FOUND_APP",
        "POLICY_DENIED",
        "VERIFIER_REJECTED",
        "SIGNATURE_REQUIRED",
        "CHAIN_FULL",
        "REGISTRY_UNREACHABLE",
        "KERNEL_LACKS",
    ]
    .into_iter()
    .collect();
    let commands: Vec<Vec<&str>> = words.iter().map(|word| vec!["get", "app", word]).collect();
    let commands: Vec<&[&str]> = commands.iter().map(Vec::as_slice).collect();
    check("refusals", &commands);
}

#[test]
fn every_reason_has_the_exit_code_of_the_table() {
    let daemon = Daemon::start();
    for reason in reason::all() {
        let output = bpfctl(&daemon, &["get", "app", reason.word()]);
        assert_eq!(output.status.code(), Some(i32::from(reason.exit().number())), "{}", reason.word());
        assert!(output.stdout.is_empty(), "{}", reason.word());
    }
}

#[test]
fn a_daemon_that_does_not_answer_in_time_is_exit_10() {
    check("timeout", &[&["get", "app", "never-answers", "--timeout", "1"]]);
}

#[test]
fn a_result_that_nobody_reads_is_no_failure() {
    let daemon = Daemon::start();
    let line = format!("{} list -o json | true; echo ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_bpfctl"));
    let output = Command::new("bash").args(["-c", &line]).env("BPFD_SOCKET", daemon.socket()).output().unwrap();
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (b"0\n".as_slice(), b"".as_slice()));
}

#[test]
fn the_line_of_the_design_asks_for_exactly_that() {
    let daemon = Daemon::start();
    fs::create_dir_all(daemon.directory().join("path/to/xdp")).unwrap();
    let object: Vec<u8> = (0..600_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(daemon.directory().join("path/to/xdp/program"), &object).unwrap();
    let expected = pb::LoadRequest {
        name_hint: Some("program".into()),
        source: Some(load_request::Source::ObjectSha256(fake::OBJECT.into())),
        programs: vec![pb::ProgramSelector { selector: Some(program_selector::Selector::SectionName("pass".into())) }],
        attach: vec![pb::Attachment {
            hook: Some(fake::xdp("wlp2s0")),
            priority: Some(50),
            xdp_mode: pb::XdpMode::Auto.into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let path = "path/to/xdp/program";
    let before = ["load", "--path", path, "--section-name", "pass", "xdp", "-i", "wlp2s0", "--priority", "50"];
    let after = ["load", "xdp", "-i", "wlp2s0", "--priority", "50", "--path", path, "--section-name", "pass"];
    for args in [before, after] {
        assert!(bpfctl(&daemon, &args).status.success());
        assert_eq!(daemon.uploaded(), object);
        let mut request = daemon.load_request();
        assert_eq!(std::mem::take(&mut request.request_id).len(), 36);
        assert_eq!(request, expected);
    }
}

#[test]
fn every_option_of_load_arrives() {
    let daemon = Daemon::start();
    let args = "load --image registry/foo:tag --set a=1 --program one --when-present xdp -i eth0 --netns blue --priority 0 \
                --proceed-on none --mode generic --set b=x=y --section-name two --name app --pull never \
                --map-from writer --map-from uid:5be6254a93b44072ba3c7292f11ee8b8:blocked --map-from #7:seen";
    assert!(bpfctl(&daemon, &args.split_whitespace().collect::<Vec<_>>()).status.success());
    let mut request = daemon.load_request();
    request.request_id.clear();
    let setting = |name: &str, value: &str| pb::GlobalSetting { name: name.into(), value: value.into() };
    let selector = |selector| pb::ProgramSelector { selector: Some(selector) };
    let expected = pb::LoadRequest {
        name: Some("app".into()),
        source: Some(load_request::Source::Image(pb::ImageSource {
            reference: "registry/foo:tag".into(),
            pull: pb::PullPolicy::Never.into(),
        })),
        programs: vec![
            selector(program_selector::Selector::SectionName("two".into())),
            selector(program_selector::Selector::Function("one".into())),
        ],
        globals: vec![setting("a", "1"), setting("b", "x=y")],
        map_from: [("writer", None), ("5be6254a93b44072ba3c7292f11ee8b8", Some("blocked")), ("#7", Some("seen"))]
            .map(|(app, map)| pb::MapSource { app: app.into(), map: map.map(str::to_owned) })
            .into(),
        attach: vec![pb::Attachment {
            hook: Some(pb::Hook {
                hook: Some(pb::hook::Hook::Xdp(pb::XdpHook { netns: Some("blue".into()), interface: "eth0".into() })),
            }),
            priority: Some(0),
            proceed_on: Some(pb::ProceedOn::default()),
            xdp_mode: pb::XdpMode::Generic.into(),
            when_present: true,
            function: None,
        }],
        ..Default::default()
    };
    assert_eq!(request, expected);
}

#[test]
fn a_file_over_16_mib_is_not_sent() {
    let daemon = Daemon::start();
    let file = fs::File::create(daemon.directory().join("big.o")).unwrap();
    file.set_len((16 << 20) + 1).unwrap();
    let output = bpfctl(&daemon, &["load", "--path", "big.o"]);
    let expected = "error: cannot read `big.o`\ncause: an object has at most 16 MiB\n";
    assert_eq!((String::from_utf8_lossy(&output.stderr).as_ref(), output.status.code()), (expected, Some(2)));
    assert!(daemon.uploaded().is_empty());
}

#[test]
fn programs_of_files_are_listed_written_and_waited_for() {
    check(
        "programs",
        &[
            &["programs", "list"],
            &["programs", "export", "counter"],
            &["programs", "wait"],
            &["persist", "counter"],
            &["persist", "counter", "--no-persist", "--dry-run"],
        ],
    );
}

#[test]
fn keygen_writes_a_private_key_for_its_owner_and_never_twice() {
    use std::os::unix::fs::PermissionsExt as _;
    let daemon = Daemon::start();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let key = daemon.directory().join("ci.key");
    assert!(bpfctl(&daemon, &["keygen", "ci.key"]).status.success());
    assert_eq!(mode(&key), 0o600);
    let before = fs::read(&key).unwrap();
    assert_eq!(bpfctl(&daemon, &["keygen", "ci.key"]).status.code(), Some(8));
    assert_eq!(fs::read(&key).unwrap(), before);

    let add = |key: &str| bpfctl(&daemon, &["trust", "add", "ci", "--key", key, "--scope", "registry/bpf/**"]);
    let private = add("ci.key");
    assert_eq!(private.status.code(), Some(2), "a private key is never sent");
    let public = add("ci.key.pub");
    assert_eq!(
        String::from_utf8_lossy(&public.stdout),
        format!("trusted ci (sha256:{}) in /etc/bpfd/policy.d/ci.toml\n", fake::OBJECT)
    );
}

#[test]
fn keygen_leaves_no_half_of_a_pair() {
    let daemon = Daemon::start();
    let at = |name: &str| daemon.directory().join(name);
    let refused = |key: &str, exit: i32| {
        let output = bpfctl(&daemon, &["keygen", key]);
        assert_eq!(output.status.code(), Some(exit), "{key}");
        String::from_utf8(output.stderr).unwrap()
    };
    let exists =
        "cause: the file exists, and a key is never overwritten\nhint: give another name, or move the file away\n";

    fs::write(at("a.key.pub"), "of somebody").unwrap();
    assert_eq!(refused("a.key", 8), format!("error: cannot write the key `a.key.pub`\n{exists}"));
    assert!(!at("a.key").exists());
    assert_eq!(fs::read_to_string(at("a.key.pub")).unwrap(), "of somebody");

    fs::write(at("b.key"), "of somebody").unwrap();
    assert_eq!(refused("b.key", 8), format!("error: cannot write the key `b.key`\n{exists}"));
    assert!(!at("b.key.pub").exists());
    assert_eq!(fs::read_to_string(at("b.key")).unwrap(), "of somebody");

    // 255 bytes are a name, and 259 are none.
    let long = "k".repeat(255);
    refused(&long, 1);
    assert!(!at(&long).exists());
}

/// What bash offers for the last of these words, by the script that `bpfctl completion` prints.
fn offered(daemon: &Daemon, socket: &Path, words: &[&str]) -> Vec<String> {
    let script = r#"source <(bpfctl completion bash); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9
        _clap_complete_bpfctl bpfctl "${COMP_WORDS[COMP_CWORD]}"; printf '%s\n' "${COMPREPLY[@]}""#;
    let programs = Path::new(env!("CARGO_BIN_EXE_bpfctl")).parent().unwrap();
    let out = Command::new("bash")
        .args(["-c", script, "bash", "bpfctl"])
        .args(words)
        .current_dir(daemon.directory())
        .env("BPFD_SOCKET", socket)
        .env("PATH", format!("{}:/usr/bin:/bin", programs.display()))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stderr), "", "{words:?}");
    String::from_utf8(out.stdout).unwrap().lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn a_shell_completes_the_names_of_what_there_is() {
    let daemon = Daemon::start();
    let of = |words: &[&str]| offered(&daemon, &daemon.socket(), words);
    assert_eq!(of(&["unl"]), ["unload"]);
    assert_eq!(of(&["unload", "co"]), ["counter"]);
    assert_eq!(of(&["attach", "counter/"]), ["counter/pass", "counter/trace"]);
    assert_eq!(of(&["detach", "c"]), ["counter/pass@eth0:xdp"]);
    assert_eq!(of(&["load", "--image", "reg"]), ["registry/foo:tag"]);
    assert_eq!(of(&["load", "--path", "x", "xdp", "-i", "l"]), ["lo"]);

    let nobody = daemon.directory().join("nobody.sock");
    assert_eq!(offered(&daemon, &nobody, &["unload", "co"]), Vec::<String>::new());
    assert_eq!(offered(&daemon, &nobody, &["unload", "co", "--socket"]), ["--socket"]);
}
