//! `WWW-Authenticate` as `spec/vectors` says: by the parser, and by what a registry that sends it is answered with.

mod common;

use bytecode_image::{
    testing::registry::Mode,
    transport::challenge::{Challenge, choose},
};
use common::{registry, run, told};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    chosen: Vec<Chosen>,
    refused: Vec<Refused>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Chosen {
    headers: Vec<String>,
    #[serde(default)]
    basic: bool,
    #[serde(default)]
    realm: String,
    #[serde(default)]
    service: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    headers: Vec<String>,
    error: String,
}

#[test]
fn challenges_are_chosen_as_the_vectors_say() {
    let Vectors { chosen, refused } = serde_json::from_str(include_str!("../../spec/vectors/challenges.json")).unwrap();
    assert!(chosen.len() >= 26 && refused.len() >= 18);
    for Chosen { headers, basic, realm, service } in chosen {
        let expected = if basic { Challenge::Basic } else { Challenge::Bearer { realm, service } };
        assert_eq!(choose(headers.iter().map(String::as_bytes)), Ok(expected), "{headers:?}");
    }
    for Refused { headers, error } in refused {
        let refusal = choose(headers.iter().map(String::as_bytes)).unwrap_err();
        assert_eq!(refusal.to_string(), error, "{headers:?}");
    }
}

#[test]
fn a_registry_that_offers_several_schemes_is_answered_by_the_best() {
    let text = |headers: &[&str]| {
        let headers = headers.iter().map(|header| (*header).to_owned()).collect();
        let (registry, _) = registry(Mode::Challenges(headers));
        let config = common::with_credentials(common::config(&registry, ""), &registry);
        let remote = bytecode_image::transport::Remote::new(&config, &common::reference(&registry));
        let error = run(remote.tagged("v1")).unwrap_err();
        let sent = registry.seen().into_iter().filter_map(|seen| seen.authorization).collect::<Vec<_>>();
        (told(&error, &[("REGISTRY", registry.host())]), sent)
    };
    // This registry never lets anybody in: what counts is what it was sent.
    let basic = ["Basic dXNlcjpzM2NyZXQ=".to_owned()];
    for headers in [
        ["Negotiate, Basic realm=\"a, Bearer\"", "NTLM"],
        ["Digest realm=\"d\", nonce=\"n\"", "basic"],
        ["Bearer realm=\"broken", "Basic"],
    ] {
        assert_eq!(text(&headers), ("`REGISTRY` denies access".to_owned(), basic.to_vec()), "{headers:?}");
    }
    let refused = "`REGISTRY` asks for an authentication that is neither Basic nor a Bearer token with a realm";
    assert_eq!(
        text(&["Negotiate", "Digest realm=\"d\""]),
        (format!("{refused}: it offers only `Negotiate`, `Digest`"), vec![])
    );
    assert_eq!(text(&[]), (format!("{refused}: it offers none"), vec![]));
    let (told, sent) = text(&["Basic, Bearer realm=\"ftp://a/t\""]);
    assert_eq!(
        (told.as_str(), sent.len()),
        (
            "`REGISTRY` asks for its credentials to be sent to `a:21`; if that is right, add `token_realms = [\"a:21\"]` to its entry in registries.toml",
            0
        )
    );
}
