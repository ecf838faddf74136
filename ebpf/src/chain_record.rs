//! What a fused program carries about its chain, so that the kernel alone is enough to rebuild it.
//!
//! Owns the layout of the record, version 3, in the only value of a frozen array map that the program refers to. All
//! numbers are little-endian. It must never hold what the kernel can tell (ids, fds) or what is secret.
//!
//! | offset | bytes | header |
//! |---|---|---|
//! | 0 | 8 | magic `bpfdchn\0` |
//! | 8 | 2 | version, 3 |
//! | 10 | 2 | bytes of the header, 48 |
//! | 12 | 2 | bytes of an entry, 312 |
//! | 14 | 2 | number of entries |
//! | 16 | 16 | uid of this generation of the chain |
//! | 32 | 8 | cookie of the network namespace (SO_NETNS_COOKIE) |
//! | 40 | 4 | index of the interface in that namespace |
//! | 44 | 4 | which hook of the interface: 0 XDP, 1 tc ingress, 2 tc egress |
//!
//! | offset | bytes | entry, in the order the programs run |
//! |---|---|---|
//! | 0 | 16 | uid of the link |
//! | 16 | 16 | uid of the app |
//! | 32 | 4 | priority as asked for |
//! | 36 | 4 | verdicts after which the chain goes on, bit n for verdict n; never bit 31 |
//! | 40 | 2 | length of the function's name, 1 to 256 |
//! | 42 | 2 | zero |
//! | 44 | 4 | of a copy for dispatchers: the load flags of its program (BPF_F_XDP_HAS_FRAGS), which the kernel does not tell; else zero |
//! | 48 | 256 | the function's name, then zeros |
//! | 304 | 4 | effective priority: what orders the entry |
//! | 308 | 4 | zero |
//!
//! Version 2, which is read too, has entries of 304 bytes: what was asked for is what orders them. Nothing follows the last entry. A later version may have a longer header and longer entries; their first bytes stay.

use crate::actions::ActionMask;
use crate::bytes;

/// Name of the map. The kernel shows it in `bpftool map`; nothing is looked up by it.
pub const CHAIN_MAP_NAME: &str = "bpfd_chain";
/// The most programs in one record: more cannot be fused anyway (256 functions in one program).
pub const MAX_ENTRIES: usize = 255;
/// Longest function name, in bytes.
pub const MAX_FUNCTION: usize = 256;

const MAGIC: [u8; 8] = *b"bpfdchn\0";
const VERSION: u16 = 3;
/// The last version whose entries have one priority.
const ONE_PRIORITY: u16 = 2;
const HEADER_SIZE: usize = 48;
const ENTRY_SIZE: usize = 312;
/// Bytes of an entry of version 2, with which every entry begins.
const ENTRY_2_SIZE: usize = 304;

/// A chain, first program first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChainRecord {
    /// Which generation of which chain.
    pub place: ChainPlace,
    /// The programs in the order they run.
    pub entries: Vec<ChainEntry>,
}

/// Which generation of which chain a record is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChainPlace {
    /// The generation's uid.
    pub generation: [u8; 16],
    /// The network namespace's cookie: never given to another one over a boot.
    pub netns_cookie: u64,
    /// The interface's index in that namespace.
    pub ifindex: u32,
    /// Which of its hooks.
    pub hook: ChainHook,
}

/// The hooks of an interface that have chains, as records number them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChainHook {
    /// XDP.
    #[default]
    Xdp,
    /// tc, what the interface receives.
    TcIngress,
    /// tc, what it sends.
    TcEgress,
}

impl ChainHook {
    const ALL: [Self; 3] = [Self::Xdp, Self::TcIngress, Self::TcEgress];

    fn number(self) -> u32 {
        match self {
            Self::Xdp => 0,
            Self::TcIngress => 1,
            Self::TcEgress => 2,
        }
    }
}

/// One program of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainEntry {
    /// The link's uid.
    pub link: [u8; 16],
    /// The app's uid.
    pub app: [u8; 16],
    /// The priority that was asked for.
    pub priority: u32,
    /// The priority that orders it, lower first.
    pub effective: u32,
    /// After which verdicts the chain goes on.
    pub actions: ActionMask,
    /// The load flags that libxdp's configuration has of it (`program_flags`), in a copy's record; else 0.
    pub flags: u32,
    /// The function's name in the app's object, 1 to [`MAX_FUNCTION`] bytes without a zero byte.
    pub function: String,
}

/// Why a record cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// More than [`MAX_ENTRIES`].
    #[error("{0} programs are more than the {MAX_ENTRIES} a chain's record holds")]
    TooMany(usize),
    /// A function's name is empty, too long, or has a zero byte.
    #[error("function name `{0}` is not 1 to {MAX_FUNCTION} bytes of text")]
    Function(String),
}

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They do not begin as a record does.
    #[error("not a chain's record")]
    NotARecord,
    /// A later version whose meaning is not known.
    #[error("chain's record has version {0}; this bpfd reads versions {ONE_PRIORITY} and {VERSION}")]
    Version(u16),
    /// The sizes or a field contradict the layout.
    #[error("chain's record is damaged: {0}")]
    Damaged(&'static str),
}

impl ChainRecord {
    /// The record's bytes, to be written at key 0.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let too_many = || EncodeError::TooMany(self.entries.len());
        let count = u16::try_from(self.entries.len()).ok().filter(|count| usize::from(*count) <= MAX_ENTRIES);
        let mut out = Vec::with_capacity(HEADER_SIZE + self.entries.len() * ENTRY_SIZE);
        out.extend(MAGIC);
        for number in [VERSION, size16(HEADER_SIZE), size16(ENTRY_SIZE), count.ok_or_else(too_many)?] {
            out.extend(number.to_le_bytes());
        }
        let ChainPlace { generation, netns_cookie, ifindex, hook } = self.place;
        out.extend(generation);
        out.extend(netns_cookie.to_le_bytes());
        out.extend(ifindex.to_le_bytes());
        out.extend(hook.number().to_le_bytes());
        for entry in &self.entries {
            entry.encode(&mut out)?;
        }
        Ok(out)
    }

    /// The chain that a map's value records. Any bytes may be given.
    pub fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let header = value.first_chunk::<HEADER_SIZE>().ok_or(DecodeError::NotARecord)?;
        if !header.starts_with(&MAGIC) {
            return Err(DecodeError::NotARecord);
        }
        let number = |at: usize| bytes::u16_at(header, at).ok_or(DecodeError::NotARecord);
        let entry_size = match number(8)? {
            ONE_PRIORITY => ENTRY_2_SIZE,
            VERSION => ENTRY_SIZE,
            other => return Err(DecodeError::Version(other)),
        };
        if (number(10)?, number(12)?) != (size16(HEADER_SIZE), size16(entry_size)) {
            return Err(DecodeError::Damaged("sizes are not those of its version"));
        }
        let count = usize::from(number(14)?);
        let entries = value.get(HEADER_SIZE..).unwrap_or_default().chunks(entry_size);
        if entries.len() != count || entries.clone().any(|entry| entry.len() != entry_size) || count > MAX_ENTRIES {
            return Err(DecodeError::Damaged("number of entries does not fit its length"));
        }
        let entries = entries.map(ChainEntry::decode).collect::<Result<_, _>>()?;
        Ok(Self { place: ChainPlace::decode(header)?, entries })
    }
}

impl ChainPlace {
    fn decode(header: &[u8; HEADER_SIZE]) -> Result<Self, DecodeError> {
        let damaged = || DecodeError::Damaged("the chain's place");
        let hook = bytes::u32_at(header, 44);
        let hook = ChainHook::ALL.into_iter().find(|known| hook == Some(known.number()));
        Ok(Self {
            generation: bytes::array_at(header, 16).ok_or_else(damaged)?,
            netns_cookie: bytes::array_at(header, 32).map(u64::from_le_bytes).ok_or_else(damaged)?,
            ifindex: bytes::u32_at(header, 40).ok_or_else(damaged)?,
            hook: hook.ok_or(DecodeError::Damaged("a hook that is not known"))?,
        })
    }
}

impl ChainEntry {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let Self { link, app, priority, effective, actions, flags, function } = self;
        if function.is_empty() || function.len() > MAX_FUNCTION || function.contains('\0') {
            return Err(EncodeError::Function(function.clone()));
        }
        out.extend(link);
        out.extend(app);
        out.extend(priority.to_le_bytes());
        out.extend(actions.bits().to_le_bytes());
        out.extend(size16(function.len()).to_le_bytes());
        out.extend([0; 2]);
        out.extend(flags.to_le_bytes());
        out.extend(function.as_bytes());
        out.extend(std::iter::repeat_n(0, MAX_FUNCTION - function.len()));
        out.extend(effective.to_le_bytes());
        out.extend([0; 4]);
        Ok(())
    }

    /// An entry of either version: what is of version 3 alone stands behind those of version 2.
    fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let damaged = DecodeError::Damaged;
        let uid = |at: usize| bytes::array_at(value, at).ok_or(damaged("uid"));
        let number = |at: usize| bytes::u32_at(value, at).ok_or(damaged("number"));
        let actions = number(36)?;
        if actions != ActionMask::from_bits(actions).bits() {
            return Err(damaged("bit 31 of the verdicts"));
        }
        let length = usize::from(bytes::u16_at(value, 40).ok_or(damaged("name length"))?);
        let (name, padding) =
            value.get(48..ENTRY_2_SIZE).and_then(|name| name.split_at_checked(length)).ok_or(damaged("name length"))?;
        let (zeros, end) = (value.get(42..44).unwrap_or_default(), value.get(308..).unwrap_or_default());
        if zeros.iter().chain(padding).chain(end).any(|byte| *byte != 0) {
            return Err(damaged("bytes that must be zero"));
        }
        let function = std::str::from_utf8(name).ok().filter(|name| !name.is_empty() && !name.contains('\0'));
        Ok(Self {
            link: uid(0)?,
            app: uid(16)?,
            priority: number(32)?,
            effective: if value.len() == ENTRY_2_SIZE { number(32)? } else { number(ENTRY_2_SIZE)? },
            actions: ActionMask::from_bits(actions),
            flags: number(44)?,
            function: function.ok_or(damaged("function name"))?.to_owned(),
        })
    }
}

/// Sizes of this layout all fit 16 bits.
fn size16(size: usize) -> u16 {
    u16::try_from(size).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(function: &str) -> ChainEntry {
        ChainEntry {
            link: [0x11; 16],
            app: [0x22; 16],
            priority: 50,
            effective: 60,
            actions: ActionMask::PASS,
            flags: 0,
            function: function.to_owned(),
        }
    }

    const PLACE: ChainPlace =
        ChainPlace { generation: [0x33; 16], netns_cookie: 0x0102_0304_0506_0708, ifindex: 9, hook: ChainHook::Xdp };

    #[test]
    fn the_layout_of_version_3_is_as_documented() {
        let bytes = ChainRecord { place: PLACE, entries: vec![entry("pass")] }.encode().unwrap();
        let mut expected = b"bpfdchn\0\x03\0\x30\0\x38\x01\x01\0".to_vec();
        expected.extend([0x33; 16]);
        expected.extend([8, 7, 6, 5, 4, 3, 2, 1, 9, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([0x11; 16]);
        expected.extend([0x22; 16]);
        expected.extend([50, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend(b"pass");
        expected.extend([0; 252]);
        expected.extend([60, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_record_of_version_2_is_ordered_by_what_was_asked_for() {
        let mut bytes = b"bpfdchn\0\x02\0\x30\0\x30\x01\x02\0".to_vec();
        bytes.extend([0x33; 16]);
        bytes.extend([8, 7, 6, 5, 4, 3, 2, 1, 9, 0, 0, 0, 0, 0, 0, 0]);
        for (priority, name) in [(50, b"pass"), (70, b"drop")] {
            bytes.extend([0x11; 16]);
            bytes.extend([0x22; 16]);
            bytes.extend([priority, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
            bytes.extend(name);
            bytes.extend([0; 252]);
        }
        let entries = vec![
            ChainEntry { effective: 50, ..entry("pass") },
            ChainEntry { priority: 70, effective: 70, ..entry("drop") },
        ];
        assert_eq!(ChainRecord::decode(&bytes), Ok(ChainRecord { place: PLACE, entries }));
        bytes.pop();
        assert_eq!(ChainRecord::decode(&bytes), Err(DecodeError::Damaged("number of entries does not fit its length")));
    }

    fn check(change: impl Fn(&mut Vec<u8>), expected: &DecodeError) {
        let mut bytes = ChainRecord { place: PLACE, entries: vec![entry("pass"), entry("drop")] }.encode().unwrap();
        change(&mut bytes);
        assert_eq!(ChainRecord::decode(&bytes).as_ref(), Err(expected));
    }

    #[test]
    fn damaged_records_are_refused() {
        check(|bytes| bytes[0] = 0, &DecodeError::NotARecord);
        check(|bytes| bytes.truncate(15), &DecodeError::NotARecord);
        check(|bytes| bytes[8] = 1, &DecodeError::Version(1));
        check(|bytes| bytes[44] = 3, &DecodeError::Damaged("a hook that is not known"));
        check(|bytes| bytes[10] = 49, &DecodeError::Damaged("sizes are not those of its version"));
        let length = DecodeError::Damaged("number of entries does not fit its length");
        check(|bytes| bytes[14] = 3, &length);
        check(|bytes| bytes.truncate(400), &length);
        check(|bytes| bytes.push(0), &length);
        check(|bytes| bytes[48 + 39] = 0x80, &DecodeError::Damaged("bit 31 of the verdicts"));
        check(|bytes| bytes[48 + 41] = 2, &DecodeError::Damaged("name length"));
        check(|bytes| bytes[48 + 40] = 0, &DecodeError::Damaged("bytes that must be zero"));
        check(|bytes| bytes[48 + 43] = 1, &DecodeError::Damaged("bytes that must be zero"));
        check(|bytes| bytes[48 + 48] = 0xff, &DecodeError::Damaged("function name"));
        check(|bytes| bytes[48 + 49] = 0, &DecodeError::Damaged("function name"));
        check(|bytes| bytes[48 + 308] = 1, &DecodeError::Damaged("bytes that must be zero"));
        // Version 2 has shorter entries.
        check(|bytes| bytes[8] = 2, &DecodeError::Damaged("sizes are not those of its version"));
    }

    #[test]
    fn a_name_that_does_not_fit_is_refused() {
        for name in [String::new(), "x".repeat(257), "a\0b".into()] {
            let record = ChainRecord { place: PLACE, entries: vec![entry(&name)] };
            assert_eq!(record.encode(), Err(EncodeError::Function(name)));
        }
        let record = ChainRecord { place: PLACE, entries: vec![entry(&"x".repeat(256))] };
        assert_eq!(ChainRecord::decode(&record.encode().unwrap()), Ok(record));
    }

    #[test]
    fn a_chain_of_256_programs_is_refused() {
        let record = ChainRecord { place: PLACE, entries: vec![entry("pass"); 256] };
        assert_eq!(record.encode(), Err(EncodeError::TooMany(256)));
    }

    fn any_entry() -> impl Strategy<Value = ChainEntry> {
        (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<[u32; 2]>(), any::<u32>(), any::<u32>(), "[a-zA-Z0-9_.é]{1,60}")
            .prop_map(|(link, app, [priority, effective], actions, flags, function)| ChainEntry {
                link,
                app,
                priority,
                effective,
                actions: ActionMask::from_bits(actions),
                flags,
                function,
            })
    }

    proptest! {
        #[test]
        fn a_record_survives_encoding(entries in proptest::collection::vec(any_entry(), 0..20)) {
            let record = ChainRecord { place: PLACE, entries };
            prop_assert_eq!(ChainRecord::decode(&record.encode().unwrap()), Ok(record));
        }

        #[test]
        fn any_bytes_decode_to_an_error_or_to_what_encodes_to_them(
            mut noise in proptest::collection::vec(any::<u8>(), 0..700), at in 0_usize..700, with: u8,
        ) {
            if let Ok(record) = ChainRecord::decode(&noise) {
                prop_assert_eq!(record.encode().unwrap(), noise.clone());
            }
            noise = ChainRecord { place: PLACE, entries: vec![entry("pass"), entry("drop")] }.encode().unwrap();
            if let Some(byte) = noise.get_mut(at) {
                *byte = with;
            }
            if let Ok(record) = ChainRecord::decode(&noise) {
                prop_assert_eq!(record.encode().unwrap(), noise);
            }
        }
    }
}
