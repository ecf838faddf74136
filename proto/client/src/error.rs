//! What goes wrong in a call, in the daemon's words. It must never lose a hint, nor invent one.

use std::error::Error;
use std::fmt;
use std::io;

use bpfd_proto::reason::Exit;
use bpfd_proto::status::{Answer, Refusal};
use bpfd_proto::v1::ErrorReason;
use tonic::Status;

/// A refusal of the daemon, or of the way to it. `Display` is the message alone; cause and hint are beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientError(Box<Answer>);

impl ClientError {
    /// Reason, message, cause, hint, facts, and where the verifier stopped.
    pub fn answer(&self) -> &Answer {
        &self.0
    }

    /// The reason, if this version knows it.
    pub fn reason(&self) -> Option<ErrorReason> {
        self.0.known_reason()
    }

    /// What a command line should exit with.
    pub fn exit(&self) -> Exit {
        self.0.exit()
    }

    pub(crate) fn transport(error: tonic::transport::Error) -> Self {
        let cause = innermost(&error);
        let refusal = Refusal::new(ErrorReason::DaemonUnreachable, "cannot talk to bpfd").cause(cause.to_string());
        let closed = cause.downcast_ref::<io::Error>().is_some_and(|error| {
            let kinds = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset, io::ErrorKind::UnexpectedEof];
            kinds.contains(&error.kind())
        });
        Self::from(match closed {
            true => refusal
                .hint("bpfd closed the connection: it has too many of your user, or stops; its journal says which"),
            false => refusal,
        })
    }

    pub(crate) fn no_result() -> Self {
        Self::from(
            Refusal::new(ErrorReason::Internal, "the daemon's answer ended early")
                .cause("the stream had no result")
                .hint("check the result with `bpfctl list`, and the daemon's journal for the cause"),
        )
    }

    pub(crate) fn endless_list() -> Self {
        Self::from(Refusal::new(ErrorReason::Internal, "the daemon's list does not end"))
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl Error for ClientError {}

impl From<Refusal> for ClientError {
    fn from(refusal: Refusal) -> Self {
        Self(Box::new(refusal.into()))
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        let answer = Answer::of(&status);
        // A status that came over the wire has no source: one with a source is the connection's own failure.
        match status.source() {
            Some(source) if answer.reason.is_none() => Self::from(
                Refusal::new(ErrorReason::DaemonUnreachable, "the connection to bpfd broke")
                    .cause(innermost(source).to_string())
                    .hint("check the result with `bpfctl list`, and the daemon's journal for the cause"),
            ),
            _ => Self(Box::new(answer)),
        }
    }
}

/// The last error of the chain: the outer ones of a transport only say "transport error".
fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last
}
