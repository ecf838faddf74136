//! The steps of `examples/ci`, with a key: what they release passes the policy of the page and loads by digest; what was not attested does
//! not; and two builds of one source, in two directories, are one image.

use std::fs;
use std::path::Path;

use bpfd_tests::Host;
use bytecode_image::testing::registry::{Options, TestRegistry};

/// The policy that the page shows, for the registry and the key of the case.
fn policy(page: &str) -> String {
    let (_, rest) = page.split_once("```toml\n").unwrap();
    let policy = rest.split_once("```").unwrap().0;
    policy.replace("registry.example", "registry").replace("/etc/bpfd/keys", "/run/case/etc/bpfd")
}

const SETUP: &str = r#"
export PATH=/run/bin:$PATH XDG_CONFIG_HOME=/run/ci/config
cd /run/ci
bpfctl keygen -q ci.key >nothing
cp ci.key.pub /run/case/etc/bpfd/ci.pub
echo '{"spdxVersion": "SPDX-2.3", "packages": []}' >sbom.json
for directory in first second; do
    mkdir $directory
    cp "$EXAMPLES/xdp-counter/xdp-counter.bpf.c" "$EXAMPLES/xdp-counter/bytecode.toml" $directory
done
"#;

/// A step is run as the page says, in one of the two directories.
const STEPS: &str = r#"
export PATH=/run/bin:$PATH XDG_CONFIG_HOME=/run/ci/config
export IMAGE=registry/bpf/xdp-counter VERSION=0.1.0 SOURCE=xdp-counter.bpf.c METADATA=bytecode.toml POLICY=/run/case/etc/bpfd/policy.toml
export KEY=/run/ci/ci.key SBOM=/run/ci/sbom.json SOURCE_DATE_EPOCH=1700000000
cd /run/ci/$DIRECTORY
sh "$EXAMPLES/ci/release.sh" $WORDS
"#;

#[test]
fn the_pipeline_releases_what_its_policy_lets_through() {
    let mut host = Host::without_daemon();
    host.shell("mkdir -p /run/ci/config/bpfd /run/case/etc/bpfd");
    let registry = host.within(|| TestRegistry::start(Options::default())).unwrap();
    let known = format!("[[registry]]\nname = \"registry\"\nendpoint = \"{}\"\nhttp = true\n", registry.address());
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").canonicalize().unwrap();
    let page = fs::read_to_string(examples.join("ci/README.md")).unwrap();
    fs::write(host.path("/run/ci/config/bpfd/registries.toml"), &known).unwrap();
    fs::write(host.path("/run/case/etc/bpfd/registries.toml"), &known).unwrap();
    fs::write(host.path("/run/case/etc/bpfd/policy.toml"), policy(&page)).unwrap();
    let with = |words: &str| format!("EXAMPLES={}\n{words}", examples.display());
    host.shell(&with(SETUP));
    let run =
        |directory: &str, words: &str| host.shell(&with(&format!("DIRECTORY={directory} WORDS='{words}'\n{STEPS}")));
    for directory in ["first", "second"] {
        run(directory, "compile lint build");
    }
    let digest = |directory: &str| {
        fs::read_to_string(host.path(&format!("/run/ci/{directory}/out/digest"))).unwrap().trim().to_owned()
    };
    assert_eq!(digest("first"), digest("second"), "one source is one image, wherever it is built");

    run("first", "push sign");
    let verify = host.command("sh").args(["-c", &with(&format!("DIRECTORY=first WORDS=verify\n{STEPS}"))]).output();
    let verify = verify.unwrap();
    assert_eq!(verify.status.code(), Some(6), "{}", String::from_utf8_lossy(&verify.stderr));
    let told = String::from_utf8(verify.stdout).unwrap();
    assert!(told.contains("0 of 1 required attestations of type `https://slsa.dev/provenance/v1` count"), "{told}");

    let told = run("first", "attest verify deploy");
    assert!(!told.contains("FAILS"), "{told}");
    let deployed = fs::read_to_string(host.path("/run/ci/first/out/program.toml")).unwrap();
    let image = format!("registry/bpf/xdp-counter@{}", digest("first"));
    assert!(deployed.contains(&image), "{deployed}");
    host.start();
    host.bpfctl(&format!("load -q --image {image} xdp -i uplink")).ok();
    host.ping(5);
    assert_eq!(host.counted("xdp-counter"), 5);
    // The tag is no digest, which the page's policy asks for.
    host.bpfctl("load -q --image registry/bpf/xdp-counter:0.1.0 --name tag").refused(6);
}
