//! Errors of images, as callers see them.

use std::error::Error;

use bpfd_core::names::printable;
use bpfd_policy::scope::Scope;
use bpfd_proto::status::Refusal;
use bpfd_proto::v1::ErrorReason;
use bytecode_image::archive::ArchiveError;
use bytecode_image::label::LabelError;
use bytecode_image::resolve::ResolveError;
use bytecode_image::store::StoreError;
use bytecode_image::verify;

use crate::causes::error_chain;
use crate::images::ImageError;
use crate::waiter::GivenUp;
use crate::worker::fetch::{FetchFailure, reason_of};
use crate::worker::parse::ParseError;

/// An error of an image as what was tried.
pub(in crate::rpc::v1) fn image(verb: &str, image: &str, error: ImageError) -> Refusal {
    let Refusal { reason, message, cause, hint, facts, verifier } = Refusal::from(error);
    let cause = cause.map_or(message.clone(), |cause| format!("{message}: {cause}"));
    let message = format!("cannot {verb} `{}`", printable(image));
    Refusal { reason, message, cause: Some(cause), hint, facts, verifier }
}

impl From<ImageError> for Refusal {
    fn from(error: ImageError) -> Self {
        let text = error.to_string();
        let refusal = |reason| {
            let refusal = Self::new(reason, text.clone());
            match error.source() {
                Some(source) => refusal.cause(error_chain(source)),
                None => refusal,
            }
        };
        match &error {
            ImageError::Reference(_) => refusal(ErrorReason::InvalidReference),
            ImageError::Denied(denied) => super::denied(denied),
            ImageError::NotCovered(reference) => {
                Self::new(ErrorReason::ImageNotTrusted, text).cause(verify::Reason::NoScope.to_string()).hint(format!(
                    "ask root to trust its signer: `bpfctl trust add NAME --key FILE --scope {}`",
                    Scope::of_repository(reference)
                ))
            }
            ImageError::Registries(_) => {
                refusal(ErrorReason::InvalidPolicy).hint("correct the file; bpfd reads it at each pull")
            }
            ImageError::Fetch(failure) => fetch(failure),
            ImageError::Refused(refused) => policy(refused),
            ImageError::Downgrade(older) => refusal(ErrorReason::ImageNotTrusted).hint(older.hint()),
            ImageError::Worker(_) | ImageError::OtherName { .. } | ImageError::Ingest(_) | ImageError::Lost => {
                refusal(ErrorReason::Internal)
            }
            ImageError::Timeout => refusal(ErrorReason::Timeout),
            ImageError::GivenUp(why) => refusal(given_up(*why)),
            ImageError::Store(store) => stored(store, refusal),
            ImageError::NotStored(_) => refusal(ErrorReason::NotFoundImage)
                .hint("`bpfctl image ls` lists the stored images; `bpfctl image pull REFERENCE` adds one"),
            ImageError::Label(LabelError::Schema(_)) => refusal(ErrorReason::InvalidImage),
            ImageError::Unpack(_) | ImageError::Config(_) | ImageError::Label(_) => {
                refusal(ErrorReason::InvalidImage).hint("build it with `bpfctl image build`")
            }
            ImageError::Mismatch(_) => refusal(ErrorReason::LabelMismatch)
                .hint("the image must be rebuilt: `bpfctl image build` takes the labels from the object"),
            ImageError::Parse(parse) => match parse {
                ParseError::Refused(_) | ParseError::NoType(_) | ParseError::Died { .. } => {
                    refusal(ErrorReason::InvalidObject)
                }
                ParseError::TooSlow(_) | ParseError::OutOfTime(_) => refusal(ErrorReason::Timeout),
                ParseError::Worker(_) => refusal(ErrorReason::Internal),
            },
            ImageError::Archive(archive) => archived(archive, refusal),
            ImageError::Upload { .. } => {
                refusal(ErrorReason::ResourceExhausted).hint("is the disk of /var/lib/bpfd full? `df /var/lib/bpfd`")
            }
            ImageError::NobodyVouches(_) | ImageError::MovesName { .. } => {
                refusal(ErrorReason::PolicyDenied).hint("ask root to do it, or pull the image from its registry")
            }
            ImageError::Object(_) => {
                refusal(ErrorReason::ResourceExhausted).hint("is the disk of /var/lib/bpfd full? `df /var/lib/bpfd`")
            }
            ImageError::InUse { reference: _, users } => refusal(ErrorReason::InUse)
                .hint(format!("unload first: `bpfctl unload {}`", users.join(" ")))
                .fact("users", users.join(",")),
        }
    }
}

fn archived(error: &ArchiveError, refusal: impl Fn(ErrorReason) -> Refusal) -> Refusal {
    match error {
        ArchiveError::Digest { .. } => {
            refusal(ErrorReason::DigestMismatch).hint("the archive is damaged: make it again")
        }
        ArchiveError::Truncated(_) | ArchiveError::NoEnd | ArchiveError::Size { .. } | ArchiveError::Missing(_) => {
            refusal(ErrorReason::InvalidImage).hint("the archive is incomplete: make it again")
        }
        ArchiveError::Compressed(kind) => {
            refusal(ErrorReason::InvalidImage).hint(format!("decompress it first, with `{kind} -d`"))
        }
        ArchiveError::Name { .. } | ArchiveError::Unnamed => refusal(ErrorReason::InvalidReference)
            .hint("name its image: `bpfctl image import FILE --tag HOST/REPOSITORY:TAG`"),
        ArchiveError::OneName(_) => {
            refusal(ErrorReason::InvalidReference).hint("leave out `--tag`, or make an archive of one image")
        }
        ArchiveError::Unknown => refusal(ErrorReason::InvalidImage)
            .hint("`bpfctl image export`, `skopeo copy IMAGE oci-archive:FILE` and `docker save` write archives"),
        ArchiveError::Resolve(ResolveError::NoPlatform { .. }) => refusal(ErrorReason::NoPlatform),
        ArchiveError::Ingest(source) if source.kind() == std::io::ErrorKind::StorageFull => {
            refusal(ErrorReason::ResourceExhausted).hint("the disk of /var/lib/bpfd is full: `df /var/lib/bpfd`")
        }
        ArchiveError::Ingest(_) | ArchiveError::Read(_) | ArchiveError::Canonical(_) => refusal(ErrorReason::Internal),
        ArchiveError::Length(_) => refusal(ErrorReason::LimitExceeded),
        ArchiveError::NotWhatWasVerified { .. } => refusal(ErrorReason::Internal),
        _ => refusal(ErrorReason::InvalidImage),
    }
}

pub(super) fn given_up(why: GivenUp) -> ErrorReason {
    match why {
        GivenUp::Left => ErrorReason::Cancelled,
        GivenUp::Stopping => ErrorReason::DaemonNotReady,
    }
}

fn fetch(failure: &FetchFailure) -> Refusal {
    let FetchFailure { reason, what, cause, hint, refused: _, resolved: _ } = failure;
    let mut refusal = Refusal::new(*reason, what);
    refusal.cause = (!cause.is_empty()).then(|| cause.clone());
    refusal.hint = hint.clone();
    refusal
}

fn policy(refused: &verify::Refusal) -> Refusal {
    let refusal = Refusal::new(reason_of(&refused.reason), refused.to_string());
    refusal.cause(error_chain(&refused.reason)).hint(refused.hint())
}

fn stored(error: &StoreError, refusal: impl Fn(ErrorReason) -> Refusal) -> Refusal {
    match error {
        StoreError::NotFound(_) => refusal(ErrorReason::NotFoundImage).hint("`bpfctl image pull REFERENCE` fetches it"),
        StoreError::Corrupt(_) | StoreError::NotWhatItSays { .. } => refusal(ErrorReason::DigestMismatch)
            .hint("pull it again with `bpfctl image pull REFERENCE`, and check the disk for errors"),
        StoreError::Missing(_) => {
            refusal(ErrorReason::NotFoundImage).hint("pull it again with `bpfctl image pull REFERENCE`")
        }
        StoreError::Resolve(ResolveError::NoPlatform { .. }) => refusal(ErrorReason::NoPlatform),
        StoreError::Resolve(_) | StoreError::Document(_) | StoreError::TooLarge { .. } | StoreError::Parts(_) => {
            refusal(ErrorReason::InvalidImage)
        }
        StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            refusal(ErrorReason::ResourceExhausted).hint("the disk of /var/lib/bpfd is full: `df /var/lib/bpfd`")
        }
        StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::FileTooLarge => {
            refusal(ErrorReason::ResourceExhausted)
                .hint("`bpfctl image ls` lists the stored images; `bpfctl image rm` removes them")
        }
        StoreError::Io { .. } | StoreError::NotALayout(_) | StoreError::Index(_) | StoreError::Releases { .. } => {
            refusal(ErrorReason::Internal)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: ErrorReason) -> Refusal {
        let (what, cause) = ("cannot resolve `r.example/a:b`".to_owned(), "cannot reach `r.example:443`".to_owned());
        let hint = Some("do this".to_owned());
        Refusal::from(ImageError::from(FetchFailure { reason, what, cause, hint, refused: None, resolved: true }))
    }

    #[test]
    fn a_failed_pull_keeps_its_reason_cause_and_hint() {
        let refusal = refused(ErrorReason::RegistryUnreachable);
        assert_eq!(refusal.reason, ErrorReason::RegistryUnreachable);
        assert_eq!(refusal.message, "cannot resolve `r.example/a:b`");
        assert_eq!(refusal.cause.as_deref(), Some("cannot reach `r.example:443`"));
        assert_eq!(refusal.hint.as_deref(), Some("do this"));
    }

    #[test]
    fn an_image_that_is_not_stored_is_not_found() {
        let refusal = Refusal::from(ImageError::NotStored("r.example/a:b".to_owned()));
        assert_eq!(refusal.reason, ErrorReason::NotFoundImage);
        assert_eq!(refusal.message, "the image store has no `r.example/a:b`");
    }

    #[test]
    fn what_was_tried_comes_first_and_the_rest_is_the_cause() {
        let refusal = image("verify", "a\u{1b}", ImageError::NotStored("a".to_owned()));
        assert_eq!(refusal.message, "cannot verify `a\\u{1b}`");
        assert_eq!(refusal.cause.as_deref(), Some("the image store has no `a`"));
    }
}
