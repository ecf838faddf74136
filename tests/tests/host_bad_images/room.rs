//! What goes from the image store, by itself and when it is asked for; and what stays because something needs it.

use std::fs;

use bytecode_image::build::BuiltImage;
use insta::assert_snapshot;

use crate::world::{ETC, Images, image, image_of};

/// Images `loaded`, `declared` and `spare`; an app came from the first, a file of programs.d names the second.
fn three() -> Images {
    let images = Images::new();
    for name in ["loaded", "declared", "spare"] {
        images.publish(&format!("open/{name}"), &image());
        images.host.bpfctl(&format!("image pull -q registry/open/{name}:1")).ok();
    }
    images.host.bpfctl("load -q --image registry/open/loaded:1").ok();
    fs::create_dir(images.host.path(&format!("{ETC}/programs.d"))).unwrap();
    images
}

const DECLARED: &str = "version = 1\n[[program]]\nname = \"declared\"\nimage = \"registry/open/declared:1\"\n";

fn stored(images: &Images) -> String {
    images.host.bpfctl("image ls -q").ok()
}

#[test]
fn what_an_app_or_a_boot_file_needs_is_not_pruned() {
    let mut images = three();
    let file = images.host.path(&format!("{ETC}/programs.d/a.toml"));
    fs::write(&file, DECLARED).unwrap();
    images.host.stop();
    images.host.start();
    assert_snapshot!(images.host.bpfctl("image prune --dry-run").ok(), @"
    would remove registry/open/spare:1
    would free at most 3.75 KiB
    ");
    assert_eq!(stored(&images).lines().count(), 3);
    // Its blobs are those of the others.
    assert_snapshot!(images.host.bpfctl("image prune").ok(), @"
    removed registry/open/spare:1
    freed 0 B
    ");
    let kept = "registry/open/declared:1\nregistry/open/loaded:1\n";
    assert_eq!(stored(&images), kept);
    // A file that cannot be read may have named anything.
    images.host.bpfctl("unload --all").ok();
    fs::write(&file, "version = 1\n[[program]]\n").unwrap();
    images.host.stop();
    images.host.start();
    images.host.bpfctl("image prune").ok();
    assert_eq!(stored(&images), kept);
}

#[test]
fn a_store_that_is_too_large_loses_what_was_used_longest_ago() {
    let mut images = Images::new();
    let built = |example: &str| image_of(&bpfd_tests::example(example));
    let bytes = |image: &BuiltImage| image.manifest.len() + image.config.len() + image.layer.len();
    let (first, second, third) = (built("xdp-counter"), built("xdp-drop-port"), built("xdp-pass"));
    for (name, image) in [("first", &first), ("second", &second), ("third", &third)] {
        images.publish(&format!("open/{name}"), image);
    }
    // Room for all three but one byte.
    let quota = bytes(&first) + bytes(&second) + bytes(&third) - 1;
    images.host.stop();
    images.host.start_with(&[("FAILPOINTS", &format!("image-quota=return({quota})"))]);
    for name in ["first", "second", "first"] {
        images.host.bpfctl(&format!("image pull -q --pull if-not-present registry/open/{name}:1")).ok();
    }
    images.host.bpfctl("image pull -q registry/open/third:1").ok();
    assert_eq!(stored(&images), "registry/open/first:1\nregistry/open/third:1\n");
    // What an app came from stays, although it was used longest ago.
    images.host.bpfctl("load -q --image registry/open/first:1 --pull never").ok();
    images.host.bpfctl("image pull -q --pull always registry/open/third:1").ok();
    images.host.bpfctl("image pull -q registry/open/second:1").ok();
    assert_eq!(stored(&images), "registry/open/first:1\nregistry/open/second:1\n");
}
