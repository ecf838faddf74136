//! Carries out a plan: journal, audit, step; on failure the undo of each step taken, in reverse. After a crash at any line of this
//! file `repair` finds what is left and ends it, forward or back.
//!
//! Only the engine's thread runs this. It must never decide what to do: plans come from `bpfd_core::plan`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bpfd_core::ident::{AppUid, BootId, KernelId, TopUid, Uids};
use bpfd_core::journal::{Operation, Verdict, recover};
use bpfd_core::kernel::{Kernel, ObserveError, Observed, Step, StepError};
use bpfd_core::order;
use bpfd_core::plan::{Plan, converge, converge_chains, reached};
use bpfd_core::state::State;

use crate::audit::{AuditSink, Record};
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
    #[error("cannot write the audit log: nothing is changed without it")]
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
pub struct Hands<'a, K: Kernel> {
    /// The kernel.
    pub kernel: &'a mut K,
    /// The journal and the state's rows.
    pub store: &'a mut Store,
    /// The audit log.
    pub audit: &'a mut dyn AuditSink,
}

/// Takes every step of an operation. On return it happened wholly, or not at all; `Died` (the in-memory kernel only) leaves what
/// a crash leaves.
pub fn execute<K: Kernel>(
    hands: &mut Hands<'_, K>,
    operation: &Operation,
    before: &State,
    after: &State,
    outcome: &Outcome,
) -> Result<(), ExecuteError> {
    let Operation { id, owner, plan, .. } = operation;
    point("journal-begin-before");
    hands.store.begin(operation)?;
    point("journal-begin-after");
    let begun = Record::Begin { operation: *id, owner, plan: plan.to_string() };
    if let Err(error) = hands.audit.write(&begun) {
        hands.store.abandon(*id)?;
        return Err(ExecuteError::Audit(error));
    }

    let (undoable, cleaning) = plan.steps.split_at_checked(plan.committed).unwrap_or((&plan.steps, &[]));
    let mut built = BTreeMap::new();
    for (index, step) in undoable.iter().enumerate() {
        let taken = take(hands, operation, index, step, &mut built);
        let Err((error, done)) = taken else { continue };
        if matches!(error, ExecuteError::Step(StepError::Died)) {
            return Err(error);
        }
        let taken = undoable.get(..index + usize::from(done)).unwrap_or(undoable);
        return Err(undo(hands, operation, taken, &built, error));
    }
    point("journal-commit-before");
    if let Err(error) = hands.store.commit(operation, before, after, outcome) {
        return Err(undo(hands, operation, undoable, &built, error.into()));
    }
    point("journal-commit-after");
    clean(hands, operation, cleaning);
    let ended = Record::End { operation: *id, result: "done" };
    hands.audit.write(&ended).unwrap_or_else(|error| tracing::error!(%error, "audit log: no end record"));
    Ok(())
}

/// One step with its records around it. The error says whether the step itself was done.
fn take<K: Kernel>(
    hands: &mut Hands<'_, K>,
    operation: &Operation,
    index: usize,
    step: &Step,
    built: &mut BTreeMap<TopUid, KernelId>,
) -> Result<(), (ExecuteError, bool)> {
    hands.audit.intent(operation.id, step).map_err(|error| (ExecuteError::Audit(error), false))?;
    point(&format!("step-{}-before", step.verb()));
    let bound = hands.kernel.step(step).map_err(|error| (ExecuteError::Step(error), false))?;
    point(&format!("step-{}-after", step.verb()));
    let bound = match step {
        Step::BuildTop { top, .. } => bound.map(|program| (*top, program)),
        _ => None,
    };
    built.extend(bound);
    hands.store.step_done(operation.id, index, bound).map_err(|error| (error.into(), true))?;
    point("journal-step-after");
    Ok(())
}

/// Takes the steps back in reverse, then forgets the operation. What cannot be taken back stays in the journal.
fn undo<K: Kernel>(
    hands: &mut Hands<'_, K>,
    operation: &Operation,
    taken: &[Step],
    built: &BTreeMap<TopUid, KernelId>,
    failed: ExecuteError,
) -> ExecuteError {
    for step in taken.iter().rev() {
        let Some(back) = Plan::undo(step, built) else { continue };
        point(&format!("undo-{}-before", step.verb()));
        let undone = hands.kernel.step(&back);
        point(&format!("undo-{}-after", step.verb()));
        if let Err(source) = undone {
            return ExecuteError::Stuck { failed: failed.to_string(), step: step.to_string(), source };
        }
    }
    let ended = Record::End { operation: operation.id, result: &failed.to_string() };
    hands.audit.write(&ended).unwrap_or_else(|error| tracing::error!(%error, "audit log: no end record"));
    point("journal-abandon-before");
    let abandoned = hands.store.abandon(operation.id);
    point("journal-abandon-after");
    match abandoned {
        Ok(()) => failed,
        Err(error) => {
            tracing::error!(%error, "an undone operation stays in the journal until the next change or start");
            failed
        }
    }
}

/// The steps after the commit point. One that fails leaves pins that nothing uses; the next repair removes them.
fn clean<K: Kernel>(hands: &mut Hands<'_, K>, operation: &Operation, steps: &[Step]) {
    for step in steps {
        point(&format!("step-{}-before", step.verb()));
        let audited = hands.audit.intent(operation.id, step);
        audited.unwrap_or_else(|error| tracing::error!(%error, "audit log: no record of a clean-up step"));
        if let Err(error) = hands.kernel.step(step) {
            tracing::warn!(%error, %step, "left for the next repair");
        }
        point(&format!("step-{}-after", step.verb()));
    }
}

/// What repair did.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Repaired {
    /// Whether a broken-off operation was found, and how it ended.
    pub recovered: Option<Recovered>,
    /// Steps taken, as text.
    pub steps: Vec<String>,
    /// What could not be had, in a sentence each.
    pub failures: Vec<String>,
}

/// How a broken-off operation ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Recovered {
    /// Its changes hold.
    Forward,
    /// It never happened.
    Back,
}

/// Why repair could not even begin.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel could not be read.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// The in-memory kernel died.
    #[error("the process died")]
    Died,
}

/// Makes the kernel what the database says, after whatever happened: ends a broken-off operation, loads apps whose pins are gone,
/// rebuilds chains, sweeps what no row knows. Taken twice, the second finds nothing to do. Gives what it saw last, too: what comes
/// after that is news.
pub fn repair<K: Kernel>(
    hands: &mut Hands<'_, K>,
    boot: BootId,
    uids: &mut dyn Uids,
) -> Result<(State, Observed, Repaired), RepairError> {
    let mut repaired = Repaired::default();
    let mut state = hands.store.state()?;
    let open = hands.store.open_operation()?;
    let chains = state.chains().into_iter().chain(open.iter().flat_map(|(operation, _)| operation.chains())).collect();
    let mut observed = hands.kernel.observe(&chains)?;
    let mut verdict = open.as_ref().map(|(operation, _)| {
        recover(&state, &observed, operation).unwrap_or_else(|error| {
            // Undone before, and nobody could write that down; the state went on without it.
            repaired.failures.push(format!("an operation of the journal was let go: {error}"));
            Verdict::Back
        })
    });
    let reloaded = loop {
        let target = match &verdict {
            Some(Verdict::Forward(target)) => target.clone(),
            Some(Verdict::Back) | None => state.clone(),
        };
        let mut gone = BTreeSet::new();
        let reloaded = reload(hands, &target, &observed, &mut gone, &mut repaired)?;
        let rows = with_apps_of(&state, &reloaded);
        if rows != state {
            hands.store.replace(boot, &state, &rows)?;
            state = rows;
        }
        let wanted = reachable(&reloaded, &gone);
        for races in 0..=RACES {
            let raced = carry_out(hands, &converge(&wanted, &observed, uids), &mut repaired)?;
            if raced.is_empty() {
                break;
            }
            match races < RACES {
                true => observed = hands.kernel.observe(&chains)?,
                false => repaired.failures.extend(raced),
            }
        }
        if !matches!(verdict, Some(Verdict::Forward(_))) {
            break reloaded;
        }
        observed = hands.kernel.observe(&chains)?;
        if reached(&wanted, &observed) {
            break reloaded;
        }
        // What the kernel would not let go keeps its rows: without them nobody would look at its chain again.
        verdict = Some(Verdict::Back);
    };
    // Last: killed before, the next start finds the operation again, and with it every chain that it may have touched.
    if let (Some((operation, _)), Some(verdict)) = (&open, &verdict) {
        point("repair-verdict-before");
        repaired.recovered = Some(match verdict {
            Verdict::Forward(_) => {
                let outcome = Outcome::of(&state, &reloaded, &operation.changes);
                hands.store.commit(operation, &state, &reloaded, &outcome)?;
                Recovered::Forward
            }
            Verdict::Back => {
                hands.store.abandon(operation.id)?;
                Recovered::Back
            }
        });
        point("repair-verdict-after");
    }
    Ok((reloaded, observed, repaired))
}

/// The rows, with their apps as they were loaded again.
fn with_apps_of(state: &State, reloaded: &State) -> State {
    let mut rows = state.clone();
    for (uid, app) in &mut rows.apps {
        if let Some(again) = reloaded.apps.get(uid) {
            app.clone_from(again);
        }
    }
    rows
}

/// Takes the steps of `first`, makes the observed chains what `state` says, and sweeps. Not journalled: broken off, the next start does
/// the rest. Gives those that somebody else was faster than, in a sentence each.
pub fn settle<K: Kernel>(
    hands: &mut Hands<'_, K>,
    first: &Plan,
    state: &State,
    observed: &Observed,
    uids: &mut dyn Uids,
    repaired: &mut Repaired,
) -> Result<Vec<String>, RepairError> {
    let mut raced = carry_out(hands, first, repaired)?;
    raced.extend(carry_out(hands, &converge_chains(state, observed, &[], uids), repaired)?);
    Ok(raced)
}

/// Stages every app that the kernel has no longer; their programs have new tags and load times.
fn reload<K: Kernel>(
    hands: &mut Hands<'_, K>,
    state: &State,
    observed: &Observed,
    gone: &mut BTreeSet<AppUid>,
    repaired: &mut Repaired,
) -> Result<State, RepairError> {
    let mut reloaded = state.clone();
    for app in reloaded.apps.values_mut().filter(|app| !observed.apps.contains_key(&app.uid)) {
        match hands.kernel.prepare(app.uid, &order::recipe(app)) {
            Ok(programs) => app.loaded_again(&programs),
            Err(StepError::Died) => return Err(RepairError::Died),
            Err(error) => {
                repaired.failures.push(format!("app `{}`: {error}", app.name));
                gone.insert(app.uid);
            }
        }
    }
    Ok(reloaded)
}

/// The state without the apps that cannot be loaded: the rest of each chain runs without them.
fn reachable(state: &State, gone: &BTreeSet<AppUid>) -> State {
    let mut reachable = state.clone();
    reachable.apps.retain(|uid, _| !gone.contains(uid));
    reachable.links.retain(|_, link| !gone.contains(&link.app));
    reachable
}

/// Takes the steps of a repair. A step that fails takes those that need it along; the others go on. Gives those that somebody else
/// was faster than, in a sentence each.
fn carry_out<K: Kernel>(
    hands: &mut Hands<'_, K>,
    plan: &Plan,
    repaired: &mut Repaired,
) -> Result<Vec<String>, RepairError> {
    let mut lost: BTreeSet<TopUid> = BTreeSet::new();
    let mut unswapped = false;
    let mut raced = Vec::new();
    for step in &plan.steps {
        let needs = match step {
            // Left attached by a swap that did not happen, a generation keeps its pins.
            Step::PinTop(top) | Step::Swap { to: Some(top), .. } | Step::UnpinTop(top) => Some(*top),
            Step::BuildTop { .. }
            | Step::PinApp(_)
            | Step::LoadExt { .. }
            | Step::UnpinExt(_)
            | Step::Adopt { .. }
            | Step::DropTop(_)
            | Step::AttachLink { .. }
            | Step::DetachLink(_)
            | Step::Swap { to: None, .. }
            | Step::UnpinApp(_) => None,
        };
        let stays = match step {
            Step::Swap { from: Some(live), .. } => Some(live.top),
            _ => None,
        };
        // A copy whose pin went while it runs would be nobody's.
        let may_run = unswapped && matches!(step, Step::UnpinExt(_));
        if may_run || needs.is_some_and(|top| lost.contains(&top)) {
            unswapped |= matches!(step, Step::Swap { .. });
            lost.extend(stays);
            continue;
        }
        point(&format!("repair-{}-before", step.verb()));
        match hands.kernel.step(step) {
            Ok(_) => repaired.steps.push(step.to_string()),
            Err(StepError::Died) => return Err(RepairError::Died),
            Err(error) => {
                unswapped |= matches!(step, Step::Swap { .. });
                let told = format!("{step}: {error}");
                match error {
                    StepError::Raced(_) => raced.push(told),
                    _ => repaired.failures.push(told),
                }
                if let Step::BuildTop { top, .. } | Step::PinTop(top) = step {
                    lost.insert(*top);
                }
                lost.extend(stays);
            }
        }
        point(&format!("repair-{}-after", step.verb()));
    }
    Ok(raced)
}
