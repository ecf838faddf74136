//! The configuration of a libxdp dispatcher: the only value of its only map, in the three versions that peers write.
//!
//! Owns the bytes of `struct xdp_dispatcher_config` (libxdp `headers/xdp/prog_dispatcher.h`; little-endian, C alignment)
//! both ways. It must never choose a version: a dispatcher that is rebuilt keeps the one it has.
//!
//! | version | libxdp | bytes | layout |
//! |---|---|---|---|
//! | 1 | up to 1.2 | 84 | u8 programs; 3 zero; u32 actions\[10\]; u32 priorities\[10\] |
//! | 2 | 1.3 to 1.5 | 124 | u8 236, u8 2, u8 programs, u8 frags; actions; priorities; u32 flags\[10\] |
//! | 3 | from 1.6 | 128 | as 2 with 3, then u8 device-bound, 3 zero |

use crate::actions::ActionMask;
use crate::bytes;
use crate::load_type::XDP_HAS_FRAGS;

/// Slots of a dispatcher (MAX_DISPATCHER_ACTIONS in libxdp).
pub const SLOTS: usize = 10;

/// First byte of versions 2 and later (XDP_DISPATCHER_MAGIC).
const MAGIC: u8 = 236;
const ACTIONS: usize = 4;
const PRIORITIES: usize = 44;
const FLAGS: usize = 84;
const DEVICE_BOUND: usize = 124;

/// A version of the configuration, which is also the dispatcher's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// libxdp up to 1.2.
    V1,
    /// libxdp 1.3 to 1.5, as in Debian 12 and 13.
    V2,
    /// libxdp from 1.6.
    V3,
}

impl Version {
    /// The version's number.
    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }

    /// Bytes of the configuration: the map's value size.
    pub const fn size(self) -> usize {
        match self {
            Self::V1 => 84,
            Self::V2 => 124,
            Self::V3 => 128,
        }
    }

    /// Where the number of programs is.
    pub(crate) const fn count_offset(self) -> i16 {
        match self {
            Self::V1 => 0,
            Self::V2 | Self::V3 => 2,
        }
    }

    /// The version with this number, if it is known.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::V1),
            2 => Some(Self::V2),
            3 => Some(Self::V3),
            _ => None,
        }
    }
}

/// What a dispatcher runs, in the order of its slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DispatcherConfig {
    /// The layout it is in.
    pub version: Version,
    /// The dispatcher takes multi-buffer packets; version 1 cannot say so.
    pub frags: bool,
    /// The dispatcher is bound to one device; versions 1 and 2 cannot say so.
    pub device_bound: bool,
    /// The programs, first slot first; at most [`SLOTS`].
    pub slots: Vec<Slot>,
}

/// One program's place in a dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Lower runs first. libxdp allows any value.
    pub priority: u32,
    /// After which verdicts the next slot runs.
    pub actions: ActionMask,
    /// The program's own load flags (BPF_F_XDP_HAS_FRAGS, BPF_F_XDP_DEV_BOUND_ONLY); version 1 has no place for them.
    pub flags: u32,
}

/// Why a configuration cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// More programs than slots.
    #[error("{0} programs are more than the {SLOTS} slots of a dispatcher")]
    TooMany(usize),
    /// The version has no place for something that is asked for.
    #[error("dispatcher version {} cannot express {what}", version.number())]
    Inexpressible {
        /// The version asked for.
        version: Version,
        /// What it lacks.
        what: &'static str,
    },
}

/// Why bytes are not a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The version is later than any known here, or none at all.
    #[error("dispatcher has configuration version {0}, which this bpfd does not know")]
    Version(u32),
    /// Neither the value nor the program's BTF tells a version.
    #[error("not a libxdp dispatcher's configuration")]
    NoVersion,
    /// The value's length is not the version's.
    #[error("configuration of version {} has {found} bytes instead of {}", version.number(), version.size())]
    Size {
        /// The version it claims.
        version: Version,
        /// Its length.
        found: usize,
    },
    /// It claims more programs than there are slots.
    #[error("configuration claims {0} programs in {SLOTS} slots")]
    TooMany(u8),
}

impl DispatcherConfig {
    /// The configuration for these programs. As libxdp makes it (`xdp_multiprog__generate`), the dispatcher takes multi-buffer
    /// packets only if each of its programs does: the kernel would hand a packet in several buffers to one that reads the
    /// first alone. Version 1 has no place for flags: its programs lose them, and it takes no such packets.
    pub fn of(version: Version, mut slots: Vec<Slot>) -> Self {
        if version == Version::V1 {
            slots.iter_mut().for_each(|slot| slot.flags = 0);
        }
        let frags = !slots.is_empty() && slots.iter().all(|slot| slot.flags & XDP_HAS_FRAGS != 0);
        Self { version, frags, device_bound: false, slots }
    }

    /// The value for the map. Bit 31 is set in each used slot's actions, as libxdp writes it; unused slots are zero.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let Self { version, frags, device_bound, slots } = self;
        let count = u8::try_from(slots.len()).ok().filter(|count| usize::from(*count) <= SLOTS);
        let count = count.ok_or(EncodeError::TooMany(slots.len()))?;
        let lacks = |what| Err(EncodeError::Inexpressible { version: *version, what });
        let has_flags = slots.iter().any(|slot| slot.flags != 0);
        match version {
            Version::V1 if *frags || has_flags => return lacks("multi-buffer programs"),
            Version::V1 | Version::V2 if *device_bound => return lacks("device-bound programs"),
            Version::V1 | Version::V2 | Version::V3 => {}
        }
        let mut value = match version {
            Version::V1 => vec![count, 0, 0, 0],
            Version::V2 | Version::V3 => vec![MAGIC, version.number(), count, u8::from(*frags)],
        };
        let mut column = |of: fn(&Slot) -> u32| {
            for at in 0..SLOTS {
                value.extend(slots.get(at).map_or(0, of).to_le_bytes());
            }
        };
        column(|slot| slot.actions.with_empty_slot());
        column(|slot| slot.priority);
        match version {
            Version::V1 => {}
            Version::V2 => column(|slot| slot.flags),
            Version::V3 => {
                column(|slot| slot.flags);
                value.extend([u8::from(*device_bound), 0, 0, 0]);
            }
        }
        Ok(value)
    }

    /// The configuration in a dispatcher's map. `btf_version` is the `dispatcher_version` that the program's BTF tells,
    /// which is all that marks version 1. As libxdp does, versions 1 and 2 may have a longer value than they need.
    pub fn decode(value: &[u8], btf_version: Option<u32>) -> Result<Self, DecodeError> {
        let number = match value {
            [MAGIC, number, ..] => u32::from(*number),
            _ => btf_version.ok_or(DecodeError::NoVersion)?,
        };
        let version = Version::from_number(number).ok_or(DecodeError::Version(number))?;
        let fits = match version {
            Version::V1 | Version::V2 => value.len() >= version.size(),
            Version::V3 => value.len() == version.size(),
        };
        let size = DecodeError::Size { version, found: value.len() };
        let ([first, _, third, fourth, ..], true) = (value, fits) else {
            return Err(size);
        };
        let (count, frags) = match version {
            Version::V1 => (*first, false),
            Version::V2 | Version::V3 => (*third, *fourth != 0),
        };
        let device_bound = version == Version::V3 && value.get(DEVICE_BOUND).is_some_and(|byte| *byte != 0);
        if usize::from(count) > SLOTS {
            return Err(DecodeError::TooMany(count));
        }
        let number = |column: usize, slot: usize| bytes::u32_at(value, column + 4 * slot).ok_or(size.clone());
        let slots = (0..usize::from(count)).map(|slot| {
            Ok(Slot {
                actions: ActionMask::from_bits(number(ACTIONS, slot)?),
                priority: number(PRIORITIES, slot)?,
                flags: if version == Version::V1 { 0 } else { number(FLAGS, slot)? },
            })
        });
        Ok(Self { version, frags, device_bound, slots: slots.collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(version: Version) -> DispatcherConfig {
        let slots = vec![
            Slot { priority: 10, actions: ActionMask::PASS, flags: 0 },
            Slot { priority: 0x0102_0304, actions: ActionMask::from_bits(0b11), flags: 0 },
        ];
        DispatcherConfig { version, frags: false, device_bound: false, slots }
    }

    fn check(config: &DispatcherConfig, head: [u8; 4], size: usize) {
        let value = config.encode().unwrap();
        assert_eq!(value.len(), size);
        let mut expected = head.to_vec();
        expected.extend([4, 0, 0, 0x80, 3, 0, 0, 0x80]);
        expected.extend([0; 32]);
        expected.extend([10, 0, 0, 0, 4, 3, 2, 1]);
        expected.extend([0; 32]);
        assert_eq!(value[..84], expected);
        assert!(value[84..].iter().all(|byte| *byte == 0));
        assert_eq!(DispatcherConfig::decode(&value, Some(1)), Ok(config.clone()));
    }

    #[test]
    fn the_three_layouts_are_those_of_libxdp() {
        check(&config(Version::V1), [2, 0, 0, 0], 84);
        check(&config(Version::V2), [236, 2, 2, 0], 124);
        check(&config(Version::V3), [236, 3, 2, 0], 128);
    }

    #[test]
    fn frags_flags_and_device_binding_have_their_places() {
        let mut config = DispatcherConfig { frags: true, device_bound: true, ..config(Version::V3) };
        config.slots[1].flags = 0x60;
        let value = config.encode().unwrap();
        assert_eq!((value[3], value[88], value[124]), (1, 0x60, 1));
        assert_eq!(DispatcherConfig::decode(&value, None), Ok(config));
    }

    #[test]
    fn a_dispatcher_takes_fragments_only_if_each_program_does() {
        let of = |version, flags: &[u32]| {
            let slot = config(Version::V2).slots[0];
            let made =
                DispatcherConfig::of(version, flags.iter().map(|flags| Slot { flags: *flags, ..slot }).collect());
            made.encode().unwrap();
            (made.frags, made.slots.iter().map(|slot| slot.flags).collect::<Vec<_>>())
        };
        assert_eq!(of(Version::V2, &[0x20]), (true, vec![0x20]));
        assert_eq!(of(Version::V3, &[0x20, 0x20]), (true, vec![0x20, 0x20]));
        assert_eq!(of(Version::V2, &[0x20, 0]), (false, vec![0x20, 0]), "one that takes them keeps its flag");
        assert_eq!(of(Version::V2, &[0, 0]), (false, vec![0, 0]));
        assert_eq!(of(Version::V2, &[]), (false, vec![]));
        assert_eq!(of(Version::V1, &[0x20, 0x20]), (false, vec![0, 0]), "version 1 cannot say so");
    }

    #[test]
    fn what_a_version_cannot_say_is_refused() {
        let refuse = |config: DispatcherConfig, what| {
            let version = config.version;
            assert_eq!(config.encode(), Err(EncodeError::Inexpressible { version, what }));
        };
        refuse(DispatcherConfig { frags: true, ..config(Version::V1) }, "multi-buffer programs");
        refuse(DispatcherConfig { device_bound: true, ..config(Version::V1) }, "device-bound programs");
        refuse(DispatcherConfig { device_bound: true, ..config(Version::V2) }, "device-bound programs");
        let mut flags = config(Version::V1);
        flags.slots[0].flags = 0x20;
        refuse(flags, "multi-buffer programs");
        let slots = vec![config(Version::V2).slots[0]; 11];
        assert_eq!(DispatcherConfig { slots, ..config(Version::V2) }.encode(), Err(EncodeError::TooMany(11)));
    }

    #[test]
    fn unknown_versions_and_wrong_sizes_are_refused() {
        let decode = DispatcherConfig::decode;
        let mut value = config(Version::V3).encode().unwrap();
        value[1] = 4;
        assert_eq!(decode(&value, None), Err(DecodeError::Version(4)));
        value[1] = 3;
        value[2] = 11;
        assert_eq!(decode(&value, None), Err(DecodeError::TooMany(11)));
        value.push(0);
        assert_eq!(decode(&value, None), Err(DecodeError::Size { version: Version::V3, found: 129 }));
        assert_eq!(decode(&[0; 84], None), Err(DecodeError::NoVersion));
        assert_eq!(decode(&[], Some(1)), Err(DecodeError::Size { version: Version::V1, found: 0 }));
        assert_eq!(decode(&[0; 84], Some(9)), Err(DecodeError::Version(9)));
        let short = &config(Version::V2).encode().unwrap()[..123];
        assert_eq!(decode(short, None), Err(DecodeError::Size { version: Version::V2, found: 123 }));
        let mut long = config(Version::V2).encode().unwrap();
        long.extend([0; 4]);
        assert_eq!(decode(&long, None), Ok(config(Version::V2)));
    }

    fn any_config() -> impl Strategy<Value = DispatcherConfig> {
        let slot = (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(priority, actions, flags)| Slot {
            priority,
            actions: ActionMask::from_bits(actions),
            flags,
        });
        (1_u32..=3, any::<bool>(), any::<bool>(), proptest::collection::vec(slot, 0..=SLOTS)).prop_map(
            |(number, frags, device_bound, mut slots)| {
                let version = Version::from_number(number).unwrap();
                if version == Version::V1 {
                    slots.iter_mut().for_each(|slot| slot.flags = 0);
                }
                DispatcherConfig {
                    version,
                    frags: frags && version != Version::V1,
                    device_bound: device_bound && version == Version::V3,
                    slots,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn a_configuration_survives_encoding(config in any_config()) {
            let value = config.encode().unwrap();
            prop_assert_eq!(value.len(), config.version.size());
            prop_assert_eq!(DispatcherConfig::decode(&value, Some(1)), Ok(config));
        }

        #[test]
        fn any_bytes_decode_to_an_error_or_to_what_can_be_encoded(
            value in proptest::collection::vec(any::<u8>(), 0..140), version in proptest::option::of(0_u32..5), magic: bool,
        ) {
            let mut value = value;
            if let (true, Some(first)) = (magic, value.first_mut()) {
                *first = MAGIC;
            }
            if let Ok(config) = DispatcherConfig::decode(&value, version) {
                prop_assert!(config.slots.len() <= SLOTS);
                let again = config.encode().unwrap();
                prop_assert_eq!(DispatcherConfig::decode(&again, Some(1)), Ok(config));
            }
        }
    }
}
