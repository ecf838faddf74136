//! Questions in writing, and what an administrator expects of a policy: the tables that `bpfctl policy test` holds a policy against.
//!
//! Users and groups are names here, which need not exist: each has a number of its own for the time of a test. Must never ask a host.

mod order;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use toml::Spanned;
use toml::de::Deserializer;

use self::order::OrderExpectation;
use crate::accounts::Accounts;
use crate::caller::{Asked, Credentials, Denied, HookFacts, Owner, Principal, Reach, SourceFacts, Unit, Verb};
use crate::decide::{Allowed, Stage};
use crate::digest::Digest;
use crate::reference::Reference;
use crate::rule::{AccountId, Direction, RuleVerb};
use crate::words::KINDS;
use crate::{Policy, limits, position};

/// One question, as a person writes it. What is left out is not known, and may turn out to be anything that a rule allows.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// A verb of rules.
    pub verb: String,
    /// The kind of program.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The interface of the hook.
    pub interface: Option<String>,
    /// Its network namespace; `host` if it is left out.
    pub netns: Option<String>,
    /// Which way packets go; left out, as the kind of program has it.
    pub direction: Option<Direction>,
    /// The place in the chain.
    pub priority: Option<u32>,
    /// After which verdicts the next program runs.
    pub proceed_on: Option<BTreeSet<String>>,
    /// The target of a hook without an interface.
    pub target: Option<String>,
    /// The image that bytes come from.
    pub image: Option<String>,
    /// Whose signatures count; left out, nobody looked.
    pub signed_by: Option<BTreeSet<String>>,
    /// `sha256:…` of a file, or `any` for whatever file.
    pub file: Option<String>,
    /// Whether it is about what somebody else owns.
    #[serde(default)]
    pub others: bool,
}

/// A question that means nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "each says what is wrong in its words")]
pub enum BadQuestion {
    #[error("no verb `{0}`; known are pull, load, attach, update, detach, unload, list, map-read, map-write")]
    Verb(String),
    #[error("no program type `{0}`; known are {known}", known = KINDS.join(", "))]
    Kind(String),
    #[error("`{0}` is not an image reference: {1}")]
    Image(String, String),
    #[error("`{0}` is not the hash of a file: write `sha256:` and 64 hexadecimal digits, or `any`")]
    File(String),
    #[error("`image` and `file` exclude each other")]
    TwoSources,
    #[error("`interface` and `target` exclude each other: a hook has one of them")]
    TwoHooks,
}

impl Question {
    /// As the decision takes it, and how much is known.
    ///
    /// # Errors
    /// [`BadQuestion`].
    pub fn asked(&self, caller: &Principal) -> Result<Asked, BadQuestion> {
        let Self {
            verb,
            kind,
            interface,
            netns,
            direction,
            priority,
            proceed_on,
            target,
            image,
            signed_by,
            file,
            others,
        } = self;
        let known = Verb::ALL.iter().find(|known| RuleVerb::of(**known).is_some_and(|word| word.as_str() == verb));
        let verb = *known.ok_or_else(|| BadQuestion::Verb(verb.clone()))?;
        if let Some(kind) = kind.as_ref().filter(|kind| !KINDS.contains(&kind.as_str())) {
            return Err(BadQuestion::Kind(kind.clone()));
        }
        let hook = match (interface, target) {
            (Some(_), Some(_)) => return Err(BadQuestion::TwoHooks),
            (None, None) => None,
            (None, Some(target)) => Some(HookFacts::Own { target: Some(target.clone()) }),
            (Some(interface), None) => Some(HookFacts::Shared {
                interface: interface.clone(),
                netns: netns.clone().unwrap_or_else(|| "host".to_owned()),
                direction: direction.unwrap_or(Direction::Ingress),
                priority: *priority,
                proceed_on: proceed_on.clone(),
            }),
        };
        let source = match (image, file) {
            (Some(_), Some(_)) => return Err(BadQuestion::TwoSources),
            (None, None) => None,
            (Some(image), None) => {
                let reference: Result<Reference, _> = image.parse();
                let reference = reference.map_err(|why| BadQuestion::Image(image.clone(), why.to_string()))?;
                Some(SourceFacts::Image { reference: Some(reference), signers: signed_by.clone() })
            }
            (None, Some(any)) if any == "any" => Some(SourceFacts::Upload { object: None }),
            (None, Some(file)) => {
                let object: Digest = file.parse().map_err(|_not| BadQuestion::File(file.clone()))?;
                Some(SourceFacts::Upload { object: Some(object) })
            }
        };
        let owner = others.then(|| Owner { uid: caller.uid.wrapping_add(1), user: Some("somebody else".to_owned()) });
        Ok(Asked { kind: kind.clone(), hook, source, owner, ..Asked::verb(verb) })
    }
}

/// What a policy is held against.
#[derive(Debug)]
pub struct Expectations {
    file: String,
    each: Vec<(usize, Expectation)>,
    orders: Vec<(usize, OrderExpectation)>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table, as `[[expect]]` begins one")]
struct Expectation {
    name: Option<String>,
    who: Caller,
    ask: Question,
    result: Wanted,
    rule: Option<String>,
    reach: Option<Reach>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { user = \"cni\", groups = [\"bpfd\"] }")]
struct Caller {
    user: String,
    #[serde(default)]
    groups: BTreeSet<String>,
    unit: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    Allow,
    Deny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    #[serde(default)]
    expect: Vec<Spanned<Expectation>>,
    #[serde(default)]
    expect_order: Vec<Spanned<OrderExpectation>>,
}

/// A table that cannot be read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{file}:{line}:{column}: {why}")]
pub struct BadExpectations {
    /// As the caller gave it.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
    /// What is wrong there.
    pub why: String,
}

/// How one expectation came out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// `file:line`, and its name.
    pub what: String,
    /// Why it is not as expected; `None` if it is.
    pub wrong: Option<String>,
}

impl Expectations {
    /// Reads a table.
    ///
    /// # Errors
    /// [`BadExpectations`].
    pub fn read(file: &str, text: &str) -> Result<Self, BadExpectations> {
        let at = |offset: usize, why: String| {
            let (line, column) = position(text, offset);
            BadExpectations { file: file.to_owned(), line, column, why }
        };
        if u64::try_from(text.len()).is_ok_and(|length| length > limits::CONFIG_FILE) {
            return Err(at(0, format!("the file has more than {} bytes", limits::CONFIG_FILE)));
        }
        let read = Deserializer::parse(text).and_then(FileText::deserialize);
        let FileText { expect, expect_order } = read.map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            at(offset, error.message().to_owned())
        })?;
        if expect.is_empty() && expect_order.is_empty() {
            return Err(at(
                0,
                "no `[[expect]]` and no `[[expect_order]]`: a test without expectations proves nothing".to_owned(),
            ));
        }
        let mut each = Vec::new();
        for one in expect {
            let offset = one.span().start;
            let one = one.into_inner();
            one.ask.asked(&Principal::daemon()).map_err(|bad| at(offset, bad.to_string()))?;
            each.push((position(text, offset).0, one));
        }
        let mut orders = Vec::new();
        for one in expect_order {
            let offset = one.span().start;
            if let Some(fault) = one.get_ref().fault() {
                return Err(at(offset, fault));
            }
            orders.push((position(text, offset).0, one.into_inner()));
        }
        Ok(Self { file: file.to_owned(), each, orders })
    }

    /// Holds a policy against them.
    #[must_use]
    pub fn of(&self, policy: &Policy) -> Vec<Finding> {
        let mut numbers = Numbers::default();
        let names = policy.names();
        for name in &names.users {
            numbers.user(name);
        }
        for name in &names.groups {
            numbers.group(name);
        }
        let policy = policy.clone().with_accounts(&numbers.accounts());
        let decisions = self.each.iter().map(|(line, one)| self.finding(&policy, &mut numbers, *line, one));
        let orders = self.orders.iter().map(|(line, one)| {
            let what = self.what(*line, one.name.as_deref());
            Finding { what, wrong: one.wrong(&policy) }
        });
        decisions.chain(orders).collect()
    }

    fn what(&self, line: usize, name: Option<&str>) -> String {
        format!("{}:{line}{}", self.file, name.map(|name| format!(" {name}")).unwrap_or_default())
    }

    fn finding(&self, policy: &Policy, numbers: &mut Numbers, line: usize, one: &Expectation) -> Finding {
        let Expectation { name, who, ask, result, rule, reach } = one;
        let principal = Principal {
            uid: numbers.user(&who.user),
            user: Some(who.user.clone()),
            credentials: Credentials {
                groups: Some(who.groups.iter().map(|name| numbers.group(name)).collect()),
                unit: who.unit.clone().map_or(Unit::None, Unit::Is),
            },
            pid: 0,
        };
        let what = self.what(line, name.as_deref());
        let decided = match ask.asked(&principal) {
            Ok(asked) => policy.decide(&principal, &asked, Stage::First),
            Err(bad) => return Finding { what, wrong: Some(bad.to_string()) },
        };
        let wrong = match (result, decided) {
            (Wanted::Deny, Ok(Allowed { rule, .. })) => Some(format!("expected deny, and rule `{rule}` allows it")),
            (Wanted::Allow, Err(Denied { why, .. })) => Some(format!("expected allow, and it is denied: {why}")),
            (Wanted::Deny, Err(Denied { why, .. })) => rule
                .as_ref()
                .filter(|rule| !why.contains(&format!("rule `{rule}`")))
                .map(|rule| format!("expected to be denied by or in spite of rule `{rule}`, and it is: {why}")),
            (Wanted::Allow, Ok(allowed)) => match (rule, reach) {
                (Some(rule), _) if *rule != allowed.rule => {
                    Some(format!("expected rule `{rule}`, and rule `{}` allows it", allowed.rule))
                }
                (_, Some(reach)) if *reach != allowed.reach => {
                    Some(format!("expected reach {reach}, and it is {}", allowed.reach))
                }
                (_, _) => None,
            },
        };
        Finding { what, wrong }
    }
}

/// A number for each name, root's its own.
#[derive(Default)]
struct Numbers {
    users: BTreeMap<String, u32>,
    groups: BTreeMap<String, u32>,
}

impl Numbers {
    fn user(&mut self, name: &str) -> u32 {
        number(&mut self.users, name)
    }

    fn group(&mut self, name: &str) -> u32 {
        number(&mut self.groups, name)
    }

    fn accounts(&self) -> Accounts {
        let ids = |numbers: &BTreeMap<String, u32>| {
            numbers.iter().map(|(name, id)| (name.clone(), AccountId::Is(*id))).collect()
        };
        Accounts { users: ids(&self.users), groups: ids(&self.groups) }
    }
}

fn number(numbers: &mut BTreeMap<String, u32>, name: &str) -> u32 {
    if name == "root" {
        return 0;
    }
    let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX).saturating_add(1000);
    *numbers.entry(name.to_owned()).or_insert(next)
}
