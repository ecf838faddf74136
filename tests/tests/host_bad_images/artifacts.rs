//! What is no bytecode image, or an old one; and what lies where signatures should be.

use std::fs;

use bpfd_tests::example;
use bytecode_image::build::BuiltImage;
use bytecode_image::media;
use bytecode_image::reference::Reference;
use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::world::{Images, altered, image};

/// The image with a configuration of another type.
fn artifact(config: &str) -> BuiltImage {
    let BuiltImage { manifest, config: bytes, layer } = image();
    let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
    *manifest.pointer_mut("/config/mediaType").unwrap() = config.into();
    BuiltImage { manifest: manifest.to_string().into_bytes(), config: bytes, layer }
}

#[test]
fn an_artifact_of_another_kind_is_refused_by_name_once_its_signatures_were_judged() {
    let images = Images::new();
    let wasm = artifact("application/vnd.wasm.config.v0+json");
    images.publish("open/app", &wasm);
    assert_snapshot!(images.refuses(1, "registry/open/app:1"), @"
    error: `registry/open/app:1` cannot be used here
    cause: it is a WebAssembly module, not a bytecode image: its configuration is of type `application/vnd.wasm.config.v0+json`
    hint: build it with `bpfctl image build`
    ");
    // Whatever else it is, it is unsigned first.
    images.publish("team/app", &wasm);
    assert_snapshot!(images.refuses(6, "registry/team/app:1"), @"
    error: image `registry/team/app:1` (sha256:SHA256) is refused by policy
    cause: it is not signed, and scope `registry/team/**` requires 1 of the signers `ci`
    hint: have it signed by `ci`: `bpfctl image sign registry/team/app@sha256:SHA256 --key FILE`
    ");
    images.sign("team/app", &images.key);
    assert_snapshot!(images.refuses(1, "registry/team/app:1"), @"
    error: `registry/team/app:1` cannot be used here
    cause: it is a WebAssembly module, not a bytecode image: its configuration is of type `application/vnd.wasm.config.v0+json`
    hint: build it with `bpfctl image build`
    ");
}

#[test]
fn something_else_at_the_tag_for_signatures_is_a_warning_only_where_none_are_asked_for() {
    let images = Images::new();
    let mut said = String::new();
    for repository in ["open/app", "team/app"] {
        let digest = images.publish(repository, &image());
        let reference: Reference = format!("registry/{repository}:1").parse().unwrap();
        let tag = reference.signatures(digest).tag().unwrap().to_owned();
        images.registry.put_manifest(repository, &tag, media::MANIFEST, b"{}");
        let loaded = images.host.bpfctl(&format!("load -q --image registry/{repository}:1 xdp -i uplink"));
        said.push_str(&format!("exit {}\n{}", loaded.code, loaded.stable()));
    }
    assert_snapshot!(said, @"
    exit 0
    $ bpfctl load -q --image registry/open/app:1 xdp -i uplink
    app
    --- stderr
    warning: the signature tag of `registry/open/app:1` does not contain a signature manifest: the manifest cannot be read: missing field `schemaVersion` at line 1 column 2
    hint: the policy asks for no signature of this image; with one, it would be refused
    exit 6
    $ bpfctl load -q --image registry/team/app:1 xdp -i uplink
    --- stderr
    error: the signature tag of `registry/team/app:1` does not contain a signature manifest
    cause: the manifest cannot be read: missing field `schemaVersion` at line 1 column 2
    --- exit 6
    ");
}

#[test]
fn an_image_with_the_oldest_labels_and_its_object_in_a_directory_loads() {
    let images = Images::new();
    images.host.shell(&format!(
        "mkdir -p /run/layer/objects; cd /run/layer; cp {} objects/pass.o; tar -cf ../layer.tar objects",
        example("xdp-counter")
    ));
    let layer = fs::read(images.host.path("/run/layer.tar")).unwrap();
    let labelled = |section: &str, kind: &str| {
        let labels = json!({
            "io.ebpf.program_name": "counter", "io.ebpf.section_name": section, "io.ebpf.program_type": kind,
            "io.ebpf.filename": "/objects/pass.o",
        });
        let config = json!({"architecture": "amd64", "os": "linux", "config": {"Labels": labels}, "rootfs": {}});
        altered(Some(config.to_string().into_bytes()), Some((media::LAYER_TAR, layer.clone())))
    };
    images.publish("open/other", &labelled("xdp/other", "xdp"));
    assert_snapshot!(images.refuses(1, "registry/open/other:1"), @"
    error: the image does not match its labels
    cause: label contradicts the object: it lists section `xdp/other`, which the object does not have; it has: xdp
    hint: the image must be rebuilt: `bpfctl image build` takes the labels from the object
    ");
    images.publish("open/other", &labelled("xdp", "tc"));
    images.refuses(1, "registry/open/other:1");
    for (section, repository) in [("xdp", "open/by-section"), ("count", "open/by-function")] {
        images.publish(repository, &labelled(section, "xdp"));
        images.host.bpfctl(&format!("load -q --image registry/{repository}:1 xdp -i uplink")).ok();
    }
}
