//! Signatures that a certificate vouches for, in both forms: whose count, and what each forged one is refused for.

use bpfd_policy::signer::{RootName, TrustedRoot};
use bytecode_image::keyless::{built_in, policy_log, policy_root};
use serde_json::{Value, json};

use super::authority::{Certified, IDENTITY, ISSUER, SIGNED_AT, Sigstore, Wrong, base64};
use super::*;

pub(crate) static OURS: LazyLock<Sigstore> = LazyLock::new(Sigstore::new);
pub(crate) static OTHERS: LazyLock<Sigstore> = LazyLock::new(Sigstore::new);

/// Roots `/roots/NAME.json` and keys `/keys/NAME.pub`.
pub(crate) struct Files(pub(crate) Value);

impl Named for Files {
    fn key(&mut self, path: &Path) -> Result<PublicKey, KeyFault> {
        key_file(path)
    }

    fn root(&mut self, name: &RootName) -> Result<TrustedRoot, KeyFault> {
        match name {
            RootName::File(_) => policy_root(Ok(self.0.to_string())),
            named => policy_root(Ok(built_in(named).unwrap().1.to_owned())),
        }
    }

    fn log(&mut self, name: &RootName) -> Result<TrustedRoot, KeyFault> {
        match name {
            RootName::File(_) => policy_log(Ok(self.0.to_string())),
            named => policy_log(Ok(built_in(named).unwrap().1.to_owned())),
        }
    }
}

pub(crate) fn trusting(root: Value, signers: &str, require: &str) -> Policy {
    let text = format!("version = 1\n{signers}[[image]]\nscope = \"reg.acme/bpf/**\"\nrequire = [{require}]\n");
    Policy::read(&[PolicyText { file: "policy.toml", text: &text }], Files(root)).unwrap()
}

pub(crate) fn keyless(name: &str, issuer: &str, identity: &str) -> String {
    format!(
        "[[signer]]\nname = \"{name}\"\n\
         keyless = {{ issuer = \"{issuer}\", identity = \"{identity}\", root = \"/roots/acme.json\" }}\n"
    )
}

fn ours() -> Policy {
    let signer = keyless("release", ISSUER, "https://git.acme.example/*/.ci/release.yaml@refs/tags/v*");
    trusting(OURS.root(), &signer, r#"{ signed_by = ["release"] }"#)
}

pub(crate) fn statement(digest: Digest) -> Value {
    json!({
        "_type": "https://in-toto.io/Statement/v1", "subject": [{"digest": {"sha256": digest.hex()}}],
        "predicateType": "https://sigstore.dev/cosign/sign/v1", "predicate": {},
    })
}

/// A statement in its envelope, signed, and what Rekor's entry of kind `dsse` has of it.
pub(crate) fn enveloped(key: &SigningKey, verifier: &str, statement: &Value) -> (Value, Value) {
    let statement = statement.to_string();
    let pae = format!("DSSEv1 28 application/vnd.in-toto+json {} {statement}", statement.len());
    let signature = base64(key.sign(pae.as_bytes()).unwrap());
    let envelope =
        json!({"payload": base64(&statement), "payloadType": media::IN_TOTO, "signatures": [{"sig": signature}]});
    let body = json!({
        "apiVersion": "0.0.1", "kind": "dsse",
        "spec": {
            "envelopeHash": {"algorithm": "sha256", "value": Digest::of(envelope.to_string().as_bytes()).hex()},
            "payloadHash": {"algorithm": "sha256", "value": Digest::of(statement.as_bytes()).hex()},
            "signatures": [{"signature": signature, "verifier": base64(verifier)}],
        },
    });
    (envelope, body)
}

/// A bundle of version 0.3 as `cosign sign` of version 3 makes it, with Rekor's entry of kind `dsse`.
pub(crate) fn bundle(sigstore: &Sigstore, certified: &Certified, statement: &Value, time: i64) -> Value {
    let (envelope, body) = enveloped(&certified.key, &certified.pem(), statement);
    json!({
        "mediaType": media::BUNDLE,
        "verificationMaterial": {
            "certificate": {"rawBytes": base64(&certified.certificate)},
            "tlogEntries": [sigstore.entry(&body, time)],
        },
        "dsseEnvelope": envelope,
    })
}

pub(crate) fn found(bundle: &Value) -> Candidate {
    let payload = bundle.to_string().into_bytes();
    Candidate { over: manifest(), media_type: media::BUNDLE.into(), payload, annotations: BTreeMap::new() }
}

/// A signature of the legacy form, with its certificate and Rekor's entry of kind `hashedrekord` beside it.
fn legacy(sigstore: &Sigstore, certified: &Certified, payload: Vec<u8>, time: i64) -> Candidate {
    let signature = base64(certified.key.sign(&payload).unwrap());
    let body = json!({
        "apiVersion": "0.0.1", "kind": "hashedrekord",
        "spec": {
            "data": {"hash": {"algorithm": "sha256", "value": Digest::of(&payload).hex()}},
            "signature": {"content": signature, "publicKey": {"content": base64(certified.pem())}},
        },
    });
    let text = body.to_string();
    let logged = json!({
        "SignedEntryTimestamp": sigstore.promise(&text, time),
        "Payload": {
            "body": base64(&text), "integratedTime": time, "logIndex": 0, "logID": sigstore.log_id().hex(),
        },
    });
    let annotations = BTreeMap::from([
        (media::ANNOTATION_SIGNATURE.to_owned(), signature),
        ("dev.sigstore.cosign/certificate".to_owned(), certified.pem()),
        ("dev.sigstore.cosign/bundle".to_owned(), logged.to_string()),
    ]);
    Candidate { over: manifest(), media_type: media::SIMPLE_SIGNING.into(), payload, annotations }
}

pub(crate) fn certified() -> Certified {
    OURS.certify(IDENTITY, ISSUER, Wrong::default())
}

pub(crate) fn good_bundle() -> Value {
    bundle(&OURS, &certified(), &statement(manifest()), SIGNED_AT)
}

pub(crate) fn good_legacy() -> Candidate {
    legacy(&OURS, &certified(), payload(&reference(), manifest()).unwrap(), SIGNED_AT)
}

#[test]
fn an_identity_signs_in_both_forms() {
    for candidate in [found(&good_bundle()), good_legacy()] {
        let verified = ask(&ours(), &[candidate]).unwrap();
        assert_eq!(verified.signers().iter().collect::<Vec<_>>(), ["release"]);
    }
}

#[test]
fn an_identity_counts_beside_keys_and_once() {
    let signers = keyless("release", ISSUER, IDENTITY) + "[[signer]]\nname = \"ci\"\nkey = \"/keys/ci.pub\"\n";
    let both = trusting(OURS.root(), &signers, r#"{ signed_by = ["ci", "release"], threshold = 2 }"#);
    assert!(ask(&both, &[good("ci"), found(&good_bundle())]).is_ok());
    let twice = ask(&both, &[good_legacy(), found(&good_bundle())]).unwrap_err();
    assert!(matches!(twice, Reason::NotEnough { valid, .. } if valid.len() == 1));
}

#[test]
fn what_a_root_does_not_have_is_not_demanded_and_what_it_has_is() {
    let require = r#"{ signed_by = ["release"] }"#;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut root = OURS.root();
        change(&mut root);
        trusting(root, &keyless("release", ISSUER, IDENTITY), require)
    };
    let without_sct = OURS.certify(IDENTITY, ISSUER, Wrong { no_sct: true, ..Wrong::default() });
    let candidate = found(&bundle(&OURS, &without_sct, &statement(manifest()), SIGNED_AT));
    assert!(ask(&with(&|_| ()), std::slice::from_ref(&candidate)).is_err());
    assert!(ask(&with(&|root| root["ctlogs"] = json!([])), &[candidate]).is_ok());
}

#[test]
fn evidence_is_judged_again_without_its_certificate() {
    let verified = ask(&ours(), &[found(&good_bundle())]).unwrap();
    let stranger = trusting(
        OURS.root(),
        &keyless("release", ISSUER, "https://git.acme.example/x"),
        r#"{ signed_by = ["release"] }"#,
    );
    assert!(verified.clone().again(&ours()).is_ok());
    assert!(verified.clone().again(&stranger).is_err());
    // The same names by another root are not the same.
    let other = trusting(OTHERS.root(), &keyless("release", ISSUER, IDENTITY), r#"{ signed_by = ["release"] }"#);
    assert!(verified.again(&other).is_err());
}

#[test]
fn the_built_in_roots_are_roots() {
    for root in ["public-good", "github"] {
        let signer = format!(
            "[[signer]]\nname = \"a\"\nkeyless = {{ issuer = \"{ISSUER}\", identity = \"a@b.c\", root = \"{root}\" }}\n"
        );
        let policy = trusting(json!({}), &signer, r#"{ signed_by = ["a"] }"#);
        assert!(ask(&policy, &[found(&good_bundle())]).is_err());
    }
    let signer = keyless("a", ISSUER, IDENTITY);
    let text = format!("version = 1\n{signer}");
    for root in [json!({}), json!([]), json!({"mediaType": "x"})] {
        let read = Policy::read(&[PolicyText { file: "policy.toml", text: &text }], Files(root));
        assert!(read.is_err());
    }
}

/// Every forged or damaged signature, by what was done to it.
fn corpus() -> Vec<(&'static str, Candidate)> {
    let by = |certified: Certified| found(&bundle(&OURS, &certified, &statement(manifest()), SIGNED_AT));
    let wrong = |wrong: Wrong| by(OURS.certify(IDENTITY, ISSUER, wrong));
    let entry = |change: &dyn Fn(&mut Value)| {
        let mut bundle = good_bundle();
        change(&mut bundle["verificationMaterial"]["tlogEntries"][0]);
        found(&bundle)
    };
    let beside = |change: &dyn Fn(&mut BTreeMap<String, String>)| {
        let mut candidate = good_legacy();
        change(&mut candidate.annotations);
        candidate
    };
    let logged = |change: &dyn Fn(&mut Value)| {
        beside(&|annotations| {
            let text = annotations.get_mut("dev.sigstore.cosign/bundle").unwrap();
            let mut value: Value = serde_json::from_str(text).unwrap();
            change(&mut value);
            *text = value.to_string();
        })
    };
    let other = good_bundle();
    let other_entry = &other["verificationMaterial"]["tlogEntries"][0];
    vec![
        (
            "another identity",
            by(OURS.certify("https://git.acme.example/bpf/.ci/test.yaml@refs/tags/v1", ISSUER, Wrong::default())),
        ),
        (
            "an identity with a part more",
            by(OURS.certify("https://git.acme.example/a/b/.ci/release.yaml@refs/tags/v1", ISSUER, Wrong::default())),
        ),
        ("another issuer", by(OURS.certify(IDENTITY, "https://token.evil.example", Wrong::default()))),
        (
            "another authority",
            found(&bundle(
                &OURS,
                &OTHERS.certify(IDENTITY, ISSUER, Wrong::default()),
                &statement(manifest()),
                SIGNED_AT,
            )),
        ),
        ("another log", found(&bundle(&OTHERS, &certified(), &statement(manifest()), SIGNED_AT))),
        (
            "a certificate that had expired",
            found(&bundle(&OURS, &certified(), &statement(manifest()), SIGNED_AT + 3600)),
        ),
        (
            "a certificate that did not exist yet",
            found(&bundle(&OURS, &certified(), &statement(manifest()), SIGNED_AT - 3600)),
        ),
        ("no timestamp of the log of certificates", wrong(Wrong { no_sct: true, ..Wrong::default() })),
        ("a timestamp of another log of certificates", wrong(Wrong { other_ct_log: true, ..Wrong::default() })),
        ("a certificate for servers", wrong(Wrong { purpose: true, ..Wrong::default() })),
        ("a certificate without a name", wrong(Wrong { nameless: true, ..Wrong::default() })),
        ("another image", found(&bundle(&OURS, &certified(), &statement(Digest::of(b"other")), SIGNED_AT))),
        ("an attestation", {
            let mut it = statement(manifest());
            it["predicateType"] = "https://slsa.dev/provenance/v1".into();
            found(&bundle(&OURS, &certified(), &it, SIGNED_AT))
        }),
        ("the entry of another signature", entry(&|it| *it = other_entry.clone())),
        ("the promise of another entry", entry(&|it| it["inclusionPromise"] = other_entry["inclusionPromise"].clone())),
        ("another time", entry(&|it| it["integratedTime"] = (SIGNED_AT + 1).to_string().into())),
        (
            "a wrong root of the proof",
            entry(&|it| it["inclusionProof"]["rootHash"] = base64(Digest::of(b"").bytes()).into()),
        ),
        (
            "a checkpoint of another log",
            entry(&|it| {
                let body = STANDARD.decode(it["canonicalizedBody"].as_str().unwrap()).unwrap();
                let foreign = OTHERS.entry(&serde_json::from_slice(&body).unwrap(), SIGNED_AT);
                it["inclusionProof"]["checkpoint"] = foreign["inclusionProof"]["checkpoint"].clone();
            }),
        ),
        ("no proof", entry(&|it| drop(it.as_object_mut().unwrap().remove("inclusionProof")))),
        ("no entry", {
            let mut bundle = good_bundle();
            bundle["verificationMaterial"]["tlogEntries"] = json!([]);
            found(&bundle)
        }),
        ("nine entries", {
            let mut bundle = good_bundle();
            bundle["verificationMaterial"]["tlogEntries"] = json!(vec![other_entry.clone(); 9]);
            found(&bundle)
        }),
        ("a swapped payload", {
            let mut bundle = good_bundle();
            bundle["dsseEnvelope"]["payload"] = base64(statement(Digest::of(b"other")).to_string()).into();
            found(&bundle)
        }),
        ("a signature of another key", {
            let mut bundle = good_bundle();
            bundle["dsseEnvelope"]["signatures"] = other["dsseEnvelope"]["signatures"].clone();
            found(&bundle)
        }),
        ("a certificate that is none", {
            let mut bundle = good_bundle();
            bundle["verificationMaterial"]["certificate"]["rawBytes"] = "AAAA".into();
            found(&bundle)
        }),
        ("legacy: another payload", {
            let mut candidate = good_legacy();
            candidate.payload = payload(&reference(), Digest::of(b"other")).unwrap();
            candidate
        }),
        (
            "legacy: another image",
            legacy(&OURS, &certified(), payload(&reference(), Digest::of(b"other")).unwrap(), SIGNED_AT),
        ),
        ("legacy: another repository", {
            legacy(&OURS, &certified(), payload(&"reg.acme/bpf/tc:v1".parse().unwrap(), manifest()).unwrap(), SIGNED_AT)
        }),
        ("legacy: another log", legacy(&OTHERS, &certified(), payload(&reference(), manifest()).unwrap(), SIGNED_AT)),
        ("legacy: a certificate that had expired", {
            legacy(&OURS, &certified(), payload(&reference(), manifest()).unwrap(), SIGNED_AT + 3600)
        }),
        ("legacy: no entry", beside(&|it| drop(it.remove("dev.sigstore.cosign/bundle")))),
        (
            "legacy: an entry that is none",
            beside(&|it| drop(it.insert("dev.sigstore.cosign/bundle".into(), "{}".into()))),
        ),
        (
            "legacy: a certificate that is none",
            beside(&|it| drop(it.insert("dev.sigstore.cosign/certificate".into(), "x".into()))),
        ),
        ("legacy: another time", logged(&|it| it["Payload"]["integratedTime"] = json!(SIGNED_AT + 1))),
        ("legacy: another index", logged(&|it| it["Payload"]["logIndex"] = json!(7))),
        (
            "legacy: the promise of another log",
            logged(&|it| {
                it["SignedEntryTimestamp"] = OTHERS.promise(&it["Payload"]["body"].to_string(), SIGNED_AT).into();
            }),
        ),
        ("legacy: a log that is none", logged(&|it| it["Payload"]["logID"] = "../etc".into())),
        ("legacy: a field more", logged(&|it| it["Payload"]["more"] = json!(1))),
    ]
}

#[test]
fn every_forged_or_damaged_certificate_is_refused_for_its_own_reason() {
    let policy = ours();
    let mut report = String::new();
    for (what, candidate) in corpus() {
        let refusal = ask(&policy, &[candidate]).map(|_| what).unwrap_err().to_string();
        let (_, cause) = refusal.split_once("`release`); ").unwrap();
        let logs = [&*OURS, &*OTHERS].map(Sigstore::log_id);
        let cause = logs
            .iter()
            .fold(placeless(cause), |cause, log| cause.replace(&base64(log.bytes()), "LOG").replace(&log.hex(), "LOG"));
        writeln!(report, "{what}: {cause}").unwrap();
    }
    insta::assert_snapshot!(report);
}

#[test]
fn a_certificate_is_nothing_to_a_policy_of_keys() {
    let policy = scope(r#"{ signed_by = ["ci"] }"#);
    for candidate in [found(&good_bundle()), good_legacy()] {
        let Err(Reason::NotEnough { judged, .. }) = ask(&policy, &[candidate]) else { panic!("accepted") };
        assert_eq!(judged[0].outcome, Err(Fault::NoRoot));
    }
}
