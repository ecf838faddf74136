//! A host with a registry that it calls `registry`, images in it, and a signer that the host trusts. The registry is of this process,
//! in the network of the case.

use std::fs;

use bpfd_tests::{Host, Output, example};
use bytecode_image::build::{self, BuildError, BuiltImage, Recipe};
use bytecode_image::digest::Digest;
use bytecode_image::key::{Scheme, SigningKey};
use bytecode_image::media;
use bytecode_image::reference::Reference;
use bytecode_image::resolve::Platform;
use bytecode_image::sign::{Signed, sign};
use bytecode_image::testing::registry::{Options, TestRegistry};
use serde_json::{Value, json};

/// The daemon's configuration.
pub(crate) const ETC: &str = "/run/case/etc/bpfd";

/// `team` must be signed by `ci`, `open` need not be signed, of anything else nothing is allowed.
const POLICY: &str = r#"version = 1
[[signer]]
name = "ci"
key = "/run/case/etc/bpfd/ci.pub"
[[image]]
scope = "registry/team/**"
require = [{ signed_by = ["ci"], threshold = 1, identity = "repository" }]
[[image]]
scope = "registry/open/**"
unsigned = "allow"
"#;

/// A host with a registry that it calls `registry`, and a signer that it trusts.
pub(crate) struct Images {
    pub(crate) host: Host,
    pub(crate) registry: TestRegistry,
    pub(crate) key: SigningKey,
}

impl Images {
    pub(crate) fn new() -> Self {
        Self::at(Options::default(), "")
    }

    /// With more in registries.toml.
    pub(crate) fn at(options: Options, more: &str) -> Self {
        let mut host = Host::without_daemon();
        // No name server: a name that no file knows is unknown at once.
        host.shell(
            "ip link add others type veth peer name beyond; ip link set others up; ip link set beyond up
             ip addr add 198.51.100.1/32 dev others; ip addr add 10.0.0.1/32 dev others
             echo >/run/resolv.conf; mount --bind /run/resolv.conf /etc/resolv.conf
             mkdir -p /run/case/etc/bpfd",
        );
        host.make_group();
        let registry = host.within(|| TestRegistry::start(options)).unwrap();
        let key = SigningKey::generate(Scheme::Ed25519).unwrap();
        let known = format!("[[registry]]\nname = \"registry\"\nendpoint = \"{}\"\nhttp = true\n", registry.address());
        for (file, text) in
            [("ci.pub", key.public().to_pem()), ("registries.toml", known + more), ("policy.toml", POLICY.to_owned())]
        {
            fs::write(host.path(&format!("{ETC}/{file}")), text).unwrap();
        }
        host.start();
        Self { host, registry, key }
    }

    /// A signed image `registry/team/app:1`.
    pub(crate) fn signed() -> Self {
        let images = Self::new();
        images.publish("team/app", &image());
        images.sign("team/app", &images.key);
        images
    }

    /// Under the tag `1`.
    pub(crate) fn publish(&self, repository: &str, image: &BuiltImage) -> Digest {
        self.registry.put_blob(&image.config);
        self.registry.put_blob(&image.layer);
        self.registry.put_manifest(repository, "1", media::MANIFEST, &image.manifest)
    }

    pub(crate) fn sign(&self, repository: &str, key: &SigningKey) {
        let digest = self.registry.tag(repository, "1").unwrap();
        let reference: Reference = format!("registry/{repository}:1").parse().unwrap();
        let signed = match sign(key, &reference, digest, None).unwrap() {
            Signed::Appended(signed) => signed,
            Signed::AlreadySigned => return,
        };
        self.registry.put_blob(&signed.payload);
        self.registry.put_blob(&signed.config);
        let tag = reference.signatures(digest).tag().unwrap().to_owned();
        self.registry.put_manifest(repository, &tag, media::MANIFEST, &signed.manifest);
    }

    /// What loading it is refused with. Nothing is kept of it.
    #[track_caller]
    pub(crate) fn refuses(&self, code: i32, reference: &str) -> String {
        self.refused(code, || self.host.bpfctl(&format!("load -q --image {reference} xdp -i uplink")))
    }

    #[track_caller]
    pub(crate) fn refused(&self, code: i32, ask: impl Fn() -> Output) -> String {
        let stored = || {
            let ingest = fs::read_dir(self.host.path("/run/case/var/lib/bpfd/images/ingest")).unwrap();
            (self.host.bpfctl("image ls -o json").stdout, ingest.count())
        };
        let before = stored();
        let said = self.host.unchanged(ask).refused(code);
        assert_eq!(stored(), before);
        said.replace(&self.registry.host(), "REGISTRY")
    }
}

pub(crate) fn image() -> BuiltImage {
    image_of(&example("xdp-counter"))
}

/// The same of another object, by its path.
pub(crate) fn image_of(object: &str) -> BuiltImage {
    built(&fs::read(object).unwrap()).unwrap()
}

/// The same of bytes, which may be no object.
pub(crate) fn built(object: &[u8]) -> Result<BuiltImage, BuildError> {
    let architecture = Platform::host(None).architecture.parse().unwrap();
    let metadata = Default::default();
    let recipe =
        Recipe { object, path: "bytecode.bpf.o", architecture: &architecture, metadata: &metadata, epoch: None };
    build::build(&recipe)
}

/// The image with another config, or another layer.
pub(crate) fn altered(config: Option<Vec<u8>>, layer: Option<(&str, Vec<u8>)>) -> BuiltImage {
    let BuiltImage { manifest, config: own, layer: honest } = image();
    let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let mut describe = |place: &str, bytes: &[u8]| {
        let described = manifest.pointer_mut(place).unwrap();
        described["digest"] = json!(Digest::of(bytes));
        described["size"] = json!(bytes.len());
    };
    if let Some(config) = &config {
        describe("/config", config);
    }
    if let Some((_, layer)) = &layer {
        describe("/layers/0", layer);
    }
    if let Some((media_type, _)) = &layer {
        *manifest.pointer_mut("/layers/0/mediaType").unwrap() = json!(media_type);
    }
    let layer = layer.map_or(honest, |(_, layer)| layer);
    BuiltImage { manifest: manifest.to_string().into_bytes(), config: config.unwrap_or(own), layer }
}
