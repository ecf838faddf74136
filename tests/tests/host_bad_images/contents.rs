//! What is in an image and who signed it.

use std::fs;

use bpfd_tests::{Host, eventually, example};
use bytecode_image::build::BuiltImage;
use bytecode_image::key::{Scheme, SigningKey};
use bytecode_image::media;
use insta::assert_snapshot;
use serde_json::Value;

use crate::world::{Images, altered, image};

/// A layer that GNU tar makes, of files in `/run/layer`.
fn layer(host: &Host, script: &str) -> BuiltImage {
    host.shell(&format!(
        "mkdir /run/layer; cd /run/layer; cp {} bytecode.bpf.o; {script}; tar -cf ../layer.tar *",
        example("xdp-counter")
    ));
    altered(None, Some((media::LAYER_TAR, fs::read(host.path("/run/layer.tar")).unwrap())))
}

#[test]
fn a_signed_image_loads() {
    let images = Images::signed();
    images.host.bpfctl("load --image registry/team/app:1 xdp -i uplink").ok();
    images.host.ping(5);
    assert_eq!(images.host.counted("app"), 5);
}

#[test]
fn a_label_that_contradicts_the_object_is_refused() {
    let images = Images::new();
    let config = String::from_utf8(image().config).unwrap();
    assert!(config.contains(r#"\"name\":\"count\""#), "{config}");
    let config = config.replace(r#"\"name\":\"count\""#, r#"\"name\":\"other\""#);
    images.publish("open/app", &altered(Some(config.into_bytes()), None));
    assert_snapshot!(images.refuses(1, "registry/open/app:1"), @"
    error: the image does not match its labels
    cause: label contradicts the object: it lists program `other`, which the object does not have; it has: count
    hint: the image must be rebuilt: `bpfctl image build` takes the labels from the object
    ");
}

#[test]
fn a_layer_of_200_mib_of_zeros_is_refused() {
    let images = Images::new();
    images.registry.put_zeros("open/zeros").unwrap();
    assert_snapshot!(images.refuses(1, "registry/open/zeros"), @"
    error: cannot take the object from the image's layer
    cause: decompression bomb: a layer of 954458 bytes decodes to more than 33554432
    hint: build it with `bpfctl image build`
    ");
}

#[test]
fn a_layer_with_two_objects_is_refused() {
    let images = Images::new();
    images.publish("open/app", &layer(&images.host, "cp bytecode.bpf.o second.bpf.o"));
    assert_snapshot!(images.refuses(1, "registry/open/app:1"), @"
    error: cannot take the object from the image's layer
    cause: layer has two ELF files, `bytecode.bpf.o` and `second.bpf.o`: an image carries one object
    hint: build it with `bpfctl image build`
    ");
}

#[test]
fn a_layer_with_a_symlink_is_refused() {
    let images = Images::new();
    images.publish("open/app", &layer(&images.host, "mv bytecode.bpf.o z; ln -s /etc/shadow bytecode.bpf.o"));
    assert_snapshot!(images.refuses(1, "registry/open/app:1"), @"
    error: cannot take the object from the image's layer
    cause: tar entry `bytecode.bpf.o` is a symlink or hard link: a layer has only regular files and directories
    hint: build it with `bpfctl image build`
    ");
}

#[test]
fn an_image_that_nobody_signed_is_refused() {
    let images = Images::new();
    images.publish("team/app", &image());
    assert_snapshot!(images.refuses(6, "registry/team/app:1"), @"
    error: image `registry/team/app:1` (sha256:SHA256) is refused by policy
    cause: it is not signed, and scope `registry/team/**` requires 1 of the signers `ci`
    hint: have it signed by `ci`: `bpfctl image sign registry/team/app@sha256:SHA256 --key FILE`
    ");
    images.sign("team/app", &images.key);
    images.host.bpfctl("load --image registry/team/app:1").ok();
}

#[test]
fn an_image_that_somebody_else_signed_is_refused() {
    let images = Images::new();
    images.publish("team/app", &image());
    images.sign("team/app", &SigningKey::generate(Scheme::P256).unwrap());
    assert_snapshot!(images.refuses(6, "registry/team/app:1"), @"
    error: image `registry/team/app:1` (sha256:SHA256) is refused by policy
    cause: 0 of 1 required signatures count (scope `registry/team/**`, signers `ci`); signature 1 (legacy): no key of these signers made it
    hint: have it signed by `ci`: `bpfctl image sign registry/team/app@sha256:SHA256 --key FILE`
    ");
    images.sign("team/app", &images.key);
    images.host.bpfctl("load --image registry/team/app:1").ok();
}

#[test]
fn an_image_that_no_scope_of_the_policy_speaks_of_is_refused() {
    let images = Images::new();
    images.publish("else/app", &image());
    assert_snapshot!(images.refuses(6, "registry/else/app:1"), @"
    error: image `registry/else/app:1` (sha256:SHA256) is refused by policy
    cause: no `[[image]]` section of the policy has a scope for it
    hint: if you trust who signs it, run `bpfctl trust add NAME --key FILE --scope registry/else/app`
    ");
    images.sign("else/app", &images.key);
    let key = format!("{}/ci.pub", crate::world::ETC);
    images.host.bpfctl(&format!("trust add other --key {key} --scope registry/else/app")).ok();
    images.host.bpfctl("load --image registry/else/app:1").ok();
}

#[test]
fn a_member_of_the_group_loads_signed_images_behind_roots_programs() {
    let images = Images::signed();
    let member = |line: &str| images.host.bpfctl_as_member(line);
    let load = "load -q --image registry/team/app:1 xdp -i uplink";
    assert_snapshot!(images.refused(4, || member(&format!("{load} --priority 99"))), @"
    error: member may not attach
    cause: priority 99 is below 100: lower priorities are reserved for root
    hint: ask for a priority from 100 to 1000
    ");
    // The priority that nobody asked for is known when the image is here.
    assert_snapshot!(images.host.unchanged(|| member(load)).refused(4), @"
    error: member may not attach
    cause: priority 50 is below 100: lower priorities are reserved for root
    hint: ask for a priority from 100 to 1000
    ");
    member(&format!("{load} --priority 100")).ok();
    let move_it = |priority: u32| member(&format!("update app/count@uplink:xdp --priority {priority}"));
    assert_snapshot!(images.refused(4, || move_it(10)), @"
    error: member may not update
    cause: priority 10 is below 100: lower priorities are reserved for root
    hint: ask for a priority from 100 to 1000
    ");
    move_it(200).ok();
    member("unload app").ok();
}

#[test]
fn all_that_a_member_of_the_group_takes_away_is_its_own() {
    let images = Images::signed();
    let member = |line: &str| images.host.bpfctl_as_member(line);
    let load = "load -q --image registry/team/app:1";
    images.host.bpfctl(&format!("{load} --name roots xdp -i uplink")).ok();
    member(&format!("{load} --name mine xdp -i uplink --priority 100")).ok();
    assert_snapshot!(member("detach --all -i uplink").to_string(), @"
    $ bpfctl detach --all -i uplink
    detached mine/count@uplink:xdp
    --- stderr
    warning: link `roots/count@uplink:xdp` was not removed: it belongs to root
    hint: ask its owner, or root
    ");
    assert_snapshot!(images.host.bpfctl("list").ok(), @"
    PROGRAM      TYPE  HOOK        PRIO  POS  STATE
    mine/count   xdp   -           -     -    LOADED
    roots/count  xdp   uplink:xdp  50    1    ATTACHED
    ");
    assert_snapshot!(member("unload --all").to_string(), @"
    $ bpfctl unload --all
    unloaded mine
    --- stderr
    warning: app `roots` was not removed: it belongs to root
    hint: ask its owner, or root
    ");
    assert_snapshot!(images.host.bpfctl("list").ok(), @"
    PROGRAM      TYPE  HOOK        PRIO  POS  STATE
    roots/count  xdp   uplink:xdp  50    1    ATTACHED
    ");
    // The control: root takes all.
    assert_snapshot!(images.host.bpfctl("unload --all").ok(), @"
    detached roots/count@uplink:xdp
    unloaded roots
    ");
}

#[test]
fn an_image_that_the_policy_refuses_is_on_record() {
    let images = Images::new();
    let digest = images.publish("team/app", &image());
    let reference = "registry/team/app:1";
    let ask = || images.host.bpfctl_as_member(&format!("load -q --image {reference} xdp -i uplink"));
    images.refused(6, ask);
    images.sign("team/app", &images.key);
    // The control: what is let through is no refusal, and says whose word was taken for it.
    images.host.bpfctl(&format!("load -q --image {reference} xdp -i uplink")).ok();
    let let_through = format!("image `{reference}`, {digest}, signed by `ci`");
    let says = |record: &Value| record["changes"][0].as_str().is_some_and(|load| load.ends_with(&let_through));
    assert!(images.records().iter().any(says), "{:?}", images.records());
    images.host.bpfctl("unload app").ok();
    // From the store, where nobody is asked.
    fs::write(images.host.path("/run/case/etc/bpfd/policy.toml"), "version = 1\n").unwrap();
    images.host.shell(&format!("kill -HUP {}", images.host.pid()));
    let reloads = |records: &Vec<Value>| {
        let begun = records.iter().any(|record| record["changes"][0] == "read the policy again, by a signal");
        begun && records.last().is_some_and(|last| last["record"] == "end")
    };
    assert!(reloads(&eventually(|| images.records(), reloads)));
    images.refused(6, || images.host.bpfctl(&format!("load -q --image {reference} --pull never")));
    let records = images.records();
    let denied: Vec<_> = records.iter().filter(|record| record["record"] == "denied").collect();
    let text = |record: &Value, key: &str| record[key].as_str().unwrap().to_owned();
    let told: Vec<String> = denied
        .iter()
        .map(|record| {
            let parts = ["principal", "verb", "image", "digest", "why"].map(|key| text(record, key));
            parts.join(" | ").replace(&digest.to_string(), "DIGEST")
        })
        .collect();
    assert_snapshot!(told.join("\n"), @"
    member | load | registry/team/app:1 | DIGEST | it is not signed, and scope `registry/team/**` requires 1 of the signers `ci`
    root | load | registry/team/app:1 | DIGEST | no `[[image]]` section of the policy has a scope for it
    ");
}
