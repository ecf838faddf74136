//! `--sort` and `--filter`: which items of a list are shown, and in what order. Both work on the items as `-o json` prints them, so
//! whatever is in the document can be asked for. It must never change an item, and knows no message by name: the API's own
//! description says which fields there are.
//!
//! Long because finding a field, comparing by it and choosing by it are one rule, with their tests.

use std::cmp::Ordering;

use clap::Args;
use prost::{Message, Name};
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::Value;

use crate::error::{Exit, Failure, Local};
use crate::output::{descriptor, message};

/// Deeper fields are of messages in messages in messages, which nobody sorts by.
const DEPTH: usize = 4;

/// Heads of columns that are not called like their fields.
const COLUMNS: &[(&str, &[&str])] = &[
    ("prio", &["priority"]),
    ("effective", &["effectivepriority"]),
    ("pos", &["position"]),
    ("program", &["app", "function"]),
    ("hook", &["interface"]),
    ("kernelid", &["kernelprogramid"]),
    ("owner", &["owneruid", "owner.uid"]),
    ("image", &["reference"]),
    ("size", &["sizebytes"]),
    ("pulled", &["pulltime"]),
    ("object", &["objectsha256"]),
];

/// What a list takes to choose and order its items.
#[derive(Debug, Clone, Args)]
pub(crate) struct Listing {
    /// Sort by a field, as -o json or the table's head calls it: `name`, `owner.uid`; `-FIELD` is the reverse
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true, value_parser = crate::args::word)]
    sort: Option<String>,
    /// Only what has this value in a field (repeatable: all of them)
    #[arg(long, value_name = "FIELD=VALUE", value_parser = condition)]
    filter: Vec<(String, String)>,
}

/// `FIELD=VALUE`.
fn condition(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((field, value)) if !field.is_empty() => Ok((field.to_owned(), value.to_owned())),
        Some(_) | None => Err("write FIELD=VALUE, as in `state=attached`".to_owned()),
    }
}

/// [`Listing`] as it is about the items of one kind.
#[derive(Debug)]
pub(crate) struct Selection {
    sort: Option<Sort>,
    filters: Vec<Filter>,
}

#[derive(Debug)]
struct Sort {
    fields: Vec<Field>,
    order: Direction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

#[derive(Debug)]
struct Filter {
    fields: Vec<Field>,
    value: String,
}

/// One value of an item, or one of each element of a list in it.
#[derive(Debug, Clone)]
struct Field {
    path: Vec<String>,
    kind: Leaf,
}

/// What a field holds.
#[derive(Debug, Clone)]
enum Leaf {
    Text,
    Number,
    Bool,
    Enum(EnumDescriptor),
    /// Texts by their keys; the last part of a path is the key.
    Map,
}

/// A field or a value that there is not.
#[derive(Debug)]
pub(crate) enum Unknown {
    /// No such field.
    Field {
        /// As it was written.
        name: String,
        /// What the items are.
        kind: String,
        /// All fields.
        known: Vec<String>,
        /// A command whose items have it.
        elsewhere: Option<&'static str>,
    },
    /// The field never has that value.
    Value {
        /// As it was written.
        field: String,
        /// The value.
        value: String,
        /// What it may be.
        known: String,
    },
}

impl Unknown {
    /// The same, if another command's items have the field.
    pub(crate) fn or_in<M: Name>(self, listing: &Listing, command: &'static str) -> Self {
        match self {
            Self::Field { name, kind, known, .. } => {
                let elsewhere = listing.of::<M>().is_ok().then_some(command);
                Self::Field { name, kind, known, elsewhere }
            }
            Self::Value { .. } => self,
        }
    }
}

impl From<Unknown> for Failure {
    fn from(unknown: Unknown) -> Self {
        match unknown {
            Unknown::Field { name, kind, known, elsewhere } => {
                let failure = Local::new(Exit::Usage, format!("no field `{name}` to sort or filter by"))
                    .cause(format!("the fields of `{kind}` are {}", known.join(", ")));
                match (elsewhere, near(&name, &known)) {
                    (Some(command), _) => failure.hint(format!("`{command}` has that field")),
                    (None, Some(near)) => failure.hint(format!("did you mean `{near}`?")),
                    (None, None) => failure.hint("`-o json` shows the fields with their values"),
                }
            }
            Unknown::Value { field, value, known } => {
                Local::new(Exit::Usage, format!("`{field}` is never `{value}`")).cause(format!("it is {known}"))
            }
        }
        .into()
    }
}

/// The field that was probably meant: by its path, or by the end of it.
fn near<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let name = plain(name);
    let distance = |field: &String| {
        let whole = plain(field);
        let last = whole.rsplit('.').next().unwrap_or_default();
        strsim::osa_distance(&name, &whole).min(strsim::osa_distance(&name, last))
    };
    let (distance, field) = known.iter().map(|field| (distance(field), field)).min()?;
    (distance <= name.len() / 3).then_some(field)
}

/// Fields are compared without regard to case, `-` and `_`: `kernel-id` is `kernelId`.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_')).flat_map(char::to_lowercase).collect()
}

impl Listing {
    /// What it means for items of a kind; asked before the daemon is, so that a typing mistake costs nothing.
    pub(crate) fn of<M: Name>(&self) -> Result<Selection, Unknown> {
        let mut known = Vec::new();
        descriptor::<M>().iter().for_each(|message| fields(message, &[], &mut known));
        let find = |name: &str| match found(name, &known) {
            fields if fields.is_empty() => Err(Unknown::Field {
                name: name.to_owned(),
                kind: M::NAME.to_owned(),
                known: known.iter().map(Field::shown).collect(),
                elsewhere: None,
            }),
            fields => Ok(fields),
        };
        let sort = self.sort.as_deref().map(|name| {
            let (name, order) = match name.strip_prefix('-') {
                Some(name) => (name, Direction::Down),
                None => (name, Direction::Up),
            };
            Ok(Sort { fields: find(name)?, order })
        });
        let filters = self.filter.iter().map(|(name, value)| Filter::new(name, find(name)?, value));
        Ok(Selection { sort: sort.transpose()?, filters: filters.collect::<Result<_, _>>()? })
    }
}

impl Selection {
    /// The items that are asked for, in the order that is asked for; equal ones stay as they were.
    pub(crate) fn apply<M: Message + Name>(&self, items: Vec<M>) -> Result<Vec<M>, Failure> {
        let Self { sort, filters } = self;
        if sort.is_none() && filters.is_empty() {
            return Ok(items);
        }
        let documents = items.into_iter().map(|item| Ok((message(&item)?, item)));
        let mut documents = documents.collect::<Result<Vec<(Value, M)>, Failure>>()?;
        documents.retain(|(document, _)| filters.iter().all(|filter| filter.fits(document)));
        if let Some(sort) = sort {
            documents.sort_by(|(one, _), (other, _)| sort.compare(one, other));
        }
        Ok(documents.into_iter().map(|(_, item)| item).collect())
    }
}

impl Sort {
    /// Of many values the first counts; what has none comes last in both directions.
    fn compare(&self, one: &Value, other: &Value) -> Ordering {
        let first = |document| self.fields.iter().find_map(|field| field.values(document).into_iter().next());
        let number = self.fields.iter().all(|field| matches!(field.kind, Leaf::Number));
        match (first(one), first(other)) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(one), Some(other)) => {
                let order = match number {
                    true => one.parse::<i128>().ok().cmp(&other.parse::<i128>().ok()),
                    false => one.cmp(&other),
                };
                if self.order == Direction::Down { order.reverse() } else { order }
            }
        }
    }
}

impl Filter {
    /// Fails if none of the fields can ever have the value.
    fn new(name: &str, fields: Vec<Field>, value: &str) -> Result<Self, Unknown> {
        let bad: Vec<String> = fields.iter().filter_map(|field| field.kind.refuses(value)).collect();
        match bad.first() {
            Some(known) if bad.len() == fields.len() => {
                Err(Unknown::Value { field: name.to_owned(), value: value.to_owned(), known: known.clone() })
            }
            Some(_) | None => Ok(Self { fields, value: value.to_owned() }),
        }
    }

    fn fits(&self, document: &Value) -> bool {
        let has = |field: &Field| {
            field.values(document).iter().any(|value| field.kind.shown(value) == field.kind.shown(&self.value))
        };
        self.fields.iter().any(has)
    }
}

impl Leaf {
    /// What it may be, if it is never this.
    fn refuses(&self, value: &str) -> Option<String> {
        match self {
            Self::Text | Self::Map => None,
            Self::Number => value.parse::<i128>().is_err().then(|| "a number".to_owned()),
            Self::Bool => (!["true", "false"].contains(&value)).then(|| "`true` or `false`".to_owned()),
            Self::Enum(kind) => {
                let words = kind.values().filter(|word| word.number() != 0);
                let words: Vec<String> = words.map(|word| self.shown(word.name())).collect();
                (!words.contains(&self.shown(value))).then(|| format!("one of {}", words.join(", ")))
            }
        }
    }

    /// A value in the one form in which it is compared: an enum's word without its prefix, in lower case.
    fn shown(&self, value: &str) -> String {
        match self {
            Self::Text | Self::Map | Self::Number | Self::Bool => value.to_owned(),
            Self::Enum(kind) => {
                let value = value.to_uppercase().replace('-', "_");
                value.strip_prefix(&prefix(kind.name())).unwrap_or(&value).to_lowercase()
            }
        }
    }
}

/// `LinkState`: `LINK_STATE_`.
fn prefix(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.extend(c.to_uppercase());
    }
    text + "_"
}

impl Field {
    /// As `-o json` calls it.
    fn shown(&self) -> String {
        let path = self.path.join(".");
        if matches!(self.kind, Leaf::Map) { path + ".KEY" } else { path }
    }

    /// Its values in an item, as texts.
    fn values(&self, document: &Value) -> Vec<String> {
        let mut here = vec![document];
        for part in &self.path {
            let parts = here.into_iter().filter_map(|value| value.get(part));
            here = parts
                .flat_map(|value| value.as_array().map_or_else(|| vec![value], |all| all.iter().collect()))
                .collect();
        }
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        };
        here.into_iter().filter_map(text).collect()
    }
}

/// All fields of a message that have a value of their own.
fn fields(message: &MessageDescriptor, path: &[String], found: &mut Vec<Field>) {
    for field in message.fields() {
        let path: Vec<String> = path.iter().cloned().chain([field.json_name().to_owned()]).collect();
        match leaf(&field) {
            Some(kind) => found.push(Field { path, kind }),
            None => {
                if let (Kind::Message(inner), true) = (field.kind(), path.len() < DEPTH) {
                    fields(&inner, &path, found);
                }
            }
        }
    }
}

/// None for a message, whose fields are told apart.
fn leaf(field: &FieldDescriptor) -> Option<Leaf> {
    if field.is_map() {
        return Some(Leaf::Map);
    }
    match field.kind() {
        // proto3 JSON has times as texts that sort by time.
        Kind::Message(inner) if inner.full_name() == "google.protobuf.Timestamp" => Some(Leaf::Text),
        Kind::Message(_) => None,
        Kind::Enum(kind) => Some(Leaf::Enum(kind)),
        Kind::Bool => Some(Leaf::Bool),
        Kind::String | Kind::Bytes => Some(Leaf::Text),
        _ => Some(Leaf::Number),
    }
}

/// The field of that path; else all whose paths end in it; else those that the table's column shows.
fn found(name: &str, known: &[Field]) -> Vec<Field> {
    if let Some(field) = known.iter().find_map(|field| field.of_key(name)) {
        return vec![field];
    }
    let ending = |name: &str| -> Vec<Field> {
        let known = known.iter().filter(|field| !matches!(field.kind, Leaf::Map));
        let whole = known.clone().filter(|field| plain(&field.path.join(".")) == name).cloned();
        let whole: Vec<Field> = whole.collect();
        if !whole.is_empty() {
            return whole;
        }
        let end = format!(".{name}");
        known.filter(|field| plain(&field.path.join(".")).ends_with(&end)).cloned().collect()
    };
    let name = plain(name);
    let direct = ending(&name);
    let columns = COLUMNS.iter().filter(|(column, _)| *column == name).flat_map(|(_, fields)| *fields);
    let shown = || columns.map(|field| ending(field)).find(|fields| !fields.is_empty()).unwrap_or_default();
    if direct.is_empty() { shown() } else { direct }
}

impl Field {
    /// The entry of a map that `labels.KEY` names. Keys are as they are: with dots, and upper and lower case told apart.
    fn of_key(&self, name: &str) -> Option<Self> {
        let mut parts = name.splitn(self.path.len() + 1, '.');
        let map: Vec<&str> = parts.by_ref().take(self.path.len()).collect();
        let key = parts.next().filter(|key| !key.is_empty())?;
        let is_this = matches!(self.kind, Leaf::Map) && plain(&map.join(".")) == plain(&self.path.join("."));
        is_this.then(|| Self { path: self.path.iter().cloned().chain([key.to_owned()]).collect(), kind: Leaf::Text })
    }
}

#[cfg(test)]
mod tests {
    use bpfd_proto::v1 as pb;

    use super::*;

    fn listing(sort: &str, filters: &[&str]) -> Listing {
        let filter = filters.iter().map(|filter| condition(filter).unwrap()).collect();
        Listing { sort: (!sort.is_empty()).then(|| sort.to_owned()), filter }
    }

    fn link(name: &str, priority: Option<u32>, state: pb::LinkState, interface: &str) -> pb::Link {
        let xdp = pb::XdpHook { netns: None, interface: interface.to_owned() };
        pb::Link {
            name: name.to_owned(),
            priority,
            state: state.into(),
            hook: Some(pb::Hook { hook: Some(pb::hook::Hook::Xdp(xdp)) }),
            ..Default::default()
        }
    }

    /// The names of what is left of four links.
    fn left(sort: &str, filters: &[&str]) -> String {
        let links = vec![
            link("b", Some(100), pb::LinkState::Attached, "eth1"),
            link("d", None, pb::LinkState::Waiting, "eth0"),
            link("a", Some(20), pb::LinkState::Attached, "eth0"),
            link("c", Some(3), pb::LinkState::Drifted, "eth0"),
        ];
        let selection = listing(sort, filters).of::<pb::Link>().unwrap();
        selection.apply(links).unwrap().into_iter().map(|link| link.name).collect()
    }

    #[test]
    fn numbers_sort_by_value_and_what_has_none_comes_last() {
        assert_eq!(left("priority", &[]), "cabd");
        assert_eq!(left("-priority", &[]), "bacd");
        assert_eq!(left("PRIO", &[]), "cabd");
        assert_eq!(left("name", &[]), "abcd");
        assert_eq!(left("", &[]), "bdac");
    }

    #[test]
    fn a_filter_takes_values_as_people_write_them() {
        assert_eq!(left("", &["state=attached"]), "ba");
        assert_eq!(left("", &["state=LINK_STATE_ATTACHED"]), "ba");
        assert_eq!(left("", &["interface=eth0"]), "dac");
        assert_eq!(left("", &["hook.xdp.interface=eth0", "STATE=DRIFTED"]), "c");
        assert_eq!(left("-name", &["interface=eth0"]), "dca");
        assert_eq!(left("", &["priority=20"]), "a");
        assert_eq!(left("", &["persist=true"]), "");
        assert_eq!(left("", &["interface=eth"]), "");
    }

    #[test]
    fn a_word_that_ends_another_is_not_taken_for_it() {
        let app = |name: &str, kind: pb::ProgramType| pb::App {
            name: name.to_owned(),
            programs: vec![pb::Program { r#type: kind.into(), ..Default::default() }],
            user_labels: [("team.of".to_owned(), name.to_owned())].into(),
            ..Default::default()
        };
        let apps = || vec![app("raw", pb::ProgramType::RawTracepoint), app("plain", pb::ProgramType::Tracepoint)];
        let left = |filter: &str| {
            let selection = listing("", &[filter]).of::<pb::App>().unwrap();
            selection.apply(apps()).unwrap().into_iter().map(|app| app.name).collect::<Vec<_>>()
        };
        assert_eq!(left("programs.type=tracepoint"), ["plain"]);
        assert_eq!(left("type=raw-tracepoint"), ["raw"]);
        assert_eq!(left("userLabels.team.of=raw"), ["raw"]);
        assert_eq!(left("user-labels.team.of=nobody"), [""; 0]);
    }

    #[test]
    fn what_there_is_not_is_told_with_what_there_is() {
        let told =
            |sort: &str, filters: &[&str]| match Failure::from(listing(sort, filters).of::<pb::Image>().unwrap_err()) {
                Failure::Local(Local { exit, message, cause, hint }) => {
                    assert_eq!(exit, Exit::Usage);
                    format!("{message}\n{}\n{}", cause.unwrap_or_default(), hint.unwrap_or_default())
                }
                other => panic!("{other:?}"),
            };
        let known = "the fields of `Image` are reference, digest, manifestDigest, objectSha256, sizeBytes, pullTime, \
                     signers, apps, trusted";
        assert_eq!(
            told("referense", &[]),
            format!("no field `referense` to sort or filter by\n{known}\ndid you mean `reference`?")
        );
        let shows = "`-o json` shows the fields with their values";
        assert_eq!(told("colour", &[]), format!("no field `colour` to sort or filter by\n{known}\n{shows}"));
        assert_eq!(told("", &["trusted=maybe"]), "`trusted` is never `maybe`\nit is `true` or `false`\n");
        assert_eq!(told("", &["size=big"]), "`size` is never `big`\nit is a number\n");
        let links = Failure::from(listing("", &["state=atached"]).of::<pb::Link>().unwrap_err());
        let Failure::Local(links) = links else { panic!("{links:?}") };
        assert_eq!(links.cause.as_deref(), Some("it is one of attached, waiting, drifted, unauthorised, failed"));
    }
}
