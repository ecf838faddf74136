//! How much of a host one caller may have at a time. The numbers are built in: no policy file can change them yet. Must never know what
//! is in use.

use crate::Policy;
use crate::caller::Principal;

/// The most that one user may have at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Quota {
    /// Apps.
    pub apps: u64,
    /// Links, those that wait for an interface too.
    pub links: u64,
    /// Bytes of maps in the kernel, which charges them to the daemon and not to the user.
    pub map_bytes: u64,
    /// Bytes of the rows of apps and links, with their labels and the values of global variables.
    pub state_bytes: u64,
}

/// Of everybody but root. No node agent in use loads as much: it is room for several of them under one user.
pub const MEMBER: Quota = Quota { apps: 64, links: 512, map_bytes: 512 << 20, state_bytes: 16 << 20 };

impl Policy {
    /// The quota of this caller; `None` for root, who has the host.
    #[must_use]
    pub fn quota(&self, principal: &Principal) -> Option<Quota> {
        (principal.uid != 0).then_some(MEMBER)
    }
}
