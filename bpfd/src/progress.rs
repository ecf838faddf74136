//! What a caller hears while a pull or a load goes on.

use std::sync::Arc;

/// Where it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
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

/// One report.
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

/// Where reports go. Never blocks: a caller that does not read misses reports, not the result.
pub type Report = Arc<dyn Fn(Progress) + Send + Sync>;
