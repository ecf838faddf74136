//! Which programs of an object are loaded, as what, and which of them each attachment means. Pure, over what the parse worker read.
//!
//! Rules: no selector = every program that is not optional; an attachment means exactly one program, else the candidates are
//! named; a section that says no type takes the type of the hook that it is attached to.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use ebpf::inspect::{Object, Program as Declared};
use ebpf::kind::{DeclaredKind, ProgramKind};
use ebpf::names::{FunctionName, NameError, SectionName};
use ebpf::select::{self, SelectError, Selector};

use crate::changes::{RequestError, placement};
use crate::hook::own::is_fixed_at_load;
use crate::hook::{self, HookAsk, ProceedOn};
use crate::kernel::LoadAs;
use crate::names::Priority;
use crate::request::{AttachAsk, Select};
use crate::state::Advice;

/// What a load takes from its object.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Selection {
    /// Functions to load, and what each is loaded as.
    pub functions: BTreeMap<String, ProgramKind>,
    /// The function of each attachment, in their order.
    pub attach: Vec<String>,
}

/// Why no selection can be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SelectionError {
    /// No program fits, or several do.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// A selector that is no name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A type that this version does not load.
    #[error("`{function}` is in section `{section}`: bpfd loads programs of the types {}", managed())]
    Unsupported {
        /// The program.
        function: String,
        /// Its section.
        section: String,
    },
    /// No word on the type.
    #[error("section `{section}` of `{function}` does not say what type of program it holds")]
    Untyped {
        /// The program.
        function: String,
        /// Its section.
        section: String,
    },
}

/// The selection that a request means.
pub fn select(
    object: &Object,
    wanted: &[Select],
    attach: &[(AttachAsk, Option<String>)],
) -> Result<Selection, SelectionError> {
    let chosen = chosen(object, wanted)?;
    let narrowed = Object {
        programs: chosen.iter().map(|program| Declared { optional: false, ..(*program).clone() }).collect(),
        ..object.clone()
    };
    let mut selection = Selection::default();
    for (ask, function) in attach {
        let kind = ask.hook.kind();
        let selector = function.as_deref().map(|name| name.parse::<FunctionName>().map(Selector::Function));
        let program = select::one(&narrowed, selector.transpose()?.as_ref(), kind)?;
        let function = program.function.to_string();
        selection.functions.insert(function.clone(), kind);
        selection.attach.push(function);
    }
    for program in chosen {
        if let Entry::Vacant(unattached) = selection.functions.entry(program.function.to_string()) {
            unattached.insert(declared(program)?);
        }
    }
    Ok(selection)
}

/// What each function is loaded as: if its kind fixes the target then, for that of the request's hook, else for that of the label or
/// the section.
pub fn load_as(
    selection: &Selection,
    asked: &[(AttachAsk, Option<String>)],
    advice: &BTreeMap<String, Advice>,
) -> Result<BTreeMap<String, LoadAs>, RequestError> {
    let load_as = |(function, kind): (&String, &ProgramKind)| {
        if !is_fixed_at_load(*kind) {
            return Ok((function.clone(), LoadAs::Any(*kind)));
        }
        let asked = asked.iter().zip(&selection.attach).find(|(_, of)| *of == function).map(|((ask, _), _)| &ask.hook);
        let hook = asked.cloned().unwrap_or(HookAsk::Own { kind: *kind, hook: None });
        let advice = advice.get(function).cloned().unwrap_or_default();
        let target = placement(function, None, &hook, &advice)?.own().cloned();
        Ok((function.clone(), target.map_or(LoadAs::Any(*kind), LoadAs::For)))
    };
    selection.functions.iter().map(load_as).collect()
}

/// The types whose hooks are managed, for an error's text.
fn managed() -> String {
    let managed = ProgramKind::ALL.iter().filter(|kind| hook::is_managed(**kind));
    managed.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn chosen<'a>(object: &'a Object, wanted: &[Select]) -> Result<Vec<&'a Declared>, SelectionError> {
    if wanted.is_empty() {
        return match select::all(object) {
            all if all.is_empty() => Err(SelectError::NoPrograms.into()),
            all => Ok(all),
        };
    }
    let mut chosen: Vec<&Declared> = Vec::new();
    for select in wanted {
        let selector = match select {
            Select::Section(section) => Selector::Section(section.parse::<SectionName>()?),
            Select::Function(function) => Selector::Function(function.parse::<FunctionName>()?),
        };
        let found = select::matching(object, &selector)?;
        chosen.extend(
            found
                .into_iter()
                .filter(|program| !chosen.iter().any(|had| had.function == program.function))
                .collect::<Vec<_>>(),
        );
    }
    Ok(chosen)
}

fn declared(program: &Declared) -> Result<ProgramKind, SelectionError> {
    let named = || (program.function.to_string(), program.section.to_string());
    match &program.kind {
        DeclaredKind::Known(kind) if hook::is_managed(*kind) => Ok(*kind),
        DeclaredKind::Known(_) | DeclaredKind::Unsupported(_) => {
            let (function, section) = named();
            Err(SelectionError::Unsupported { function, section })
        }
        DeclaredKind::Unstated => {
            let (function, section) = named();
            Err(SelectionError::Untyped { function, section })
        }
    }
}

/// What the object itself says of a program: its run config and the hook in its section's name. A priority above 1000 is libxdp's
/// to use, not ours: it is advice that cannot be followed, and is passed over.
pub fn advice(program: &Declared) -> Advice {
    let actions = program.run_config.proceed_on.as_ref();
    Advice {
        priority: program.run_config.priority.and_then(|priority| Priority::try_from(priority).ok()),
        proceed_on: actions.and_then(|set| ProceedOn::from_names(set.iter().map(|action| action.as_str())).ok()),
        target: program.target.clone(),
    }
}
