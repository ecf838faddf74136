//! Each way in which an image is refused, with what the caller sees of it; nothing is changed by any.

use std::fmt::Write;
use std::time::{Duration, Instant};

use bpfd::images::ImageError;
use bpfd::waiter::Waiter;
use bpfd::worker::fetch;
use bpfd_core::request::PullPolicy;
use bpfd_policy::Policy;
use bpfd_proto::v1::ErrorReason;
use bytecode_image::fetch::PullRequest;
use bytecode_image::key::{Scheme, SigningKey};
use bytecode_image::registries::Registries;
use bytecode_image::resolve::Platform;
use bytecode_image::store::Store;
use bytecode_image::testing::registry::{Mode, Options, TestRegistry};
use bytecode_image::transport::{Timeouts, TransportConfig};

use crate::world::{World, image, image_with_label, workers};

#[test]
fn every_refusal_says_what_why_and_what_to_do() {
    let mut all = String::new();
    let mut check = |name: &str, world: &World, tag: &str| {
        let error = world.acquire(tag, PullPolicy::Newer).unwrap_err();
        writeln!(all, "## {name}\n{}\n", world.told(error, &[])).unwrap();
        assert_eq!(world.traces(), (vec![], vec![]), "{name}");
    };

    let world = World::new();
    check("a tag that is not there", &world, "v2");
    world.publish("unsigned", &image_with_label("1.2.3", "1.2.4"));
    check("no signature", &world, "unsigned");
    let other = world.publish("other", &image_with_label("1.2.3", "1.2.5"));
    world.sign("other", other, &SigningKey::generate(Scheme::Ed25519).unwrap());
    check("a signature of another key", &world, "other");
    world.behave(Mode::TamperedManifest);
    check("a changed manifest", &world, "v1");
    world.behave(Mode::SignaturesStatus(403));
    check("signatures that cannot be asked for", &world, "v1");
    world.behave(Mode::HugeManifest);
    check("a manifest of 1 GiB", &world, "v1");
    world.behave(Mode::TamperedLayer);
    check("a changed layer of a signed image", &world, "v1");
    world.behave(Mode::TamperedIndex);
    let index = world.publish_index("index", &image());
    world.sign("index", index, &world.key);
    check("a changed index", &world, "index");
    world.behave(Mode::Status(403));
    check("a registry that denies access", &world, "v1");

    let world = World::bare(Options::default(), "");
    world.publish("v1", &image());
    check("no scope of the policy", &world, "v1");

    // Without signatures, which are blobs too.
    world.trust_anything();
    world.behave(Mode::TamperedConfig);
    check("a changed configuration", &world, "v1");
    world.behave(Mode::TamperedLayer);
    check("a changed layer", &world, "v1");
    world.behave(Mode::LongBlob);
    check("a blob that is too long", &world, "v1");
    world.behave(Mode::Stall);
    check("a blob that never comes", &world, "v1");

    let mut world = World::new();
    world.registry = None;
    check("a registry that is not there", &world, "v1");
    insta::assert_snapshot!(all);
}

#[test]
fn what_is_wrong_inside_an_image_is_told_too() {
    let world = World::new();
    world.trust_anything();
    let mut all = String::new();
    let mut check = |name: &str, tag: &str| {
        let error = world.acquire(tag, PullPolicy::Newer).unwrap_err();
        writeln!(all, "## {name}\n{}\n", world.told(error, &[])).unwrap();
        assert_eq!(world.traces(), (vec![], vec![]), "{name}");
    };
    world.publish("liar", &image_with_label(r#"\"name\":\"last\""#, r#"\"name\":\"first\""#));
    check("a label that contradicts the object", "liar");
    world.publish("future", &image_with_label(r#"\"schema\":1"#, r#"\"schema\":2"#));
    check("a label of a later schema", "future");
    let zeros = format!("{}/zeros", world.host);
    world.registry().put_zeros("zeros").unwrap();
    let error = world.acquire_reference(&zeros, PullPolicy::Newer).unwrap_err();
    writeln!(all, "## 200 MiB of zeros\n{}\n", world.told(error, &[])).unwrap();
    let error = world.acquire_reference("foo:tag", PullPolicy::Newer).unwrap_err();
    writeln!(all, "## a reference without a registry\n{}\n", world.told(error, &[])).unwrap();
    insta::assert_snapshot!(all);
}

#[test]
fn a_registry_that_keeps_one_waiting_is_given_up_in_time() {
    let world = World::new().patient(Timeouts { deadline: Duration::from_secs(1), ..Timeouts::default() });
    world.trust_anything();
    world.behave(Mode::Stall);
    let error = world.acquire("v1", PullPolicy::Newer).unwrap_err();
    assert!(matches!(&error, ImageError::Fetch(failure) if failure.reason == ErrorReason::Timeout), "{error:?}");
    assert_eq!(world.traces(), (vec![], vec![]));
}

#[test]
fn a_redirect_to_a_port_that_nobody_named_is_not_followed() {
    let elsewhere = TestRegistry::honest().unwrap();
    let world = World::new();
    for mode in [Mode::RedirectBlobs, Mode::RedirectManifests] {
        world.behave(mode(format!("http://{}/v2/team/app/blobs/x", elsewhere.host())));
        let error = world.acquire("v1", PullPolicy::Newer).unwrap_err();
        let ImageError::Fetch(failure) = &error else { panic!("{error:?}") };
        assert_eq!(failure.reason, ErrorReason::RegistryRedirect, "{failure}");
    }
    assert_eq!(elsewhere.seen(), []);
}

#[test]
fn a_foreign_realm_never_gets_the_daemons_credentials() {
    let elsewhere = TestRegistry::honest().unwrap();
    // It may be connected to; it is not the registry's token server.
    let world = World::bare(Options::default(), &elsewhere.registries_toml());
    world.trust_anything();
    world.publish("v1", &image());
    // `user:s3cret`
    let auth = format!(r#"{{"auths": {{"{}": {{"auth": "dXNlcjpzM2NyZXQ="}}}}}}"#, world.host);
    std::fs::write(world.layout.etc.join("auth.json"), auth).unwrap();
    world.behave(Mode::Realm(format!("http://{}/token", elsewhere.host())));
    let error = world.acquire("v1", PullPolicy::Newer).unwrap_err();
    let told = world.told(error, &[("FOREIGN", elsewhere.host())]);
    insta::assert_snapshot!(told);
    assert_eq!(elsewhere.seen(), []);
}

/// By the kernel's own count, in the worker; the registry's memory is that of this process.
#[test]
fn a_manifest_of_a_gibibyte_costs_the_worker_less_than_64_mib() {
    let world = World::new();
    for mode in [Mode::HugeManifest, Mode::HugeManifestAnnounced, Mode::EndlessError] {
        world.behave(mode.clone());
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let request = PullRequest {
            reference: world.reference("v1"),
            cached: None,
            platform: Platform::host(None),
            transport: TransportConfig {
                registries: Registries::parse(&world.registry().registries_toml(), "x").unwrap(),
                ..TransportConfig::default()
            },
        };
        let workers = workers();
        let identity = workers.identity().unwrap();
        let ingest = store.ingest_apart(identity.ids().uid(), identity.ids().gid()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let ended = fetch::pull(
            &workers,
            &identity,
            ingest.as_fd(),
            request,
            Policy::default(),
            deadline,
            |_| {},
            &Waiter::default(),
        )
        .unwrap();
        assert!(ended.outcome.is_err(), "{mode:?}");
        assert!((1 << 10..64 << 10).contains(&ended.peak_kib), "{} KiB at the peak, {mode:?}", ended.peak_kib);
    }
}
