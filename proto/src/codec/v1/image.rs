//! What a policy says of an image, section by section, to messages.

use bpfd_core::policy::{Applies, Checked, ScopeOutcome};

use crate::v1 as pb;

/// A section of the policy, and how the image fared under it.
pub fn section(outcome: ScopeOutcome) -> pb::ImageSection {
    let ScopeOutcome { scope, applies, requirements } = outcome;
    let row = |Checked { requirement, holds, why }: Checked| pb::ImageRequirement { requirement, holds, why };
    pb::ImageSection {
        scope: scope.to_string(),
        applies: applies == Applies::Yes,
        why: applies.to_string(),
        requirements: requirements.into_iter().map(row).collect(),
    }
}
