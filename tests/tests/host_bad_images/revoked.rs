//! A policy that changes while a load waits: the load is judged again, by the policy of then. Each load is held, after its image was
//! judged and its programs were verified, by a fail point that waits for a FIFO.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::thread;

use bpfd_tests::{Output, eventually};
use bytecode_image::key::{Scheme, SigningKey};
use insta::assert_snapshot;
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::world::{ETC, Images, image};

const FIFO: &str = "/run/hold";
const LOAD: &str = "load -q --image registry/team/app:1 xdp -i uplink --priority 100";

/// A host with a signed image `registry/team/app:1`, whose daemon holds each load.
fn holding() -> Images {
    let mut images = Images::signed();
    images.host.shell(&format!("mkfifo {FIFO}"));
    images.host.stop();
    images.host.start_with(&[("FAILPOINTS", &format!("load-made=return({FIFO})"))]);
    images
}

/// Asks for a load, which is held until `meanwhile` has changed the daemon's files, if any, and the daemon has read them.
fn held(images: &Images, ask: impl Fn() -> Output, meanwhile: &[(&str, Option<&str>)]) -> Output {
    let (fifo, daemon) = (images.host.path(FIFO), Pid::from_raw(images.host.pid().try_into().unwrap()).unwrap());
    let log = images.host.path("/run/case/var/log/bpfd/audit.jsonl");
    let files = meanwhile.iter().map(|(file, text)| (images.host.path(&format!("{ETC}/{file}")), *text));
    let files: Vec<_> = files.collect();
    let records = || -> Vec<Value> {
        let text = fs::read_to_string(&log).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let reloads = |records: &[Value]| records.iter().filter(|record| is_reload(record)).count();
    let change = || {
        let before = reloads(&records());
        for (path, text) in &files {
            match text {
                Some(text) => fs::write(path, text).unwrap(),
                None => fs::remove_file(path).unwrap(),
            }
        }
        kill_process(daemon, Signal::HUP).unwrap();
        let done = |records: &Vec<Value>| {
            reloads(records) > before
                && records.last().is_some_and(|last| last.get("result").is_some_and(|result| result == "done"))
        };
        assert!(done(&eventually(records, done)));
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            // There is a reader once the load comes to the point; it goes on when there is no writer any more.
            let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
            let open = || OpenOptions::new().write(true).custom_flags(flags).open(&fifo);
            let _held = eventually(open, Result::is_ok).unwrap();
            if !files.is_empty() {
                change();
            }
        });
        let said = ask();
        other.join().unwrap();
        said
    })
}

fn is_reload(record: &Value) -> bool {
    record.pointer("/changes/0").is_some_and(|change| change == "read the policy again, by a signal")
}

/// The last record, which is of a refused load.
fn last_denied(images: &Images) -> String {
    let last = images.records().pop().unwrap();
    let text = |key: &str| last.get(key).and_then(Value::as_str).unwrap_or("-");
    assert_eq!(text("record"), "denied", "{last}");
    ["principal", "verb", "image", "why"].map(text).join(" | ")
}

#[test]
fn a_key_that_is_revoked_during_a_load_does_not_count() {
    let images = holding();
    let root = || images.host.bpfctl(LOAD);
    // The control: a load that is held while nothing changes.
    held(&images, root, &[]).ok();
    images.host.bpfctl("unload app").ok();
    // The signer has the same name, and another key.
    let other = SigningKey::generate(Scheme::P256).unwrap().public().to_pem();
    let revoked = [("ci.pub", Some(other.as_str()))];
    assert_snapshot!(images.host.unchanged(|| held(&images, root, &revoked)).refused(6), @"
    error: image `registry/team/app:1` (sha256:SHA256) is refused by policy
    cause: 0 of 1 required signatures count (scope `registry/team/**`, signers `ci`); signature 1 (legacy): no key of these signers made it
    hint: have it signed by `ci`: `bpfctl image sign registry/team/app@sha256:SHA256 --key FILE`
    ");
    assert_snapshot!(last_denied(&images), @"root | load | registry/team/app:1 | 0 of 1 required signatures count (scope `registry/team/**`, signers `ci`); signature 1 (legacy): no key of these signers made it");
}

#[test]
fn trust_that_is_taken_back_during_a_load_does_not_count() {
    let images = holding();
    images.publish("else/app", &image());
    images.sign("else/app", &images.key);
    images.host.bpfctl(&format!("trust add other --key {ETC}/ci.pub --scope registry/else/app")).ok();
    let member = || images.host.bpfctl_as_member(&LOAD.replace("team", "else"));
    let gone = [("policy.d/other.toml", None)];
    assert_snapshot!(images.host.unchanged(|| held(&images, member, &gone)).refused(6), @"
    error: image `registry/else/app:1` (sha256:SHA256) is refused by policy
    cause: no `[[image]]` section of the policy has a scope for it
    hint: if you trust who signs it, run `bpfctl trust add NAME --key FILE --scope registry/else/app`
    ");
    assert_snapshot!(last_denied(&images), @"member | load | registry/else/app:1 | no `[[image]]` section of the policy has a scope for it");
}

#[test]
fn what_was_verified_for_a_signature_is_not_loaded_as_unsigned() {
    let images = holding();
    let open = "version = 1\n[[image]]\nscope = \"registry/team/**\"\nunsigned = \"allow\"\n";
    let member = || images.host.bpfctl_as_member(LOAD);
    let opened = [("policy.toml", Some(open))];
    assert_snapshot!(images.host.unchanged(|| held(&images, member, &opened)).refused(4), @"
    error: member may not load
    cause: the policy changed during the load, and no signature counts any more
    hint: load it again: it is then verified as an unsigned image
    ");
    assert_snapshot!(last_denied(&images), @"member | load | - | the policy changed during the load, and no signature counts any more");
    // The control: root's bytes may reach as far without a signature, and are on record as what they are by then.
    let images = holding();
    held(&images, || images.host.bpfctl(LOAD), &opened).ok();
    let records = images.records();
    let mut changes = records.iter().filter_map(|record| record["changes"][0].as_str());
    let load = changes.find(|change| change.starts_with("load ")).unwrap();
    assert!(load.contains("unsigned"), "{load}");
}
