//! Registries that fail, drip, stall and break off: what is tried again, and for how long.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod common;

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use bytecode_image::{
    limits,
    testing::registry::{Mode, TestRegistry},
    transport::{Remote, Timeouts, TransportConfig, TransportError},
};
use common::{REPO, config, reference, registry, remote, run, told};

#[test]
fn a_registry_that_comes_back_is_asked_again() {
    for status in [429, 500, 503] {
        let (registry, image) = registry(Mode::Fails(status, limits::ATTEMPTS - 1));
        assert_eq!(run(remote(&registry).tagged("v1")).unwrap().digest(), image.digest);
        assert_eq!(registry.seen().len(), usize::try_from(limits::ATTEMPTS).unwrap());
    }
}

#[test]
fn a_registry_that_stays_away_is_given_up() {
    let (registry, _) = registry(Mode::Fails(503, 100));
    let error = run(remote(&registry).tagged("v1")).unwrap_err();
    let expected = "`REGISTRY` cannot answer now: status 503 Service Unavailable";
    assert_eq!(told(&error, &[("REGISTRY", registry.host())]), expected);
    assert_eq!(registry.seen().len(), usize::try_from(limits::ATTEMPTS).unwrap());
}

#[test]
fn a_blob_that_breaks_off_is_resumed_where_it_was() {
    let (registry, image) = registry(Mode::CutOff);
    let reported = Mutex::new(Vec::new());
    let mut sink = Vec::new();
    let progress = |done| reported.lock().unwrap().push(done);
    run(remote(&registry).blob(&image.layer, limits::LAYER, &mut sink, &progress)).unwrap();
    assert_eq!(sink, image.layer_bytes);
    let ranges: Vec<_> = registry.seen().into_iter().map(|seen| seen.range).collect();
    assert_eq!(ranges, [None, Some("bytes=50000-".to_owned())]);
    let reported = reported.into_inner().unwrap();
    assert!(reported.is_sorted() && reported.last() == Some(&100_000), "{reported:?}");
}

#[test]
fn a_registry_without_ranges_sends_it_all_again() {
    let (registry, image) = registry(Mode::CutOffNoRanges);
    assert_eq!(run(remote(&registry).bytes(&image.layer, limits::LAYER)).unwrap(), image.layer_bytes);
}

#[test]
fn a_blob_that_always_breaks_off_is_given_up() {
    let (registry, image) = registry(Mode::AlwaysCutOff);
    let error = run(remote(&registry).bytes(&image.layer, limits::LAYER)).unwrap_err();
    assert!(matches!(error, TransportError::BrokenOff { got: 93_750, .. }), "{error:?}");
    assert_eq!(registry.seen().len(), usize::try_from(limits::ATTEMPTS).unwrap());
}

#[test]
fn a_body_that_never_comes_ends_with_the_idle_time() {
    let (registry, image) = registry(Mode::Stall);
    let error = run(remote(&registry).bytes(&image.layer, limits::LAYER)).unwrap_err();
    assert!(matches!(error, TransportError::BrokenOff { got: 0, .. }), "{error:?}");
}

#[test]
fn the_deadline_ends_everything() {
    let (registry, image) = registry(Mode::Stall);
    let deadline = Duration::from_millis(200);
    let patient = Timeouts { deadline, ..Timeouts::default() };
    let config = TransportConfig { timeouts: patient, ..config(&registry, "") };
    let begun = Instant::now();
    let error = run(async { Remote::new(&config, &reference(&registry)).bytes(&image.layer, limits::LAYER).await })
        .unwrap_err();
    assert!(error.is_unreachable(), "{error:?}");
    assert!(matches!(error, TransportError::Deadline { limit, .. } if limit == deadline), "{error:?}");
    assert!(error.to_string().ends_with(" did not finish within 1 s"), "in whole seconds: {error}");
    // Far from the 15 seconds that one silent body may take.
    assert!(begun.elapsed() < limits::IDLE, "{:?}", begun.elapsed());
}

fn mirrored(mirror: &str, registry: &TestRegistry) -> TransportConfig {
    let text = format!(
        "[[registry]]\nname = \"{0}\"\nhttp = true\nmirrors = [{{ endpoint = \"{mirror}\", http = true }}]\n",
        registry.host()
    );
    TransportConfig {
        registries: bytecode_image::registries::Registries::parse(&text, "x").unwrap(),
        ..config(registry, "")
    }
}

#[test]
fn a_mirror_is_asked_first_and_then_alone() {
    let (mirror, image) = registry(Mode::Honest);
    let (registry, _) = registry(Mode::Honest);
    let remote = Remote::new(&mirrored(&mirror.host(), &registry), &reference(&registry));
    run(async {
        remote.tagged("v1").await.unwrap();
        remote.bytes(&image.layer, limits::LAYER).await.unwrap();
    });
    assert_eq!((mirror.seen().len(), registry.seen().len()), (2, 0));
}

#[test]
fn a_mirror_that_lacks_it_fails_or_lies_is_passed_over() {
    for mode in [Mode::Status(404), Mode::Status(503), Mode::TamperedManifest, Mode::WrongContentType] {
        let (mirror, _) = registry(mode.clone());
        let (registry, image) = registry(Mode::Honest);
        let remote = Remote::new(&mirrored(&mirror.host(), &registry), &reference(&registry));
        assert_eq!(run(remote.tagged("v1")).unwrap().digest(), image.digest, "{mode:?}");
        assert_eq!(mirror.seen().len(), 1, "{mode:?}");
    }
}

#[test]
fn a_mirrors_404_does_not_hide_that_the_registry_could_not_be_asked() {
    let (mirror, _) = registry(Mode::Status(404));
    let (registry, _) = registry(Mode::Status(503));
    let remote = Remote::new(&mirrored(&mirror.host(), &registry), &reference(&registry));
    let error = run(remote.tagged("v1")).unwrap_err();
    assert!(error.is_unreachable() && !error.is_not_found(), "{error:?}");
    mirror.behave(REPO, Mode::Status(503));
    registry.behave(REPO, Mode::Status(404));
    let remote = Remote::new(&mirrored(&mirror.host(), &registry), &reference(&registry));
    let error = run(remote.tagged("v1")).unwrap_err();
    assert!(!error.is_not_found(), "{error:?}");
}
