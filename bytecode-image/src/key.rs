//! Signing keys: ECDSA P-256 and Ed25519, as PEM.
//!
//! Private keys are PKCS#8 (RFC 5208, RFC 8410), plain or encrypted as cosign does it, public keys SubjectPublicKeyInfo (RFC 5280 §4.1.2.7): what `openssl` and
//! cosign's `cosign.pub` use. Owns what a key file may be. Must never read or write a file itself (its mode is the
//! caller's business), and never show a private key: [`SigningKey`] prints as its public half.

mod encrypted;

use std::{fmt, io};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
        ParsedPublicKey, UnparsedPublicKey,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bpfd_policy::{key::PublicKey, read::KeyFault};

pub use encrypted::EncryptedError;

use crate::{auth::Secret, digest::Digest};

/// Longest key file that is read, in bytes: a P-256 key has 250, and comments may stand around it.
pub const MAX_PEM: usize = 16 << 10;

/// DER of everything before the public point in a P-256 SubjectPublicKeyInfo (RFC 5480 §2.1.1: ecPublicKey, prime256v1,
/// then a bit string with an uncompressed point).
const P256_SPKI: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The same for Ed25519 (RFC 8410 §4).
const ED25519_SPKI: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Points of order 1, 2, 4 and 8 on Curve25519, by their y without the sign bit: for such a key anybody can make signatures (RFC 8032
/// §8.4; libsodium's `ge25519_has_small_order` has the same list, and two encodings more that are not canonical).
const SMALL_ORDER: [[u8; 32]; 5] = [
    [0; 32],
    [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
    ],
];
/// Object identifiers that begin a key of another scheme, in DER (RFC 5480 §2.1.1.1, RFC 8017 appendix A).
const OTHER_SCHEMES: [(&str, &[u8]); 4] = [
    ("ECDSA P-384", &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22]),
    ("ECDSA P-521", &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23]),
    ("ECDSA secp256k1", &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a]),
    ("RSA", &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01]),
];
/// Bytes of a key in DER within which its scheme is named.
const HEAD: usize = 40;
/// The least byte of 2^255 - 19, whose other bytes are all ones: a y from there on has a second encoding (RFC 8032 §5.1.3).
const FIELD_LEAST: u8 = 0xed;

/// The signature scheme of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// ECDSA on P-256 with SHA-256, signatures in ASN.1 DER. What cosign makes.
    P256,
    /// Ed25519, signatures of 64 bytes.
    Ed25519,
}

impl Scheme {
    fn spki(self) -> &'static [u8] {
        match self {
            Self::P256 => P256_SPKI,
            Self::Ed25519 => ED25519_SPKI,
        }
    }
}

/// Why a text is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Longer than a key file.
    #[error("a key file of {0} bytes; at most {MAX_PEM} are read")]
    TooLong(usize),
    /// Not one PEM block.
    #[error("not one PEM block `-----BEGIN {0}-----` … `-----END {0}-----`")]
    NotPem(&'static str),
    /// A private key where a public one belongs.
    #[error("this is a private key; a policy names public keys: keep the private one with whoever signs")]
    PrivateKey,
    /// A public key where a private one belongs.
    #[error("this is a public key; to sign, the private key is needed")]
    PublicKey,
    /// A PEM block of another kind.
    #[error("PEM block `{found}` is not `{wanted}`")]
    OtherBlock {
        /// As written.
        found: String,
        /// As needed.
        wanted: &'static str,
    },
    /// Encrypted with a pass phrase, in a form that only openssl reads.
    #[error("the private key is encrypted: decrypt it first, for example with `openssl pkcs8 -in KEY -out KEY.plain`")]
    Encrypted,
    /// Encrypted by cosign, and no password is given.
    #[error("the private key is encrypted, and needs its password")]
    NeedsPassword,
    /// Encrypted by cosign, and cannot be decrypted.
    #[error("the private key cannot be decrypted")]
    Sealed(#[from] EncryptedError),
    /// OpenSSL's old form.
    #[error("`EC PRIVATE KEY` is the old form: convert it with `openssl pkcs8 -topk8 -nocrypt -in KEY -out KEY.p8`")]
    Sec1,
    /// The block is not base64.
    #[error("the PEM block is not base64")]
    Base64(#[source] base64::DecodeError),
    /// A key of another scheme.
    #[error("the key is {0}; only ECDSA P-256 and Ed25519 are supported")]
    OtherScheme(&'static str),
    /// Another scheme that has no name here, or damaged.
    #[error("the key is neither ECDSA P-256 nor Ed25519, or damaged")]
    Scheme,
    /// A point for which signatures can be made without a private key, or one with a second encoding.
    #[error("this Ed25519 key is degenerate: anybody can make signatures for it")]
    Degenerate,
    /// No randomness, or the library refuses.
    #[error("the cryptographic library cannot make a key or a signature")]
    Library,
}

impl KeyError {
    /// What is wrong with the DER of a key that is neither P-256 nor Ed25519.
    fn scheme(der: &[u8]) -> Self {
        let head = der.get(..HEAD).unwrap_or(der);
        let named = |(_, oid): &&(&str, &[u8])| head.windows(oid.len()).any(|window| window == *oid);
        OTHER_SCHEMES.iter().find(named).map_or(Self::Scheme, |(name, _)| Self::OtherScheme(name))
    }
}

/// A public key: who signed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VerifyingKey {
    scheme: Scheme,
    /// The point (P-256, uncompressed) or the 32 bytes of Ed25519.
    point: Vec<u8>,
}

impl VerifyingKey {
    /// Reads a `PUBLIC KEY` PEM.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let spki = match block(text, "PUBLIC KEY") {
            Err(KeyError::OtherBlock { found, .. }) if found.ends_with("PRIVATE KEY") => {
                return Err(KeyError::PrivateKey);
            }
            other => other?,
        };
        Self::from_spki(&spki)
    }

    fn from_spki(spki: &[u8]) -> Result<Self, KeyError> {
        let key = [Scheme::P256, Scheme::Ed25519]
            .into_iter()
            .find_map(|scheme| Self::checked(scheme, spki.strip_prefix(scheme.spki())?))
            .ok_or_else(|| KeyError::scheme(spki))?;
        if key.degenerate() { Err(KeyError::Degenerate) } else { Ok(key) }
    }

    /// Whether it is a point of small order, or not the canonical encoding of its point: two encodings would count as two keys. P-256 has
    /// neither: its order is prime, and the library checks that a point is on the curve.
    fn degenerate(&self) -> bool {
        let Self { scheme: Scheme::Ed25519, point } = self else { return false };
        let Ok(mut y) = <[u8; 32]>::try_from(point.as_slice()) else { return true };
        let [least, middle @ .., last] = &mut y;
        *last &= 0x7f;
        let canonical = *least < FIELD_LEAST || *last != 0x7f || middle.iter().any(|byte| *byte != 0xff);
        !canonical || SMALL_ORDER.contains(&y)
    }

    /// The key if the point is one of its curve.
    fn checked(scheme: Scheme, point: &[u8]) -> Option<Self> {
        match scheme {
            Scheme::P256 if point.len() == 65 => ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).ok()?,
            Scheme::Ed25519 if point.len() == 32 => ParsedPublicKey::new(&ED25519, point).ok()?,
            Scheme::P256 | Scheme::Ed25519 => return None,
        };
        Some(Self { scheme, point: point.to_vec() })
    }

    /// The scheme.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// DER of the SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki(&self) -> Vec<u8> {
        [self.scheme.spki(), &self.point].concat()
    }

    /// What names the key: sha256 of its SubjectPublicKeyInfo. Two names for one key have one fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Digest {
        Digest::of(&self.spki())
    }

    /// As `PUBLIC KEY` PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem("PUBLIC KEY", &self.spki())
    }

    /// True if this key made the signature over exactly these bytes.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self.scheme {
            Scheme::P256 => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point).verify(message, signature).is_ok()
            }
            Scheme::Ed25519 => UnparsedPublicKey::new(&ED25519, &self.point).verify(message, signature).is_ok(),
        }
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.scheme, self.fingerprint())
    }
}

impl From<&VerifyingKey> for PublicKey {
    fn from(key: &VerifyingKey) -> Self {
        key.spki().into()
    }
}

/// The key of a file that a policy names: what [`bpfd_policy::Policy::read`] asks for.
///
/// # Errors
/// [`KeyFault`]: the file cannot be read, or has no public key that this crate knows.
pub fn policy_key(pem: io::Result<String>) -> Result<PublicKey, KeyFault> {
    let key = VerifyingKey::from_pem(&pem.map_err(KeyFault::File)?);
    key.map(|key| PublicKey::from(&key)).map_err(|error| KeyFault::NotAKey(error.into()))
}

/// True if a policy's key made the signature over exactly these bytes.
pub(crate) fn verifies(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    VerifyingKey::from_spki(key.spki()).is_ok_and(|key| key.verifies(message, signature))
}

/// A private key.
pub struct SigningKey(Pair);

enum Pair {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl SigningKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`KeyError::Library`].
    pub fn generate(scheme: Scheme) -> Result<Self, KeyError> {
        let pair = match scheme {
            Scheme::P256 => EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map(Pair::P256),
            Scheme::Ed25519 => Ed25519KeyPair::generate().map(Pair::Ed25519),
        };
        pair.map(Self).map_err(|_unspecified| KeyError::Library)
    }

    /// Reads a `PRIVATE KEY` PEM (PKCS#8, not encrypted).
    ///
    /// # Errors
    /// [`KeyError`]; [`KeyError::NeedsPassword`] if [`SigningKey::from_encrypted_pem`] could read it.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let der = match block(text, "PRIVATE KEY") {
            Err(KeyError::OtherBlock { found, wanted }) => {
                return Err(match found.as_str() {
                    "PUBLIC KEY" => KeyError::PublicKey,
                    "EC PRIVATE KEY" => KeyError::Sec1,
                    sealed if encrypted::BLOCKS.contains(&sealed) => KeyError::NeedsPassword,
                    encrypted if encrypted.starts_with("ENCRYPTED ") => KeyError::Encrypted,
                    _ => KeyError::OtherBlock { found, wanted },
                });
            }
            other => other?,
        };
        Self::from_pkcs8(&der)
    }

    /// Reads a PEM that cosign encrypted (`ENCRYPTED SIGSTORE PRIVATE KEY`). Takes about as long as its author wanted a guess to take.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_encrypted_pem(text: &str, password: &Secret<String>) -> Result<Self, KeyError> {
        let [today, older] = encrypted::BLOCKS;
        let sealed = block(text, today).or_else(|_other| block(text, older))?;
        Self::from_pkcs8(&encrypted::open(&sealed, password)?)
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der)
            .map(Pair::P256)
            // The form without a public key (PKCS#8 version 1) is what openssl writes.
            .or_else(|_rejected| Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map(Pair::Ed25519))
            .map(Self)
            .map_err(|_rejected| KeyError::scheme(der))
    }

    /// As `PRIVATE KEY` PEM. Whoever writes it to a file does so with mode 0600.
    ///
    /// # Errors
    /// [`KeyError::Library`].
    pub fn to_pem(&self) -> Result<Secret<String>, KeyError> {
        let der = match &self.0 {
            Pair::P256(pair) => pair.to_pkcs8v1(),
            Pair::Ed25519(pair) => pair.to_pkcs8v1(),
        };
        der.map(|der| Secret::new(pem("PRIVATE KEY", der.as_ref()))).map_err(|_unspecified| KeyError::Library)
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> VerifyingKey {
        let (scheme, point) = match &self.0 {
            Pair::P256(pair) => (Scheme::P256, pair.public_key().as_ref()),
            Pair::Ed25519(pair) => (Scheme::Ed25519, pair.public_key().as_ref()),
        };
        VerifyingKey { scheme, point: point.to_vec() }
    }

    /// Signs exactly these bytes.
    ///
    /// # Errors
    /// [`KeyError::Library`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = match &self.0 {
            Pair::P256(pair) => pair.sign(&SystemRandom::new(), message),
            Pair::Ed25519(pair) => pair.try_sign(message),
        };
        signature.map(|signature| signature.as_ref().to_vec()).map_err(|_unspecified| KeyError::Library)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "private key of {:?}", self.public())
    }
}

/// The bytes of the only PEM block (RFC 7468); text around it is a comment.
pub(crate) fn block(text: &str, wanted: &'static str) -> Result<Vec<u8>, KeyError> {
    if text.len() > MAX_PEM {
        return Err(KeyError::TooLong(text.len()));
    }
    let boundary = |line: &str, kind: &str| {
        Some(line.trim().strip_prefix("-----")?.strip_suffix("-----")?.strip_prefix(kind)?.trim_start().to_owned())
    };
    let mut lines = text.lines();
    let found = lines.find_map(|line| boundary(line, "BEGIN ")).ok_or(KeyError::NotPem(wanted))?;
    let mut body = String::new();
    let end = lines.by_ref().find_map(|line| {
        let end = boundary(line, "END ");
        if end.is_none() {
            body.push_str(line.trim());
        }
        end
    });
    if end.as_deref() != Some(found.as_str()) || lines.any(|line| boundary(line, "BEGIN ").is_some()) {
        return Err(KeyError::NotPem(wanted));
    }
    if found != wanted {
        return Err(KeyError::OtherBlock { found, wanted });
    }
    STANDARD.decode(body).map_err(KeyError::Base64)
}

fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for (column, digit) in STANDARD.encode(der).chars().enumerate() {
        if column > 0 && column % 64 == 0 {
            text.push('\n');
        }
        text.push(digit);
    }
    text + &format!("\n-----END {label}-----\n")
}
