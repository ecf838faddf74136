//! The labels of bpfman's images: `io.ebpf.programs` and `io.ebpf.maps` with names and types, and before them one program
//! in four labels (bpfman `docs/developer-guide/shipping-bytecode.md`). Read only; the builder writes the first two beside
//! its own, so that bpfman loads its images.

use std::collections::BTreeMap;

use ebpf::names::{FunctionName, MapName};
use serde::de::DeserializeOwned;

use super::{
    BySection, Generation, Label, LabelError, Labelled, MapLabel, ObjectLabel, ProgramLabel, SCHEMA,
    read::{json, parse_json},
};
use crate::media;

const PROGRAM_NAME: &str = "io.ebpf.program_name";
const FUNCTION_NAME: &str = "io.ebpf.bpf_function_name";
const PROGRAM_TYPE: &str = "io.ebpf.program_type";
const FILE_NAME: &str = "io.ebpf.filename";
/// Before there was [`FUNCTION_NAME`] (bpfman, then bpfd, up to 0.3): what the program is called in `SEC(..)`, or its function.
const SECTION_NAME: &str = "io.ebpf.section_name";

pub(super) fn read(labels: &BTreeMap<String, String>) -> Result<Option<Labelled>, LabelError> {
    let read = if labels.contains_key(media::LABEL_PROGRAMS) {
        Labelled { generation: Generation::Ebpf, label: programs_and_maps(labels)? }
    } else if let Some(present) = labels.keys().find_map(|key| one_of_five(key)) {
        Labelled { generation: Generation::EbpfSingle, label: single(labels, present)? }
    } else if labels.contains_key(media::LABEL_MAPS) {
        let (present, missing) = (media::LABEL_MAPS, media::LABEL_PROGRAMS);
        return Err(LabelError::Incomplete { present, missing });
    } else {
        return Ok(None);
    };
    let Labelled { generation, label } = read;
    Ok(Some(Labelled { generation, label: label.checked()? }))
}

fn one_of_five(key: &str) -> Option<&'static str> {
    [PROGRAM_NAME, FUNCTION_NAME, SECTION_NAME, PROGRAM_TYPE, FILE_NAME].into_iter().find(|known| *known == key)
}

fn programs_and_maps(labels: &BTreeMap<String, String>) -> Result<Label, LabelError> {
    let programs: BTreeMap<FunctionName, String> = typed(labels, media::LABEL_PROGRAMS)?;
    let maps: BTreeMap<MapName, String> = typed(labels, media::LABEL_MAPS)?;
    let map = |(name, kind)| MapLabel {
        name,
        kind: Some(kind),
        key_size: None,
        value_size: None,
        max_entries: None,
        pinning: None,
        key_btf: None,
        value_btf: None,
    };
    Ok(Label {
        schema: SCHEMA,
        programs: programs.into_iter().map(|(name, kind)| program(name, kind)).collect(),
        maps: maps.into_iter().map(map).collect(),
        ..Label::default()
    })
}

fn program(name: FunctionName, kind: String) -> ProgramLabel {
    ProgramLabel { name, section: None, kind: Some(kind), frags: None, optional: None, attach: None, doc: None }
}

/// A JSON object of names to types; empty if the label is absent.
fn typed<T: DeserializeOwned + Default>(
    labels: &BTreeMap<String, String>,
    label: &'static str,
) -> Result<T, LabelError> {
    labels
        .get(label)
        .map_or(Ok(T::default()), |text| serde_json::from_value(parse_json(label, text)?).map_err(json(label)))
}

fn single(labels: &BTreeMap<String, String>, present: &'static str) -> Result<Label, LabelError> {
    let text = |label| labels.get(label).ok_or(LabelError::Incomplete { present, missing: label });
    // The same checks as for a text in JSON.
    let plain = |label: &'static str, text: &String| {
        let quoted = serde_json::to_string(text).map_err(json(label))?;
        serde_json::from_value::<String>(parse_json(label, &quoted)?).map_err(json(label))
    };
    let kind = plain(PROGRAM_TYPE, text(PROGRAM_TYPE)?)?;
    let (programs, by_section) = match (labels.get(FUNCTION_NAME), labels.get(SECTION_NAME)) {
        (None, Some(section)) => (vec![], Some(BySection { section: plain(SECTION_NAME, section)?, kind })),
        (_, _) => {
            let function = plain(FUNCTION_NAME, text(FUNCTION_NAME)?)?;
            let function = serde_json::from_value(function.into()).map_err(json(FUNCTION_NAME))?;
            (vec![program(function, kind)], None)
        }
    };
    let path = labels.get(FILE_NAME).map(|path| plain(FILE_NAME, path)).transpose()?;
    Ok(Label {
        schema: SCHEMA,
        // bpfman takes any text for a name; one that is none here is as good as none.
        name: labels.get(PROGRAM_NAME).and_then(|name| name.parse().ok()),
        object: path.map(|path| ObjectLabel { path: Some(path), ..ObjectLabel::default() }),
        programs,
        by_section,
        ..Label::default()
    })
}
