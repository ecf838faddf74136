//! Registries that fail, drip, stall and break off: what is tried again, and for how long.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod common;

use std::{
    io::Read,
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bytecode_image::{
    document::Document,
    limits, media,
    registries::{Author, Registries},
    testing::registry::{Mode, Options, TestRegistry},
    transport::{Place, Put, Remote, Timeouts, TransportConfig, TransportError, Wait},
};
use common::{REPO, config, noise, reference, registry, remote, run, seed, told};

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
fn a_registry_that_says_when_it_comes_back_is_asked_then() {
    // The date is long past; a time that is far away would be waited for only if the deadline were.
    let past = "Sun, 06 Nov 1994 08:49:37 GMT";
    let (registry, image) = registry(Mode::FailsUntil(503, 2, past.to_owned()));
    assert_eq!(run(remote(&registry).tagged("v1")).unwrap().digest(), image.digest);
    assert_eq!(registry.seen().len(), 3);
    registry.behave(REPO, Mode::FailsUntil(503, 100, "Sat, 06 Nov 2094 08:49:37 GMT".to_owned()));
    let soon = Timeouts { deadline: limits::RETRY_AFTER, ..Timeouts::default() };
    let config = TransportConfig { timeouts: soon, ..config(&registry, "") };
    let error = run(async { Remote::new(&config, &reference(&registry)).tagged("v1").await }).unwrap_err();
    assert!(matches!(error, TransportError::Unavailable { .. }), "the registry's words, at once: {error:?}");
    assert_eq!(registry.seen().len(), 4);
}

#[test]
fn each_pause_is_told_and_a_registry_that_starts_meanwhile_is_found() {
    let later = TestRegistry::honest().unwrap();
    let (listen, host) = (later.address(), later.host());
    drop(later);
    let config = TransportConfig {
        registries: Registries::parse(&format!("[[registry]]\nname = \"{host}\"\nhttp = true\n"), "x").unwrap(),
        author: Author::Trusted,
        ..TransportConfig::default()
    };
    let started = Mutex::new(None);
    let told = Mutex::new(Vec::new());
    let tell = |wait: &Wait| {
        told.lock().unwrap().push(wait.clone());
        started.lock().unwrap().get_or_insert_with(|| {
            let registry = TestRegistry::start(Options { listen, ..Options::default() }).unwrap();
            seed(&registry, REPO, "v1", noise(1000));
            registry.behave(REPO, Mode::Fails(429, 1));
            registry
        });
    };
    let reference = format!("{host}/{REPO}:v1").parse().unwrap();
    run(async { Remote::new(&config, &reference).telling(&tell).tagged("v1").await }).unwrap();
    let told = told.into_inner().unwrap();
    assert_eq!(told.len(), 2);
    let [unreachable, busy] = [&told[0], &told[1]].map(Wait::to_string);
    assert_eq!(unreachable, format!("cannot reach `{host}`; trying again"));
    assert_eq!(busy, format!("`{host}` cannot answer now: status 429 Too Many Requests; trying again"));
}

#[test]
fn a_push_is_repeated_if_nothing_was_done_and_only_then() {
    for status in [429, 503] {
        let (registry, _) = registry(Mode::FailsWrites(status, 3));
        run(async {
            let remote = remote(&registry);
            assert_eq!(remote.put_blob(b"bytes").await.unwrap(), Put::Uploaded);
            let document = remote.tagged("v1").await.unwrap();
            remote.put_manifest(Place::Tag("v2"), &document).await.unwrap();
        });
        assert!(registry.tag(REPO, "v2").is_some());
    }
    for status in [500, 502, 504] {
        let (registry, _) = registry(Mode::FailsWrites(status, 1));
        let error = run(remote(&registry).put_blob(b"bytes")).unwrap_err();
        assert!(matches!(error, TransportError::Unavailable { .. }), "{error:?}");
        let asked: Vec<_> = registry.seen().into_iter().map(|seen| seen.method).collect();
        assert_eq!(asked, ["HEAD", "POST"]);
    }
}

/// A server that reads the first bytes of each request and hangs up; it counts them.
fn hangs_up() -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    // It ends with the test's process.
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            if connection.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {
                // Before the connection ends: whoever hears of that looks at the count.
                counted.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    (host, count)
}

#[test]
fn a_request_whose_answer_is_lost_is_repeated_only_if_it_reads() {
    let (host, count) = hangs_up();
    let config = TransportConfig {
        registries: Registries::parse(&format!("[[registry]]\nname = \"{host}\"\nhttp = true\n"), "x").unwrap(),
        ..TransportConfig::default()
    };
    let reference = format!("{host}/{REPO}:v1").parse().unwrap();
    let (_image, bytes) = common::image_of(noise(10));
    let document = Document::new(media::MANIFEST, bytes);
    let put = run(async { Remote::new(&config, &reference).put_manifest(Place::Tag("v1"), &document).await });
    assert!(matches!(put, Err(TransportError::Unreachable { .. })), "{put:?}");
    assert_eq!(count.swap(0, Ordering::SeqCst), 1);
    let got = run(async { Remote::new(&config, &reference).tagged("v1").await });
    assert!(matches!(got, Err(TransportError::Unreachable { .. })), "{got:?}");
    assert_eq!(count.load(Ordering::SeqCst), limits::ATTEMPTS);
}

#[test]
fn answers_that_do_not_say_how_long_they_are_are_read() {
    let (registry, image) = registry(Mode::Chunked);
    run(async {
        let remote = remote(&registry);
        assert_eq!(remote.tagged("v1").await.unwrap().digest(), image.digest);
        assert_eq!(remote.resolve("v1").await.unwrap().digest, image.digest);
        remote.bytes(&image.config, limits::CONFIG).await.unwrap();
        assert_eq!(remote.bytes(&image.layer, limits::LAYER).await.unwrap(), image.layer_bytes);
        assert_eq!(remote.referrers(image.digest).await.unwrap(), []);
    });
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
    TransportConfig { registries: Registries::parse(&text, "x").unwrap(), ..config(registry, "") }
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
