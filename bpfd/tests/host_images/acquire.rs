//! From a reference to bytes that may be loaded: what comes out, and what serves when the registry does not.

use std::io::ErrorKind;

use bpfd::images::ImageError;
use bpfd::progress::Phase;
use bpfd::source::UploadError;
use bpfd::waiter::Waiter;
use bpfd_core::hook::ProceedOn;
use bpfd_core::names::Priority;
use bpfd_core::policy::Principal;
use bpfd_core::report::Warning;
use bpfd_core::request::PullPolicy;
use bpfd_core::state::{ObjectDigest, Source};
use bpfd_proto::v1::ErrorReason;
use bytecode_image::digest::Digest;
use bytecode_image::key::{Scheme, SigningKey};
use bytecode_image::testing::registry::{Access, Options};

use crate::world::{OBJECT, World, flip, image, image_with_label};

#[test]
fn a_signed_image_becomes_bytes_that_may_be_loaded() {
    let world = World::new();
    let (bytecode, warnings) = world.acquire("v1", PullPolicy::Newer).unwrap();
    assert_eq!(bytecode.bytes(), OBJECT);
    assert_eq!(bytecode.object(), ObjectDigest(Digest::of(OBJECT)));
    let source = Source::Image {
        reference: world.reference("v1").to_string(),
        digest: image().descriptor().digest.to_string(),
        signers: vec!["ci".to_owned()],
    };
    assert_eq!(bytecode.proof().source(), source);
    assert_eq!(bytecode.name().unwrap().as_str(), "app");
    assert_eq!(bytecode.labels()["org.opencontainers.image.version"], "1.2.3");
    let advice = bytecode.advice("last").unwrap();
    assert_eq!(advice.priority, Some(Priority::try_from(20).unwrap()));
    assert_eq!(advice.proceed_on, Some(ProceedOn::from_names(["pass", "tx"]).unwrap()));
    assert_eq!(bytecode.advice("silent").and_then(|advice| advice.priority), None);
    assert_eq!(world.objects.read(&bytecode.object()).unwrap(), OBJECT);
    assert!(warnings.is_empty());
    assert_eq!(world.traces(), (vec![], vec![world.reference("v1").to_string()]));
}

#[test]
fn an_image_of_an_index_is_acquired_by_either_signature() {
    let world = World::new();
    let index = world.publish_index("multi", &image());
    // The child is the image of `v1`, whose signature counts as well.
    let (bytecode, _) = world.acquire("multi", PullPolicy::Newer).unwrap();
    let Source::Image { digest, .. } = bytecode.proof().source() else { panic!("{:?}", bytecode.proof()) };
    assert_eq!(digest, index.to_string());
}

#[test]
fn a_caller_hears_each_phase_in_order() {
    let world = World::new();
    let cold = [Phase::Resolve, Phase::Verify, Phase::Fetch, Phase::Verify, Phase::Inspect];
    assert_eq!(world.phases("v1"), cold);
    assert_eq!(world.phases("v1"), [Phase::Resolve, Phase::Verify, Phase::Inspect]);
}

#[test]
fn with_the_registry_down_the_stored_image_serves_with_a_warning() {
    let mut world = World::new();
    world.acquire("v1", PullPolicy::Newer).unwrap();
    world.registry = None;
    let (bytecode, warnings) = world.acquire("v1", PullPolicy::Newer).unwrap();
    assert_eq!(bytecode.bytes(), OBJECT);
    let host = &world.host;
    let why = format!("cannot reach `{host}`: using what was pulled before, which may be old");
    assert_eq!(warnings, [Warning::Unreachable(why)]);
    for silent in [PullPolicy::IfNotPresent, PullPolicy::Never] {
        assert_eq!(world.acquire("v1", silent).unwrap().1, []);
    }
    let error = world.acquire("v1", PullPolicy::Always).unwrap_err();
    assert!(
        matches!(&error, ImageError::Fetch(failure) if failure.reason == ErrorReason::RegistryUnreachable),
        "{error:?}"
    );
}

#[test]
fn a_stored_digest_is_never_asked_for() {
    let world = World::new();
    let digest = image().descriptor().digest;
    let reference = world.reference("v1").by_digest(digest).to_string();
    world.acquire_reference(&reference, PullPolicy::Newer).unwrap();
    let asked = world.registry().seen().len();
    world.acquire_reference(&reference, PullPolicy::Newer).unwrap();
    assert_eq!(world.registry().seen().len(), asked);
}

#[test]
fn an_image_that_never_came_is_not_asked_for_by_the_policy_never() {
    let world = World::new();
    let error = world.acquire("v1", PullPolicy::Never).unwrap_err();
    let expected = "NOT_FOUND_IMAGE\n  error: the image store has no `REGISTRY/team/app:v1`\n  \
                    hint: `bpfctl image pull REFERENCE` fetches it";
    assert_eq!(world.told(error, &[]), expected);
    assert_eq!(world.registry().seen(), []);
}

#[test]
fn a_moved_tag_brings_the_new_image() {
    let world = World::new();
    let (old, _) = world.acquire("v1", PullPolicy::Newer).unwrap();
    let moved = world.publish("v1", &image_with_label("1.2.3", "2.0.0"));
    world.sign("v1", moved, &world.key);
    let (cached, _) = world.acquire("v1", PullPolicy::IfNotPresent).unwrap();
    let (new, _) = world.acquire("v1", PullPolicy::Newer).unwrap();
    assert_eq!(cached.proof().source(), old.proof().source());
    assert_eq!(new.labels()["org.opencontainers.image.version"], "2.0.0");
}

#[test]
fn a_bad_push_of_a_tag_leaves_the_last_good_image_in_the_store() {
    let mut world = World::new();
    let (old, _) = world.acquire("v1", PullPolicy::Newer).unwrap();
    let blobs = |world: &World| std::fs::read_dir(world.layout.images().join("blobs/sha256")).unwrap().count();
    let before = blobs(&world);
    let bad = world.publish("v1", &image_with_label(r#"\"name\":\"last\""#, r#"\"name\":\"first\""#));
    world.sign("v1", bad, &world.key);
    for pull in [PullPolicy::Newer, PullPolicy::Always] {
        let error = world.acquire("v1", pull).unwrap_err();
        assert!(matches!(error, ImageError::Mismatch(_)), "{error:?}");
        assert_eq!(blobs(&world), before, "what was bad is gone, and nothing else");
    }
    // Signed, offline and by the policy of now.
    assert_eq!(world.acquire("v1", PullPolicy::Never).unwrap().0.proof().source(), old.proof().source());
    world.registry = None;
    let (served, warnings) = world.acquire("v1", PullPolicy::Newer).unwrap();
    assert_eq!((served.proof().source(), warnings.len()), (old.proof().source(), 1));
}

#[test]
fn an_image_that_waits_for_its_load_holds_no_bytes_and_they_are_hashed_again() {
    let world = World::new();
    let reference = world.reference("v1").to_string();
    let report: bpfd::progress::Report = std::sync::Arc::new(|_| {});
    let acquire = || {
        world
            .run(world.images.acquire(&Principal::daemon(), &reference, PullPolicy::Newer, &report, &Waiter::default()))
            .unwrap()
            .0
    };
    let object = ObjectDigest(Digest::of(OBJECT));
    let path = world.layout.objects().join(object.to_string());
    let kind = |error| match error {
        UploadError::Read { object: lost, source } if lost == object => source.kind(),
        other => panic!("{other:?}"),
    };
    let waiting = acquire();
    flip(&path);
    assert_eq!(kind(waiting.bytecode(&world.objects).unwrap_err()), ErrorKind::InvalidData);
    let waiting = acquire();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(kind(waiting.bytecode(&world.objects).unwrap_err()), ErrorKind::NotFound);
    assert_eq!(acquire().bytecode(&world.objects).unwrap().bytes(), OBJECT);
}

#[test]
fn a_flipped_blob_in_the_store_is_noticed_offline_and_mended_online() {
    let mut world = World::new();
    world.acquire("v1", PullPolicy::Newer).unwrap();
    let image = image();
    for (part, blob) in
        [("layer", image.layer_descriptor()), ("config", image.config_descriptor()), ("manifest", image.descriptor())]
    {
        flip(&world.blob(blob.digest));
        let error = world.acquire("v1", PullPolicy::Never).unwrap_err();
        let told = world.told(error, &[]);
        let expected = "DIGEST_MISMATCH\n  error: blob `DIGEST1` in the image store is damaged; pull the image again\n  \
                        hint: pull it again with `bpfctl image pull REFERENCE`, and check the disk for errors";
        assert_eq!(told, expected, "{part}");
        world.acquire("v1", PullPolicy::Newer).unwrap();
        world.acquire("v1", PullPolicy::Never).unwrap();
    }
    flip(&world.blob(image.layer_descriptor().digest));
    world.registry = None;
    assert!(world.acquire("v1", PullPolicy::Newer).is_err());
}

#[test]
fn a_policy_that_names_another_key_refuses_what_is_stored() {
    let mut world = World::new();
    world.acquire("v1", PullPolicy::Newer).unwrap();
    let other = SigningKey::generate(Scheme::Ed25519).unwrap();
    std::fs::write(world.layout.etc.join("keys/ci.pub"), other.public().to_pem()).unwrap();
    world.trust.reload().unwrap();
    let refused = |world: &World, pull| {
        let told = world.told(world.acquire("v1", pull).unwrap_err(), &[]);
        assert!(told.starts_with("SIGNATURE_INVALID\n"), "{pull:?}: {told}");
    };
    for pull in [PullPolicy::Newer, PullPolicy::IfNotPresent, PullPolicy::Never] {
        refused(&world, pull);
    }
    world.registry = None;
    for pull in [PullPolicy::Newer, PullPolicy::IfNotPresent, PullPolicy::Never] {
        refused(&world, pull);
    }
}

#[test]
fn a_signature_that_came_later_is_fetched_once_the_policy_asks_for_it() {
    let world = World::new();
    world.acquire("v1", PullPolicy::Newer).unwrap();
    let later = SigningKey::generate(Scheme::Ed25519).unwrap();
    std::fs::write(world.layout.etc.join("keys/ci.pub"), later.public().to_pem()).unwrap();
    world.trust.reload().unwrap();
    assert!(world.acquire("v1", PullPolicy::Newer).is_err());
    world.sign("v1", image().descriptor().digest, &later);
    world.acquire("v1", PullPolicy::Newer).unwrap();
}

#[test]
fn the_daemons_credentials_open_the_registry() {
    let access = Access::Bearer("user".to_owned(), "s3cret".to_owned());
    let world = World::bare(Options { access, ..Options::default() }, "");
    world.trust_anything();
    world.publish("v1", &image());
    let error = world.acquire("v1", PullPolicy::Newer).unwrap_err();
    assert!(matches!(&error, ImageError::Fetch(failure) if failure.reason == ErrorReason::RegistryDenied), "{error:?}");
    // `user:s3cret`
    let auth = format!(r#"{{"auths": {{"{}": {{"auth": "dXNlcjpzM2NyZXQ="}}}}}}"#, world.host);
    std::fs::write(world.layout.etc.join("auth.json"), auth).unwrap();
    world.acquire("v1", PullPolicy::Newer).unwrap();
}

#[test]
fn a_name_is_resolved_by_the_confined_worker() {
    let world = World::bare(Options::default(), "");
    let name = format!("localhost:{}", world.registry().address().port());
    let text = format!("[[registry]]\nname = \"{name}\"\nhttp = true\n");
    std::fs::write(world.layout.etc.join("registries.toml"), text).unwrap();
    let text = format!("version = 1\n[[image]]\nscope = \"{name}\"\nunsigned = \"allow\"\n");
    std::fs::write(world.layout.etc.join("policy.toml"), text).unwrap();
    world.trust.reload().unwrap();
    world.publish("v1", &image());
    let (bytecode, _) = world.acquire_reference(&format!("{name}/team/app:v1"), PullPolicy::Newer).unwrap();
    assert_eq!(bytecode.bytes(), OBJECT);
}

/// Without the system's certificates there is no TLS client, and nobody is connected to.
#[test]
fn the_confined_worker_reads_the_systems_certificates() {
    let world = World::bare(Options::default(), "");
    // The registry speaks no TLS: what counts is how far the worker comes.
    std::fs::remove_file(world.layout.etc.join("registries.toml")).unwrap();
    let error = world.acquire("v1", PullPolicy::Newer).unwrap_err();
    assert!(
        matches!(&error, ImageError::Fetch(failure) if failure.reason == ErrorReason::RegistryUnreachable),
        "{error:?}"
    );
}

#[test]
fn two_callers_of_one_reference_are_served_one_after_the_other() {
    let world = World::new();
    let reference = world.reference("v1").to_string();
    let report: bpfd::progress::Report = std::sync::Arc::new(|_| {});
    let waiter = Waiter::default();
    let root = Principal::daemon();
    let one = || world.images.acquire(&root, &reference, PullPolicy::Newer, &report, &waiter);
    let (first, second, third) = world.run(async { tokio::join!(one(), one(), one()) });
    for acquired in [first, second, third] {
        assert_eq!(acquired.unwrap().0.bytecode(&world.objects).unwrap().bytes(), OBJECT);
    }
    // The second and the third found it stored, and asked for nothing but the tag.
    let fetched =
        world.registry().seen().iter().filter(|seen| seen.path.contains("/blobs/") && seen.range.is_none()).count();
    assert_eq!(fetched, 2, "configuration and layer, once each: those of its signatures follow from what is signed");
}
