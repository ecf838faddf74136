//! References and scopes against `spec/vectors`, and properties that hold for any text.

use bpfd_policy::{
    reference::{MAX_NAME, MAX_REFERENCE, Reference, ReferenceError, in_full as chain},
    scope::{Scope, most_specific},
};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Refused {
    text: String,
    error: String,
}

#[derive(Deserialize)]
struct References {
    parsed: Vec<Parsed>,
    refused: Vec<Refused>,
}

#[derive(Deserialize)]
struct Parsed {
    text: String,
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
    canonical: String,
}

#[test]
fn references_parse_as_the_vectors_say() {
    let vectors: References = serde_json::from_str(include_str!("../../../spec/vectors/references.json")).unwrap();
    assert!(vectors.parsed.len() >= 10 && vectors.refused.len() >= 30);
    for Parsed { text, registry, repository, tag, digest, canonical } in vectors.parsed {
        let reference: Reference = text.parse().unwrap();
        assert_eq!(reference.registry().to_string(), registry, "{text}");
        assert_eq!(reference.repository(), repository, "{text}");
        assert_eq!(reference.tag(), tag.as_deref(), "{text}");
        assert_eq!(reference.digest().map(|digest| digest.to_string()), digest, "{text}");
        assert_eq!(reference.to_string(), canonical, "{text}");
        assert_eq!(canonical.parse(), Ok(reference), "{text}");
    }
    for Refused { text, error } in vectors.refused {
        assert_eq!(chain(&text.parse::<Reference>().unwrap_err()), error, "{text}");
    }
}

#[test]
fn lengths_are_bounded_at_the_last_byte() {
    let name = |length: usize| format!("r/{}", "a".repeat(length - 2));
    assert!(name(MAX_NAME).parse::<Reference>().is_ok());
    assert_eq!(name(MAX_NAME + 1).parse::<Reference>(), Err(ReferenceError::NameTooLong(MAX_NAME + 1)));
    assert!(format!("r/a:{}", "t".repeat(128)).parse::<Reference>().is_ok());
    assert_eq!(format!("r/a:{}", "t".repeat(129)).parse::<Reference>(), Err(ReferenceError::Tag("t".repeat(129))));
    assert_eq!("x".repeat(MAX_REFERENCE + 1).parse::<Reference>(), Err(ReferenceError::TooLong(MAX_REFERENCE + 1)));
}

#[derive(Deserialize)]
struct Scopes {
    choices: Vec<Choice>,
    refused: Vec<Refused>,
}

#[derive(Deserialize)]
struct Choice {
    scopes: Vec<Scope>,
    reference: Reference,
    choice: Option<Scope>,
}

#[test]
fn the_most_specific_scope_applies_as_the_vectors_say() {
    let vectors: Scopes = serde_json::from_str(include_str!("../../../spec/vectors/scopes.json")).unwrap();
    assert!(vectors.choices.len() >= 17 && vectors.refused.len() >= 8);
    for Choice { mut scopes, reference, choice } in vectors.choices {
        let chosen = most_specific(&scopes, |scope| scope, &reference).cloned();
        assert_eq!(chosen, choice, "{scopes:?} for {reference}");
        scopes.reverse();
        assert_eq!(most_specific(&scopes, |scope| scope, &reference), choice.as_ref(), "in any order");
    }
    for Refused { text, error } in vectors.refused {
        assert_eq!(chain(&text.parse::<Scope>().unwrap_err()), error, "{text}");
    }
}

fn a_reference() -> impl Strategy<Value = String> {
    let host = "[a-z]([a-z0-9-]{0,8}[a-z0-9])?(\\.[a-z]{1,5}){0,2}(:[1-9][0-9]{0,3})?";
    let path = "[a-z0-9]{1,6}(([.]|_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,5}){0,2}";
    let rest = "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,10})?(@sha256:[0-9a-f]{64})?";
    (host, path, rest).prop_map(|(host, path, rest)| format!("{host}/{path}{rest}"))
}

proptest! {
    #[test]
    fn a_well_formed_reference_parses_and_round_trips(text in a_reference()) {
        let reference: Reference = text.parse().unwrap();
        prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
        prop_assert!(reference.tag().is_some() || reference.digest().is_some());
        prop_assert!(Scope::of_repository(&reference).matches(&reference));
        prop_assert!(reference.registry().to_string().parse::<Scope>().unwrap().matches(&reference));
    }

    #[test]
    fn whatever_parses_round_trips(text in "[a-zA-Z0-9:/@.\\[\\]_*-]{0,40}|\\PC{0,40}") {
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference));
        }
        if let Ok(scope) = text.parse::<Scope>() {
            prop_assert_eq!(scope.to_string().parse::<Scope>(), Ok(scope));
        }
    }

    #[test]
    fn two_scopes_that_match_one_reference_are_equally_specific_only_if_equal(
        reference in "[rs]/[ab](/[ab]){0,2}:[vw]",
        scopes in proptest::collection::vec("[rs]((/[ab]){1,2}(/\\*\\*|:[vw])?)?", 2..8),
    ) {
        let reference: Reference = reference.parse().unwrap();
        let scopes: Vec<Scope> = scopes.iter().map(|scope| scope.parse().unwrap()).collect();
        let reversed: Vec<Scope> = scopes.iter().rev().cloned().collect();
        let choice = most_specific(&scopes, |scope| scope, &reference);
        prop_assert_eq!(choice, most_specific(&reversed, |scope| scope, &reference));
        prop_assert_eq!(choice.is_some(), scopes.iter().any(|scope| scope.matches(&reference)));
    }
}
