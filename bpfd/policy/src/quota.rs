//! How much of a host one caller may have at a time: what is built in, and less where rules about the caller say so. Must never know what
//! is in use.

use crate::Policy;
use crate::caller::Principal;
use crate::rule::{Effect, RuleQuota};

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
/// Of root: as much as the host has.
const ROOT: Quota = Quota { apps: u64::MAX, links: u64::MAX, map_bytes: u64::MAX, state_bytes: u64::MAX };

/// How often one user may ask.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rate {
    /// Calls that begin in a minute; `None`: as many as there are places for.
    pub requests_per_minute: Option<u32>,
    /// Calls under way at a time; the same.
    pub concurrent: Option<u32>,
}

impl Policy {
    /// The quota of this caller: of the built-in one and those of all rules about the caller, the smallest of each; `None` for root, who
    /// has the host, unless a rule about root says otherwise.
    #[must_use]
    pub fn quota(&self, principal: &Principal) -> Option<Quota> {
        let start = if principal.uid == 0 { ROOT } else { MEMBER };
        let quota = self.quotas(principal).fold(start, |quota, rule| {
            let smaller = |limit: u64, of_rule: Option<u64>| of_rule.map_or(limit, |of_rule| limit.min(of_rule));
            Quota {
                apps: smaller(quota.apps, rule.apps),
                links: smaller(quota.links, rule.links),
                map_bytes: smaller(quota.map_bytes, rule.map_bytes),
                ..quota
            }
        });
        (quota != ROOT).then_some(quota)
    }

    /// How often this caller may ask.
    #[must_use]
    pub fn rate(&self, principal: &Principal) -> Rate {
        let smaller = |one: Option<u32>, other: Option<u32>| one.into_iter().chain(other).min();
        self.quotas(principal).fold(Rate::default(), |rate, rule| Rate {
            requests_per_minute: smaller(rate.requests_per_minute, rule.requests_per_minute),
            concurrent: smaller(rate.concurrent, rule.concurrent),
        })
    }

    fn quotas(&self, principal: &Principal) -> impl Iterator<Item = RuleQuota> {
        self.rules_about(principal).filter(|rule| rule.effect == Effect::Allow).filter_map(|rule| rule.quota)
    }
}
