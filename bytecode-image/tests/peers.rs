//! Independent peers: Debian's docker-registry keeps what we push and serves what we pull, its skopeo reads our store, and the
//! crate oci-client pulls what we push and pushes what we pull.
//! A machine without them fails these tests: `apt-get install --no-install-recommends docker-registry skopeo openssl`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

use bytecode_image::{
    auth::{AuthFile, Credentials},
    digest::{Descriptor, Digest},
    document::Document,
    fetch::{PullRequest, Pulled},
    limits, media,
    reference::Reference,
    registries::{Author, Registries, plain_file},
    store::Store,
    testing::registry::{Mode, TestRegistry},
    transport::{Place, Put, Remote, Timeouts, TransportConfig, TransportError},
};
use common::{platform, pull_into, run};
use oci_client::client::{Config, ImageLayer};
use oci_client::secrets::RegistryAuth;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Debian's registry on a free loopback port; killed when dropped.
struct DockerRegistry {
    child: Child,
    host: String,
    _dir: TempDir,
}

impl DockerRegistry {
    /// `http` is more of the configuration's `http:` section, `top` of its top level.
    fn start(dir: TempDir, http: &str, top: &str) -> Self {
        let config = dir.path().join("config.yml");
        let data = dir.path().join("data");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http:\n  addr: 127.0.0.1:0\n{http}{top}",
            data.display()
        );
        fs::write(&config, text).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .stdin(Stdio::null())
            .spawn()
            .expect("these tests need Debian's docker-registry");
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let host = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "docker-registry ended: {said}");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ',']).next().unwrap().trim().to_owned();
            }
            said.push_str(&line);
        };
        // Keeps the pipe from filling up.
        std::thread::spawn(move || drop(log.read_to_end(&mut Vec::new())));
        Self { child, host, _dir: dir }
    }

    fn plain() -> Self {
        Self::start(tempfile::tempdir().unwrap(), "", "")
    }

    fn config(&self, entry: &str) -> TransportConfig {
        let text = format!("[[registry]]\nname = \"registry\"\nendpoint = \"{}\"\n{entry}\n", self.host);
        let mut registries = Registries::parse(&text, "registries.toml").unwrap();
        registries.read_certificates(plain_file).unwrap();
        TransportConfig {
            registries,
            auth: AuthFile::default(),
            timeouts: Timeouts::default(),
            author: Author::Trusted,
            only: None,
        }
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn skopeo(arguments: &[&str]) -> String {
    let output = Command::new("skopeo").arg("--insecure-policy").args(arguments).output();
    let output = output.expect("these tests need Debian's skopeo");
    assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

struct Parts {
    config: Vec<u8>,
    layer: Vec<u8>,
    manifest: Document,
}

/// A real image: a tar of one file, compressed, with its diff id.
fn parts() -> Parts {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    let object = common::noise(40_000);
    header.set_size(u64::try_from(object.len()).unwrap());
    header.set_mode(0o644);
    tar.append_data(&mut header, "xdp.bpf.o", object.as_slice()).unwrap();
    let tar = tar.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let layer = gzip.finish().unwrap();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Labels": {"io.ebpf.programs": "{\"pass\":\"xdp\"}"}},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&tar)]},
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media::MANIFEST,
        "config": Descriptor::of(media::CONFIG, &config),
        "layers": [Descriptor::of(media::LAYER_TAR_GZIP, &layer)],
    });
    Parts { config, layer, manifest: Document::new(media::MANIFEST, manifest.to_string().into_bytes()) }
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

fn push(remote: &Remote<'_>, tag: &str, parts: &Parts) -> Result<[Put; 2], TransportError> {
    run(async {
        let put = [remote.put_blob(&parts.config).await?, remote.put_blob(&parts.layer).await?];
        remote.put_manifest(Place::Tag(tag), &parts.manifest).await?;
        Ok(put)
    })
}

/// The other client, and what it calls the image.
fn oci_client(registry: &DockerRegistry, image: &str) -> (oci_client::Client, oci_client::Reference) {
    let protocol = oci_client::client::ClientProtocol::Http;
    let config = oci_client::client::ClientConfig { protocol, ..Default::default() };
    (oci_client::Client::new(config), format!("{}/{image}", registry.host).parse().unwrap())
}

fn pulled(store: &Store, config: &TransportConfig, reference: &Reference) {
    let request =
        PullRequest { reference: reference.clone(), cached: None, platform: platform(), transport: config.clone() };
    let Pulled::Fetched { fetched, .. } = pull_into(store, &request).unwrap() else { panic!("cached") };
    store.commit(&fetched).unwrap();
}

#[test]
fn debians_registry_takes_our_push_and_serves_our_pull() {
    let registry = DockerRegistry::plain();
    let config = registry.config("http = true");
    let name = reference("registry/team/app:v1");
    let parts = parts();
    let remote = Remote::new(&config, &name);
    assert_eq!(push(&remote, "v1", &parts).unwrap(), [Put::Uploaded; 2]);
    assert_eq!(push(&remote, "v1", &parts).unwrap(), [Put::AlreadyThere; 2]);
    let resolved = run(remote.resolve("v1")).unwrap();
    assert_eq!((resolved.digest, resolved.media_type.as_str()), (parts.manifest.digest(), media::MANIFEST));
    assert!(run(remote.tagged("v2")).unwrap_err().is_not_found());
    // It has no referrers API and no tag in its place: nothing is attached.
    assert_eq!(run(remote.referrers(resolved.digest)).unwrap(), []);

    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    pulled(&store, &config, &name);
    let selected = store.selected(&name, &platform()).unwrap();
    assert_eq!(selected.digest(), parts.manifest.digest());
    assert_eq!(store.read(selected.layer().unwrap(), limits::LAYER).unwrap(), parts.layer);
}

#[test]
fn oci_client_pulls_what_we_push() {
    let registry = DockerRegistry::plain();
    let parts = parts();
    push(&Remote::new(&registry.config("http = true"), &reference("registry/team/app:v1")), "v1", &parts).unwrap();
    let (client, name) = oci_client(&registry, "team/app:v1");
    let image = client.pull(&name, &RegistryAuth::Anonymous, vec![media::LAYER_TAR_GZIP]);
    let image = run(async { image.await.unwrap() });
    assert_eq!(image.digest, Some(parts.manifest.digest().to_string()));
    assert_eq!((image.config.media_type.as_str(), &image.config.data[..]), (media::CONFIG, &parts.config[..]));
    let [layer] = image.layers.as_slice() else { panic!("{} layers", image.layers.len()) };
    assert_eq!(layer.sha256_digest(), Digest::of(&parts.layer).to_string());
}

#[test]
fn we_pull_what_oci_client_pushes() {
    let registry = DockerRegistry::plain();
    let parts = parts();
    let (client, name) = oci_client(&registry, "team/app:v1");
    let digest = run(async {
        let layer = ImageLayer::new(parts.layer.clone(), media::LAYER_TAR_GZIP.to_owned(), None);
        let config = Config::new(parts.config.clone(), media::CONFIG.to_owned(), None);
        client.push(&name, &[layer], config, &RegistryAuth::Anonymous, None).await.unwrap();
        client.fetch_manifest_digest(&name, &RegistryAuth::Anonymous).await.unwrap()
    });
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let name = reference("registry/team/app:v1");
    pulled(&store, &registry.config("http = true"), &name);
    let selected = store.selected(&name, &platform()).unwrap();
    assert_eq!(selected.digest().to_string(), digest);
    assert_eq!(store.read(selected.config(), limits::CONFIG).unwrap(), parts.config);
    assert_eq!(store.read(selected.layer().unwrap(), limits::LAYER).unwrap(), parts.layer);
}

#[test]
fn skopeo_sees_the_same_image_in_the_registry_and_in_our_store() {
    let registry = DockerRegistry::plain();
    let config = registry.config("http = true");
    let name = reference("registry/team/app:v1");
    let parts = parts();
    push(&Remote::new(&config, &name), "v1", &parts).unwrap();
    let dir = tempfile::tempdir().unwrap();
    pulled(&Store::open(dir.path()).unwrap(), &config, &name);
    let there = format!("docker://{}/team/app:v1", registry.host);
    let here = format!("oci:{}:{name}", dir.path().display());
    for inspected in [skopeo(&["inspect", "--tls-verify=false", &there]), skopeo(&["inspect", &here])] {
        let inspected: Value = serde_json::from_str(&inspected).unwrap();
        assert_eq!(inspected["Digest"], parts.manifest.digest().to_string());
        assert_eq!(inspected["Labels"], json!({"io.ebpf.programs": "{\"pass\":\"xdp\"}"}));
    }
}

#[test]
fn what_skopeo_copies_out_of_our_store_is_what_we_pull_again() {
    let parts = parts();
    let dir = tempfile::tempdir().unwrap();
    let first = DockerRegistry::plain();
    let config = first.config("http = true");
    let name = reference("registry/team/app:v1");
    push(&Remote::new(&config, &name), "v1", &parts).unwrap();
    pulled(&Store::open(dir.path()).unwrap(), &config, &name);
    // To our own registry, which so has skopeo as its peer for chunked uploads.
    let second = TestRegistry::honest().unwrap();
    let here = format!("oci:{}:{name}", dir.path().display());
    let there = format!("docker://{}/copied/app:v2", second.host());
    skopeo(&["copy", "--dest-tls-verify=false", &here, &there]);
    assert_eq!(second.tag("copied/app", "v2"), Some(parts.manifest.digest()));
    let again = tempfile::tempdir().unwrap();
    let store = Store::open(again.path()).unwrap();
    let copied = reference(&format!("{}/copied/app:v2", second.host()));
    pulled(&store, &common::config(&second, ""), &copied);
    assert_eq!(store.find(&copied).unwrap().digest, parts.manifest.digest());
    // And back out of it.
    second.behave("copied/app", Mode::Honest);
    let layout = again.path().join("by-skopeo");
    skopeo(&["copy", "--src-tls-verify=false", &there, &format!("oci:{}:x", layout.display())]);
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], parts.manifest.digest().to_string());
}

#[test]
fn a_password_file_of_debians_registry_is_satisfied_by_the_auth_file() {
    let dir = tempfile::tempdir().unwrap();
    let htpasswd = dir.path().join("htpasswd");
    // bcrypt of `s3cret`, cost 5.
    fs::write(&htpasswd, "user:$2b$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK\n").unwrap();
    let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", htpasswd.display());
    let registry = DockerRegistry::start(dir, "", &auth);
    let mut config = registry.config("http = true");
    let name = reference("registry/team/app:v1");
    let error = push(&Remote::new(&config, &name), "v1", &parts()).unwrap_err();
    assert!(matches!(error, TransportError::NoCredentials { .. }), "{error:?}");
    let with = |password: &str| AuthFile::one(name.registry(), Credentials::password("user", password));
    config.auth = with("wrong");
    let error = push(&Remote::new(&config, &name), "v1", &parts()).unwrap_err();
    assert!(matches!(error, TransportError::Denied { .. }), "{error:?}");
    config.auth = with("s3cret");
    push(&Remote::new(&config, &name), "v1", &parts()).unwrap();
}

fn openssl(dir: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn tls_needs_a_certificate_of_the_authority_that_registries_toml_names() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30";
    openssl(dir.path(), &format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=test-authority"));
    openssl(dir.path(), &format!("req {key} -keyout tls.key -out tls.csr -subj /CN=registry"));
    fs::write(dir.path().join("extensions"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(
        dir.path(),
        "x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile extensions -out tls.pem",
    );
    let tls = format!("  tls:\n    certificate: {}\n    key: {}\n", at("tls.pem"), at("tls.key"));
    let ca = format!("ca = \"{}\"", at("ca.pem"));
    let registry = DockerRegistry::start(dir, &tls, "");
    let name = reference("registry/team/app:v1");
    let ask = |entry: &str| run(Remote::new(&registry.config(entry), &name).tagged("v1")).unwrap_err();
    assert!(ask(&ca).is_not_found(), "the authority is trusted");
    let unknown = ask("");
    assert!(matches!(unknown, TransportError::Unreachable { .. }), "{unknown:?}");
    let plain = ask("http = true");
    assert!(matches!(plain, TransportError::Status { .. }), "{plain:?}");
}
