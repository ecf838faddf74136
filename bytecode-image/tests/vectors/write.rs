//! Makes the image vectors: a layout with keys of its own, and what a reader must make of each image. Damaged parts are damaged here, by
//! hand; what is good is made by this crate.

use std::{collections::BTreeMap, fs};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytecode_image::{
    build::{Architecture, BuiltImage, Compression, DEFAULT_PATH, Entry, Recipe, build_as, index},
    bundle::{SIGNATURE_PREDICATE, STATEMENT, pae},
    config::ImageConfig,
    digest::{Descriptor, Digest},
    key::{Scheme, SigningKey},
    media,
    metadata::Metadata,
    reference::Reference,
    sign::{Signed, Stated, attestation, bundle, referrer, sign},
};
use ebpf::inspect;
use serde_json::{Value, json};

use super::vectors;

const LITTLE: &[u8] = include_bytes!("../objects/counter.o");
const BIG: &[u8] = include_bytes!("../objects/counter.eb.o");
const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
const AMD64: (&str, (u32, u32)) = ("amd64", (6, 1));

/// Writes `images.json` and the layout.
pub(super) fn write() {
    let mut writer = Writer::new();
    writer.signatures();
    writer.platforms();
    writer.attestations();
    writer.forged();
    writer.damaged();
    writer.save();
}

struct Writer {
    keys: BTreeMap<&'static str, SigningKey>,
    blobs: BTreeMap<String, Vec<u8>>,
    entries: Vec<Value>,
    cases: Vec<Value>,
}

fn name(text: &str) -> Reference {
    format!("reg.example/{text}").parse().unwrap()
}

/// Of each version there is one image, so that no signature of one case is beside the image of another.
fn built(version: u32, object: &[u8], architecture: &str, compression: Compression) -> BuiltImage {
    let architecture: Architecture = architecture.parse().unwrap();
    let metadata = Metadata::parse(&format!("name = \"counter\"\nversion = \"1.{version}.0\"\n")).unwrap();
    let recipe = Recipe { object, path: DEFAULT_PATH, architecture: &architecture, metadata: &metadata, epoch: None };
    build_as(&recipe, compression).unwrap()
}

/// A tar of these files; `kind` is the type of the first.
fn tar(kind: tar::EntryType, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (at, (path, data)) in files.iter().enumerate() {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes().get_mut(..path.len()).unwrap().copy_from_slice(path.as_bytes());
        header.set_size(u64::try_from(data.len()).unwrap());
        header.set_mode(0o644);
        header.set_entry_type(if at == 0 { kind } else { tar::EntryType::Regular });
        header.set_cksum();
        builder.append(&header, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

impl Writer {
    fn new() -> Self {
        let key = |scheme| SigningKey::generate(scheme).unwrap();
        let keys = [("ci", key(Scheme::P256)), ("release", key(Scheme::Ed25519)), ("stranger", key(Scheme::P256))];
        Self { keys: keys.into(), blobs: BTreeMap::new(), entries: vec![], cases: vec![] }
    }

    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(media_type, bytes);
        self.blobs.insert(descriptor.digest.hex(), bytes.to_vec());
        descriptor
    }

    /// Gives a document a name, or none: a manifest that refers to another is found without.
    fn entry(&mut self, name: Option<&Reference>, media_type: &str, bytes: &[u8]) -> Digest {
        let descriptor = self.blob(media_type, bytes);
        let mut entry = serde_json::to_value(&descriptor).unwrap();
        if let Some(name) = name {
            entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name.to_string() });
        }
        self.entries.push(entry);
        descriptor.digest
    }

    fn image(&mut self, name: &Reference, image: &BuiltImage) -> Digest {
        self.parts(image);
        self.entry(Some(name), media::MANIFEST, &image.manifest)
    }

    fn parts(&mut self, image: &BuiltImage) {
        self.blob(media::CONFIG, &image.config);
        self.blob(&image.layer_descriptor().media_type, &image.layer);
        self.blob(media::MANIFEST, &image.manifest);
    }

    /// An image with these labels and this layer, signed by `ci`.
    fn odd(&mut self, why: &str, refused: &str, config: (&str, Value), layers: &[(&str, Vec<u8>)]) {
        let at = name(&format!("bpf/odd{}:1", self.cases.len()));
        let layers: Vec<Descriptor> = layers.iter().map(|(kind, bytes)| self.blob(kind, bytes)).collect();
        let config = self.blob(config.0, config.1.to_string().as_bytes());
        let manifest = json!({ "schemaVersion": 2, "mediaType": media::MANIFEST, "config": config, "layers": layers });
        let digest = self.entry(Some(&at), media::MANIFEST, manifest.to_string().as_bytes());
        self.legacy("ci", &at, &at, digest);
        self.refused(why, &at, AMD64, json!({ "by": ["ci"] }), refused);
    }

    /// Signs `digest` as the image `signed`, beside `at`.
    fn legacy(&mut self, key: &str, signed: &Reference, at: &Reference, digest: Digest) -> Vec<u8> {
        let Signed::Appended(made) = sign(&self.keys[key], signed, digest, None).unwrap() else { unreachable!() };
        self.blob(media::SIMPLE_SIGNING, &made.payload);
        self.blob(media::CONFIG, &made.config);
        self.entry(Some(&at.signatures(digest)), media::MANIFEST, &made.manifest);
        made.manifest
    }

    fn bundle(&mut self, over: &[u8], media_type: &str, bundle: &[u8]) {
        let manifest = referrer(&Descriptor::of(media_type, over), bundle, &Stated::signed());
        self.blob(media::EMPTY, media::EMPTY_BYTES);
        self.blob(media::BUNDLE, bundle);
        self.entry(None, media::MANIFEST, manifest.bytes());
    }

    fn case(
        &mut self,
        why: &str,
        at: &Reference,
        (architecture, kernel): (&str, (u32, u32)),
        require: Value,
    ) -> &mut Value {
        let host = json!({ "architecture": architecture, "kernel": kernel });
        self.cases.push(json!({ "why": why, "reference": at.to_string(), "host": host, "require": require }));
        self.cases.last_mut().unwrap()
    }

    fn refused(&mut self, why: &str, at: &Reference, host: (&str, (u32, u32)), require: Value, part: &str) {
        self.case(why, at, host, require)["refused"] = part.into();
    }

    fn good(&mut self, why: &str, at: &Reference, host: (&str, (u32, u32)), require: Value, image: &BuiltImage) {
        let object = if image.layer == built(0, BIG, "s390x", Compression::Gzip).layer { BIG } else { LITTLE };
        let config = ImageConfig::parse(&image.config).unwrap();
        let described = inspect::describe(object).unwrap();
        let mut programs: Vec<String> = described.programs.iter().map(|program| program.function.to_string()).collect();
        programs.sort();
        self.case(why, at, host, require)["result"] = json!({
            "manifest": image.descriptor().digest, "object": Digest::of(object).hex(), "endian": described.byte_order,
            "labels": "bytecode", "version": config.labels[media::LABEL_VERSION], "programs": programs,
        });
    }

    fn signatures(&mut self) {
        let image = built(1, LITTLE, "amd64", Compression::Gzip);
        let ci = || json!({ "by": ["ci"] });
        let at = name("bpf/legacy:1.4.0");
        let digest = self.image(&at, &image);
        let first = self.legacy("ci", &at, &at, digest);
        // A second signature is appended to the first.
        let Signed::Appended(both) = sign(&self.keys["release"], &at, digest, Some(&first)).unwrap() else {
            unreachable!()
        };
        self.blob(media::CONFIG, &both.config);
        self.entries.pop();
        self.entry(Some(&at.signatures(digest)), media::MANIFEST, &both.manifest);
        self.good("a legacy signature, by ECDSA P-256", &at, AMD64, ci(), &image);
        self.good("a legacy signature, by Ed25519", &at, AMD64, json!({ "by": ["release"] }), &image);
        let two = json!({ "by": ["ci", "release"], "threshold": 2 });
        self.good("two signers", &at, AMD64, two, &image);
        self.good("the tag is the reference's", &at, AMD64, json!({ "by": ["ci"], "identity": "exact" }), &image);
        self.refused("a signer who did not sign", &at, AMD64, json!({ "by": ["stranger"] }), "signature");
        let two = json!({ "by": ["ci", "stranger"], "threshold": 2 });
        self.refused("one of two signers", &at, AMD64, two, "signature");

        let stored = built(2, LITTLE, "amd64", Compression::Stored);
        let at = name("bpf/bundle:1.4.0");
        let digest = self.image(&at, &stored);
        let bundle = bundle(&self.keys["release"], &at, digest).unwrap();
        self.bundle(&stored.manifest, media::MANIFEST, &bundle);
        self.good("a bundle, over a stored layer", &at, AMD64, json!({ "by": ["release"] }), &stored);
        let pinned = name(&format!("bpf/bundle:1.4.0@{digest}"));
        self.entry(Some(&pinned), media::MANIFEST, &stored.manifest);
        let exact = || json!({ "by": ["release"], "identity": "exact" });
        self.good("a reference with a digest", &pinned, AMD64, exact(), &stored);
        let moved = name("bpf/bundle:latest");
        self.image(&moved, &stored);
        self.good("another tag of the repository", &moved, AMD64, json!({ "by": ["release"] }), &stored);
        self.refused("another tag, where it must be the same", &moved, AMD64, exact(), "signature");
    }

    fn platforms(&mut self) {
        let at = name("bpf/many:1");
        let (amd64, s390x): (Architecture, Architecture) = ("amd64".parse().unwrap(), "s390x".parse().unwrap());
        let (new, old) = (built(3, LITTLE, "amd64", Compression::Stored), built(3, LITTLE, "amd64", Compression::Gzip));
        let big = built(3, BIG, "s390x", Compression::Gzip);
        [&new, &old, &big].into_iter().for_each(|image| self.parts(image));
        let entry = |architecture, kernel, image| Entry { architecture, kernel, image };
        let entries =
            [entry(&s390x, None, &big), entry(&amd64, Some(">=6.4"), &new), entry(&amd64, Some(">=5.8"), &old)];
        let index = index(&entries).unwrap();
        let digest = self.entry(Some(&at), media::INDEX, &index);
        let over_index = bundle(&self.keys["ci"], &at, digest).unwrap();
        self.bundle(&index, media::INDEX, &over_index);
        // This one is over the chosen manifest alone.
        self.legacy("release", &at, &at, old.descriptor().digest);
        let ci = || json!({ "by": ["ci"] });
        self.good("the variant for a new kernel", &at, ("amd64", (6, 4)), ci(), &new);
        self.good("the variant for an older kernel", &at, ("amd64", (5, 15)), ci(), &old);
        self.good("a big-endian object", &at, ("s390x", (5, 15)), ci(), &big);
        let release = || json!({ "by": ["release"] });
        self.good("a signature over the chosen manifest", &at, ("amd64", (5, 15)), release(), &old);
        self.refused("a signature over the other variant", &at, ("amd64", (6, 4)), release(), "signature");
        self.refused("a kernel that is too old", &at, ("amd64", (5, 7)), ci(), "platform");
        self.refused("an architecture without a variant", &at, ("riscv64", (6, 4)), ci(), "platform");

        let nested = name("bpf/nested:1");
        let mut entry = serde_json::to_value(Descriptor::of(media::INDEX, &index)).unwrap();
        entry["platform"] = json!({ "os": "linux", "architecture": "amd64" });
        let outer = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": [entry] }).to_string();
        self.entry(Some(&nested), media::INDEX, outer.as_bytes());
        self.refused("an index in an index", &nested, AMD64, ci(), "bytes");
    }

    fn attestations(&mut self) {
        let by = |predicate: &str| json!({ "by": ["ci"], "predicate": predicate });
        let stated = Stated { predicate_type: PROVENANCE.to_owned(), predicate: json!({ "builder": "ci" }) };
        for (version, place, why) in [
            (4, "bpf/attested:1", "an attestation in a bundle"),
            (5, "bpf/attested-legacy:1", "an attestation at the tag for them"),
        ] {
            let (at, image) = (name(place), built(version, LITTLE, "amd64", Compression::Gzip));
            let digest = self.image(&at, &image);
            let bundle = attestation(&self.keys["ci"], &at, digest, &stated).unwrap();
            if version == 4 {
                self.bundle(&image.manifest, media::MANIFEST, &bundle);
            } else {
                let bundle: Value = serde_json::from_slice(&bundle).unwrap();
                let layer = self.blob(media::ENVELOPE, bundle["dsseEnvelope"].to_string().as_bytes());
                let config = self.blob(media::CONFIG, b"{}");
                let mut layer = serde_json::to_value(layer).unwrap();
                layer["annotations"] = json!({ "dev.cosignproject.cosign/signature": "", "predicateType": PROVENANCE });
                let manifest =
                    json!({ "schemaVersion": 2, "mediaType": media::MANIFEST, "config": config, "layers": [layer] });
                self.entry(Some(&at.attestations(digest)), media::MANIFEST, manifest.to_string().as_bytes());
            }
            self.good(why, &at, AMD64, by(PROVENANCE), &image);
            self.refused("an attestation of another type", &at, AMD64, by("https://spdx.dev/Document"), "signature");
        }
        let at = name("bpf/attested-legacy:1");
        self.refused("an attestation is no signature", &at, AMD64, json!({ "by": ["ci"] }), "signature");
    }

    fn forged(&mut self) {
        let (ci, bare) = (|| json!({ "by": ["ci"] }), name("bpf/unsigned:1"));
        self.image(&bare, &built(6, LITTLE, "amd64", Compression::Gzip));
        self.refused("no signature", &bare, AMD64, ci(), "signature");

        let (copied, original) = (name("evil/copy:1"), name("bpf/original:1"));
        let image = built(7, LITTLE, "amd64", Compression::Gzip);
        let digest = self.image(&copied, &image);
        self.legacy("ci", &original, &copied, digest);
        self.refused("a signature for another repository", &copied, AMD64, ci(), "signature");
        let any = json!({ "by": ["ci"], "identity": "any" });
        self.good("a signature for another repository, where any counts", &copied, AMD64, any, &image);

        let at = name("bpf/other-digest:1");
        let digest = self.image(&at, &built(8, LITTLE, "amd64", Compression::Gzip));
        let Signed::Appended(made) = sign(&self.keys["ci"], &at, Digest::of(b"another"), None).unwrap() else {
            unreachable!()
        };
        self.blob(media::SIMPLE_SIGNING, &made.payload);
        self.blob(media::CONFIG, &made.config);
        self.entry(Some(&at.signatures(digest)), media::MANIFEST, &made.manifest);
        self.refused("a signature over another digest", &at, AMD64, ci(), "signature");

        let hint = |key: &str| STANDARD.encode(self.keys[key].public().fingerprint().bytes());
        let (own, other) = (hint("ci"), hint("release"));
        for (version, why, hint, bit, is_encoded) in [
            (9, "a bundle without a name", &own, 0, true),
            (10, "a signature over the statement, not over its DSSE encoding", &own, 0, false),
            (11, "a hint that is another key's", &other, 0, true),
            (12, "a signature with one bit turned", &own, 1, true),
        ] {
            let (at, image) =
                (name(&format!("bpf/bundle{version}:1")), built(version, LITTLE, "amd64", Compression::Gzip));
            let digest = self.image(&at, &image);
            let statement = json!({
                "_type": STATEMENT, "predicateType": SIGNATURE_PREDICATE, "predicate": {},
                "subject": [{ "digest": { "sha256": digest.hex() } }],
            });
            let statement = statement.to_string().into_bytes();
            let message = if is_encoded { pae(&statement) } else { statement.clone() };
            let mut signature = self.keys["ci"].sign(&message).unwrap();
            *signature.last_mut().unwrap() ^= bit;
            let bundle = json!({
                "mediaType": media::BUNDLE, "verificationMaterial": { "publicKey": { "hint": hint } },
                "dsseEnvelope": {
                    "payload": STANDARD.encode(&statement), "payloadType": media::IN_TOTO,
                    "signatures": [{ "sig": STANDARD.encode(signature) }],
                },
            });
            self.bundle(&image.manifest, media::MANIFEST, bundle.to_string().as_bytes());
            match version {
                9 => self.good(why, &at, AMD64, ci(), &image),
                _ => self.refused(why, &at, AMD64, ci(), "signature"),
            }
        }
    }

    fn damaged(&mut self) {
        let image = built(13, LITTLE, "amd64", Compression::Gzip);
        let labels = |labels: Value| (media::CONFIG, json!({ "config": { "Labels": labels } }));
        let none = || labels(json!({}));
        let plain = |tar: Vec<u8>| vec![(media::LAYER_TAR, tar)];
        let regular = tar::EntryType::Regular;
        let whole = || tar(regular, &[("counter.o", LITTLE)]);
        let good = || plain(whole());
        let big_label = json!({ "schema": 1, "object": { "endian": "big" } }).to_string();
        let newer = json!({ "schema": 2 }).to_string();
        let more = json!({ "schema": 1, "programs": [{ "name": "nobody" }] }).to_string();
        self.odd("two layers", "kind", none(), &[good(), good()].concat());
        self.odd("a WebAssembly module", "kind", ("application/vnd.wasm.config.v0+json", json!({})), &good());
        self.odd("two ELF files", "layer", none(), &plain(tar(regular, &[("a.o", LITTLE), ("b.o", LITTLE)])));
        self.odd("no ELF file", "layer", none(), &plain(tar(regular, &[("LICENSE", b"text")])));
        self.odd("a path out of the layer", "layer", none(), &plain(tar(regular, &[("../counter.o", LITTLE)])));
        self.odd(
            "a symbolic link",
            "layer",
            none(),
            &plain(tar(tar::EntryType::Symlink, &[("a", b""), ("b.o", LITTLE)])),
        );
        self.odd("data behind the end of the tar", "layer", none(), &plain([whole(), b"more".to_vec()].concat()));
        self.odd(
            "a layer that is cut short",
            "layer",
            none(),
            &[(media::LAYER_TAR_GZIP, image.layer.iter().take(2000).copied().collect())],
        );
        self.odd("a label of a newer schema", "label", labels(json!({ media::LABEL: newer })), &good());
        self.odd("a label that says another byte order", "label", labels(json!({ media::LABEL: big_label })), &good());
        self.odd("a label with a program that is not there", "label", labels(json!({ media::LABEL: more })), &good());

        let at = name("bpf/rotten:1");
        let rotten = built(14, LITTLE, "amd64", Compression::Gzip);
        let digest = self.image(&at, &rotten);
        self.legacy("ci", &at, &at, digest);
        let config = self.blobs.get_mut(&rotten.config_descriptor().digest.hex()).unwrap();
        *config.last_mut().unwrap() ^= 1;
        self.refused("a blob with other bytes than its digest says", &at, AMD64, json!({ "by": ["ci"] }), "bytes");
    }

    /// Puts everything into `spec/vectors`.
    fn save(self) {
        let (root, at) = (vectors(), vectors().join("images"));
        let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap() + "\n";
        let _not_there = fs::remove_dir_all(&at);
        fs::create_dir_all(at.join("blobs/sha256")).unwrap();
        fs::create_dir_all(at.join("keys")).unwrap();
        for (name, key) in &self.keys {
            fs::write(at.join(format!("keys/{name}.pub")), key.public().to_pem()).unwrap();
        }
        for (name, bytes) in &self.blobs {
            fs::write(at.join("blobs/sha256").join(name), bytes).unwrap();
        }
        fs::write(at.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}\n").unwrap();
        let index = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": self.entries });
        fs::write(at.join("index.json"), pretty(&index)).unwrap();
        let keys: Vec<&&str> = self.keys.keys().collect();
        fs::write(root.join("images.json"), pretty(&json!({ "keys": keys, "images": self.cases }))).unwrap();
    }
}
