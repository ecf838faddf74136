//! One operation on its way: what the journal keeps so that a crash between any two of its lines can be told and mended.
//!
//! An operation is in the journal from before its first effect until its changes are part of the state, in one transaction. This
//! file decides what recovery makes of a broken-off one; it must never write.

use bpfd_policy::order::Order;
use serde::{Deserialize, Serialize};

use crate::ident::{BootId, OpId, RequestKey};
use crate::kernel::{Observed, Targets};
use crate::ordering::ordered;
use crate::plan::{Plan, reached};
use crate::reboot::Ended;
use crate::seat::seated;
use crate::state::{Change, ChangeError, Owner, State};

/// An operation as it began.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Operation {
    /// Its identity.
    pub id: OpId,
    /// The boot that it ran in.
    pub boot: BootId,
    /// The caller's idempotency key.
    pub request: Option<RequestKey>,
    /// Who asked.
    pub owner: Owner,
    /// What for.
    pub changes: Vec<Change>,
    /// How. Not in the journal: recovery plans anew, from what the kernel has.
    #[serde(skip)]
    pub plan: Plan,
}

impl Operation {
    /// Whether it only removes.
    pub fn removes(&self) -> bool {
        self.changes.iter().all(Change::removes)
    }

    /// Everything that it may have touched: what recovery must observe beside the chains of the state.
    pub fn targets(&self) -> Targets {
        Targets::of(self.changes.iter().filter_map(|change| match change {
            Change::Attach(link) => Some(link),
            Change::Load(_)
            | Change::Update { .. }
            | Change::Rebuild { .. }
            | Change::Reorder { .. }
            | Change::Persist { .. }
            | Change::Detach(_)
            | Change::Unload(_) => None,
        }))
    }

    /// The same, read in a boot: what was known of interfaces of another boot is forgotten.
    #[must_use]
    pub fn read_in(mut self, boot: BootId) -> Self {
        let forgotten = self.boot != boot;
        for change in &mut self.changes {
            if let Change::Attach(link) = change
                && forgotten
            {
                link.on = None;
            }
        }
        self
    }

    /// The same without what it wanted of things that a reboot ended: they are gone, however it ends.
    #[must_use]
    pub fn without(mut self, ended: &Ended) -> Self {
        self.changes.retain(|change| match change {
            Change::Load(_) | Change::Rebuild { .. } | Change::Reorder { .. } => true,
            Change::Attach(link) => !ended.apps.contains(&link.app),
            Change::Update { link, .. } | Change::Detach(link) => !ended.links.contains(link),
            Change::Persist { app, .. } | Change::Unload(app) => !ended.apps.contains(app),
        });
        for change in &mut self.changes {
            if let Change::Persist { links, .. } = change {
                links.retain(|link| !ended.links.contains(link));
            }
        }
        self
    }
}

/// What recovery makes of a broken-off operation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Its changes hold: make the kernel follow where it does not yet.
    Forward(State),
    /// It never happened: take away what it left.
    Back,
}

/// Forward if it only removes, or if the kernel already has all that it wanted; else back. Nobody was told that it succeeded,
/// so both are right; this one loses no work and never leaves half.
pub fn recover(
    state: &State,
    observed: &Observed,
    operation: &Operation,
    orders: &[Order],
) -> Result<Verdict, ChangeError> {
    let target = ordered(orders, &seated(&state.after(&operation.changes)?, observed), |_| true);
    let removes = operation.removes();
    let built_again = operation.changes.iter().all(|change| match change {
        Change::Rebuild { chain, version } => observed.dispatcher_version(chain) == Some(version.number()),
        Change::Load(_)
        | Change::Attach(_)
        | Change::Update { .. }
        | Change::Reorder { .. }
        | Change::Persist { .. }
        | Change::Detach(_)
        | Change::Unload(_) => true,
    });
    match removes || built_again && reached(&target, observed) {
        true => Ok(Verdict::Forward(target)),
        false => Ok(Verdict::Back),
    }
}
