//! What an image says of its object, as the words that a load understands: name, labels worth showing, advice on attaching. Pure.
//! Advice that means nothing here is left out, never an error: the request and the policy come first anyway.

use std::collections::BTreeMap;

use bpfd_core::hook::ProceedOn;
use bpfd_core::names::{AppName, Priority};
use bpfd_core::selection;
use bpfd_core::state::Advice;
use bytecode_image::label::{Attach, Labelled, ProgramLabel};
use bytecode_image::media;
use bytecode_image::reference::Reference;
use ebpf::inspect::Program;

use super::judge::Opened;
use crate::source::ImageWords;

/// Labels that are kept for people: an app is listed with them.
const LABELS: usize = 32;
/// Bytes of a key or a value that is kept.
const LABEL_TEXT: usize = 256;

pub(super) fn words(reference: &Reference, opened: &Opened) -> ImageWords {
    let label = opened.labelled.as_ref().map(|Labelled { generation: _, label }| label);
    let named = label.and_then(|label| label.name.as_ref()).and_then(|name| AppName::nearest(name.as_str()));
    let last = || reference.repository().rsplit('/').next().and_then(AppName::nearest);
    let programs = label.map(|label| label.programs.as_slice()).unwrap_or_default();
    ImageWords {
        name: named.or_else(last),
        labels: labels(&opened.labels),
        advice: programs.iter().filter_map(|program| Some((program.name.to_string(), advice(program)?))).collect(),
    }
}

/// What a load without options would do with each program: the label's word first, as for a load.
pub(super) fn defaults(opened: &Opened) -> BTreeMap<String, Advice> {
    let label = opened.labelled.as_ref().map(|labelled| labelled.label.programs.as_slice()).unwrap_or_default();
    let of = |program: &Program| {
        let listed = label.iter().find(|listed| listed.name == program.function);
        let said = listed.and_then(advice).unwrap_or_default();
        let own = selection::advice(program);
        (program.function.to_string(), said.or(own))
    };
    opened.inspected.programs.iter().map(of).collect()
}

/// Those that say something to people: the label about the object says it elsewhere.
fn labels(all: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let ours = [media::LABEL, media::LABEL_PROGRAMS, media::LABEL_MAPS];
    let fit = |text: &str| text.len() <= LABEL_TEXT && !text.chars().any(char::is_control);
    let kept = all.iter().filter(|(key, value)| !ours.contains(&key.as_str()) && fit(key) && fit(value));
    kept.take(LABELS).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn advice(program: &ProgramLabel) -> Option<Advice> {
    let attach = program.attach.as_ref()?;
    let Attach { direction: _, priority, proceed_on: _, mode: _, target } = attach;
    let bits = attach.xdp_proceed_on().map(|actions| actions.iter().fold(0, |bits, action| bits | 1 << action.code()));
    Some(Advice {
        priority: priority.and_then(|priority| Priority::try_from(priority).ok()),
        proceed_on: bits.and_then(|bits| ProceedOn::from_bits(bits).ok()),
        target: target.clone(),
    })
}

#[cfg(test)]
mod tests {
    use bytecode_image::label::Label;
    use serde_json::json;

    use super::*;

    fn advised(program: serde_json::Value) -> Option<Advice> {
        let label = json!({"schema": 1, "programs": [program], "maps": []});
        advice(&Label::parse(&label.to_string()).unwrap().programs[0])
    }

    #[test]
    fn a_label_advises_priority_and_proceed_on() {
        let attach = json!({"priority": 20, "proceedOn": ["pass", "tx", "dispatcher_return"]});
        let advice = advised(json!({"name": "count", "type": "xdp", "attach": attach})).unwrap();
        assert_eq!(advice.priority, Some(Priority::try_from(20).unwrap()));
        assert_eq!(advice.proceed_on, Some(ProceedOn::from_names(["pass", "tx"]).unwrap()));
        assert_eq!(advice.target, None);
        assert_eq!(advised(json!({"name": "count", "type": "xdp"})), None);
        let empty = advised(json!({"name": "count", "type": "xdp", "attach": {"proceedOn": []}})).unwrap();
        assert_eq!(empty.proceed_on, Some(ProceedOn::from_names([]).unwrap()));
    }

    #[test]
    fn a_target_is_advice() {
        let label = json!({"name": "f", "type": "tracepoint", "attach": {"target": "sched:sched_switch"}});
        assert_eq!(advised(label).unwrap().target.as_deref(), Some("sched:sched_switch"));
    }

    #[test]
    fn long_and_odd_labels_are_not_shown() {
        let long = "x".repeat(LABEL_TEXT + 1);
        let pairs = [("a", "b"), ("c", "\u{1b}[2J"), ("d", &long), (media::LABEL, "{}")];
        let all = pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        assert_eq!(labels(&all), BTreeMap::from([("a".to_owned(), "b".to_owned())]));
    }
}
