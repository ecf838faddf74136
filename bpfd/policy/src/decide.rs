//! The decision: a linear scan over the rules. A rule that denies wins; else any rule that allows; else it is denied.
//!
//! ```text
//! condition   holds for                         and says nothing about
//! who, verbs  everything
//! priority    attach, update: hooks of interfaces
//! programs    load, attach, update, detach      pull, unload, list, map-read, map-write
//! interfaces  attach, update, detach: hooks of interfaces
//! proceed-on  attach, update: hooks of interfaces
//! hooks       attach, update, detach; targets: hooks of no interface
//! source      pull, load, attach, update
//! map_from    load, if it takes maps of another app
//! ```
//! Where a condition says nothing it keeps nobody from what a rule allows; and a rule that denies is not about that at all. A fact may not
//! be known yet: a request that is looked at for the first time is let on if it may turn out to be allowed, and is decided on again when
//! everything is known ([`Stage`]). Must never look at anything but its arguments.

use std::collections::BTreeSet;
use std::fmt;

use crate::Policy;
use crate::builtin;
use crate::caller::{
    Asked, Denied, GROUP, GROUP_PRIORITY_MIN, HookFacts, Owner, PRIORITY_MAX, Principal, Reach, SourceFacts, Verb,
};
use crate::conditions::{Holds, MUTE, Say, conditions, who};
use crate::rule::{Effect, Files, Programs, Rule, RuleVerb};

/// How much is known when a decision is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// Not everything: what may turn out to be allowed passes. For requests before names were resolved, and for what runs already, which
    /// nothing is taken from on a suspicion.
    First,
    /// Everything: what is not certain does not pass.
    Last,
}

/// What may be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Allowed {
    /// The first rule that allows it.
    pub rule: String,
    /// How far bytes may reach: as far as the widest rule that allows it says.
    pub reach: Reach,
}

/// A rule, and what is asked.
struct Case<'a> {
    rule: &'a Rule,
    principal: &'a Principal,
    asked: &'a Asked,
    /// Whether the rule is about the caller; `None` if that is not known.
    who: Option<bool>,
    verb: bool,
}

impl Policy {
    /// Whether `principal` may.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn decide(&self, principal: &Principal, asked: &Asked, stage: Stage) -> Result<Allowed, Denied> {
        let Some(verb) = RuleVerb::of(asked.verb) else { return root_alone(principal, asked) };
        let mut allowed: Option<(&Rule, Reach)> = None;
        let mut is_denied = false;
        for (rule, who) in self.rules.about(principal) {
            let case = Case::of(rule, who, verb, principal, asked);
            is_denied |= case.denies(stage);
            if case.allows(stage) {
                let reach = reach(rule, principal, asked);
                allowed = Some(allowed.map_or((rule, reach), |(first, widest)| (first, widest.max(reach))));
            }
        }
        match allowed {
            Some((first, reach)) if !is_denied => Ok(Allowed { rule: first.id.to_string(), reach }),
            Some(_) | None => Err(self.denied(principal, asked, verb, stage)),
        }
    }

    /// Why not: every rule again, in words.
    fn denied(&self, principal: &Principal, asked: &Asked, verb: RuleVerb, stage: Stage) -> Denied {
        let cases = self.rules.iter().map(|rule| Case::of(rule, who(rule, principal), verb, principal, asked));
        let cases: Vec<Case<'_>> = cases.collect();
        let denying = cases.iter().find(|case| case.denies(stage));
        denied(principal, asked, &cases, denying)
    }

    /// How far the bytes of a load may reach, if it is allowed.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn reach(&self, principal: &Principal, load: &Asked, stage: Stage) -> Result<Reach, Denied> {
        Ok(self.decide(principal, load, stage)?.reach)
    }

    /// Whether bytes that the verifier judged with `reach` may be loaded now.
    ///
    /// # Errors
    /// [`Denied`], if this policy would have had them judged with less.
    pub fn confirm_reach(&self, principal: &Principal, reach: Reach, load: &Asked) -> Result<(), Denied> {
        if reach <= self.reach(principal, load, Stage::Last)? {
            return Ok(());
        }
        let unsigned = match &load.source {
            Some(SourceFacts::Image { reference: _, signers }) => signers.as_ref().is_some_and(BTreeSet::is_empty),
            Some(SourceFacts::Upload { .. }) | None => false,
        };
        let (why, hint) = match unsigned {
            true => ("no signature counts any more", "an unsigned image"),
            false => ("the bytes may reach less now", "bytes that nobody vetted"),
        };
        Err(Denied {
            principal: principal.to_string(),
            uid: principal.uid,
            verb: Verb::Load,
            why: format!("the policy changed during the load, and {why}"),
            hint: format!("load it again: it is then verified as {hint}"),
            rules: vec![],
        })
    }

    /// The rules that are about this caller, whatever it asks.
    pub fn rules_about(&self, principal: &Principal) -> impl Iterator<Item = &Rule> {
        self.rules.about(principal).filter_map(|(rule, who)| (who == Some(true)).then_some(rule))
    }
}

/// What no rule can give to anybody: whoever changes the policy can do everything.
fn root_alone(principal: &Principal, asked: &Asked) -> Result<Allowed, Denied> {
    if principal.uid == 0 {
        return Ok(Allowed { rule: builtin::root().id.to_string(), reach: Reach::Kernel });
    }
    let why = match asked.verb {
        Verb::Recover => "only root decides about a state that was lost",
        _ => "only root changes who is trusted",
    };
    Err(Denied {
        principal: principal.to_string(),
        uid: principal.uid,
        verb: asked.verb,
        why: why.to_owned(),
        hint: "ask as root".to_owned(),
        rules: vec![],
    })
}

impl<'a> Case<'a> {
    fn of(rule: &'a Rule, who: Option<bool>, verb: RuleVerb, principal: &'a Principal, asked: &'a Asked) -> Self {
        let is_other = |owner: &Owner| owner.uid != principal.uid;
        // Without `map_from` a rule is about maps as it is about other things: with `other-owner` those of others, too.
        let lent = rule.map_from.is_none() && asked.maps_of.iter().any(|app| is_other(&app.owner));
        let others = lent || asked.owner.as_ref().is_some_and(is_other);
        let has = |verb| rule.verbs.contains(&verb);
        // Acting on what others own takes two verbs: a rule must allow both, and denies with either.
        let verb = match rule.effect {
            Effect::Allow => has(verb) && (!others || has(RuleVerb::OtherOwner)),
            Effect::Deny => has(verb) || others && has(RuleVerb::OtherOwner),
        };
        Self { rule, principal, asked, who, verb }
    }

    fn conditions(&self, say: Say) -> impl Iterator<Item = Holds> {
        conditions(self.rule, self.principal, self.asked, say)
    }

    /// Whether the rule allows this. It need not be certain as long as not everything is known.
    fn allows(&self, stage: Stage) -> bool {
        let who = self.who.unwrap_or(stage == Stage::First);
        let enough = |holds: Holds| match (holds, stage) {
            (Holds::Yes | Holds::Silent, _) | (Holds::Maybe, Stage::First) => true,
            (Holds::Maybe, Stage::Last) | (Holds::No(_), _) => false,
        };
        self.rule.effect == Effect::Allow && self.verb && who && self.conditions(MUTE).all(enough)
    }

    /// Whether the rule denies this. Who somebody is cannot become known later: if no name service says who is meant, anybody may be, but
    /// for root.
    fn denies(&self, stage: Stage) -> bool {
        let who = self.who.unwrap_or(stage == Stage::Last && self.principal.uid != 0);
        let enough = |holds: Holds| match (holds, stage) {
            (Holds::Yes, _) | (Holds::Maybe, Stage::Last) => true,
            (Holds::Maybe, Stage::First) | (Holds::No(_) | Holds::Silent, _) => false,
        };
        self.rule.effect == Effect::Deny && self.verb && who && self.conditions(MUTE).all(enough)
    }

    fn is_about_caller(&self) -> bool {
        self.who != Some(false)
    }

    /// The conditions that do not hold, in words.
    fn failed(&self) -> Vec<String> {
        let mut failed = Vec::new();
        for holds in self.conditions(fmt::format) {
            match holds {
                Holds::No(why) => failed.push(why),
                Holds::Yes | Holds::Maybe | Holds::Silent => {}
            }
        }
        failed
    }

    /// For the log.
    fn told(&self) -> String {
        let Rule { id, effect, .. } = self.rule;
        let effect = match effect {
            Effect::Allow => "allow",
            Effect::Deny => "deny",
        };
        let what = match (self.who, self.verb) {
            (Some(false), _) => "is about others".to_owned(),
            (_, false) => "is about other verbs".to_owned(),
            (who, true) => match (who, self.failed().as_slice()) {
                (None, []) => "matches if the caller is who it names".to_owned(),
                (Some(_), []) => "matches".to_owned(),
                (_, failed) => format!("does not match: {}", failed.join("; ")),
            },
        };
        format!("{effect} `{id}` {what}")
    }
}

fn denied(principal: &Principal, asked: &Asked, cases: &[Case<'_>], denying: Option<&Case<'_>>) -> Denied {
    let closest = cases
        .iter()
        .filter(|case| case.rule.effect == Effect::Allow && case.is_about_caller() && case.verb)
        .min_by_key(|case| case.failed().len());
    let (why, hint) = match (denying, closest, others_thing(principal, asked, cases)) {
        (Some(case), _, _) => (format!("rule `{}` denies it", case.rule.id), "ask an administrator".to_owned()),
        (None, Some(case), _) if case.failed().is_empty() => (
            "a rule may allow it, but who the caller is, or what is asked for, is not known".to_owned(),
            "ask again; `bpfctl doctor` tells root of names that no name service knows".to_owned(),
        ),
        (None, Some(case), _) if builtin::is_built_in(case.rule) => built_in_words(asked, case),
        (None, Some(case), _) => (
            format!("rule `{}` allows it, except {}", case.rule.id, case.failed().join("; and except ")),
            "ask for what the rule allows, or ask an administrator".to_owned(),
        ),
        (None, None, Some(why)) => (why, others_hint(asked.verb).to_owned()),
        (None, None, None) => nobody(principal, asked, cases),
    };
    Denied {
        principal: principal.to_string(),
        uid: principal.uid,
        verb: asked.verb,
        why,
        hint,
        rules: cases.iter().map(Case::told).collect(),
    }
}

/// What the caller may do with what is its own only.
fn others_thing(principal: &Principal, asked: &Asked, cases: &[Case<'_>]) -> Option<String> {
    let thing = || asked.thing.as_deref().unwrap_or("it").to_owned();
    let own_thing = asked.owner.as_ref().map(|owner| (owner, thing()));
    let lenders = asked.maps_of.iter().map(|app| (&app.owner, format!("app `{}`", app.app)));
    let (owner, thing) = own_thing.into_iter().chain(lenders).find(|(owner, _)| owner.uid != principal.uid)?;
    let verb = RuleVerb::of(asked.verb)?;
    let own = |rule: &Rule| rule.effect == Effect::Allow && rule.verbs.contains(&verb);
    cases.iter().find(|case| own(case.rule) && case.is_about_caller())?;
    Some(format!("{thing} belongs to {owner}"))
}

fn others_hint(verb: Verb) -> &'static str {
    match verb {
        Verb::Attach => "load the image under a name of your own",
        Verb::Load => "load an app of your own that makes the map",
        _ => "ask its owner, or root",
    }
}

/// The built-in rules are the same on each host: they are told with the way out.
fn built_in_words(asked: &Asked, case: &Case<'_>) -> (String, String) {
    if asked.verb == Verb::Load && matches!(asked.source, Some(SourceFacts::Upload { .. })) {
        return (
            format!("members of group `{GROUP}` load images, not files"),
            "build and sign an image with `bpfctl image build` and `bpfctl image sign`, or load the file as root"
                .to_owned(),
        );
    }
    match &asked.hook {
        Some(HookFacts::Shared { priority: Some(priority), .. }) if *priority < GROUP_PRIORITY_MIN => {
            let min = GROUP_PRIORITY_MIN;
            (
                format!("priority {priority} is below {min}: lower priorities are reserved for root"),
                format!("ask for a priority from {min} to {}", PRIORITY_MAX),
            )
        }
        _ => (case.failed().join(", and "), "ask as root".to_owned()),
    }
}

/// No rule about this caller has the verb.
fn nobody(principal: &Principal, asked: &Asked, cases: &[Case<'_>]) -> (String, String) {
    let by_files = cases.iter().any(|case| !builtin::is_built_in(case.rule));
    let known = cases.iter().any(|case| case.is_about_caller());
    match (by_files, known) {
        (false, true) if matches!(asked.verb, Verb::MapRead | Verb::MapWrite) => (
            format!("no rule about you allows `{}`", asked.verb),
            format!("ask as root, or have root write a [[rule]] with the verb `{}`", asked.verb),
        ),
        (false, _) => (
            format!("not root and not in group `{GROUP}`"),
            "ask as root, or have root add you to the group: `usermod -aG bpfd USER`".to_owned(),
        ),
        (true, true) => (
            format!("no rule about you allows `{}`", asked.verb),
            "`bpfctl whoami` shows which rules are about you; ask an administrator".to_owned(),
        ),
        (true, false) => (
            format!("no rule is about {principal}"),
            "`bpfctl whoami` shows whom bpfd takes you for; ask an administrator".to_owned(),
        ),
    }
}

/// Content that root vouches for, by asking, by naming it in a rule or by signers whose signatures count, is verified with the daemon's
/// capabilities; anything else without the kernel's own line, CAP_PERFMON. A rule may say otherwise.
fn reach(rule: &Rule, principal: &Principal, asked: &Asked) -> Reach {
    if let Some(Programs { reach: Some(reach), types: _ }) = rule.programs {
        return reach;
    }
    let vetted = match &asked.source {
        None => false,
        Some(SourceFacts::Image { reference: _, signers }) => signers.as_ref().is_some_and(|names| !names.is_empty()),
        Some(SourceFacts::Upload { object }) => match rule.source.as_ref().and_then(|source| source.files.as_ref()) {
            Some(Files::Of(files)) => object.is_some_and(|object| files.contains(&object)),
            Some(Files::Any) | None => false,
        },
    };
    if principal.uid == 0 || vetted { Reach::Kernel } else { Reach::Packet }
}
