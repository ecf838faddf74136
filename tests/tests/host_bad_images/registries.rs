//! Registries that are not there, do not have it, or lie.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytecode_image::media;
use bytecode_image::resolve::Platform;
use bytecode_image::testing::registry::{Mode, Options, TestRegistry};
use insta::{allow_duplicates, assert_snapshot};
use serde_json::json;

use crate::world::{ETC, Images, image};

#[test]
fn an_unknown_registry_is_refused() {
    let images = Images::new();
    assert_snapshot!(images.refuses(9, "nosuch.example/team/app:1"), @"
    error: cannot resolve `nosuch.example/team/app:1`
    cause: cannot reach `nosuch.example:443`: error sending request: client error (Connect): dns error: error resolving DNS: failed to lookup address information: Temporary failure in name resolution
    hint: is the host's name right? a registry without TLS, or at another address, needs an entry in /run/case/etc/bpfd/registries.toml
    ");
    assert_snapshot!(images.refuses(9, "127.0.0.1:1/team/app:1"), @"
    error: cannot resolve `127.0.0.1:1/team/app:1`
    cause: cannot reach `127.0.0.1:1`: error sending request: client error (Connect): tcp connect error: Connection refused (os error 111)
    hint: is the host's name right? a registry without TLS, or at another address, needs an entry in /run/case/etc/bpfd/registries.toml
    ");
}

#[test]
fn an_unknown_tag_or_repository_is_refused() {
    let images = Images::signed();
    assert_snapshot!(images.refuses(3, "registry/team/app:2"), @"
    error: the registry has no image `registry/team/app:2`
    cause: `REGISTRY` has no manifest `2` in `team/app`
    hint: is the tag right, and does the image exist? `skopeo list-tags docker://HOST/REPOSITORY`
    ");
    assert_snapshot!(images.refuses(3, "registry/team/nosuch"), @"
    error: the registry has no image `registry/team/nosuch:latest`
    cause: `REGISTRY` has no manifest `latest` in `team/nosuch`
    hint: is the tag right, and does the image exist? `skopeo list-tags docker://HOST/REPOSITORY`
    ");
    let absent = format!("registry/team/app@sha256:{}", "0".repeat(64));
    assert_snapshot!(images.refuses(3, &absent), @"
    error: the registry has no image `registry/team/app@sha256:SHA256`
    cause: `REGISTRY` has no manifest `sha256:SHA256` in `team/app`
    hint: is the tag right, and does the image exist? `skopeo list-tags docker://HOST/REPOSITORY`
    ");
}

#[test]
fn a_short_or_malformed_reference_is_refused() {
    let images = Images::new();
    assert_snapshot!(images.refuses(2, "app"), @"
    error: invalid value 'app' for '--image <REFERENCE>': `app` names no registry: write it in full, for example `registry.example/app:latest`

    For more information, try '--help'.
    ");
    assert_snapshot!(images.refuses(2, "app:1"), @"
    error: invalid value 'app:1' for '--image <REFERENCE>': `app:1` names no registry: write it in full, for example `registry.example/app:1`

    For more information, try '--help'.
    ");
    assert_snapshot!(images.refuses(2, "registry/"), @"
    error: invalid value 'registry/' for '--image <REFERENCE>': `registry/` has no repository after the registry host

    For more information, try '--help'.
    ");
    assert_snapshot!(images.refuses(2, "registry/Team/App:1"), @"
    error: invalid value 'registry/Team/App:1' for '--image <REFERENCE>': repository `Team/App` has upper-case letters: write `team/app`

    For more information, try '--help'.
    ");
    assert_snapshot!(images.refuses(2, "registry/team/app:"), @"
    error: invalid value 'registry/team/app:' for '--image <REFERENCE>': `registry/team/app:` ends in `:` without a tag: write one, or leave the `:` out for `latest`

    For more information, try '--help'.
    ");
    assert_snapshot!(images.refuses(2, "registry/team/app@sha256:12"), @"
    error: invalid value 'registry/team/app@sha256:12' for '--image <REFERENCE>': the part after `@` is not a digest

    For more information, try '--help'.
    ");
    assert_snapshot!(images.refuses(2, "https://registry/team/app"), @"
    error: invalid value 'https://registry/team/app' for '--image <REFERENCE>': `https://registry/team/app` is a URL: write the reference without `https://`

    For more information, try '--help'.
    ");
}

/// What an honest image is refused with, once its repository lies.
#[track_caller]
fn tampered(mode: Mode, tag: &str) -> String {
    let images = Images::new();
    let platform = json!({"os": "linux", "architecture": Platform::host(None).architecture});
    let mut entry = json!(image().descriptor());
    if let Some(entry) = entry.as_object_mut() {
        entry.insert("platform".to_owned(), platform);
    }
    let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": [entry]}).to_string();
    images.registry.put_manifest("open/app", "index", media::INDEX, index.as_bytes());
    images.publish("open/app", &image());
    let reference = format!("registry/open/app:{tag}");
    images.registry.behave("open/app", mode);
    let said = images.refuses(6, &reference);
    // The control: the same without a lie.
    images.registry.behave("open/app", Mode::Honest);
    images.host.bpfctl(&format!("load --image {reference} xdp -i uplink")).ok();
    said
}

#[test]
fn an_index_that_does_not_have_its_digest_is_refused() {
    assert_snapshot!(tampered(Mode::TamperedIndex, "index"), @"
    error: cannot resolve `registry/open/app:index`
    cause: `REGISTRY` announces `sha256:SHA256` but sends a manifest with the digest `sha256:SHA256`
    hint: the registry, or something before it, changes what it serves: do not use the image
    ");
}

#[test]
fn a_manifest_that_does_not_have_its_digest_is_refused() {
    assert_snapshot!(tampered(Mode::TamperedManifest, "1"), @"
    error: cannot resolve `registry/open/app:1`
    cause: `REGISTRY` announces `sha256:SHA256` but sends a manifest with the digest `sha256:SHA256`
    hint: the registry, or something before it, changes what it serves: do not use the image
    ");
    // Of an index the manifest is not announced: the index names it.
    assert_snapshot!(tampered(Mode::TamperedManifest, "index"), @"
    error: cannot read the manifest of `registry/open/app:index` for this platform
    cause: manifest `sha256:SHA256` in `open/app` has the digest `sha256:SHA256`, not `sha256:SHA256`
    hint: the registry, or something before it, changes what it serves: do not use the image
    ");
}

#[test]
fn a_configuration_that_does_not_have_its_digest_is_refused() {
    assert_snapshot!(tampered(Mode::TamperedConfig, "1"), @"
    error: cannot fetch the configuration of `registry/open/app:1`
    cause: blob `sha256:SHA256` has the digest `sha256:SHA256`, not `sha256:SHA256`
    hint: the registry, or something before it, changes what it serves: do not use the image
    ");
}

#[test]
fn a_layer_that_does_not_have_its_digest_is_refused() {
    assert_snapshot!(tampered(Mode::TamperedLayer, "1"), @"
    error: cannot fetch the layer of `registry/open/app:1`
    cause: blob `sha256:SHA256` has the digest `sha256:SHA256`, not `sha256:SHA256`
    hint: the registry, or something before it, changes what it serves: do not use the image
    ");
}

#[test]
fn a_manifest_of_a_gibibyte_is_refused_in_64_mib() {
    let images = Images::signed();
    let daemon = images.host.pid();
    for mode in [Mode::HugeManifest, Mode::HugeManifestAnnounced] {
        let (said, peaks) = watching_workers(daemon, || {
            // The control, and work for the parse worker: the same image without the lie.
            images.registry.behave("team/app", Mode::Honest);
            images.host.bpfctl("load -q --image registry/team/app:1 xdp -i uplink").ok();
            images.host.bpfctl("unload app").ok();
            images.host.bpfctl("image rm registry/team/app:1").ok();
            images.registry.behave("team/app", mode);
            images.refuses(9, "registry/team/app:1")
        });
        allow_duplicates! {
            assert_snapshot!(said, @"
            error: cannot resolve `registry/team/app:1`
            cause: manifest `1` in `team/app` is larger than the limit of 4194304 bytes
            hint: no image of bytecode is that large: is the reference right?
            ");
        }
        let kinds: Vec<&str> = peaks.keys().map(String::as_str).collect();
        assert!(["fetch", "parse"].iter().all(|kind| kinds.contains(kind)), "workers seen: {kinds:?}");
        for (who, peak) in peaks.into_iter().chain([("bpfd".to_owned(), peak(daemon).unwrap())]) {
            assert!((1 << 10..64 << 10).contains(&peak), "{who} took {peak} KiB");
        }
    }
}

/// VmHWM in KiB; none if the process is gone.
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Does something, and looks all the while how much memory each kind of worker has taken at most.
fn watching_workers<T>(daemon: u32, work: impl FnOnce() -> T) -> (T, BTreeMap<String, u64>) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peaks = BTreeMap::new();
            while !done.load(Ordering::Relaxed) {
                for (kind, peak) in workers(daemon) {
                    peaks.entry(kind).and_modify(|most: &mut u64| *most = peak.max(*most)).or_insert(peak);
                }
            }
            peaks
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        (result, watch.join().unwrap())
    })
}

/// The kinds of the daemon's workers that run now, with their peaks.
pub(crate) fn workers(daemon: u32) -> Vec<(String, u64)> {
    let threads = fs::read_dir(format!("/proc/{daemon}/task")).unwrap();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let children: String = children.collect();
    let kind = |pid: u32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        // After its kind, whom it runs as.
        let (_, words) = line.split_once("--worker\0")?;
        Some((words.split('\0').next()?.to_owned(), peak(pid)?))
    };
    children.split_whitespace().filter_map(|pid| kind(pid.parse().ok()?)).collect()
}

#[test]
fn a_redirect_to_a_place_that_nobody_named_is_not_followed() {
    let images = Images::signed();
    let other = images.host.within(TestRegistry::honest).unwrap();
    let private = Options { listen: ([10, 0, 0, 1], 0).into(), ..Options::default() };
    let private = images.host.within(|| TestRegistry::start(private)).unwrap();
    let refuses = |mode: Mode| {
        images.registry.behave("team/app", mode);
        images.refuses(9, "registry/team/app:1")
    };
    let told = |said: String| said.replace(&other.host(), "OTHER").replace(&private.host(), "PRIVATE");
    assert_snapshot!(told(refuses(Mode::RedirectManifests(format!("http://{}/v2/team/app/manifests/1", other.host())))), @"
    error: cannot resolve `registry/team/app:1`
    cause: `REGISTRY` refers to `http://OTHER`, which is not https and which registries.toml does not list with `http = true`
    hint: if that is right, name host and port in the registry's entry in /run/case/etc/bpfd/registries.toml, as `redirects` or as `endpoint`
    ");
    assert_snapshot!(told(refuses(Mode::RedirectBlobs(format!("http://{}/v2/team/app/blobs/x", other.host())))), @"
    error: cannot fetch the configuration of `registry/team/app:1`
    cause: `REGISTRY` refers to `http://OTHER`, which is not https and which registries.toml does not list with `http = true`
    hint: if that is right, name host and port in the registry's entry in /run/case/etc/bpfd/registries.toml, as `redirects` or as `endpoint`
    ");
    assert_snapshot!(told(refuses(Mode::RedirectBlobs(format!("http://{}/v2/team/app/blobs/x", private.host())))), @"
    error: cannot fetch the configuration of `registry/team/app:1`
    cause: `REGISTRY` refers to `http://PRIVATE`, which is not https and which registries.toml does not list with `http = true`
    hint: if that is right, name host and port in the registry's entry in /run/case/etc/bpfd/registries.toml, as `redirects` or as `endpoint`
    ");
    // By https nothing would be asked of a plain server either: that it is not tried is in the words.
    assert_snapshot!(told(refuses(Mode::RedirectBlobs(format!("https://{}/v2/team/app/blobs/x", other.host())))), @"
    error: cannot fetch the configuration of `registry/team/app:1`
    cause: `REGISTRY` refers to `OTHER`, a private address that neither the reference nor registries.toml names
    hint: if that is right, name host and port in the registry's entry in /run/case/etc/bpfd/registries.toml, as `redirects` or as `endpoint`
    ");
    assert_eq!((other.seen(), private.seen()), (vec![], vec![]));
}

#[test]
fn a_public_registry_does_not_lead_to_a_private_address() {
    let public = Options { listen: ([198, 51, 100, 1], 0).into(), ..Options::default() };
    let images = Images::at(public, "");
    images.publish("team/app", &image());
    images.sign("team/app", &images.key);
    let private = Options { listen: ([10, 0, 0, 1], 0).into(), ..Options::default() };
    let private = images.host.within(|| TestRegistry::start(private)).unwrap();
    images.registry.behave("team/app", Mode::RedirectBlobs(format!("http://{}/v2/team/app/blobs/x", private.host())));
    assert_snapshot!(images.refuses(9, "registry/team/app:1").replace(&private.host(), "PRIVATE"), @"
    error: cannot fetch the configuration of `registry/team/app:1`
    cause: `REGISTRY` refers to `http://PRIVATE`, which is not https and which registries.toml does not list with `http = true`
    hint: if that is right, name host and port in the registry's entry in /run/case/etc/bpfd/registries.toml, as `redirects` or as `endpoint`
    ");
    images.registry.behave("team/app", Mode::RedirectBlobs(format!("https://{}/v2/team/app/blobs/x", private.host())));
    assert_snapshot!(images.refuses(9, "registry/team/app:1").replace(&private.host(), "PRIVATE"), @"
    error: cannot fetch the configuration of `registry/team/app:1`
    cause: `REGISTRY` refers to `PRIVATE`, a private address that neither the reference nor registries.toml names
    hint: if that is right, name host and port in the registry's entry in /run/case/etc/bpfd/registries.toml, as `redirects` or as `endpoint`
    ");
    assert_eq!(private.seen(), []);
}

#[test]
fn a_foreign_realm_does_not_get_credentials() {
    let images = Images::signed();
    let realm = images.host.within(TestRegistry::honest).unwrap();
    // `user:s3cret`
    let auth = json!({"auths": {"registry": {"auth": "dXNlcjpzM2NyZXQ="}}}).to_string();
    fs::write(images.host.path(&format!("{ETC}/auth.json")), auth).unwrap();
    images.registry.behave("team/app", Mode::Realm(format!("http://{}/token", realm.host())));
    assert_snapshot!(images.refuses(9, "registry/team/app:1").replace(&realm.host(), "FOREIGN"), @r#"
    error: cannot resolve `registry/team/app:1`
    cause: `REGISTRY` asks for its credentials to be sent to `FOREIGN`; if that is right, add `token_realms = ["FOREIGN"]` to its entry in registries.toml
    "#);
    assert_eq!(realm.seen(), []);
}
