//! Broken texts: 20,000 seeded mutants each of everything that registries, images and people write as text, through what reads it.
//! None may panic; what passes is read the same again; and what is said of the others is short. Names that people type are quoted as
//! they are, so what is said of those has no control character either. The seeds are fixed, so that a failure repeats.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::{error::Error, fs, path::Path};

use bpfd_policy::{Policy, read::PolicyText};
use bytecode_image::{
    auth::AuthFile,
    build::{self, Recipe},
    bundle::{self, Bundle, Content},
    config::ImageConfig,
    digest::{Descriptor, Digest},
    document::Document,
    key::{Scheme, SigningKey},
    keyless::PolicyFiles,
    label::Label,
    media,
    reference::Reference,
    registries::Registries,
    resolve::Platform,
    scope::Scope,
    sign,
    transport::challenge,
};
use serde_json::{Value, json};

#[path = "../../tests/src/mutants.rs"]
#[expect(dead_code, unreachable_pub, reason = "only some mutants are made here")]
mod mutants;

use mutants::Random;

const MUTANTS: usize = 20_000;

/// The longest text that any of these errors may become: it travels in a status of 4 KiB.
const SAID: usize = 2048;

/// What a terminal or a log would be given.
fn said(error: &dyn Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// The same of a name that somebody typed.
fn quoted(error: &dyn Error) -> String {
    let said = said(error);
    assert!(!said.contains(|c: char| c.is_control() || !c.is_ascii()), "{said:?}");
    said
}

/// Each mutant read: `read` gives nothing for what is right, or the error.
fn never_breaks(seed: u64, seeds: &[String], read: impl Fn(&[u8]) -> Result<(), String>) {
    let mut random = Random(seed);
    let mut accepted = 0;
    for seed in seeds {
        assert_eq!(read(seed.as_bytes()), Ok(()), "an unchanged text is read: {seed}");
    }
    for number in 0..MUTANTS {
        let bytes = random.text(seeds);
        let shown = || format!("mutant {number}: {:?}", String::from_utf8_lossy(&bytes));
        match read(&bytes) {
            Ok(()) => accepted += 1,
            Err(said) => assert!(said.len() <= SAID, "{} bytes are said of {}", said.len(), shown()),
        }
    }
    // A generator whose mutants all fare alike would prove nothing.
    assert!((MUTANTS / 200..MUTANTS - MUTANTS / 200).contains(&accepted), "{accepted} of {MUTANTS} were read");
}

/// The same for what is text before it is anything else.
fn never_breaks_text(seed: u64, seeds: &[String], read: impl Fn(&str) -> Result<(), String>) {
    never_breaks(seed, seeds, |bytes| read(&String::from_utf8_lossy(bytes)));
}

fn vectors(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../spec/vectors/{name}.json"));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Image manifest, configuration and label of a real object.
fn image() -> build::BuiltImage {
    let recipe = Recipe {
        object: include_bytes!("objects/counter.o"),
        path: "counter.o",
        architecture: &Platform::host(None).architecture.parse().unwrap(),
        metadata: &Default::default(),
        epoch: None,
    };
    build::build(&recipe).unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn twenty_thousand_broken_labels_are_refused_or_read_alike_twice() {
    let parsed = vectors("labels")["parsed"].clone();
    let canonical = parsed.as_array().unwrap().iter().filter_map(|vector| vector["canonical"].as_str());
    let mut seeds: Vec<String> = canonical.map(str::to_owned).collect();
    let labels = ImageConfig::parse(&image().config).unwrap().labels;
    seeds.extend(labels.into_values().filter(|label| label.contains("\"schema\"")));
    never_breaks_text(0x6c61_6265, &seeds, |text| {
        let label = Label::parse(text).map_err(|error| said(&error))?;
        let json = label.to_json().map_err(|error| said(&error))?;
        // The canonical form is sorted; sorting it again changes nothing.
        assert_eq!(Label::parse(&json).unwrap().to_json().unwrap(), json);
        Ok(())
    });
}

#[test]
fn twenty_thousand_broken_manifests_and_indexes_are_refused_or_read() {
    let image = image();
    let mut entry = json!(Descriptor::of(media::MANIFEST, &image.manifest));
    entry["platform"] = json!({"os": "linux", "architecture": "amd64", "variant": "v2"});
    let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": [entry]}).to_string();
    for (seed, media_type, text) in [(1, media::MANIFEST, text(image.manifest)), (2, media::INDEX, index)] {
        never_breaks(seed, &[text], |bytes| {
            Document::new(media_type, bytes.to_vec()).parse().map(drop).map_err(|error| said(&error))
        });
    }
}

#[test]
fn twenty_thousand_broken_configurations_are_refused_or_read() {
    let seed = text(image().config);
    never_breaks(3, &[seed], |bytes| ImageConfig::parse(bytes).map(drop).map_err(|error| said(&error)));
}

#[test]
fn twenty_thousand_broken_references_are_refused_or_read_alike_twice() {
    let parsed = vectors("references")["parsed"].clone();
    let seeds: Vec<String> =
        parsed.as_array().unwrap().iter().map(|vector| vector["text"].as_str().unwrap().to_owned()).collect();
    never_breaks_text(4, &seeds, |text| {
        let reference: Reference = text.parse().map_err(|error| quoted(&error))?;
        assert_eq!(reference.to_string().parse(), Ok(reference), "{text:?}");
        Ok(())
    });
}

#[test]
fn twenty_thousand_broken_scopes_are_refused_or_read_alike_twice() {
    let seeds = ["reg.acme/bpf/**", "reg.acme/**", "reg.acme:5000/bpf/xdp-counter"].map(str::to_owned);
    never_breaks_text(5, &seeds, |text| {
        let scope: Scope = text.parse().map_err(|error| quoted(&error))?;
        assert_eq!(scope.to_string().parse::<Scope>().unwrap(), scope, "{text:?}");
        Ok(())
    });
}

#[test]
fn twenty_thousand_broken_policies_are_refused_or_read() {
    let pem = SigningKey::generate(Scheme::Ed25519).unwrap().public().to_pem();
    let seed = r#"version = 1
[[signer]]
name = "ci"
key = "/etc/bpfd/keys/ci.pub"
[[signer]]
name = "release"
keyless = { issuer = "https://token.acme.example", identity = "https://git.acme.example/bpf/*", root = "public-good" }
[[image]]
scope = "reg.acme/bpf/**"
require = [{ signed_by = ["ci"], threshold = 1, identity = "repository" }, { digest = ["sha256:DIGEST"] }]
require_digest = true
[[image]]
scope = "reg.acme/open/**"
unsigned = "allow"
"#;
    let seed = seed.replace("DIGEST", &Digest::of(b"").hex());
    never_breaks_text(6, &[seed], |text| {
        let file = PolicyText { file: "policy.toml", text };
        let read = |path: &Path| match path.extension() {
            Some(key) if key == "pub" => Ok(pem.clone()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        };
        Policy::read(&[file], PolicyFiles { trust: "/trust".into(), read }).map(drop).map_err(|error| said(&error))
    });
}

#[test]
fn twenty_thousand_broken_lists_of_registries_are_refused_or_read() {
    let seed = r#"[[registry]]
name = "registry"
endpoint = "127.0.0.1:5000"
http = true
mirrors = [{ endpoint = "mirror.acme:443" }]
redirects = ["cdn.acme:443"]
token_realms = ["auth.acme:443"]
[proxy]
https = "http://proxy.acme:3128"
no_proxy = ["reg.acme", "10.0.0.0/8"]
"#;
    never_breaks_text(7, &[seed.to_owned()], |text| {
        Registries::parse(text, "registries.toml").map(drop).map_err(|error| said(&error))
    });
}

#[test]
fn twenty_thousand_broken_files_of_credentials_are_refused_or_read() {
    let seed = json!({"auths": {"reg.acme": {"auth": "dXNlcjpzM2NyZXQ="}, "reg.acme/team": {"auth": "dXNlcjp4"},
        "https://other.acme/v1/": {"identitytoken": "s3cret"}}, "credsStore": "pass", "credHelpers": {"c.acme": "ecr-login"}});
    never_breaks(8, &[seed.to_string()], |bytes| AuthFile::parse(bytes).map(drop).map_err(|error| said(&error)));
}

#[test]
fn twenty_thousand_broken_payloads_of_signatures_are_refused_or_read() {
    let reference: Reference = "reg.acme/bpf/xdp-counter:1".parse().unwrap();
    let seed = text(sign::payload(&reference, Digest::of(b"manifest")).unwrap());
    never_breaks(9, &[seed], |bytes| sign::claim(bytes).map(drop).map_err(|error| said(&error)));
}

#[test]
fn twenty_thousand_broken_bundles_and_their_statements_are_refused_or_read() {
    let reference: Reference = "reg.acme/bpf/xdp-counter:1".parse().unwrap();
    let key = SigningKey::generate(Scheme::Ed25519).unwrap();
    let bundle = sign::bundle(&key, &reference, Digest::of(b"manifest")).unwrap();
    let Content::Envelope(statement) = Bundle::parse(media::BUNDLE, &bundle).unwrap().content else { unreachable!() };
    let message = json!({
        "mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1",
        "verificationMaterial": {"publicKey": {"hint": "ci"}, "tlogEntries": [{"logIndex": "1"}]},
        "messageSignature": {"messageDigest": {"algorithm": "SHA2_256", "digest": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}, "signature": "AA=="},
    });
    let seeds = [text(bundle), message.to_string()];
    never_breaks(11, &seeds, |bytes| Bundle::parse(media::BUNDLE, bytes).map(drop).map_err(|error| said(&error)));
    never_breaks(12, &[text(statement)], |bytes| {
        bundle::statement(bytes, &[bundle::STATEMENT], |_| true).map(drop).map_err(|error| said(&error))
    });
}

#[test]
fn twenty_thousand_broken_challenges_are_refused_or_chosen_from() {
    let chosen = vectors("challenges")["chosen"].clone();
    let seeds: Vec<String> = chosen.as_array().unwrap().iter().map(|vector| headers(vector).join("\n")).collect();
    never_breaks(10, &seeds, |bytes| {
        let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        let chosen = challenge::choose(lines.iter().copied()).map_err(|error| quoted(&error))?;
        // Whatever else is offered, and whatever cannot be read beside it, what was chosen stays.
        let more = [b"Negotiate abc=".as_slice(), b"Bearer realm=\"open", b"Basic"];
        assert_eq!(challenge::choose(lines.into_iter().chain(more)), Ok(chosen));
        Ok(())
    });
}

fn headers(vector: &Value) -> Vec<&str> {
    vector["headers"].as_array().unwrap().iter().map(|header| header.as_str().unwrap()).collect()
}
