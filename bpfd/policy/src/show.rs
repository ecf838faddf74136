//! A rule or an order as a file would have it. What is written here reads as the same one: a test holds both against each other.

use std::fmt::{self, Display};

use crate::caller::Reach;
use crate::order::{Before, Chains, Member, Order};
use crate::rule::{
    Account, Band, Effect, Files, Hooks, Images, Interfaces, MapsOf, Programs, Rule, RuleQuota, Sources, Who,
};

/// A text in quotes.
pub(crate) fn quoted(text: impl Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}

pub(crate) fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(quoted).collect();
    format!("[{}]", items.join(", "))
}

/// `{ a = 1, b = 2 }` of what is stated.
pub(crate) fn table(stated: impl IntoIterator<Item = Option<(&'static str, String)>>) -> String {
    let stated: Vec<String> = stated.into_iter().flatten().map(|(key, value)| format!("{key} = {value}")).collect();
    if stated.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", stated.join(", ")) }
}

fn key(key: &'static str, value: Option<String>) -> Option<(&'static str, String)> {
    value.map(|value| (key, value))
}

impl Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            effect,
            who,
            verbs,
            programs,
            interfaces,
            priority,
            must_proceed_on,
            hooks,
            source,
            map_from,
            quota,
        } = self;
        let effect = match effect {
            Effect::Allow => "allow",
            Effect::Deny => "deny",
        };
        let conditions = [
            key("who", who.as_ref().map(|who| format!("[{}]", who.iter().map(one).collect::<Vec<_>>().join(", ")))),
            key("verbs", Some(list(verbs))),
            key("programs", programs.as_ref().map(programs_text)),
            key("interfaces", interfaces.as_ref().map(interfaces_text)),
            key("priority", priority.map(|Band { min, max }| format!("{{ min = {min}, max = {max} }}"))),
            key("must_proceed_on", must_proceed_on.as_ref().map(list)),
            key("hooks", hooks.as_ref().map(hooks_text)),
            key("source", source.as_ref().map(source_text)),
            key("map_from", map_from.as_deref().map(maps_text)),
            key("quota", quota.as_ref().map(quota_text)),
        ];
        writeln!(f, "[[rule]]\nid = {}\neffect = \"{effect}\"", quoted(id))?;
        conditions.into_iter().flatten().try_for_each(|(key, value)| writeln!(f, "{key} = {value}"))
    }
}

impl Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, chain: Chains { kinds, interfaces }, first, last, before, strict } = self;
        let Interfaces { names, netns, directions } = interfaces;
        let chain = table([
            key("kinds", kinds.as_ref().map(list)),
            key("interfaces", names.as_ref().map(list)),
            key("netns", netns.as_ref().map(list)),
            key("directions", directions.as_ref().map(list)),
        ]);
        let named = |members: &[Member]| (!members.is_empty()).then(|| list(members));
        let pair = |Before { app, than }: &Before| format!("{{ app = {}, than = {} }}", quoted(app), quoted(than));
        let before = (!before.is_empty()).then(|| before.iter().map(pair).collect::<Vec<_>>().join(", "));
        let parts = [
            key("first", named(first)),
            key("last", named(last)),
            key("before", before.map(|pairs| format!("[{pairs}]"))),
            key("strict", strict.then(|| "true".to_owned())),
        ];
        writeln!(f, "[[order]]\nid = {}\nchain = {chain}", quoted(id))?;
        parts.into_iter().flatten().try_for_each(|(key, value)| writeln!(f, "{key} = {value}"))
    }
}

fn one(who: &Who) -> String {
    let Who { user, group, unit } = who;
    let name = |account: &Option<Account>| account.as_ref().map(|account| quoted(&account.name));
    table([key("user", name(user)), key("group", name(group)), key("unit", unit.as_ref().map(quoted))])
}

fn programs_text(programs: &Programs) -> String {
    let Programs { types, reach } = programs;
    let reach = reach.map(|reach| match reach {
        Reach::Packet => quoted("packet"),
        Reach::Kernel => quoted("kernel"),
    });
    table([key("types", types.as_ref().map(list)), key("reach", reach)])
}

fn interfaces_text(interfaces: &Interfaces) -> String {
    let Interfaces { names, netns, directions } = interfaces;
    table([
        key("names", names.as_ref().map(list)),
        key("netns", netns.as_ref().map(list)),
        key("directions", directions.as_ref().map(list)),
    ])
}

fn hooks_text(hooks: &Hooks) -> String {
    let Hooks { kinds, targets } = hooks;
    table([key("kinds", kinds.as_ref().map(list)), key("targets", targets.as_ref().map(list))])
}

fn source_text(source: &Sources) -> String {
    let Sources { images, signed_by, files } = source;
    let any = || quoted("any");
    let images = images.as_ref().map(|images| match images {
        Images::Any => any(),
        Images::Of(scopes) => list(scopes),
    });
    let files = files.as_ref().map(|files| match files {
        Files::Any => any(),
        Files::Of(hashes) => list(hashes),
    });
    table([key("images", images), key("signed_by", signed_by.as_ref().map(list)), key("files", files)])
}

fn maps_text(maps: &[MapsOf]) -> String {
    list(maps.iter().map(|one| match one {
        MapsOf::Own => "own".to_owned(),
        MapsOf::App(name) => name.to_string(),
        MapsOf::Label(key, value) => format!("{key}={value}"),
    }))
}

fn quota_text(quota: &RuleQuota) -> String {
    let RuleQuota { apps, links, map_bytes, requests_per_minute, concurrent } = quota;
    let number = |limit: Option<u64>| limit.map(|limit| limit.to_string());
    table([
        key("apps", number(*apps)),
        key("links", number(*links)),
        key("map_bytes", number(*map_bytes)),
        key("requests_per_minute", number(requests_per_minute.map(u64::from))),
        key("concurrent", number(concurrent.map(u64::from))),
    ])
}
