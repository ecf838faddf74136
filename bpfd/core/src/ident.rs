//! Identities: the UUIDs that bpfd gives to what it owns, and the numbers that the kernel gives. They never mix: a kernel
//! number is an observation and may come back for something else; a UUID never does.
//!
//! This file must never make a UUID: identities are chosen by the caller, before the first step of a plan.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uid {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The 16 bytes, as frozen maps carry them.
            pub fn bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }

            /// The identity that 16 bytes of a frozen map name.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0.as_simple())
            }
        }

        impl std::str::FromStr for $name {
            type Err = NotAUid;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self).map_err(|source| NotAUid { text: shorten(text), source })
            }
        }
    };
}

uid! {
    /// One load of one object. Names its pin directory `v1/<uid>`.
    AppUid
}
uid! {
    /// One program on one hook. Names its pin `v1/link/<uid>` where the kernel has a link object.
    LinkUid
}
uid! {
    /// One slot of ours in a dispatcher: what its copy, which may go from dispatcher to dispatcher, is called. Names `v1/ext/<uid>`. That of
    /// an earlier version is its link's.
    SlotUid
}
uid! {
    /// One generation of what is attached to a shared hook: a fused program or a dispatcher. Names `v1/top/<uid>`.
    GenerationUid
}
impl GenerationUid {
    /// Our name for a dispatcher that a peer made: from the kernel's number, which no other program gets over one boot. A UUID
    /// of version 8, so that it is never one of our own.
    pub fn of_peer(program: KernelId) -> Self {
        let mut bytes = *b"peer\0\0\0\0\0\0\0\0\0\0\0\0";
        let (_, number) = bytes.split_at_mut(12);
        number.copy_from_slice(&program.0.to_be_bytes());
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }
}

uid! {
    /// One database, from when it was made.
    DatabaseUid
}
uid! {
    /// One operation in the journal.
    OpId
}
uid! {
    /// A caller's name for one request: the same one twice gives the first answer twice.
    RequestId
}
uid! {
    /// What a request asks for: a hash of its message, as a UUID of version 8.
    AskedId
}

/// A caller's idempotency key, and what it was used for: a key that comes again with something else is a slip, not a repetition.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RequestKey {
    /// The key.
    pub id: RequestId,
    /// What for.
    pub asked: AskedId,
}

/// A text that is not a UUID.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a UUID")]
pub struct NotAUid {
    text: String,
    source: uuid::Error,
}

/// A source of fresh UUIDs. The daemon's is random, a test's counts.
pub trait Uids {
    /// One that this source never gave before.
    fn fresh(&mut self) -> Uuid;
}

impl<F: FnMut() -> Uuid> Uids for F {
    fn fresh(&mut self) -> Uuid {
        self()
    }
}

/// The kernel's id of a program (`bpf_prog_info.id`). An observation: never stored as a name of anything.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct KernelId(pub u32);

impl fmt::Display for KernelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A number that names an app, a program or a link to clients that want a small integer. Never changes, never recurs over one boot.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Handle(pub u32);

impl Handle {
    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// `/proc/sys/kernel/random/boot_id`: a row of another boot has no kernel half.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct BootId(pub Uuid);

fn shorten(text: &str) -> String {
    text.chars().take(48).collect()
}
