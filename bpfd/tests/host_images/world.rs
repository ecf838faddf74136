//! A registry with images, and a daemon's image half on a root directory of its own. All of it is gone when it is dropped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bpfd::images::{ImageError, Images};
use bpfd::layout::Layout;
use bpfd::objects::Objects;
use bpfd::progress::{Phase, Progress, Report};
use bpfd::registries::RegistryFiles;
use bpfd::source::Bytecode;
use bpfd::trust::Trust;
use bpfd::waiter::Waiter;
use bpfd::worker::Workers;
use bpfd_core::ask::PullAsk;
use bpfd_core::policy::{Ask, Authorized, Principal, authorize};
use bpfd_core::report::Warning;
use bpfd_core::request::{Apply, PullPolicy};
use bpfd_core::state::State;
use bpfd_policy::Policy;
use bpfd_policy::accounts::{Accounts, Names};
use bpfd_proto::status::Refusal;
use bytecode_image::build::{self, BuiltImage, Recipe};
use bytecode_image::digest::Digest;
use bytecode_image::key::{Scheme, SigningKey};
use bytecode_image::media;
use bytecode_image::reference::Reference;
use bytecode_image::resolve::Platform;
use bytecode_image::sign::{Signed, sign};
use bytecode_image::testing::registry::{Mode, Options, TestRegistry};
use bytecode_image::transport::Timeouts;
use serde_json::json;

/// Four XDP programs: `chained`, `last`, `also` and `silent`.
pub(crate) const OBJECT: &[u8] = include_bytes!("../../../ebpf/tests/objects/run_config.o");
pub(crate) const REPO: &str = "team/app";

pub(crate) struct World {
    pub(crate) registry: Option<TestRegistry>,
    pub(crate) host: String,
    pub(crate) key: SigningKey,
    pub(crate) images: Images,
    pub(crate) trust: Arc<Trust>,
    pub(crate) objects: Objects,
    pub(crate) layout: Layout,
    runtime: tokio::runtime::Runtime,
    root: tempfile::TempDir,
}

pub(crate) fn workers() -> Workers {
    Workers::of(PathBuf::from(env!("CARGO_BIN_EXE_bpfd")))
}

impl World {
    /// A registry that has `team/app:v1`, signed, and a host that trusts its signer.
    pub(crate) fn new() -> Self {
        let world = Self::bare(Options::default(), "");
        let digest = world.publish("v1", &image());
        world.sign("v1", digest, &world.key);
        world.trust.add("ci", &world.key.public().to_pem(), &format!("{}/team/**", world.host), Apply::Write).unwrap();
        world
    }

    /// An empty registry, and a host that trusts nobody; `etc` has more for registries.toml.
    pub(crate) fn bare(options: Options, etc: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let registry = TestRegistry::start(options).unwrap();
        let layout = Layout::new(Some(root.path()));
        std::fs::create_dir_all(&layout.etc).unwrap();
        std::fs::write(layout.etc.join("registries.toml"), format!("{}{etc}", registry.registries_toml())).unwrap();
        let trust = Arc::new(Trust::open(&layout, |_: &Names| Accounts::default()).unwrap());
        let objects = Objects::open(&layout.objects()).unwrap();
        let files = RegistryFiles::open(&layout).unwrap();
        let images = Images::open(&layout, workers(), trust.clone(), files, objects.clone()).unwrap();
        // A registry that stalls is given up soon, but not one on a processor that is emulated.
        let timeouts = Timeouts { idle: Duration::from_secs(3), ..Timeouts::default() };
        Self {
            host: registry.host(),
            registry: Some(registry),
            key: SigningKey::generate(Scheme::P256).unwrap(),
            images: images.patient(timeouts),
            trust,
            objects,
            layout,
            runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap(),
            root,
        }
    }

    pub(crate) fn patient(self, timeouts: Timeouts) -> Self {
        Self { images: self.images.patient(timeouts), ..self }
    }

    pub(crate) fn registry(&self) -> &TestRegistry {
        self.registry.as_ref().unwrap()
    }

    /// Everything passes from now on: what is tested is the way, not the decision.
    pub(crate) fn trust_anything(&self) {
        let text = format!("version = 1\n[[image]]\nscope = \"{}\"\nunsigned = \"allow\"\n", self.host);
        std::fs::write(self.layout.etc.join("policy.toml"), text).unwrap();
        std::fs::remove_dir_all(self.layout.etc.join("policy.d")).unwrap_or_default();
        self.trust.reload().unwrap();
    }

    pub(crate) fn reference(&self, tag: &str) -> Reference {
        format!("{}/{REPO}:{tag}", self.host).parse().unwrap()
    }

    pub(crate) fn publish(&self, tag: &str, image: &BuiltImage) -> Digest {
        let registry = self.registry();
        registry.put_blob(&image.config);
        registry.put_blob(&image.layer);
        registry.put_manifest(REPO, tag, media::MANIFEST, &image.manifest)
    }

    /// An index that has one image, for this machine.
    pub(crate) fn publish_index(&self, tag: &str, image: &BuiltImage) -> Digest {
        self.publish("child", image);
        let mut entry = serde_json::to_value(image.descriptor()).unwrap();
        entry["platform"] = json!({"os": "linux", "architecture": Platform::host(None).architecture});
        let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": [entry]}).to_string();
        self.registry().put_manifest(REPO, tag, media::INDEX, index.as_bytes())
    }

    pub(crate) fn sign(&self, tag: &str, digest: Digest, key: &SigningKey) {
        let reference = self.reference(tag);
        let Signed::Appended(signed) = sign(key, &reference, digest, None).unwrap() else { panic!("signed before") };
        let registry = self.registry();
        registry.put_blob(&signed.payload);
        registry.put_blob(&signed.config);
        let name = reference.signatures(digest);
        registry.put_manifest(REPO, name.tag().unwrap(), media::MANIFEST, &signed.manifest);
    }

    pub(crate) fn behave(&self, mode: Mode) {
        self.registry().behave(REPO, mode);
    }

    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub(crate) fn acquire(&self, tag: &str, pull: PullPolicy) -> Result<(Bytecode, Vec<Warning>), ImageError> {
        self.acquire_reference(&self.reference(tag).to_string(), pull)
    }

    pub(crate) fn acquire_reference(
        &self,
        reference: &str,
        pull: PullPolicy,
    ) -> Result<(Bytecode, Vec<Warning>), ImageError> {
        let report: Report = Arc::new(|_| {});
        let root = Principal::daemon();
        let (acquired, warnings) =
            self.run(self.images.acquire(&root, reference, pull, &report, &Waiter::default()))?;
        let bytecode = acquired.bytecode(&self.objects);
        Ok((bytecode.unwrap(), warnings))
    }

    /// The phases that a caller hears of an acquisition, each once.
    pub(crate) fn phases(&self, tag: &str) -> Vec<Phase> {
        let heard: Arc<Mutex<Vec<Progress>>> = Arc::default();
        let ears = heard.clone();
        let report: Report = Arc::new(move |progress| ears.lock().unwrap().push(progress));
        let (reference, pull) = (self.reference(tag).to_string(), PullPolicy::Newer);
        self.run(self.images.acquire(&Principal::daemon(), &reference, pull, &report, &Waiter::default())).unwrap();
        let mut phases: Vec<Phase> = heard.lock().unwrap().iter().map(|progress| progress.phase).collect();
        phases.dedup();
        phases
    }

    /// What a caller sees of an error: reason, message, cause, hint; what differs from run to run by name.
    pub(crate) fn told(&self, error: ImageError, names: &[(&str, String)]) -> String {
        let Refusal { reason, message, cause, hint, facts: _, verifier: _ } = Refusal::from(error);
        let line = |what, text: Option<String>| text.map(|text| format!("\n  {what}: {text}")).unwrap_or_default();
        let text = format!("{}\n  error: {message}{}{}", reason.word(), line("cause", cause), line("hint", hint));
        let text = names.iter().fold(text, |text, (name, value)| text.replace(value, name));
        let text = text.replace(&*self.root.path().to_string_lossy(), "");
        without_digests(&text.replace(&self.host, "REGISTRY"))
    }

    /// Parts that were left in `ingest/`, and names in the store.
    pub(crate) fn traces(&self) -> (Vec<String>, Vec<String>) {
        let ingest = std::fs::read_dir(self.layout.images().join("ingest")).unwrap();
        let left = ingest.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        let stored = self.run(self.images.list(0, "", 100)).unwrap();
        (left, stored.iter().map(|stored| stored.reference.to_string()).collect())
    }

    pub(crate) fn blob(&self, digest: Digest) -> PathBuf {
        self.layout.images().join("blobs/sha256").join(digest.hex())
    }
}

/// Each digest that appears is numbered.
fn without_digests(text: &str) -> String {
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("sha256:") {
        let (before, digest) = rest.split_at(at);
        let (digest, after) = digest.split_at(71);
        let number = known.len() + 1;
        let number = *known.entry(digest.to_owned()).or_insert(number);
        out.push_str(&format!("{before}DIGEST{number}"));
        rest = after;
    }
    out + rest
}

pub(crate) fn pull(reference: &Reference) -> Authorized<PullAsk> {
    permitted(PullAsk(reference.to_string()))
}

fn permitted<R: Ask>(request: R) -> Authorized<R> {
    authorize(&Policy::default(), Principal::daemon(), &State::default(), request).unwrap()
}

/// An image of [`OBJECT`] with a name, and advice for `last`.
pub(crate) fn image() -> BuiltImage {
    let text = "name = \"app\"\nversion = \"1.2.3\"\n[programs.last]\npriority = 20\nproceed_on = [\"pass\", \"tx\"]\n";
    let architecture = Platform::host(None).architecture.parse().unwrap();
    let metadata = toml::from_str(text).unwrap();
    let recipe =
        Recipe { object: OBJECT, path: "app.bpf.o", architecture: &architecture, metadata: &metadata, epoch: None };
    build::build(&recipe).unwrap()
}

/// The same image, with a label that says something else: `from` becomes `to` in it.
pub(crate) fn image_with_label(from: &str, to: &str) -> BuiltImage {
    let honest = image();
    let config = String::from_utf8(honest.config).unwrap();
    assert!(config.contains(from), "{config}");
    let config = config.replace(from, to).into_bytes();
    let mut manifest: serde_json::Value = serde_json::from_slice(&honest.manifest).unwrap();
    manifest["config"]["digest"] = json!(Digest::of(&config));
    manifest["config"]["size"] = json!(config.len());
    BuiltImage { manifest: manifest.to_string().into_bytes(), config, layer: honest.layer }
}

/// Changes the last byte of a file.
pub(crate) fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(path, bytes).unwrap();
}
