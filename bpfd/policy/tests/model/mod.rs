//! A model of the decision, written from `spec/policy.md` and not from the code, and random cases for it. Facts that are not known are
//! guessed in every way: what may be allowed by some guess is possible, what is allowed by every guess is certain.

use bpfd_policy::Policy;
use bpfd_policy::builtin;
use bpfd_policy::caller::{Asked, Credentials, HookFacts, MapOwner, Owner, Principal, SourceFacts, Unit, Verb};
use bpfd_policy::decide::Stage;
use bpfd_policy::digest::Digest;
use bpfd_policy::rule::{
    Account, AccountId, Band, Direction, Effect, Files, Hooks, Images, Interfaces, MapsOf, Programs, Rule, RuleVerb,
    Sources, Who,
};

/// One policy and one question to it.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) policy: Policy,
    pub(crate) principal: Principal,
    pub(crate) asked: Asked,
}

// ---- the model: what spec/policy.md says, in its words ----

/// `Some(true)` yes, `Some(false)` no, `None` not known.
type Known = Option<bool>;

fn all(parts: impl IntoIterator<Item = Known>) -> Known {
    let parts: Vec<Known> = parts.into_iter().collect();
    match parts.contains(&Some(false)) {
        true => Some(false),
        false if parts.contains(&None) => None,
        false => Some(true),
    }
}

fn who(rule: &Rule, caller: &Principal) -> Known {
    let Some(list) = &rule.who else { return Some(true) };
    let is = |account: &Account, test: &dyn Fn(u32) -> Known| match account.id {
        AccountId::Is(id) => test(id),
        AccountId::Absent => Some(false),
        AccountId::Unknown => None,
    };
    let groups = caller.credentials.groups.as_ref();
    let elements = list.iter().map(|who| {
        let user = who.user.as_ref().map_or(Some(true), |user| is(user, &|id| Some(caller.uid == id)));
        let group = |gid| groups.map(|groups| groups.contains(&gid));
        let group = who.group.as_ref().map_or(Some(true), |name| is(name, &group));
        let unit = who.unit.as_ref().map_or(Some(true), |glob| match &caller.credentials.unit {
            Unit::Unknown => None,
            Unit::None => Some(false),
            Unit::Is(name) => Some(glob.matches(name)),
        });
        all([user, group, unit])
    });
    // One of them: not (all of them not).
    all(elements.map(|known| known.map(|yes| !yes))).map(|none| !none)
}

/// Each condition that the rule states: whether it speaks about this at all, and whether it holds.
fn conditions(rule: &Rule, case: &Case) -> Vec<(bool, Known)> {
    let Asked { verb, kind, hook, source, maps_of, .. } = &case.asked;
    let is = |verbs: &[Verb]| verbs.contains(verb);
    let (placed, hooked) = (is(&[Verb::Attach, Verb::Update]), is(&[Verb::Attach, Verb::Update, Verb::Detach]));
    let own = matches!(hook, Some(HookFacts::Own { .. } | HookFacts::Nowhere));
    let of = |kinds: &Option<_>, kind: &Option<String>| match (kinds, kind) {
        (None::<std::collections::BTreeSet<String>>, _) => Some(true),
        (Some(kinds), kind) => kind.as_ref().map(|kind| kinds.contains(kind)),
    };
    let shared = hook.as_ref().map(|hook| match hook {
        HookFacts::Shared { interface, netns, direction, priority, proceed_on } => {
            (interface.as_str(), netns.as_str(), *direction, *priority, proceed_on.clone())
        }
        HookFacts::Own { .. } | HookFacts::Nowhere => ("", "", Direction::Ingress, None, None),
    });
    let mut stated = Vec::new();
    if let Some(programs) = &rule.programs {
        stated.push((hooked || is(&[Verb::Load]), of(&programs.types, kind)));
    }
    if let Some(Interfaces { names, netns, directions }) = &rule.interfaces {
        let holds = shared.as_ref().map(|(name, space, direction, ..)| {
            names.as_ref().is_none_or(|globs| globs.iter().any(|glob| glob.matches(name)))
                && netns.as_ref().is_none_or(|globs| globs.iter().any(|glob| glob.matches(space)))
                && directions.as_ref().is_none_or(|set| set.contains(direction))
        });
        stated.push((hooked && !own, holds));
    }
    if let Some(Band { min, max }) = rule.priority {
        let holds = shared.as_ref().and_then(|(.., priority, _)| priority.map(|it| min <= it && it <= max));
        stated.push((placed && !own, holds));
    }
    if let Some(required) = &rule.must_proceed_on {
        let verdicts = bpfd_policy::words::verdicts(kind.as_deref().unwrap_or(""));
        let holds = shared
            .as_ref()
            .and_then(|(.., set)| set.as_ref())
            .map(|set| required.iter().all(|verdict| set.contains(verdict) || !verdicts.contains(&verdict.as_str())));
        stated.push((placed && !own, holds));
    }
    if let Some(Hooks { kinds, targets }) = &rule.hooks {
        let target = match (targets, hook) {
            (None, _) | (_, Some(HookFacts::Shared { .. } | HookFacts::Nowhere)) => Some(true),
            (Some(globs), Some(HookFacts::Own { target: Some(it) })) => Some(globs.iter().any(|glob| glob.matches(it))),
            (Some(_), None | Some(HookFacts::Own { target: None })) => None,
        };
        let targets_alone = kinds.is_none() && targets.is_some() && matches!(hook, Some(HookFacts::Shared { .. }));
        let nowhere = matches!(hook, Some(HookFacts::Nowhere));
        stated.push((hooked && !targets_alone && !nowhere, all([of(kinds, kind), target])));
    }
    if let Some(Sources { images, signed_by, files }) = &rule.source {
        let holds = match source {
            None => None,
            Some(SourceFacts::Upload { object }) => match files {
                None => Some(false),
                Some(Files::Any) => Some(true),
                Some(Files::Of(files)) if files.is_empty() => Some(false),
                Some(Files::Of(files)) => object.map(|object| files.contains(&object)),
            },
            Some(SourceFacts::Image { .. }) if images.is_none() && signed_by.is_none() => Some(false),
            Some(SourceFacts::Image { reference, signers }) => all([
                match images {
                    None | Some(Images::Any) => Some(true),
                    Some(Images::Of(scopes)) => {
                        reference.as_ref().map(|it| scopes.iter().any(|scope| scope.matches(it)))
                    }
                },
                match signed_by {
                    None => Some(true),
                    Some(names) => signers.as_ref().map(|by| names.iter().any(|name| by.contains(name.as_str()))),
                },
            ]),
        };
        stated.push((is(&[Verb::Pull, Verb::Load, Verb::Attach, Verb::Update]), holds));
    }
    if let Some(list) = &rule.map_from {
        let shares = |app: &MapOwner| {
            list.iter().any(|it| match it {
                MapsOf::Own => app.owner.uid == case.principal.uid,
                MapsOf::App(name) => name.as_str() == app.app,
                MapsOf::Label(key, value) => app.labels.get(key).is_some_and(|it| it == value),
            })
        };
        stated.push((!maps_of.is_empty(), Some(maps_of.iter().all(shares))));
    }
    stated
}

/// Whether the case is allowed.
pub(crate) fn allows(case: &Case, stage: Stage) -> bool {
    let Case { policy, principal, asked } = case;
    let Some(verb) = RuleVerb::of(asked.verb) else { return principal.uid == 0 };
    let other = |owner: &Owner| owner.uid != principal.uid;
    let needed = |rule: &Rule| {
        let lent = rule.map_from.is_none() && asked.maps_of.iter().any(|app| other(&app.owner));
        let others = lent || asked.owner.as_ref().is_some_and(other);
        std::iter::once(verb).chain(others.then_some(RuleVerb::OtherOwner)).collect::<Vec<_>>()
    };
    let denied = policy.rules.iter().filter(|rule| rule.effect == Effect::Deny).any(|rule| {
        let stated = conditions(rule, case);
        let about =
            needed(rule).iter().any(|verb| rule.verbs.contains(verb)) && stated.iter().all(|(speaks, _)| *speaks);
        let holds = all(stated.iter().map(|(_, holds)| *holds));
        about
            && match stage {
                Stage::First => who(rule, principal) == Some(true) && holds == Some(true),
                Stage::Last => {
                    let maybe_root = who(rule, principal).is_none() && principal.uid == 0;
                    who(rule, principal) != Some(false) && !maybe_root && holds != Some(false)
                }
            }
    });
    let allowed = policy.rules.iter().filter(|rule| rule.effect == Effect::Allow).any(|rule| {
        let spoken = conditions(rule, case).into_iter().filter(|(speaks, _)| *speaks).map(|(_, holds)| holds);
        let holds = all(spoken.chain([who(rule, principal)]));
        needed(rule).iter().all(|verb| rule.verbs.contains(verb))
            && match stage {
                Stage::First => holds != Some(false),
                Stage::Last => holds == Some(true),
            }
    });
    allowed && !denied
}

// ---- random cases: few values each, so that conditions meet ----

/// splitmix64, by Sebastiano Vigna: the same cases everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        let place = self.roll(u64::try_from(of.len()).unwrap());
        of.get(usize::try_from(place).unwrap()).unwrap().clone()
    }

    fn some<T: Clone, C: FromIterator<T>>(&mut self, of: &[T]) -> C {
        of.iter().filter(|_| self.roll(2) == 0).cloned().collect()
    }

    /// In one of `sides` cases nothing.
    fn maybe<T>(&mut self, sides: u64, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.roll(sides) != 0).then(|| make(self))
    }
}

const KINDS: [&str; 3] = ["xdp", "tc", "kprobe"];
const VERDICTS: [&str; 4] = ["pass", "drop", "next", "redirect"];
const INTERFACES: [&str; 3] = ["eth0", "veth1", "veth2"];
const SIGNERS: [&str; 2] = ["ci", "release"];
const IMAGES: [&str; 3] = ["reg/a/x:1", "reg/b/x", "other/a/x"];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Case {
    pub(crate) fn of(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let dice = &mut dice;
        let count = 1 + dice.roll(4);
        let rules: Vec<Rule> = (0..count).map(|number| rule(dice, number)).chain([builtin::root()]).collect();
        Self {
            policy: Policy { rules: rules.into(), ..Policy::default() },
            principal: principal(dice),
            asked: asked(dice),
        }
    }
}

fn account(dice: &mut Dice) -> Account {
    let id = dice.roll(8);
    let id = match id {
        0 => AccountId::Unknown,
        1 => AccountId::Absent,
        _ => AccountId::Is(u32::try_from(id % 3).unwrap()),
    };
    Account { name: "name".to_owned(), id }
}

fn rule(dice: &mut Dice, number: u64) -> Rule {
    let effect = if dice.roll(3) == 0 { Effect::Deny } else { Effect::Allow };
    let allow = effect == Effect::Allow;
    let globs = |dice: &mut Dice, of: &[&str]| {
        let of: Vec<_> = of.iter().map(|glob| glob.parse().unwrap()).collect();
        dice.some::<_, Vec<_>>(&of)
    };
    // Half the conditions are left out, so that some cases are allowed.
    let who = |dice: &mut Dice| Who {
        user: dice.maybe(2, account),
        group: dice.maybe(3, account),
        unit: dice.maybe(2, |dice| dice.one(&["cni.service", "*"]).parse().unwrap()),
    };
    Rule {
        id: format!("r{number}").parse().unwrap(),
        effect,
        who: dice.maybe(3, |dice| (0..=dice.roll(2)).map(|_| who(dice)).collect()),
        verbs: dice.some::<_, Vec<_>>(RuleVerb::ALL).into_iter().chain([RuleVerb::Attach]).collect(),
        programs: dice
            .maybe(2, |dice| Programs { types: dice.maybe(3, |dice| dice.some(&words(&KINDS))), reach: None }),
        interfaces: dice.maybe(2, |dice| Interfaces {
            names: dice.maybe(3, |dice| globs(dice, &["eth0", "veth*", "*"])),
            netns: dice.maybe(3, |dice| globs(dice, &["host", "b*"])),
            directions: dice.maybe(3, |dice| dice.some(&[Direction::Ingress, Direction::Egress])),
        }),
        priority: dice.maybe(2, |dice| {
            let min = dice.one(&[0, 50, 100]);
            Band { min, max: min + dice.one(&[0, 50, 400]) }
        }),
        must_proceed_on: dice.maybe(2, |dice| dice.some(&words(&VERDICTS))).filter(|_| allow),
        hooks: dice.maybe(2, |dice| Hooks {
            kinds: dice.maybe(2, |dice| dice.some(&words(&KINDS))),
            targets: dice.maybe(2, |dice| globs(dice, &["do_*", "vfs_read"])),
        }),
        source: dice.maybe(2, |dice| Sources {
            images: dice.maybe(3, |dice| match dice.roll(3) {
                0 => Images::Any,
                _ => Images::Of(dice.some(&["reg/a/**".parse().unwrap(), "reg".parse().unwrap()])),
            }),
            signed_by: dice.maybe(2, |dice| dice.some(&SIGNERS.map(|name| name.parse().unwrap()))),
            files: dice.maybe(2, |dice| match dice.roll(3) {
                0 => Files::Any,
                _ => Files::Of(dice.some(&[Digest::of(b"a"), Digest::of(b"b")])),
            }),
        }),
        map_from: dice.maybe(2, |dice| {
            let label = MapsOf::Label("team".to_owned(), "edge".to_owned());
            dice.some(&[MapsOf::Own, MapsOf::App("app".parse().unwrap()), label])
        }),
        quota: None,
    }
}

fn principal(dice: &mut Dice) -> Principal {
    let unit = match dice.roll(3) {
        0 => Unit::Unknown,
        1 => Unit::None,
        _ => Unit::Is("cni.service".to_owned()),
    };
    let groups = dice.maybe(5, |dice| dice.some(&[0, 1, 2]));
    Principal {
        uid: u32::try_from(dice.roll(3)).unwrap(),
        user: None,
        credentials: Credentials { groups, unit },
        pid: 0,
    }
}

fn asked(dice: &mut Dice) -> Asked {
    let hook = |dice: &mut Dice| match dice.roll(10) {
        0 => HookFacts::Nowhere,
        1..4 => HookFacts::Own { target: dice.maybe(3, |dice| dice.one(&["do_x", "vfs_read", "other"]).to_owned()) },
        _ => HookFacts::Shared {
            interface: dice.one(&INTERFACES).to_owned(),
            netns: dice.one(&["host", "blue"]).to_owned(),
            direction: dice.one(&[Direction::Ingress, Direction::Egress]),
            priority: dice.maybe(4, |dice| dice.one(&[0, 49, 50, 100, 101, 500])),
            proceed_on: dice.maybe(4, |dice| dice.some(&words(&VERDICTS))),
        },
    };
    let source = |dice: &mut Dice| match dice.roll(3) {
        0 => SourceFacts::Upload { object: dice.maybe(4, |dice| Digest::of(dice.one(&[b"a", b"b", b"c"]))) },
        _ => SourceFacts::Image {
            reference: dice.maybe(4, |dice| dice.one(&IMAGES).parse().unwrap()),
            signers: dice.maybe(4, |dice| dice.some(&words(&SIGNERS))),
        },
    };
    let map_owner = |dice: &mut Dice| MapOwner {
        owner: Owner { uid: u32::try_from(dice.roll(3)).unwrap(), user: None },
        app: dice.one(&["app", "other"]).to_owned(),
        labels: dice.some(&[("team".to_owned(), "edge".to_owned())]),
    };
    Asked {
        verb: dice.one(Verb::ALL),
        kind: dice.maybe(5, |dice| dice.one(&KINDS).to_owned()),
        hook: dice.maybe(5, hook),
        source: dice.maybe(5, source),
        maps_of: (0..dice.roll(3)).map(|_| map_owner(dice)).collect(),
        owner: dice.maybe(3, |dice| Owner { uid: u32::try_from(dice.roll(3)).unwrap(), user: None }),
        thing: None,
    }
}
