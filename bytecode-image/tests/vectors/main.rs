//! The image vectors of `spec/vectors`: signed images in one OCI layout, good and damaged, and what a reader makes of each. This crate and
//! `spec/vectors/reader.py`, which was written from the specification alone, must both say what `images.json` says.
//!
//! `VECTORS=write cargo test -p bytecode-image --test vectors` makes them anew, with new keys.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, its helpers too")]

mod write;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use bpfd_policy::{Policy, image::AgeCheck, read::PolicyText};
use bytecode_image::{
    candidate::{Candidate, is_signatures},
    config::ImageConfig,
    digest::{Descriptor, Digest},
    document::{Document, Manifest},
    key::policy_key,
    reference::Reference,
    resolve::{Platform, Selected, choose},
    summary, unpack,
    verify::decide,
};
use ebpf::inspect;
use serde::Deserialize;
use serde_json::{Value, json};

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/vectors")
}

#[derive(Deserialize)]
struct Images {
    keys: Vec<String>,
    images: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    why: String,
    reference: Reference,
    host: Host,
    require: Require,
    #[serde(default)]
    result: Option<Value>,
    #[serde(default)]
    refused: Option<String>,
}

#[derive(Deserialize)]
struct Host {
    architecture: String,
    kernel: (u32, u32),
}

#[derive(Deserialize)]
struct Require {
    by: Vec<String>,
    #[serde(default)]
    threshold: Option<u32>,
    #[serde(default)]
    identity: Option<String>,
    #[serde(default)]
    predicate: Option<String>,
}

/// The layout, read by hand: names of `index.json`, and blobs that are hashed.
struct Layout(PathBuf, Vec<Value>);

impl Layout {
    fn open(at: PathBuf) -> Self {
        let index: Value = serde_json::from_slice(&fs::read(at.join("index.json")).unwrap()).unwrap();
        Self(at, index["manifests"].as_array().unwrap().clone())
    }

    fn blob(&self, wanted: &Descriptor) -> Result<Vec<u8>, &'static str> {
        let bytes = fs::read(self.0.join("blobs/sha256").join(wanted.digest.hex())).map_err(|_| "bytes")?;
        (Descriptor::of(&wanted.media_type, &bytes) == *wanted).then_some(bytes).ok_or("bytes")
    }

    fn document(&self, entry: &Value) -> Result<Document, &'static str> {
        let wanted: Descriptor = serde_json::from_value(entry.clone()).unwrap();
        Ok(Document::new(&wanted.media_type, self.blob(&wanted)?))
    }

    fn named(&self, name: &str) -> Option<&Value> {
        self.1.iter().find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == name)
    }

    fn candidates(&self, reference: &Reference, over: Digest) -> Result<Vec<Candidate>, &'static str> {
        let tags = [reference.signatures(over), reference.attestations(over)];
        let tagged: Vec<&Value> = tags.iter().filter_map(|tag| self.named(&tag.to_string())).collect();
        let mut found = Vec::new();
        for entry in tagged.iter().copied().chain(&self.1) {
            let Ok(Manifest::Image(image)) = self.document(entry)?.parse() else { continue };
            if tagged.contains(&entry) && found.len() < tagged.len() || is_signatures(&image, over) {
                for layer in &image.layers {
                    found.push(Candidate::new(over, layer, self.blob(&layer.descriptor)?));
                }
            }
        }
        Ok(found)
    }

    /// What a reader makes of a case, or the part that refuses it.
    fn verify(&self, case: &Case, policy: &Policy) -> Result<Value, &'static str> {
        let Case { reference, host, .. } = case;
        let top = self.document(self.named(&reference.to_string()).ok_or("reference")?)?;
        let platform = Platform { architecture: host.architecture.clone(), kernel: Some(host.kernel) };
        let selected = match top.parse().map_err(|_| "bytes")? {
            Manifest::Image(_) => Selected::alone(reference, top),
            Manifest::Index(index) => {
                let entry = choose(&index, &platform).map_err(|_| "platform")?;
                let manifest = Document::new(&entry.descriptor.media_type, self.blob(&entry.descriptor)?);
                Selected::of_index(reference, top, manifest)
            }
        };
        let selected = selected.map_err(|_| "bytes")?;
        let mut candidates = Vec::new();
        for over in selected.signable() {
            candidates.extend(self.candidates(reference, over)?);
        }
        decide(policy, selected.subject(), &candidates, AgeCheck::Skipped).map_err(|_| "signature")?;
        let layer = selected.layer().map_err(|_| "kind")?;
        let config = ImageConfig::parse(&self.blob(selected.config())?).map_err(|_| "bytes")?;
        let object = unpack::object(&layer.media_type, &self.blob(layer)?).map_err(|_| "layer")?.object;
        let inspected = inspect::describe(&object).map_err(|_| "object")?;
        let summary = summary::read(&object, &config.labels).map_err(|_| "label")?;
        let mut programs: Vec<&str> = summary.programs.iter().map(|program| program.name.as_str()).collect();
        programs.sort_unstable();
        Ok(json!({
            "manifest": selected.manifest().digest(), "object": Digest::of(&object).hex(), "endian": inspected.byte_order,
            "labels": summary.labels, "version": summary.version, "programs": programs,
        }))
    }
}

/// The policy that asks for what a case requires.
fn policy(images: &Images, require: &Require) -> Policy {
    let Require { by, threshold, identity, predicate } = require;
    let mut text = "version = 1\n".to_owned();
    for key in &images.keys {
        text += &format!("[[signer]]\nname = \"{key}\"\nkey = \"/{key}.pub\"\n");
    }
    let word = if predicate.is_some() { "attested_by" } else { "signed_by" };
    let threshold = threshold.map(|least| format!(", threshold = {least}")).unwrap_or_default();
    let identity = identity.as_ref().map(|identity| format!(", identity = \"{identity}\"")).unwrap_or_default();
    let predicate = predicate.as_ref().map(|predicate| format!(", predicate = \"{predicate}\"")).unwrap_or_default();
    text += &format!(
        "[[image]]\nscope = \"reg.example\"\nrequire = [{{ {word} = {by:?}{threshold}{identity}{predicate} }}]\n"
    );
    let key =
        |path: &Path| policy_key(fs::read_to_string(vectors().join("images/keys").join(path.file_name().unwrap())));
    Policy::read(&[PolicyText { file: "policy.toml", text: &text }], key).unwrap()
}

#[test]
fn this_crate_and_the_reader_in_python_read_every_vector_as_it_says() {
    if env::var("VECTORS").is_ok_and(|value| value == "write") {
        write::write();
    }
    let images: Images = serde_json::from_slice(&fs::read(vectors().join("images.json")).unwrap()).unwrap();
    let layout = Layout::open(vectors().join("images"));
    for case in &images.images {
        let read = layout.verify(case, &policy(&images, &case.require));
        let expected = case.result.clone().ok_or(case.refused.clone().unwrap_or_default());
        assert_eq!(read.map_err(str::to_owned), expected, "{}", case.why);
    }
    let read = Command::new("python3").arg("-B").arg(vectors().join("reader.py")).output().unwrap();
    let told = String::from_utf8_lossy(&read.stdout);
    assert!(read.status.success(), "{told}{}", String::from_utf8_lossy(&read.stderr));
    assert!(told.contains("vectors are read as they say") && images.images.len() > 25, "{told}");
}

#[test]
fn the_reader_in_python_notices_a_vector_that_says_something_else() {
    let copy = tempfile::tempdir().unwrap();
    let status = Command::new("cp").arg("-r").arg(vectors().join("../.")).arg(copy.path()).status().unwrap();
    assert!(status.success());
    let file = copy.path().join("vectors/images.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("\"little\"", "\"big\"", 1)).unwrap();
    let read =
        Command::new("python3").arg("-B").arg(vectors().join("reader.py")).arg(copy.path().join("vectors")).output();
    assert_eq!(read.unwrap().status.code(), Some(1));
}
