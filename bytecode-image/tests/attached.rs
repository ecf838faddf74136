//! Signatures in manifests that refer to an image: found by the list of referrers and by the tag that stands in for it, kept, and judged
//! again from the store alone.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod common;

use std::collections::BTreeSet;

use bytecode_image::{
    digest::Descriptor,
    document::Document,
    fetch::{FetchError, PullError, Pulled, pull},
    key::{Scheme, SigningKey},
    limits, media, sign,
    store::{Store, Sweep},
    testing::registry::{Mode, Options, Referrers, TestRegistry},
};
use common::{REPO, files, reference, registry, registry_with, request, requiring, run, sign_at, signed_by, store};
use serde_json::json;

/// Puts a bundle where cosign 3 would; without a referrers API also into the index that stands in for it.
fn bundle_at(registry: &TestRegistry, key: &SigningKey, over: &Descriptor, listed: &mut Vec<serde_json::Value>) {
    let bundle = sign::bundle(key, &reference(registry), over.digest).unwrap();
    attach(registry, over, &sign::referrer(over, &bundle, &sign::Stated::signed()), &[&bundle], listed);
}

fn attach(
    registry: &TestRegistry,
    over: &Descriptor,
    manifest: &Document,
    blobs: &[&[u8]],
    listed: &mut Vec<serde_json::Value>,
) {
    for blob in blobs.iter().chain([&media::EMPTY_BYTES]) {
        registry.put_blob(blob);
    }
    registry.put_manifest(REPO, &manifest.digest().hex(), media::MANIFEST, manifest.bytes());
    listed.push(json!(manifest.descriptor()));
    let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": listed}).to_string();
    registry.put_manifest(REPO, &over.digest.to_string().replace(':', "-"), media::INDEX, index.as_bytes());
}

#[test]
fn bundles_are_found_by_the_api_and_by_the_tag_and_verified_again_from_the_store_alone() {
    let (key, other) = (SigningKey::generate(Scheme::P256).unwrap(), SigningKey::generate(Scheme::Ed25519).unwrap());
    for referrers in [Referrers::Listed, Referrers::Absent] {
        let options = Options { referrers, ..Default::default() };
        let (registry, image) = registry_with(options, Mode::Honest);
        let over = Descriptor::of(media::MANIFEST, &image.bytes);
        let mut listed = Vec::new();
        bundle_at(&registry, &other, &over, &mut listed);
        bundle_at(&registry, &key, &over, &mut listed);
        sign_at(&registry, &other, image.digest);
        let (dir, store) = store();
        let request = request(&registry);
        let ingest = store.ingest().unwrap();
        let Pulled::Fetched { fetched, .. } = run(pull(&request, &ingest, signed_by(&key), &())).unwrap() else {
            panic!()
        };
        store.commit(&fetched).unwrap();
        drop(registry);
        let verify = |store: &Store| {
            let selected = store.selected(&request.reference, &request.platform).unwrap();
            let candidates = store.signatures(&selected).unwrap();
            assert_eq!(candidates.len(), 3, "{referrers:?}");
            signed_by(&key)(&selected, &candidates).unwrap();
        };
        verify(&store);
        assert_eq!(store.collect(&BTreeSet::new(), Sweep::Report).unwrap().blobs, [], "bundles are reached");
        verify(&store);
        store.remove(&request.reference).unwrap();
        store.collect(&BTreeSet::new(), Sweep::Delete).unwrap();
        assert_eq!(files(dir.path()), ["index.json", "oci-layout"]);
    }
}

#[test]
fn attestations_at_the_tag_for_them_are_found_and_kept() {
    let key = SigningKey::generate(Scheme::P256).unwrap();
    let (registry, image) = registry(Mode::Honest);
    let stated = sign::Stated { predicate_type: "https://slsa.dev/provenance/v1".into(), predicate: json!({}) };
    let bundle = sign::attestation(&key, &reference(&registry), image.digest, &stated).unwrap();
    let bundle: serde_json::Value = serde_json::from_slice(&bundle).unwrap();
    let envelope = bundle["dsseEnvelope"].to_string();
    let config = Descriptor::of(media::CONFIG, b"{}");
    let at = |layers: &[Descriptor]| {
        let manifest = json!({"schemaVersion": 2, "mediaType": media::MANIFEST, "config": config, "layers": layers});
        let tag = reference(&registry).attestations(image.digest);
        registry.put_manifest(REPO, tag.tag().unwrap(), media::MANIFEST, manifest.to_string().as_bytes());
    };
    for blob in [b"{}".as_slice(), envelope.as_bytes()] {
        registry.put_blob(blob);
    }
    at(&[Descriptor::of(media::ENVELOPE, envelope.as_bytes())]);
    sign_at(&registry, &key, image.digest);
    let (_dir, store) = store();
    let request = request(&registry);
    let ingest = store.ingest().unwrap();
    let asked = |registry: &TestRegistry| registry.seen().iter().any(|seen| format!("{seen:?}").contains(".att"));
    run(pull(&request, &ingest, signed_by(&key), &())).unwrap();
    assert!(!asked(&registry), "the signature is enough");
    let both = r#"{ signed_by = ["ci"] }, { attested_by = ["ci"], predicate = "https://slsa.dev/provenance/v1" }"#;
    let attested = run(pull(&request, &ingest, requiring(&key, both), &())).unwrap();
    let Pulled::Fetched { fetched, .. } = attested else { panic!() };
    assert!(asked(&registry));
    store.commit(&fetched).unwrap();
    let selected = store.selected(&request.reference, &request.platform).unwrap();
    let kinds: Vec<String> = store.signatures(&selected).unwrap().into_iter().map(|found| found.media_type).collect();
    assert_eq!(kinds, [media::SIMPLE_SIGNING, media::ENVELOPE]);

    // What is there must be attestations, and no more than an image may have.
    at(&[Descriptor::of("text/plain", envelope.as_bytes())]);
    let refused = || run(pull(&request, &ingest, requiring(&key, both), &())).unwrap_err();
    let error = refused();
    assert!(matches!(&error, PullError::Fetch(FetchError::SignatureManifest(..))), "{error:?}");
    at(&vec![Descriptor::of(media::ENVELOPE, envelope.as_bytes()); limits::SIGNATURES]);
    let error = refused();
    assert!(matches!(&error, PullError::Fetch(FetchError::TooManySignatures { .. })), "{error:?}");
}

#[test]
fn referrers_that_are_no_signatures_of_the_image_are_left_alone() {
    let key = SigningKey::generate(Scheme::P256).unwrap();
    let (registry, image) = registry(Mode::Honest);
    let over = Descriptor::of(media::MANIFEST, &image.bytes);
    let elsewhere = Descriptor::of(media::MANIFEST, b"elsewhere");
    let bundle = sign::bundle(&key, &reference(&registry), image.digest).unwrap();
    let changed = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut manifest: serde_json::Value =
            serde_json::from_slice(sign::referrer(&over, &bundle, &sign::Stated::signed()).bytes()).unwrap();
        change(&mut manifest);
        Document::new(media::MANIFEST, manifest.to_string().into_bytes())
    };
    let sbom = changed(&|manifest| {
        manifest["artifactType"] = "application/spdx+json".into();
        manifest["layers"][0]["mediaType"] = "application/spdx+json".into();
    });
    let nothing = changed(&|manifest| {
        manifest["artifactType"] = media::EMPTY.into();
        manifest["layers"][0]["mediaType"] = "text/plain".into();
    });
    let foreign = changed(&|manifest| manifest["subject"] = json!(elsewhere));
    // Listed all the same: the index at the tag is what somebody wrote.
    let options = Options { referrers: Referrers::Absent, ..Default::default() };
    drop(registry);
    let (registry, _) = registry_with(options, Mode::Honest);
    let mut listed = Vec::new();
    for manifest in [&sbom, &nothing, &foreign] {
        attach(&registry, &over, manifest, &[&bundle], &mut listed);
    }
    let (_dir, store) = store();
    let refused = |registry: &TestRegistry| {
        let ingest = store.ingest().unwrap();
        match run(pull(&request(registry), &ingest, signed_by(&key), &())).unwrap_err() {
            PullError::Refused(refusal) => refusal.reason.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert!(refused(&registry).starts_with("it is not signed"), "{}", refused(&registry));
    // Known, and not judged: named, not called unsigned.
    let notation = changed(&|manifest| {
        manifest["artifactType"] = media::NOTATION.into();
        manifest["layers"][0]["mediaType"] = "application/jose+json".into();
    });
    attach(&registry, &over, &notation, &[&bundle], &mut listed);
    let told = refused(&registry);
    let said = "signature 1 (Notation): this version does not judge signatures of the Notary project";
    assert!(told.ends_with(said), "{told}");
}

#[test]
fn bundles_that_could_not_be_asked_for_are_an_error() {
    let key = SigningKey::generate(Scheme::P256).unwrap();
    let (registry, image) = registry(Mode::Honest);
    sign_at(&registry, &key, image.digest);
    let over = Descriptor::of(media::MANIFEST, &image.bytes);
    let bundle = sign::bundle(&key, &reference(&registry), image.digest).unwrap();
    // The manifest is there, its bundle is not.
    let manifest = sign::referrer(&over, &bundle, &sign::Stated::signed());
    registry.put_blob(media::EMPTY_BYTES);
    registry.put_manifest(REPO, "bundle", media::MANIFEST, manifest.bytes());
    let (_dir, store) = store();
    let ingest = store.ingest().unwrap();
    let asked = || run(pull(&request(&registry), &ingest, signed_by(&key), &()));
    assert!(matches!(asked().unwrap_err(), PullError::Fetch(FetchError::Signatures(..))));
    registry.put_blob(&bundle);
    assert!(asked().is_ok());
    let mut listed = Vec::new();
    for number in 0..limits::SIGNATURES {
        let name = reference(&registry).by_tag(&number.to_string()).unwrap();
        let bundle = sign::bundle(&key, &name, image.digest).unwrap();
        attach(&registry, &over, &sign::referrer(&over, &bundle, &sign::Stated::signed()), &[&bundle], &mut listed);
    }
    assert!(matches!(asked().unwrap_err(), PullError::Fetch(FetchError::TooManySignatures { .. })));
}
