//! Private keys that cosign encrypted: JSON with the parameters of scrypt and of NaCl's secretbox in a PEM block (go-securesystemslib,
//! `encrypted/encrypted.go`).
//!
//! Owns that form. The file is somebody's: scrypt runs only with the parameters that this form is written with, since they decide how
//! much memory and time it takes.

use base64::{Engine, engine::general_purpose::STANDARD};
use crypto_secretbox::{KeyInit, XSalsa20Poly1305, aead::Aead};
use scrypt::{Params, scrypt};
use serde::{Deserialize, Deserializer, de};

use crate::auth::Secret;

/// Names of the PEM block: cosign's of today, and that of versions before 2.
pub(super) const BLOCKS: [&str; 2] = ["ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY"];

/// scrypt's N, as its logarithm to base 2: the three that the form is written with. The last one takes 128 MiB of memory.
const LOG_N: std::ops::RangeInclusive<u8> = 15..=17;
/// scrypt's r and p, which the form never varies.
const R: u32 = 8;
const P: u32 = 1;
/// Bytes of the salt that the form is written with; a longer one is no error of cryptography, but nobody's.
const SALT: usize = 32;

/// Why an encrypted key cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EncryptedError {
    /// Not the JSON of such a key.
    #[error("not the JSON of a key that cosign encrypted")]
    Json(#[source] serde_json::Error),
    /// Another derivation or cipher.
    #[error("it is encrypted by `{0}` and `{1}`, not by `scrypt` and `nacl/secretbox`")]
    Algorithms(String, String),
    /// Parameters that cosign does not write.
    #[error("its scrypt parameters are N={n}, r={r}, p={p}, and not those that cosign writes")]
    Parameters {
        /// Cost.
        n: u64,
        /// Block size.
        r: u32,
        /// Parallelism.
        p: u32,
    },
    /// A nonce or salt of another length.
    #[error("its {0} has the wrong length")]
    Length(&'static str),
    /// The box does not open. A wrong password and a damaged file look the same.
    #[error("the password is wrong, or the key is damaged")]
    Password,
}

#[derive(Deserialize)]
struct Sealed {
    kdf: Derivation,
    cipher: Cipher,
    ciphertext: Bytes,
}

#[derive(Deserialize)]
struct Derivation {
    name: String,
    params: Parameters,
    salt: Bytes,
}

#[derive(Deserialize)]
struct Parameters {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(Deserialize)]
struct Cipher {
    name: String,
    nonce: Bytes,
}

/// Base64, as Go writes bytes into JSON.
struct Bytes(Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(de::Error::custom)
    }
}

/// Decrypts the content of the PEM block: the result is the key's PKCS#8.
pub(super) fn open(block: &[u8], password: &Secret<String>) -> Result<Vec<u8>, EncryptedError> {
    let Sealed { kdf, cipher, ciphertext } = serde_json::from_slice(block).map_err(EncryptedError::Json)?;
    if (kdf.name.as_str(), cipher.name.as_str()) != ("scrypt", "nacl/secretbox") {
        return Err(EncryptedError::Algorithms(shown(&kdf.name), shown(&cipher.name)));
    }
    let Parameters { n, r, p } = kdf.params;
    let other = EncryptedError::Parameters { n, r, p };
    let Some(log_n) = LOG_N.into_iter().find(|log_n| (r, p) == (R, P) && n == 1 << log_n) else { return Err(other) };
    let Ok(params) = Params::new(log_n, r, p) else { return Err(other) };
    if kdf.salt.0.len() != SALT {
        return Err(EncryptedError::Length("salt"));
    }
    let nonce = <[u8; 24]>::try_from(cipher.nonce.0).ok().ok_or(EncryptedError::Length("nonce"))?;
    let mut key = [0; 32];
    // It refuses only lengths of output that are not 32 bytes.
    scrypt(password.reveal().as_bytes(), &kdf.salt.0, &params, &mut key).ok().ok_or(EncryptedError::Password)?;
    let opened = XSalsa20Poly1305::new(&key.into()).decrypt(&nonce.into(), ciphertext.0.as_slice());
    opened.ok().ok_or(EncryptedError::Password)
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(32).collect()
}
