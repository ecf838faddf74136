//! The rules of a policy, and beside each the one user it can be about, if it names one. A decision reads these first: a host may have a
//! thousand rules of which ten are about the caller, and a rule spans several lines of the processor's cache.
//!
//! Both are kept together, and change together: what is noted of a rule cannot be older than the rule. Must never decide.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

use crate::caller::Principal;
use crate::conditions::who;
use crate::rule::{AccountId, Rule, Who};

/// Each `[[rule]]`, in order.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(from = "Vec<Rule>", into = "Vec<Rule>")]
pub struct Rules {
    rules: Vec<Rule>,
    /// Of each rule; `None`: it must be looked at.
    only_users: Vec<Option<u32>>,
}

impl Rules {
    /// Changes whom rules are about.
    pub(crate) fn change_who(&mut self, change: impl FnMut(&mut Who)) {
        self.rules.iter_mut().flat_map(|rule| rule.who.iter_mut().flatten()).for_each(change);
        self.only_users = self.rules.iter().map(only_user).collect();
    }

    /// The rules that are about a caller, or may be: with `None`, if it is not known.
    pub(crate) fn about(&self, principal: &Principal) -> impl Iterator<Item = (&Rule, Option<bool>)> {
        self.rules.iter().zip(&self.only_users).filter_map(|(rule, only)| {
            // First, and without a look at the rule.
            if only.is_some_and(|uid| uid != principal.uid) {
                return None;
            }
            let who = who(rule, principal);
            (who != Some(false)).then_some((rule, who))
        })
    }
}

impl From<Vec<Rule>> for Rules {
    fn from(rules: Vec<Rule>) -> Self {
        Self { only_users: rules.iter().map(only_user).collect(), rules }
    }
}

impl From<Rules> for Vec<Rule> {
    fn from(rules: Rules) -> Self {
        rules.rules
    }
}

impl Deref for Rules {
    type Target = [Rule];

    fn deref(&self) -> &[Rule] {
        &self.rules
    }
}

/// The number that each element of `who` asks of the caller: with any other number none of them holds.
fn only_user(rule: &Rule) -> Option<u32> {
    let mut users = rule.who.iter().flatten().map(|who| match who.user.as_ref()?.id {
        AccountId::Is(uid) => Some(uid),
        AccountId::Unknown | AccountId::Absent => None,
    });
    let first = users.next()??;
    users.all(|other| other == Some(first)).then_some(first)
}
