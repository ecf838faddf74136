//! The conditions of a rule, each held against the facts of a question. [`crate::decide`] says what each is about. Must never combine two
//! rules.

use std::collections::BTreeSet;
use std::fmt::{self, Display};

use crate::caller::{Asked, HookFacts, MapOwner, Principal, SourceFacts, Unit, Verb};
use crate::glob::Glob;
use crate::rule::{Account, AccountId, Files, Hooks, Images, Interfaces, MapsOf, Rule, Sources, Who};
use crate::words;

/// Whether a condition holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Holds {
    Yes,
    /// A fact is not known.
    Maybe,
    /// Why not, after "except": `priority 40: it allows 100 to 499`.
    No(String),
    /// It says nothing about what is asked.
    Silent,
}

/// How words are made: [`fmt::format`], or nothing at all, which is most of what a decision would cost.
pub(crate) type Say = fn(fmt::Arguments<'_>) -> String;

/// Says nothing.
pub(crate) const MUTE: Say = |_| String::new();

/// Those that a rule states, in the order of the table.
pub(crate) fn conditions(rule: &Rule, principal: &Principal, asked: &Asked, say: Say) -> [Option<Holds>; 7] {
    let Rule {
        id: _,
        effect: _,
        who: _,
        verbs: _,
        programs,
        interfaces,
        priority,
        must_proceed_on,
        hooks,
        source,
        map_from,
        quota: _,
    } = rule;
    let placed = matches!(asked.verb, Verb::Attach | Verb::Update);
    let on_hook = placed || asked.verb == Verb::Detach;
    let hook = || asked.hook.as_ref();
    [
        programs.as_ref().map(|programs| match on_hook || asked.verb == Verb::Load {
            true => of_kind(programs.types.as_ref(), asked, "program type", say),
            false => Holds::Silent,
        }),
        interfaces.as_ref().map(|interfaces| if on_hook { interface(interfaces, hook(), say) } else { Holds::Silent }),
        priority.map(|band| match (placed, hook()) {
            (false, _) | (true, Some(HookFacts::Own { .. } | HookFacts::Nowhere)) => Holds::Silent,
            (true, None | Some(HookFacts::Shared { priority: None, .. })) => Holds::Maybe,
            (true, Some(HookFacts::Shared { priority: Some(priority), .. })) => {
                match (band.min..=band.max).contains(priority) {
                    true => Holds::Yes,
                    false => {
                        Holds::No(say(format_args!("priority {priority}: it is for {} to {}", band.min, band.max)))
                    }
                }
            }
        }),
        must_proceed_on.as_ref().map(|required| match (placed, hook()) {
            (false, _) | (true, Some(HookFacts::Own { .. } | HookFacts::Nowhere)) => Holds::Silent,
            (true, None | Some(HookFacts::Shared { proceed_on: None, .. })) => Holds::Maybe,
            (true, Some(HookFacts::Shared { proceed_on: Some(set), .. })) => {
                // Verdicts of another kind of hook are of no chain here.
                let verdicts = words::verdicts(asked.kind.as_deref().unwrap_or_default());
                let of_hook = required.iter().filter(|verdict| verdicts.contains(&verdict.as_str()));
                match of_hook.filter(|verdict| !set.contains(*verdict)).min() {
                    None => Holds::Yes,
                    Some(missing) => Holds::No(say(format_args!("proceed-on: the chain must go on after `{missing}`"))),
                }
            }
        }),
        hooks.as_ref().map(|hooks| if on_hook { on(hooks, asked, say) } else { Holds::Silent }),
        source.as_ref().map(|source| match placed || matches!(asked.verb, Verb::Pull | Verb::Load) {
            true => from(source, asked.source.as_ref(), say),
            false => Holds::Silent,
        }),
        map_from.as_ref().map(|allowed| match asked.maps_of.as_slice() {
            [] => Holds::Silent,
            apps => match apps.iter().find(|app| !may_share(allowed, app, principal)) {
                None => Holds::Yes,
                Some(app) => Holds::No(say(format_args!("the maps of app `{}`", app.app))),
            },
        }),
    ]
}

/// Whether a rule is about a caller.
pub(crate) fn who(rule: &Rule, principal: &Principal) -> Holds {
    let Some(list) = &rule.who else { return Holds::Yes };
    let mut best = Holds::No(String::new());
    for one in list {
        match one_of(one, principal) {
            Holds::Yes => return Holds::Yes,
            Holds::Maybe => best = Holds::Maybe,
            Holds::No(_) | Holds::Silent => {}
        }
    }
    best
}

fn one_of(who: &Who, principal: &Principal) -> Holds {
    let Who { user, group, unit } = who;
    let numbered = |account: &Account, is: &dyn Fn(u32) -> Option<bool>| match account.id {
        AccountId::Is(id) => is(id),
        AccountId::Absent => Some(false),
        AccountId::Unknown => None,
    };
    let credentials = &principal.credentials;
    let in_group = |gid| credentials.groups.as_ref().map(|groups| groups.contains(&gid));
    let stated = [
        user.as_ref().map(|user| numbered(user, &|uid| Some(principal.uid == uid))),
        group.as_ref().map(|group| numbered(group, &in_group)),
        unit.as_ref().map(|unit| match &credentials.unit {
            Unit::Unknown => None,
            Unit::None => Some(false),
            Unit::Is(name) => Some(unit.matches(name)),
        }),
    ];
    let mut holds = Holds::Yes;
    for one in stated.into_iter().flatten() {
        match one {
            Some(true) => {}
            Some(false) => return Holds::No(String::new()),
            None => holds = Holds::Maybe,
        }
    }
    holds
}

fn of_kind(kinds: Option<&BTreeSet<String>>, asked: &Asked, what: &str, say: Say) -> Holds {
    match (kinds, &asked.kind) {
        (None, _) => Holds::Yes,
        (Some(_), None) => Holds::Maybe,
        (Some(kinds), Some(kind)) if kinds.contains(kind) => Holds::Yes,
        (Some(kinds), Some(kind)) => Holds::No(say(format_args!("{what} {kind}: it is for {}", listed(kinds)))),
    }
}

fn interface(interfaces: &Interfaces, hook: Option<&HookFacts>, say: Say) -> Holds {
    let Interfaces { names, netns, directions } = interfaces;
    let (name, namespace, direction) = match hook {
        None => return Holds::Maybe,
        Some(HookFacts::Own { .. } | HookFacts::Nowhere) => return Holds::Silent,
        Some(HookFacts::Shared { interface, netns, direction, .. }) => (interface, netns, direction),
    };
    if let Some(listed) = outside(names.as_deref(), name) {
        return Holds::No(say(format_args!("interface {name}: it is for {listed}")));
    }
    if let Some(listed) = outside(netns.as_deref(), namespace) {
        return Holds::No(say(format_args!("network namespace {namespace}: it is for {listed}")));
    }
    match directions {
        Some(directions) if !directions.contains(direction) => {
            Holds::No(say(format_args!("direction {direction}: it is for {}", listed(directions))))
        }
        Some(_) | None => Holds::Yes,
    }
}

/// The globs, if a name is none of theirs.
fn outside<'a>(globs: Option<&'a [Glob]>, name: &str) -> Option<impl Display + 'a> {
    globs.filter(|globs| !globs.iter().any(|glob| glob.matches(name))).map(listed)
}

fn on(hooks: &Hooks, asked: &Asked, say: Say) -> Holds {
    let Hooks { kinds, targets } = hooks;
    if matches!(asked.hook, Some(HookFacts::Nowhere)) {
        return Holds::Silent;
    }
    let kind = of_kind(kinds.as_ref(), asked, "hook", say);
    let target = match (targets, &asked.hook) {
        (None, _) => Holds::Yes,
        (Some(_), None | Some(HookFacts::Own { target: None } | HookFacts::Nowhere)) => Holds::Maybe,
        // Interfaces have their own key; beside kinds that hold it says no more.
        (Some(_), Some(HookFacts::Shared { .. })) if kinds.is_some() => Holds::Yes,
        (Some(_), Some(HookFacts::Shared { .. })) => Holds::Silent,
        (Some(globs), Some(HookFacts::Own { target: Some(target) })) => {
            match globs.iter().any(|glob| glob.matches(target)) {
                true => Holds::Yes,
                false => Holds::No(say(format_args!("target {target}: it is for {}", listed(globs)))),
            }
        }
    };
    match (kind, target) {
        (no @ Holds::No(_), _) | (_, no @ Holds::No(_)) => no,
        (Holds::Maybe, _) | (_, Holds::Maybe) => Holds::Maybe,
        (_, target) => target,
    }
}

fn from(source: &Sources, facts: Option<&SourceFacts>, say: Say) -> Holds {
    let Sources { images, signed_by, files } = source;
    match facts {
        None => Holds::Maybe,
        Some(SourceFacts::Upload { object }) => match (files, object) {
            (None, _) => Holds::No(say(format_args!("files: it is for images"))),
            (Some(Files::Any), _) => Holds::Yes,
            (Some(Files::Of(files)), None) if files.is_empty() => Holds::No(say(format_args!("files: it is for none"))),
            (Some(Files::Of(_)), None) => Holds::Maybe,
            (Some(Files::Of(files)), Some(object)) if files.contains(object) => Holds::Yes,
            (Some(Files::Of(_)), Some(object)) => Holds::No(say(format_args!("the file with the hash {object}"))),
        },
        Some(SourceFacts::Image { .. }) if images.is_none() && signed_by.is_none() => {
            Holds::No(say(format_args!("images: it is for files")))
        }
        Some(SourceFacts::Image { reference, signers }) => {
            let named = match (images, reference) {
                (None | Some(Images::Any), _) => Holds::Yes,
                (Some(Images::Of(_)), None) => Holds::Maybe,
                (Some(Images::Of(scopes)), Some(reference)) => {
                    match scopes.iter().any(|scope| scope.matches(reference)) {
                        true => Holds::Yes,
                        false => {
                            return Holds::No(say(format_args!("image {reference}: it is for {}", listed(scopes))));
                        }
                    }
                }
            };
            match (signed_by, signers) {
                (None, _) => named,
                (Some(_), None) => Holds::Maybe,
                (Some(names), Some(signers)) => match names.iter().any(|name| signers.contains(name.as_str())) {
                    true => named,
                    false => {
                        Holds::No(say(format_args!("the signature: the image must be signed by {}", listed(names))))
                    }
                },
            }
        }
    }
}

fn may_share(allowed: &[MapsOf], app: &MapOwner, principal: &Principal) -> bool {
    allowed.iter().any(|allowed| match allowed {
        MapsOf::Own => app.owner.uid == principal.uid,
        MapsOf::App(name) => app.app == name.as_str(),
        MapsOf::Label(key, value) => app.labels.get(key) == Some(value),
    })
}

/// With commas between them; `none` if there are none.
fn listed<'a, T: Display + 'a>(items: impl IntoIterator<Item = &'a T, IntoIter: Clone>) -> impl Display {
    let items = items.into_iter();
    fmt::from_fn(move |f| {
        let mut between = "";
        for item in items.clone() {
            write!(f, "{between}{item}")?;
            between = ", ";
        }
        if between.is_empty() { f.write_str("none") } else { Ok(()) }
    })
}
