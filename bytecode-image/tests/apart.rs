//! A directory of its own for a writer that is not trusted: what it wrote is copied, and what it does afterwards changes nothing.
#![expect(clippy::unwrap_used, reason = "the lint exempts test functions, not what they share")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use bytecode_image::digest::Descriptor;
use bytecode_image::reference::Reference;
use bytecode_image::store::{Apart, Fetched, Ingest, Landed, Store, StoreError};
use bytecode_image::{limits, media};
use serde_json::json;

/// An image in a writer's directory, as its worker tells of it.
fn written(apart: &Apart) -> (Fetched, Vec<Landed>) {
    let writer = Ingest::from_fd(apart.as_fd().try_clone_to_owned().unwrap());
    let (config, layer) = (b"{}".as_slice(), b"layer".as_slice());
    let (of_config, of_layer) = (Descriptor::of(media::CONFIG, config), Descriptor::of(media::LAYER_TAR, layer));
    let manifest = json!({"schemaVersion": 2, "mediaType": media::MANIFEST, "config": of_config, "layers": [of_layer]});
    let manifest = manifest.to_string().into_bytes();
    let image = Descriptor::of(media::MANIFEST, &manifest);
    let landed = vec![
        writer.put(&of_config, config).unwrap(),
        writer.put(&of_layer, layer).unwrap(),
        writer.put(&image, &manifest).unwrap(),
    ];
    let reference: Reference = "r.example/a:b".parse().unwrap();
    (Fetched { reference, image, landed: landed.clone(), signatures: vec![] }, landed)
}

fn own() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

#[test]
fn what_a_writer_does_to_its_files_later_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (uid, gid) = own();
    let apart = store.ingest_apart(uid, gid).unwrap();
    let (fetched, landed) = written(&apart);
    let name = fs::read_dir(dir.path().join("ingest")).unwrap().next().unwrap().unwrap().path();
    let theirs = name.join(landed[1].file.as_str());
    let mut held = fs::OpenOptions::new().append(true).open(&theirs).unwrap();
    let staged = store.stage_apart(&apart, &fetched).unwrap();
    held.write_all(b" and more").unwrap();
    assert!(store.list().unwrap().is_empty(), "no name leads to what is only staged");
    store.commit_staged(vec![staged]).unwrap();
    let blob = dir.path().join("blobs/sha256").join(landed[1].descriptor.digest.hex());
    assert_eq!(fs::read(&blob).unwrap(), b"layer");
    assert_ne!(fs::metadata(&blob).unwrap().ino(), held.metadata().unwrap().ino());
    drop(apart);
    assert_eq!(fs::read_dir(dir.path().join("ingest")).unwrap().count(), 0);
}

#[test]
fn what_is_not_what_it_says_is_refused_and_nothing_of_it_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (uid, gid) = own();
    for way in ["another", "longer", "absent", "link", "large"] {
        let apart = store.ingest_apart(uid, gid).unwrap();
        let (mut fetched, landed) = written(&apart);
        let name = fs::read_dir(dir.path().join("ingest")).unwrap().next().unwrap().unwrap().path();
        let theirs = name.join(landed[1].file.as_str());
        match way {
            "another" => fs::write(&theirs, "lAyer").unwrap(),
            "longer" => fs::write(&theirs, "layer and more").unwrap(),
            "absent" => fs::remove_file(&theirs).unwrap(),
            "link" => {
                fs::rename(&theirs, name.join("kept")).unwrap();
                std::os::unix::fs::symlink("kept", &theirs).unwrap();
            }
            _ => fetched.landed[1].descriptor.size = limits::LAYER + 1,
        }
        // A directory in a directory, as it could make where the kernel keeps none of the rules.
        fs::create_dir_all(name.join("deep/deeper")).unwrap();
        let error = store.stage_apart(&apart, &fetched).unwrap_err();
        match way {
            "another" | "longer" => assert!(matches!(error, StoreError::NotWhatItSays { .. }), "{error:?}"),
            "large" => assert!(matches!(error, StoreError::TooLarge { .. }), "{error:?}"),
            _ => assert!(matches!(error, StoreError::Io { .. }), "{error:?}"),
        }
        drop(apart);
        assert_eq!(fs::read_dir(dir.path().join("ingest")).unwrap().count(), 0, "{way}");
        assert_eq!(fs::read_dir(dir.path().join("blobs/sha256")).unwrap().count(), 0, "{way}");
        assert!(store.list().unwrap().is_empty());
    }
}
