//! Other people's tools: images that Debian's buildah made of plain Containerfiles load, and Debian's skopeo reads what we push
//! and what the daemon stores. The registry is Debian's.
#![expect(clippy::unwrap_used, reason = "a case's own set-up may fail the case")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

use bpfd_tests::{Host, example};
use insta::assert_snapshot;
use serde_json::{Value, json};

/// Files of the case, what registry and buildah store too. `/run` is a tmpfs of the case's own.
const WORK: &str = "/run/work";

/// A registry on a free port of the case's loopback, and a daemon and a caller that know it as `registry`.
struct Peers {
    registry: Child,
    address: String,
    host: Host,
}

impl Peers {
    /// `policy` is what the daemon's policy.toml says of images.
    fn new(policy: &str) -> Self {
        let mut host = Host::without_daemon();
        host.shell(&format!("mkdir -p {WORK} /run/case/etc/bpfd"));
        let write = |path: &str, text: &str| std::fs::write(host.path(path), text).unwrap();
        write(
            &format!("{WORK}/registry.yml"),
            &format!(
                "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {WORK}/data}}}}\nhttp: {{addr: 127.0.0.1:0}}\n"
            ),
        );
        let mut registry = host
            .command("docker-registry")
            .args(["serve", &format!("{WORK}/registry.yml")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(registry.stderr.take().unwrap());
        let mut said = String::new();
        let address = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "docker-registry ended: {said}");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ',']).next().unwrap().trim().to_owned();
            }
            said.push_str(&line);
        };
        // Keeps the pipe from filling up.
        std::thread::spawn(move || drop(log.read_to_end(&mut Vec::new())));
        let known = format!("[[registry]]\nname = \"registry\"\nendpoint = \"{address}\"\nhttp = true\n");
        write("/run/case/etc/bpfd/registries.toml", &known);
        write("/run/case/etc/bpfd/policy.toml", &format!("version = 1\n{policy}"));
        std::fs::copy(example("xdp-counter"), host.path(&format!("{WORK}/bytecode.bpf.o"))).unwrap();
        host.start();
        Self { registry, address, host }
    }

    /// `bpfctl`, on the caller's side of images.
    fn image(&self, line: &str) -> String {
        self.host.bpfctl(&format!("image {line} --registries /run/case/etc/bpfd/registries.toml")).ok()
    }

    /// Has buildah make an image of the object and these lines, and push it.
    fn containerfile(&self, name: &str, labels: &str, arguments: &str) {
        let text = format!("FROM scratch\nCOPY bytecode.bpf.o /\n{labels}");
        std::fs::write(self.host.path(&format!("{WORK}/Containerfile")), text).unwrap();
        let buildah = format!("buildah --root {WORK}/root --runroot {WORK}/runroot --storage-driver vfs");
        self.host.shell(&format!(
            "cd {WORK}
             {buildah} build --quiet --isolation chroot {arguments} --tag localhost/{name} . >buildah.log 2>&1
             {buildah} push --quiet --tls-verify=false localhost/{name} docker://{}/{name} >>buildah.log 2>&1",
            self.address
        ));
    }

    /// What skopeo says of an image.
    fn inspect(&self, image: &str) -> Value {
        serde_json::from_str(&self.host.shell(&format!("skopeo inspect --tls-verify=false {image}"))).unwrap()
    }

    /// The app runs the example.
    #[track_caller]
    fn counts(&self, app: &str) {
        self.host.ping(5);
        assert_eq!(self.host.counted(app), 5);
        self.host.check();
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // Before the host looks what is left.
        drop(self.registry.kill());
        drop(self.registry.wait());
    }
}

const OPEN: &str = "[[image]]\nscope = \"registry/open/**\"\nunsigned = \"allow\"\n";

#[test]
fn a_signed_image_of_a_plain_containerfile_loads() {
    let peers = Peers::new("");
    let host = &peers.host;
    std::fs::write(host.path(&format!("{WORK}/bytecode.toml")), "name = \"plain\"\n[programs.count]\npriority = 30\n")
        .unwrap();
    let labels = host.bpfctl(&format!("image labels {WORK}/bytecode.bpf.o --metadata {WORK}/bytecode.toml"));
    assert_eq!(labels.code, 0, "{labels}");
    peers.containerfile("team/plain:1", &labels.stdout, "");

    host.bpfctl(&format!("keygen {WORK}/ci.key")).ok();
    peers.image(&format!("sign registry/team/plain:1 --key {WORK}/ci.key"));
    let load = "load --image registry/team/plain:1 xdp -i uplink";
    assert_eq!(host.bpfctl(load).code, 6, "nobody trusts the key yet");
    host.bpfctl(&format!("trust add ci --key {WORK}/ci.key.pub --scope registry/team/**")).ok();
    assert_snapshot!(host.bpfctl(load).ok(), @"
    PROGRAM      TYPE  HOOK        PRIO  POS  STATE
    plain/count  xdp   uplink:xdp  30    1    ATTACHED
    ");
    peers.counts("plain");
}

#[test]
fn an_image_with_bpfmans_labels_alone_loads() {
    let peers = Peers::new(OPEN);
    // As bpfman's own Containerfile takes them.
    let labels = "ARG PROGRAMS\nARG MAPS\nLABEL \"io.ebpf.programs\"=$PROGRAMS\nLABEL \"io.ebpf.maps\"=$MAPS\n";
    let arguments =
        |programs| format!("--build-arg PROGRAMS='{programs}' --build-arg MAPS='{{\"packets\":\"per_cpu_array\"}}'");
    peers.containerfile("open/counter:1", labels, &arguments(r#"{"count":"xdp"}"#));
    let seen = peers.inspect(&format!("docker://{}/open/counter:1", peers.address));
    assert_eq!(seen["Labels"]["io.ebpf.programs"], r#"{"count":"xdp"}"#);
    let loaded = peers.host.bpfctl("load --image registry/open/counter:1 xdp -i uplink");
    assert_snapshot!(loaded.stable(), @"
    $ bpfctl load --image registry/open/counter:1 xdp -i uplink
    PROGRAM        TYPE  HOOK        PRIO  POS  STATE
    counter/count  xdp   uplink:xdp  50    1    ATTACHED
    --- stderr
    resolving the reference
    verifying signatures
    fetching 1.04 KiB
    reading the object
    loading programs
    attaching
    ");
    peers.counts("counter");
    // They are read: what contradicts the object is refused.
    peers.containerfile("open/liar:1", labels, &arguments(r#"{"count":"tracepoint"}"#));
    assert_snapshot!(peers.host.bpfctl("load --image registry/open/liar:1 -q").refused(1), @"
    error: the image does not match its labels
    cause: label contradicts the object: type of program `count`: label says `tracepoint`, object has section `xdp`
    hint: the image must be rebuilt: `bpfctl image build` takes the labels from the object
    ");
}

#[test]
fn skopeo_reads_what_we_push_and_what_the_daemon_stores() {
    let peers = Peers::new(OPEN);
    let host = &peers.host;
    let name = "registry/open/counter:1.2.0";
    let built = host.bpfctl(&format!("image build {WORK}/bytecode.bpf.o --tag {name} --store {WORK}/store -q"));
    let digest = built.stdout.trim().to_owned();
    peers.image(&format!("push {name} --store {WORK}/store"));
    assert_eq!(host.bpfctl(&format!("load --image {name} --name counter xdp -i uplink")).code, 0);
    let labels = host.items(&format!("image labels {WORK}/bytecode.bpf.o")).remove(0);
    assert!(
        labels["io.bpfd.bytecode.v1"].is_string() && labels["io.ebpf.programs"] == r#"{"count":"xdp"}"#,
        "{labels}"
    );
    let places =
        [format!("docker://{}/open/counter:1.2.0", peers.address), format!("oci:/run/case/var/lib/bpfd/images:{name}")];
    for place in places {
        let seen = peers.inspect(&place);
        assert_eq!((&seen["Digest"], &seen["Labels"]), (&json!(digest), &labels), "{place}");
    }
    peers.counts("counter");
}
