//! What is wrong with a request about a map, or with the map, as callers see it.

use bpfd_core::maps::{BadElement, MapUse};
use bpfd_core::names::printable;
use bpfd_proto::status::Refusal;
use bpfd_proto::v1::ErrorReason;
use ebpf::globals::GlobalError;
use ebpf::names::nearest;

use super::object::parse;
use super::{app, engine, meant, refused};
use crate::causes::error_chain;
use crate::maps::{ElementField, MapFailure};
use crate::service::MapError;
use crate::worker::parse::ParseError;

/// No app is called so.
pub(in crate::rpc::v1) fn no_app(asked: &str) -> Refusal {
    Refusal::new(ErrorReason::NotFoundApp, format!("no app `{}`", printable(asked))).hint("`bpfctl list` shows apps")
}

/// A stream that the daemon ends.
pub(in crate::rpc::v1) fn stopping() -> tonic::Status {
    Refusal::new(ErrorReason::DaemonNotReady, "the daemon is stopping").into()
}

/// A map that is not read or written; `message` says what was tried.
pub(in crate::rpc::v1) fn map(message: &str, error: MapError) -> tonic::Status {
    let refusal = match error {
        MapError::App(error) => app(error),
        MapError::NoMap { ref near, ref candidates, .. } => {
            let hint = match near {
                Some(_) => format!("{}`bpfctl map ls` shows maps", meant(near.as_deref())),
                None if candidates.is_empty() => "the app has no maps".to_owned(),
                None => "`bpfctl map ls` shows maps".to_owned(),
            };
            Refusal::new(ErrorReason::NoSuchMap, message).cause(error.to_string()).hint(hint)
        }
        MapError::WrongKind { usable, .. } => {
            Refusal::new(ErrorReason::WrongMapType, message).cause(error.to_string()).hint(match usable {
                MapUse::Elements => "it has elements: `bpfctl map dump` reads them",
                MapUse::ReadOnly => "its elements can only be read: `bpfctl map dump` does",
                MapUse::Records => "it has records: `bpfctl map events` reads them",
                MapUse::Nothing => "bpfctl cannot read or write maps of this type",
            })
        }
        MapError::Failed(error) => refused(error, |failure| failed(message, &failure)),
    };
    refusal.into()
}

fn failed(message: &str, failure: &MapFailure) -> Refusal {
    let refusal = |reason| Refusal::new(reason, message).cause(error_chain(failure));
    match failure {
        MapFailure::Engine(error) => engine(message, error),
        MapFailure::Lost => refusal(ErrorReason::Internal),
        MapFailure::Pin(_) | MapFailure::Replaced => {
            refusal(ErrorReason::KernelError).hint("`bpfctl doctor` shows what is inconsistent")
        }
        MapFailure::Object(_) => refusal(ErrorReason::KernelError).hint("`--hex` needs no types"),
        MapFailure::Types(ParseError::NoType(_)) => refusal(ErrorReason::InvalidElement)
            .hint("clang describes the types that a program uses; name another one, or use `--hex`")
            .fact("field", "record_type"),
        MapFailure::Types(error) => parse(message.to_owned(), error).hint("`--hex` needs no types"),
        MapFailure::TooLarge { .. } => refusal(ErrorReason::LimitExceeded),
        MapFailure::Bad { field, source } => bad(message, *field, source),
        MapFailure::Refused => refusal(ErrorReason::InvalidElement),
        MapFailure::Absent => refusal(ErrorReason::NotFoundElement),
        MapFailure::Present => refusal(ErrorReason::ElementExists),
        MapFailure::Fixed => refusal(ErrorReason::WrongMapType).hint("set it to zero instead"),
        MapFailure::Full => refusal(ErrorReason::MapFull).hint("`bpfctl map delete` removes an element"),
        MapFailure::Protected => refusal(ErrorReason::MapProtected),
        MapFailure::TooMany => {
            refusal(ErrorReason::LimitExceeded).hint("name the elements to watch: `--key KEY`, at most 64 times")
        }
        MapFailure::Read(_) => {
            refusal(ErrorReason::InUse).hint("each record is read once: end the other reader, or have it pass them on")
        }
        MapFailure::Streams { .. } => {
            refusal(ErrorReason::ResourceExhausted).hint("try again when some of them have ended")
        }
        MapFailure::Records(_) | MapFailure::Kernel { .. } => refusal(ErrorReason::KernelError),
    }
}

/// A text that is no key or value, with the name that was probably meant.
fn bad(message: &str, field: ElementField, error: &BadElement) -> Refusal {
    let name = match field {
        ElementField::Key => "key",
        ElementField::Value => "value",
    };
    let mut refusal = Refusal::new(ErrorReason::InvalidElement, message).cause(error.to_string()).fact("field", name);
    refusal.hint = match error {
        BadElement::Value(GlobalError::NoMember { name, candidates, .. }) => near(name, candidates),
        BadElement::Value(GlobalError::NotAnEnumerator { text, candidates, .. }) => near(text, candidates),
        BadElement::Value(_) | BadElement::Cpus { .. } => None,
        BadElement::WhichCpus(_) | BadElement::NoList => {
            Some("`--per-cpu each` writes one value for all, `--per-cpu list` takes an array of all".to_owned())
        }
        BadElement::NoCpus(_) => Some("leave `--per-cpu` out".to_owned()),
    };
    refusal
}

fn near(asked: &str, candidates: &[String]) -> Option<String> {
    let near = nearest(asked, candidates.iter().map(String::as_str));
    near.map(|near| format!("did you mean `{near}`?"))
}
