//! From errors to what callers see: reason, what failed, why, and what to do. The only place that picks reasons for errors of the
//! engine and of loads.

mod commands;
mod image;
mod map;
mod object;
mod plan;
mod words;

use bpfd_core::changes::RequestError;
use bpfd_core::hook::{BadTarget, own};
use bpfd_core::kernel::{IN_CHAIN, ObserveError, StepError};
use bpfd_core::names::AppName;
use bpfd_core::policy::Denied;
use bpfd_core::quota::OverQuota;
use bpfd_core::request::NoOneLink;
use bpfd_core::state::ChangeError;
use bpfd_proto::codec::v1::hook::no_target;
use bpfd_proto::status::Refusal;
use bpfd_proto::v1::{ErrorReason, VerifierFailure};
use ebpf::verifier_log::Rejection;
use ebpf::verifier_words::explain;

use self::commands::show_interfaces;
use self::image::given_up;
pub(super) use self::image::image;
pub(super) use self::map::{map, no_app, stopping};
use self::object::{global, parse, selection, share};
use self::plan::plan;
pub(super) use self::words::{attaching, detaching, loading, persisting, unloading};
use crate::causes::error_chain;
use crate::engine::EngineError;
use crate::execute::ExecuteError;
use crate::kernel::nearest_target;
use crate::load_log::Rejected;
use crate::objects::IncomingError;
use crate::reads::ReadError;
use crate::service::{GetAppError, LoadError, LookError, Refused, UploadRefused};
use crate::trust::TrustError;
use crate::turns::Full;

/// What to do where the rest of a chain is kept for others.
const KEPT: &str = "detach another program of this interface, or ask root to attach this one at a priority below 100";

/// A refusal by policy.
pub(in crate::rpc) fn denied(denied: &Denied) -> Refusal {
    let Denied { principal, uid: _, verb, why, hint, rules: _ } = denied;
    Refusal::new(ErrorReason::PolicyDenied, format!("{principal} may not {verb}")).cause(why).hint(hint)
}

/// A verb that has no answer of its own to `error`.
pub(in crate::rpc::v1) fn refused<E: std::error::Error>(
    error: Refused<E>,
    failed: impl FnOnce(E) -> Refusal,
) -> Refusal {
    match error {
        Refused::Denied(error) => denied(&error),
        Refused::NotBegun(error) => engine("cannot begin", &error),
        Refused::Lost => Refusal::new(ErrorReason::Internal, error.to_string()),
        Refused::Failed(error) => failed(error),
    }
}

/// A load that did not happen; `message` says what was tried.
pub(in crate::rpc::v1) fn load(message: String, error: LoadError) -> Refusal {
    match error {
        LoadError::Image(error) => Refusal::from(error),
        LoadError::Upload(error) => Refusal::new(ErrorReason::NotFoundObject, message)
            .cause(error_chain(&error))
            .hint("send the file again: `bpfctl load --path` does"),
        LoadError::Parse(error) => parse(message, &error),
        LoadError::Selection(error) => selection(message, &error),
        LoadError::Global { name, source } => global(&name, &source),
        LoadError::Share(error) => share(message, &error),
        LoadError::Verifier(rejected) => verifier(&rejected),
        LoadError::Kernel(error) => step(message, &error),
        LoadError::TooSlow => Refusal::new(ErrorReason::Timeout, message).cause(error.to_string()),
        LoadError::GivenUp(why) => Refusal::new(given_up(why), message).cause(why.to_string()),
        LoadError::Engine(error) => engine(&message, &error),
        LoadError::Lost => Refusal::new(ErrorReason::Internal, message).cause(error.to_string()),
    }
}

/// An upload that was not taken.
pub(in crate::rpc::v1) fn upload(error: UploadRefused) -> Refusal {
    let reason = match &error {
        UploadRefused::Denied(error) => return denied(error),
        UploadRefused::Lost => ErrorReason::Internal,
        UploadRefused::Incoming(IncomingError::TooLarge) => ErrorReason::LimitExceeded,
        UploadRefused::Incoming(IncomingError::Write(_)) => ErrorReason::ResourceExhausted,
    };
    Refusal::new(reason, "cannot take the object").cause(error_chain(&error))
}

/// An app that is not shown.
pub(in crate::rpc::v1) fn app(error: GetAppError) -> Refusal {
    match error {
        GetAppError::Denied(error) => denied(&error),
        GetAppError::None { error, near } => Refusal::new(ErrorReason::NotFoundApp, error.to_string())
            .hint(format!("{}`bpfctl list` shows apps", meant(near.as_ref().map(AppName::as_str)))),
    }
}

/// The name that was probably meant, as the beginning of a hint.
fn meant(near: Option<&str>) -> String {
    near.map(|near| format!("did you mean `{near}`? ")).unwrap_or_default()
}

/// A chain that is not shown.
pub(in crate::rpc::v1) fn look(error: &LookError) -> Refusal {
    let refusal = |reason| Refusal::new(reason, error.to_string());
    match error {
        LookError::NoNetns { near, .. } => refusal(ErrorReason::NoSuchNetns)
            .hint(format!("{}`ip netns` shows network namespaces that have a name", meant(near.as_deref()))),
        LookError::NoInterface { chain, near } => {
            let (near, show) = (meant(near.as_deref()), show_interfaces(chain));
            refusal(ErrorReason::NoSuchInterface).hint(format!("{near}`{show}` shows interfaces"))
        }
        LookError::Denied(error) => denied(error),
        LookError::Read(error) => read("cannot read the chain", error),
    }
}

/// A policy that is not changed; `message` says what was tried.
pub(in crate::rpc::v1) fn trust(message: String, error: &TrustError) -> Refusal {
    let refusal = |reason| Refusal::new(reason, message.clone()).cause(error_chain(error));
    match error {
        TrustError::File(_) => refusal(ErrorReason::InvalidPolicy),
        TrustError::Policy(_) => refusal(ErrorReason::InvalidPolicy)
            .hint("the previous policy stays in force; correct the file and try again"),
        TrustError::Name(_) | TrustError::Scope(_) => refusal(ErrorReason::InvalidRequest),
        TrustError::Key(_) => {
            refusal(ErrorReason::InvalidRequest).hint("`bpfctl keygen` makes a pair; the public half ends in `.pub`")
        }
        TrustError::NameTaken { .. } => {
            refusal(ErrorReason::NameTaken).hint("choose another name, or edit the file and reload")
        }
    }
}

fn verifier(rejected: &Rejected) -> Refusal {
    let Rejected { program, in_chain, tail, log_id, rejection } = rejected;
    let Rejection { message, instruction, function, location } = Rejection::clone(rejection);
    let why = message.unwrap_or_else(|| tail.clone());
    let chain = if *in_chain { IN_CHAIN } else { "" };
    let place = location.as_ref().map(|at| format!("{}:{}:{}: ", at.file, at.line, at.column)).unwrap_or_default();
    let words = explain(&why);
    let mut refusal =
        Refusal::new(ErrorReason::VerifierRejected, format!("the kernel's verifier rejected `{program}`{chain}"))
            .cause(format!("{place}{why}"));
    refusal.hint = words.map(|words| words.advice.to_owned());
    refusal.verifier(VerifierFailure {
        program: function.map_or_else(|| program.clone(), |(function, _)| function),
        instruction,
        file: location.as_ref().map(|at| at.file.clone()),
        line: location.as_ref().map(|at| at.line),
        column: location.as_ref().map(|at| at.column),
        source_line: location.map(|at| at.text),
        message: why,
        log_id: log_id.clone(),
        explanation: words.map(|words| words.means.to_owned()).unwrap_or_default(),
    })
}

/// What the engine refused, or failed at.
pub(in crate::rpc::v1) fn engine(message: &str, error: &EngineError) -> Refusal {
    match error {
        EngineError::Request(error) => request(message, error),
        EngineError::Denied(error) => denied(error),
        EngineError::Quota(over) => {
            let OverQuota { resource: _, limit, used, asked } = over;
            let refusal = Refusal::new(ErrorReason::ResourceExhausted, message).cause(over.to_string());
            let refusal = refusal.hint("unload or detach what you no longer need, or ask root to do this");
            refusal.fact("limit", limit.to_string()).fact("used", used.to_string()).fact("asked", asked.to_string())
        }
        EngineError::Plan(error) => plan(message, error, None),
        EngineError::Misspelt { error, near } => plan(message, error, Some(near)),
        EngineError::Execute(error) => execute(message, error),
        EngineError::Rejected(rejected) => verifier(rejected),
        EngineError::InTheWay { error, hint } => engine(message, error).hint(hint.clone()),
        EngineError::Observe(ObserveError { .. }) => {
            Refusal::new(ErrorReason::KernelError, message).cause(error_chain(error))
        }
        EngineError::Store(_) => Refusal::new(ErrorReason::ResourceExhausted, message).cause(error_chain(error)),
        EngineError::Reused(_) => Refusal::new(ErrorReason::RequestIdReused, message)
            .cause(error.to_string())
            .hint("use a new UUID for each request; use the same UUID only to repeat the same request"),
        EngineError::Repair(_) => Refusal::new(ErrorReason::KernelError, message).cause(error_chain(error)).hint(
            "the last operation was interrupted; `bpfctl doctor` shows what is inconsistent; \
                 a restart of bpfd tries to recover again",
        ),
        EngineError::StillRuns(_) => Refusal::new(ErrorReason::StillRuns, message)
            .cause(error.to_string())
            .hint("the next change and the next start of bpfd try again; `bpfctl doctor` lists what still runs"),
        EngineError::Busy(Full(_)) => busy(error),
        EngineError::Stopped => Refusal::new(ErrorReason::DaemonNotReady, message).cause(error.to_string()),
    }
}

/// As for calls that are refused before they are read.
fn busy(error: &EngineError) -> Refusal {
    Refusal::new(ErrorReason::ResourceExhausted, "bpfd takes no more requests from you now")
        .cause(error.to_string())
        .hint("try again when some of them have ended")
}

fn execute(message: &str, error: &ExecuteError) -> Refusal {
    let exhausted = |reason| Refusal::new(reason, message).cause(error_chain(error));
    match error {
        ExecuteError::Step(error) => step(message.to_owned(), error),
        ExecuteError::Store(_) => exhausted(ErrorReason::ResourceExhausted)
            .hint("nothing was changed; is the disk of /var/lib/bpfd full? `df /var/lib/bpfd`"),
        ExecuteError::Audit(_) => exhausted(ErrorReason::ResourceExhausted)
            .hint("nothing was changed; is the disk of /var/log/bpfd full? `df /var/log/bpfd`"),
        ExecuteError::Stuck { .. } => {
            exhausted(ErrorReason::KernelError).hint("`bpfctl doctor` shows what is inconsistent")
        }
    }
}

fn step(message: String, error: &StepError) -> Refusal {
    let refusal = |reason| Refusal::new(reason, message.clone()).cause(error_chain(error));
    match error {
        StepError::Verifier { .. } => refusal(ErrorReason::VerifierRejected),
        StepError::CannotFuse { .. } => refusal(ErrorReason::CannotFuse).hint(
            "in mode `fused` all programs of an interface are combined into one; \
             attach this program to an interface without other programs",
        ),
        StepError::Kept(_) => refusal(ErrorReason::ChainFull).hint(KEPT),
        StepError::NoInterface(_) => refusal(ErrorReason::NoSuchInterface),
        StepError::NoTarget(hook) => {
            let near = nearest_target(hook);
            refusal(no_target(hook)).hint(format!("{}{}", meant(near.as_deref()), hook.absent_hint()))
        }
        StepError::TargetRefused(hook) => refusal(no_target(hook)).hint(hook.absent_hint()),
        StepError::KernelLacks { .. } => refusal(ErrorReason::KernelLacks),
        StepError::Hook { why: _, hint } => refusal(ErrorReason::KernelError).hint(hint),
        StepError::Raced(_) => refusal(ErrorReason::ChainChanged).hint("try again"),
        StepError::Object { .. } => refusal(ErrorReason::InvalidObject),
        StepError::Call { .. } => refusal(ErrorReason::KernelError),
        StepError::Died => refusal(ErrorReason::Internal),
    }
}

fn request(message: &str, error: &RequestError) -> Refusal {
    let refusal = |reason| Refusal::new(reason, message).cause(error_chain(error));
    match error {
        RequestError::Change(error) => change(message, error),
        RequestError::Link(NoOneLink::None(_)) => refusal(ErrorReason::NotFoundLink).hint("`bpfctl list` shows links"),
        RequestError::Link(NoOneLink::Several { .. }) => {
            refusal(ErrorReason::InvalidRequest).hint("write the whole name, or the uid")
        }
        RequestError::WhichProgram { .. } => refusal(ErrorReason::AmbiguousProgram).hint("name one: `APP/FUNCTION`"),
        RequestError::NoProgram { .. } => refusal(ErrorReason::NoSuchProgram),
        RequestError::NoTarget { kind, .. } | RequestError::Target { source: BadTarget::Shared(kind), .. } => {
            let form = own::form(*kind).unwrap_or("its target");
            refusal(ErrorReason::InvalidRequest).hint(format!("name it: `{kind}` with {form}"))
        }
        RequestError::Target { source: BadTarget::Form { .. }, .. } => refusal(ErrorReason::InvalidRequest),
        RequestError::FixedTarget { fixed, .. } => refusal(ErrorReason::InvalidRequest).hint(format!(
            "load the object again with the other target, as in `bpfctl load … --name OTHER {} …`",
            fixed.kind()
        )),
        RequestError::Generation { .. } => {
            refusal(ErrorReason::GenerationMismatch).hint("the link was changed since you read it; read it again")
        }
        RequestError::ProceedOn { .. } => {
            refusal(ErrorReason::InvalidRequest).hint("leave the proceed-on set out: the hook's own applies")
        }
        RequestError::NoChain(_) => {
            refusal(ErrorReason::NotFoundChain).hint("`bpfctl chain list` shows chains with programs of bpfd's")
        }
        RequestError::NotPersistent(app) => {
            refusal(ErrorReason::InvalidRequest).hint(format!("`bpfctl persist {app}` keeps the app over reboots"))
        }
        RequestError::NothingToUpdate => refusal(ErrorReason::InvalidRequest),
    }
}

fn change(message: &str, error: &ChangeError) -> Refusal {
    let refusal = |reason| Refusal::new(reason, message).cause(error.to_string());
    match error {
        ChangeError::NameTaken(_) => {
            refusal(ErrorReason::NameTaken).hint("choose another `--name`, or omit it: bpfd then adds a number")
        }
        ChangeError::NoApp(_) => refusal(ErrorReason::NotFoundApp).hint("`bpfctl list` shows apps"),
        ChangeError::NoProgram { .. } => refusal(ErrorReason::NoSuchProgram),
        ChangeError::NoLink(_) => refusal(ErrorReason::NotFoundLink).hint("`bpfctl list` shows links"),
        ChangeError::NotInChain(_) => refusal(ErrorReason::InvalidRequest),
        ChangeError::Attached { .. } => {
            refusal(ErrorReason::InUse).hint("load it again under another `--name` to run it there twice")
        }
        ChangeError::WrongType { .. } => refusal(ErrorReason::WrongProgramType),
    }
}

/// A failure of reading the kernel for a reader.
pub(in crate::rpc::v1) fn read(message: &str, error: &ReadError) -> Refusal {
    match error {
        ReadError::Engine(error) => engine(message, error),
        ReadError::Observe(error) => {
            Refusal::new(ErrorReason::KernelError, "cannot read the kernel").cause(error_chain(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::*;
    use crate::turns::{Line, Turns};

    #[test]
    fn a_user_with_too_many_requests_is_told_so() {
        let mut turns = Turns::<()>::default();
        let full = std::iter::from_fn(|| Some(turns.enter(Line::User(7)))).find_map(Result::err).unwrap();
        let status = Status::from(engine("cannot attach `a`", &full.into()));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "bpfd takes no more requests from you now");
    }
}
