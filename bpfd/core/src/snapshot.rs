//! What readers see: intent beside what the kernel had at one moment.

use std::collections::BTreeMap;

use crate::ident::LinkUid;
use crate::kernel::Observed;
use crate::plan::LinkStatus;
use crate::state::State;

/// The last whole state, and how the kernel stood then.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What was asked for.
    pub state: State,
    /// What the kernel had.
    pub observed: Observed,
    /// How each link stands.
    pub statuses: BTreeMap<LinkUid, LinkStatus>,
}
