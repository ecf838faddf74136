//! From an image's labels to a [`Label`]: bounded, printable, of a known schema, each list within its limit.
//!
//! Must never pass over a label that cannot be read in favour of an older one: an image would then be judged by what it
//! says least about.

use std::collections::{BTreeMap, BTreeSet};

use ebpf::names::FunctionName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Action, Label, MAX_GLOBALS, MAX_LABEL, MAX_MAPS, MAX_PRIORITY, MAX_PROGRAMS, ProgramLabel, SCHEMA, older};
use crate::media;

/// Which labels an image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Generation {
    /// `io.bpfd.bytecode.v1`: it lists everything.
    Bytecode,
    /// `io.ebpf.programs` and `io.ebpf.maps`: names and types.
    Ebpf,
    /// `io.ebpf.program_name` and others: one program.
    EbpfSingle,
}

/// A label, and where it was read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Labelled {
    /// How much it claims to say.
    pub generation: Generation,
    /// What it says.
    pub label: Label,
}

/// Why a label cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    /// Longer than any label.
    #[error("label `{label}` has {length} bytes; at most {MAX_LABEL} are read")]
    TooLong {
        /// The label's key.
        label: &'static str,
        /// Its bytes.
        length: usize,
    },
    /// Not JSON, a wrong type, a number that is no integer, or a malformed name.
    #[error("label `{label}` cannot be read")]
    Json {
        /// The label's key.
        label: &'static str,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A text that would do something to a terminal.
    #[error("label `{label}` has control characters in a text")]
    Control {
        /// The label's key.
        label: &'static str,
    },
    /// Written by something newer.
    #[error("label `{label}` has schema {0}; this program reads schema {SCHEMA}: a newer bpfd is needed", label = media::LABEL)]
    Schema(u32),
    /// More than an object can have.
    #[error("label lists {found} {what}; an object has at most {limit}")]
    TooMany {
        /// `programs`, …
        what: &'static str,
        /// As listed.
        found: usize,
        /// As allowed.
        limit: usize,
    },
    /// The same twice.
    #[error("label lists {what} `{name}` twice")]
    Twice {
        /// `program`, `map`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A priority that nobody can ask for.
    #[error("label gives program `{program}` priority {priority}; it is from 0 to {MAX_PRIORITY}")]
    Priority {
        /// The program.
        program: FunctionName,
        /// As written.
        priority: u32,
    },
    /// A verdict of another type of program.
    #[error("label lets `{program}` proceed on `{action}`, which is no verdict of type `{kind}`")]
    Action {
        /// The program.
        program: FunctionName,
        /// Its type.
        kind: String,
        /// The verdict.
        action: Action,
    },
    /// Of the oldest labels, a part is missing.
    #[error("image has the label `{present}` but not `{missing}`")]
    Incomplete {
        /// One that is there.
        present: &'static str,
        /// One that belongs to it.
        missing: &'static str,
    },
}

/// Reads the labels of an image's config: the newest kind that is there. `None` if there is none of them.
///
/// # Errors
/// [`LabelError`]; a label that cannot be read is never passed over for an older one.
pub fn read(labels: &BTreeMap<String, String>) -> Result<Option<Labelled>, LabelError> {
    match labels.get(media::LABEL) {
        Some(text) => Ok(Some(Labelled { generation: Generation::Bytecode, label: Label::parse(text)? })),
        None => older::read(labels),
    }
}

impl Label {
    /// Reads the value of [`media::LABEL`].
    ///
    /// # Errors
    /// [`LabelError`].
    pub fn parse(text: &str) -> Result<Self, LabelError> {
        #[derive(Deserialize)]
        struct Versioned {
            schema: u32,
        }
        let label = media::LABEL;
        let versioned: Versioned = serde_json::from_value(parse_json(label, text)?).map_err(json(label))?;
        if versioned.schema != SCHEMA {
            return Err(LabelError::Schema(versioned.schema));
        }
        let parsed: Self = serde_json::from_str(text).map_err(json(label))?;
        parsed.checked()
    }

    pub(super) fn checked(self) -> Result<Self, LabelError> {
        let listed = |what, found, limit| {
            if found > limit { Err(LabelError::TooMany { what, found, limit }) } else { Ok(()) }
        };
        listed("programs", self.programs.len(), MAX_PROGRAMS)?;
        listed("maps", self.maps.len(), MAX_MAPS)?;
        listed("globals", self.globals.len(), MAX_GLOBALS)?;
        once("program", self.programs.iter().map(|program| program.name.as_str()))?;
        once("map", self.maps.iter().map(|map| map.name.as_str()))?;
        self.programs.iter().try_for_each(ProgramLabel::check)?;
        Ok(self)
    }
}

impl ProgramLabel {
    fn check(&self) -> Result<(), LabelError> {
        let Some(attach) = &self.attach else { return Ok(()) };
        if let Some(priority) = attach.priority.filter(|priority| *priority > MAX_PRIORITY) {
            return Err(LabelError::Priority { program: self.name.clone(), priority });
        }
        let is_verdict = |action: &&Action| match self.kind.as_deref() {
            Some("xdp") => action.xdp().is_some(),
            Some("tc" | "tcx") => action.tc().is_some(),
            _ => true,
        };
        let actions = attach.proceed_on.iter().flatten();
        let mut foreign = actions.filter(|action| **action != Action::DispatcherReturn && !is_verdict(action));
        match (foreign.next(), &self.kind) {
            (Some(action), Some(kind)) => {
                Err(LabelError::Action { program: self.name.clone(), kind: kind.clone(), action: *action })
            }
            _ => Ok(()),
        }
    }
}

fn once<'a>(what: &'static str, names: impl Iterator<Item = &'a str>) -> Result<(), LabelError> {
    let mut seen = BTreeSet::new();
    let mut again = names.filter(|name| !seen.insert(*name));
    again.next().map_or(Ok(()), |name| Err(LabelError::Twice { what, name: name.to_owned() }))
}

pub(super) fn json(label: &'static str) -> impl Fn(serde_json::Error) -> LabelError {
    move |source| LabelError::Json { label, source }
}

/// JSON of a bounded length, without a text that could act on a terminal.
pub(super) fn parse_json(label: &'static str, text: &str) -> Result<Value, LabelError> {
    if text.len() > MAX_LABEL {
        return Err(LabelError::TooLong { label, length: text.len() });
    }
    let value: Value = serde_json::from_str(text).map_err(json(label))?;
    if is_printable(&value) { Ok(value) } else { Err(LabelError::Control { label }) }
}

fn is_printable(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
        Value::String(text) => !text.contains(acts_on_terminals),
        Value::Array(items) => items.iter().all(is_printable),
        Value::Object(fields) => {
            fields.iter().all(|(key, value)| !key.contains(acts_on_terminals) && is_printable(value))
        }
    }
}

/// Control characters, and those that turn the direction of writing (Unicode Standard Annex 9, §2).
fn acts_on_terminals(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
