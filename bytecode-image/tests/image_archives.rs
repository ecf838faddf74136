//! Archives of images: what the store exports, and what Debian's skopeo writes, is taken in as a pull would take it, signatures too;
//! hostile and damaged archives are each refused with an error that names the cause, and leave nothing.
//!
//! Long because the hostile archives are one table, made here.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

mod common;

use std::{collections::BTreeSet, error::Error, fs, io::Write as _, path::Path, process::Command};

use bytecode_image::{
    archive::{Archive, ArchiveError},
    candidate::Candidate,
    digest::{Descriptor, Digest},
    document::Document,
    fetch::{Pulled, SignatureSet, pull},
    key::{Scheme, SigningKey},
    limits, media,
    reference::Reference,
    resolve::Selected,
    sign,
    store::Store,
    testing::registry::Mode,
    verify::{Refusal, Verified},
};
use common::{files, let_through, noise, platform, reference, registry, request, run, sign_at, signed_by, store, told};
use serde_json::{Value, json};
use tar::{EntryType, Header};

type Decide<'a> = &'a dyn Fn(&Selected, &[Candidate]) -> Result<Verified, Box<Refusal>>;

/// All images of an archive, as the daemon takes them in: none is named before each was decided on.
fn import(store: &Store, file: &Path, name: Option<&str>, decide: Decide<'_>) -> Result<Vec<Digest>, Box<dyn Error>> {
    let mut archive = Archive::read(fs::File::open(file)?)?;
    let (ingest, mut all, mut digests) = (store.ingest()?, Vec::new(), Vec::new());
    let name: Option<Reference> = name.map(|name| name.parse().unwrap());
    for (image, names) in archive.named(name.as_ref())? {
        let first = names.first().unwrap();
        let selected = archive.select(&image, first, &platform())?;
        let signatures = archive.signatures(&selected)?;
        let candidates: Vec<Candidate> = signatures.iter().flat_map(SignatureSet::candidates).collect();
        let verified = decide(&selected, &candidates)?;
        let mut staged = store.stage(archive.take(&verified, &selected, &signatures, &ingest)?)?;
        names.iter().skip(1).for_each(|name| staged.also(name.clone()));
        digests.push(selected.digest());
        all.push(staged);
    }
    store.commit_staged(all)?;
    Ok(digests)
}

fn exported(store: &Store) -> Vec<u8> {
    let all: BTreeSet<_> = store.list().unwrap().into_iter().collect();
    let mut bytes = Vec::new();
    store.write_archive(&store.export(&all).unwrap(), &mut bytes).unwrap();
    bytes
}

fn names(store: &Store) -> Vec<String> {
    store.list().unwrap().iter().map(|named| named.reference.to_string()).collect()
}

#[test]
fn an_exported_image_is_imported_with_signatures_of_every_form_and_exported_as_the_same_bytes() {
    let (key, other) = (SigningKey::generate(Scheme::P256).unwrap(), SigningKey::generate(Scheme::Ed25519).unwrap());
    let (registry, image) = registry(Mode::Honest);
    let over = Descriptor::of(media::MANIFEST, &image.bytes);
    let bundle = sign::bundle(&key, &reference(&registry), over.digest).unwrap();
    let referrer = sign::referrer(&over, &bundle, &sign::Stated::signed());
    for blob in [bundle.as_slice(), media::EMPTY_BYTES] {
        registry.put_blob(blob);
    }
    registry.put_manifest(common::REPO, &referrer.digest().hex(), media::MANIFEST, referrer.bytes());
    sign_at(&registry, &other, image.digest);
    let (_from, here) = store();
    let ingest = here.ingest().unwrap();
    let Pulled::Fetched { fetched, .. } = run(pull(&request(&registry), &ingest, signed_by(&key), &())).unwrap() else {
        panic!()
    };
    here.commit(&fetched).unwrap();
    let name = reference(&registry);
    here.tag(&name, &format!("{}:stable", name.name()).parse().unwrap()).unwrap();
    drop(registry);
    let carried = tempfile::tempdir().unwrap();
    let file = carried.path().join("a.tar");
    fs::write(&file, exported(&here)).unwrap();
    for signer in [&key, &other] {
        let (_to, there) = store();
        assert_eq!(import(&there, &file, None, &signed_by(signer)).unwrap(), [image.digest]);
        assert_eq!(names(&there), names(&here));
        let selected = there.selected(&name, &platform()).unwrap();
        assert_eq!(there.signatures(&selected).unwrap().len(), 2);
        signed_by(signer)(&selected, &there.signatures(&selected).unwrap()).unwrap();
        assert_eq!(exported(&there), fs::read(&file).unwrap());
    }
    let (to, there) = store();
    let stranger = SigningKey::generate(Scheme::P256).unwrap();
    let error = import(&there, &file, None, &signed_by(&stranger)).unwrap_err();
    assert!(error.to_string().contains("is refused by policy"), "{error}");
    assert_eq!(files(to.path()), ["index.json", "oci-layout"]);
    // As other tools lay signatures out: behind a list of referrers, and with a tag alone for a name.
    let listed = changed(&exported(&here), "index.json", |index: &mut Value| {
        for entry in index["manifests"].as_array_mut().unwrap() {
            let name = entry.pointer_mut("/annotations/org.opencontainers.image.ref.name").unwrap();
            let text = name.as_str().unwrap().to_owned();
            if text.ends_with(".sig") {
                *name = text.rsplit_once(':').unwrap().1.into();
            } else if text.contains('@') {
                *name = Value::Null;
                entry["annotations"] = json!({});
            }
        }
    });
    fs::write(&file, listed).unwrap();
    assert_eq!(import(&there, &file, None, &signed_by(&key)).unwrap(), [image.digest]);
}

fn skopeo(arguments: &[&str]) -> String {
    let output = Command::new("skopeo").arg("--insecure-policy").args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("these tests need Debian's skopeo: {error}"));
    assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A real image of one layer, with its diff id.
struct Real {
    config: Vec<u8>,
    tar: Vec<u8>,
}

fn real() -> Real {
    let tar = archive(&[file("xdp.bpf.o", &noise(40_000))]);
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Labels": {"io.ebpf.programs": "{\"pass\":\"xdp\"}"}},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&tar)]},
    });
    Real { config: config.to_string().into_bytes(), tar }
}

impl Real {
    fn manifest(&self, layer: &Descriptor) -> Document {
        let config = Descriptor::of(media::CONFIG, &self.config);
        let manifest = json!({"config": config, "layers": [layer], "mediaType": media::MANIFEST, "schemaVersion": 2});
        Document::new(media::MANIFEST, manifest.to_string().into_bytes())
    }
}

#[test]
fn archives_that_skopeo_writes_are_taken_in_and_skopeo_reads_ours() {
    let image = real();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&image.tar).unwrap();
    let layer = gzip.finish().unwrap();
    let manifest = image.manifest(&Descriptor::of(media::LAYER_TAR_GZIP, &layer));
    let work = tempfile::tempdir().unwrap();
    let at = |name: &str| work.path().join(name);
    let ours = oci(&[("r.example/team/app:v1", &manifest)], &[&image.config, &layer]);
    fs::write(at("ours.tar"), &ours).unwrap();
    let (to, there) = store();
    import(&there, &at("ours.tar"), None, &let_through).unwrap();
    fs::write(at("exported.tar"), exported(&there)).unwrap();
    let from = format!("oci-archive:{}:r.example/team/app:v1", at("exported.tar").display());
    let inspected: Value = serde_json::from_str(&skopeo(&["inspect", &from])).unwrap();
    assert_eq!(inspected["Digest"], json!(manifest.digest()));
    for (kind, name, same) in [
        ("oci-archive", "r.example/team/app:v2", true),
        ("oci-archive", "", true),
        ("docker-archive", "r.example/team/app:v3", false),
        ("docker-archive", "", false),
    ] {
        let path = at(&format!("{kind}{}", name.len()));
        let colon = if name.is_empty() { "" } else { ":" };
        skopeo(&["copy", "--quiet", &from, &format!("{kind}:{}{colon}{name}", path.display())]);
        let (_to, there) = store();
        if name.is_empty() {
            let error = import(&there, &path, None, &let_through).unwrap_err();
            assert_eq!(error.to_string(), "the archive gives an image no name");
        }
        let asked = name.is_empty().then_some("r.example/team/app:v4");
        let digests = import(&there, &path, asked, &let_through).unwrap();
        assert_eq!(names(&there), [asked.unwrap_or(name)]);
        // A docker-archive has no manifest: the one that is made of it is the same for the same files.
        let made = image.manifest(&Descriptor::of(media::LAYER_TAR, &image.tar));
        assert_eq!(digests, [if same { manifest.digest() } else { made.digest() }], "{kind} {name}");
        let selected = there.selected(&asked.unwrap_or(name).parse().unwrap(), &platform()).unwrap();
        let layer = there.read(selected.layer().unwrap(), limits::LAYER).unwrap();
        assert_eq!(layer.len() == image.tar.len(), !same, "a docker-archive's layer is not compressed");
    }
    drop(to);
}

#[test]
fn both_layouts_of_docker_save_are_read_and_the_newer_one_keeps_its_digests() {
    let image = real();
    let hex = Digest::of(&image.config).hex();
    let (_to, there) = store();
    let work = tempfile::tempdir().unwrap();
    let path = work.path().join("a.tar");
    let list = |config: &str, layer: &str| {
        let item = json!({"Config": config, "RepoTags": ["r.example/a:b", "r.example/a:c"], "Layers": [layer]});
        json!([item]).to_string().into_bytes()
    };
    let config = format!("{hex}.json");
    let old = archive(&[
        file("one/VERSION", b"1.0"),
        file("one/layer.tar", &image.tar),
        file(&config, &image.config),
        link("two/layer.tar", "../one/layer.tar"),
        file("manifest.json", &list(&config, "one/layer.tar")),
    ]);
    fs::write(&path, old).unwrap();
    let made = image.manifest(&Descriptor::of(media::LAYER_TAR, &image.tar));
    assert_eq!(import(&there, &path, None, &let_through).unwrap(), [made.digest()]);
    assert_eq!(names(&there), ["r.example/a:b", "r.example/a:c"]);
    // Since 25 the same archive is an image layout, whose names are containerd's.
    let manifest = made.bytes();
    let entry = json!({"mediaType": media::MANIFEST, "digest": made.digest(), "size": manifest.len(), "annotations":
        {"io.containerd.image.name": "docker.io/library/x:1", "org.opencontainers.image.ref.name": "1"}});
    let blob = |bytes: &[u8]| (format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes.to_vec());
    let blobs = [blob(&image.config), blob(&image.tar), blob(manifest)];
    let mut members: Vec<Vec<u8>> = blobs.iter().map(|(name, bytes)| file(name, bytes)).collect();
    members.push(file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#));
    members.push(file("index.json", json!({"schemaVersion": 2, "manifests": [entry]}).to_string().as_bytes()));
    members.push(file("manifest.json", &list(&blobs[0].0, &blobs[1].0)));
    fs::write(&path, archive(&members)).unwrap();
    assert_eq!(import(&there, &path, None, &let_through).unwrap(), [made.digest()]);
    assert_eq!(names(&there), ["docker.io/library/x:1", "r.example/a:b", "r.example/a:c"]);
}

/// One member, with a header that may say anything.
fn member(path: &[u8], kind: u8, bytes: &[u8], change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_ustar_mut().unwrap().name.iter_mut().zip(path).for_each(|(to, from)| *to = *from);
    header.set_entry_type(EntryType::new(kind));
    header.set_size(bytes.len().try_into().unwrap());
    header.set_mode(0o644);
    change(&mut header);
    header.set_cksum();
    let mut text = [header.as_bytes().as_slice(), bytes].concat();
    text.resize(text.len().next_multiple_of(512), 0);
    text
}

fn file(path: &str, bytes: &[u8]) -> Vec<u8> {
    member(path.as_bytes(), b'0', bytes, |_| ())
}

fn link(path: &str, to: &str) -> Vec<u8> {
    member(path.as_bytes(), b'2', b"", |header| header.set_link_name(to).unwrap())
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 1024]].concat()
}

/// An oci-archive of named manifests and of blobs.
fn oci(images: &[(&str, &Document)], blobs: &[&[u8]]) -> Vec<u8> {
    archive(&oci_members(images, blobs))
}

fn oci_members(images: &[(&str, &Document)], blobs: &[&[u8]]) -> Vec<Vec<u8>> {
    let entry = |(name, manifest): &(&str, &Document)| {
        let Descriptor { media_type, digest, size } = manifest.descriptor();
        let annotations = json!({media::ANNOTATION_REF_NAME: name});
        json!({"mediaType": media_type, "digest": digest, "size": size, "annotations": annotations})
    };
    let index = json!({"schemaVersion": 2, "manifests": images.iter().map(entry).collect::<Vec<_>>()});
    let mut members = vec![
        file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
        file("index.json", index.to_string().as_bytes()),
    ];
    let manifests = images.iter().map(|(_, manifest)| manifest.bytes());
    let blobs: BTreeSet<&[u8]> = blobs.iter().copied().chain(manifests).collect();
    members.extend(blobs.iter().map(|blob| file(&format!("blobs/sha256/{}", Digest::of(blob).hex()), blob)));
    members
}

/// The archive with one JSON file changed.
fn changed(bytes: &[u8], name: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut change = Some(change);
    let mut members = Vec::new();
    for entry in tar::Archive::new(bytes).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        std::io::copy(&mut entry, &mut content).unwrap();
        if path == name {
            let mut json: Value = serde_json::from_slice(&content).unwrap();
            change.take().unwrap()(&mut json);
            content = json.to_string().into_bytes();
        }
        members.push(file(&path, &content));
    }
    archive(&members)
}

#[test]
fn hostile_and_damaged_archives_are_refused_by_cause_and_leave_nothing() {
    let image = real();
    let layer = Descriptor::of(media::LAYER_TAR, &image.tar);
    let manifest = image.manifest(&layer);
    let (config, tar) = (image.config.as_slice(), image.tar.as_slice());
    let name = "r.example/a:b";
    let good = || oci_members(&[(name, &manifest)], &[config, tar]);
    let with = |more: Vec<u8>| archive(&[good(), vec![more]].concat());
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    let docker = |config_name: &str, config: &[u8], layer_name: &str, more: Vec<u8>| {
        let list = json!([{"Config": config_name, "RepoTags": [name], "Layers": [layer_name]}]).to_string();
        archive(&[file("manifest.json", list.as_bytes()), file(config_name, config), more])
    };
    let large = Descriptor { size: limits::LAYER + 1, ..layer.clone() };
    let claims_more = image.manifest(&Descriptor { size: layer.size + 1, ..layer.clone() });
    let pax = |records: &str| member(b"pax", b'x', records.as_bytes(), |_| ());
    let whole = archive(&good());
    let missing = format!("the archive has no `{}`, which one of its images needs", blob(tar));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"\x1f\x8bxxxxxxxx".to_vec(), "the archive is compressed with gzip"),
        (b"\x28\xb5\x2f\xfdxxxx".to_vec(), "the archive is compressed with zstd"),
        (vec![b'x'; 2048], "the archive is not a well-formed tar: numeric field was not a number"),
        (Vec::new(), "the archive is truncated: its end mark is missing"),
        (archive(&[]), "it is no archive of images: it has neither `oci-layout` nor `manifest.json`"),
        (whole[..3000].to_vec(), "the archive is truncated: its end mark is missing"),
        (whole[..whole.len() - 1024].to_vec(), "the archive is truncated: its end mark is missing"),
        (whole[..whole.len() - 4096].to_vec(), "the archive is truncated: it ends within `"),
        ([whole.clone(), file("more", b"x")].concat(), "the archive has data behind its end"),
        (with(file("../out", b"x")), "a member of the archive has the path `../out`"),
        (with(file("/etc/passwd", b"x")), "a member of the archive has the path `/etc/passwd`"),
        (with(file("a\nb", b"x")), "a member of the archive has the path `a\\nb`"),
        (with(file("index.json", b"{}")), "the archive has `index.json` twice"),
        (with(file("./index.json", b"{}")), "the archive has `index.json` twice"),
        (with(link("a", "/etc/passwd")), "`a` of the archive is a symbolic link out of it, to `/etc/passwd`"),
        (with(link("a/b", "../../x")), "`a/b` of the archive is a symbolic link out of it, to `../../x`"),
        (
            with(member(b"a", b'1', b"", |header| header.set_link_name("index.json").unwrap())),
            "`a` of the archive is a hard link",
        ),
        (with(member(b"a", b'S', b"", |_| ())), "`a` of the archive is a sparse file"),
        (with([pax("22 GNU.sparse.major=1\n"), file("a", b"x")].concat()), "`a` of the archive is a sparse file"),
        (with(member(b"a", b'3', b"", |_| ())), "`a` of the archive is of type `Char`"),
        (with(member(b"a", b'6', b"", |_| ())), "`a` of the archive is of type `Fifo`"),
        (
            with(member(b"a", b'0', b"", |header| header.set_size(1 << 40))),
            "the archive is truncated: it ends within `a`",
        ),
        (
            with(member(b"a", b'0', b"", |header| header.set_size(u64::MAX))),
            "the archive is not a well-formed tar: size overflow",
        ),
        (with([pax("10 size=9\n"), file("a", b"x")].concat()), "`a` has two sizes in the archive"),
        (with(pax("99 path=x\n")), "the archive has an extended header that cannot be read"),
        (
            with(member(b"g", b'g', b"10 path=x\n", |_| ())),
            "the archive has a global header that changes names or sizes",
        ),
        (
            with(member(b"L", b'L', &vec![b'a'; 70_000], |_| ())),
            "the archive has an extended header of 70000 bytes; at most 65536 are read",
        ),
        (archive(&vec![file("a", b""); 4097]), "the archive has `a` twice"),
        (
            archive(&(0..4097).map(|number| file(&number.to_string(), b"")).collect::<Vec<_>>()),
            "the archive has more than 4096 members",
        ),
        (
            archive(&[file("oci-layout", br#"{"imageLayoutVersion":"2.0.0"}"#), file("index.json", b"{}")]),
            "the archive is an OCI image layout of version `2.0.0`, not 1.0.0",
        ),
        (
            archive(&[file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#), file("index.json", b"{")]),
            "`index.json` of the archive cannot be read",
        ),
        (oci(&[], &[]), "the archive has no image"),
        (oci(&[("latest", &manifest)], &[config, tar]), "the archive names an image `latest`, which is no reference"),
        (
            oci(&[(name, &manifest), (name, &claims_more)], &[config, tar]),
            "the archive gives two images the name `r.example/a:b`",
        ),
        (oci(&[(name, &manifest)], &[config]), missing.as_str()),
        (oci(&[(name, &claims_more)], &[config, tar]), "of the archive has 41984 bytes, but its descriptor says 41985"),
        (
            oci(&[(name, &image.manifest(&large))], &[config, tar]),
            "of the archive has 41984 bytes, but its descriptor says",
        ),
        (
            archive(
                &[
                    good()[..2].to_vec(),
                    vec![
                        file(&blob(manifest.bytes()), manifest.bytes()),
                        file(&blob(config), config),
                        file(&blob(tar), &noise(tar.len())),
                    ],
                ]
                .concat(),
            ),
            "which is not what the archive says of it",
        ),
        (
            archive(
                &[good()[..2].to_vec(), vec![file(&blob(manifest.bytes()), &noise(manifest.bytes().len()))]].concat(),
            ),
            "which is not what the archive says of it",
        ),
        (
            docker("c.json", config, "l.tar", link("l.tar", "c.json")),
            "`l.tar` of the archive is a symbolic link, which is not followed",
        ),
        (docker("c.json", config, "l.tar", file("x", b"")), "the archive has no `l.tar`"),
        (docker("c.json", config, "../l.tar", file("x", b"")), "the archive has no `../l.tar`"),
        (docker("c.json", config, "l.tar", file("l.tar", b"another")), "`l.tar` of the archive hashes to"),
        (docker("c.json", b"{}", "l.tar", file("l.tar", tar)), "`c.json` of the archive has 0 `diff_ids` for 1 layers"),
        (
            docker(&format!("{}.json", Digest::of(b"x").hex()), config, "l.tar", file("l.tar", tar)),
            ".json` of the archive hashes to",
        ),
        (
            docker("c.json", config, "l.tar", file("l.tar", &vec![0; (16 << 20) + 1])),
            "`l.tar` of the archive has 16777217 bytes; at most 16777216 are allowed",
        ),
    ];
    let (to, there) = store();
    let work = tempfile::tempdir().unwrap();
    let path = work.path().join("a.tar");
    for (bytes, expected) in cases {
        fs::write(&path, bytes).unwrap();
        let error = import(&there, &path, None, &let_through).expect_err(expected);
        let said = told(&*error, &[]);
        assert!(said.contains(expected), "expected: {expected}\n    said: {said}");
        assert_eq!(files(to.path()), ["index.json", "oci-layout"], "{expected}");
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(import(&there, &path, None, &let_through).unwrap(), [manifest.digest()]);
    assert!(
        matches!(Archive::read(fs::File::open(&path).unwrap()).unwrap().named(None), Ok(named) if named.len() == 1)
    );
    let sparse = fs::File::create(&path).unwrap();
    sparse.set_len(limits::ARCHIVE + 1).unwrap();
    assert!(matches!(Archive::read(fs::File::open(&path).unwrap()), Err(ArchiveError::Length(_))));
}
