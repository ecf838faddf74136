//! A registry with one image in it, and the client side's settings for it.
#![expect(dead_code, reason = "each test binary uses a part of it")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

use std::{error::Error, fs, path::Path, time::Duration};

use bpfd_policy::{Policy, image::AgeCheck, read::PolicyText};
use bytecode_image::{
    auth::{AuthFile, Credentials},
    candidate::Candidate,
    digest::{Descriptor, Digest},
    fetch::{PullError, PullRequest, Pulled, pull},
    key::{SigningKey, policy_key},
    media,
    reference::Reference,
    registries::{Author, Registries},
    resolve::{Platform, Selected},
    sign::{Signed, sign},
    store::Store,
    testing::registry::{Mode, Options, TestRegistry},
    transport::{Remote, Timeouts, TransportConfig},
    verify::{Refusal, Verified, decide},
};
use serde_json::json;
use tempfile::TempDir;

pub(crate) const REPO: &str = "team/app";

/// One image at `team/app:v1`.
pub(crate) struct Image {
    pub(crate) digest: Digest,
    pub(crate) bytes: Vec<u8>,
    pub(crate) config: Descriptor,
    pub(crate) layer: Descriptor,
    pub(crate) layer_bytes: Vec<u8>,
}

/// Bytes that do not repeat, so that a shifted resume cannot go unseen.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    })
    .take(length)
    .collect()
}

pub(crate) fn image_of(layer_bytes: Vec<u8>) -> (Image, Vec<u8>) {
    let config_bytes = json!({"architecture": "amd64", "os": "linux", "config": {}}).to_string().into_bytes();
    let config = Descriptor::of(media::CONFIG, &config_bytes);
    let layer = Descriptor::of(media::LAYER_TAR_GZIP, &layer_bytes);
    let manifest = json!({"schemaVersion": 2, "mediaType": media::MANIFEST, "config": config, "layers": [layer]});
    let bytes = manifest.to_string().into_bytes();
    (Image { digest: Digest::of(&bytes), bytes, config, layer, layer_bytes }, config_bytes)
}

pub(crate) fn seed(registry: &TestRegistry, repo: &str, tag: &str, layer: Vec<u8>) -> Image {
    let (image, config) = image_of(layer);
    registry.put_blob(&config);
    registry.put_blob(&image.layer_bytes);
    registry.put_manifest(repo, tag, media::MANIFEST, &image.bytes);
    image
}

pub(crate) fn seed_index(registry: &TestRegistry, repo: &str, tag: &str, image: &Image) -> Digest {
    let entry = json!({
        "mediaType": media::MANIFEST, "digest": image.digest, "size": image.bytes.len(),
        "platform": {"os": "linux", "architecture": "amd64"},
    });
    let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": [entry]}).to_string();
    registry.put_manifest(repo, tag, media::INDEX, index.as_bytes())
}

pub(crate) fn registry(mode: Mode) -> (TestRegistry, Image) {
    registry_with(Options::default(), mode)
}

pub(crate) fn registry_with(options: Options, mode: Mode) -> (TestRegistry, Image) {
    let registry = TestRegistry::start(options).unwrap();
    let image = seed(&registry, REPO, "v1", noise(100_000));
    registry.behave(REPO, mode);
    (registry, image)
}

/// Settings for a registry over plain HTTP, with more text for registries.toml, and without long waits.
pub(crate) fn config(registry: &TestRegistry, more: &str) -> TransportConfig {
    let text = format!("{}{more}", registry.registries_toml());
    TransportConfig {
        registries: Registries::parse(&text, "registries.toml").unwrap(),
        auth: AuthFile::default(),
        timeouts: Timeouts { idle: Duration::from_millis(300), ..Timeouts::default() },
        only: None,
        author: Author::Trusted,
    }
}

pub(crate) fn with_credentials(mut config: TransportConfig, registry: &TestRegistry) -> TransportConfig {
    let credentials = Credentials::password("user", "s3cret");
    config.auth = AuthFile::one(&registry.host().parse().unwrap(), credentials);
    config
}

pub(crate) fn reference(registry: &TestRegistry) -> Reference {
    format!("{}/{REPO}:v1", registry.host()).parse().unwrap()
}

pub(crate) fn remote(registry: &TestRegistry) -> Remote<'static> {
    Remote::new(&config(registry, ""), &reference(registry))
}

/// As a worker runs it: one thread.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// An error with its causes on one line, hosts and digests by name.
pub(crate) fn told(error: &dyn Error, names: &[(&str, String)]) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    names.iter().fold(text, |text, (name, value)| text.replace(value, name))
}

/// A policy that lets everything through: what is tested here is the way, not the decision.
pub(crate) fn let_through(selected: &Selected, candidates: &[Candidate]) -> Result<Verified, Box<Refusal>> {
    let text =
        format!("version = 1\n[[image]]\nscope = \"{}\"\nunsigned = \"allow\"\n", selected.reference().registry());
    let policy =
        Policy::read(&[PolicyText { file: "policy.toml", text: &text }], |_: &Path| Ok(vec![].into())).unwrap();
    decide(&policy, selected.subject(), candidates, AgeCheck::Skipped)
}

pub(crate) fn platform() -> Platform {
    Platform { architecture: "amd64".into(), kernel: Some((6, 1)) }
}

pub(crate) fn request(registry: &TestRegistry) -> PullRequest {
    PullRequest { reference: reference(registry), cached: None, platform: platform(), transport: config(registry, "") }
}

pub(crate) fn pull_into(store: &Store, request: &PullRequest) -> Result<Pulled, PullError<Box<Refusal>>> {
    let ingest = store.ingest().unwrap();
    run(pull(request, &ingest, let_through, &()))
}

/// Pulls and commits.
pub(crate) fn stored(store: &Store, request: &PullRequest) -> Selected {
    let Ok(Pulled::Fetched { fetched, .. }) = pull_into(store, request) else { panic!("not fetched") };
    store.commit(&fetched).unwrap();
    store.selected(&request.reference, &request.platform).unwrap()
}

/// Every file below a directory, sorted.
pub(crate) fn files(below: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![below.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path)
            } else {
                found.push(path.strip_prefix(below).unwrap().display().to_string())
            }
        }
    }
    found.sort();
    found
}

pub(crate) fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

/// Signs what a tag names, and puts the signature where cosign would.
pub(crate) fn sign_at(registry: &TestRegistry, key: &SigningKey, over: Digest) {
    let name = reference(registry);
    let Signed::Appended(manifest) = sign(key, &name, over, None).unwrap() else { panic!("signed") };
    registry.put_blob(&manifest.payload);
    registry.put_blob(&manifest.config);
    registry.put_manifest(REPO, name.signatures(over).tag().unwrap(), media::MANIFEST, &manifest.manifest);
}

/// A policy that wants a key's signature.
pub(crate) fn signed_by(key: &SigningKey) -> impl Fn(&Selected, &[Candidate]) -> Result<Verified, Box<Refusal>> {
    requiring(key, r#"{ signed_by = ["ci"] }"#)
}

/// A policy that requires this; the key is called `ci`.
pub(crate) fn requiring(
    key: &SigningKey,
    require: &'static str,
) -> impl Fn(&Selected, &[Candidate]) -> Result<Verified, Box<Refusal>> {
    let pem = key.public().to_pem();
    move |selected, candidates| {
        let scope = selected.reference().registry();
        let text = format!(
            "version = 1\n[[signer]]\nname = \"ci\"\nkey = \"/ci.pub\"\n\
             [[image]]\nscope = \"{scope}\"\nrequire = [{require}]\n"
        );
        let policy =
            Policy::read(&[PolicyText { file: "p", text: &text }], |_: &Path| policy_key(Ok(pem.clone()))).unwrap();
        decide(&policy, selected.subject(), candidates, AgeCheck::Skipped)
    }
}
