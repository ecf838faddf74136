//! The one table of error reasons: what each is called on the wire, its gRPC code, and what bpfctl exits with.
//! Codes and exit codes are picked here and nowhere else; a new reason does not compile without both.

use crate::v1::ErrorReason;

/// gRPC status codes that bpfd sends, with their numbers on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Code {
    /// The caller went away.
    Cancelled = 1,
    /// Something without a better name.
    Unknown = 2,
    /// The request is wrong whatever the state of the system.
    InvalidArgument = 3,
    /// It took too long.
    DeadlineExceeded = 4,
    /// What the request names does not exist.
    NotFound = 5,
    /// What the request makes exists.
    AlreadyExists = 6,
    /// This caller may not.
    PermissionDenied = 7,
    /// A quota or a disk is full.
    ResourceExhausted = 8,
    /// Not in the present state of the system.
    FailedPrecondition = 9,
    /// Somebody else was faster; trying again may help.
    Aborted = 10,
    /// This daemon does not have that call.
    Unimplemented = 12,
    /// A defect, or a failure nobody expects.
    Internal = 13,
    /// Nobody answers.
    Unavailable = 14,
    /// Bytes are not what their digest says.
    DataLoss = 15,
}

/// What bpfctl exits with, documented in `bpfctl(1)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// None of the others.
    Other = 1,
    /// The command line or a value in it is wrong.
    Usage = 2,
    /// No such app, link, image, interface, program, tag.
    NotFound = 3,
    /// Policy or permissions forbid it.
    Denied = 4,
    /// The kernel's verifier refused the program.
    Verifier = 5,
    /// A signature is missing or wrong, or bytes do not have their digest.
    Signature = 6,
    /// The daemon cannot be reached.
    Unreachable = 7,
    /// Name taken, chain full, foreign program, still in use.
    Conflict = 8,
    /// The registry or the network.
    Registry = 9,
    /// It took too long.
    Timeout = 10,
    /// The kernel, or the daemon's capabilities, lack what it takes.
    Kernel = 11,
    /// `doctor` found something that is not as it should be.
    Drift = 12,
}

impl Exit {
    /// The number that the process exits with.
    #[expect(clippy::as_conversions, reason = "a fieldless enum of repr(u8): the cast is its discriminant")]
    pub fn number(self) -> u8 {
        self as u8
    }
}

impl Code {
    /// The number on the wire.
    #[expect(clippy::as_conversions, reason = "a fieldless enum of repr(i32): the cast is its discriminant")]
    pub fn number(self) -> i32 {
        self as i32
    }

    /// What bpfctl exits with when the reason says nothing: it is missing, or newer than this client.
    pub fn exit(self) -> Exit {
        match self {
            Code::InvalidArgument => Exit::Usage,
            Code::NotFound => Exit::NotFound,
            Code::PermissionDenied => Exit::Denied,
            Code::DataLoss => Exit::Signature,
            Code::Unavailable => Exit::Unreachable,
            Code::AlreadyExists | Code::Aborted => Exit::Conflict,
            Code::DeadlineExceeded => Exit::Timeout,
            Code::Cancelled
            | Code::Unknown
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Unimplemented
            | Code::Internal => Exit::Other,
        }
    }
}

impl ErrorReason {
    /// As it travels in `ErrorInfo.reason`: `NAME_TAKEN`.
    pub fn word(self) -> &'static str {
        let name = self.as_str_name();
        name.strip_prefix(PREFIX).unwrap_or(name)
    }

    /// The reason of that word, if this version knows it.
    pub fn from_word(word: &str) -> Option<Self> {
        match Self::from_str_name(&format!("{PREFIX}{word}")) {
            Some(Self::Unspecified) | None => None,
            Some(reason) => Some(reason),
        }
    }

    /// The gRPC code that every error of this reason has.
    pub fn code(self) -> Code {
        self.row().0
    }

    /// What bpfctl exits with.
    pub fn exit(self) -> Exit {
        self.row().1
    }

    /// The table.
    fn row(self) -> (Code, Exit) {
        use ErrorReason as R;
        match self {
            R::Unspecified => (Code::Unknown, Exit::Other),

            R::InvalidRequest => (Code::InvalidArgument, Exit::Usage),
            R::InvalidReference => (Code::InvalidArgument, Exit::Usage),
            R::InvalidObject => (Code::InvalidArgument, Exit::Other),
            R::NoSuchSection => (Code::InvalidArgument, Exit::NotFound),
            R::NoSuchProgram => (Code::InvalidArgument, Exit::NotFound),
            R::AmbiguousProgram => (Code::InvalidArgument, Exit::Usage),
            R::WrongProgramType => (Code::InvalidArgument, Exit::Usage),
            R::NoSuchGlobal => (Code::InvalidArgument, Exit::NotFound),
            R::NoSuchMap => (Code::InvalidArgument, Exit::NotFound),
            R::MapMismatch => (Code::FailedPrecondition, Exit::Conflict),
            R::WrongMapType => (Code::InvalidArgument, Exit::Usage),
            R::InvalidElement => (Code::InvalidArgument, Exit::Usage),
            R::NotPinnedByName => (Code::FailedPrecondition, Exit::Other),
            R::InvalidGlobal => (Code::InvalidArgument, Exit::Usage),
            R::LimitExceeded => (Code::InvalidArgument, Exit::Usage),

            R::NotFoundApp => (Code::NotFound, Exit::NotFound),
            R::NotFoundLink => (Code::NotFound, Exit::NotFound),
            R::NotFoundImage => (Code::NotFound, Exit::NotFound),
            R::NotFoundObject => (Code::NotFound, Exit::NotFound),
            R::NotFoundLog => (Code::NotFound, Exit::NotFound),
            R::NoSuchInterface => (Code::NotFound, Exit::NotFound),
            R::NoSuchNetns => (Code::NotFound, Exit::NotFound),
            R::NoSuchTracepoint => (Code::NotFound, Exit::NotFound),
            R::NoSuchKernelFunction => (Code::NotFound, Exit::NotFound),
            R::NotFoundElement => (Code::NotFound, Exit::NotFound),
            R::NotFoundChain => (Code::NotFound, Exit::NotFound),

            R::PolicyDenied => (Code::PermissionDenied, Exit::Denied),
            R::ReachDenied => (Code::PermissionDenied, Exit::Denied),
            R::SocketDenied => (Code::PermissionDenied, Exit::Denied),

            R::VerifierRejected => (Code::FailedPrecondition, Exit::Verifier),

            R::SignatureRequired => (Code::FailedPrecondition, Exit::Signature),
            R::SignatureInvalid => (Code::FailedPrecondition, Exit::Signature),
            R::ImageNotTrusted => (Code::FailedPrecondition, Exit::Signature),
            R::DigestMismatch => (Code::DataLoss, Exit::Signature),
            R::DigestRequired => (Code::FailedPrecondition, Exit::Signature),

            R::NameTaken => (Code::AlreadyExists, Exit::Conflict),
            R::ChainFull => (Code::FailedPrecondition, Exit::Conflict),
            R::ForeignProgram => (Code::FailedPrecondition, Exit::Conflict),
            R::ChainChanged => (Code::Aborted, Exit::Conflict),
            R::GenerationMismatch => (Code::Aborted, Exit::Conflict),
            R::InUse => (Code::FailedPrecondition, Exit::Conflict),
            R::CannotFuse => (Code::FailedPrecondition, Exit::Conflict),
            R::RequestIdReused => (Code::AlreadyExists, Exit::Conflict),
            R::ModeConflict => (Code::FailedPrecondition, Exit::Conflict),
            R::StateRecovered => (Code::FailedPrecondition, Exit::Conflict),
            R::ElementExists => (Code::AlreadyExists, Exit::Conflict),
            R::MapProtected => (Code::FailedPrecondition, Exit::Denied),
            R::MapFull => (Code::ResourceExhausted, Exit::Conflict),
            R::StillRuns => (Code::FailedPrecondition, Exit::Conflict),

            R::RegistryUnreachable => (Code::Unavailable, Exit::Registry),
            R::RegistryDenied => (Code::FailedPrecondition, Exit::Registry),
            R::RegistryNotFound => (Code::NotFound, Exit::NotFound),
            R::RegistryRedirect => (Code::FailedPrecondition, Exit::Registry),
            R::RegistryInvalid => (Code::FailedPrecondition, Exit::Registry),
            R::InvalidImage => (Code::FailedPrecondition, Exit::Other),
            R::LabelMismatch => (Code::FailedPrecondition, Exit::Other),
            R::NoPlatform => (Code::FailedPrecondition, Exit::NotFound),

            R::KernelLacks => (Code::FailedPrecondition, Exit::Kernel),
            R::CapabilityMissing => (Code::FailedPrecondition, Exit::Kernel),
            R::KernelError => (Code::Internal, Exit::Other),

            R::DaemonUnreachable => (Code::Unavailable, Exit::Unreachable),
            R::DaemonNotReady => (Code::Unavailable, Exit::Unreachable),
            R::ResourceExhausted => (Code::ResourceExhausted, Exit::Other),
            R::Timeout => (Code::DeadlineExceeded, Exit::Timeout),
            R::Cancelled => (Code::Cancelled, Exit::Other),
            R::InvalidPolicy => (Code::FailedPrecondition, Exit::Usage),
            R::Internal => (Code::Internal, Exit::Other),
        }
    }
}

const PREFIX: &str = "ERROR_REASON_";

/// Every reason but the unspecified one, in the order of its number.
pub fn all() -> impl Iterator<Item = ErrorReason> {
    (1..=LAST).filter_map(|number| ErrorReason::try_from(number).ok())
}

/// Numbers of reasons are below this; a test compares with the `.proto` file.
const LAST: i32 = 199;

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    /// The enum as the `.proto` file has it: (name, number, first comment line's code).
    fn declared() -> Vec<(String, i32)> {
        let set = prost_types::FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).unwrap();
        let file = set.file.iter().find(|file| file.name() == "bpfd/v1/error.proto").unwrap();
        let values = &file.enum_type.iter().find(|item| item.name() == "ErrorReason").unwrap().value;
        values.iter().map(|value| (value.name().to_owned(), value.number())).collect()
    }

    #[test]
    fn every_declared_reason_is_listed_and_comes_back_from_its_word() {
        let declared: Vec<_> = declared().into_iter().skip(1).map(|(name, _)| name).collect();
        let listed: Vec<_> = all().map(|reason| format!("{PREFIX}{}", reason.word())).collect();
        assert_eq!(declared, listed);
        for reason in all() {
            assert_eq!(ErrorReason::from_word(reason.word()), Some(reason));
        }
        assert_eq!(ErrorReason::from_word("UNSPECIFIED"), None);
        assert_eq!(ErrorReason::from_word("OF_A_NEWER_DAEMON"), None);
    }

    /// The comment on each value begins with its code; a reader of the `.proto` file must not be misled.
    #[test]
    fn the_proto_comments_name_the_codes_of_the_table() {
        let source = include_str!("../bpfd/v1/error.proto");
        let mut code = String::new();
        let mut seen = 0;
        for line in source.lines().map(str::trim) {
            if let Some((word, _)) = line.strip_prefix("// ").and_then(|comment| comment.split_once(": ")) {
                if word.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
                    code = word.to_owned();
                }
            } else if let Some((name, _)) = line.strip_prefix(PREFIX).and_then(|rest| rest.split_once(" = ")) {
                let Some(reason) = ErrorReason::from_word(name) else { continue };
                assert_eq!(code, screaming(&format!("{:?}", reason.code())), "{name}");
                seen += 1;
            }
        }
        assert_eq!(seen, all().count());
    }

    fn screaming(camel: &str) -> String {
        let mut out = String::new();
        for c in camel.chars() {
            if c.is_ascii_uppercase() && !out.is_empty() {
                out.push('_');
            }
            out.push(c.to_ascii_uppercase());
        }
        out
    }

    #[test]
    fn exit_numbers_are_those_of_the_manual() {
        let numbers: Vec<u8> = [
            Exit::Ok,
            Exit::Other,
            Exit::Usage,
            Exit::NotFound,
            Exit::Denied,
            Exit::Verifier,
            Exit::Signature,
            Exit::Unreachable,
            Exit::Conflict,
            Exit::Registry,
            Exit::Timeout,
            Exit::Kernel,
            Exit::Drift,
        ]
        .into_iter()
        .map(Exit::number)
        .collect();
        assert_eq!(numbers, (0..=12).collect::<Vec<u8>>());
    }
}
