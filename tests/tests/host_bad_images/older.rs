//! `forbid_downgrade`: what was let through before stays the oldest that is; and how the daemon explains its decisions.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;

use bpfd_tests::example;
use bytecode_image::build::{self, BuiltImage, Recipe};
use bytecode_image::metadata::Metadata;
use bytecode_image::resolve::Platform;
use insta::assert_snapshot;

use crate::world::{ETC, Images};

const POLICY: &str = "version = 1\n[[image]]\nscope = \"registry\"\nunsigned = \"allow\"\n\
    [[image]]\nscope = \"registry/open/**\"\nunsigned = \"allow\"\nforbid_downgrade = true\n";

/// The counter as a version; `built` tells images of one version apart.
fn release(version: Option<&str>, built: u32) -> BuiltImage {
    let object = fs::read(example("xdp-counter")).unwrap();
    let architecture = Platform::host(None).architecture.parse().unwrap();
    let metadata =
        Metadata { name: Some("counter".parse().unwrap()), version: version.map(str::to_owned), ..Metadata::default() };
    let epoch = Some(built);
    build::build(&Recipe { object: &object, path: "x.bpf.o", architecture: &architecture, metadata: &metadata, epoch })
        .unwrap()
}

fn forbidding() -> Images {
    let images = Images::new();
    policy(&images, POLICY);
    images
}

fn policy(images: &Images, text: &str) {
    fs::write(images.host.path(&format!("{ETC}/policy.toml")), text).unwrap();
    images.host.bpfctl("policy reload").ok();
}

#[test]
fn an_older_image_than_the_last_one_is_refused_until_the_policy_allows_it() {
    let mut images = forbidding();
    images.publish("open/app", &release(Some("1.4.0"), 1));
    images.host.bpfctl("image pull -q registry/open/app:1").ok();
    // Another tag of the repository is the same name.
    let digest = |images: &Images| images.registry.tag("open/app", "1").unwrap().to_string();
    images.publish("open/app", &release(Some("1.3.9"), 1));
    assert_snapshot!(images.refuses(6, "registry/open/app:1"), @"
    error: image `registry/open/app:1` (sha256:SHA256) is refused by policy: it is a downgrade
    cause: its version 1.3.9 is older than 1.4.0, the last one of this name here
    hint: to go back, take `forbid_downgrade` out of its `[[image]]`, load the image, and write it in again
    ");
    images.publish("open/app", &release(Some("1.4.0"), 2));
    let other = digest(&images);
    assert_snapshot!(images.refuses(6, &format!("registry/open/app@{other}")), @"
    error: image `registry/open/app@sha256:SHA256` (sha256:SHA256) is refused by policy: it is a downgrade
    cause: version 1.4.0 of this name was another image here: sha256:SHA256
    hint: to go back, take `forbid_downgrade` out of its `[[image]]`, load the image, and write it in again
    ");
    images.publish("open/app", &release(None, 1));
    assert_snapshot!(images.refuses(6, "registry/open/app:1"), @r#"
    error: image `registry/open/app:1` (sha256:SHA256) is refused by policy: it is a downgrade
    cause: its label has no `version`
    hint: write `version = "MAJOR.MINOR.PATCH"` into bytecode.toml, and build the image again
    "#);
    // A start and what runs do not fall back either.
    images.publish("open/app", &release(Some("1.5.0-rc.1"), 1));
    images.host.bpfctl("load -q --image registry/open/app:1 --name new xdp -i uplink").ok();
    images.host.stop();
    images.host.start();
    images.publish("open/app", &release(Some("1.4.0"), 1));
    images.refuses(6, "registry/open/app:1");
    // An administrator goes back.
    policy(&images, &POLICY.replace("forbid_downgrade = true", ""));
    images.host.bpfctl("image pull -q registry/open/app:1").ok();
    policy(&images, POLICY);
    images.host.bpfctl("load -q --image registry/open/app:1 --name old").ok();
}

#[test]
fn a_load_that_fails_and_a_dry_run_move_nothing_forward() {
    let images = forbidding();
    images.publish("open/app", &release(Some("1.0.0"), 1));
    images.host.bpfctl("load -q --image registry/open/app:1 --name one").ok();
    images.publish("open/app", &release(Some("2.0.0"), 1));
    images.host.bpfctl("load -q --image registry/open/app:1 --dry-run").ok();
    images.host.bpfctl("load -q --image registry/open/app:1 --name one").refused(8);
    images.publish("open/app", &release(Some("1.0.0"), 1));
    images.host.bpfctl("load -q --image registry/open/app:1 --name again").ok();
}

#[test]
fn a_daemon_that_ends_right_after_a_load_has_not_forgotten_its_release() {
    let mut images = forbidding();
    images.publish("open/app", &release(Some("1.0.0"), 1));
    images.host.bpfctl("load -q --image registry/open/app:1 --name one").ok();
    images.host.stop();
    images.host.start_with(&[("FAILPOINTS", "load-committed=return")]);
    images.publish("open/app", &release(Some("2.0.0"), 1));
    // Nobody is answered; the app is there at the next start.
    drop(images.host.bpfctl("load -q --image registry/open/app:1 --name two"));
    assert_eq!(images.host.wait().signal(), Some(9));
    images.host.start();
    images.publish("open/app", &release(Some("1.0.0"), 1));
    images.refuses(6, "registry/open/app:1");
    // One that failed is no release that was let through, even if the daemon ended before it could say so.
    images.host.stop();
    images.host.start_with(&[("FAILPOINTS", "load-committed=return")]);
    images.publish("open/app", &release(Some("3.0.0"), 1));
    drop(images.host.bpfctl("load -q --image registry/open/app:1 --name two"));
    assert_eq!(images.host.wait().signal(), Some(9));
    images.host.start();
    images.publish("open/app", &release(Some("2.0.0"), 1));
    images.host.bpfctl("load -q --image registry/open/app:1 --name again").ok();
}

#[test]
fn the_daemon_explains_each_section_and_requirement() {
    let images = forbidding();
    images.publish("open/app", &release(Some("1.4.0"), 1));
    images.host.bpfctl("image pull -q registry/open/app:1").ok();
    assert_snapshot!(images.host.bpfctl("image verify registry/open/app:1 --explain").ok(), @r#"
    digest:   sha256:SHA256
    trusted:  yes
    scope:    registry/open/**
    signers:  -

    `registry/open/app:1` is sha256:SHA256 in the image store
    no signatures are stored with it
    scope `registry/open/**` of the policy applies to it
    the scope asks for no signature

    SCOPE             OUTCOME  REQUIREMENT              WHY
    registry/open/**  decides  -                        it is the most specific scope for this reference
                      holds    unsigned = "allow"       no signature is asked for
                      holds    forbid_downgrade = true  its version is not older than the last one of its name here
    registry          -        -                        scope `registry/open/**` is more specific
    "#);
    let short = images.host.bpfctl("image verify registry/open/app:1 -o json").ok();
    assert!(short.contains("\"sections\": []"), "{short}");
}
