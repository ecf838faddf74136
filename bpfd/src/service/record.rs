//! What changes no hook and is on record all the same: trust, the policy, the image store, elements of maps. It must never decide who may.

use std::error::Error;

use bpfd_core::ident::OpId;
use bpfd_core::policy::Denied;
use bpfd_core::state::Owner;
use uuid::Uuid;

use super::Service;
use crate::audit::{Kind, Record, WhenFull, result};
use crate::causes::error_chain;
use crate::engine::{Engine, EngineError, EngineHandle};
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

/// An operation that is on record and goes on. Dropped, it is done: its last record is written.
pub(super) struct Begun {
    engine: EngineHandle<HostKernel>,
    operation: OpId,
    line: Line,
    result: Option<String>,
}

impl Begun {
    /// It ended so. The record is waited for: each change that began before has ended by then, one under an older policy too.
    async fn ended(mut self, result: String) {
        self.result = None;
        end(self.engine.clone(), self.line, self.operation, result).await;
    }

    /// It could not be done.
    pub(super) fn failed(mut self, error: &(dyn Error + 'static)) {
        self.result = Some(error_chain(error));
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let Some(result) = self.result.take() else { return };
        // Without a runtime the daemon is at its end: the next start says so of the operation.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(end(self.engine.clone(), self.line, self.operation, result));
        }
    }
}

async fn end(engine: EngineHandle<HostKernel>, line: Line, operation: OpId, result: String) {
    let end = move |engine: &mut Engine<HostKernel>| engine.audit().ended(operation, &result);
    if let Err(error) = engine.enqueue(line, end).await {
        tracing::error!(%error, "cannot write an end record to the audit log");
    }
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
        self.recorded_of(owner, vec![], changes, work).await
    }

    /// The same of something that is about these apps.
    pub(super) async fn recorded_of<T, E>(
        &self,
        owner: Owner,
        apps: Vec<String>,
        changes: Vec<String>,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, Refused<E>>
    where
        T: Send + 'static,
        E: Error + Send + 'static,
    {
        let begun = self.begin(owner, apps, changes).await?;
        let working = tokio::spawn(async move {
            let done = work.await;
            begun.ended(result(&done)).await;
            done
        });
        working.await.map_err(|_panicked| Refused::Lost)?.map_err(Refused::Failed)
    }

    /// Writes the first record of an operation about these apps.
    pub(super) async fn begin<E: Error + 'static>(
        &self,
        owner: Owner,
        apps: Vec<String>,
        changes: Vec<String>,
    ) -> Result<Begun, Refused<E>> {
        let (operation, line) = (OpId(Uuid::new_v4()), Line::User(owner.uid));
        let begin = move |engine: &mut Engine<HostKernel>| {
            let begun = Record::Begin {
                operation,
                kind: Kind::Host,
                owner: &owner,
                changes: &changes,
                apps: &apps,
                plan: None,
                late: false,
            };
            engine.audit().write(&begun, WhenFull::Refuse)
        };
        let begun = self.engine.call(line, begin).await.map_err(Refused::NotBegun)?;
        begun.map_err(|error| Refused::NotBegun(ExecuteError::Audit(error).into()))?;
        Ok(Begun { engine: self.engine.clone(), operation, line, result: Some("done".to_owned()) })
    }
}
