//! What differs since the state was lost.

use std::collections::BTreeSet;

use bpfd_core::adopt::{Difference, Side};
use bpfd_core::stamp::Relation;

use crate::v1 as pb;

/// Differences that one answer lists: it must fit one message.
const DIFFERENCES: usize = 2048;

/// The answer while something is to be decided.
pub fn lost_state(relation: Relation, differences: BTreeSet<Difference>) -> pb::GetStateResponse {
    let more = differences.len().saturating_sub(DIFFERENCES);
    pb::GetStateResponse {
        state: pb::DaemonState::Recovered.into(),
        cause: relation.to_string(),
        differences: differences.into_iter().take(DIFFERENCES).map(difference).collect(),
        more: u32::try_from(more).unwrap_or(u32::MAX),
    }
}

fn difference(difference: Difference) -> pb::StateDifference {
    let Difference { side, thing, name, uid, detail } = difference;
    let side = match side {
        Side::OnlyRuns => pb::StateSide::OnlyRuns,
        Side::OnlyInDatabase => pb::StateSide::OnlyInDatabase,
        Side::Differs => pb::StateSide::Differs,
        Side::Unrecorded => pb::StateSide::Unrecorded,
        Side::ObjectLost => pb::StateSide::ObjectLost,
    };
    pb::StateDifference { side: side.into(), thing: thing.to_string(), name, uid, detail }
}
