//! What a caller hears beside a result: how far the work is, and what to know about it.

use crate::state::Owner;

/// Where a pull or a load is, in the order in which callers hear of it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Phase {
    /// Asking the registry what the tag means.
    Resolve,
    /// Checking signatures against the policy.
    Verify,
    /// Bytes arrive.
    Fetch,
    /// The parse worker reads the object.
    Inspect,
    /// The kernel verifies the programs.
    Load,
    /// The hook changes.
    Attach,
}

/// One report of a pull or a load.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Progress {
    /// Where it is.
    pub phase: Phase,
    /// What is being worked on, where that has a digest.
    pub digest: Option<String>,
    /// Bytes so far.
    pub done: Option<u64>,
    /// Of how many.
    pub total: Option<u64>,
}

impl Progress {
    /// A phase begins.
    pub fn begin(phase: Phase) -> Self {
        Self { phase, digest: None, done: None, total: None }
    }
}

/// Something to know about a request that was carried out all the same.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Warning {
    /// The registry of an image did not answer, so what the store has may be old: why, in a sentence.
    Unreachable(String),
    /// What lies where an image's signatures should be is something else, and the policy asks for none: why, in a sentence.
    Signatures(String),
    /// Maps that ask to be pinned by name, and are not.
    PinByName {
        /// Their names.
        maps: Vec<String>,
        /// The first of them that could be shared.
        shareable: Option<String>,
    },
    /// What `--all` leaves.
    Stays {
        /// As people name it, as in ``app `a` ``.
        thing: String,
        /// Whose it is.
        owner: Owner,
    },
    /// An order of the policy that a chain does not have, since another one says the opposite.
    Unordered {
        /// Its id.
        order: String,
        /// The link that it wants to run earlier.
        earlier: String,
        /// The link that it wants to run later.
        later: String,
    },
}
