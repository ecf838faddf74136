//! A sigstore of the tests' own: an authority that certifies identities, a log of certificates and a transparency log, and the trusted
//! root that names them. Its keys are made anew in each run. Nothing of it is anybody else's.
//!
//! Certificates are written by hand (RFC 5280), as Fulcio writes them (sigstore `fulcio/docs/oid-info.md`), so that each of their parts
//! can be wrong.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytecode_image::{
    digest::Digest,
    key::{Scheme, SigningKey},
};
use serde_json::{Value, json};

/// When the authority began, and when it ends: seconds, and UTCTime.
const SINCE: (&str, &str) = ("2025-01-01T00:00:00Z", "250101000000Z");
const UNTIL: (&str, &str) = ("2035-01-01T00:00:00Z", "350101000000Z");
/// The ten minutes of a certificate.
pub(crate) const CERTIFIED: (&str, &str) = ("250201120000Z", "250201121000Z");
/// Within them.
pub(crate) const SIGNED_AT: i64 = 1_738_411_500;

pub(crate) const ISSUER: &str = "https://token.acme.example";
pub(crate) const IDENTITY: &str = "https://git.acme.example/bpf/.ci/release.yaml@refs/tags/v1";

pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let head = match length {
        [0, short] if short < 0x80 => vec![tag, short],
        [0, short] => vec![tag, 0x81, short],
        [high, low] => vec![tag, 0x82, high, low],
    };
    [head, content].concat()
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    der(0x30, parts)
}

fn oid(arcs: &[u32]) -> Vec<u8> {
    let mut content = vec![u8::try_from(arcs[0] * 40 + arcs[1]).unwrap()];
    for arc in &arcs[2..] {
        let mut septets = vec![u8::try_from(arc & 0x7f).unwrap()];
        let mut rest = arc >> 7;
        while rest > 0 {
            septets.insert(0, u8::try_from(rest & 0x7f).unwrap() | 0x80);
            rest >>= 7;
        }
        content.extend(septets);
    }
    der(0x06, &[&content])
}

fn name(common: &str) -> Vec<u8> {
    sequence(&[&der(0x31, &[&sequence(&[&oid(&[2, 5, 4, 3]), &der(0x0c, &[common.as_bytes()])])])])
}

fn extension(arcs: &[u32], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[0x01, 0x01, 0xff] } else { &[] };
    sequence(&[&oid(arcs), critical, &der(0x04, &[value])])
}

/// What a certificate says.
struct Certificate<'a> {
    issuer: &'a str,
    subject: &'a str,
    validity: (&'a str, &'a str),
    key: &'a SigningKey,
    extensions: Vec<Vec<u8>>,
}

impl Certificate<'_> {
    fn to_be_signed(&self) -> Vec<u8> {
        let Self { issuer, subject, validity: (from, to), key, extensions } = self;
        let time = |text: &str| der(0x17, &[text.as_bytes()]);
        let subject = if subject.is_empty() { sequence(&[]) } else { name(subject) };
        sequence(&[
            &der(0xa0, &[&[0x02, 0x01, 0x02]]),
            &[0x02, 0x01, 0x2a],
            &ecdsa(),
            &name(issuer),
            &sequence(&[&time(from), &time(to)]),
            &subject,
            &key.public().spki(),
            &der(0xa3, &[&sequence(&[&extensions.concat()])]),
        ])
    }

    fn signed_by(&self, issuer: &SigningKey) -> Vec<u8> {
        let content = self.to_be_signed();
        let signature = issuer.sign(&content).unwrap();
        sequence(&[&content, &ecdsa(), &der(0x03, &[&[0], &signature])])
    }
}

/// ecdsa-with-SHA256
fn ecdsa() -> Vec<u8> {
    sequence(&[&oid(&[1, 2, 840, 10045, 4, 3, 2])])
}

/// What may be wrong with a certificate.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wrong {
    /// No timestamp of the log of certificates.
    pub(crate) no_sct: bool,
    /// One by another log.
    pub(crate) other_ct_log: bool,
    /// For servers, not for code.
    pub(crate) purpose: bool,
    /// No identity.
    pub(crate) nameless: bool,
}

/// A sigstore.
pub(crate) struct Sigstore {
    ca: SigningKey,
    /// Its certificate.
    authority: Vec<u8>,
    ct_log: SigningKey,
    log: SigningKey,
}

/// A key with its certificate.
pub(crate) struct Certified {
    pub(crate) key: SigningKey,
    pub(crate) certificate: Vec<u8>,
}

impl Certified {
    pub(crate) fn pem(&self) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", base64(&self.certificate))
    }
}

impl Sigstore {
    pub(crate) fn new() -> Self {
        let key = || SigningKey::generate(Scheme::P256).unwrap();
        let (ca, ct_log, log) = (key(), key(), key());
        let extensions = vec![
            extension(&[2, 5, 29, 15], true, &[0x03, 0x02, 0x01, 0x06]),
            extension(&[2, 5, 29, 19], true, &sequence(&[&[0x01, 0x01, 0xff]])),
        ];
        let validity = (SINCE.1, UNTIL.1);
        let authority = Certificate { issuer: "acme", subject: "acme", validity, key: &ca, extensions }.signed_by(&ca);
        Self { ca, authority, ct_log, log }
    }

    /// The `trusted_root.json`.
    pub(crate) fn root(&self) -> Value {
        let log = |key: &SigningKey| {
            json!({
                "baseUrl": "https://log.acme.example", "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": base64(key.public().spki()), "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": {"start": SINCE.0},
                },
                "logId": {"keyId": base64(key.public().fingerprint().bytes())},
            })
        };
        json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(&self.log)],
            "certificateAuthorities": [{
                "subject": {"organization": "acme", "commonName": "acme"}, "uri": "https://ca.acme.example",
                "certChain": {"certificates": [{"rawBytes": base64(&self.authority)}]},
                "validFor": {"start": SINCE.0},
            }],
            "ctlogs": [log(&self.ct_log)],
            "timestampAuthorities": [],
        })
    }

    /// Certifies an identity for ten minutes.
    pub(crate) fn certify(&self, identity: &str, issuer: &str, wrong: Wrong) -> Certified {
        let key = SigningKey::generate(Scheme::P256).unwrap();
        let purpose = if wrong.purpose { 1 } else { 3 };
        let mut extensions = vec![
            extension(&[2, 5, 29, 15], true, &[0x03, 0x02, 0x07, 0x80]),
            extension(&[2, 5, 29, 37], false, &sequence(&[&oid(&[1, 3, 6, 1, 5, 5, 7, 3, purpose])])),
            extension(&[1, 3, 6, 1, 4, 1, 57264, 1, 8], false, &der(0x0c, &[issuer.as_bytes()])),
        ];
        if !wrong.nameless {
            let names = sequence(&[&der(0x86, &[identity.as_bytes()])]);
            extensions.push(extension(&[2, 5, 29, 17], true, &names));
        }
        let mut certificate = Certificate { issuer: "acme", subject: "", validity: CERTIFIED, key: &key, extensions };
        if !wrong.no_sct {
            let log = if wrong.other_ct_log { &self.log } else { &self.ct_log };
            let sct = self.sct(log, &certificate.to_be_signed());
            certificate.extensions.push(extension(&[1, 3, 6, 1, 4, 1, 11129, 2, 4, 2], false, &der(0x04, &[&sct])));
        }
        let certificate = certificate.signed_by(&self.ca);
        Certified { key, certificate }
    }

    /// A list of one timestamp (RFC 6962 §3.2, §3.3).
    fn sct(&self, log: &SigningKey, precertificate: &[u8]) -> Vec<u8> {
        let time = (SIGNED_AT * 1000).to_be_bytes();
        let length = u32::try_from(precertificate.len()).unwrap().to_be_bytes();
        let issuer = self.ca.public().fingerprint();
        let signed = [&[0, 0][..], &time, &[0, 1], issuer.bytes(), &length[1..], precertificate, &[0, 0]].concat();
        let signature = log.sign(&signed).unwrap();
        let prefixed = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
        let fingerprint = log.public().fingerprint();
        let sct = [&[0][..], fingerprint.bytes(), &time, &[0, 0, 4, 3], &prefixed(&signature)].concat();
        prefixed(&prefixed(&sct))
    }

    /// The log's promise about an entry, as Rekor signs it: over canonical JSON.
    pub(crate) fn promise(&self, body: &str, time: i64) -> String {
        let id = self.log.public().fingerprint().hex();
        let signed = json!({"body": base64(body), "integratedTime": time, "logID": id, "logIndex": 0});
        base64(self.log.sign(signed.to_string().as_bytes()).unwrap())
    }

    pub(crate) fn log_id(&self) -> Digest {
        self.log.public().fingerprint()
    }

    /// The log's entry about something, the only one in it.
    pub(crate) fn entry(&self, body: &Value, time: i64) -> Value {
        let text = body.to_string();
        let root = Digest::of(&[&[0], text.as_bytes()].concat());
        let head = format!("log.acme.example\n1\n{}\n", base64(root.bytes()));
        let id = self.log_id();
        let signature = [&id.bytes()[..4], &self.log.sign(head.as_bytes()).unwrap()].concat();
        json!({
            "logIndex": "0",
            "logId": {"keyId": base64(id.bytes())},
            "kindVersion": {"kind": body["kind"], "version": body["apiVersion"]},
            "integratedTime": time.to_string(),
            "inclusionPromise": {"signedEntryTimestamp": self.promise(&text, time)},
            "inclusionProof": {
                "logIndex": "0", "rootHash": base64(root.bytes()), "treeSize": "1", "hashes": [],
                "checkpoint": {"envelope": format!("{head}\n\u{2014} log.acme.example {}\n", base64(signature))},
            },
            "canonicalizedBody": base64(&text),
        })
    }
}
