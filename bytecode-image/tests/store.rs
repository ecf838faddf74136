//! The store: what survives a crash, a flipped bit and a full disk, and what a collection takes.
//! Long because each promise of the store is a case, and all begin with the same parts of an image.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod common;
#[path = "store/index.rs"]
mod index;

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use bytecode_image::{
    digest::{Descriptor, Digest},
    limits, media,
    reference::Reference,
    store::{Fetched, Landed, Store, StoreError, Sweep},
    testing::registry::Mode,
};
use common::{REPO, files, image_of, noise, platform, pull_into, registry, request, seed, seed_index, stored};

fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

/// An image's parts in `ingest/`, under a name, not yet committed.
fn received(store: &Store, reference: &str, layer: Vec<u8>) -> (Fetched, common::Image) {
    let (image, config) = image_of(layer);
    let ingest = store.ingest().unwrap();
    let top = Descriptor::of(media::MANIFEST, &image.bytes);
    let put = |descriptor: &Descriptor, bytes: &[u8]| ingest.put(descriptor, bytes).unwrap();
    let landed = vec![put(&image.config, &config), put(&image.layer, &image.layer_bytes), put(&top, &image.bytes)];
    (Fetched { reference: name(reference), image: top, landed, signatures: vec![] }, image)
}

fn blob(store: &Path, digest: Digest) -> std::path::PathBuf {
    store.join("blobs/sha256").join(digest.hex())
}

#[test]
fn a_new_store_is_an_empty_layout_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/images");
    Store::open(&path).unwrap();
    assert_eq!(files(&path), ["index.json", "oci-layout"]);
    assert_eq!(fs::read_to_string(path.join("oci-layout")).unwrap(), r#"{"imageLayoutVersion":"1.0.0"}"#);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(Store::open(&path).unwrap().list().unwrap(), []);
}

#[test]
fn a_layout_of_another_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    assert!(matches!(Store::open(dir.path()), Err(StoreError::NotALayout(_))));
}

#[test]
fn a_committed_image_is_read_back_by_name_and_by_digest() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (fetched, image) = received(&store, "r.example/a:b", noise(5000));
    store.commit(&fetched).unwrap();
    for reference in ["r.example/a:b".to_owned(), format!("r.example/a@{}", image.digest)] {
        let selected = store.selected(&name(&reference), &platform()).unwrap();
        assert_eq!(selected.digest(), image.digest);
        assert_eq!(store.read(selected.layer().unwrap(), limits::LAYER).unwrap(), image.layer_bytes);
    }
    assert!(matches!(store.find(&name("r.example/a:other")), Err(StoreError::NotFound(_))));
    assert_eq!(fs::read_dir(dir.path().join("ingest")).unwrap().count(), 0);
}

#[test]
fn a_flipped_byte_is_noticed_and_a_new_pull_repairs_it() {
    let (registry, image) = registry(Mode::Honest);
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let request = request(&registry);
    stored(&store, &request);
    let cached = || store.cached(&request.reference, &request.platform).unwrap();
    assert_eq!(cached(), Some(image.digest));
    for damaged in [image.layer.digest, image.config.digest, image.digest] {
        let path = blob(dir.path(), damaged);
        let mut bytes = fs::read(&path).unwrap();
        bytes[10] ^= 4;
        fs::write(&path, bytes).unwrap();
        assert_eq!(cached(), None, "{damaged}");
        stored(&store, &request);
        assert_eq!(cached(), Some(image.digest), "{damaged}");
    }
    let path = blob(dir.path(), image.layer.digest);
    fs::write(&path, b"short").unwrap();
    let error = store.read(&image.layer, limits::LAYER).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(digest) if digest == image.layer.digest), "{error:?}");
    fs::remove_file(&path).unwrap();
    assert!(matches!(store.read(&image.layer, limits::LAYER), Err(StoreError::Missing(_))));
    assert_eq!(cached(), None);
}

#[test]
fn a_link_in_place_of_a_blob_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (fetched, image) = received(&store, "r.example/a:b", noise(50));
    store.commit(&fetched).unwrap();
    let path = blob(dir.path(), image.layer.digest);
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert!(matches!(store.read(&image.layer, limits::LAYER), Err(StoreError::Io { .. })));
}

/// What a process that died at some step of a pull or a commit leaves behind, step by step.
#[test]
fn a_crash_at_any_step_leaves_the_old_image_and_a_commit_that_can_be_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (old, old_image) = received(&store, "r.example/a:b", noise(50));
    store.commit(&old).unwrap();
    let (new, new_image) = received(&store, "r.example/a:b", noise(60));
    let parts = new.landed.len();
    // Parts that were moved before the crash, from none to all; the index was not yet replaced.
    for moved in 0..=parts {
        let crashed = tempfile::tempdir().unwrap();
        copy(dir.path(), crashed.path());
        for part in new.landed.iter().take(moved) {
            let from = crashed.path().join("ingest").join(part.file.as_str());
            fs::rename(from, blob(crashed.path(), part.descriptor.digest)).unwrap();
        }
        // And a file that was being written, and an index that was half written.
        let half = crashed.path().join("ingest").join(format!("{}.1.0", Digest::of(b"half").hex()));
        fs::write(half, b"ha").unwrap();
        fs::write(crashed.path().join("ingest/index.json.new"), b"{\"schem").unwrap();
        let store = Store::open(crashed.path()).unwrap();
        store.clear_ingest().unwrap();
        assert_eq!(fs::read_dir(crashed.path().join("ingest")).unwrap().count(), 0);
        let selected = store.selected(&name("r.example/a:b"), &platform()).unwrap();
        assert_eq!(selected.digest(), old_image.digest, "{moved} moved");
        assert_eq!(store.read(selected.layer().unwrap(), limits::LAYER).unwrap(), old_image.layer_bytes);
        let swept = store.collect(&BTreeSet::new(), Sweep::Delete).unwrap();
        // The configuration is shared with the old image, so it is not swept.
        assert_eq!(swept.blobs.len(), moved.saturating_sub(1), "{moved} moved");
        let (again, _) = received(&store, "r.example/a:b", noise(60));
        store.commit(&again).unwrap();
        assert_eq!(store.find(&name("r.example/a:b")).unwrap().digest, new_image.digest);
    }
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
    assert!(status.success());
}

#[test]
fn parts_that_are_not_what_they_say_are_not_taken_in() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for lie in [&b"other bytes"[..], b"", b"right bytes and more"] {
        let ingest = store.ingest().unwrap();
        let part = ingest.put(&Descriptor::of("x/y", b"right bytes"), lie).unwrap();
        let fetched = Fetched {
            reference: name("r.example/a:b"),
            image: part.descriptor.clone(),
            landed: vec![part],
            signatures: vec![],
        };
        let error = store.commit(&fetched).unwrap_err();
        assert!(matches!(error, StoreError::NotWhatItSays { .. }), "{error:?}");
        store.discard(&fetched).unwrap();
    }
    assert_eq!(files(dir.path()), ["index.json", "oci-layout"]);
}

#[test]
fn an_image_with_a_part_missing_gets_no_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (mut fetched, image) = received(&store, "r.example/a:b", noise(50));
    fetched.landed.retain(|part| part.descriptor.digest != image.layer.digest);
    let error = store.commit(&fetched).unwrap_err();
    assert!(matches!(error, StoreError::Missing(digest) if digest == image.layer.digest), "{error:?}");
    assert_eq!(store.list().unwrap(), []);
}

#[test]
fn a_worker_cannot_name_a_file_outside_ingest() {
    let descriptor = serde_json::to_string(&Descriptor::of("x/y", b"")).unwrap();
    for file in ["../index.json", "/etc/passwd", "..", "a/b", ""] {
        let json = format!(r#"{{"file":"{file}","descriptor":{descriptor}}}"#);
        assert!(serde_json::from_str::<Landed>(&json).is_err(), "{file}");
    }
}

#[test]
fn a_collection_takes_what_neither_a_name_nor_a_lease_reaches() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut images = Vec::new();
    for (tag, size) in [("named", 100), ("leased", 200), ("forgotten", 300)] {
        let (fetched, image) = received(&store, &format!("r.example/a:{tag}"), noise(size));
        store.commit(&fetched).unwrap();
        images.push(image);
    }
    store.remove(&name("r.example/a:leased")).unwrap();
    store.remove(&name("r.example/a:forgotten")).unwrap();
    let forgotten = &images[2];
    let leases = BTreeSet::from([images[1].digest]);
    let mut expected = vec![forgotten.digest, forgotten.layer.digest];
    expected.sort();
    let report = store.collect(&leases, Sweep::Report).unwrap();
    assert_eq!(report.blobs, expected);
    assert_eq!(report.bytes, 300 + u64::try_from(forgotten.bytes.len()).unwrap());
    assert_eq!(store.collect(&leases, Sweep::Delete).unwrap(), report);
    assert_eq!(store.collect(&leases, Sweep::Delete).unwrap().blobs, []);
    assert_eq!(store.read(&images[1].layer, limits::LAYER).unwrap(), images[1].layer_bytes);
    // A lease on the layer alone keeps the layer alone.
    let leases = BTreeSet::from([images[1].layer.digest]);
    assert_eq!(store.collect(&leases, Sweep::Report).unwrap().blobs, [images[1].digest]);
}

#[test]
fn a_damaged_manifest_stops_a_collection() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (fetched, image) = received(&store, "r.example/a:b", noise(50));
    store.commit(&fetched).unwrap();
    fs::write(blob(dir.path(), image.digest), b"{}").unwrap();
    let error = store.collect(&BTreeSet::new(), Sweep::Delete).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(digest) if digest == image.digest), "{error:?}");
    assert!(blob(dir.path(), image.layer.digest).exists());
}

#[test]
fn names_are_added_moved_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (one, first) = received(&store, "r.example/a:one", noise(50));
    store.commit(&one).unwrap();
    store.tag(&name("r.example/a:one"), &name("other.example/b:two")).unwrap();
    assert_eq!(store.find(&name("other.example/b:two")).unwrap().digest, first.digest);
    store.remove(&name("r.example/a:one")).unwrap();
    assert!(matches!(store.remove(&name("r.example/a:one")), Err(StoreError::NotFound(_))));
    assert!(matches!(store.tag(&name("r.example/a:one"), &name("r.example/a:x")), Err(StoreError::NotFound(_))));
    let listed: Vec<String> = store.list().unwrap().iter().map(|named| named.reference.to_string()).collect();
    assert_eq!(listed, ["other.example/b:two"]);
    assert_eq!(store.collect(&BTreeSet::new(), Sweep::Report).unwrap().blobs, []);
}

#[test]
fn writers_in_two_threads_lose_no_name() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let path = dir.path();
            scope.spawn(move || {
                let store = Store::open(path).unwrap();
                for number in 0..5 {
                    let (fetched, _) = received(&store, &format!("r.example/a:w{writer}n{number}"), noise(50));
                    store.commit(&fetched).unwrap();
                }
            });
        }
    });
    assert_eq!(Store::open(dir.path()).unwrap().list().unwrap().len(), 20);
}

#[test]
fn an_index_keeps_the_one_image_that_was_pulled() {
    let (registry, image) = registry(Mode::Honest);
    let index = seed_index(&registry, REPO, "v1", &image);
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let selected = stored(&store, &request(&registry));
    assert_eq!((selected.digest(), selected.manifest().digest()), (index, image.digest));
    assert_eq!(store.collect(&BTreeSet::new(), Sweep::Report).unwrap().blobs, []);
}

/// Runs itself again in a mount namespace of its own, on a file system of 256 KiB.
#[test]
fn a_full_disk_leaves_the_old_state() {
    const SMALL: &str = "TEST_STORE_ON_A_SMALL_DISK";
    if let Some(path) = std::env::var_os(SMALL) {
        return on_a_small_disk(Path::new(&path));
    }
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t tmpfs -o size=256k none {0} && exec \"$0\" --exact a_full_disk_leaves_the_old_state",
        dir.path().display()
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(SMALL, dir.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "needs root for a mount namespace: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn on_a_small_disk(path: &Path) {
    let (registry, image) = registry(Mode::Honest);
    let store = Store::open(path).unwrap();
    let request = request(&registry);
    stored(&store, &request);
    let before = (files(path), fs::read(path.join("index.json")).unwrap());
    // The next image does not fit: its layer alone is larger than what is left.
    seed(&registry, REPO, "v1", noise(200_000));
    let error = pull_into(&store, &request).unwrap_err();
    let told = common::told(&error, &[]);
    assert_eq!(told, "cannot write what was received into the image store: No space left on device (os error 28)");
    assert_eq!((files(path), fs::read(path.join("index.json")).unwrap()), before);
    // No room even for an index: filled up to the last byte, a commit changes nothing.
    let (mut fetched, _) = received(&store, "r.example/a:b", noise(10));
    // The configuration is there already: moved in once more, it would make room for the index.
    fetched.landed.retain(|part| part.descriptor.digest != image.config.digest);
    let mut filler = Vec::new();
    for size in [4096, 1] {
        for number in 0.. {
            let file = path.join(format!("filler{size}.{number}"));
            if fs::write(&file, vec![0; size]).is_err() {
                drop(fs::remove_file(&file));
                break;
            }
            filler.push(file);
        }
    }
    let error = store.commit(&fetched).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
    assert_eq!(store.cached(&request.reference, &request.platform).unwrap(), Some(image.digest));
    assert_eq!(fs::read(path.join("index.json")).unwrap(), before.1);
    for file in filler {
        fs::remove_file(file).unwrap();
    }
    store.discard(&fetched).unwrap();
    store.clear_ingest().unwrap();
    store.collect(&BTreeSet::new(), Sweep::Delete).unwrap();
    assert_eq!((files(path), fs::read(path.join("index.json")).unwrap()), before);
    assert_eq!(store.cached(&request.reference, &request.platform).unwrap(), Some(image.digest));
}

#[test]
fn a_load_that_was_noted_counts_once_it_is_known_how_it_ended() {
    use bpfd_policy::{Policy, downgrade::Release, read::PolicyText};
    use bytecode_image::store::{Ended, NamedRelease};
    let text = "version = 1\n[[image]]\nscope = \"r.example\"\nunsigned = \"allow\"\nforbid_downgrade = true\n";
    let policy = Policy::read(&[PolicyText { file: "p", text }], |_: &Path| Ok(vec![].into())).unwrap();
    let rule = policy.image_rule(&name("r.example/a:b")).unwrap();
    let release = |version: &str| NamedRelease {
        repository: "r.example/a".to_owned(),
        name: String::new(),
        release: Release { version: Some(version.to_owned()), manifest: Digest::of(version.as_bytes()) },
    };
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let last = || store.last_release("r.example/a", "").unwrap().and_then(|release| release.version);
    let begun = || fs::read_to_string(dir.path().join("releases.begun.json")).unwrap_or_default();
    for (load, version, ended, after) in [
        ("one", "1.0.0", Ended::Loaded, Some("1.0.0")),
        ("two", "3.0.0", Ended::Failed, Some("1.0.0")),
        ("three", "2.0.0", Ended::Loaded, Some("2.0.0")),
    ] {
        let before = last();
        assert!(store.begin_load(rule, load, &release(version)).unwrap());
        assert_eq!(last(), before, "a load that goes on is not let through yet");
        assert!(begun().contains(version));
        store.end_load(load, ended).unwrap();
        assert_eq!((last().as_deref(), begun().as_str()), (after, "{}"));
    }
    // What changes nothing is not noted.
    assert!(!store.begin_load(rule, "again", &release("2.0.0")).unwrap());
    assert!(!store.begin_load(rule, "older", &release("1.5.0")).unwrap());
    // Of what a crash left, those count whose app is there; whichever was newest.
    for (load, version) in [("a", "4.0.0"), ("b", "5.0.0"), ("c", "3.0.0")] {
        assert!(store.begin_load(rule, load, &release(version)).unwrap());
    }
    let again = Store::open(dir.path()).unwrap();
    again.settle_loads(|load| load != "b").unwrap();
    assert_eq!((last().as_deref(), begun().as_str()), (Some("4.0.0"), "{}"));
}

#[test]
fn what_changes_nothing_waits_for_nobody_who_has_the_lock() {
    // A release that changes nothing, and reading, are done while another holds the lock.
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (fetched, image) = received(&store, "r.example/a:b", noise(50));
    store.commit(&fetched).unwrap();
    let mut holder = Command::new("flock")
        .arg("-x")
        .arg(dir.path())
        .args(["sh", "-c", "echo held; cat"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut held = [0; 5];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut held).unwrap();
    let policy = bpfd_policy::Policy::read(
        &[bpfd_policy::read::PolicyText {
            file: "p",
            text: "version = 1\n[[image]]\nscope = \"r.example\"\nunsigned = \"allow\"\n",
        }],
        |_: &Path| Ok(vec![].into()),
    )
    .unwrap();
    let rule = policy.image_rule(&name("r.example/a:b")).unwrap();
    let release = bytecode_image::store::NamedRelease {
        repository: "r.example/a".to_owned(),
        name: String::new(),
        release: bpfd_policy::downgrade::Release { version: None, manifest: image.digest },
    };
    store.let_through(rule, &release).unwrap();
    assert!(!store.begin_load(rule, "load", &release).unwrap());
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(store.bytes().unwrap() > 0);
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
}
