//! Sigstore bundles: what counts, and what each forged or damaged one is refused for.

use bytecode_image::sign;
use serde_json::{Value, json};

use super::*;

/// What `cosign sign --key` of version 3 signs: a digest, and no name.
fn statement(digest: Digest) -> Value {
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": digest.hex()}}],
        "predicateType": "https://sigstore.dev/cosign/sign/v1",
        "predicate": {},
    })
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    [format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).as_bytes(), payload].concat()
}

/// A bundle over any text of any type, as one of [`KEYS`] would sign it.
fn enveloped(key: &str, payload_type: &str, payload: &[u8]) -> Value {
    let signature = KEYS[key].sign(&pae(payload_type, payload)).unwrap();
    json!({
        "mediaType": media::BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": base64(KEYS[key].public().fingerprint().bytes())}},
        "dsseEnvelope": {
            "payload": base64(payload), "payloadType": payload_type, "signatures": [{"sig": base64(signature), "keyid": ""}],
        },
    })
}

fn stating(key: &str, statement: &Value) -> Value {
    enveloped(key, media::IN_TOTO, statement.to_string().as_bytes())
}

/// A bundle over the manifest itself.
fn message(key: &str, manifest: &[u8]) -> Value {
    json!({
        "mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1",
        "verificationMaterial": {"publicKey": {"hint": ""}, "tlogEntries": []},
        "messageSignature": {
            "messageDigest": {"algorithm": "SHA2_256", "digest": base64(Digest::of(manifest).bytes())},
            "signature": base64(KEYS[key].sign(manifest).unwrap()),
        },
    })
}

fn found(bundle: &Value) -> Candidate {
    found_as(media::BUNDLE, bundle.to_string().into_bytes())
}

fn found_as(media_type: &str, payload: Vec<u8>) -> Candidate {
    Candidate { over: manifest(), media_type: media_type.to_owned(), payload, annotations: BTreeMap::new() }
}

fn changed(mut bundle: Value, change: impl FnOnce(&mut Value)) -> Value {
    change(&mut bundle);
    bundle
}

#[test]
fn bundles_of_every_version_and_scheme_count_as_other_signatures_do() {
    let both = scope(r#"{ signed_by = ["ci", "release"], threshold = 2 }"#);
    let versions = [
        "application/vnd.dev.sigstore.bundle+json;version=0.1",
        "application/vnd.dev.sigstore.bundle+json;version=0.2",
        "application/vnd.dev.sigstore.bundle+json;version=0.3",
        media::BUNDLE,
    ];
    for version in versions {
        for make in [|key: &str| stating(key, &statement(manifest())), |key: &str| message(key, b"manifest")] {
            let of = |key: &str| found(&changed(make(key), |bundle| bundle["mediaType"] = version.into()));
            let verified = ask(&both, &[of("ci"), of("other"), of("release")]).unwrap();
            let told: Vec<String> = verified.judged().iter().map(ToString::to_string).collect();
            assert_eq!(
                told,
                [
                    "signature 1 (bundle): `ci` made it",
                    "signature 2 (bundle): no key of these signers made it",
                    "signature 3 (bundle): `release` made it"
                ]
            );
        }
    }
    // One key is one key, whatever form it signs in.
    let twice = [found(&stating("ci", &statement(manifest()))), good("ci")];
    assert!(matches!(ask(&both, &twice), Err(Reason::NotEnough { valid, .. }) if valid.len() == 1));
}

#[test]
fn a_bundle_of_ours_names_its_repository_and_one_without_a_name_is_for_any() {
    let named = |name: &str| {
        let bundle = sign::bundle(&KEYS["ci"], &name.parse().unwrap(), manifest()).unwrap();
        found_as(media::BUNDLE, bundle)
    };
    let strict = scope(r#"{ signed_by = ["ci"] }"#);
    assert!(ask(&strict, &[named("reg.acme/bpf/xdp:v2")]).is_ok());
    assert!(ask(&strict, &[found(&stating("ci", &statement(manifest())))]).is_ok());
    let elsewhere = named("reg.acme/bpf/tc:v1");
    assert!(ask(&scope(r#"{ signed_by = ["ci"], identity = "any" }"#), std::slice::from_ref(&elsewhere)).is_ok());
    assert!(matches!(fault(elsewhere), Fault::OtherRepository { claimed, .. } if claimed == "reg.acme/bpf/tc:v1"));
}

#[test]
fn a_bundle_over_the_chosen_manifest_of_an_index_counts() {
    let policy = scope(r#"{ signed_by = ["ci"] }"#);
    let [index, child] = ["index", "child"].map(|text| Document::new(media::MANIFEST, text.as_bytes().to_vec()));
    let reference = reference();
    let subject = Subject { reference: &reference, top: &index, chosen: Some(&child) };
    for document in [&index, &child] {
        let bundles = [stating("ci", &statement(document.digest())), message("ci", document.bytes())];
        for bundle in bundles {
            assert_eq!(
                decide(&policy, subject, &[found(&bundle)], AgeCheck::Skipped).unwrap().digest(),
                index.digest()
            );
        }
    }
    assert!(decide(&policy, subject, &[found(&message("ci", b"sibling"))], AgeCheck::Skipped).is_err());
}

/// Every forged or damaged bundle, by what was done to it.
fn corpus() -> Vec<(&'static str, Candidate)> {
    let good = || stating("ci", &statement(manifest()));
    let text = |bundle: Value| bundle.to_string().into_bytes();
    let envelope = |change: fn(&mut Value)| found(&changed(good(), |bundle| change(&mut bundle["dsseEnvelope"])));
    let stated = |change: fn(&mut Value)| found(&stating("ci", &changed(statement(manifest()), change)));
    let material = |material: Value| found(&changed(good(), |bundle| bundle["verificationMaterial"] = material));
    let signed_message = |change: fn(&mut Value)| {
        found(&changed(message("ci", b"manifest"), |bundle| change(&mut bundle["messageSignature"])))
    };
    let other_statement = base64(statement(Digest::of(b"other")).to_string());
    let whole = text(good());
    let mut flipped = whole.clone();
    let at = flipped.windows(6).position(|window| window == b"\"sig\":").unwrap() + 20;
    flipped[at] = if flipped[at] == b'A' { b'B' } else { b'A' };
    vec![
        ("another key", found(&stating("other", &statement(manifest())))),
        ("another key with the hint of a trusted one", {
            let hint = good()["verificationMaterial"].clone();
            found(&changed(stating("other", &statement(manifest())), |bundle| bundle["verificationMaterial"] = hint))
        }),
        ("a trusted key with the hint of another", {
            let hint = stating("other", &json!({}))["verificationMaterial"].clone();
            material(hint)
        }),
        ("another subject", found(&stating("ci", &statement(Digest::of(b"other"))))),
        ("the manifest of another tag", {
            let bundle = sign::bundle(&KEYS["ci"], &"reg.acme/bpf/xdp:v1".parse().unwrap(), Digest::of(b"v2")).unwrap();
            found_as(media::BUNDLE, bundle)
        }),
        ("another repository", {
            let bundle = sign::bundle(&KEYS["ci"], &"reg.acme/bpf/tc:v1".parse().unwrap(), manifest()).unwrap();
            found_as(media::BUNDLE, bundle)
        }),
        ("a swapped payload", {
            found(&changed(good(), |bundle| bundle["dsseEnvelope"]["payload"] = other_statement.into()))
        }),
        ("a flipped bit of the signature", found_as(media::BUNDLE, flipped)),
        ("an attestation", stated(|it| it["predicateType"] = "https://slsa.dev/provenance/v1".into())),
        ("another type of statement", stated(|it| it["_type"] = "https://in-toto.io/Statement/v0.1".into())),
        ("no subject", stated(|it| it["subject"] = json!([]))),
        ("a subject by sha512", stated(|it| it["subject"] = json!([{"digest": {"sha512": "00"}}]))),
        (
            "a subject in upper case",
            stated(|it| it["subject"][0]["digest"]["sha256"] = manifest().hex().to_uppercase().into()),
        ),
        ("sixty-five subjects", stated(|it| it["subject"] = json!(vec![json!({"digest": {}}); 65]))),
        ("a statement that is none", found(&stating("ci", &json!("signed")))),
        ("another payload type", found(&enveloped("ci", "text/plain", statement(manifest()).to_string().as_bytes()))),
        ("a payload type changed after signing", envelope(|it| it["payloadType"] = "application/json".into())),
        ("two signatures", envelope(|it| it["signatures"] = json!([it["signatures"][0], it["signatures"][0]]))),
        ("no signature", envelope(|it| it["signatures"] = json!([]))),
        ("a signature that is no base64", envelope(|it| it["signatures"][0]["sig"] = "!".into())),
        ("an empty signature", envelope(|it| it["signatures"][0]["sig"] = "".into())),
        ("an unknown field in the envelope", envelope(|it| it["payload2"] = "".into())),
        ("a field with a long name", {
            found(&changed(good(), |bundle| bundle[format!("\u{1b}[2J{}", "x".repeat(100_000))] = json!(1)))
        }),
        ("truncated", found_as(media::BUNDLE, whole[..whole.len() / 2].to_vec())),
        ("empty", found_as(media::BUNDLE, vec![])),
        ("the wrong media type inside", {
            found(&changed(good(), |bundle| bundle["mediaType"] = "application/vnd.dev.sigstore.bundle.v9+json".into()))
        }),
        ("the wrong media type outside", found_as("text/plain", whole.clone())),
        ("two contents", {
            let more = message("ci", b"manifest")["messageSignature"].clone();
            found(&changed(good(), |bundle| bundle["messageSignature"] = more))
        }),
        ("no content", found(&changed(good(), |bundle| bundle["dsseEnvelope"] = Value::Null))),
        ("no key", material(json!({}))),
        ("a key and a certificate", material(json!({"publicKey": {"hint": ""}, "certificate": {"rawBytes": "AA=="}}))),
        ("a certificate", material(json!({"certificate": {"rawBytes": "AA=="}, "tlogEntries": []}))),
        ("sixty-five log entries", {
            material(json!({"publicKey": {"hint": ""}, "tlogEntries": vec![json!({}); 65]}))
        }),
        ("a field twice", {
            let text = String::from_utf8(whole.clone()).unwrap();
            found_as(media::BUNDLE, text.replacen('{', r#"{"mediaType":"x","#, 1).into_bytes())
        }),
        ("more than a bundle may have", {
            let mut text = whole.clone();
            text.resize(usize::try_from(limits::SIGNATURE).unwrap() + 1, b' ');
            found_as(media::BUNDLE, text)
        }),
        ("a message digest of another manifest", { found(&message("ci", b"other")) }),
        (
            "a message digest by another algorithm",
            signed_message(|it| it["messageDigest"]["algorithm"] = "SHA2_384".into()),
        ),
        ("a short message digest", signed_message(|it| it["messageDigest"]["digest"] = "AAAA".into())),
        ("a message signature of something else", {
            signed_message(|it| it["signature"] = base64(KEYS["ci"].sign(b"other").unwrap()).into())
        }),
        ("a signature of the Notary project", found_as("application/jose+json", b"{}".to_vec())),
        ("a legacy signature with a certificate", {
            let mut candidate = super::good("other");
            candidate
                .annotations
                .insert("dev.sigstore.cosign/certificate".into(), "-----BEGIN CERTIFICATE-----".into());
            candidate
        }),
    ]
}

#[test]
fn every_forged_or_damaged_bundle_is_refused_for_its_own_reason() {
    let policy = scope(r#"{ signed_by = ["ci", "release"] }"#);
    let mut report = String::new();
    for (what, candidate) in corpus() {
        let refusal = ask(&policy, &[candidate]).unwrap_err().to_string();
        let (_, cause) = refusal.split_once("`release`); ").unwrap();
        writeln!(report, "{what}: {}", placeless(cause)).unwrap();
    }
    // With the certificates of `keyless.rs`, twice as many.
    assert!(report.lines().count() >= 40);
    insta::assert_snapshot!(report);
}
