//! What changes no hook and is on record all the same: trust, the policy, the image store. It must never decide who may.

use std::sync::Arc;

use bpfd_core::ident::OpId;
use bpfd_core::state::Owner;
use bpfd_policy::Policy;
use tonic::Status;
use uuid::Uuid;

use super::{Context, status};
use crate::audit::Record;
use crate::causes::error_chain;
use crate::engine::Engine;
use crate::execute::ExecuteError;
use crate::kernel::HostKernel;
use crate::trust::TrustError;

impl Context {
    /// Does `work` with a record before it of who asked and what it is, and one after it of how it ended. Once begun it goes to its end,
    /// even if the caller leaves.
    pub(super) async fn recorded<T, E>(
        &self,
        owner: Owner,
        change: String,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<Result<T, E>, Status>
    where
        T: Send + 'static,
        E: std::error::Error + Send + 'static,
    {
        let operation = OpId(Uuid::new_v4());
        let begin = move |engine: &mut Engine<HostKernel>| {
            engine.audit().write(&Record::Begin { operation, owner: &owner, changes: &[change], plan: None })
        };
        let begun = self.engine.call(begin).await.map_err(|error| status::engine("cannot begin", error))?;
        begun.map_err(|error| status::execute("cannot begin", &ExecuteError::Audit(error)))?;
        let engine = self.engine.clone();
        let working = tokio::spawn(async move {
            let done = work.await;
            let result = done.as_ref().map_or_else(|error| error_chain(error), |_| "done".to_owned());
            // Waited for: each change that began before `work` has ended by then, one under an older policy too.
            let end = move |engine: &mut Engine<HostKernel>| engine.audit().ended(operation, &result);
            if let Err(error) = engine.call(end).await {
                tracing::error!(%error, "audit log: no end record");
            }
            done
        });
        working.await.map_err(|_panicked| Status::internal("the work was lost"))
    }

    /// Reads the policy again. If it cannot be read, what held before holds on.
    ///
    /// # Errors
    /// The outer one: it is not on record, and so was not tried.
    pub async fn reload_policy(&self, owner: Owner, change: &str) -> Result<Result<Arc<Policy>, TrustError>, Status> {
        let trust = self.trust.clone();
        let reload = async move { tokio::task::block_in_place(|| trust.reload()) };
        self.recorded(owner, change.to_owned(), reload).await
    }
}
