//! Why changes do not happen. This file must never decide that.

use bpfd_core::changes::RequestError;
use bpfd_core::ident::RequestId;
use bpfd_core::kernel::ObserveError;
use bpfd_core::plan::PlanError;
use bpfd_core::policy::Denied;
use bpfd_core::quota::OverQuota;

use crate::execute::ExecuteError;
use crate::repair::RepairError;
use crate::store::StoreError;
use crate::turns::Full;

/// Why a change did not happen.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The request means nothing here.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// What it turned out to mean is not allowed.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// It is more than its user may have.
    #[error(transparent)]
    Quota(#[from] OverQuota),
    /// It cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The same, because a name leads nowhere.
    #[error("{error}")]
    Misspelt {
        /// Why not.
        error: PlanError,
        /// The name that was probably meant.
        near: String,
    },
    /// It was tried, failed, and was undone.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    /// It was tried, the verifier rejected a program, and it was undone.
    #[error(transparent)]
    Rejected(Box<crate::load_log::Rejected>),
    /// The same of a link that the request is not about, or it cannot be fused: it is in the way of others in its chain.
    #[error("{error}")]
    InTheWay {
        /// What was refused.
        error: Box<Self>,
        /// Which link it is, as far as the caller may know, and what to do.
        hint: String,
    },
    /// The kernel could not be read.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// The database could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key belongs to another request of this caller.
    #[error("request id {0} was used for another request")]
    Reused(RequestId),
    /// It was carried out, but for these links: they are no rows any more, and still run.
    #[error("what was removed still runs: {}", .0.join("; "))]
    StillRuns(Vec<String>),
    /// What an earlier change left is in the way.
    #[error("an earlier operation was interrupted, and recovery failed")]
    Repair(#[from] RepairError),
    /// This user has too many requests.
    #[error(transparent)]
    Busy(#[from] Full),
    /// The engine's thread is gone.
    #[error("the engine has stopped")]
    Stopped,
}
