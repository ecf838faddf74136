//! A registry that lies: each lie has its own error, and none costs more memory or traffic than the limits.

mod common;

use bytecode_image::{
    digest::{Descriptor, Digest},
    limits, media,
    reference::Reference,
    registries::Registries,
    testing::registry::{Mode, TestRegistry},
    transport::{Remote, TransportConfig, TransportError},
};
use common::{Image, REPO, reference, registry, remote, run, seed, seed_index, told};

/// What `v1`'s manifest by tag, by digest, its configuration and its layer are answered with.
fn complaints(mode: Mode) -> [String; 4] {
    let (registry, image) = registry(mode);
    let remote = remote(&registry);
    let tell = |result: Result<(), TransportError>| match result {
        Ok(()) => "ok".to_owned(),
        Err(error) => {
            assert!(!error.is_not_found() && !error.is_unreachable(), "{error:?}");
            told(&error, &names(&registry, &image))
        }
    };
    run(async {
        [
            tell(remote.tagged("v1").await.map(|_| ())),
            tell(remote.manifest(image.digest).await.map(|_| ())),
            tell(remote.bytes(&image.config, limits::CONFIG).await.map(|_| ())),
            tell(remote.bytes(&image.layer, limits::LAYER).await.map(|_| ())),
        ]
    })
}

fn names(registry: &TestRegistry, image: &Image) -> [(&'static str, String); 5] {
    let changed = |bytes: &[u8], change: fn(&mut Vec<u8>)| {
        let mut bytes = bytes.to_vec();
        change(&mut bytes);
        Digest::of(&bytes).to_string()
    };
    [
        ("REGISTRY", registry.host()),
        ("MANIFEST", image.digest.to_string()),
        ("CONFIG", image.config.digest.to_string()),
        ("LAYER", image.layer.digest.to_string()),
        ("CHANGED", changed(&image.bytes, |bytes| bytes.push(b' '))),
    ]
}

fn check(mode: Mode, expected: [&str; 4]) {
    assert_eq!(complaints(mode.clone()), expected, "{mode:?}");
}

#[test]
fn an_honest_registry_is_believed() {
    check(Mode::Honest, ["ok"; 4]);
    check(Mode::NoDigestHeader, ["ok"; 4]);
}

#[test]
fn a_changed_manifest_is_refused_by_tag_and_by_digest() {
    let by_tag = "`REGISTRY` announces `MANIFEST` but sends a manifest with the digest `CHANGED`";
    let by_digest = "manifest `MANIFEST` in `team/app` has the digest `CHANGED`, not `MANIFEST`";
    check(Mode::TamperedManifest, [by_tag, by_digest, "ok", "ok"]);
}

#[test]
fn a_changed_index_is_refused() {
    let (registry, image) = registry(Mode::TamperedIndex);
    let index = seed_index(&registry, REPO, "multi", &image);
    let error = run(remote(&registry).manifest(index)).unwrap_err();
    assert!(matches!(error, TransportError::WrongDigest { wanted, .. } if wanted == index), "{error:?}");
    let error = run(remote(&registry).tagged("multi")).unwrap_err();
    assert!(matches!(error, TransportError::Announced { announced, .. } if announced == index), "{error:?}");
}

#[test]
fn a_changed_configuration_is_refused() {
    let [_, _, config, layer] = complaints(Mode::TamperedConfig);
    assert!(
        config.starts_with("blob `CONFIG` has the digest `sha256:") && config.ends_with("`, not `CONFIG`"),
        "{config}"
    );
    assert_eq!(layer, "ok");
}

#[test]
fn a_changed_layer_is_refused() {
    let [_, _, config, layer] = complaints(Mode::TamperedLayer);
    assert!(layer.starts_with("blob `LAYER` has the digest `sha256:") && layer.ends_with("`, not `LAYER`"), "{layer}");
    assert_eq!(config, "ok");
}

#[test]
fn a_manifest_that_is_announced_as_something_else_is_refused() {
    let refused = "the registry's manifest is refused: `text/html` is not a media type of an OCI or Docker schema 2 \
                   manifest or index";
    check(Mode::WrongContentType, [refused, refused, "ok", "ok"]);
}

#[test]
fn a_manifest_that_differs_between_two_questions_is_refused_by_its_digest() {
    let (registry, _) = registry(Mode::Changing);
    let error = run(async {
        let remote = remote(&registry);
        let resolved = remote.resolve("v1").await.unwrap();
        remote.manifest(resolved.digest).await.unwrap_err()
    });
    // The registry has no manifest under the digest it made up, or has another one: neither is taken.
    assert!(matches!(error, TransportError::NotFound { .. } | TransportError::WrongDigest { .. }), "{error:?}");
}

#[test]
fn a_manifest_of_a_gibibyte_is_given_up_at_the_limit() {
    for mode in [Mode::HugeManifest, Mode::HugeManifestAnnounced] {
        let (registry, image) = registry(mode.clone());
        let error = run(remote(&registry).manifest(image.digest)).unwrap_err();
        let expected = "manifest `MANIFEST` in `team/app` is larger than the limit of 4194304 bytes";
        assert_eq!(told(&error, &names(&registry, &image)), expected, "{mode:?}");
        // Beside what was read, the sockets' buffers of both sides were filled: up to 32 MiB where `tcp_rmem` allows it.
        assert!(registry.bytes_sent() < 64 << 20, "{} bytes sent, {mode:?}", registry.bytes_sent());
    }
}

/// The client's share of memory, in a process of its own: the registry of the other tests lives in this one.
#[test]
fn a_manifest_of_a_gibibyte_costs_a_process_less_than_64_mib() {
    const CLIENT: &str = "TEST_ASKS_FOR_A_HUGE_MANIFEST";
    if let Ok(text) = std::env::var(CLIENT) {
        let reference: Reference = text.parse().unwrap();
        let toml = format!("[[registry]]\nname = \"{}\"\nhttp = true\n", reference.registry());
        let config =
            TransportConfig { registries: Registries::parse(&toml, "x").unwrap(), ..TransportConfig::default() };
        let error = run(Remote::new(&config, &reference).tagged("v1")).unwrap_err();
        assert!(matches!(error, TransportError::TooLarge { .. }), "{error:?}");
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(kilobytes < 64 << 10, "{kilobytes} KiB at the peak");
        return;
    }
    for mode in [Mode::HugeManifest, Mode::HugeManifestAnnounced] {
        let (registry, _) = registry(mode);
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_manifest_of_a_gibibyte_costs_a_process_less_than_64_mib"])
            .env(CLIENT, reference(&registry).to_string())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(registry.bytes_sent() > 0, "the client asked");
    }
}

#[test]
fn a_blob_without_end_is_given_up_after_its_size() {
    let (registry, image) = registry(Mode::EndlessBlob);
    let mut sink = Vec::new();
    let error = run(remote(&registry).blob(&image.layer, limits::LAYER, &mut sink, &|_| ())).unwrap_err();
    assert!(matches!(error, TransportError::WrongLength { wanted: 100_000, .. }), "{error:?}");
    assert!(sink.len() <= 100_000, "{} bytes were handed on", sink.len());
    assert!(registry.bytes_sent() < limits::LAYER, "{} bytes sent", registry.bytes_sent());
}

#[test]
fn a_blob_of_another_length_is_refused() {
    let told = |got, wanted, blob| format!("blob `{blob}` has {got} bytes, but its descriptor says {wanted}");
    let [_, _, _, layer] = complaints(Mode::LongBlob);
    assert_eq!(layer, told(100_001, 100_000, "LAYER"));
    let [_, _, _, layer] = complaints(Mode::ShortBlob);
    assert_eq!(layer, told(99_999, 100_000, "LAYER"));
}

#[test]
fn a_blob_that_is_described_as_too_large_is_not_even_asked_for() {
    let (registry, image) = registry(Mode::Honest);
    let wanted = Descriptor { size: limits::LAYER + 1, ..image.layer };
    let error = run(remote(&registry).bytes(&wanted, limits::LAYER)).unwrap_err();
    assert!(matches!(error, TransportError::TooLarge { limit: limits::LAYER, .. }), "{error:?}");
    assert_eq!(registry.seen(), []);
}

#[test]
fn an_errors_body_without_end_is_quoted_no_further_than_its_limit() {
    let (registry, _) = registry(Mode::EndlessError);
    let error = run(remote(&registry).tagged("v1")).unwrap_err();
    assert!(matches!(error, TransportError::Unavailable { .. }), "{error:?}");
    let each = registry.bytes_sent() / u64::from(limits::ATTEMPTS);
    assert!(each < 8 << 20, "{each} bytes sent each time");
}

#[test]
fn an_index_that_is_described_differently_is_refused() {
    let (registry, image) = registry(Mode::Honest);
    let remote = remote(&registry);
    let mut wanted = Descriptor::of(media::MANIFEST, &image.bytes);
    assert_eq!(run(remote.described(&wanted)).unwrap().bytes(), image.bytes);
    wanted.size += 1;
    let error = run(remote.described(&wanted)).unwrap_err();
    assert!(matches!(error, TransportError::Document(_)), "{error:?}");
    let wanted = Descriptor::of(media::DOCKER_MANIFEST, &image.bytes);
    let error = run(remote.described(&wanted)).unwrap_err();
    assert!(matches!(error, TransportError::Document(_)), "{error:?}");
}

#[test]
fn what_is_not_there_is_told_from_what_could_not_be_asked() {
    let (registry, _) = registry(Mode::Honest);
    let error = run(remote(&registry).tagged("nothing")).unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
    let error = run(remote(&registry).resolve("nothing")).unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
    registry.behave(REPO, Mode::Status(500));
    let error = run(remote(&registry).tagged("nothing")).unwrap_err();
    assert!(error.is_unreachable() && !error.is_not_found(), "{error:?}");
    registry.behave(REPO, Mode::Status(403));
    let error = run(remote(&registry).tagged("nothing")).unwrap_err();
    assert_eq!(told(&error, &[("REGISTRY", registry.host())]), "`REGISTRY` denies access (ON_PURPOSE: on purpose)");
}

#[test]
fn a_registry_that_is_gone_is_unreachable() {
    let (registry, _) = registry(Mode::Honest);
    let remote = remote(&registry);
    drop(registry);
    let error = run(remote.tagged("v1")).unwrap_err();
    assert!(error.is_unreachable(), "{error:?}");
}

#[test]
fn a_media_type_inside_that_differs_is_refused() {
    let (registry, _) = registry(Mode::Honest);
    let body = format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, media::INDEX);
    registry.put_manifest(REPO, "confused", media::MANIFEST, body.as_bytes());
    let error = run(remote(&registry).tagged("confused")).unwrap_err();
    assert!(matches!(error, TransportError::Document(_)), "{error:?}");
    let both = r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
    registry.put_manifest(REPO, "both", media::INDEX, both.as_bytes());
    let error = run(remote(&registry).tagged("both")).unwrap_err();
    assert_eq!(
        told(&error, &[]),
        "the registry's manifest is refused: the manifest has `manifests` beside `layers` or `config`, so that it \
         could be read as two things"
    );
}

#[test]
fn repositories_of_one_registry_do_not_mix() {
    let (registry, _) = registry(Mode::TamperedManifest);
    let other = seed(&registry, "team/other", "v1", common::noise(10));
    let there = reference(&registry).to_string().replace("app", "other").parse().unwrap();
    let remote = Remote::new(&common::config(&registry, ""), &there);
    assert_eq!(run(remote.tagged("v1")).unwrap().digest(), other.digest);
}
