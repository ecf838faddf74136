//! Users and groups that rules name, and their numbers. The numbers are looked up by somebody else, when the policy is read: no decision
//! waits for a name service. Must never take the number of one name for another's.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::Policy;
use crate::rule::{Account, AccountId};

/// Names to look up.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Names {
    /// Users.
    pub users: BTreeSet<String>,
    /// Groups.
    pub groups: BTreeSet<String>,
}

/// What they mean; a name that is not here is not known.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Accounts {
    /// Users.
    pub users: BTreeMap<String, AccountId>,
    /// Groups.
    pub groups: BTreeMap<String, AccountId>,
}

impl Names {
    /// Whether there is nothing to look up.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}

impl Accounts {
    /// These, and what they do not know as `older` has it: a number that was right stays until a name service says otherwise.
    #[must_use]
    pub fn or(mut self, older: &Self) -> Self {
        let fill = |now: &mut BTreeMap<String, AccountId>, then: &BTreeMap<String, AccountId>| {
            for (name, id) in then {
                let known = now.entry(name.clone()).or_default();
                if *known == AccountId::Unknown {
                    *known = *id;
                }
            }
        };
        fill(&mut self.users, &older.users);
        fill(&mut self.groups, &older.groups);
        self
    }
}

impl Policy {
    /// Every name in a rule. Root is known.
    #[must_use]
    pub fn names(&self) -> Names {
        let mut names = Names::default();
        for one in self.rules.iter().flat_map(|rule| rule.who.iter().flatten()) {
            names.users.extend(one.user.iter().map(|user| user.name.clone()).filter(|name| name != "root"));
            names.groups.extend(one.group.iter().map(|group| group.name.clone()));
        }
        names
    }

    /// What the names mean, as far as this policy knows.
    #[must_use]
    pub fn accounts(&self) -> Accounts {
        let mut accounts = Accounts::default();
        for one in self.rules.iter().flat_map(|rule| rule.who.iter().flatten()) {
            accounts.users.extend(one.user.iter().map(|user| (user.name.clone(), user.id)));
            accounts.groups.extend(one.group.iter().map(|group| (group.name.clone(), group.id)));
        }
        accounts
    }

    /// The same policy with these numbers.
    #[must_use]
    pub fn with_accounts(mut self, accounts: &Accounts) -> Self {
        let set = |account: &mut Option<Account>, known: &BTreeMap<String, AccountId>| {
            if let Some(account) = account.as_mut() {
                account.id = match account.name.as_str() {
                    "root" => AccountId::Is(0),
                    name => known.get(name).copied().unwrap_or_default(),
                };
            }
        };
        self.rules.change_who(|one| {
            set(&mut one.user, &accounts.users);
            set(&mut one.group, &accounts.groups);
        });
        self
    }

    /// The names that have no number.
    #[must_use]
    pub fn nameless(&self) -> Names {
        let Accounts { users, groups } = self.accounts();
        let without = |ids: BTreeMap<String, AccountId>| {
            ids.into_iter().filter(|(_, id)| !matches!(id, AccountId::Is(_))).map(|(name, _)| name).collect()
        };
        Names { users: without(users), groups: without(groups) }
    }
}
