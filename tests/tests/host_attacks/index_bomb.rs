//! A registry with no key to sign with, around an image that somebody else signed: an index that leads to indexes. What it costs must
//! not depend on what the documents say of each other.

use std::fs;

use bytecode_image::build::BuiltImage;
use bytecode_image::digest::{Descriptor, Digest};
use bytecode_image::media;
use bytecode_image::reference::Reference;
use bytecode_image::resolve::Platform;
use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::world::{Images, image};

/// Entries of each index: as many as an honest one may have, at most.
const BRANCHES: usize = 60;
/// Levels below the index that the tag names: followed to their ends these are 60^6 look-ups.
const LEVELS: usize = 5;

fn index(entries: &[Value]) -> Vec<u8> {
    json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": entries}).to_string().into_bytes()
}

fn entry(media_type: &str, bytes: &[u8], os: &str) -> Value {
    let mut entry = json!(Descriptor::of(media_type, bytes));
    entry["platform"] = json!({"os": os, "architecture": Platform::host(None).architecture});
    entry
}

/// Tags `evil` in the image's repository: an index of indexes that ends in the image for this machine. The indexes come along as the
/// payloads of signatures, which are kept whoever made them.
fn plant(images: &Images, image: &BuiltImage, branches: usize, levels: usize) {
    let nowhere = (0..branches).map(|number| entry(media::MANIFEST, &number.to_le_bytes(), "windows"));
    let mut below = vec![index(&nowhere.collect::<Vec<_>>())];
    for level in 1..levels {
        below.push(index(&vec![entry(media::INDEX, &below[level - 1], "windows"); branches]));
    }
    let mut entries = vec![entry(media::INDEX, below.last().unwrap(), "windows"); branches - 1];
    entries.push(entry(media::MANIFEST, &image.manifest, "linux"));
    let top = index(&entries);
    images.registry.put_manifest("team/app", "evil", media::INDEX, &top);
    let layer = |bytes: &Vec<u8>| {
        images.registry.put_blob(bytes);
        let mut layer = json!(Descriptor::of(media::SIMPLE_SIGNING, bytes));
        layer["annotations"] = json!({media::ANNOTATION_SIGNATURE: "AAAA"});
        layer
    };
    let layers: Vec<Value> = below.iter().map(layer).collect();
    images.registry.put_blob(b"{}");
    let config = Descriptor::of(media::CONFIG, b"{}");
    let signatures = json!({"schemaVersion": 2, "mediaType": media::MANIFEST, "config": config, "layers": layers});
    let reference: Reference = "registry/team/app:evil".parse().unwrap();
    let place = reference.signatures(Digest::of(&top));
    let signatures = signatures.to_string().into_bytes();
    images.registry.put_manifest("team/app", place.tag().unwrap(), media::MANIFEST, &signatures);
}

#[test]
fn an_index_that_leads_to_indexes_holds_nobody_up() {
    let mut images = Images::signed();
    plant(&images, &image(), BRANCHES, LEVELS);
    let evil = images.host.bpfctl("image pull registry/team/app:evil --timeout 30");
    // The store is free for others: to take in, to list, to remove.
    images.host.bpfctl("image pull registry/team/app:1 --timeout 30").ok();
    assert_eq!(evil.code, 0, "what is honest in it is served: {evil}");
    images.host.bpfctl("load -q --image registry/team/app:evil xdp -i uplink").ok();
    // And the daemon ends when it is asked to, and starts again beside what is kept.
    images.host.stop();
    images.host.start();
    assert_eq!(images.host.items("image ls").len(), 2);
    images.host.bpfctl("unload app").ok();
    images.host.bpfctl("image rm registry/team/app:evil registry/team/app:1").ok();
    let blobs = fs::read_dir(images.host.path("/run/case/var/lib/bpfd/images/blobs/sha256")).unwrap();
    assert_eq!(blobs.count(), 0, "blobs are left");
}

#[test]
fn an_index_has_64_entries_at_most() {
    let images = Images::signed();
    plant(&images, &image(), 65, 1);
    let said = images.refuses(9, "registry/team/app:evil");
    let (said, _place) = said.split_once(" at line").unwrap();
    assert_snapshot!(said, @"
    error: cannot resolve `registry/team/app:evil`
    cause: the registry's manifest is refused: the manifest cannot be read: a list has more than 64 entries
    ");
    plant(&images, &image(), 64, 1);
    images.host.bpfctl("load -q --image registry/team/app:evil xdp -i uplink").ok();
}
