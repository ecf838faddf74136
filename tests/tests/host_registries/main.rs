//! Registries that are odd or hostile: what is told of each, side by side in one snapshot, and that the daemon is as well afterwards as
//! before. What a case sends is in `cases.rs`.
#![expect(clippy::unwrap_used, reason = "the lint exempts test functions, not what they share")]

mod cases;
mod costs;
mod raw;
#[expect(dead_code, reason = "other cases need more of it")]
#[path = "../host_bad_images/world.rs"]
mod world;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::process::{Child, Stdio};

use bpfd_tests::{Host, Output};
use bytecode_image::build::BuiltImage;
use bytecode_image::digest::Digest;
use bytecode_image::key::{Scheme, SigningKey};
use bytecode_image::reference::Reference;
use bytecode_image::sign::{Signed, sign};
use insta::assert_snapshot;
use serde_json::json;

use cases::{QUICK, SLOW, Scope};
use raw::{Answer, Lie, Part, Published, Raw, Sent};
use world::{ETC, image};

/// There are never less.
const CASES: usize = 60;
/// How long a registry may be silent, in milliseconds: a fraction of what it may without a test, which would take minutes.
const PATIENCE: u32 = 3000;
/// MiB that the daemon has at most, whatever is sent.
const MEMORY: u64 = 128;

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

impl Answer {
    /// With spaces behind it.
    pub(crate) fn send_padded(mut self, size: usize) -> Sent {
        self.body.resize(size, b' ');
        self.send()
    }
}

fn repository((name, scope, _): &(&str, Scope, Lie)) -> String {
    format!("{}/{name}", if *scope == Scope::Open { "open" } else { "team" })
}

/// An image, and its signature where there is one.
fn published(key: &SigningKey, scope: Scope, repository: &str) -> Published {
    let BuiltImage { manifest, config, layer } = image();
    let mut published = Published { parts: HashMap::new() };
    published.blob(&config);
    published.blob(&layer);
    published.manifest("1", &manifest);
    if scope == Scope::Signed {
        let reference: Reference = format!("registry/{repository}:1").parse().unwrap();
        let digest = Digest::of(&manifest);
        let Signed::Appended(signed) = sign(key, &reference, digest, None).unwrap() else { return published };
        published.blob(&signed.payload);
        published.blob(&signed.config);
        published.manifest(reference.signatures(digest).tag().unwrap_or_default(), &signed.manifest);
    }
    published
}

/// A host whose registry is a raw one, with a repository for each case.
fn host(cases: &[(&'static str, Scope, Lie)], auth: Option<&str>) -> (Host, Raw) {
    let mut host = Host::without_daemon();
    host.shell("mkdir -p /run/case/etc/bpfd /run/credentials");
    let key = SigningKey::generate(Scheme::Ed25519).unwrap();
    let repositories = cases.iter().map(|case| {
        let (_, scope, lie) = case;
        (repository(case), (*lie, published(&key, *scope, &repository(case))))
    });
    let registry = host.within(|| Raw::start(([127, 0, 0, 1], 0).into(), repositories.collect())).unwrap();
    let known = format!("[[registry]]\nname = \"registry\"\nendpoint = \"{}\"\nhttp = true\n", registry.address);
    for (file, text) in
        [("ci.pub", key.public().to_pem()), ("registries.toml", known), ("policy.toml", POLICY.to_owned())]
    {
        fs::write(host.path(&format!("{ETC}/{file}")), text).unwrap();
    }
    // As systemd does it for `LoadCredential=auth.json`.
    auth.into_iter().for_each(|auth| fs::write(host.path("/run/credentials/auth.json"), auth).unwrap());
    let patience = format!("registry-patience=return({PATIENCE})");
    host.start_with(&[("FAILPOINTS", &patience), ("CREDENTIALS_DIRECTORY", "/run/credentials")]);
    (host, registry)
}

fn line(case: &(&str, Scope, Lie)) -> String {
    format!("image pull -q registry/{}:1", repository(case))
}

fn begin(host: &Host, case: &(&str, Scope, Lie)) -> Child {
    let mut command = host.command("/run/bin/bpfctl");
    command.args(line(case).split(' ')).env("BPFD_SOCKET", "/run/case/run/bpfd/bpfd.sock");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What a case came to, without what differs from run to run.
fn told(registry: &Raw, (name, ..): &(&str, Scope, Lie), said: &Output) -> String {
    let stable = said.stable().replace(&registry.address.to_string(), "REGISTRY");
    let outcome = if said.code == 0 { "pulled" } else { "refused" };
    let mut error = stable.split_once("--- stderr\n").map_or("", |(_, error)| error).to_owned();
    // How much came before it was given up is for the network to say.
    if *name == "blob-without-end" {
        error.retain(|c| !c.is_ascii_digit());
    }
    format!("{name}: {outcome}\n{error}")
}

#[test]
fn every_odd_or_hostile_registry_is_told_as_what_it_is() {
    let all: Vec<_> = QUICK.iter().chain(SLOW).copied().collect();
    assert!(all.len() >= CASES, "{} cases", all.len());
    let (host, registry) = host(&all, None);
    let daemon = host.pid();
    let mut report = String::new();
    let slow: Vec<_> = SLOW.iter().map(|case| (case, begin(&host, case))).collect();
    for case in QUICK {
        report += &told(&registry, case, &host.bpfctl(&line(case)));
        report.push('\n');
    }
    for (case, child) in slow {
        report += &told(&registry, case, &Output::of(&line(case), child.wait_with_output().unwrap()));
        report.push('\n');
    }
    assert_snapshot!(report);
    assert_eq!(host.pid(), daemon);
    assert!(host.peak() <= MEMORY, "{} MiB", host.peak());
    // What was refused left nothing.
    let ingest = host.path("/run/case/var/lib/bpfd/images/ingest");
    assert_eq!(fs::read_dir(ingest).unwrap().count(), 0);
    let pulled = report.lines().filter(|line| line.ends_with(": pulled")).count();
    assert_eq!(host.items("image ls").len(), pulled);
}

/// Redirects to a host that registries.toml names are followed, but credentials, which are those of systemd, stay where they belong.
#[test]
fn credentials_are_for_the_registry_alone() {
    const CASE: (&str, Scope, Lie) = ("app", Scope::Open, |asked, honest| {
        match asked.header("authorization") {
            // `user:s3cret`
            Some("Basic dXNlcjpzM2NyZXQ=") if asked.is(Part::Blob) => {
                Answer::new("302 Found", "").with("location", &format!("http://127.0.0.2:5001{}", asked.path)).send()
            }
            Some("Basic dXNlcjpzM2NyZXQ=") => honest.send(),
            _ => Answer::new("401 Unauthorized", "").with("www-authenticate", "Negotiate, Basic realm=\"x\"").send(),
        }
    });
    let auth = json!({"auths": {"registry": {"auth": "dXNlcjpzM2NyZXQ="}}}).to_string();
    let (host, registry) = host(&[CASE], Some(&auth));
    let mut texts = String::new();
    for (name, endpoint) in [("registry", registry.address.to_string()), ("other", "127.0.0.2:5001".to_owned())] {
        writeln!(texts, "[[registry]]\nname = \"{name}\"\nendpoint = \"{endpoint}\"\nhttp = true").unwrap();
    }
    fs::write(host.path(&format!("{ETC}/registries.toml")), texts).unwrap();
    let key = SigningKey::generate(Scheme::Ed25519).unwrap();
    let honest: Lie = |_, honest| honest.send();
    let there = HashMap::from([("open/app".to_owned(), (honest, published(&key, Scope::Open, "open/app")))]);
    let other = host.within(|| Raw::start(([127, 0, 0, 2], 5001).into(), there)).unwrap();
    host.bpfctl(&line(&CASE)).ok();
    let asked = other.seen();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked.iter().all(|asked| asked.header("authorization").is_none()), "{asked:?}");
    assert!(registry.seen().iter().any(|asked| asked.header("authorization").is_some()), "the control");
}
