//! The text of the policy files. Whole messages are compared, since they are what a person gets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::{fmt::Write, io, path::Path};

use bpfd_policy::{
    Policy,
    digest::Digest,
    image::{Identity, Requirement, Trust},
    key::PublicKey,
    read::{KeyFault, PolicyText, trusting},
    reference::in_full as chain,
    signer::Signer,
};

/// The key of `/keys/NAME.pub` is `NAME`; `broken` is no key, and some files are not there.
fn key_file(path: &Path) -> Result<PublicKey, KeyFault> {
    match path.file_stem().and_then(|name| name.to_str()) {
        Some("broken") => Err(KeyFault::NotAKey("the key is neither ECDSA P-256 nor Ed25519, or damaged".into())),
        Some(name @ ("ci" | "release")) => Ok(key(name)),
        _ => Err(KeyFault::File(io::ErrorKind::NotFound.into())),
    }
}

fn key(name: &str) -> PublicKey {
    name.as_bytes().to_vec().into()
}

const SIGNERS: &str = r#"version = 1
[[signer]]
name = "ci"
key = "/keys/ci.pub"
[[signer]]
name = "release"
key = "/keys/release.pub"
"#;

fn policy(images: &str) -> Policy {
    let text = format!("{SIGNERS}{images}");
    Policy::read(&[PolicyText { file: "policy.toml", text: &text }], key_file).unwrap()
}

#[test]
fn a_policy_reads_as_written_and_its_defaults_are_the_safe_choice() {
    let policy = policy(
        r#"
[[image]]
scope = "reg.acme/bpf/**"
require = [{ signed_by = ["ci", "release"] }, { digest = ["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"] }]
[[image]]
scope = "reg.acme/open"
unsigned = "allow"
require_digest = true
"#,
    );
    let [first, second] = policy.images.as_slice() else { panic!("two sections") };
    assert_eq!(first.scope.to_string(), "reg.acme/bpf/**");
    assert!(!first.require_digest && second.require_digest);
    assert_eq!(second.trust, Trust::Anything);
    let Trust::All(requirements) = &first.trust else { panic!("requirements") };
    let [Requirement::Signed { signers, threshold: 1, identity: Identity::Repository }, Requirement::Digest(digests)] =
        requirements.as_slice()
    else {
        panic!("{requirements:?}")
    };
    assert_eq!(signers["release"], Signer::Key(key("release")));
    assert_eq!(policy.signers["ci"], Signer::Key(key("ci")));
    assert_eq!(policy.files, ["policy.toml"]);
    assert_eq!(digests.iter().collect::<Vec<_>>(), [&Digest::of(b"")]);
    let json = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy);
}

#[test]
fn signers_and_scopes_are_shared_among_files() {
    let files = [
        ("policy.toml", SIGNERS),
        ("policy.d/a.toml", "version = 1\n[[image]]\nscope = \"r\"\nrequire = [{ signed_by = [\"ci\"] }]\n"),
    ];
    let texts = files.map(|(file, text)| PolicyText { file, text });
    assert_eq!(Policy::read(&texts, key_file).unwrap().images.len(), 1);
    let twice = [texts[0], texts[1], PolicyText { file: "policy.d/b.toml", text: texts[1].text }];
    assert_eq!(
        chain(&Policy::read(&twice, key_file).unwrap_err()),
        "policy is refused at policy.d/b.toml:3:9: there is an `[[image]]` for the scope `r` already: write all requirements into one"
    );
}

#[test]
fn each_bad_policy_is_refused_with_file_line_and_column() {
    let image = |rest: &str| format!("{SIGNERS}[[image]]\nscope = \"r/a\"\n{rest}\n");
    let keyless = |text: &str| format!("version = 1\n[[signer]]\nname = \"ci\"\nkeyless = {{ {text} }}\n");
    let cases = [
        String::new(),
        "version = 2\n".to_owned(),
        "version = 1\nversion = 1\n".to_owned(),
        "version = 1\ndefault = \"allow\"\n".to_owned(),
        "version = 1\n[[signer]\n".to_owned(),
        keyless("issuer = \"x\", identity = \"y\", root = \"github\""),
        keyless("issuer = \"x\", identity = \"y\", root = \"acme.json\""),
        keyless("issuer = \"x\", identity = \"y\""),
        keyless("issuer = \"x\", identity = \"*\""),
        keyless("issuer = \"x\", identity = \"\""),
        keyless("identity = \"y\""),
        keyless("issuer = \"x\", identity = \"y\", log = \"require\""),
        keyless("issuer = \"x\", identity = \"y\" }\nkey = \"/keys/ci.pub\"\n#{"),
        "version = 1\n[[signer]]\nname = \"ci\"\nkey = \"/keys/ci.pub\"\nlog = \"require\"\n".to_owned(),
        "version = 1\n[[signer]]\nname = \"ci\"\nkey = \"/keys/ci.pub\"\nlog = \"maybe\"\n".to_owned(),
        "version = 1\n[[signer]]\nname = \"ci\"\nkey = \"/keys/ci.pub\"\nroot = \"github\"\n".to_owned(),
        keyless("issuer = \"x\", identity = \"y\" }\nlog = \"require\"\n#{"),
        keyless("issuer = \"x\", identity = \"y\" }\nroot = \"github\"\n#{"),
        "version = 1\n[[signer]]\nname = \"ci\"\n".to_owned(),
        "version = 1\n[[signer]]\nname = \"Ci\"\nkey = \"/keys/ci.pub\"\n".to_owned(),
        "version = 1\n[[signer]]\nname = \"ci\"\nkey = \"keys/ci.pub\"\n".to_owned(),
        "version = 1\n[[signer]]\nname = \"x\"\nkey = \"/keys/absent.pub\"\n".to_owned(),
        "version = 1\n[[signer]]\nname = \"x\"\nkey = \"/keys/broken.pub\"\n".to_owned(),
        format!("{SIGNERS}[[signer]]\nname = \"ci\"\nkey = \"/keys/ci.pub\"\n"),
        format!("{SIGNERS}[[image]]\nscope = \"r/A\"\nunsigned = \"allow\"\n"),
        format!("{SIGNERS}[[image]]\nscope = \"r/*\"\nunsigned = \"allow\"\n"),
        format!("{SIGNERS}[[image]]\nunsigned = \"allow\"\n"),
        image(""),
        image("unsigned = \"allow\"\nmax_signature_age = \"1d\""),
        image("require = [{ signed_by = [\"ci\"] }]\nmax_signature_age = \"1d\""),
        image("require = [{ signed_by = [\"ci\"] }]\nmax_signature_age = \"1 year\""),
        image("require = [{ attested_by = [\"ci\"] }]"),
        image("require = [{ attested_by = [\"ci\"], predicate = \"\" }]"),
        image("require = [{ attested_by = [\"ci\"], predicate = \"a b\" }]"),
        image("require = [{ attested_by = [\"x\"], predicate = \"a\" }]"),
        image("require = [{ attested_by = [], predicate = \"a\" }]"),
        image("require = [{ attested_by = [\"ci\"], predicate = \"a\", identity = \"any\" }]"),
        image("require = [{ attested_by = [\"ci\"], predicate = \"a\", signed_by = [\"ci\"] }]"),
        image("require = [{ signed_by = [\"ci\"], predicate = \"a\" }]"),
        image("require = [{ predicate = \"a\" }]"),
        image("forbid_downgrade = \"yes\""),
        image("unsigned = \"deny\""),
        image("unsigned = \"maybe\""),
        image("unsigned = true"),
        image("require = []"),
        image("unsigned = \"allow\"\nrequire = [{ signed_by = [\"ci\"] }]"),
        image("require = [{}]"),
        image("require = [{ signed_by = [\"ci\"], digest = [] }]"),
        image("require = [{ signed_by = [] }]"),
        image("require = [{ signed_by = [\"ci\", \"nobody\"] }]"),
        image("require = [{ signed_by = [\"ci\"], threshold = 0 }]"),
        image("require = [{ signed_by = [\"ci\", \"ci\"], threshold = 2 }]"),
        image("require = [{ signed_by = [\"ci\"], threshold = -1 }]"),
        image("require = [{ signed_by = [\"ci\"], identity = \"exactly\" }]"),
        image("require = [{ digest = [] }]"),
        image("require = [{ digest = [\"sha256:12\"] }]"),
        image(
            "require = [{ digest = [\"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"], threshold = 1 }]",
        ),
        image("require_digest = \"yes\""),
        format!("version = 1 # {}\n", "x".repeat(1 << 20)),
    ];
    let mut report = String::new();
    for text in cases {
        let error = Policy::read(&[PolicyText { file: "policy.toml", text: &text }], key_file).unwrap_err();
        let shown = text.strip_prefix(SIGNERS).unwrap_or(&text);
        let shown: String = shown.chars().take(160).collect();
        writeln!(report, "{}\n  -> {}\n", shown.trim_end(), chain(&error)).unwrap();
    }
    insta::assert_snapshot!(report);
}

#[test]
fn two_names_for_one_key_are_one_key() {
    let text = "version = 1\n\
        [[signer]]\nname = \"a\"\nkey = \"/keys/ci.pub\"\n[[signer]]\nname = \"b\"\nkey = \"/other/ci.pub\"\n\
        [[image]]\nscope = \"reg.acme\"\nrequire = [{ signed_by = [\"a\", \"b\"], threshold = 2 }]\n";
    let error = Policy::read(&[PolicyText { file: "p", text }], key_file).unwrap_err();
    assert_eq!(chain(&error), "policy is refused at p:10:12: threshold 2 of 1 different keys: it must be from 1 to 1");
}

#[test]
fn the_file_that_trust_add_writes_asks_for_the_signers_signature() {
    for (name, path) in [("ci", "/keys/ci.pub"), ("a.b-c", "/keys \"quoted\" \\/ci.pub")] {
        let text = trusting(&name.parse().unwrap(), Path::new(path), &"reg.acme/bpf/**".parse().unwrap());
        let policy = Policy::read(&[PolicyText { file: "policy.d/ci.toml", text: &text }], key_file).unwrap();
        let signers = [(name.to_owned(), Signer::Key(key("ci")))].into();
        let signed = Requirement::Signed { signers, threshold: 1, identity: Identity::Repository };
        let [rule] = policy.images.as_slice() else { panic!("{policy:?}") };
        assert_eq!((rule.scope.to_string().as_str(), &rule.trust), ("reg.acme/bpf/**", &Trust::All(vec![signed])));
    }
}
