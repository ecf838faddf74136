//! Errors on the wire: a [`Refusal`] becomes a gRPC status with google.rpc details, and is read back from one.
//! It must never send a status over [`STATUS_LIMIT`]: HTTP/2 peers drop larger headers, and the error with them.

use std::collections::BTreeMap;

use prost::{Message, Name as _};
use prost_types::Any;
use tonic::{Code as TonicCode, Status};
use tonic_types::pb;

use crate::ERROR_DOMAIN;
use crate::reason::{Code, Exit};
use crate::v1::{ErrorReason, VerifierFailure};

/// Bytes that a status may take in the trailers, encoded. The usual limit on all headers together is 16 KiB.
pub const STATUS_LIMIT: usize = 4096;

// Limits on the texts, in bytes of UTF-8, so that the largest status stays below STATUS_LIMIT: the message is sent
// twice, once percent-encoded (three bytes for one at worst), and the details are base64 (four for three).
const MESSAGE: usize = 250;
const CAUSE: usize = 500;
const HINT: usize = 500;
const VERIFIER_TEXT: usize = 150;
const NAME: usize = 100;

const ERROR_INFO_URL: &str = "type.googleapis.com/google.rpc.ErrorInfo";

/// One refusal, as the user is to see it: error, cause, hint.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Why, for machines. Decides the code.
    pub reason: ErrorReason,
    /// What could not be done: lower case, no full stop, literals in backticks.
    pub message: String,
    /// Why, for people.
    pub cause: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// Further facts by key (`limit`, `field`, `users`, …). Left out if the status would be too large.
    pub facts: BTreeMap<String, String>,
    /// For [`ErrorReason::VerifierRejected`].
    pub verifier: Option<VerifierFailure>,
}

impl Refusal {
    /// With nothing but what and why.
    pub fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), cause: None, hint: None, facts: BTreeMap::new(), verifier: None }
    }

    /// Adds why.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a fact under a key of its own; `cause` and `hint` have their own methods.
    #[must_use]
    pub fn fact(mut self, key: &str, value: impl Into<String>) -> Self {
        self.facts.insert(key.to_owned(), value.into());
        self
    }

    /// Adds where the verifier stopped.
    #[must_use]
    pub fn verifier(mut self, failure: VerifierFailure) -> Self {
        self.verifier = Some(failure);
        self
    }

    /// The status to send.
    pub fn into_status(self) -> Status {
        let code = self.reason.code();
        let message = clip(self.message, MESSAGE);
        let mut info = BTreeMap::new();
        if let Some(cause) = self.cause {
            info.insert("cause".to_owned(), clip(cause, CAUSE));
        }
        if let Some(hint) = self.hint {
            info.insert("hint".to_owned(), clip(hint, HINT));
        }
        let verifier = self.verifier.map(clip_verifier);
        let encode = |info: &BTreeMap<String, String>| {
            let mut details = vec![error_info(self.reason, info)];
            details.extend(verifier.as_ref().map(|failure| any(VerifierFailure::type_url(), failure)));
            pb::Status { code: code.number(), message: message.clone(), details }.encode_to_vec()
        };
        let mut details = encode(&info);
        for (key, value) in self.facts {
            if info.contains_key(&key) {
                continue;
            }
            info.insert(key.clone(), value);
            let more = encode(&info);
            if wire_size(&message, &more) > STATUS_LIMIT {
                info.remove(&key);
            } else {
                details = more;
            }
        }
        Status::with_details(tonic_code(code), message, details.into())
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        refusal.into_status()
    }
}

/// What a client reads from a status: [`Refusal`] of any daemon, also of one that is newer, or none of bpfd's.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The gRPC code's number.
    pub code: TonicCode,
    /// `ErrorInfo.reason` as sent; `None` if the status has none of bpfd's.
    pub reason: Option<String>,
    /// What could not be done.
    pub message: String,
    /// Why.
    pub cause: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// Further facts.
    pub facts: BTreeMap<String, String>,
    /// Where the verifier stopped.
    pub verifier: Option<VerifierFailure>,
}

impl Answer {
    /// Reads a status. Details that do not decode are as good as absent: the code and the message still count.
    pub fn of(status: &Status) -> Self {
        let mut answer = Self {
            code: status.code(),
            reason: None,
            message: status.message().to_owned(),
            cause: None,
            hint: None,
            facts: BTreeMap::new(),
            verifier: None,
        };
        let Ok(rich) = pb::Status::decode(status.details()) else { return answer };
        for detail in rich.details {
            if detail.type_url == ERROR_INFO_URL {
                let Ok(info) = pb::ErrorInfo::decode(detail.value.as_slice()) else { continue };
                if info.domain != ERROR_DOMAIN {
                    continue;
                }
                answer.reason = Some(info.reason);
                answer.facts = info.metadata.into_iter().collect();
                answer.cause = answer.facts.remove("cause");
                answer.hint = answer.facts.remove("hint");
            } else if detail.type_url == VerifierFailure::type_url() {
                answer.verifier = VerifierFailure::decode(detail.value.as_slice()).ok();
            }
        }
        answer
    }

    /// The reason, if this version knows it.
    pub fn known_reason(&self) -> Option<ErrorReason> {
        self.reason.as_deref().and_then(ErrorReason::from_word)
    }

    /// What bpfctl exits with: by the reason, else by the code.
    pub fn exit(&self) -> Exit {
        match self.known_reason() {
            Some(reason) => reason.exit(),
            None => code_of(self.code).map_or(Exit::Other, Code::exit),
        }
    }
}

/// For refusals that a client makes itself, such as "the daemon cannot be reached".
impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let Refusal { reason, message, cause, hint, facts, verifier } = refusal;
        let code = tonic_code(reason.code());
        Self { code, reason: Some(reason.word().to_owned()), message, cause, hint, facts, verifier }
    }
}

fn error_info(reason: ErrorReason, metadata: &BTreeMap<String, String>) -> Any {
    let info = pb::ErrorInfo {
        reason: reason.word().to_owned(),
        domain: ERROR_DOMAIN.to_owned(),
        metadata: metadata.clone().into_iter().collect(),
    };
    any(ERROR_INFO_URL.to_owned(), &info)
}

fn any(type_url: String, message: &impl Message) -> Any {
    Any { type_url, value: message.encode_to_vec() }
}

/// Bytes of the two trailers at worst: `grpc-message` percent-encoded and `grpc-status-details-bin` in base64.
fn wire_size(message: &str, details: &[u8]) -> usize {
    message.len() * 3 + details.len().div_ceil(3) * 4
}

fn clip_verifier(failure: VerifierFailure) -> VerifierFailure {
    let VerifierFailure { program, instruction, file, line, column, source_line, message, log_id, explanation } =
        failure;
    VerifierFailure {
        program: clip(program, NAME),
        instruction,
        file: file.map(|file| clip(file, NAME)),
        line,
        column,
        source_line: source_line.map(|text| clip(text, VERIFIER_TEXT)),
        message: clip(message, 2 * VERIFIER_TEXT),
        log_id: clip(log_id, NAME),
        explanation: clip(explanation, VERIFIER_TEXT),
    }
}

/// Cuts to `limit` bytes with `…` at the end, never within a character.
fn clip(mut text: String, limit: usize) -> String {
    const MARK: &str = "…";
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit - MARK.len()));
        text.push_str(MARK);
    }
    text
}

fn tonic_code(code: Code) -> TonicCode {
    TonicCode::from(code.number())
}

fn code_of(code: TonicCode) -> Option<Code> {
    match code {
        TonicCode::Cancelled => Some(Code::Cancelled),
        TonicCode::Unknown => Some(Code::Unknown),
        TonicCode::InvalidArgument => Some(Code::InvalidArgument),
        TonicCode::DeadlineExceeded => Some(Code::DeadlineExceeded),
        TonicCode::NotFound => Some(Code::NotFound),
        TonicCode::AlreadyExists => Some(Code::AlreadyExists),
        TonicCode::PermissionDenied => Some(Code::PermissionDenied),
        TonicCode::ResourceExhausted => Some(Code::ResourceExhausted),
        TonicCode::FailedPrecondition => Some(Code::FailedPrecondition),
        TonicCode::Aborted => Some(Code::Aborted),
        TonicCode::Unimplemented => Some(Code::Unimplemented),
        TonicCode::Internal => Some(Code::Internal),
        TonicCode::Unavailable => Some(Code::Unavailable),
        TonicCode::DataLoss => Some(Code::DataLoss),
        TonicCode::Ok | TonicCode::OutOfRange | TonicCode::Unauthenticated => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason;

    fn full() -> Refusal {
        Refusal::new(ErrorReason::VerifierRejected, "the kernel's verifier rejected `pass`")
            .cause("invalid access to packet")
            .hint("compare with `data_end` first")
            .fact("section", "xdp")
            .verifier(VerifierFailure {
                program: "pass".into(),
                instruction: Some(4),
                file: Some("bad.c".into()),
                line: Some(11),
                column: Some(9),
                source_line: Some("if (e->proto == 8)".into()),
                message: "invalid access to packet".into(),
                log_id: "7f3a".into(),
                explanation: "the bytes may be behind the packet's end".into(),
            })
    }

    #[test]
    fn a_refusal_comes_back_whole() {
        let answer = Answer::of(&full().into_status());
        let Refusal { reason, message, cause, hint, facts, verifier } = full();
        let expected = Answer {
            code: TonicCode::FailedPrecondition,
            reason: Some(reason.word().to_owned()),
            message,
            cause,
            hint,
            facts,
            verifier,
        };
        assert_eq!(answer, expected);
        assert_eq!(answer.exit(), Exit::Verifier);
    }

    #[test]
    fn every_reason_arrives_with_its_code_and_exit() {
        for reason in reason::all() {
            let answer = Answer::of(&Refusal::new(reason, "no").into_status());
            assert_eq!(answer.known_reason(), Some(reason));
            assert_eq!(code_of(answer.code), Some(reason.code()));
            assert_eq!(answer.exit(), reason.exit());
        }
    }

    #[test]
    fn the_largest_refusal_stays_within_the_limit_and_keeps_its_hint() {
        let long = "é".repeat(100_000);
        let mut refusal = full().cause(&long).hint(&long).fact("big", &long).fact("small", "x");
        refusal.message = long.clone();
        refusal.verifier = Some(VerifierFailure {
            program: long.clone(),
            instruction: Some(u32::MAX),
            file: Some(long.clone()),
            line: Some(u32::MAX),
            column: Some(u32::MAX),
            source_line: Some(long.clone()),
            message: long.clone(),
            log_id: long.clone(),
            explanation: long,
        });
        let status = refusal.into_status();
        assert!(wire_size(status.message(), status.details()) <= STATUS_LIMIT);
        let answer = Answer::of(&status);
        assert_eq!(answer.hint.map(|hint| hint.len()), Some(HINT - 1));
        assert!(answer.verifier.is_some());
        assert_eq!(answer.facts.keys().collect::<Vec<_>>(), ["section", "small"]);
    }

    #[test]
    fn a_status_of_somebody_else_is_read_by_its_code() {
        let answer = Answer::of(&Status::with_details(TonicCode::NotFound, "no", b"junk".as_slice().into()));
        assert_eq!((answer.reason.as_deref(), answer.exit()), (None, Exit::NotFound));
    }
}
