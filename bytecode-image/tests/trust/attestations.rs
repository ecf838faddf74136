//! Attestations of cosign's legacy form: DSSE envelopes at the tag `sha256-<hex>.att`, judged as the bundles that say the same.

use serde_json::{Value, json};

use super::authority::{Certified, IDENTITY, ISSUER, SIGNED_AT, Sigstore, base64};
use super::keyless::{OTHERS, OURS, certified, enveloped, keyless, trusting};
use super::*;

const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
/// The version of statements that cosign 2 writes at this tag.
const OLDER: &str = "https://in-toto.io/Statement/v0.1";

fn statement(kind: &str, predicate: &str, digest: Digest) -> Value {
    json!({
        "_type": kind, "subject": [{"name": "reg.acme/bpf/xdp", "digest": {"sha256": digest.hex()}}],
        "predicateType": predicate, "predicate": {"builder": "ci"},
    })
}

fn layer(envelope: &Value, annotations: &[(&str, String)]) -> Candidate {
    let fixed = [(media::ANNOTATION_SIGNATURE, String::new()), ("predicateType", PROVENANCE.to_owned())];
    let annotations = fixed.iter().chain(annotations).map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    let payload = envelope.to_string().into_bytes();
    Candidate { over: manifest(), media_type: media::ENVELOPE.to_owned(), payload, annotations }
}

fn by_key(key: &str, statement: &Value) -> Candidate {
    layer(&enveloped(&KEYS[key], &KEYS[key].public().to_pem(), statement).0, &[])
}

/// The annotation in which cosign has Rekor's entry.
fn logged(log: &Sigstore, body: &Value) -> (&'static str, String) {
    let text = body.to_string();
    let entry = json!({
        "SignedEntryTimestamp": log.promise(&text, SIGNED_AT),
        "Payload": {"body": base64(&text), "integratedTime": SIGNED_AT, "logIndex": 0, "logID": log.log_id().hex()},
    });
    (media::ANNOTATION_LOG, entry.to_string())
}

fn by_identity(log: &Sigstore, certified: &Certified, statement: &Value) -> Candidate {
    let (envelope, body) = enveloped(&certified.key, &certified.pem(), statement);
    layer(&envelope, &[(media::ANNOTATION_CERTIFICATE, certified.pem()), logged(log, &body)])
}

fn attested_by_ci() -> Policy {
    scope(&format!("{{ attested_by = [\"ci\"], predicate = \"{PROVENANCE}\" }}"))
}

fn faults(refused: Result<Verified, Reason>) -> Vec<String> {
    match refused.unwrap_err() {
        Reason::NotEnough { judged, .. } | Reason::Unattested { judged, .. } => {
            judged.into_iter().filter_map(|judged| judged.outcome.err()).map(|fault| fault.to_string()).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_attestation_at_the_tag_for_them_counts_where_a_policy_asks_for_its_type() {
    for kind in ["https://in-toto.io/Statement/v1", OLDER] {
        let good = by_key("ci", &statement(kind, PROVENANCE, manifest()));
        assert!(ask(&attested_by_ci(), std::slice::from_ref(&good)).is_ok(), "{kind}");
        let signed = scope("{ signed_by = [\"ci\"] }");
        assert!(matches!(ask(&signed, &[good]), Err(Reason::NotEnough { .. })), "an attestation is no signature");
    }
}

#[test]
fn an_identity_attests_in_the_legacy_form() {
    let signers = keyless("people", ISSUER, IDENTITY);
    let policy =
        trusting(OURS.root(), &signers, &format!("{{ attested_by = [\"people\"], predicate = \"{PROVENANCE}\" }}"));
    let stated = statement("https://in-toto.io/Statement/v1", PROVENANCE, manifest());
    let good = by_identity(&OURS, &certified(), &stated);
    ask(&policy, std::slice::from_ref(&good)).unwrap();
    // The entry of another log, none at all, and an entry about another statement.
    assert!(ask(&policy, &[by_identity(&OTHERS, &certified(), &stated)]).is_err());
    let mut without = good.clone();
    without.annotations.remove(media::ANNOTATION_LOG);
    assert_eq!(
        faults(ask(&policy, &[without])),
        ["it cannot be read: no entry of a log and no timestamp is beside the signature"]
    );
    let other = by_identity(&OURS, &certified(), &statement(OLDER, PROVENANCE, manifest()));
    let mut swapped = good;
    swapped.annotations = other.annotations;
    assert!(ask(&policy, &[swapped]).is_err());
}

#[test]
fn a_forged_or_damaged_attestation_is_refused_for_its_own_reason() {
    let good = || by_key("ci", &statement(OLDER, PROVENANCE, manifest()));
    let of = |candidate: Candidate| faults(ask(&attested_by_ci(), &[candidate])).remove(0);
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut candidate = good();
        let mut envelope: Value = serde_json::from_slice(&candidate.payload).unwrap();
        change(&mut envelope);
        candidate.payload = envelope.to_string().into_bytes();
        of(candidate)
    };
    let raw = |payload: &[u8]| of(Candidate { payload: payload.to_vec(), ..good() });
    assert_eq!(of(by_key("other", &statement(OLDER, PROVENANCE, manifest()))), "no key of these signers made it");
    let elsewhere = Digest::of(b"other");
    assert_eq!(
        of(by_key("ci", &statement(OLDER, PROVENANCE, elsewhere))),
        format!("`ci` signed another image, {elsewhere}")
    );
    assert_eq!(
        of(by_key("ci", &statement(OLDER, "https://spdx.dev/Document", manifest()))),
        "`ci` made it; it is an attestation of type `https://spdx.dev/Document`"
    );
    assert_eq!(changed(&|envelope| envelope["payload"] = base64(b"{}").into()), "no key of these signers made it");
    let mut reasons = [
        changed(&|envelope| envelope["payloadType"] = "text/plain".into()),
        changed(&|envelope| envelope["signatures"] = json!([])),
        changed(&|envelope| envelope["more"] = json!(1)),
        raw(b"not JSON"),
        // A second document behind the first, and one that would close the bundle around it.
        raw(b"{} {}"),
        raw(br#"{"payload":""},"mediaType":"x""#),
        // A field twice: readers disagree about which counts.
        raw(String::from_utf8(good().payload).unwrap().replacen('{', "{\"payloadType\":\"text/plain\",", 1).as_bytes()),
        of(by_key("ci", &statement("https://in-toto.io/Statement/v2", PROVENANCE, manifest()))),
    ];
    reasons.iter_mut().for_each(|reason| *reason = placeless(reason));
    insta::assert_snapshot!(reasons.join("\n"));
}
