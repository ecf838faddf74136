//! The chain of the audit log: each record has a number, the hash of the record before it, and a hash of its own. The daemon writes the
//! chain, `bpfctl audit verify` checks it, and both do it here. `spec/audit.md` specifies it.
//!
//! ```text
//! {"seq":7,"prev":"<hash of record 6>","time":"…","record":"end",…,"hash":"<sha256 of this line up to here>"}
//! ```
//! This file must never read a file, nor look into a record.

mod check;
mod finding;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use self::check::Check;
pub use self::finding::{Fault, Finding, Report};

/// How many files are kept beside the one that is written: `audit.jsonl.1`, the newest, to `audit.jsonl.7`.
pub const KEPT: u32 = 7;

/// Bytes of a line that is read: the longest plan of a host has some hundred KiB.
pub const LINE: u64 = 64 << 20;

/// What is before the number of a record, and before its own hash.
const START: &[u8] = b"{\"seq\":";
const HASH: &[u8] = b",\"hash\":\"";
const END: &[u8] = b"\"}";
/// Hexadecimal digits of a hash.
const DIGITS: usize = 64;

/// sha256, as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct RecordHash([u8; 32]);

impl RecordHash {
    fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    fn read(digits: &[u8]) -> Option<Self> {
        std::str::from_utf8(digits).ok()?.parse().ok()
    }
}

impl fmt::Display for RecordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is no hash of a record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the hash of a record is 64 lower-case hexadecimal digits")]
pub struct BadHash;

impl FromStr for RecordHash {
    type Err = BadHash;

    fn from_str(text: &str) -> Result<Self, BadHash> {
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != DIGITS || !text.as_bytes().iter().all(is_digit) {
            return Err(BadHash);
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            let pair = text.get(2 * at..2 * at + 2).ok_or(BadHash)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_not_hexadecimal| BadHash)?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for RecordHash {
    type Error = BadHash;

    fn try_from(text: String) -> Result<Self, BadHash> {
        text.parse()
    }
}

impl From<RecordHash> for String {
    fn from(hash: RecordHash) -> Self {
        hash.to_string()
    }
}

/// Where a chain ends: its last record.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Head {
    /// The number of the record; 0 before the first one.
    pub seq: u64,
    /// Its hash.
    pub hash: RecordHash,
}

#[derive(Serialize)]
struct Body<'a, R> {
    seq: u64,
    prev: RecordHash,
    #[serde(flatten)]
    record: &'a R,
}

impl Head {
    /// The line of the next record, which is a map, without its end; and where the chain ends then.
    pub fn seal<R: Serialize>(self, record: &R) -> serde_json::Result<(Self, String)> {
        let seq = self.seq.saturating_add(1);
        let mut line = serde_json::to_string(&Body { seq, prev: self.hash, record })?;
        line.truncate(line.len().saturating_sub(1));
        let hash = RecordHash::of(line.as_bytes());
        line.push_str(&format!(",\"hash\":\"{hash}\"}}"));
        Ok((Self { seq, hash }, line))
    }
}

/// What a line says of its place in the chain. Whether that is true, [`Sealed::is_intact`] says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sealed {
    /// The number of the record, and its hash.
    pub head: Head,
    /// The hash of the record before it.
    pub prev: RecordHash,
}

/// Why a line is no record of a chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unsealed {
    /// It has neither number nor hash: an earlier version wrote it.
    Unchained,
    /// It has one of them, or they are not as this version writes them.
    Malformed,
}

impl Sealed {
    /// Reads a line, without its end.
    pub fn read(line: &[u8]) -> Result<Self, Unsealed> {
        let (front, back) = line.split_at(line.len().saturating_sub(HASH.len() + DIGITS + END.len()));
        match (line.strip_prefix(START), back.strip_prefix(HASH)) {
            (None, None) => Err(Unsealed::Unchained),
            (Some(_), Some(back)) => Self::of_parts(front, back).ok_or(Unsealed::Malformed),
            (Some(_), None) | (None, Some(_)) => Err(Unsealed::Malformed),
        }
    }

    fn of_parts(front: &[u8], back: &[u8]) -> Option<Self> {
        let hash = RecordHash::read(back.strip_suffix(END)?)?;
        let digits = front.get(START.len()..)?;
        let (seq, rest) = digits.split_at(digits.iter().position(|byte| !byte.is_ascii_digit())?);
        let seq = std::str::from_utf8(seq).ok()?.parse().ok()?;
        let prev = rest.strip_prefix(b",\"prev\":\"")?.get(..DIGITS)?;
        Some(Self { head: Head { seq, hash }, prev: RecordHash::read(prev)? })
    }

    /// Whether the line that it was read from is as it was written.
    pub fn is_intact(&self, line: &[u8]) -> bool {
        let front = line.len().saturating_sub(HASH.len() + DIGITS + END.len());
        line.get(..front).is_some_and(|front| RecordHash::of(front) == self.head.hash)
    }

    /// Whether it is the record after this one.
    pub fn follows(&self, head: Head) -> bool {
        head.seq.checked_add(1) == Some(self.head.seq) && self.prev == head.hash
    }
}

/// Where the daemon keeps the end of the chain apart from it, so that records missing at either end are told.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Anchor {
    /// The last record that is certainly on disk.
    pub seq: u64,
    /// Its hash.
    pub hash: RecordHash,
    /// The first record that has not been rotated away.
    pub oldest: u64,
}

/// Bytes of an anchor's file: it is written over in one piece, and no version of it is longer.
const ANCHOR: usize = 256;

/// A file that is no anchor.
#[derive(Debug, thiserror::Error)]
#[error("it does not have the number and the hash of a record")]
pub struct BadAnchor(#[from] serde_json::Error);

impl Anchor {
    /// The last record.
    pub fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash }
    }

    /// As its file has it, always of the same length.
    pub fn text(&self) -> serde_json::Result<String> {
        let text = serde_json::to_string(self)?;
        Ok(format!("{text:<width$}\n", width = ANCHOR - 1))
    }
}

impl FromStr for Anchor {
    type Err = BadAnchor;

    fn from_str(text: &str) -> Result<Self, BadAnchor> {
        Ok(serde_json::from_str(text)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_is_as_the_specification_has_it() {
        let (head, line) = Head::default().seal(&json!({ "record": "end" })).unwrap();
        let zeros = "0".repeat(64);
        let front = format!("{{\"seq\":1,\"prev\":\"{zeros}\",\"record\":\"end\"");
        assert_eq!(line, format!("{front},\"hash\":\"{}\"}}", RecordHash::of(front.as_bytes())));
        // As `printf %s "$front" | sha256sum` gives it.
        assert_eq!(head.hash.to_string(), "49c41e916f8f4bbe486fb3c6d4e0a7e846f4b6f26bfbb71bbfa6c51d9e725945");
        let sealed = Sealed::read(line.as_bytes()).unwrap();
        assert_eq!((sealed.head, sealed.prev), (head, RecordHash::default()));
        assert!(sealed.is_intact(line.as_bytes()) && sealed.follows(Head::default()));
        let (_, next) = head.seal(&json!({ "record": "end" })).unwrap();
        assert!(Sealed::read(next.as_bytes()).unwrap().follows(head));
    }

    #[test]
    fn a_line_of_an_earlier_version_is_told_from_one_that_was_changed() {
        let (_, line) = Head::default().seal(&json!({ "record": "end" })).unwrap();
        assert_eq!(Sealed::read(b"{\"record\":\"end\"}"), Err(Unsealed::Unchained));
        assert_eq!(Sealed::read(b""), Err(Unsealed::Unchained));
        for changed in [line.replace("seq", "req"), line.replace("hash", "lash"), line.to_uppercase(), line + " "] {
            assert_ne!(Sealed::read(changed.as_bytes()).err(), None, "{changed}");
        }
    }

    #[test]
    fn an_anchor_reads_what_it_writes_and_keeps_its_length() {
        let hash = RecordHash([0xab; 32]);
        for anchor in [
            Anchor { seq: 0, hash: RecordHash::default(), oldest: 1 },
            Anchor { seq: u64::MAX, hash, oldest: u64::MAX },
        ] {
            let text = anchor.text().unwrap();
            assert_eq!((text.len(), text.parse::<Anchor>().unwrap()), (ANCHOR, anchor));
        }
        assert!("{\"seq\":1}".parse::<Anchor>().is_err());
        assert!("".parse::<Anchor>().is_err());
    }
}
