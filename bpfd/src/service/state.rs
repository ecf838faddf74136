//! Lost state: what differs between the database and the pins, and the decision, which is root's and goes on record.

use std::collections::BTreeSet;

use bpfd_core::adopt::{Decision, Difference};
use bpfd_core::ask::{Look, RecoverAsk};
use bpfd_core::policy::{Denied, Principal};
use bpfd_core::snapshot::Snapshot;
use bpfd_core::stamp::Relation;
use bpfd_core::state::ObjectDigest;

use super::{Refused, Service};
use crate::engine::{Engine, EngineError, Pending};
use crate::turns::Line;

/// What is to be decided.
#[derive(Clone, Debug)]
pub struct LostState {
    /// How the database stood to the pins.
    pub relation: Relation,
    /// In a fixed order.
    pub differences: BTreeSet<Difference>,
}

/// A decision that was carried out.
#[derive(Clone, Debug)]
pub struct Decided {
    /// Whether there was anything to decide.
    pub decided: bool,
    /// What could not be had, in a sentence each.
    pub failures: Vec<String>,
}

impl Service {
    /// What differs, while something is to be decided.
    pub async fn lost_state(&self, principal: Principal) -> Result<Option<LostState>, Denied> {
        self.permit(principal, Look(())).await?;
        Ok(self.lost(&self.snapshot()))
    }

    /// Decides. Every program that this takes off is in the record.
    pub async fn decide(&self, principal: Principal, decision: Decision) -> Result<Decided, Refused<EngineError>> {
        let (RecoverAsk(decision), principal) = self.permit(principal, RecoverAsk(decision)).await?.into_parts();
        let Some(lost) = self.lost(&self.snapshot()) else { return Ok(Decided { decided: false, failures: vec![] }) };
        let removed = lost.differences.iter().filter(|difference| difference.is_removed_by(decision));
        let removed = removed.map(|Difference { thing, name, uid, .. }| format!("remove {thing} `{name}` ({uid})"));
        let changes = std::iter::once(format!("{decision} the state: {}", lost.relation)).chain(removed).collect();
        let (engine, line) = (self.engine.clone(), Line::User(principal.uid));
        let attempt = move |engine: &mut Engine<_>, pending: &mut Pending<_>| engine.decide(decision, pending);
        let work = async move { engine.change(line, vec![], attempt).await };
        let failures = self.recorded(principal.owner(), changes, work).await?;
        Ok(Decided { decided: true, failures })
    }

    fn lost(&self, snapshot: &Snapshot) -> Option<LostState> {
        let Snapshot { state, observed, recovery, .. } = snapshot;
        let recovery = recovery.as_ref()?;
        let objects: BTreeSet<ObjectDigest> = state.apps.values().map(|app| app.object).collect();
        let lost = objects.into_iter().filter(|object| !self.objects.has(object)).collect();
        Some(LostState { relation: recovery.relation, differences: recovery.differences(state, observed, &lost) })
    }
}
