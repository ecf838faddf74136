//! What changes no hook and is on record all the same: trust, the policy, the image store. It must never decide who may.

use std::error::Error;

use bpfd_core::ident::OpId;
use bpfd_core::policy::Denied;
use bpfd_core::state::Owner;
use uuid::Uuid;

use super::Service;
use crate::audit::{Kind, Record, WhenFull, result};
use crate::engine::{Engine, EngineError};
use crate::execute::ExecuteError;
use crate::kernel::HostKernel;
use crate::turns::Line;

/// Why a verb was not carried out, beside the reasons `E` of its own.
#[derive(Debug, thiserror::Error)]
pub enum Refused<E: Error + 'static> {
    /// The policy.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// It is not on record, and so was not tried.
    #[error(transparent)]
    NotBegun(EngineError),
    /// Its thread ended without an answer: it panicked, and said so on stderr.
    #[error("the operation ended unexpectedly")]
    Lost,
    /// It was tried.
    #[error(transparent)]
    Failed(E),
}

impl Service {
    /// Does `work` with a record before it of who asked and what it does, and one after it of how it ended. Once begun it goes to its end,
    /// even if the caller leaves.
    pub(super) async fn recorded<T, E>(
        &self,
        owner: Owner,
        changes: Vec<String>,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, Refused<E>>
    where
        T: Send + 'static,
        E: Error + Send + 'static,
    {
        let (operation, line) = (OpId(Uuid::new_v4()), Line::User(owner.uid));
        let begin = move |engine: &mut Engine<HostKernel>| {
            let begun = Record::Begin {
                operation,
                kind: Kind::Host,
                owner: &owner,
                changes: &changes,
                apps: &[],
                plan: None,
                late: false,
            };
            engine.audit().write(&begun, WhenFull::Refuse)
        };
        let begun = self.engine.call(line, begin).await.map_err(Refused::NotBegun)?;
        begun.map_err(|error| Refused::NotBegun(ExecuteError::Audit(error).into()))?;
        let engine = self.engine.clone();
        let working = tokio::spawn(async move {
            let done = work.await;
            let result = result(&done);
            // Waited for: each change that began before `work` has ended by then, one under an older policy too.
            let end = move |engine: &mut Engine<HostKernel>| engine.audit().ended(operation, &result);
            if let Err(error) = engine.enqueue(line, end).await {
                tracing::error!(%error, "cannot write an end record to the audit log");
            }
            done
        });
        working.await.map_err(|_panicked| Refused::Lost)?.map_err(Refused::Failed)
    }
}
