//! `[[rule]]`: its text, and the rule that it makes. A rule that could never match, or that allows more than its writer can have meant,
//! is refused. Must never decide.
//!
//! Long because each key of a rule has its text and its reader, and they are read together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use toml::Spanned;

use super::{PolicyError, PolicyFault, PolicyText};
use crate::builtin;
use crate::caller::{PRIORITY_MAX, Reach};
use crate::digest::Digest;
use crate::name::Name;
use crate::rule::{
    Account, AccountId, Band, Direction, Effect, Files, Hooks, Images, Interfaces, MapsOf, Programs, Rule, RuleQuota,
    RuleVerb, Sources, Who,
};
use crate::signer::Signer;
use crate::words::{KINDS, TC_VERDICTS, XDP_VERDICTS};

/// Longest name of a user or group, in bytes: `LOGIN_NAME_MAX` of include/uapi/linux/limits.h is 256.
const ACCOUNT_MAX: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table, as `[[rule]]` begins one")]
pub(super) struct RuleText {
    id: Spanned<String>,
    effect: Effect,
    who: Option<Spanned<Vec<Spanned<WhoText>>>>,
    verbs: Spanned<Vec<Spanned<String>>>,
    programs: Option<Spanned<ProgramsText>>,
    interfaces: Option<InterfacesText>,
    priority: Option<Spanned<BandText>>,
    must_proceed_on: Option<Spanned<Vec<Spanned<String>>>>,
    hooks: Option<Spanned<HooksText>>,
    source: Option<Spanned<SourcesText>>,
    map_from: Option<Spanned<Vec<Spanned<String>>>>,
    quota: Option<Spanned<QuotaText>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { user = \"NAME\" }")]
struct WhoText {
    user: Option<Spanned<String>>,
    group: Option<Spanned<String>>,
    unit: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { types = [\"xdp\"] }")]
struct ProgramsText {
    types: Option<Vec<Spanned<String>>>,
    reach: Option<Reach>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { names = [\"eth*\"] }")]
struct InterfacesText {
    names: Option<Vec<Spanned<String>>>,
    netns: Option<Vec<Spanned<String>>>,
    directions: Option<BTreeSet<Direction>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { min = 100, max = 499 }")]
struct BandText {
    min: Option<u32>,
    max: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { kinds = [\"kprobe\"], targets = [\"do_*\"] }")]
struct HooksText {
    kinds: Option<Vec<Spanned<String>>>,
    targets: Option<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { images = \"any\" }")]
struct SourcesText {
    images: Option<AnyOr>,
    signed_by: Option<Spanned<Vec<Spanned<String>>>>,
    files: Option<AnyOr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table such as { apps = 8 }")]
struct QuotaText {
    apps: Option<u64>,
    links: Option<u64>,
    map_bytes: Option<Spanned<Size>>,
    requests_per_minute: Option<u32>,
    concurrent: Option<u32>,
}

/// `"any"`, or a list.
enum AnyOr {
    Any,
    List(Vec<Spanned<String>>),
}

impl<'de> Deserialize<'de> for AnyOr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;

        impl<'de> Visitor<'de> for Words {
            type Value = AnyOr;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"any\", or a list of texts")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<AnyOr, E> {
                match word {
                    "any" => Ok(AnyOr::Any),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<AnyOr, A::Error> {
                let mut list: Vec<Spanned<String>> = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                match list.as_slice() {
                    [one] if one.get_ref() == "any" => Ok(AnyOr::Any),
                    list if list.iter().any(|item| item.get_ref() == "any") => {
                        Err(de::Error::custom("`any` stands alone: write `\"any\"`, or a list without it"))
                    }
                    _ => Ok(AnyOr::List(list)),
                }
            }
        }

        deserializer.deserialize_any(Words)
    }
}

/// A number of bytes: `536870912`, or `"512MiB"`.
struct Size(u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, such as 65536 or \"512MiB\"")
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                let size = u64::try_from(bytes).map(Size);
                size.map_err(|_negative| E::invalid_value(de::Unexpected::Signed(bytes), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                size(text).map(Size).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Bytes)
    }
}

fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// What a rule may name.
pub(super) struct Known<'a> {
    pub(super) signers: &'a BTreeMap<Name, Signer>,
}

impl RuleText {
    /// Its id, as written.
    pub(super) fn id(&self) -> &Spanned<String> {
        &self.id
    }

    /// The rule, if it can hold.
    pub(super) fn read(&self, file: &PolicyText<'_>, known: &Known<'_>) -> Result<Rule, PolicyError> {
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
        let here = |fault| file.fault(id.span().start, fault);
        let name: Name = id.get_ref().parse().map_err(|not| here(PolicyFault::RuleId(not)))?;
        if name.as_str().starts_with(builtin::PREFIX) {
            return Err(here(PolicyFault::BuiltInId(name)));
        }
        let verbs = read_verbs(file, verbs, *effect)?;
        self.states_enough(file, &name, &verbs)?;
        self.says_nothing(file, &verbs)?;
        Ok(Rule {
            id: name,
            effect: *effect,
            who: who.as_ref().map(|who| read_who(file, who)).transpose()?,
            verbs,
            programs: programs.as_ref().map(|programs| read_programs(file, programs, *effect)).transpose()?,
            interfaces: interfaces.as_ref().map(|interfaces| read_interfaces(file, interfaces)).transpose()?,
            priority: priority.as_ref().map(|band| read_band(file, band)).transpose()?,
            must_proceed_on: must_proceed_on.as_ref().map(|set| read_verdicts(file, set, *effect)).transpose()?,
            hooks: hooks.as_ref().map(|hooks| read_hooks(file, hooks)).transpose()?,
            source: source.as_ref().map(|source| read_source(file, source, known)).transpose()?,
            map_from: map_from.as_ref().map(|list| read_maps(file, list)).transpose()?,
            quota: quota.as_ref().map(|quota| read_quota(file, quota, *effect)).transpose()?,
        })
    }

    /// What is left out is anything: a rule that lets programs in must say that it means it.
    fn states_enough(&self, file: &PolicyText<'_>, id: &Name, verbs: &BTreeSet<RuleVerb>) -> Result<(), PolicyError> {
        if self.effect == Effect::Deny {
            return Ok(());
        }
        let lets_in = verbs.contains(&RuleVerb::Load) || verbs.contains(&RuleVerb::Attach);
        let stated = [
            ("who", self.who.is_some(), "who = [{ user = \"NAME\" }]"),
            ("programs", self.programs.is_some() || !lets_in, "programs = { types = [\"xdp\"] }"),
            ("interfaces", self.interfaces.is_some() || !lets_in, "interfaces = { names = [\"*\"] }"),
            ("source", self.source.is_some() || !lets_in, "source = { images = \"any\" }"),
        ];
        match stated.into_iter().find(|(_, stated, _)| !stated) {
            None => Ok(()),
            Some((key, _, example)) => {
                Err(file.fault(self.id.span().start, PolicyFault::NotStated { id: id.clone(), key, example }))
            }
        }
    }

    /// A condition that says nothing about any verb of its rule was meant for another one.
    fn says_nothing(&self, file: &PolicyText<'_>, verbs: &BTreeSet<RuleVerb>) -> Result<(), PolicyError> {
        use RuleVerb::{Attach, Detach, Load, Pull, Update};
        let place = |span: Option<std::ops::Range<usize>>| span.map(|span| span.start);
        let conditions: [(&'static str, Option<usize>, &[RuleVerb]); 6] = [
            ("programs", place(self.programs.as_ref().map(Spanned::span)), &[Load, Attach, Update, Detach]),
            ("priority", place(self.priority.as_ref().map(Spanned::span)), &[Attach, Update]),
            ("must_proceed_on", place(self.must_proceed_on.as_ref().map(Spanned::span)), &[Attach, Update]),
            ("hooks", place(self.hooks.as_ref().map(Spanned::span)), &[Attach, Update, Detach]),
            ("source", place(self.source.as_ref().map(Spanned::span)), &[Pull, Load, Attach, Update]),
            ("map_from", place(self.map_from.as_ref().map(Spanned::span)), &[Load]),
        ];
        for (key, place, about) in conditions {
            // A rule about everything that others own is about these verbs.
            let all = verbs.iter().all(|verb| *verb == RuleVerb::OtherOwner);
            if let (Some(place), false) = (place, all || about.iter().any(|verb| verbs.contains(verb))) {
                let about = about.iter().map(|verb| verb.as_str()).collect::<Vec<_>>().join("`, `");
                return Err(file.fault(place, PolicyFault::SaysNothing { key, about }));
            }
        }
        Ok(())
    }
}

/// One of a list of words.
pub(super) fn word(
    file: &PolicyText<'_>,
    what: &'static str,
    text: &Spanned<String>,
    known: &[&'static str],
) -> Result<String, PolicyError> {
    match known.iter().find(|word| *word == text.get_ref()) {
        Some(word) => Ok((*word).to_owned()),
        None => {
            let fault = PolicyFault::UnknownWord { what, word: text.get_ref().clone(), known: known.join("`, `") };
            Err(file.fault(text.span().start, fault))
        }
    }
}

/// Each of a list, as its type reads it.
pub(super) fn each<T: FromStr>(
    file: &PolicyText<'_>,
    list: &[Spanned<String>],
    fault: impl Fn(T::Err) -> PolicyFault,
) -> Result<Vec<T>, PolicyError> {
    let one =
        |text: &Spanned<String>| text.get_ref().parse().map_err(|error| file.fault(text.span().start, fault(error)));
    list.iter().map(one).collect()
}

fn read_verbs(
    file: &PolicyText<'_>,
    list: &Spanned<Vec<Spanned<String>>>,
    effect: Effect,
) -> Result<BTreeSet<RuleVerb>, PolicyError> {
    let known: Vec<&'static str> = RuleVerb::ALL.iter().map(|verb| verb.as_str()).collect();
    let mut verbs = BTreeSet::new();
    for text in list.get_ref() {
        let word = word(file, "verb", text, &known)?;
        verbs.extend(RuleVerb::ALL.iter().find(|verb| verb.as_str() == word));
    }
    let here = |fault| Err(file.fault(list.span().start, fault));
    match (verbs.is_empty(), effect) {
        (true, _) => here(PolicyFault::EmptyList("verbs")),
        (false, Effect::Allow) if verbs.iter().all(|verb| *verb == RuleVerb::OtherOwner) => {
            here(PolicyFault::OtherAlone)
        }
        (false, Effect::Allow | Effect::Deny) => Ok(verbs),
    }
}

fn read_who(file: &PolicyText<'_>, list: &Spanned<Vec<Spanned<WhoText>>>) -> Result<Vec<Who>, PolicyError> {
    if list.get_ref().is_empty() {
        return Err(file.fault(list.span().start, PolicyFault::EmptyList("who")));
    }
    let account = |name: &Spanned<String>| {
        let text = name.get_ref();
        // What reads as a number would be taken for one by chown(1) and the like, and is no name.
        let bad = text.is_empty()
            || text.len() > ACCOUNT_MAX
            || text.chars().any(|c| c.is_control() || matches!(c, ':' | ' ' | '*'))
            || text.bytes().all(|byte| byte.is_ascii_digit());
        match bad {
            true => Err(file.fault(name.span().start, PolicyFault::Account(text.clone()))),
            false => Ok(Account { name: text.clone(), id: AccountId::Unknown }),
        }
    };
    let one = |text: &Spanned<WhoText>| {
        let WhoText { user, group, unit } = text.get_ref();
        match (user, group, unit) {
            (None, None, None) => return Err(file.fault(text.span().start, PolicyFault::WhoEmpty)),
            (None, None, Some(unit)) => return Err(file.fault(unit.span().start, PolicyFault::UnitAlone)),
            _ => {}
        }
        let glob = |unit: &Spanned<String>| {
            unit.get_ref().parse().map_err(|bad| file.fault(unit.span().start, PolicyFault::Glob(bad)))
        };
        Ok(Who {
            user: user.as_ref().map(account).transpose()?,
            group: group.as_ref().map(account).transpose()?,
            unit: unit.as_ref().map(glob).transpose()?,
        })
    };
    list.get_ref().iter().map(one).collect()
}

fn read_kinds(
    file: &PolicyText<'_>,
    what: &'static str,
    list: Option<&Vec<Spanned<String>>>,
) -> Result<Option<BTreeSet<String>>, PolicyError> {
    let Some(list) = list else { return Ok(None) };
    list.iter().map(|text| word(file, what, text, KINDS)).collect::<Result<_, _>>().map(Some)
}

fn read_programs(file: &PolicyText<'_>, text: &Spanned<ProgramsText>, effect: Effect) -> Result<Programs, PolicyError> {
    let ProgramsText { types, reach } = text.get_ref();
    if effect == Effect::Deny && reach.is_some() {
        return Err(file.fault(text.span().start, PolicyFault::OnlyAllows("programs.reach")));
    }
    Ok(Programs { types: read_kinds(file, "program type", types.as_ref())?, reach: *reach })
}

fn read_interfaces(file: &PolicyText<'_>, text: &InterfacesText) -> Result<Interfaces, PolicyError> {
    let InterfacesText { names, netns, directions } = text;
    let globs =
        |list: &Option<Vec<Spanned<String>>>| list.as_ref().map(|list| each(file, list, PolicyFault::Glob)).transpose();
    Ok(Interfaces { names: globs(names)?, netns: globs(netns)?, directions: directions.clone() })
}

fn read_band(file: &PolicyText<'_>, text: &Spanned<BandText>) -> Result<Band, PolicyError> {
    let BandText { min, max } = text.get_ref();
    let (min, max) = (min.unwrap_or(0), max.unwrap_or(PRIORITY_MAX));
    match min <= max && max <= PRIORITY_MAX {
        true => Ok(Band { min, max }),
        false => Err(file.fault(text.span().start, PolicyFault::Band { min, max })),
    }
}

fn read_verdicts(
    file: &PolicyText<'_>,
    list: &Spanned<Vec<Spanned<String>>>,
    effect: Effect,
) -> Result<BTreeSet<String>, PolicyError> {
    if effect == Effect::Deny {
        return Err(file.fault(list.span().start, PolicyFault::OnlyAllows("must_proceed_on")));
    }
    let tc = TC_VERDICTS.iter().filter(|verdict| !XDP_VERDICTS.contains(verdict));
    let known: Vec<&'static str> = XDP_VERDICTS.iter().chain(tc).copied().collect();
    list.get_ref().iter().map(|text| word(file, "verdict", text, &known)).collect()
}

fn read_hooks(file: &PolicyText<'_>, text: &Spanned<HooksText>) -> Result<Hooks, PolicyError> {
    let HooksText { kinds, targets } = text.get_ref();
    let targets = targets.as_ref().map(|list| each(file, list, PolicyFault::Glob)).transpose()?;
    Ok(Hooks { kinds: read_kinds(file, "hook", kinds.as_ref())?, targets })
}

fn read_source(file: &PolicyText<'_>, text: &Spanned<SourcesText>, known: &Known<'_>) -> Result<Sources, PolicyError> {
    let SourcesText { images, signed_by, files } = text.get_ref();
    let images = images.as_ref().map(|images| match images {
        AnyOr::Any => Ok(Images::Any),
        AnyOr::List(list) => each(file, list, PolicyFault::RuleScope).map(Images::Of),
    });
    let hash = |text: &Spanned<String>| {
        text.get_ref()
            .parse::<Digest>()
            .map_err(|_not| file.fault(text.span().start, PolicyFault::FileHash(text.get_ref().clone())))
    };
    let files = files.as_ref().map(|files| match files {
        AnyOr::Any => Ok(Files::Any),
        AnyOr::List(list) => list.iter().map(hash).collect::<Result<_, _>>().map(Files::Of),
    });
    let signer = |text: &Spanned<String>| match known.signers.get_key_value(text.get_ref().as_str()) {
        Some((name, _)) => Ok(name.clone()),
        None => Err(file.fault(text.span().start, PolicyFault::unknown_signer(text.get_ref(), known.signers))),
    };
    let signed_by = signed_by.as_ref().map(|list| match list.get_ref().is_empty() {
        true => Err(file.fault(list.span().start, PolicyFault::EmptyList("signed_by"))),
        false => list.get_ref().iter().map(signer).collect::<Result<BTreeSet<_>, _>>(),
    });
    Ok(Sources { images: images.transpose()?, signed_by: signed_by.transpose()?, files: files.transpose()? })
}

fn read_maps(file: &PolicyText<'_>, list: &Spanned<Vec<Spanned<String>>>) -> Result<Vec<MapsOf>, PolicyError> {
    let one = |text: &Spanned<String>| match (text.get_ref().as_str(), text.get_ref().split_once('=')) {
        ("own", _) => Ok(MapsOf::Own),
        (_, Some((key, value))) if !key.is_empty() => Ok(MapsOf::Label(key.to_owned(), value.to_owned())),
        (name, _) => {
            name.parse().map(MapsOf::App).map_err(|not| file.fault(text.span().start, PolicyFault::MapOwner(not)))
        }
    };
    list.get_ref().iter().map(one).collect()
}

fn read_quota(file: &PolicyText<'_>, text: &Spanned<QuotaText>, effect: Effect) -> Result<RuleQuota, PolicyError> {
    if effect == Effect::Deny {
        return Err(file.fault(text.span().start, PolicyFault::OnlyAllows("quota")));
    }
    let QuotaText { apps, links, map_bytes, requests_per_minute, concurrent } = text.get_ref();
    let none = [requests_per_minute, concurrent].iter().any(|limit| **limit == Some(0));
    if none {
        return Err(file.fault(text.span().start, PolicyFault::NoCalls));
    }
    Ok(RuleQuota {
        apps: *apps,
        links: *links,
        map_bytes: map_bytes.as_ref().map(|size| size.get_ref().0),
        requests_per_minute: *requests_per_minute,
        concurrent: *concurrent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_in_powers_of_two() {
        for (text, bytes) in [
            ("512MiB", Some(512 << 20)),
            ("1GiB", Some(1 << 30)),
            ("4KiB", Some(4096)),
            ("7", Some(7)),
            ("7B", Some(7)),
            ("1MB", None),
            ("MiB", None),
            ("-1KiB", None),
            ("18446744073709551615KiB", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }
}
