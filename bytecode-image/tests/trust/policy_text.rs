//! The text of the policy files.

use super::*;

#[test]
fn a_policy_reads_as_written_and_its_defaults_are_the_safe_choice() {
    let policy = policy(
        r#"
[[rule]]
id = "of another reader"
who = [{ user = "cni" }]
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
    assert_eq!(signers["release"], KEYS["release"].public());
    assert_eq!(digests.iter().collect::<Vec<_>>(), [&Digest::of(b"")]);
    let json = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<ImagePolicy>(&json).unwrap(), policy);
}

#[test]
fn signers_and_scopes_are_shared_among_files() {
    let files = [
        ("policy.toml", SIGNERS),
        ("policy.d/a.toml", "version = 1\n[[image]]\nscope = \"r\"\nrequire = [{ signed_by = [\"ci\"] }]\n"),
    ];
    let texts = files.map(|(file, text)| PolicyText { file, text });
    assert_eq!(ImagePolicy::parse(&texts, key_file).unwrap().images.len(), 1);
    let twice = [texts[0], texts[1], PolicyText { file: "policy.d/b.toml", text: texts[1].text }];
    assert_eq!(
        chain(&ImagePolicy::parse(&twice, key_file).unwrap_err()),
        "policy is refused at policy.d/b.toml:3:9: there is an `[[image]]` for the scope `r` already: write all requirements into one"
    );
}

#[test]
fn each_bad_policy_is_refused_with_file_line_and_column() {
    let image = |rest: &str| format!("{SIGNERS}[[image]]\nscope = \"r/a\"\n{rest}\n");
    let cases = [
        String::new(),
        "version = 2\n".to_owned(),
        "version = 1\nversion = 1\n".to_owned(),
        "version = 1\ndefault = \"allow\"\n".to_owned(),
        "version = 1\n[[signer]\n".to_owned(),
        "version = 1\n[[signer]]\nname = \"ci\"\nkeyless = { issuer = \"x\", identity = \"y\", root = \"github\" }\n"
            .to_owned(),
        "version = 1\n[[signer]]\nname = \"ci\"\nkey = \"/keys/ci.pub\"\nlog = \"require\"\n".to_owned(),
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
        image("unsigned = \"deny\""),
        image("unsigned = \"maybe\""),
        image("unsigned = true"),
        image("require = []"),
        image("unsigned = \"allow\"\nrequire = [{ signed_by = [\"ci\"] }]"),
        image("require = [{ signed_by = [\"ci\"] }]\nforbid_downgrade = true"),
        image("require = [{ signed_by = [\"ci\"] }]\nmax_signature_age = \"365d\""),
        image("require = [{ attested_by = [\"ci\"], predicate = \"p\" }]"),
        image("require = [{}]"),
        image("require = [{ signed_by = [\"ci\"], digest = [] }]"),
        image("require = [{ signed_by = [] }]"),
        image("require = [{ signed_by = [\"ci\", \"nobody\"] }]"),
        image("require = [{ signed_by = [\"ci\"], threshold = 0 }]"),
        image("require = [{ signed_by = [\"ci\", \"ci\"], threshold = 2 }]"),
        image("require = [{ signed_by = [\"ci\"], threshold = -1 }]"),
        image("require = [{ signed_by = [\"ci\"], identity = \"exact\" }]"),
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
        let error = ImagePolicy::parse(&[PolicyText { file: "policy.toml", text: &text }], key_file).unwrap_err();
        let shown = text.strip_prefix(SIGNERS).unwrap_or(&text);
        let shown: String = shown.chars().take(160).collect();
        writeln!(report, "{}\n  -> {}\n", shown.trim_end(), chain(&error)).unwrap();
    }
    insta::assert_snapshot!(report);
}

#[test]
fn the_file_that_trust_add_writes_lets_the_signers_image_through() {
    for (name, key) in [("ci", "/keys/ci.pub"), ("a.b-c", "/keys \"quoted\" \\/ci.pub")] {
        let text = trusting(&name.parse().unwrap(), Path::new(key), &"reg.acme/bpf/**".parse().unwrap());
        let policy = ImagePolicy::parse(&[PolicyText { file: "policy.d/ci.toml", text: &text }], key_file).unwrap();
        let verified = ask(&policy, &[good("ci")]).unwrap();
        assert_eq!(verified.signers().iter().collect::<Vec<_>>(), [name]);
        assert!(ask(&policy, &[good("other")]).is_err());
    }
}
