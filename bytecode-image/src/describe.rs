//! The label of an object: what the ELF file says, and what its builder adds.
//!
//! Pure. Must never state a fact about the object that was not read from it, so that the label it makes always passes
//! [`Labelled::check_against`](crate::label::Labelled::check_against).

use std::collections::BTreeMap;

use ebpf::{
    globals::{Global, GlobalType, Initial},
    inspect::{Object, Program},
    kind::{DeclaredKind, ProgramKind, Sees},
    maps::Map,
    run_config::XdpAction,
};

use crate::{
    digest::Digest,
    label::{
        Action, Attach, CanonicalError, Direction, GlobalLabel, Label, LabelError, MAX_GLOBALS, MAX_LABEL, MapLabel,
        ObjectLabel, ProgramLabel, Requires, SCHEMA, Scalar,
    },
    media,
    metadata::{GlobalMetadata, Metadata, ProgramMetadata, RequiresMetadata},
};

/// Why an object cannot be described.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// The metadata speaks of something that the object does not have.
    #[error("metadata names {what} `{name}`, which the object does not have")]
    Unknown {
        /// `program`, `global`.
        what: &'static str,
        /// As written.
        name: String,
    },
    /// The metadata contradicts the object.
    #[error("metadata gives program `{program}` the type `{said}`; its section `{section}` says otherwise")]
    Kind {
        /// The program.
        program: String,
        /// As written.
        said: ProgramKind,
        /// Its section.
        section: String,
    },
    /// What the metadata says cannot be put into a label.
    #[error("the label would not be readable")]
    Label(#[from] LabelError),
    /// A number in the metadata.
    #[error("the label cannot be written")]
    Canonical(#[from] CanonicalError),
}

/// Describes an object that lies in its layer at `path`.
///
/// # Errors
/// [`DescribeError`].
pub fn describe(object: &Object, digest: Digest, path: &str, metadata: &Metadata) -> Result<Label, DescribeError> {
    let Metadata { name, version, license, programs, globals, requires } = metadata;
    let known = |name: &String| object.programs.iter().any(|program| program.function.as_str() == name);
    if let Some(name) = programs.keys().find(|name| !known(name)) {
        return Err(DescribeError::Unknown { what: "program", name: name.clone() });
    }
    if let Some(name) = globals.keys().find(|name| object.globals.iter().all(|global| global.name != **name)) {
        return Err(DescribeError::Unknown { what: "global", name: name.clone() });
    }
    let core_relocations = object.core_relocations > 0;
    let RequiresMetadata { kernel, helpers, kfuncs, features, arch } = requires.clone();
    let vmlinux_btf = core_relocations.then_some(true);
    let requires = Requires { kernel, vmlinux_btf, helpers, kfuncs, features, arch };
    let label = Label {
        schema: SCHEMA,
        by_section: None,
        name: name.clone(),
        version: version.clone(),
        license: license.clone(),
        object: Some(ObjectLabel {
            path: Some(path.to_owned()),
            sha256: Some(digest),
            endian: Some(object.byte_order.into()),
            btf: Some(object.has_btf),
            core_relocations: Some(core_relocations),
            kernel_license: object.license.clone(),
        }),
        programs: object
            .programs
            .iter()
            .map(|program| describe_program(program, programs.get(program.function.as_str())))
            .collect::<Result<_, _>>()?,
        maps: object.maps.iter().map(describe_map).collect(),
        globals: object.globals.iter().map(|global| describe_global(global, globals.get(&global.name))).collect(),
        requires: (requires != Requires::default()).then_some(requires),
    };
    readable(label)
}

/// The label as any reader will see it; without its globals where they make it too long.
fn readable(label: Label) -> Result<Label, DescribeError> {
    let text = label.to_json()?;
    if text.len() <= MAX_LABEL && label.globals.len() <= MAX_GLOBALS {
        return Ok(Label::parse(&text)?);
    }
    let without = Label { globals: Vec::new(), ..label };
    Ok(Label::parse(&without.to_json()?)?)
}

/// All labels that an image gets: ours, bpfman's two, and those of the OCI that say the same.
///
/// # Errors
/// [`CanonicalError`].
pub fn image_labels(label: &Label) -> Result<BTreeMap<String, String>, CanonicalError> {
    let programs: BTreeMap<&str, &str> =
        label.programs.iter().filter_map(|program| Some((program.name.as_str(), program.kind.as_deref()?))).collect();
    let maps: BTreeMap<&str, String> = label
        .maps
        .iter()
        .filter_map(|map| Some((map.name.as_str(), map.kind.as_deref()?.replace("percpu", "per_cpu"))))
        .collect();
    let text = |value| serde_json::to_string(&value).map_err(CanonicalError::Json);
    let mut labels = BTreeMap::from([
        (media::LABEL.to_owned(), label.to_json()?),
        (media::LABEL_PROGRAMS.to_owned(), serde_json::to_string(&programs).map_err(CanonicalError::Json)?),
        (media::LABEL_MAPS.to_owned(), text(maps)?),
    ]);
    labels.extend(label.license.clone().map(|license| (media::LABEL_LICENSES.to_owned(), license)));
    labels.extend(label.version.clone().map(|version| (media::LABEL_VERSION.to_owned(), version)));
    Ok(labels)
}

fn describe_program(program: &Program, said: Option<&ProgramMetadata>) -> Result<ProgramLabel, DescribeError> {
    let said = said.cloned().unwrap_or_default();
    let ProgramMetadata { kind: said_kind, priority, proceed_on, direction, mode, target, doc } = said;
    let kind = describe_kind(program, said_kind)?;
    let from_object = &program.run_config;
    let proceed_on = proceed_on.or_else(|| {
        from_object.proceed_on.as_ref().map(|actions| actions.iter().map(|action| xdp_word(*action)).collect())
    });
    // What follows the `/` of a packet program's section is a direction or a name of the author's; of others it is their target,
    // which labels write as bpfman does, `category:event`.
    let (hook_direction, hook_target) = match (program.kind().map(ProgramKind::sees), program.target.as_deref()) {
        (Some(Sees::Packets), Some("ingress")) => (Some(Direction::Ingress), None),
        (Some(Sees::Packets), Some("egress")) => (Some(Direction::Egress), None),
        (Some(Sees::Kernel), Some(target)) => (None, Some(label_target(target))),
        (Some(Sees::Packets) | None, _) | (_, None) => (None, None),
    };
    let attach = Attach {
        direction: direction.or(hook_direction),
        priority: priority.or(from_object.priority.filter(|priority| *priority <= crate::label::MAX_PRIORITY)),
        proceed_on,
        mode,
        target: target.or(hook_target),
    };
    Ok(ProgramLabel {
        name: program.function.clone(),
        section: Some(program.section.clone()),
        kind,
        frags: Some(program.frags),
        optional: Some(program.optional),
        attach: (attach != Attach::default()).then_some(attach),
        doc,
    })
}

/// A section's target as a label writes it.
fn label_target(target: &str) -> String {
    if target.starts_with('/') { target.to_owned() } else { target.replacen('/', ":", 1) }
}

fn describe_kind(program: &Program, said: Option<ProgramKind>) -> Result<Option<String>, DescribeError> {
    let wrong = |said| DescribeError::Kind {
        program: program.function.to_string(),
        said,
        section: program.section.to_string(),
    };
    match (&program.kind, said) {
        (DeclaredKind::Known(kind), None) => Ok(Some(kind.to_string())),
        (DeclaredKind::Known(kind), Some(said)) if said == *kind => Ok(Some(said.to_string())),
        (DeclaredKind::Known(_) | DeclaredKind::Unsupported(_), Some(said)) => Err(wrong(said)),
        (DeclaredKind::Unsupported(section), None) => Ok(section.split(['/', '.']).next().map(str::to_owned)),
        (DeclaredKind::Unstated, said) => Ok(said.map(|kind| kind.to_string())),
    }
}

fn xdp_word(action: XdpAction) -> Action {
    match action {
        XdpAction::Aborted => Action::Aborted,
        XdpAction::Drop => Action::Drop,
        XdpAction::Pass => Action::Pass,
        XdpAction::Tx => Action::Tx,
        XdpAction::Redirect => Action::Redirect,
    }
}

fn describe_map(map: &Map) -> MapLabel {
    MapLabel {
        name: map.name.clone(),
        kind: Some(map.kind.to_string()),
        key_size: Some(map.key_size),
        value_size: Some(map.value_size),
        max_entries: Some(map.max_entries),
        pinning: Some(if map.pin_by_name { "by_name" } else { "none" }.to_owned()),
        key_btf: map.key_type.clone(),
        value_btf: map.value_type.clone(),
    }
}

fn describe_global(global: &Global, said: Option<&GlobalMetadata>) -> GlobalLabel {
    let said = said.cloned().unwrap_or_default();
    GlobalLabel {
        name: global.name.clone(),
        section: Some(global.section.clone()),
        kind: Some(global.type_name.clone()),
        size: Some(global.size),
        default: initial_value(global),
        min: said.min,
        max: said.max,
        doc: said.doc,
    }
}

/// The value as a scalar, for the types that are one.
fn initial_value(global: &Global) -> Option<Scalar> {
    let signed = match &global.ty {
        GlobalType::Bool | GlobalType::Char => false,
        GlobalType::Int { signed, .. } | GlobalType::Enum { signed, .. } => *signed,
        GlobalType::CharArray { .. }
        | GlobalType::IntArray { .. }
        | GlobalType::Array { .. }
        | GlobalType::Struct { .. }
        | GlobalType::Bits { .. }
        | GlobalType::Other { .. } => return None,
    };
    let little: Vec<u8> = match &global.initial {
        Initial::Zero => vec![0],
        Initial::Bytes(bytes) => bytes.clone(),
        Initial::Long => return None,
    };
    let negative = signed && little.last().is_some_and(|byte| *byte >= 0x80);
    let mut wide = [if negative { 0xff } else { 0 }; 16];
    wide.iter_mut().zip(&little).for_each(|(to, from)| *to = *from);
    let value = i128::from_le_bytes(wide);
    Some(match &global.ty {
        GlobalType::Bool => Scalar::Bool(value != 0),
        GlobalType::Char
        | GlobalType::Int { .. }
        | GlobalType::Enum { .. }
        | GlobalType::CharArray { .. }
        | GlobalType::IntArray { .. }
        | GlobalType::Array { .. }
        | GlobalType::Struct { .. }
        | GlobalType::Bits { .. }
        | GlobalType::Other { .. } => Scalar::from(value),
    })
}
