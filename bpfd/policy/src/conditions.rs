//! The conditions of a rule, each held against the facts of a question. [`crate::decide`] says what each is about. Must never combine two
//! rules.

use std::collections::BTreeSet;
use std::fmt::{self, Display};

use crate::caller::{Asked, HookFacts, MapOwner, Principal, SourceFacts, Unit, Verb};
use crate::glob::Glob;
use crate::rule::{Account, AccountId, Band, Files, Hooks, Images, Interfaces, MapsOf, Rule, Sources, Who};
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

/// Those that a rule states, in the order of the table. Each is looked at when it is asked for: what comes after one that does not hold
/// costs a decision nothing.
pub(crate) fn conditions<'a>(
    rule: &'a Rule,
    principal: &'a Principal,
    asked: &'a Asked,
    say: Say,
) -> impl Iterator<Item = Holds> + 'a {
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
    let with_bytes = on_hook || asked.verb == Verb::Load;
    let with_source = placed || matches!(asked.verb, Verb::Pull | Verb::Load);
    // What says nothing about the verb is not looked at.
    let if_asked = |speaks: bool, holds: &dyn Fn() -> Holds| if speaks { holds() } else { Holds::Silent };
    let in_band = priority.iter().map(move |band| if_asked(placed, &|| at(*band, asked, say)));
    let of_type = programs
        .iter()
        .map(move |programs| if_asked(with_bytes, &|| of_kind(programs.types.as_ref(), asked, "program type", say)));
    let on_interface = interfaces.iter().map(move |them| if_asked(on_hook, &|| interface(them, asked, say)));
    let proceeding = must_proceed_on.iter().map(move |verdicts| if_asked(placed, &|| proceed(verdicts, asked, say)));
    let on_hooks = hooks.iter().map(move |hooks| if_asked(on_hook, &|| on(hooks, asked, say)));
    let from_source = source.iter().map(move |source| if_asked(with_source, &|| from(source, asked, say)));
    let of_maps = map_from.iter().map(move |lenders| share(lenders, principal, asked, say));
    in_band.chain(of_type).chain(on_interface).chain(proceeding).chain(on_hooks).chain(from_source).chain(of_maps)
}

/// Whether a rule is about a caller; `None` if that is not known.
pub(crate) fn who(rule: &Rule, principal: &Principal) -> Option<bool> {
    let Some(list) = &rule.who else { return Some(true) };
    let mut best = Some(false);
    for one in list {
        match one_of(one, principal) {
            Some(true) => return Some(true),
            Some(false) => {}
            None => best = None,
        }
    }
    best
}

fn one_of(who: &Who, principal: &Principal) -> Option<bool> {
    let Who { user, group, unit } = who;
    let user = user.as_ref().map_or(Some(true), |user| is(user, |uid| Some(principal.uid == uid)));
    let credentials = &principal.credentials;
    let in_group = |gid| credentials.groups.as_ref().map(|groups| groups.contains(&gid));
    let group = group.as_ref().map_or(Some(true), |group| is(group, in_group));
    let unit = unit.as_ref().map_or(Some(true), |unit| in_unit(unit, &credentials.unit));
    match (user, group, unit) {
        (Some(false), _, _) | (_, Some(false), _) | (_, _, Some(false)) => Some(false),
        (Some(true), Some(true), Some(true)) => Some(true),
        (None, _, _) | (_, None, _) | (_, _, None) => None,
    }
}

/// Whether the number of an account is this; `None` if it is not known.
fn is(account: &Account, number: impl Fn(u32) -> Option<bool>) -> Option<bool> {
    match account.id {
        AccountId::Is(id) => number(id),
        AccountId::Absent => Some(false),
        AccountId::Unknown => None,
    }
}

fn in_unit(named: &Glob, unit: &Unit) -> Option<bool> {
    match unit {
        Unit::Unknown => None,
        Unit::None => Some(false),
        Unit::Is(name) => Some(named.matches(name)),
    }
}

fn at(band: Band, asked: &Asked, say: Say) -> Holds {
    match &asked.hook {
        Some(HookFacts::Own { .. } | HookFacts::Nowhere) => Holds::Silent,
        None | Some(HookFacts::Shared { priority: None, .. }) => Holds::Maybe,
        Some(HookFacts::Shared { priority: Some(priority), .. }) if band.has(*priority) => Holds::Yes,
        Some(HookFacts::Shared { priority: Some(priority), .. }) => {
            Holds::No(say(format_args!("priority {priority}: it is for {} to {}", band.min, band.max)))
        }
    }
}

fn proceed(required: &BTreeSet<String>, asked: &Asked, say: Say) -> Holds {
    let set = match &asked.hook {
        Some(HookFacts::Own { .. } | HookFacts::Nowhere) => return Holds::Silent,
        None | Some(HookFacts::Shared { proceed_on: None, .. }) => return Holds::Maybe,
        Some(HookFacts::Shared { proceed_on: Some(set), .. }) => set,
    };
    // Verdicts of another kind of hook are of no chain here.
    let verdicts = words::verdicts(asked.kind.as_deref().unwrap_or_default());
    let mut of_hook = required.iter().filter(|verdict| verdicts.contains(&verdict.as_str()));
    match of_hook.find(|verdict| !set.contains(*verdict)) {
        None => Holds::Yes,
        Some(missing) => Holds::No(say(format_args!("proceed-on: the chain must go on after `{missing}`"))),
    }
}

fn of_kind(kinds: Option<&BTreeSet<String>>, asked: &Asked, what: &str, say: Say) -> Holds {
    match (kinds, &asked.kind) {
        (None, _) => Holds::Yes,
        (Some(_), None) => Holds::Maybe,
        (Some(kinds), Some(kind)) if kinds.contains(kind) => Holds::Yes,
        (Some(kinds), Some(kind)) => Holds::No(say(format_args!("{what} {kind}: it is for {}", listed(kinds)))),
    }
}

fn interface(interfaces: &Interfaces, asked: &Asked, say: Say) -> Holds {
    let Interfaces { names, netns, directions } = interfaces;
    let (name, namespace, direction) = match &asked.hook {
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

fn from(source: &Sources, asked: &Asked, say: Say) -> Holds {
    let Sources { images, signed_by, files } = source;
    match &asked.source {
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

/// Whether all maps of others that are asked for may be had.
fn share(allowed: &[MapsOf], principal: &Principal, asked: &Asked, say: Say) -> Holds {
    if asked.maps_of.is_empty() {
        return Holds::Silent;
    }
    match asked.maps_of.iter().find(|app| !may_share(allowed, app, principal)) {
        None => Holds::Yes,
        Some(app) => Holds::No(say(format_args!("the maps of app `{}`", app.app))),
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
