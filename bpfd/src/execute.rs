//! Carries out a plan: journal, audit, step; on failure the undo of each step taken, in reverse. After a crash at any line of this
//! file `repair` finds what is left and ends it, forward or back.
//!
//! Only the engine's thread runs this. It must never decide what to do: plans come from `bpfd_core::plan`.

use std::collections::BTreeMap;
use std::io;

use bpfd_core::describe::{apps, describe};
use bpfd_core::ident::{GenerationUid, KernelId};
use bpfd_core::journal::Operation;
use bpfd_core::kernel::{Kernel, Need, Step, StepError};
use bpfd_core::plan::Plan;
use bpfd_core::state::State;

use crate::audit::{AuditSink, Kind, Record, WhenFull};
use crate::engine::Stock;
use crate::fail_points::point;
use crate::store::{Outcome, Store, StoreError};

/// How often what was planned is planned anew when somebody else changed a hook in between: libxdp's own number
/// (`MAX_RETRY` in xdp-tools lib/libxdp/libxdp.c).
pub const RACES: u32 = 10;

/// Why an operation did not happen.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// A step failed; everything before it was undone.
    #[error(transparent)]
    Step(StepError),
    /// The journal could not be written; everything was undone.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit log could not be written; everything was undone.
    #[error("cannot write the audit log, so nothing was changed")]
    Audit(#[source] io::Error),
    /// A step failed, and then its undo did: the operation stays in the journal and repair ends it.
    #[error("{failed}; undoing `{step}` failed too")]
    Stuck {
        /// What failed first.
        failed: String,
        /// Whose undo failed.
        step: String,
        /// Why.
        source: StepError,
    },
}

/// The parts of the engine that an operation needs.
pub struct Executor<'a, K: Kernel> {
    /// The kernel.
    pub kernel: &'a mut K,
    /// The journal and the state's rows.
    pub store: &'a mut Store,
    /// The audit log.
    pub audit: &'a mut dyn AuditSink,
    /// What was made for the steps; `None` while nobody waits for this thread: the kernel makes it with each step then.
    pub stock: Option<&'a mut Stock<K>>,
}

impl<K: Kernel> Executor<'_, K> {
    /// The plan with all that it needs provided to the kernel, or what is to be made first.
    pub fn ready(&mut self, plan: Plan) -> Result<Plan, Vec<Need>> {
        match &self.stock {
            None => Ok(plan),
            Some(stock) => stock.ready(plan, self.kernel),
        }
    }

    /// Writes beside the pins how far the database is.
    pub fn stamp(&mut self) {
        stamp(self.kernel, self.store);
    }
}

/// Writes beside the pins how far the database is. Where that fails the pins are behind, as after a crash, until the next commit.
pub fn stamp<K: Kernel>(kernel: &mut K, store: &Store) {
    if let Err(error) = kernel.set_stamp(store.stamp()) {
        tracing::warn!(%error, "cannot write the number of the last commit beside the pins");
    }
}

/// Takes every step of an operation. On return it happened wholly, or not at all; `Died` (the in-memory kernel only) leaves what
/// a crash leaves. Gives the links that are no rows any more and still run, with the reason: they could not be let go of.
pub fn execute<K: Kernel>(
    executor: &mut Executor<'_, K>,
    operation: &Operation,
    before: &State,
    after: &State,
    outcome: &Outcome,
) -> Result<Vec<String>, ExecuteError> {
    let Operation { id, owner, changes, plan, .. } = operation;
    point("journal-begin-before");
    let undone = executor.store.undone();
    executor.store.begin(operation)?;
    point("journal-begin-after");
    // An end is written once the journal does not have the operation any more: this one could not be taken out of it before.
    undone.iter().for_each(|undone| executor.audit.ended(*undone, "undone"));
    let (apps, changes) = (apps(before, after, changes), describe(before, after, changes));
    let steps = (!plan.is_empty()).then(|| plan.to_string());
    let (kind, apps, changes) = (Kind::Change, apps.as_slice(), changes.as_slice());
    let begun = Record::Begin { operation: *id, kind, owner, changes, apps, plan: steps, late: false };
    if let Err(error) = executor.audit.write(&begun, WhenFull::of(operation.removes())) {
        executor.store.abandon(*id)?;
        return Err(ExecuteError::Audit(error));
    }
    point("audit-begin-after");

    let (undoable, cleaning) = plan.steps.split_at_checked(plan.committed).unwrap_or((&plan.steps, &[]));
    let mut built = BTreeMap::new();
    for (index, step) in undoable.iter().enumerate() {
        let Err(error) = take(executor, operation, step, &mut built) else { continue };
        if matches!(error, ExecuteError::Step(StepError::Died)) {
            return Err(error);
        }
        let taken = undoable.get(..index).unwrap_or(undoable);
        return Err(undo(executor, operation, taken, &built, error));
    }
    point("journal-commit-before");
    if let Err(error) = executor.store.commit(operation, before, after, outcome) {
        return Err(undo(executor, operation, undoable, &built, error.into()));
    }
    point("journal-commit-after");
    executor.stamp();
    let left = clean(executor, operation, cleaning);
    let result = if left.is_empty() { "done".to_owned() } else { format!("done, but: {}", left.join("; ")) };
    point("audit-end-before");
    executor.audit.ended(*id, &result);
    point("audit-end-after");
    Ok(left)
}

/// One step with the record before it.
fn take<K: Kernel>(
    executor: &mut Executor<'_, K>,
    operation: &Operation,
    step: &Step,
    built: &mut BTreeMap<GenerationUid, KernelId>,
) -> Result<(), ExecuteError> {
    executor.audit.intent(operation.id, step, WhenFull::of(operation.removes())).map_err(ExecuteError::Audit)?;
    point(&format!("step-{}-before", step.verb()));
    let bound = executor.kernel.step(step).map_err(ExecuteError::Step)?;
    point(&format!("step-{}-after", step.verb()));
    if let (Step::BuildGeneration { generation, .. }, Some(program)) = (step, bound) {
        built.insert(*generation, program);
    }
    Ok(())
}

/// Takes the steps back in reverse, then forgets the operation. What cannot be taken back stays in the journal.
fn undo<K: Kernel>(
    executor: &mut Executor<'_, K>,
    operation: &Operation,
    taken: &[Step],
    built: &BTreeMap<GenerationUid, KernelId>,
    failed: ExecuteError,
) -> ExecuteError {
    for step in taken.iter().rev() {
        let Some(back) = Plan::undo(step, built) else { continue };
        let audited = executor.audit.intent(operation.id, &back, WhenFull::Count);
        audited.unwrap_or_else(|error| tracing::error!(%error, "cannot record in the audit log what is undone"));
        point(&format!("undo-{}-before", step.verb()));
        let undone = executor.kernel.step(&back);
        point(&format!("undo-{}-after", step.verb()));
        if let Err(source) = undone {
            return ExecuteError::Stuck { failed: failed.to_string(), step: step.to_string(), source };
        }
    }
    point("journal-abandon-before");
    let abandoned = executor.store.abandon(operation.id);
    point("journal-abandon-after");
    match abandoned {
        Ok(()) => {
            executor.audit.ended(operation.id, &failed.to_string());
            failed
        }
        Err(error) => {
            tracing::error!(%error, "an undone operation stays in the journal until the next change or start");
            failed
        }
    }
}

/// The steps after the commit point. One that fails leaves a record that its row is ahead of, or pins that nothing uses; the next
/// repair writes and removes them. A link that is not let go of runs on: it is tried twice, and told.
fn clean<K: Kernel>(executor: &mut Executor<'_, K>, operation: &Operation, steps: &[Step]) -> Vec<String> {
    let mut left = Vec::new();
    for step in steps {
        point(&format!("step-{}-before", step.verb()));
        let audited = executor.audit.intent(operation.id, step, WhenFull::Count);
        audited.unwrap_or_else(|error| tracing::error!(%error, "cannot record a clean-up step in the audit log"));
        let taken = match (executor.kernel.step(step), step) {
            (Err(error), Step::DetachLink(_)) if error != StepError::Died => executor.kernel.step(step),
            (taken, _) => taken,
        };
        if let Err(error) = taken {
            tracing::warn!(%error, %step, "a clean-up step failed; the next repair repeats it");
            if let Step::DetachLink(link) = step
                && error != StepError::Died
            {
                left.push(format!("link {link} still runs: {error}"));
            }
        }
        point(&format!("step-{}-after", step.verb()));
    }
    left
}
