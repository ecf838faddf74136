//! Images out of one store and into another as archives, and under other names: what is judged is what a pull judges, and what is refused
//! leaves nothing.

use std::fs;

use bytecode_image::key::{Scheme, SigningKey};
use insta::assert_snapshot;

use crate::world::{ETC, Images, image, image_of};

const FILE: &str = "/run/case/a.tar";

fn stored(images: &Images) -> String {
    images.host.bpfctl("image ls -q").ok()
}

/// A host with the image of another host's store in a file, and nothing in its own.
fn carried() -> Images {
    let images = Images::signed();
    images.host.bpfctl("image pull -q registry/team/app:1").ok();
    images.host.bpfctl(&format!("image export registry/team/app:1 --to {FILE}")).ok();
    images.host.bpfctl("image prune").ok();
    assert_eq!(stored(&images), "");
    images
}

#[test]
fn an_exported_image_is_imported_and_loaded_without_its_registry() {
    let images = carried();
    let digest = images.registry.tag("team/app", "1").unwrap();
    assert_eq!(images.host.bpfctl(&format!("image import -q {FILE}")).ok(), "registry/team/app:1\n");
    images.host.bpfctl("load -q --image registry/team/app:1 --pull never --name app xdp -i uplink").ok();
    assert_eq!(images.host.items("image ls")[0]["digest"], digest.to_string());
    // The same store gives the same bytes.
    let before = fs::read(images.host.path(FILE)).unwrap();
    images.host.bpfctl(&format!("image export registry/team/app:1 --to {FILE}")).ok();
    assert!(before == fs::read(images.host.path(FILE)).unwrap());
}

#[test]
fn what_the_policy_refuses_is_not_imported() {
    let images = carried();
    let other = SigningKey::generate(Scheme::Ed25519).unwrap();
    fs::write(images.host.path(&format!("{ETC}/ci.pub")), other.public().to_pem()).unwrap();
    images.host.bpfctl("policy reload").ok();
    let import = || images.host.bpfctl(&format!("image import {FILE}"));
    assert!(
        images.refused(6, import).contains("cause: image `registry/team/app:1` (sha256:SHA256) is refused by policy")
    );
    let elsewhere = || images.host.bpfctl(&format!("image import {FILE} --tag registry/else/app:1"));
    assert!(images.refused(6, elsewhere).contains("no `[[image]]` section of the policy has a scope for it"));
    let bytes = fs::read(images.host.path(FILE)).unwrap();
    fs::write(images.host.path(FILE), &bytes[..bytes.len() / 2]).unwrap();
    let truncated = images.refused(1, import);
    assert!(truncated.contains("the archive is refused: the archive is truncated"), "{truncated}");
}

/// A user of the group `bpfd`: it may pull, and so import and tag.
const MEMBER: u32 = 4731;

#[test]
fn a_member_brings_only_what_is_signed_and_moves_no_name() {
    let images = carried();
    let group = images.host.shell("getent group bpfd | cut -d: -f3").trim().parse().unwrap();
    let member = |line: &str| images.host.bpfctl_as(MEMBER, MEMBER, &[group], line);
    assert_eq!(member(&format!("image import -q {FILE}")).ok(), "registry/team/app:1\n");
    // An archive that says that it is another image of an open repository is the member's own word.
    let open = || member(&format!("image import {FILE} --tag registry/open/app:1"));
    assert_snapshot!(images.refused(4, open), @"
    error: cannot import `registry/open/app:1`
    cause: only root may bring `registry/open/app:1`: its scope of the policy asks for no signature, and no registry vouches for it
    hint: ask root to do it, or pull the image from its registry
    ");
    images.publish("team/app", &image_of(&bpfd_tests::example("xdp-pass")));
    images.sign("team/app", &images.key);
    images.host.bpfctl("image pull -q registry/team/app:1").ok();
    assert_snapshot!(images.refused(4, || member(&format!("image import {FILE}"))), @"
    error: cannot import `an archive`
    cause: only root may let `registry/team/app:1` lead to another image than sha256:SHA256: no registry says that it does
    hint: ask root to do it, or pull the image from its registry
    ");
    assert_snapshot!(images.refused(4, || images.host.bpfctl_as(MEMBER, MEMBER, &[], &format!("image import {FILE}"))), @"
    error: cannot reach bpfd at `/run/case/run/bpfd/bpfd.sock`
    cause: you may not open the socket
    hint: run as root, or as a member of the group `bpfd`; members of `bpfd-view` may look
    ");
    // Root decides otherwise.
    images.host.bpfctl(&format!("image import -q {FILE}")).ok();
}

#[test]
fn a_new_name_is_judged_like_an_image_that_is_pulled_by_it() {
    let images = Images::signed();
    images.publish("open/app", &image());
    for name in ["registry/team/app:1", "registry/open/app:1"] {
        images.host.bpfctl(&format!("image pull -q {name}")).ok();
    }
    let tag = |from: &str, to: &str| images.host.bpfctl(&format!("image tag -q {from} {to}"));
    assert_eq!(tag("registry/team/app:1", "registry/team/app:stable").ok(), "registry/team/app:stable\n");
    images.host.bpfctl("load -q --image registry/team/app:stable --pull never --name app").ok();
    // Signed for another repository, not signed at all, and of no scope.
    let before = stored(&images);
    for (from, to) in [
        ("registry/team/app:1", "registry/team/other:1"),
        ("registry/open/app:1", "registry/team/new:1"),
        ("registry/open/app:1", "registry/else/app:1"),
    ] {
        images.refused(6, || tag(from, to));
    }
    assert_eq!(stored(&images), before);
    assert_snapshot!(images.refused(3, || tag("registry/team/none:1", "registry/team/app:2")), @"
    error: cannot tag `registry/team/none:1`
    cause: the image store has no `registry/team/none:1`
    hint: `bpfctl image ls` lists the stored images; `bpfctl image pull REFERENCE` adds one
    ");
}
