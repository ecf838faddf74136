//! A registry that changes what a tag names between two questions of one pull, and a caller that never reads what a pull tells it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytecode_image::testing::registry::Mode;

use crate::raw::conversation;
use crate::world::{Images, image};

#[test]
fn a_tag_that_moves_within_a_pull_changes_nothing() {
    let images = Images::signed();
    images.publish("open/app", &image());
    images.host.bpfctl("image pull -q registry/open/app:1").ok();
    // Each answer has another manifest: the one that HEAD announced cannot be had any more.
    images.registry.behave("open/app", Mode::Changing);
    let said = images.refused(3, || images.host.bpfctl("image pull -q registry/open/app:1"));
    assert!(said.contains("`REGISTRY` has no manifest `sha256:"), "{said}");
    // What nobody signed is refused, whatever it was a moment ago.
    images.registry.behave("team/app", Mode::Changing);
    let said = images.refuses(6, "registry/team/app:1");
    assert!(said.contains("it is not signed"), "{said}");
    images.registry.behave("team/app", Mode::Honest);
    images.host.bpfctl("load -q --image registry/team/app:1 xdp -i uplink").ok();
}

/// A pull over HTTP/2 (RFC 9113) whose answers have no room: a window of 0 bytes that never grows.
fn unread(images: &Images, reference: &str) -> UnixStream {
    let reference = [&[u8::try_from(reference.len()).unwrap()], reference.as_bytes()].concat();
    // SETTINGS_INITIAL_WINDOW_SIZE is 0.
    let all =
        conversation("/bpfd.v1.ImageService/Pull", &[0, 4, 0, 0, 0, 0], &[&[0x12], reference.as_slice()].concat());
    let mut stream = UnixStream::connect(images.host.path("/run/case/run/bpfd/bpfd.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(&all).unwrap();
    stream
}

#[test]
fn callers_that_read_nothing_hold_nobody_up() {
    let mut images = Images::signed();
    let deaf: Vec<UnixStream> = (0..40).map(|_| unread(&images, "registry/team/app:1")).collect();
    // Each was heard: the daemon's own settings came.
    for mut stream in &deaf {
        stream.read_exact(&mut [0; 9]).unwrap();
    }
    images.host.bpfctl("image pull -q registry/team/app:1 --timeout 30").ok();
    images.host.bpfctl("load -q --image registry/team/app:1 xdp -i uplink --timeout 30").ok();
    images.host.bpfctl("unload app").ok();
    images.host.stop();
    drop(deaf);
    images.host.start();
}
