//! What is wrong with an object, or with what a load asks of it, as callers see it. It must never list more than people read.

use bpfd_core::selection::SelectionError;
use bpfd_core::sharing::ShareError;
use bpfd_proto::status::Refusal;
use bpfd_proto::v1::ErrorReason;
use ebpf::globals::GlobalError;
use ebpf::select::SelectError;

use crate::causes::error_chain;
use crate::worker::parse::ParseError;

pub(super) fn parse(message: String, error: &ParseError) -> Refusal {
    let refusal = |reason| Refusal::new(reason, message).cause(error_chain(error));
    match error {
        ParseError::Refused(_) | ParseError::NoType(_) => refusal(ErrorReason::InvalidObject),
        ParseError::Died { .. } => refusal(ErrorReason::InvalidObject)
            .hint("is it a BPF object for this host? compile with `clang -O2 -g -target bpf -c`"),
        ParseError::TooSlow(_) | ParseError::OutOfTime(_) => refusal(ErrorReason::Timeout),
        ParseError::Worker(_) => refusal(ErrorReason::Internal),
    }
}

pub(super) fn selection(message: String, error: &SelectionError) -> Refusal {
    let refusal = |reason| Refusal::new(reason, message).cause(error_chain(error));
    match error {
        SelectionError::Select(select) => match select {
            SelectError::NoPrograms | SelectError::NoFunction { .. } | SelectError::NoneOfKind { .. } => {
                meant(refusal(ErrorReason::NoSuchProgram), select)
            }
            SelectError::NoSection { .. } => meant(refusal(ErrorReason::NoSuchSection), select),
            SelectError::Ambiguous { .. } => {
                refusal(ErrorReason::AmbiguousProgram).hint("name one: `--program FUNCTION`")
            }
            SelectError::WrongKind { .. } => refusal(ErrorReason::WrongProgramType),
        },
        SelectionError::Name(_) => refusal(ErrorReason::InvalidRequest),
        SelectionError::Unsupported { .. } => {
            refusal(ErrorReason::WrongProgramType).hint("name the programs that you want: `--program FUNCTION`")
        }
        SelectionError::Untyped { .. } => refusal(ErrorReason::WrongProgramType)
            .hint("give a hook, as in `bpfctl load … xdp -i eth0`, or select other programs with `--program`"),
    }
}

/// With the name that was probably meant.
fn meant(mut refusal: Refusal, error: &SelectError) -> Refusal {
    refusal.hint = error.meant().map(|name| format!("did you mean `{name}`?"));
    refusal
}

/// A map that is not shared.
pub(super) fn share(message: String, error: &ShareError) -> Refusal {
    let refusal = |reason| Refusal::new(reason, message).cause(error.to_string());
    match error {
        ShareError::App(_) => refusal(ErrorReason::NotFoundApp).hint("`bpfctl list` shows apps"),
        ShareError::NotDeclared { .. } | ShareError::NoMap { .. } | ShareError::NothingInCommon(_) => {
            refusal(ErrorReason::NoSuchMap)
        }
        ShareError::Twice(_) => refusal(ErrorReason::InvalidRequest),
        ShareError::Differs { .. } | ShareError::Filled(_) => refusal(ErrorReason::MapMismatch),
    }
}

pub(super) fn global(name: &str, error: &GlobalError) -> Refusal {
    let refusal = |reason| Refusal::new(reason, format!("cannot set `{name}`")).cause(error_chain(error));
    match error {
        GlobalError::Unknown { candidates, .. } if candidates.is_empty() => refusal(ErrorReason::NoSuchGlobal)
            .hint("the object has no global variables: define them outside functions and compile with `clang -g`"),
        GlobalError::Unknown { candidates, .. } => {
            refusal(ErrorReason::NoSuchGlobal).hint(format!("the object has {}", some_of(candidates)))
        }
        GlobalError::NotAnEnumerator { candidates, .. } => {
            refusal(ErrorReason::InvalidGlobal).hint(format!("a number, or one of {}", some_of(candidates)))
        }
        _ => refusal(ErrorReason::InvalidGlobal),
    }
}

/// The first of the names that an object has: how many there are, and how long, is the object's word.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).map(|name| format!("`{}`", bpfd_core::names::printable(name)));
    let shown: Vec<String> = shown.collect();
    match names.len() > SHOWN {
        true => format!("{}, … ({} in all)", shown.join(", "), names.len()),
        false => shown.join(", "),
    }
}
