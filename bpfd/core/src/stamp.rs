//! Which database the pins of a host belong to, and how far it had come: the stamp in the map `v1/state`, and what it says of the
//! database that a daemon starts with. It must never touch the database or the map.
//!
//! The map is an array with one value, which the daemon writes after each commit of the state, so it is not frozen; programs cannot
//! write it (BPF_F_RDONLY_PROG). All numbers are little-endian:
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | magic `bpfdsta\0` |
//! | 8 | 2 | version, 1 |
//! | 10 | 2 | bytes of the value, 40 |
//! | 12 | 4 | zero |
//! | 16 | 16 | uuid of the database |
//! | 32 | 8 | number of the last commit |

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ident::DatabaseUid;

/// Name of the map. The kernel shows it in `bpftool map`; nothing is looked up by it.
pub const STATE_MAP_NAME: &str = "bpfd_state";
/// Bytes of the map's value.
pub const STAMP_SIZE: usize = 40;

const MAGIC: [u8; 8] = *b"bpfdsta\0";
const VERSION: u16 = 1;

/// A database at one moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    /// Which.
    pub database: DatabaseUid,
    /// How many commits of the state it had.
    pub commits: u64,
}

/// Bytes that are no stamp of a version that is known.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a stamp of version {VERSION}")]
pub struct BadStamp;

impl Stamp {
    /// The map's value.
    pub fn encode(self) -> [u8; STAMP_SIZE] {
        let Self { database, commits } = self;
        let mut out = [0; STAMP_SIZE];
        let size = u16::try_from(STAMP_SIZE).unwrap_or(u16::MAX).to_le_bytes();
        let fields = MAGIC.into_iter().chain(VERSION.to_le_bytes()).chain(size).chain([0; 4]);
        let fields = fields.chain(database.bytes()).chain(commits.to_le_bytes());
        out.iter_mut().zip(fields).for_each(|(byte, field)| *byte = field);
        out
    }

    /// The stamp that a map's value is. Any bytes may be given.
    pub fn decode(value: &[u8]) -> Result<Self, BadStamp> {
        let (uuid, commits) = (value.get(16..32), value.get(32..40));
        let uuid: [u8; 16] = uuid.and_then(|uuid| uuid.try_into().ok()).ok_or(BadStamp)?;
        let commits: [u8; 8] = commits.and_then(|commits| commits.try_into().ok()).ok_or(BadStamp)?;
        let stamp = Self { database: DatabaseUid::from_bytes(uuid), commits: u64::from_le_bytes(commits) };
        match stamp.encode() == value {
            true => Ok(stamp),
            false => Err(BadStamp),
        }
    }
}

/// How a database stands to the pins that it is started with.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// The pins are its own. A daemon that was killed between a commit and the stamp leaves the pins behind.
    Matches,
    /// Nothing says whose the pins are: a boot, or an earlier version of bpfd.
    #[default]
    Fresh,
    /// It is the same database, as it was before.
    Older {
        /// So many commits ago.
        by: u64,
    },
    /// The pins are another database's.
    Another,
    /// Nothing says whose the pins are, and the database lacks some of what is pinned.
    Incomplete,
    /// The map is there, and cannot be read.
    Unreadable,
}

impl Relation {
    /// From the database's stamp and the map's.
    pub fn of(database: Stamp, map: Option<Stamp>) -> Self {
        match map {
            None => Self::Fresh,
            Some(map) if map.database != database.database => Self::Another,
            Some(map) => match map.commits.checked_sub(database.commits) {
                None | Some(0) => Self::Matches,
                Some(by) => Self::Older { by },
            },
        }
    }

    /// Whether rows may be missing that the pins had: then what has no row is no reason to remove anything.
    pub fn is_doubtful(self) -> bool {
        match self {
            Self::Matches | Self::Fresh => false,
            Self::Older { .. } | Self::Another | Self::Incomplete | Self::Unreadable => true,
        }
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matches => f.write_str("the pins belong to the database"),
            Self::Fresh => f.write_str("nothing says which database the pins belong to"),
            Self::Older { by } => write!(f, "the database is older than the pins were: it lacks the last {by} changes"),
            Self::Another => f.write_str("the pins belonged to another database"),
            Self::Incomplete => {
                f.write_str("nothing says which database the pins belong to, and this one lacks some of what is pinned")
            }
            Self::Unreadable => f.write_str("what says which database the pins belong to cannot be read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(database: u8, commits: u64) -> Stamp {
        Stamp { database: DatabaseUid::from_bytes([database; 16]), commits }
    }

    #[test]
    fn the_layout_is_as_documented() {
        let mut expected = b"bpfdsta\0\x01\0\x28\0\0\0\0\0".to_vec();
        expected.extend([0x33; 16]);
        expected.extend([8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(stamp(0x33, 0x0102_0304_0506_0708).encode().as_slice(), expected);
        assert_eq!(Stamp::decode(&expected), Ok(stamp(0x33, 0x0102_0304_0506_0708)));
    }

    #[test]
    fn a_stamp_with_any_other_byte_in_its_header_is_refused() {
        for at in 0..16 {
            let mut bytes = stamp(1, 2).encode();
            bytes[at] ^= 1;
            assert_eq!(Stamp::decode(&bytes), Err(BadStamp), "{at}");
        }
        let bytes = stamp(1, 2).encode();
        assert_eq!(Stamp::decode(&bytes[..39]), Err(BadStamp));
        assert_eq!(Stamp::decode(&[&bytes[..], &[0]].concat()), Err(BadStamp));
        assert_eq!(Stamp::decode(&[]), Err(BadStamp));
    }

    #[test]
    fn a_database_at_or_ahead_of_the_map_matches() {
        let relation = |map| Relation::of(stamp(1, 7), map);
        assert_eq!(relation(Some(stamp(1, 7))), Relation::Matches);
        assert_eq!(relation(Some(stamp(1, 6))), Relation::Matches, "killed before the map was written");
        assert_eq!(relation(Some(stamp(1, 0))), Relation::Matches);
        assert_eq!(relation(Some(stamp(1, 9))), Relation::Older { by: 2 });
        assert_eq!(relation(Some(stamp(2, 7))), Relation::Another);
        assert_eq!(relation(None), Relation::Fresh);
    }
}
