//! Requirements beside who signed: attestations, logs of keys, ages, exact names; and how a decision is explained.

use bpfd_policy::image::Applies;
use bytecode_image::verify::evidence;
use serde_json::{Value, json};

use super::authority::{IDENTITY, ISSUER, SIGNED_AT, Sigstore, base64};
use super::keyless::*;
use super::*;

const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
const DAY: u64 = 24 * 60 * 60;

fn attesting(predicate: &str, digest: Digest) -> Value {
    let mut statement = statement(digest);
    statement["predicateType"] = predicate.into();
    statement
}

/// A bundle of a key, with the entry of a log or without.
fn by_key(key: &str, statement: &Value, log: Option<(&Sigstore, i64)>) -> Value {
    let key = &KEYS[key];
    let (envelope, body) = enveloped(key, &key.public().to_pem(), statement);
    let entries: Vec<Value> = log.into_iter().map(|(log, time)| log.entry(&body, time)).collect();
    json!({
        "mediaType": media::BUNDLE,
        "verificationMaterial": {
            "publicKey": {"hint": base64(key.public().fingerprint().bytes())}, "tlogEntries": entries,
        },
        "dsseEnvelope": envelope,
    })
}

/// A legacy signature of a key, with Rekor's entry beside it.
fn logged_legacy(key: &str, log: &Sigstore) -> Candidate {
    let mut candidate = good(key);
    let signature = candidate.annotations[media::ANNOTATION_SIGNATURE].clone();
    let body = json!({
        "apiVersion": "0.0.1", "kind": "hashedrekord",
        "spec": {
            "data": {"hash": {"algorithm": "sha256", "value": Digest::of(&candidate.payload).hex()}},
            "signature": {"content": signature, "publicKey": {"content": base64(KEYS[key].public().to_pem())}},
        },
    });
    let text = body.to_string();
    let logged = json!({
        "SignedEntryTimestamp": log.promise(&text, SIGNED_AT),
        "Payload": {"body": base64(&text), "integratedTime": SIGNED_AT, "logIndex": 0, "logID": log.log_id().hex()},
    });
    candidate.annotations.insert("dev.sigstore.cosign/bundle".to_owned(), logged.to_string());
    candidate
}

const LOGGED: &str = "[[signer]]\nname = \"ci\"\nkey = \"/keys/ci.pub\"\nlog = \"require\"\nroot = \"/roots/acme.json\"\n\
    [[signer]]\nname = \"release\"\nkey = \"/keys/release.pub\"\n";

fn at(policy: &Policy, candidates: &[Candidate], now: u64) -> Result<Verified, Reason> {
    let reference = reference();
    let subject = Subject { reference: &reference, top: &document(), chosen: None };
    decide(policy, subject, candidates, AgeCheck::At(now)).map_err(|refusal| refusal.reason)
}

/// The faults of an image's signatures.
fn faults(refused: Result<Verified, Reason>) -> Vec<String> {
    match refused.unwrap_err() {
        Reason::NotEnough { judged, .. } | Reason::Unattested { judged, .. } => {
            judged.into_iter().filter_map(|judged| judged.outcome.err()).map(|fault| fault.to_string()).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_attestation_counts_by_its_type_and_its_signer_and_is_no_signature() {
    let attested = scope(&format!("{{ attested_by = [\"ci\"], predicate = \"{PROVENANCE}\" }}"));
    let provenance = found(&by_key("ci", &attesting(PROVENANCE, manifest()), None));
    let verified = ask(&attested, std::slice::from_ref(&provenance)).unwrap();
    assert!(verified.signers().is_empty(), "who attests something does not sign the image");
    let of = |candidate: Candidate| faults(ask(&attested, &[candidate]));
    assert_eq!(of(good("ci")), ["`ci` made it; it is a signature, not an attestation"]);
    assert_eq!(
        of(found(&by_key("ci", &attesting("https://spdx.dev/Document", manifest()), None))),
        ["`ci` made it; it is an attestation of type `https://spdx.dev/Document`"]
    );
    assert_eq!(
        of(found(&by_key("other", &attesting(PROVENANCE, manifest()), None))),
        ["no key of these signers made it"]
    );
    let elsewhere = Digest::of(b"other");
    assert_eq!(
        of(found(&by_key("ci", &attesting(PROVENANCE, elsewhere), None))),
        [format!("`ci` signed another image, {elsewhere}")]
    );
    let none = ask(&attested, &[]).unwrap_err().to_string();
    assert_eq!(
        none,
        format!("0 of 1 required attestations of type `{PROVENANCE}` count (scope `reg.acme/bpf/**`, signers `ci`)")
    );
    // Both may be asked for, and neither stands for the other.
    let both =
        scope(&format!("{{ signed_by = [\"ci\"] }}, {{ attested_by = [\"ci\"], predicate = \"{PROVENANCE}\" }}"));
    assert!(ask(&both, &[good("ci"), provenance.clone()]).is_ok());
    assert!(matches!(ask(&both, &[provenance]), Err(Reason::NotEnough { .. })));
    assert!(matches!(ask(&both, &[good("ci")]), Err(Reason::Unattested { .. })));
}

#[test]
fn an_attestation_may_have_a_certificate_and_a_threshold() {
    let signers = keyless("people", ISSUER, IDENTITY) + "[[signer]]\nname = \"ci\"\nkey = \"/keys/ci.pub\"\n";
    let require = format!("{{ attested_by = [\"ci\", \"people\"], predicate = \"{PROVENANCE}\", threshold = 2 }}");
    let policy = trusting(OURS.root(), &signers, &require);
    let one = found(&by_key("ci", &attesting(PROVENANCE, manifest()), None));
    let other = found(&bundle(&OURS, &certified(), &attesting(PROVENANCE, manifest()), SIGNED_AT));
    assert!(ask(&policy, &[one.clone(), other]).is_ok());
    assert!(matches!(ask(&policy, &[one.clone(), one]), Err(Reason::Unattested { valid, .. }) if valid.len() == 1));
}

#[test]
fn a_key_that_must_use_a_log_counts_only_with_an_entry_of_that_log() {
    let policy = trusting(OURS.root(), LOGGED, r#"{ signed_by = ["ci"] }"#);
    let by = |log: Option<(&Sigstore, i64)>| found(&by_key("ci", &statement(manifest()), log));
    for candidate in [by(Some((&OURS, SIGNED_AT))), logged_legacy("ci", &OURS)] {
        assert_eq!(ask(&policy, &[candidate]).unwrap().signers().iter().collect::<Vec<_>>(), ["ci"]);
    }
    let why = |candidate: Candidate| {
        let told = faults(ask(&policy, &[candidate])).remove(0);
        let start = "`ci` made it, and the transparency log does not have it: ";
        told.strip_prefix(start).unwrap_or_else(|| panic!("{told}")).to_owned()
    };
    assert_eq!(why(by(None)), "it has no entry of a transparency log");
    assert_eq!(why(good("ci")), "it has no entry of a transparency log");
    for other in [by(Some((&OTHERS, SIGNED_AT))), logged_legacy("ci", &OTHERS)] {
        assert!(!why(other).is_empty());
    }
    // The entry of another signature of the same key.
    let mut swapped = by_key("ci", &statement(manifest()), None);
    let foreign = by_key("ci", &statement(Digest::of(b"other")), Some((&OURS, SIGNED_AT)));
    swapped["verificationMaterial"] = foreign["verificationMaterial"].clone();
    assert!(!why(found(&swapped)).is_empty());
    // The same key under a name that asks for no log is the same signer.
    let twice = LOGGED.to_owned() + "[[signer]]\nname = \"again\"\nkey = \"/keys/ci.pub\"\n";
    let two = trusting(OURS.root(), &twice, r#"{ signed_by = ["ci", "again", "release"], threshold = 2 }"#);
    let both = [by(Some((&OURS, SIGNED_AT))), by(None)];
    assert!(matches!(ask(&two, &both), Err(Reason::NotEnough { valid, .. }) if valid.len() == 1));
    assert!(ask(&two, &[by(None), good("release")]).is_ok());
}

#[test]
fn a_signature_counts_until_it_is_too_old_and_whenever_ages_are_not_looked_at() {
    let signers = LOGGED.to_owned() + &keyless("people", ISSUER, IDENTITY);
    let policy = trusting(
        OURS.root(),
        &signers,
        "{ signed_by = [\"ci\", \"people\"], identity = \"any\" }]\nmax_signature_age = \"30d\"\n#",
    );
    let made = u64::try_from(SIGNED_AT).unwrap();
    let key = found(&by_key("ci", &statement(manifest()), Some((&OURS, SIGNED_AT))));
    for candidate in [key, found(&good_bundle()), good_legacy()] {
        let one = std::slice::from_ref(&candidate);
        assert!(at(&policy, one, made).is_ok());
        assert!(at(&policy, one, made + 30 * DAY).is_ok());
        // A clock that is behind makes nothing older.
        assert!(at(&policy, one, made - DAY).is_ok());
        let told = faults(at(&policy, one, made + 31 * DAY)).remove(0);
        assert!(told.ends_with("made it 31 days ago; at most 30d are allowed"), "{told}");
        let verified = ask(&policy, one).unwrap();
        assert!(verified.again(&policy).is_ok(), "ages are not looked at later either");
    }
    let judged_young = at(&policy, &[found(&good_bundle())], made).unwrap();
    assert!(judged_young.again(&policy).is_ok());
}

#[test]
fn an_exact_name_is_that_of_the_reference_with_its_tag() {
    let policy = scope(r#"{ signed_by = ["ci"], identity = "exact" }"#);
    assert!(ask(&policy, &[good("ci")]).is_ok());
    let of = |name: &str| faults(ask(&policy, &[signed("ci", name, manifest())])).remove(0);
    assert_eq!(of("reg.acme/bpf/xdp:v2"), "`ci` signed this image as \"reg.acme/bpf/xdp:v2\", which is another tag");
    assert_eq!(
        of("reg.acme/bpf/tc:v1"),
        "`ci` signed this image as \"reg.acme/bpf/tc:v1\", which is another repository"
    );
    let nameless = found(&by_key("ci", &statement(manifest()), None));
    assert_eq!(faults(ask(&policy, &[nameless])), ["`ci` signed the digest of this image and no tag"]);
    // By digest nobody chose the tag.
    let by_digest = reference().by_digest(manifest());
    assert!(ask_for(&policy, &by_digest, &[signed("ci", "reg.acme/bpf/xdp:v2", manifest())]).is_ok());
}

#[test]
fn a_decision_is_explained_section_by_section_and_requirement_by_requirement() {
    let policy = policy(&format!(
        "[[image]]\nscope = \"reg.acme\"\nunsigned = \"allow\"\n\
         [[image]]\nscope = \"reg.acme/other\"\nunsigned = \"allow\"\n\
         [[image]]\nscope = \"reg.acme/bpf/**\"\nrequire_digest = true\n\
         require = [{{ signed_by = [\"ci\", \"release\"], threshold = 2 }}, \
         {{ attested_by = [\"ci\"], predicate = \"{PROVENANCE}\" }}, {{ digest = [\"{}\"] }}]\n",
        manifest()
    ));
    let (reference, document) = (reference(), document());
    let subject = Subject { reference: &reference, top: &document, chosen: None };
    let mut report = String::new();
    for candidates in [vec![good("ci"), good("release"), good("other")], vec![]] {
        let evidence = evidence(&policy, subject, &candidates);
        for outcome in policy.explain(&evidence, AgeCheck::Skipped) {
            writeln!(report, "{}: {}", outcome.scope, outcome.applies).unwrap();
            assert_eq!(outcome.applies == Applies::Yes, !outcome.requirements.is_empty());
            for checked in outcome.requirements {
                let holds = if checked.holds { "holds" } else { "FAILS" };
                writeln!(report, "  {holds}  {}\n         {}", checked.requirement, checked.why).unwrap();
            }
        }
        report.push('\n');
    }
    insta::assert_snapshot!(report.replace(&manifest().to_string(), "DIGEST"));
}

proptest! {
    /// What is explained is what is decided: an image passes exactly if there is a section for it and all of its rows hold.
    #[test]
    fn the_explanation_and_the_decision_agree(
        signatures in proptest::collection::vec(prop::sample::select(vec!["ci", "release", "other"]), 0..4),
        attested in any::<bool>(), pinned in any::<bool>(), covered in any::<bool>(), by_digest in any::<bool>(),
        digest_required in any::<bool>(), threshold in 1_usize..=2,
    ) {
        let digest = if pinned { manifest() } else { Digest::of(b"other") };
        let place = if covered { "reg.acme/bpf/**" } else { "reg.acme/else/**" };
        let policy = policy(&format!(
            "[[image]]\nscope = \"{place}\"\nrequire_digest = {digest_required}\n\
             require = [{{ signed_by = [\"ci\", \"release\"], threshold = {threshold} }}, {{ digest = [\"{digest}\"] }}, \
             {{ attested_by = [\"ci\"], predicate = \"{PROVENANCE}\" }}]\n"
        ));
        let mut candidates: Vec<Candidate> = signatures.into_iter().map(good).collect();
        candidates.extend(attested.then(|| found(&by_key("ci", &attesting(PROVENANCE, manifest()), None))));
        let reference = if by_digest { reference().by_digest(manifest()) } else { reference() };
        let document = document();
        let evidence = evidence(&policy, Subject { reference: &reference, top: &document, chosen: None }, &candidates);
        let explained = policy.explain(&evidence, AgeCheck::Skipped);
        let passes = explained
            .iter()
            .any(|outcome| outcome.applies == Applies::Yes && outcome.requirements.iter().all(|row| row.holds));
        prop_assert_eq!(passes, policy.judge(&evidence, AgeCheck::Skipped).is_ok());
    }
}
