//! The rules that hold without a file. Must never say what a file could not.
//!
//! The rule of root holds always: what an administrator wrote wrongly can be mended, and a rule that denies still narrows it. The others
//! hold until a file has a rule: then files alone say what members of a group may do.

use crate::caller::{GROUP, GROUP_PRIORITY_MIN, PRIORITY_MAX, VIEW_GROUP};
use crate::name::Name;
use crate::rule::{Account, AccountId, Band, Effect, Images, Rule, RuleVerb, Sources, Who};

/// What ids of built-in rules begin with, and no others.
pub const PREFIX: &str = "builtin-";

/// Whether a rule is one of them.
#[must_use]
pub fn is_built_in(rule: &Rule) -> bool {
    rule.id.as_str().starts_with(PREFIX)
}

/// All of them: what holds without a file.
#[must_use]
pub fn all() -> Vec<Rule> {
    std::iter::once(root()).chain(groups()).collect()
}

/// Root: everything.
#[must_use]
pub fn root() -> Rule {
    // Its number is no matter of a name service.
    let root = Account { name: "root".to_owned(), id: AccountId::Is(0) };
    rule("root", Who { user: Some(root), ..Who::default() }, RuleVerb::ALL)
}

/// Of the groups: images that pass, at priorities that are not root's, and what is their own.
#[must_use]
pub fn groups() -> [Rule; 3] {
    use RuleVerb::{Attach, Detach, List, Load, Pull, Unload, Update};
    [
        Rule {
            source: Some(Sources { images: Some(Images::Any), signed_by: None, files: None }),
            priority: Some(Band { min: GROUP_PRIORITY_MIN, max: PRIORITY_MAX }),
            ..rule("bpfd", group(GROUP), &[Pull, Load, Attach, Update])
        },
        rule("bpfd-own", group(GROUP), &[List, Detach, Unload]),
        rule("bpfd-view", group(VIEW_GROUP), &[List]),
    ]
}

fn group(name: &str) -> Who {
    Who { group: Some(Account { name: name.to_owned(), id: AccountId::Unknown }), ..Who::default() }
}

fn rule(id: &str, who: Who, verbs: &[RuleVerb]) -> Rule {
    Rule {
        id: Name::built_in(PREFIX, id),
        effect: Effect::Allow,
        who: Some(vec![who]),
        verbs: verbs.iter().copied().collect(),
        programs: None,
        interfaces: None,
        priority: None,
        must_proceed_on: None,
        hooks: None,
        source: None,
        map_from: None,
        quota: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names() {
        for rule in all() {
            assert_eq!(rule.id.as_str().parse::<Name>().as_ref(), Ok(&rule.id));
            assert!(rule.id.as_str().starts_with(PREFIX));
        }
    }
}
