//! What `index.json` names: signatures that go with their image, its limit, and the way back of a name.

use bytecode_image::store::Signatures;

use super::*;

/// The names of all entries of `index.json`, signatures too.
fn entries(store: &Path) -> Vec<String> {
    let index: serde_json::Value = serde_json::from_slice(&fs::read(store.join("index.json")).unwrap()).unwrap();
    let named = |entry: &serde_json::Value| {
        let name = entry.pointer("/annotations/org.opencontainers.image.ref.name");
        name.and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    };
    index.get("manifests").unwrap().as_array().unwrap().iter().map(named).collect()
}

/// Parts of an image, with a manifest of signatures over it.
fn signed(store: &Store, reference: &str, layer: Vec<u8>) -> Fetched {
    let (mut fetched, image) = received(store, reference, layer);
    let (signatures, config) = image_of(image.digest.to_string().into_bytes());
    let ingest = store.ingest().unwrap();
    let manifest = Descriptor::of(media::MANIFEST, &signatures.bytes);
    let parts: [(&Descriptor, &[u8]); 3] =
        [(&signatures.config, &config), (&signatures.layer, &signatures.layer_bytes), (&manifest, &signatures.bytes)];
    fetched.landed.extend(parts.map(|(descriptor, bytes)| ingest.put(descriptor, bytes).unwrap()));
    // Both have the same configuration, and a part is taken in once.
    let mut seen = BTreeSet::new();
    fetched.landed.retain(|part| seen.insert(part.descriptor.digest));
    fetched.signatures = vec![Signatures { over: image.digest, manifest }];
    fetched
}

#[test]
fn signatures_go_with_the_image_that_a_tag_led_to() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for size in [50, 60, 70] {
        store.commit(&signed(&store, "r.example/a:b", noise(size))).unwrap();
    }
    let last = image_of(noise(70)).0.digest;
    let mut expected = vec!["r.example/a:b".to_owned(), format!("r.example/a:sha256-{}.sig", last.hex())];
    assert_eq!(entries(dir.path()), expected);
    // Under another name of the repository it is still an image: its signatures stay.
    store.tag(&name("r.example/a:b"), &name("r.example/a:kept")).unwrap();
    store.commit(&signed(&store, "r.example/a:b", noise(80))).unwrap();
    let new = image_of(noise(80)).0.digest;
    expected.extend(["r.example/a:kept".to_owned(), format!("r.example/a:sha256-{}.sig", new.hex())]);
    expected.sort();
    let mut found = entries(dir.path());
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn damage_elsewhere_stops_neither_a_commit_nor_a_removal() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let damaged = signed(&store, "r.example/a:damaged", noise(50));
    store.commit(&damaged).unwrap();
    fs::write(blob(dir.path(), damaged.image.digest), b"{}").unwrap();
    store.commit(&received(&store, "r.example/a:b", noise(60)).0).unwrap();
    assert_eq!(entries(dir.path()).len(), 3);
    store.remove(&name("r.example/a:damaged")).unwrap();
    assert_eq!(entries(dir.path()), ["r.example/a:b"]);
}

#[test]
fn a_full_index_is_refused_before_nobody_can_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (one, _) = received(&store, "r.example/a:one", noise(50));
    store.commit(&one).unwrap();
    // Another tool's entry, so long that there is room for one name and not for two.
    let path = dir.path().join("index.json");
    let mut index: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut entry = index["manifests"][0].clone();
    let room = (8 << 20) - 3 * index.to_string().len();
    entry["annotations"] = serde_json::json!({"filler": "x".repeat(room)});
    index["manifests"].as_array_mut().unwrap().push(entry);
    fs::write(&path, index.to_string()).unwrap();
    let (two, three) = ("r.example/a:two", "r.example/a:three");
    let (fetched, _) = received(&store, two, noise(60));
    store.commit(&fetched).unwrap();
    let before = fs::read(&path).unwrap();
    let (fetched, _) = received(&store, three, noise(70));
    let refused = [store.commit(&fetched), store.tag(&name(two), &name(&format!("r.example/{}", "x".repeat(200))))];
    for error in refused.map(Result::unwrap_err) {
        let why = std::error::Error::source(&error).unwrap().to_string();
        let expected = "the index would exceed 8388608 bytes; remove images with `bpfctl image rm`";
        assert_eq!(why, expected, "{error}");
    }
    assert_eq!(fs::read(&path).unwrap(), before);
    // It opens, and what makes room makes room.
    let store = Store::open(dir.path()).unwrap();
    store.remove(&name(two)).unwrap();
    let (fetched, _) = received(&store, three, noise(70));
    store.commit(&fetched).unwrap();
}
