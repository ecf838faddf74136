//! The pull pipeline: when the registry is asked, what is fetched before and after the decision, and what is left behind.
//! Long because each case is a whole pull, and they share its words.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod common;

use std::{collections::BTreeSet, sync::Mutex};

use bytecode_image::{
    candidate::Candidate,
    digest::{Descriptor, Digest},
    document::Document,
    fetch::{FetchError, Phase, Progress, PullError, PullRequest, Pulled, pull},
    key::{Scheme, SigningKey},
    limits, media,
    registries::Registries,
    resolve::Selected,
    store::Sweep,
    testing::registry::{Mode, Options, Referrers, TestRegistry},
    transport::{Timeouts, Wait},
};
use common::{
    Image, REPO, files, let_through, noise, pull_into, reference, registry, registry_with, request, run, seed,
    seed_index, sign_at, signed_by, store, stored, told,
};

fn paths(registry: &TestRegistry) -> Vec<String> {
    registry.seen().iter().map(|seen| format!("{} {}", seen.method, seen.path.replace("/v2/team/app/", ""))).collect()
}

#[test]
fn an_unsigned_pull_takes_five_requests() {
    let (registry, image) = registry(Mode::Honest);
    let (_dir, store) = store();
    let selected = stored(&store, &request(&registry));
    assert_eq!(selected.digest(), image.digest);
    let mut seen = paths(&registry);
    seen[1..].sort();
    let mut blobs = [image.config.digest, image.layer.digest].map(|digest| format!("GET blobs/{digest}"));
    blobs.sort();
    let signatures = format!("GET manifests/sha256-{}.sig", image.digest.hex());
    let referrers = format!("GET referrers/{}", image.digest);
    let [first, second] = blobs;
    assert_eq!(seen, ["GET manifests/v1".to_owned(), first, second, signatures, referrers]);
}

/// With the time that a slow registry takes.
fn patient(registry: &TestRegistry) -> PullRequest {
    let mut request = request(registry);
    request.transport.timeouts = Timeouts::default();
    request
}

#[test]
fn a_signed_pull_takes_five_requests_and_asks_for_all_it_can_at_once() {
    let key = SigningKey::generate(Scheme::Ed25519).unwrap();
    for over_index in [false, true] {
        let (registry, image) = registry(Mode::Slow);
        let index = over_index.then(|| seed_index(&registry, REPO, "v1", &image));
        sign_at(&registry, &key, index.unwrap_or(image.digest));
        let (_dir, store) = store();
        let ingest = store.ingest().unwrap();
        run(pull(&patient(&registry), &ingest, signed_by(&key), &())).unwrap();
        // Of an index also its image, and what is beside that.
        let expected = if over_index { (8, 5) } else { (5, 2) };
        assert_eq!((registry.seen().len(), registry.most_at_once()), expected, "{:?}", paths(&registry));
    }
}

#[test]
fn a_payload_that_nobody_would_have_guessed_is_asked_for() {
    let (registry, image) = registry(Mode::Slow);
    let payloads: Vec<Descriptor> = (0..8)
        .map(|seed| {
            let payload = noise(100 + seed);
            registry.put_blob(&payload);
            Descriptor::of(media::SIMPLE_SIGNING, &payload)
        })
        .collect();
    let manifest = serde_json::json!({"schemaVersion": 2, "config": image.config, "layers": payloads});
    let tag = format!("sha256-{}.sig", image.digest.hex());
    registry.put_manifest(REPO, &tag, media::MANIFEST, manifest.to_string().as_bytes());
    let (_dir, store) = store();
    let mut request = patient(&registry);
    let asked = |parallel: usize, request: &PullRequest| {
        pull_into(&store, request).unwrap();
        assert_eq!(registry.most_at_once(), parallel);
        registry.seen().iter().filter(|seen| seen.path.contains("/blobs/")).count()
    };
    // No more than that many blobs at once.
    assert_eq!(asked(limits::TOGETHER, &request), 8 + 1 + 2);
    let more = format!("parallel = 5\n{}", registry.registries_toml());
    request.transport.registries = Registries::parse(&more, "registries.toml").unwrap();
    assert_eq!(asked(5, &request), 2 * (8 + 1 + 2));
}

#[test]
fn a_signed_image_is_verified_again_from_the_store_alone() {
    let key = SigningKey::generate(Scheme::Ed25519).unwrap();
    for over_index in [false, true] {
        let (registry, image) = registry(Mode::Honest);
        let index = seed_index(&registry, REPO, "v1", &image);
        sign_at(&registry, &key, if over_index { index } else { image.digest });
        let (_dir, store) = store();
        let request = request(&registry);
        let ingest = store.ingest().unwrap();
        let Pulled::Fetched { fetched, .. } = run(pull(&request, &ingest, signed_by(&key), &())).unwrap() else {
            panic!()
        };
        store.commit(&fetched).unwrap();
        drop(registry);
        let selected = store.selected(&request.reference, &request.platform).unwrap();
        let candidates = store.signatures(&selected).unwrap();
        assert_eq!(candidates.len(), 1);
        let verified = signed_by(&key)(&selected, &candidates).unwrap();
        assert_eq!(verified.digest(), index);
        assert_eq!(store.collect(&BTreeSet::new(), Sweep::Report).unwrap().blobs, [], "signatures are reached");
        store.remove(&request.reference).unwrap();
        store.collect(&BTreeSet::new(), Sweep::Delete).unwrap();
        assert_eq!(files(_dir.path()), ["index.json", "oci-layout"]);
    }
}

#[test]
fn nothing_of_a_refused_image_is_fetched_or_left() {
    let key = SigningKey::generate(Scheme::P256).unwrap();
    let (registry, image) = registry(Mode::Honest);
    let (dir, store) = store();
    let ingest = store.ingest().unwrap();
    let error = run(pull(&request(&registry), &ingest, signed_by(&key), &())).unwrap_err();
    assert!(matches!(error, PullError::Refused(_)), "{error:?}");
    assert!(paths(&registry).iter().all(|path| !path.contains("blobs")), "{:?}", paths(&registry));
    sign_at(&registry, &SigningKey::generate(Scheme::P256).unwrap(), image.digest);
    let error = run(pull(&request(&registry), &ingest, signed_by(&key), &())).unwrap_err();
    assert!(matches!(error, PullError::Refused(_)), "{error:?}");
    assert!(!paths(&registry).contains(&format!("GET blobs/{}", image.layer.digest)));
    assert_eq!(files(dir.path()), ["index.json", "oci-layout"]);
}

#[test]
fn a_proof_about_another_image_opens_nothing() {
    let (registry, image) = registry(Mode::Honest);
    let (dir, store) = store();
    let other = common::image_of(noise(7)).0;
    let confused = |selected: &Selected, candidates: &[Candidate]| {
        let document = Document::new(media::MANIFEST, other.bytes.clone());
        let_through(&Selected::alone(selected.reference(), document).unwrap(), candidates)
    };
    let ingest = store.ingest().unwrap();
    let error = run(pull(&request(&registry), &ingest, confused, &())).unwrap_err();
    let PullError::Fetch(FetchError::NotWhatWasVerified { verified, selected }) = error else { panic!("{error:?}") };
    assert_eq!((verified, selected), (other.digest, image.digest));
    assert!(paths(&registry).iter().all(|path| !path.contains("blobs")), "{:?}", paths(&registry));
    assert_eq!(files(dir.path()), ["index.json", "oci-layout"]);
}

#[test]
fn signatures_that_could_not_be_asked_for_are_not_absent() {
    for status in [500, 403, 429] {
        let (registry, _) = registry(Mode::SignaturesStatus(status));
        let (_dir, store) = store();
        let error = pull_into(&store, &request(&registry)).unwrap_err();
        assert!(matches!(error, PullError::Fetch(FetchError::Signatures(..))), "{error:?}");
    }
}

#[test]
fn more_signatures_than_are_looked_at_are_refused() {
    let (registry, image) = registry(Mode::Honest);
    let payload = noise(10);
    registry.put_blob(&payload);
    let layer = Descriptor::of(media::SIMPLE_SIGNING, &payload);
    let put = |count: usize| {
        let manifest = serde_json::json!({"schemaVersion": 2, "config": image.config, "layers": vec![&layer; count]});
        let tag = format!("sha256-{}.sig", image.digest.hex());
        registry.put_manifest(REPO, &tag, media::MANIFEST, manifest.to_string().as_bytes());
    };
    let (_dir, store) = store();
    put(limits::SIGNATURES + 1);
    let error = pull_into(&store, &request(&registry)).unwrap_err();
    assert!(matches!(error, PullError::Fetch(FetchError::TooManySignatures { .. })), "{error:?}");
    put(limits::SIGNATURES);
    pull_into(&store, &request(&registry)).unwrap();
}

/// What is told of a pull that a lie breaks, and that nothing of it stays.
fn check(mode: Mode, expected: &str) {
    let (registry, image) = registry(mode.clone());
    let (dir, store) = store();
    let error = pull_into(&store, &request(&registry)).unwrap_err();
    assert!(matches!(error, PullError::Fetch(_)), "{error:?}");
    let names = [
        ("REFERENCE", reference(&registry).to_string()),
        ("REGISTRY", registry.host()),
        ("MANIFEST", image.digest.to_string()),
        ("LAYER", image.layer.digest.to_string()),
        ("CONFIG", image.config.digest.to_string()),
    ];
    let told = told(&error, &names);
    let told = match told.split_once("digest `sha256:") {
        Some((before, after)) => format!("{before}digest `OTHER{}", &after[64..]),
        None => told,
    };
    assert_eq!(told, expected, "{mode:?}");
    assert_eq!(files(dir.path()), ["index.json", "oci-layout"], "{mode:?}");
}

#[test]
fn every_lie_is_told_as_what_it_is_and_leaves_nothing() {
    check(
        Mode::TamperedManifest,
        "cannot resolve `REFERENCE`: `REGISTRY` announces `MANIFEST` but sends a manifest with the digest `OTHER`",
    );
    check(
        Mode::TamperedConfig,
        "cannot fetch the configuration of `REFERENCE`: blob `CONFIG` has the digest `OTHER`, not `CONFIG`",
    );
    check(
        Mode::TamperedLayer,
        "cannot fetch the layer of `REFERENCE`: blob `LAYER` has the digest `OTHER`, not `LAYER`",
    );
    check(
        Mode::HugeManifest,
        "cannot resolve `REFERENCE`: manifest `v1` in `team/app` is larger than the limit of 4194304 bytes",
    );
    check(Mode::Status(404), "the registry has no image `REFERENCE`: `REGISTRY` has no manifest `v1` in `team/app`");
    check(Mode::Status(403), "cannot resolve `REFERENCE`: `REGISTRY` denies access (ON_PURPOSE: on purpose)");
}

#[test]
fn an_index_whose_image_was_changed_is_refused() {
    let (registry, image) = registry(Mode::Honest);
    seed_index(&registry, REPO, "v1", &image);
    registry.behave(REPO, Mode::TamperedManifest);
    let (_dir, store) = store();
    let error = pull_into(&store, &request(&registry)).unwrap_err();
    assert!(matches!(error, PullError::Fetch(FetchError::Manifest(..))), "{error:?}");
}

#[test]
fn an_index_without_this_platform_lists_what_it_has() {
    let (registry, image) = registry(Mode::Honest);
    seed_index(&registry, REPO, "v1", &image);
    let (_dir, store) = store();
    let mut request = request(&registry);
    request.platform.architecture = "s390x".into();
    let error = pull_into(&store, &request).unwrap_err();
    let expected = "`REFERENCE` cannot be used here: the image has no variant for `linux/s390x` with kernel 6.1: \
        all are of the other byte order; it has: linux/amd64";
    assert_eq!(told(&error, &[("REFERENCE", reference(&registry).to_string())]), expected);
}

fn with(request: &PullRequest, cached: Option<Digest>) -> PullRequest {
    PullRequest { cached, ..request.clone() }
}

fn cached(digest: Digest) -> Pulled {
    Pulled::Cached { digest, warning: None }
}

#[test]
fn a_pull_asks_once_whether_what_is_cached_is_still_right() {
    let (registry, image) = registry(Mode::Honest);
    let (_dir, store) = store();
    let request = request(&registry);
    let asked = |known| {
        let before = registry.seen().len();
        let pulled = pull_into(&store, &with(&request, Some(known))).unwrap();
        (pulled, registry.seen().len() - before)
    };
    assert_eq!(asked(image.digest), (cached(image.digest), 1));
    let (Pulled::Fetched { fetched, .. }, 6) = asked(Digest::of(b"old")) else { panic!("not fetched") };
    assert_eq!(fetched.image.digest, image.digest);
}

#[test]
fn a_digest_that_is_cached_is_never_asked_for() {
    let (registry, image) = registry(Mode::Honest);
    let (_dir, store) = store();
    let mut request = request(&registry);
    request.reference = request.reference.by_digest(image.digest);
    assert_eq!(pull_into(&store, &with(&request, Some(image.digest))).unwrap(), cached(image.digest));
    assert_eq!(registry.seen(), []);
    let selected = stored(&store, &request);
    assert_eq!(selected.digest(), image.digest);
}

#[test]
fn what_is_cached_is_used_when_nobody_answers_and_the_caller_hears_of_it() {
    let (registry, image) = registry(Mode::Status(503));
    let (_dir, store) = store();
    let request = request(&registry);
    let have = Some(image.digest);
    let Pulled::Cached { digest, warning: Some(warning) } = pull_into(&store, &with(&request, have)).unwrap() else {
        panic!("no warning")
    };
    assert_eq!(digest, image.digest);
    let expected = "`REGISTRY` cannot answer now: status 503 Service Unavailable (ON_PURPOSE: on purpose): using what was pulled before, which may be old";
    assert_eq!(
        warning.replace(&registry.host(), "REGISTRY"),
        expected.replace(" (ON_PURPOSE: on purpose)", ""),
        "a HEAD has no body"
    );
    let error = pull_into(&store, &with(&request, None)).unwrap_err();
    assert!(matches!(error, PullError::Fetch(FetchError::Resolve(..))), "{error:?}");
    // A registry that answers is believed, also when it says no.
    for status in [401, 403, 404] {
        registry.behave(REPO, Mode::Status(status));
        pull_into(&store, &with(&request, have)).unwrap_err();
    }
}

#[test]
fn a_tag_that_moves_between_the_questions_is_not_followed() {
    let (registry, image) = registry(Mode::Changing);
    let (_dir, store) = store();
    let error = pull_into(&store, &with(&request(&registry), Some(image.digest))).unwrap_err();
    assert!(matches!(error, PullError::Fetch(FetchError::NoSuchImage(..) | FetchError::Resolve(..))), "{error:?}");
}

#[derive(Default)]
struct Heard(Mutex<Vec<(Phase, u64, Option<u64>)>>, Mutex<Vec<String>>);

impl Progress for Heard {
    fn report(&self, phase: Phase, done: u64, total: Option<u64>) {
        self.0.lock().unwrap().push((phase, done, total));
    }

    fn waits(&self, wait: &Wait) {
        self.1.lock().unwrap().push(wait.to_string());
    }
}

#[test]
fn a_pull_tells_of_its_pauses() {
    let (registry, _image) = registry(Mode::Fails(503, 2));
    let (_dir, store) = store();
    let heard = Heard::default();
    let ingest = store.ingest().unwrap();
    run(pull(&request(&registry), &ingest, let_through, &heard)).unwrap();
    let again = format!("`{}` cannot answer now: status 503 Service Unavailable; trying again", registry.host());
    assert_eq!(heard.1.into_inner().unwrap(), [again.clone(), again]);
}

#[test]
fn progress_names_each_phase_and_ends_with_its_size() {
    let (registry, image) = registry(Mode::Honest);
    let (_dir, store) = store();
    let heard = Heard::default();
    let ingest = store.ingest().unwrap();
    run(pull(&request(&registry), &ingest, let_through, &heard)).unwrap();
    let heard = heard.0.into_inner().unwrap();
    let phases: BTreeSet<String> = heard.iter().map(|(phase, ..)| format!("{phase:?}")).collect();
    assert_eq!(phases.len(), 6, "{phases:?}");
    let last = |phase| *heard.iter().rfind(|(heard, ..)| *heard == phase).unwrap();
    let Image { config, layer, .. } = image;
    assert_eq!(last(Phase::Config), (Phase::Config, config.size, Some(config.size)));
    assert_eq!(last(Phase::Layer), (Phase::Layer, layer.size, Some(layer.size)));
}

#[test]
fn request_and_answer_survive_the_way_to_a_worker() {
    let (registry, _) = registry(Mode::Honest);
    let (_dir, store) = store();
    let request: PullRequest = serde_json::from_str(&serde_json::to_string(&request(&registry)).unwrap()).unwrap();
    let ingest = store.ingest().unwrap();
    // The worker has the directory only as a descriptor.
    let ingest = bytecode_image::store::Ingest::from_fd(ingest.as_fd().try_clone_to_owned().unwrap());
    let pulled = run(pull(&request, &ingest, let_through, &())).unwrap();
    let Pulled::Fetched { fetched, .. } = serde_json::from_str(&serde_json::to_string(&pulled).unwrap()).unwrap()
    else {
        panic!()
    };
    store.commit(&fetched).unwrap();
    assert!(store.cached(&request.reference, &request.platform).unwrap().is_some());
}

#[test]
fn referrers_are_listed_by_the_api_and_by_the_tag_that_stands_in() {
    for referrers in [Referrers::Listed, Referrers::Absent] {
        let options = Options { referrers, ..Default::default() };
        let (registry, image) = registry_with(options, Mode::Honest);
        let remote = common::remote(&registry);
        assert_eq!(run(remote.referrers(image.digest)).unwrap(), []);
        let subject = Descriptor::of(media::MANIFEST, &image.bytes);
        let attached = serde_json::json!({
            "schemaVersion": 2, "mediaType": media::MANIFEST, "artifactType": "x/y", "config": image.config,
            "layers": [], "subject": subject,
        });
        let attached = registry.put_manifest(REPO, "attached", media::MANIFEST, attached.to_string().as_bytes());
        if referrers == Referrers::Absent {
            let entry =
                serde_json::json!({"mediaType": media::MANIFEST, "digest": attached, "size": 1, "artifactType": "x/y"});
            let index = serde_json::json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": [entry]});
            let tag = image.digest.to_string().replace(':', "-");
            registry.put_manifest(REPO, &tag, media::INDEX, index.to_string().as_bytes());
        }
        let found = run(remote.referrers(image.digest)).unwrap();
        let found: Vec<_> =
            found.iter().map(|entry| (entry.descriptor.digest, entry.artifact_type.as_deref())).collect();
        assert_eq!(found, [(attached, Some("x/y"))], "{referrers:?}");
        registry.behave(REPO, Mode::Status(500));
        run(remote.referrers(image.digest)).unwrap_err();
    }
}

#[test]
fn a_moved_tag_replaces_the_old_image_in_the_store() {
    let (registry, old) = registry(Mode::Honest);
    let (_dir, store) = store();
    let request = request(&registry);
    stored(&store, &request);
    let new = seed(&registry, REPO, "v1", noise(77));
    let again = with(&request, Some(old.digest));
    assert_eq!(stored(&store, &again).digest(), new.digest);
    assert_eq!(store.list().unwrap().len(), 1);
    let swept = store.collect(&BTreeSet::new(), Sweep::Delete).unwrap();
    assert_eq!(swept.blobs.len(), 2, "manifest and layer; the configuration is shared");
}
