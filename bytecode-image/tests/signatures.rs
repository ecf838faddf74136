//! Keys and signatures against an independent peer, the `openssl` command: each verifies what the other made.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]
#![expect(clippy::panic, reason = "a machine without the peer must fail loudly")]

use std::{fs, path::Path, process::Command};

use base64::{Engine, engine::general_purpose::STANDARD};
use bpfd_policy::reference::in_full;
use bytecode_image::{
    auth::Secret,
    digest::Digest,
    key::{KeyError, Scheme, SigningKey, VerifyingKey},
    limits,
    reference::Reference,
    sign::{SignError, Signed, claim, payload, sign},
};
use serde_json::Value;
use tempfile::TempDir;

/// Runs `openssl` in a directory; true if it succeeds.
fn openssl(directory: &Path, arguments: &str) -> bool {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output();
    match output {
        Ok(output) => output.status.success(),
        Err(error) => panic!("these tests need the `openssl` command: {error}"),
    }
}

/// How `openssl` signs and verifies the file `message`.
fn verb(scheme: Scheme) -> (&'static str, &'static str, &'static str) {
    match scheme {
        Scheme::P256 => (
            "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem",
            "dgst -sha256 -sign key.pem -out signature message",
            "dgst -sha256 -verify key.pub -signature signature message",
        ),
        Scheme::Ed25519 => (
            "genpkey -algorithm ed25519 -out key.pem",
            "pkeyutl -sign -inkey key.pem -rawin -in message -out signature",
            "pkeyutl -verify -pubin -inkey key.pub -rawin -in message -sigfile signature",
        ),
    }
}

const SCHEMES: [Scheme; 2] = [Scheme::P256, Scheme::Ed25519];

fn reference() -> Reference {
    "reg.acme:5000/bpf/xdp:v1".parse().unwrap()
}

#[test]
fn openssl_reads_our_keys_and_verifies_our_signatures() {
    for scheme in SCHEMES {
        let directory = TempDir::new().unwrap();
        let at = |name: &str| directory.path().join(name);
        let key = SigningKey::generate(scheme).unwrap();
        let message = payload(&reference(), Digest::of(b"manifest")).unwrap();
        fs::write(at("key.pem"), key.to_pem().unwrap().reveal()).unwrap();
        fs::write(at("key.pub"), key.public().to_pem()).unwrap();
        fs::write(at("message"), &message).unwrap();
        fs::write(at("signature"), key.sign(&message).unwrap()).unwrap();
        let (_, _, verify) = verb(scheme);
        assert!(openssl(directory.path(), verify), "{scheme:?}");
        assert!(openssl(directory.path(), "pkey -in key.pem -pubout -out derived.pub"), "{scheme:?}");
        assert_eq!(fs::read_to_string(at("derived.pub")).unwrap(), key.public().to_pem(), "{scheme:?}");
        fs::write(at("message"), [&message[..], b"."].concat()).unwrap();
        assert!(!openssl(directory.path(), verify), "the peer notices another message, {scheme:?}");
    }
}

#[test]
fn we_read_the_keys_of_openssl_and_verify_its_signatures() {
    for scheme in SCHEMES {
        let directory = TempDir::new().unwrap();
        let at = |name: &str| directory.path().join(name);
        let (generate, sign, _) = verb(scheme);
        fs::write(at("message"), b"any bytes").unwrap();
        for command in [generate, "pkey -in key.pem -pubout -out key.pub", sign] {
            assert!(openssl(directory.path(), command), "{command}");
        }
        let public = VerifyingKey::from_pem(&fs::read_to_string(at("key.pub")).unwrap()).unwrap();
        let signature = fs::read(at("signature")).unwrap();
        assert_eq!(public.scheme(), scheme);
        assert!(public.verifies(b"any bytes", &signature));
        assert!(!public.verifies(b"any byteS", &signature));
        let private = SigningKey::from_pem(&fs::read_to_string(at("key.pem")).unwrap()).unwrap();
        assert_eq!(private.public(), public);
        assert!(public.verifies(b"x", &private.sign(b"x").unwrap()));
    }
}

#[test]
fn every_flipped_bit_of_a_signature_is_noticed() {
    for scheme in SCHEMES {
        let key = SigningKey::generate(scheme).unwrap();
        let signature = key.sign(b"message").unwrap();
        for bit in 0..signature.len() * 8 {
            let mut wrong = signature.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.public().verifies(b"message", &wrong), "{scheme:?} bit {bit}");
        }
        assert!(!key.public().verifies(b"message", b""));
        assert!(!SigningKey::generate(scheme).unwrap().public().verifies(b"message", &signature));
    }
}

#[test]
fn each_wrong_key_file_has_its_own_error() {
    let directory = TempDir::new().unwrap();
    let made = |command: &str| {
        assert!(openssl(directory.path(), command), "{command}");
        fs::read_to_string(directory.path().join("out")).unwrap()
    };
    let p384 = made("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out out");
    let rsa = made("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out out");
    let sec1 = made("ecparam -name prime256v1 -genkey -noout -out out");
    let key = SigningKey::generate(Scheme::P256).unwrap();
    let private = key.to_pem().unwrap().reveal().clone();
    fs::write(directory.path().join("plain"), &private).unwrap();
    let encrypted = made("pkcs8 -topk8 -in plain -passout pass:x -out out");
    let public = key.public().to_pem();
    let compressed = made("pkey -in plain -pubout -ec_conv_form compressed -out out");
    let mut spki = key.public().spki();
    *spki.last_mut().unwrap() ^= 1;
    let off_curve = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", STANDARD.encode(spki));
    let of = |text: &str| SigningKey::from_pem(text).unwrap_err();
    assert!(matches!(of(&p384), KeyError::OtherScheme("ECDSA P-384")));
    assert!(matches!(of(&rsa), KeyError::OtherScheme("RSA")));
    assert!(matches!(of(&sec1), KeyError::Sec1));
    assert!(matches!(of(&encrypted), KeyError::Encrypted));
    assert!(matches!(
        of("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAA==\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----"),
        KeyError::NeedsPassword
    ));
    assert!(matches!(of(&public), KeyError::PublicKey));
    assert!(matches!(of(""), KeyError::NotPem("PRIVATE KEY")));
    fs::write(directory.path().join("plain"), &p384).unwrap();
    let p384 = made("pkey -in plain -pubout -out out");
    let of = |text: &str| VerifyingKey::from_pem(text).unwrap_err();
    assert_eq!(of(&p384).to_string(), "the key is ECDSA P-384; only ECDSA P-256 and Ed25519 are supported");
    assert!(matches!(of(&private), KeyError::PrivateKey));
    assert!(matches!(of(&sec1), KeyError::PrivateKey));
    assert!(matches!(of(&compressed), KeyError::Scheme));
    assert!(matches!(of(&off_curve), KeyError::Scheme));
    assert!(matches!(of("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----"), KeyError::OtherBlock { .. }));
    assert!(matches!(of("-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----"), KeyError::Base64(_)));
    assert!(matches!(of("-----BEGIN PUBLIC KEY-----\nAA=="), KeyError::NotPem("PUBLIC KEY")));
    assert!(matches!(of(&format!("{public}{public}")), KeyError::NotPem("PUBLIC KEY")));
    assert!(matches!(of(&"x".repeat(20 << 10)), KeyError::TooLong(20480)));
    assert!(VerifyingKey::from_pem(&format!("a comment\n{}", public.replace('\n', "\r\n"))).is_ok());
    assert!(!format!("{key:?}").contains(private.lines().nth(1).unwrap()), "Debug shows no private key");
}

#[test]
fn a_key_for_which_anybody_can_sign_is_no_key() {
    let pem = |point: [u8; 32]| {
        let spki = [&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00][..], &point].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(spki))
    };
    let read = |point| VerifyingKey::from_pem(&pem(point));
    let small = |least: u8| {
        let mut point = [0; 32];
        point[0] = least;
        point
    };
    let large = |least: u8| {
        let mut point = [0xff; 32];
        (point[0], point[31]) = (least, 0x7f);
        point
    };
    let of_order_8 = [
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    ];
    let of_order_8 = of_order_8.map(|text| {
        let digit = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap();
        std::array::from_fn(digit)
    });
    // With either sign; and what is no number of the field, each a second encoding of another point.
    let others = [small(0), small(1), large(0xec)].into_iter().chain(of_order_8).chain((0xed..=0xff).map(large));
    for point in others {
        for sign in [0, 0x80] {
            let mut point = point;
            point[31] |= sign;
            assert!(matches!(read(point), Err(KeyError::Degenerate)), "{point:?}");
        }
    }
    // A signature for the neutral element, over anything: the library itself takes it.
    let forged = [small(1), small(0)].concat();
    let unchecked = aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, small(1));
    assert!(unchecked.verify(b"anything", &forged).is_ok());
    let honest = SigningKey::generate(Scheme::Ed25519).unwrap().public();
    assert_eq!(VerifyingKey::from_pem(&honest.to_pem()).unwrap(), honest);
}

#[test]
fn the_payload_is_cosigns_to_the_byte() {
    let digest = Digest::of(b"");
    let text = format!(
        r#"{{"critical":{{"identity":{{"docker-reference":"reg.acme:5000/bpf/xdp:v1"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"cosign container image signature"}},"optional":null}}"#
    );
    assert_eq!(String::from_utf8(payload(&reference(), digest).unwrap()).unwrap(), text);
    let read = claim(text.as_bytes()).unwrap();
    assert_eq!((read.docker_reference.as_deref(), read.manifest), (Some("reg.acme:5000/bpf/xdp:v1"), digest));
    let by_digest = payload(&reference().by_digest(digest), digest).unwrap();
    assert_eq!(claim(&by_digest).unwrap().docker_reference.as_deref(), Some("reg.acme:5000/bpf/xdp"));
    let other = text.replace("cosign container image", "atomic container");
    assert_eq!(
        claim(other.as_bytes()).unwrap_err().to_string(),
        "signed payload is of type `atomic container signature`, not `cosign container image signature`"
    );
    assert!(claim(b"{}").is_err());
}

fn appended(signed: Signed) -> bytecode_image::sign::SignatureManifest {
    match signed {
        Signed::Appended(manifest) => manifest,
        Signed::AlreadySigned => panic!("was signed already"),
    }
}

#[test]
fn a_second_signature_is_appended_and_the_first_left_as_it_is() {
    let digest = Digest::of(b"manifest");
    let (first, second) = (SigningKey::generate(Scheme::P256).unwrap(), SigningKey::generate(Scheme::Ed25519).unwrap());
    let one = appended(sign(&first, &reference(), digest, None).unwrap());
    let mut manifest: Value = serde_json::from_slice(&one.manifest).unwrap();
    manifest["layers"][0]["annotations"]["dev.sigstore.cosign/bundle"] = "{\"of\":\"another tool\"}".into();
    manifest["annotations"] = serde_json::json!({"kept": "yes"});
    let existing = serde_json::to_vec(&manifest).unwrap();
    let two = appended(sign(&second, &reference(), digest, Some(&existing)).unwrap());
    let document: Value = serde_json::from_slice(&two.manifest).unwrap();
    assert_eq!(document["layers"][0], manifest["layers"][0]);
    assert_eq!(document["annotations"], manifest["annotations"]);
    assert_eq!(document["layers"].as_array().unwrap().len(), 2);
    assert_eq!(document["layers"][1]["digest"], Digest::of(&two.payload).to_string());
    assert_eq!(document["config"]["digest"], Digest::of(&two.config).to_string());
    let config: Value = serde_json::from_slice(&two.config).unwrap();
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);
}

#[test]
fn signing_the_same_twice_changes_nothing_but_another_name_is_a_new_signature() {
    let digest = Digest::of(b"manifest");
    for scheme in SCHEMES {
        let key = SigningKey::generate(scheme).unwrap();
        let one = appended(sign(&key, &reference(), digest, None).unwrap()).manifest;
        assert_eq!(sign(&key, &reference(), digest, Some(&one)).unwrap(), Signed::AlreadySigned);
        let other = reference().by_tag("v2").unwrap();
        let two = appended(sign(&key, &other, digest, Some(&one)).unwrap()).manifest;
        assert_eq!(sign(&key, &reference(), digest, Some(&two)).unwrap(), Signed::AlreadySigned);
    }
}

#[test]
fn nothing_is_signed_into_a_full_or_a_foreign_manifest() {
    let digest = Digest::of(b"manifest");
    let key = SigningKey::generate(Scheme::Ed25519).unwrap();
    let mut existing = None;
    for number in 0..limits::SIGNATURES {
        let name = reference().by_tag(&format!("v{number}")).unwrap();
        existing = Some(appended(sign(&key, &name, digest, existing.as_deref()).unwrap()).manifest);
    }
    let full = sign(&key, &reference().by_tag("one-more").unwrap(), digest, existing.as_deref());
    assert!(matches!(full, Err(SignError::Full(32))));
    let index = br#"{"schemaVersion":2,"manifests":[]}"#;
    assert!(matches!(sign(&key, &reference(), digest, Some(index)), Err(SignError::NotSignatures("layers"))));
    assert!(matches!(sign(&key, &reference(), digest, Some(b"<html>")), Err(SignError::Json(_))));
}

/// The password of the keys in `tests/keys`, which the library that cosign uses encrypted (`generate.go`).
const PASSWORD: &str = "correct horse";

fn sealed(text: &str, password: &str) -> Result<SigningKey, KeyError> {
    SigningKey::from_encrypted_pem(text, &Secret::new(password.to_owned()))
}

#[test]
fn keys_that_cosign_encrypted_sign_with_their_password() {
    for (private, public) in [
        (include_str!("keys/p256.key"), include_str!("keys/p256.pub")),
        (include_str!("keys/p256-older.key"), include_str!("keys/p256.pub")),
        (include_str!("keys/ed25519.key"), include_str!("keys/ed25519.pub")),
    ] {
        assert!(matches!(SigningKey::from_pem(private), Err(KeyError::NeedsPassword)));
        let key = sealed(private, PASSWORD).unwrap();
        let public = VerifyingKey::from_pem(public).unwrap();
        assert_eq!(key.public(), public);
        assert!(public.verifies(b"message", &key.sign(b"message").unwrap()));
    }
}

#[test]
fn an_encrypted_key_that_cannot_be_used_says_why() {
    let good = include_str!("keys/p256.key");
    let of = |text: &str, password: &str| in_full(&sealed(text, password).unwrap_err());
    let wrong = "the private key cannot be decrypted: the password is wrong, or the key is damaged";
    assert_eq!(of(good, "correct hors"), wrong);
    assert_eq!(of(good, ""), wrong);
    assert_eq!(
        of(include_str!("keys/p384.key"), PASSWORD),
        "the key is ECDSA P-384; only ECDSA P-256 and Ed25519 are supported"
    );
    let plain = SigningKey::generate(Scheme::P256).unwrap().to_pem().unwrap();
    assert!(matches!(sealed(plain.reveal(), PASSWORD), Err(KeyError::OtherBlock { .. })));

    // What is inside the block, changed.
    let body: String = good.lines().filter(|line| !line.starts_with('-')).collect();
    let inside: Value = serde_json::from_slice(&STANDARD.decode(body).unwrap()).unwrap();
    let changed = |at: &str, value: Value| {
        let mut inside = inside.clone();
        *inside.pointer_mut(at).unwrap() = value;
        let (begin, end) =
            ("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----", "-----END ENCRYPTED SIGSTORE PRIVATE KEY-----");
        of(&format!("{begin}\n{}\n{end}\n", STANDARD.encode(inside.to_string())), PASSWORD)
    };
    assert_eq!(changed("/ciphertext", STANDARD.encode([0; 64]).into()), wrong);
    assert_eq!(changed("/ciphertext", "".into()), wrong);
    assert_eq!(
        changed("/kdf/params/N", (1_u64 << 40).into()),
        "the private key cannot be decrypted: its scrypt parameters are N=1099511627776, r=8, p=1, and not those that cosign writes"
    );
    for (at, value) in [("/kdf/params/N", 65535), ("/kdf/params/r", 1 << 20), ("/kdf/params/p", 64)] {
        assert!(changed(at, value.into()).contains("not those that cosign writes"), "{at}");
    }
    assert_eq!(
        changed("/cipher/name", "rot13\u{1b}[2J".into()),
        "the private key cannot be decrypted: it is encrypted by `scrypt` and `rot13[2J`, not by `scrypt` and `nacl/secretbox`"
    );
    assert_eq!(
        changed("/cipher/nonce", "AAAA".into()),
        "the private key cannot be decrypted: its nonce has the wrong length"
    );
    assert_eq!(
        changed("/kdf/salt", "AAAA".into()),
        "the private key cannot be decrypted: its salt has the wrong length"
    );
    assert!(changed("/kdf", "x".into()).starts_with("the private key cannot be decrypted: not the JSON of a key"));
}
