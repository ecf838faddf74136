//! Why a map is not read or written, in the words of what was asked. What an error number means depends on the map's kind: it is decided
//! here and nowhere else.

use std::io;

use bpfd_core::maps::{BadElement, WATCH_ELEMENTS};
use rustix::io::Errno;

use crate::engine::EngineError;
use crate::kernel::RecordError;
use crate::worker::parse::ParseError;

/// Which part of an element.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "each is the part of its name")]
pub enum ElementField {
    Key,
    Value,
}

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum MapFailure {
    /// No turn, or the daemon stops.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Its thread ended without an answer: it panicked, and said so on stderr.
    #[error("the operation ended unexpectedly")]
    Lost,
    /// The pin.
    #[error("cannot open the pin of the map")]
    Pin(#[source] io::Error),
    /// Somebody put another map in its place.
    #[error("the pin holds a map of another type")]
    Replaced,
    /// The object that declares it.
    #[error("cannot read the object of the app")]
    Object(#[source] io::Error),
    /// Its types.
    #[error(transparent)]
    Types(#[from] ParseError),
    /// Its value is longer than bpfd reads.
    #[error("a value has {bytes} bytes, those of all CPUs counted; the limit is {}", bpfd_core::maps::VALUE_MAX)]
    TooLarge {
        /// Bytes.
        bytes: usize,
    },
    /// A text that is no key or value.
    #[error("{source}")]
    Bad {
        /// Of which part.
        field: ElementField,
        /// Why.
        source: BadElement,
    },
    /// The kernel does not take the key or value.
    #[error("the kernel does not accept this key or value")]
    Refused,
    /// No such element.
    #[error("the map has no element with this key")]
    Absent,
    /// There is one.
    #[error("the map has an element with this key")]
    Present,
    /// Arrays have all their elements always.
    #[error("elements of a map of this type cannot be removed")]
    Fixed,
    /// It has no room.
    #[error("the map has as many elements as it can hold")]
    Full,
    /// The kernel keeps user space from it.
    #[error("the map is frozen: the kernel lets user space only read it")]
    Protected,
    /// More elements than a watch reads.
    #[error("the map has more than {WATCH_ELEMENTS} elements")]
    TooMany,
    /// Somebody reads the buffer.
    #[error("{0} reads this buffer")]
    Read(String),
    /// Streams under way.
    #[error("{limit} dumps, watches and readers of {of} are under way")]
    Streams {
        /// How many there may be.
        limit: usize,
        /// Whose.
        of: &'static str,
    },
    /// The buffer.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// Any other error of the kernel.
    #[error("cannot {doing} the map")]
    Kernel {
        /// A verb.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl MapFailure {
    /// A pin that does not open.
    pub fn open(error: io::Error) -> Self {
        match errno(&error) {
            Some(Errno::TOOBIG | Errno::FBIG) => Self::TooLarge { bytes: usize::MAX },
            _ => Self::Pin(error),
        }
    }

    /// A text that is no key or value.
    pub fn bad(field: ElementField) -> impl FnOnce(BadElement) -> Self {
        move |source| Self::Bad { field, source }
    }

    /// An element that cannot be read.
    pub fn reading(error: io::Error) -> Self {
        match errno(&error) {
            Some(Errno::PERM) => Self::Protected,
            Some(Errno::INVAL) => Self::Refused,
            _ => Self::Kernel { doing: "read", source: error },
        }
    }

    /// An element that cannot be written, of a map of this kind.
    pub fn writing(kind: &str, error: io::Error) -> Self {
        match errno(&error) {
            Some(Errno::PERM) => Self::Protected,
            Some(Errno::INVAL) => Self::Refused,
            Some(Errno::EXIST) => Self::Present,
            Some(Errno::NOENT) => Self::Absent,
            // An index behind the last element (`array_map_update_elem` of kernel/bpf/arraymap.c).
            Some(Errno::TOOBIG) if is_array(kind) => Self::Absent,
            Some(Errno::TOOBIG | Errno::NOSPC | Errno::NOMEM) => Self::Full,
            _ => Self::Kernel { doing: "write", source: error },
        }
    }

    /// An element that cannot be removed, of a map of this kind.
    pub fn removing(kind: &str, error: io::Error) -> Self {
        match errno(&error) {
            Some(Errno::INVAL) if is_array(kind) => Self::Fixed,
            _ => Self::writing(kind, error),
        }
    }
}

fn is_array(kind: &str) -> bool {
    matches!(kind, "array" | "percpu_array")
}

fn errno(error: &io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_error_number_means_is_the_kinds_matter() {
        let of = |kind: &str, errno: Errno| MapFailure::writing(kind, errno.into()).to_string();
        assert_eq!(of("array", Errno::TOOBIG), "the map has no element with this key");
        assert_eq!(of("hash", Errno::TOOBIG), "the map has as many elements as it can hold");
        assert_eq!(of("lpm_trie", Errno::NOSPC), "the map has as many elements as it can hold");
        assert_eq!(of("hash", Errno::EXIST), "the map has an element with this key");
        let of = |kind: &str, errno: Errno| MapFailure::removing(kind, errno.into()).to_string();
        assert_eq!(of("array", Errno::INVAL), "elements of a map of this type cannot be removed");
        assert_eq!(of("lpm_trie", Errno::INVAL), "the kernel does not accept this key or value");
    }
}
