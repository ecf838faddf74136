//! Files and bytes that are taken for more than they are: certificates that anybody may write, keys for which anybody can sign, layers
//! that cost far more to read than they have bytes.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use bpfd_client::proto::v1 as pb;
use bytecode_image::media;
use bytecode_image::reference::Reference;
use bytecode_image::sign::{Signed, sign};
use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::world::{ETC, Images, altered, image};

/// The neutral element of Curve25519 as a public key: RFC 8032's equation holds for the same point as R, and 0 as S, whatever is signed.
fn neutral() -> String {
    let point = format!("AQAA{}AAA=", "A".repeat(36));
    format!("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA{point}\n-----END PUBLIC KEY-----\n")
}

/// What anybody can write as a signature for it.
fn forged() -> String {
    format!("AQAA{}AA==", "A".repeat(80))
}

/// An image in `team` with a signature that nobody made.
fn forge(images: &Images) {
    let digest = images.publish("team/app", &image());
    let reference: Reference = "registry/team/app:1".parse().unwrap();
    let Signed::Appended(signed) = sign(&images.key, &reference, digest, None).unwrap() else { unreachable!() };
    images.registry.put_blob(&signed.payload);
    images.registry.put_blob(&signed.config);
    let mut manifest: Value = serde_json::from_slice(&signed.manifest).unwrap();
    manifest["layers"][0]["annotations"][media::ANNOTATION_SIGNATURE] = json!(forged());
    let place = reference.signatures(digest);
    let manifest = manifest.to_string().into_bytes();
    images.registry.put_manifest("team/app", place.tag().unwrap(), media::MANIFEST, &manifest);
}

#[test]
fn a_key_for_which_anybody_can_sign_is_no_key() {
    let mut images = Images::new();
    forge(&images);
    let trusted = images.host.path(&format!("{ETC}/ci.pub"));
    let honest = fs::read_to_string(&trusted).unwrap();
    fs::write(images.host.path("/run/neutral.pub"), neutral()).unwrap();
    let said = images.host.bpfctl("trust add other --key /run/neutral.pub --scope registry/other/**");
    assert_snapshot!(said.refused(2), @"
    error: cannot use the key `/run/neutral.pub`
    cause: this Ed25519 key is degenerate: anybody can make signatures for it
    hint: give the public key: `bpfctl keygen` writes it to the file that ends in `.pub`
    ");
    // The daemon does not rely on what bpfctl refuses.
    let added = images.host.try_ask(async |daemon| {
        let (name, scope) = ("other".to_owned(), "registry/other/**".to_owned());
        daemon
            .add_trust(pb::AddTrustRequest { name, scope, public_key: neutral().into_bytes(), ..Default::default() })
            .await
    });
    assert!(added.is_err(), "{added:?}");
    // In a file of the policy: the daemon goes by the policy that it had, and adds nothing.
    images.host.stop();
    fs::write(&trusted, neutral()).unwrap();
    images.host.start();
    let said = images.host.bpfctl("load -q --image registry/team/app:1 xdp -i uplink");
    assert!(said.refused(4).contains("degenerate"), "it runs with it, and what nobody signed");
    images.host.stop();
    // The control: with the key that it had, it starts, and refuses the signature.
    fs::write(&trusted, honest).unwrap();
    images.host.start();
    assert_snapshot!(images.refuses(6, "registry/team/app:1"), @"
    error: image `registry/team/app:1` (sha256:SHA256) is refused by policy
    cause: 0 of 1 required signatures count (scope `registry/team/**`, signers `ci`); signature 1 (legacy): no key of these signers made it
    hint: have it signed by `ci`: `bpfctl image sign registry/team/app@sha256:SHA256 --key FILE`
    ");
}

#[test]
fn certificates_that_others_could_have_written_are_not_used() {
    let mut images = Images::new();
    images.publish("open/app", &image());
    images.host.stop();
    let (registries, file) =
        ["registries.toml", "ca.pem"].map(|name| images.host.path(&format!("{ETC}/{name}"))).into();
    let known = fs::read_to_string(&registries).unwrap();
    let more = format!("[[registry]]\nname = \"other.example\"\nca = \"{ETC}/ca.pem\"\n");
    fs::write(&registries, known + &more).unwrap();
    let honest = || {
        fs::remove_file(&file).unwrap_or_default();
        fs::write(&file, "PEM").unwrap();
    };
    let ways: [(&str, &dyn Fn()); 4] = [
        ("anybody's to write", &|| fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap()),
        ("a member's", &|| chown(&file, Some(4711), None).unwrap()),
        ("a link", &|| {
            fs::rename(&file, file.with_extension("real")).unwrap();
            symlink(file.with_extension("real"), &file).unwrap();
        }),
        ("a pipe", &|| {
            fs::remove_file(&file).unwrap();
            images.host.shell(&format!("mkfifo -m 600 {ETC}/ca.pem"));
        }),
    ];
    let mut told = Vec::new();
    for (what, spoil) in ways {
        honest();
        let daemon = images.host.spawn(&[]).unwrap();
        images.host.bpfctl("image pull -q registry/open/app:1").ok();
        spoil();
        let said = images.host.bpfctl("image pull -q registry/open/app:1 --timeout 20");
        assert_ne!(said.code, 0, "{what}: {said}");
        told.push(format!("{what}: {}", said.stable()));
        drop(daemon);
        assert_eq!(images.host.spawn(&[]).err().and_then(|ended| ended.code()), Some(1), "{what}");
    }
    assert_snapshot!(told.join("\n"), @"
    anybody's to write: $ bpfctl image pull -q registry/open/app:1 --timeout 20
    --- stderr
    error: cannot pull `registry/open/app:1`
    cause: cannot read the certificate authorities in `/run/case/etc/bpfd/ca.pem`: its mode is 666; only its owner may be allowed to write: `chmod go-w`
    hint: correct the file; bpfd reads it at each pull
    --- exit 2

    a member's: $ bpfctl image pull -q registry/open/app:1 --timeout 20
    --- stderr
    error: cannot pull `registry/open/app:1`
    cause: cannot read the certificate authorities in `/run/case/etc/bpfd/ca.pem`: it belongs to uid 4711; it must belong to root: `chown root`
    hint: correct the file; bpfd reads it at each pull
    --- exit 2

    a link: $ bpfctl image pull -q registry/open/app:1 --timeout 20
    --- stderr
    error: cannot pull `registry/open/app:1`
    cause: cannot read the certificate authorities in `/run/case/etc/bpfd/ca.pem`: Too many levels of symbolic links (os error 40)
    hint: correct the file; bpfd reads it at each pull
    --- exit 2

    a pipe: $ bpfctl image pull -q registry/open/app:1 --timeout 20
    --- stderr
    error: cannot pull `registry/open/app:1`
    cause: cannot read the certificate authorities in `/run/case/etc/bpfd/ca.pem`: it is not a regular file
    hint: correct the file; bpfd reads it at each pull
    --- exit 2
    ");
    honest();
    images.host.start();
    images.host.bpfctl("image pull -q registry/open/app:1").ok();
}

#[test]
fn a_layer_of_empty_streams_is_refused() {
    let images = Images::new();
    // RFC 1952: a header, an empty final block, a checksum and a length of nothing.
    const EMPTY: [u8; 20] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let padded = |members: usize| {
        let layer = [image().layer, EMPTY.repeat(members)].concat();
        images.publish("open/app", &altered(None, Some((media::LAYER_TAR_GZIP, layer))));
    };
    padded(1024);
    assert_snapshot!(images.refuses(1, "registry/open/app:1"), @"
    error: cannot take the object from the image's layer
    cause: layer has more than 1024 compressed streams one behind the other
    hint: build it with `bpfctl image build`
    ");
    padded(1023);
    images.host.bpfctl("load -q --image registry/open/app:1 xdp -i uplink").ok();
}
