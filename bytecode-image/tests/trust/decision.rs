//! What a policy decides about an image and its signatures.

use super::*;

#[test]
fn two_names_for_one_key_are_one_key() {
    let text = "version = 1\n\
        [[signer]]\nname = \"a\"\nkey = \"/keys/ci.pub\"\n[[signer]]\nname = \"b\"\nkey = \"/other/ci.pub\"\n\
        [[image]]\nscope = \"reg.acme\"\nrequire = [{ signed_by = [\"a\", \"b\"] }]\n";
    // The text of a policy cannot ask for two of one key; a deserialised one could.
    let mut policy = Policy::read(&[PolicyText { file: "p", text }], key_file).unwrap();
    let Trust::All(requirements) = &mut policy.images[0].trust else { panic!("requirements") };
    let Requirement::Signed { threshold, .. } = &mut requirements[0] else { panic!("signed") };
    *threshold = 2;
    let twice = [good("ci"), signed("ci", "reg.acme/bpf/xdp:v2", manifest())];
    assert!(matches!(ask(&policy, &twice), Err(Reason::NotEnough { valid, .. }) if valid.len() == 1));
}

#[test]
fn a_signed_image_passes_with_its_scope_and_signers() {
    let verified = ask(&scope(r#"{ signed_by = ["ci", "release"] }"#), &[good("other"), good("release")]).unwrap();
    assert_eq!(verified.digest(), manifest());
    assert_eq!(verified.reference(), &reference());
    assert_eq!(verified.scope().to_string(), "reg.acme/bpf/**");
    assert_eq!(verified.signers().iter().collect::<Vec<_>>(), ["release"]);
}

#[test]
fn nothing_passes_without_a_scope() {
    assert!(matches!(ask(&Policy::default(), &[good("ci")]), Err(Reason::NoScope)));
    let elsewhere = policy("[[image]]\nscope = \"reg.acme/other/**\"\nunsigned = \"allow\"\n");
    assert!(matches!(ask(&elsewhere, &[good("ci")]), Err(Reason::NoScope)));
}

#[test]
fn only_the_most_specific_scope_counts() {
    let policy = policy(
        "[[image]]\nscope = \"reg.acme/bpf/xdp\"\nrequire = [{ signed_by = [\"ci\"] }]\n\
         [[image]]\nscope = \"reg.acme/bpf/xdp:dev\"\nunsigned = \"allow\"\n\
         [[image]]\nscope = \"reg.acme\"\nunsigned = \"allow\"\n",
    );
    let at = |text: &str| ask_for(&policy, &text.parse().unwrap(), &[]);
    assert_eq!(at("reg.acme/bpf/tc:v1").unwrap().scope().to_string(), "reg.acme");
    assert!(matches!(at("reg.acme/bpf/xdp:v1"), Err(Reason::Unsigned { .. })));
    assert!(at("reg.acme/bpf/xdp:dev").is_ok());
    let tag_beside_digest = format!("reg.acme/bpf/xdp:dev@{}", manifest());
    assert!(matches!(at(&tag_beside_digest), Err(Reason::Unsigned { .. })), "the tag was resolved by nobody");
}

#[test]
fn all_requirements_must_hold_and_thresholds_count_keys() {
    let both = scope(r#"{ signed_by = ["ci", "release"], threshold = 2 }"#);
    assert!(ask(&both, &[good("ci"), good("release")]).is_ok());
    assert!(matches!(ask(&both, &[good("ci"), good("ci")]), Err(Reason::NotEnough { valid, .. }) if valid.len() == 1));
    let each = scope(r#"{ signed_by = ["ci"] }, { signed_by = ["release"] }"#);
    assert_eq!(ask(&each, &[good("ci"), good("release")]).unwrap().signers().len(), 2);
    assert!(ask(&each, &[good("ci")]).is_err());
    assert!(ask(&each, &[good("release")]).is_err());
    let pinned = format!("{{ signed_by = [\"ci\"] }}, {{ digest = [\"{}\"] }}", manifest());
    assert!(ask(&scope(&pinned), &[good("ci")]).is_ok());
    assert!(matches!(ask(&scope(&pinned), &[]), Err(Reason::Unsigned { .. })));
    let elsewhere = pinned.replace(&manifest().to_string(), &Digest::of(b"").to_string());
    assert!(matches!(ask(&scope(&elsewhere), &[good("ci")]), Err(Reason::NotPinned { allowed: 1, .. })));
}

#[test]
fn a_digest_is_required_where_policy_says_so_and_must_be_the_resolved_one() {
    let policy = policy("[[image]]\nscope = \"reg.acme\"\nunsigned = \"allow\"\nrequire_digest = true\n");
    assert!(matches!(ask(&policy, &[]), Err(Reason::DigestRequired { .. })));
    assert!(ask_for(&policy, &reference().by_digest(manifest()), &[]).is_ok());
    let other = reference().by_digest(Digest::of(b"other"));
    assert!(matches!(ask_for(&policy, &other, &[]), Err(Reason::OtherDigest)));
}

#[test]
fn a_signature_over_the_chosen_manifest_of_an_index_counts() {
    let policy = scope(r#"{ signed_by = ["ci"] }"#);
    let [index, child] = ["index", "child"].map(|text: &str| Document::new(media::MANIFEST, text.as_bytes().to_vec()));
    let reference = reference();
    let subject = Subject { reference: &reference, top: &index, chosen: Some(&child) };
    for over in [index.digest(), child.digest()] {
        let verified =
            decide(&policy, subject, &[signed("ci", "reg.acme/bpf/xdp:v1", over)], AgeCheck::Skipped).unwrap();
        assert_eq!(verified.digest(), index.digest());
    }
    assert!(
        decide(&policy, subject, &[signed("ci", "reg.acme/bpf/xdp:v1", Digest::of(b"sibling"))], AgeCheck::Skipped)
            .is_err()
    );
}

#[test]
fn a_signature_by_an_unknown_key_does_not_count() {
    assert!(matches!(fault(good("other")), Fault::WrongSignature));
}

#[test]
fn a_signature_over_another_payload_does_not_count() {
    let mut candidate = good("ci");
    candidate.payload = payload(&reference(), Digest::of(b"other")).unwrap();
    assert!(matches!(fault(candidate), Fault::WrongSignature));
}

#[test]
fn a_signature_of_another_image_does_not_count() {
    let other = Digest::of(b"other");
    let fault = fault(signed("ci", "reg.acme/bpf/xdp:v1", other));
    assert!(matches!(fault, Fault::OtherImage { signer, claimed } if signer == "ci" && claimed == other));
}

#[test]
fn a_signature_for_another_repository_counts_only_where_policy_says_any() {
    for name in ["reg.acme/bpf/tc:v1", "mirror.acme/bpf/xdp:v1", "reg.acme:443/bpf/xdp:v1"] {
        let candidate = signed("ci", name, manifest());
        assert!(matches!(fault(candidate.clone()), Fault::OtherRepository { claimed, .. } if claimed == name));
        assert!(ask(&scope(r#"{ signed_by = ["ci"], identity = "any" }"#), &[candidate]).is_ok());
    }
    for name in ["reg.acme/bpf/xdp:v2", "reg.acme/bpf/xdp"] {
        assert!(ask(&scope(r#"{ signed_by = ["ci"] }"#), &[signed("ci", name, manifest())]).is_ok(), "{name}");
    }
    let nameless = String::from_utf8(payload(&reference(), manifest()).unwrap()).unwrap();
    let nameless = nameless.replace("reg.acme/bpf/xdp:v1", "\\u001b[2J");
    assert!(matches!(fault(candidate("ci", nameless.into_bytes())), Fault::OtherRepository { .. }));
}

#[test]
fn a_candidate_without_a_usable_signature_does_not_count() {
    let with = |text: Option<&str>| {
        let mut candidate = good("ci");
        candidate.annotations.clear();
        candidate.annotations.extend(text.map(|text| (media::ANNOTATION_SIGNATURE.to_owned(), text.to_owned())));
        fault(candidate)
    };
    assert!(matches!(with(None), Fault::NoSignature));
    assert!(matches!(with(Some("not base64!")), Fault::Base64));
    assert!(matches!(with(Some("")), Fault::WrongSignature));
}

#[test]
fn a_trusted_signature_over_something_else_does_not_count() {
    assert!(matches!(fault(candidate("ci", b"any text".to_vec())), Fault::Claim { .. }));
}

#[test]
fn an_oversized_payload_does_not_count_even_if_signed() {
    let limit = usize::try_from(limits::SIGNATURE).unwrap();
    let mut text = payload(&reference(), manifest()).unwrap();
    text.resize(limit, b' ');
    assert!(ask(&scope(r#"{ signed_by = ["ci"] }"#), &[candidate("ci", text.clone())]).is_ok());
    text.push(b' ');
    assert!(matches!(fault(candidate("ci", text)), Fault::PayloadTooLarge(length) if length == limit + 1));
}

#[test]
fn thirty_three_signatures_are_refused_as_a_whole() {
    let policy = scope(r#"{ signed_by = ["ci"] }"#);
    let mut candidates = vec![good("other"); limits::SIGNATURES - 1];
    candidates.push(good("ci"));
    assert!(ask(&policy, &candidates).is_ok());
    candidates.push(good("ci"));
    assert!(matches!(ask(&policy, &candidates), Err(Reason::TooManySignatures { found: 33 })));
}

#[test]
fn every_refusal_says_what_why_and_what_to_do() {
    let one = scope(r#"{ signed_by = ["ci"] }"#);
    let both = scope(r#"{ signed_by = ["ci", "release"], threshold = 2 }"#);
    let digest_only = policy("[[image]]\nscope = \"reg.acme\"\nunsigned = \"allow\"\nrequire_digest = true\n");
    let pinned = scope(&format!("{{ digest = [\"{}\"] }}", Digest::of(b"")));
    let foreign = signed("ci", "mirror.acme/bpf/xdp:v1", manifest());
    let mut report = String::new();
    for (policy, candidates) in [
        (&Policy::default(), vec![]),
        (&digest_only, vec![]),
        (&pinned, vec![]),
        (&one, vec![]),
        (&both, vec![]),
        (&one, vec![good("ci"); 33]),
        (&one, vec![good("other")]),
        (&one, vec![good("other"); 6]),
        (&both, vec![good("ci"), good("other"), signed("release", "reg.acme/bpf/xdp:v1", Digest::of(b""))]),
        (&one, vec![foreign]),
        (&one, vec![candidate("ci", b"{}".to_vec())]),
    ] {
        let reference = reference();
        let refusal = decide(
            policy,
            Subject { reference: &reference, top: &document(), chosen: None },
            &candidates,
            AgeCheck::Skipped,
        )
        .unwrap_err();
        let cause = refusal.source().unwrap();
        writeln!(report, "error: {refusal}\ncause: {}\nhint: {}\n", chain(cause), refusal.hint()).unwrap();
    }
    insta::assert_snapshot!(report);
}

#[derive(Debug, Clone)]
enum Kind {
    Good(&'static str),
    OtherImage(&'static str),
    OtherName(&'static str),
    Flipped(&'static str, usize),
}

fn kind() -> impl Strategy<Value = Kind> {
    let key = || prop::sample::select(vec!["ci", "release", "other"]);
    prop_oneof![
        key().prop_map(Kind::Good),
        key().prop_map(Kind::OtherImage),
        key().prop_map(Kind::OtherName),
        (key(), 0_usize..512).prop_map(|(key, bit)| Kind::Flipped(key, bit)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// The model: distinct trusted keys among the good ones, compared with the threshold.
    #[test]
    fn the_decision_equals_the_count_of_distinct_trusted_keys(
        kinds in proptest::collection::vec(kind(), 0..6),
        threshold in 1_usize..=2,
    ) {
        let policy = scope(&format!("{{ signed_by = [\"ci\", \"release\"], threshold = {threshold} }}"));
        let candidates: Vec<Candidate> = kinds.iter().map(|kind| match kind {
            Kind::Good(key) => good(key),
            Kind::OtherImage(key) => signed(key, "reg.acme/bpf/xdp:v1", Digest::of(b"other")),
            Kind::OtherName(key) => signed(key, "reg.acme/bpf/tc:v1", manifest()),
            Kind::Flipped(key, bit) => {
                let mut candidate = good(key);
                let text = candidate.annotations.get_mut(media::ANNOTATION_SIGNATURE).unwrap();
                let mut signature = STANDARD.decode(&*text).unwrap();
                let at = bit % (signature.len() * 8);
                signature[at / 8] ^= 1 << (at % 8);
                *text = STANDARD.encode(signature);
                candidate
            }
        }).collect();
        let trusted = ["ci", "release"];
        let counted: std::collections::BTreeSet<&str> = kinds.iter().filter_map(|kind| match kind {
            Kind::Good(key) if trusted.contains(key) => Some(*key),
            _ => None,
        }).collect();
        match ask(&policy, &candidates) {
            Ok(verified) => {
                prop_assert!(counted.len() >= threshold);
                prop_assert_eq!(verified.signers().iter().map(String::as_str).collect::<std::collections::BTreeSet<_>>(), counted);
            }
            Err(_) => prop_assert!(counted.len() < threshold),
        }
    }
}
