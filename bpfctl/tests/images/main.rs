//! Images without a daemon: build, push, sign, verify, inspect, against a registry in this process.

mod credentials;
mod home;

use std::process::Command;

use bpfd_policy::signer::RootName;
use bytecode_image::keyless::built_in;
use bytecode_image::testing::registry::{Mode, Options, Referrers};

use home::Home;

fn check(name: &str, lines: &[&str]) {
    check_in(&Home::new(), name, lines);
}

fn check_in(home: &Home, name: &str, lines: &[&str]) {
    let all: Vec<String> = lines.iter().map(|line| home.run(line)).collect();
    insta::assert_snapshot!(name, all.join("\n"));
}

#[test]
fn an_image_is_built_pushed_signed_and_verified_without_a_daemon() {
    check(
        "image",
        &[
            "image build counter.o --tag registry/bpf/counter:1.2.0 --metadata full.toml",
            "image push registry/bpf/counter:1.2.0",
            "image push registry/bpf/counter:1.2.0",
            "image inspect registry/bpf/counter:1.2.0",
            "keygen ci.key -q",
            "keygen other.key -q",
            "image verify registry/bpf/counter:1.2.0 --key ci.key.pub",
            "image sign registry/bpf/counter:1.2.0 --key ci.key",
            "image sign registry/bpf/counter:1.2.0 --key ci.key",
            "image verify registry/bpf/counter:1.2.0 --key ci.key.pub",
            "image verify registry/bpf/counter:1.2.0 --key other.key.pub",
            "image sign registry/bpf/counter:1.2.0 --key ci.key.pub",
        ],
    );
}

#[test]
fn an_image_is_signed_as_a_bundle_on_registries_with_and_without_a_list_of_referrers() {
    for referrers in [Referrers::Listed, Referrers::Absent] {
        let home = Home::of(Options { referrers, ..Options::default() });
        check_in(
            &home,
            "image_bundle",
            &[
                "image build counter.o --tag registry/bpf/counter:1.2.0 --metadata full.toml -q",
                "image push registry/bpf/counter:1.2.0 -q",
                "keygen ci.key -q",
                "keygen other.key -q",
                "image sign registry/bpf/counter:1.2.0 --key other.key --format bundle",
                "image sign registry/bpf/counter:1.2.0 --key ci.key --format both",
                "image sign registry/bpf/counter:1.2.0 --key ci.key --format both",
                "image sign registry/bpf/counter:1.2.0 --key ci.key --format bundle -o json",
                "image verify registry/bpf/counter:1.2.0 --key ci.key.pub",
                "image verify registry/bpf/counter:1.2.0 --key other.key.pub",
                "image sign registry/bpf/counter:1.2.0 --key ci.key --format cosign",
            ],
        );
        home.registry.behave("bpf/counter", Mode::Status(500));
        let refused = home.run("image verify registry/bpf/counter:1.2.0 --key ci.key.pub");
        assert!(!refused.contains("not signed"), "{refused}");
    }
}

#[test]
fn trusted_roots_are_imported_listed_and_removed() {
    let home = Home::new();
    let (_, github) = built_in(&RootName::GitHub).unwrap();
    home.write("github.json", github);
    home.write("none.json", "{}");
    check_in(
        &home,
        "trust_roots",
        &[
            "trust ls --directory trust",
            "trust import github.json --name acme --directory trust",
            "trust import github.json --name public-good --directory trust -q",
            "trust import none.json --name none --directory trust",
            "trust import absent.json --name none --directory trust",
            "trust ls --directory trust",
            "trust rm public-good --directory trust",
            "trust rm public-good --directory trust",
            "trust show none --directory trust",
            "trust ls --directory trust -q",
        ],
    );
    assert!(home.run("trust show acme --directory trust").contains(github.trim()));
}

#[test]
fn labels_are_printed_as_a_containerfile_has_them() {
    check(
        "image_labels",
        &[
            "image labels counter.o --metadata full.toml",
            "image labels counter.o -q",
            "image labels counter.o -o json",
            "image labels text.o",
        ],
    );
}

#[test]
fn several_objects_make_an_index() {
    check(
        "image_index",
        &[
            "image build amd64:6.4=counter.o amd64=counter.o arm64=counter.o --tag registry/bpf/many:1",
            "image push registry/bpf/many:1",
            "image inspect registry/bpf/many:1 --arch arm64 -q",
            "image inspect registry/bpf/many:1 --arch riscv64",
            "image build amd64=counter.o amd64=counter.o --tag registry/bpf/twice:1",
        ],
    );
}

#[test]
fn objects_of_both_byte_orders_make_one_index() {
    check(
        "image_byte_orders",
        &[
            "image build amd64:6.4=counter.o s390x=big.o --tag registry/bpf/both:1 --metadata full.toml",
            "image push registry/bpf/both:1 -q",
            "image inspect registry/bpf/both:1 --arch s390x -q",
            "image inspect registry/bpf/both:1 --arch arm64",
            "image build s390x=big.o ppc64=big.o --tag registry/bpf/big:1 --metadata full.toml -q",
            "image push registry/bpf/big:1 -q",
            "image inspect registry/bpf/big:1 --arch amd64",
            "image build amd64=big.o --tag registry/bpf/wrong:1",
            "image build s390x=counter.o --tag registry/bpf/wrong:1",
        ],
    );
}

#[test]
fn a_key_that_cosign_encrypted_signs_with_its_password() {
    let home = Home::new();
    home.write("cosign.key", include_str!("../../../bytecode-image/tests/keys/p256.key"));
    home.write("cosign.pub", include_str!("../../../bytecode-image/tests/keys/p256.pub"));
    home.write("p384.key", include_str!("../../../bytecode-image/tests/keys/p384.key"));
    home.write("password", "correct horse\n");
    home.write("predicate.json", "{}");
    home.run("image build counter.o --tag registry/bpf/counter:1.2.0 --metadata full.toml");
    home.run("image push registry/bpf/counter:1.2.0");
    let sign = "image sign registry/bpf/counter:1.2.0 --key cosign.key";
    let all = [
        home.run(sign),
        home.run_with(sign, &[("COSIGN_PASSWORD", "correct hors")], ""),
        home.run_with(sign, &[("COSIGN_PASSWORD", "")], ""),
        home.run("image verify registry/bpf/counter:1.2.0 --key cosign.pub"),
        home.run_with(sign, &[("COSIGN_PASSWORD", "correct horse")], ""),
        // The file goes before the variable.
        home.run_with(&format!("{sign} --password-file password"), &[("COSIGN_PASSWORD", "wrong")], ""),
        home.run("image verify registry/bpf/counter:1.2.0 --key cosign.pub"),
        home.run("image attest registry/bpf/counter:1.2.0 --key cosign.key --password-file password --type https://slsa.dev/provenance/v1 --predicate predicate.json"),
        home.run("image sign registry/bpf/counter:1.2.0 --key p384.key --password-file password"),
        home.run(&format!("{sign} --password-file absent")),
    ];
    insta::assert_snapshot!("encrypted_key", all.join("\n"));
}

#[test]
fn what_cannot_be_built_or_reached_says_why() {
    let home = Home::new();
    home.registry.behave("bpf/elsewhere", Mode::RedirectForever);
    check_in(
        &home,
        "image_refusals",
        &[
            "image build text.o --tag registry/bpf/counter:1",
            "image build counter.o --tag registry/bpf/counter:1 --metadata none.toml",
            "image build vax=counter.o --tag registry/bpf/counter:1",
            "image push registry/bpf/never-built:1",
            "image inspect registry/bpf/unknown:1",
            "image inspect 127.0.0.1:1/bpf/counter:1",
            "image inspect registry/bpf/elsewhere:1",
            "keygen ci.key -q",
            "image sign registry/bpf/unknown:1 --key ci.key",
            "image verify registry/bpf/unknown:1 --key ci.key.pub",
            "image build counter.o --tag 127.0.0.1:1/bpf/counter:1 --metadata full.toml",
            "image push 127.0.0.1:1/bpf/counter:1",
            "image inspect counter",
            "image verify registry/bpf/unknown:1 --key none.pub",
        ],
    );
}

#[test]
fn the_same_input_is_the_same_image() {
    let home = Home::new();
    let build = |tag: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_bpfctl"))
            .args(["image", "build", "counter.o", "-q", "--tag", tag])
            .current_dir(home.path())
            .env_clear()
            .env("HOME", home.path())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let first = build("registry/a:1");
    assert!(first.starts_with("sha256:"), "{first:?}");
    assert_eq!(first, build("registry/b:2"));
}

#[test]
fn a_proxy_is_named_by_registries_toml_and_not_by_the_environment() {
    let home = Home::new();
    let proxy = [("HTTPS_PROXY", "http://127.0.0.1:1")];
    let inspect = "image inspect unknown.invalid/bpf/counter:1 -q";
    let hint = |text: String| text.lines().find_map(|line| line.strip_prefix("hint: ").map(str::to_owned));
    let unread = "HTTPS_PROXY and its like are not read: name the proxy in `[proxy]` in ~/.config/bpfd/registries.toml";
    assert_eq!(hint(home.run_with(inspect, &proxy, "")).as_deref(), Some(unread));
    home.write(".config/bpfd/registries.toml", "[proxy]\nhttps = \"http://127.0.0.1:1\"\n");
    let text = home.run_with(inspect, &proxy, "");
    assert!(text.contains("cause: cannot reach `unknown.invalid:443` through the proxy `127.0.0.1:1`: "), "{text}");
    let named = "does the proxy run, and does it let you through? `[proxy]` in registries.toml names it";
    assert_eq!(hint(text).as_deref(), Some(named));
}
