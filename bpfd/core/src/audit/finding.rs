//! What a check of the audit log finds, in the words that people read. It must never check anything.

use std::fmt;

use super::{Head, RecordHash};

/// What is wrong at one place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// The file and its line, from 1; none of what is missing at an end.
    pub at: Option<(String, u64)>,
    /// What is wrong there.
    pub fault: Fault,
}

/// What can be wrong with a chain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    /// A record whose bytes are not those that it was written with.
    Altered {
        /// The number that it claims.
        seq: u64,
    },
    /// A line that is no record of the chain, among records that are.
    NotARecord,
    /// A line that lost its end.
    Unended,
    /// A record that is not the one whose place this is.
    OutOfPlace {
        /// Its number.
        seq: u64,
        /// The number that belongs here.
        expected: u64,
    },
    /// A record that was written after another one than the one that is before it.
    Unlinked {
        /// Its number.
        seq: u64,
    },
    /// Records that are not rotated away are missing before the first one.
    NoStart {
        /// The first that is missing.
        from: u64,
        /// The last that is missing.
        to: u64,
    },
    /// Records that were on disk are missing after the last one.
    NoEnd {
        /// The first that is missing.
        from: u64,
        /// The last that is missing.
        to: u64,
    },
    /// The record that the anchor names has another hash than the anchor says.
    OtherHead {
        /// Its number.
        seq: u64,
    },
    /// No record has the hash that was asked for.
    NoSuchHead {
        /// The hash.
        hash: RecordHash,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = |f: &mut fmt::Formatter<'_>, from: u64, to: u64| match from == to {
            true => write!(f, "record {from} is missing"),
            false => write!(f, "records {from} to {to} are missing"),
        };
        match self {
            Self::Altered { seq } => write!(f, "record {seq} was changed after it was written"),
            Self::NotARecord => f.write_str("this line is no record, or was changed after it was written"),
            Self::Unended => f.write_str("the end of this line is missing"),
            Self::OutOfPlace { seq, expected } if seq > expected => {
                write!(f, "record {seq} is where record {expected} should be: ")?;
                missing(f, *expected, seq.saturating_sub(1))?;
                f.write_str(", or out of order")
            }
            Self::OutOfPlace { seq, expected } => {
                write!(f, "record {seq} is where record {expected} should be: it was repeated or moved")
            }
            Self::Unlinked { seq } => {
                write!(f, "record {seq} was written after another record than the one before it, which was exchanged")
            }
            Self::NoStart { from, to } => {
                missing(f, *from, *to)?;
                f.write_str(" at the start, and rotation has not deleted them")
            }
            Self::NoEnd { from, to } => {
                missing(f, *from, *to)?;
                f.write_str(" at the end")
            }
            Self::OtherHead { seq } => write!(f, "record {seq} is not the one that bpfd wrote: its hash is another"),
            Self::NoSuchHead { hash } => {
                write!(f, "no record has the hash {hash}: it was removed, exchanged or rotated away")
            }
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// In the order of the lines; what is missing at the ends last.
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub more: u64,
    /// Intact records.
    pub records: u64,
    /// Lines that an earlier version wrote, without hashes: they prove nothing.
    pub unchained: u64,
    /// The number of the first intact record.
    pub first: Option<u64>,
    /// The end of the chain: the anchor's, if there is one, else that of the last intact record.
    pub head: Option<Head>,
    /// Whether the last line is not complete and was never acknowledged: it is being written, or a crash cut it short.
    pub unfinished: bool,
}
