//! ImageService: pull, list, inspect, verify, remove; and what callers see of an [`ImageError`].

use std::error::Error;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bpfd_core::ask::{Look, PullAsk};
use bpfd_core::names::printable;
use bpfd_core::wire::{self, BadField};
use bpfd_proto::status::Refusal;
use bpfd_proto::v1 as pb;
use bpfd_proto::v1::ErrorReason;
use bytecode_image::label::LabelError;
use bytecode_image::reference::Reference;
use bytecode_image::resolve::ResolveError;
use bytecode_image::scope::Scope;
use bytecode_image::store::StoreError;
use bytecode_image::summary::{GlobalSummary, MapSummary, ProgramSummary, Summary};
use bytecode_image::verify;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Context, bad_field, principal, view};
use crate::causes::error_chain;
use crate::engine::Snapshot;
use crate::images::{self, ImageError, Inspected, Removed, Stored, Verdict};
use crate::pages::{self, Page};
use crate::progress::in_order;
use crate::trust::Apply;
use crate::waiter::{GivenUp, Stopping, Waiter};
use crate::worker::fetch::{FailureKind, FetchFailure};
use crate::worker::parse::ParseError;

/// Reports that wait for a slow reader; more are dropped.
const REPORTS: usize = 64;
/// Images in one page at most, as each is judged, and read if it was not before.
const PAGE: usize = 100;
/// Images of one removal.
const REMOVED: usize = 64;
/// Programs, maps and globals that an answer lists: a message has room for no more than a megabyte.
const GLOBALS: usize = 1024;

pub(super) struct ImageApi {
    pub(super) context: Arc<Context>,
    pub(super) stopping: Stopping,
}

#[tonic::async_trait]
impl pb::image_service_server::ImageService for ImageApi {
    type PullStream = ReceiverStream<Result<pb::PullResponse, Status>>;

    async fn pull(&self, request: Request<pb::PullRequest>) -> Result<Response<Self::PullStream>, Status> {
        let principal = principal(&request)?;
        let pb::PullRequest { request_id, reference, pull } = request.into_inner();
        wire::request_id(&request_id).map_err(bad_field)?;
        let policy = wire::pull_policy(pull).map_err(bad_field)?;
        let parsed: Reference =
            reference.parse().map_err(|error| doing("pull", &reference, ImageError::from(error)))?;
        let ask = self.context.permit(principal, PullAsk(parsed.to_string())).await?;
        let (events, stream) = mpsc::channel(REPORTS);
        let (context, stopping) = (self.context.clone(), self.stopping.clone());
        tokio::spawn(async move {
            let reports = events.clone();
            let report = in_order(move |progress| {
                let event = pb::pull_response::Event::Progress(view::progress(progress));
                // A full queue: the reader is slow, and misses a report.
                reports.try_send(Ok(pb::PullResponse { event: Some(event) })).unwrap_or_default();
            });
            let (owner, name) = (ask.principal().owner(), ask.request().0.clone());
            let images = context.images.clone();
            let waiter = Waiter::default();
            let waits = waiter.clone();
            let pull = async move { images.pull(&ask, policy, &report, &waits).await };
            let pull = context.recorded(owner, format!("pull `{name}`"), pull);
            let answer = match stopping.while_wanted(&waiter, &events, pull).await {
                Ok(Ok((stored, warnings))) => {
                    let image = Some(image(&context.snapshot(), stored));
                    let result = pb::PullResult { image, warnings: view::warnings(warnings) };
                    Ok(pb::PullResponse { event: Some(pb::pull_response::Event::Result(result)) })
                }
                Ok(Err(error)) => Err(doing("pull", &name, error)),
                Err(not_begun) => Err(not_begun),
            };
            if events.send(answer).await.is_err() {
                tracing::info!("the caller left before the answer");
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list_images(
        &self,
        request: Request<pb::ListImagesRequest>,
    ) -> Result<Response<pb::ListImagesResponse>, Status> {
        self.context.permit(principal(&request)?, Look).await?;
        let pb::ListImagesRequest { page_size, page_token } = request.into_inner();
        let size = pages::size(page_size).map_err(bad_field)?.min(PAGE);
        let all = self
            .context
            .images
            .list(&page_token, size + 1)
            .await
            .map_err(|error| Status::from(Refusal::from(error)))?;
        let snapshot = &self.context.snapshot();
        let made = all.into_iter().map(|stored| (stored.reference.to_string(), || image(snapshot, stored)));
        let Page { items: images, next: next_page_token } = pages::page(size, made);
        Ok(Response::new(pb::ListImagesResponse { images, next_page_token }))
    }

    async fn inspect_image(
        &self,
        request: Request<pb::InspectImageRequest>,
    ) -> Result<Response<pb::InspectImageResponse>, Status> {
        self.context.permit(principal(&request)?, Look).await?;
        let pb::InspectImageRequest { image: name } = request.into_inner();
        let inspected = self.context.images.inspect(&name).await.map_err(|error| doing("inspect", &name, error))?;
        Ok(Response::new(inspection(&self.context.snapshot(), inspected)))
    }

    async fn verify_image(
        &self,
        request: Request<pb::VerifyImageRequest>,
    ) -> Result<Response<pb::VerifyImageResponse>, Status> {
        self.context.permit(principal(&request)?, Look).await?;
        let pb::VerifyImageRequest { image } = request.into_inner();
        let verdict = self.context.images.verify(&image).await.map_err(|error| doing("verify", &image, error))?;
        let Verdict { trusted, digest, scope, signers, findings } = verdict;
        Ok(Response::new(pb::VerifyImageResponse {
            trusted,
            scope: scope.unwrap_or_default(),
            signers: signers.into_iter().collect(),
            findings,
            digest: digest.to_string(),
        }))
    }

    async fn remove_images(
        &self,
        request: Request<pb::RemoveImagesRequest>,
    ) -> Result<Response<pb::RemoveImagesResponse>, Status> {
        let principal = principal(&request)?;
        let pb::RemoveImagesRequest { request_id, validate_only, images } = request.into_inner();
        wire::request_id(&request_id).map_err(bad_field)?;
        if !(1..=REMOVED).contains(&images.len()) {
            let why = format!("1 to {REMOVED} images; {} were sent", images.len());
            return Err(bad_field(BadField { field: "images", why }));
        }
        let names: Vec<String> = images.iter().map(|image| printable(image)).collect();
        let names = names.join("`, `");
        let (PullAsk(names), principal) = self.context.permit(principal, PullAsk(names)).await?.into_parts();
        let (store, state) = (self.context.images.clone(), self.context.snapshot());
        let remove = |apply| async move { store.remove(&images, &state.state, apply).await };
        let removed = if validate_only {
            remove(Apply::ValidateOnly).await
        } else {
            let plan = format!("remove `{names}` from the image store");
            self.context.recorded(principal.owner(), plan, remove(Apply::Write)).await?
        };
        let Removed { references, freed } = removed.map_err(|error| doing("remove", &names, error))?;
        let images = references.iter().map(ToString::to_string).collect();
        Ok(Response::new(pb::RemoveImagesResponse { images, freed_bytes: freed }))
    }
}

fn image(snapshot: &Snapshot, stored: Stored) -> pb::Image {
    let Stored { reference, digest, manifest, object, size, pulled, signers } = stored;
    let seconds = pulled.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_secs());
    pb::Image {
        apps: pages::texts(images::users(&snapshot.state, &reference, digest)),
        reference: reference.to_string(),
        digest: digest.to_string(),
        manifest_digest: manifest.map(|manifest| manifest.to_string()).unwrap_or_default(),
        object_sha256: object.map(|object| object.hex()).unwrap_or_default(),
        size_bytes: size,
        pull_time: seconds.and_then(view::time),
        trusted: signers.is_some(),
        signers: signers.into_iter().flatten().collect(),
    }
}

fn inspection(snapshot: &Snapshot, inspected: Inspected) -> pb::InspectImageResponse {
    let Inspected { image: stored, summary, platform, advice: defaults } = inspected;
    let Summary {
        object: _,
        size: _,
        name,
        version,
        license,
        kernel_license,
        labels: _,
        programs,
        maps,
        globals,
        remarks: _,
    } = summary;
    let program = |program: ProgramSummary| {
        let ProgramSummary { name, section, kind, optional, instructions: _, attach: _, doc } = program;
        let advice = defaults.get(&name).cloned().unwrap_or_default();
        pb::ImageProgram {
            function: name,
            section,
            r#type: kind.unwrap_or_default(),
            priority: advice.priority.map(u32::from),
            proceed_on: advice.proceed_on.map(|set| set.names()).into_iter().flatten().map(str::to_owned).collect(),
            optional,
            doc: doc.unwrap_or_default(),
        }
    };
    let map = |map: MapSummary| {
        let MapSummary { name, kind, key_size, value_size, max_entries } = map;
        pb::ImageMap { name, r#type: kind, key_size, value_size, max_entries }
    };
    let global = |global: GlobalSummary| {
        let GlobalSummary { name, kind, read_only, doc } = global;
        pb::ImageGlobal { name, r#type: kind, read_only, doc: doc.unwrap_or_default() }
    };
    pb::InspectImageResponse {
        image: Some(image(snapshot, stored)),
        name: name.unwrap_or_default(),
        version: version.unwrap_or_default(),
        license: kernel_license.or(license).unwrap_or_default(),
        platform,
        programs: programs.into_iter().map(program).collect(),
        maps: maps.into_iter().map(map).collect(),
        globals: globals.into_iter().take(GLOBALS).map(global).collect(),
    }
}

/// An error of an image as what was tried.
fn doing(verb: &str, image: &str, error: ImageError) -> Status {
    let Refusal { reason, message, cause, hint, facts, verifier } = Refusal::from(error);
    let cause = cause.map_or(message.clone(), |cause| format!("{message}: {cause}"));
    let message = format!("cannot {verb} `{}`", printable(image));
    Refusal { reason, message, cause: Some(cause), hint, facts, verifier }.into_status()
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
            ImageError::NotCovered(reference) => {
                Self::new(ErrorReason::ImageNotTrusted, text).cause(verify::Reason::NoScope.to_string()).hint(format!(
                    "have root say who signs it: `bpfctl trust add NAME --key FILE --scope {}`",
                    Scope::of_repository(reference)
                ))
            }
            ImageError::Registries(_) => {
                refusal(ErrorReason::InvalidPolicy).hint("mend the file; it is read anew for each pull")
            }
            ImageError::Fetch(failure) => fetch(failure),
            ImageError::Refused(refused) => policy(refused),
            ImageError::Worker(_) | ImageError::OtherName { .. } | ImageError::Ingest(_) | ImageError::Lost => {
                refusal(ErrorReason::Internal)
            }
            ImageError::Timeout => refusal(ErrorReason::Timeout),
            ImageError::GivenUp(why) => refusal(given_up(*why)),
            ImageError::Store(store) => self::store(store, refusal),
            ImageError::NotStored(_) => refusal(ErrorReason::NotFoundImage)
                .hint("`bpfctl image ls` shows what is there; `bpfctl image pull REFERENCE` brings more"),
            ImageError::Label(LabelError::Schema(_)) => refusal(ErrorReason::InvalidImage),
            ImageError::Unpack(_) | ImageError::Config(_) | ImageError::Label(_) => {
                refusal(ErrorReason::InvalidImage).hint("build it with `bpfctl image build`")
            }
            ImageError::Mismatch(_) => refusal(ErrorReason::LabelMismatch)
                .hint("whoever built the image must build it anew: `bpfctl image build` writes labels from the object"),
            ImageError::Parse(parse) => match parse {
                ParseError::Refused(_) | ParseError::Died { .. } => refusal(ErrorReason::InvalidObject),
                ParseError::TooSlow(_) => refusal(ErrorReason::Timeout),
                ParseError::Worker(_) => refusal(ErrorReason::Internal),
            },
            ImageError::Object(_) => {
                refusal(ErrorReason::ResourceExhausted).hint("is the disk of /var/lib/bpfd full? `df /var/lib/bpfd`")
            }
            ImageError::InUse { reference: _, users } => refusal(ErrorReason::InUse)
                .hint(format!("unload first: `bpfctl unload {}`", users.join(" ")))
                .fact("users", users.join(",")),
        }
    }
}

pub(super) fn given_up(why: GivenUp) -> ErrorReason {
    match why {
        GivenUp::Left => ErrorReason::Cancelled,
        GivenUp::Stopping => ErrorReason::DaemonNotReady,
    }
}

fn fetch(failure: &FetchFailure) -> Refusal {
    let FetchFailure { kind, what, cause, hint, refused: _ } = failure;
    let mut refusal = Refusal::new(reason(*kind), what);
    refusal.cause = (!cause.is_empty()).then(|| cause.clone());
    refusal.hint = hint.clone();
    refusal
}

fn policy(refused: &verify::Refusal) -> Refusal {
    let refusal = Refusal::new(reason(FailureKind::from(&refused.reason)), refused.to_string());
    refusal.cause(error_chain(&refused.reason)).hint(refused.hint())
}

fn store(error: &StoreError, refusal: impl Fn(ErrorReason) -> Refusal) -> Refusal {
    match error {
        StoreError::NotFound(_) => refusal(ErrorReason::NotFoundImage).hint("`bpfctl image pull REFERENCE` brings it"),
        StoreError::Corrupt(_) | StoreError::NotWhatItSays { .. } => {
            refusal(ErrorReason::DigestMismatch).hint("`bpfctl image pull REFERENCE` fetches it anew; look at the disk")
        }
        StoreError::Missing(_) => {
            refusal(ErrorReason::NotFoundImage).hint("`bpfctl image pull REFERENCE` fetches it anew")
        }
        StoreError::Resolve(ResolveError::NoPlatform { .. }) => refusal(ErrorReason::NoPlatform),
        StoreError::Resolve(_) | StoreError::Document(_) | StoreError::TooLarge { .. } | StoreError::Parts(_) => {
            refusal(ErrorReason::InvalidImage)
        }
        StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            refusal(ErrorReason::ResourceExhausted).hint("the disk of /var/lib/bpfd is full: `df /var/lib/bpfd`")
        }
        StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::FileTooLarge => {
            refusal(ErrorReason::ResourceExhausted).hint("`bpfctl image ls` shows images, `bpfctl image rm` makes room")
        }
        StoreError::Io { .. } | StoreError::NotALayout(_) | StoreError::Index(_) => refusal(ErrorReason::Internal),
    }
}

fn reason(kind: FailureKind) -> ErrorReason {
    match kind {
        FailureKind::NotFound => ErrorReason::RegistryNotFound,
        FailureKind::Unreachable | FailureKind::BrokenOff => ErrorReason::RegistryUnreachable,
        FailureKind::Denied => ErrorReason::RegistryDenied,
        FailureKind::Redirect | FailureKind::ForeignRealm => ErrorReason::RegistryRedirect,
        FailureKind::DigestMismatch => ErrorReason::DigestMismatch,
        FailureKind::Oversized | FailureKind::Protocol => ErrorReason::RegistryInvalid,
        FailureKind::InvalidImage => ErrorReason::InvalidImage,
        FailureKind::NoPlatform => ErrorReason::NoPlatform,
        FailureKind::NotTrusted => ErrorReason::ImageNotTrusted,
        FailureKind::SignatureMissing => ErrorReason::SignatureRequired,
        FailureKind::SignatureInvalid => ErrorReason::SignatureInvalid,
        FailureKind::DigestRequired => ErrorReason::DigestRequired,
        FailureKind::Timeout => ErrorReason::Timeout,
        FailureKind::Local => ErrorReason::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(kind: FailureKind) -> Refusal {
        let (what, cause) = ("cannot resolve `r.example/a:b`".to_owned(), "cannot reach `r.example:443`".to_owned());
        let hint = Some("do this".to_owned());
        Refusal::from(ImageError::from(FetchFailure { kind, what, cause, hint, refused: None }))
    }

    #[test]
    fn a_failed_pull_keeps_its_reason_cause_and_hint() {
        let refusal = refused(FailureKind::Unreachable);
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
        let status = doing("verify", "a\u{1b}", ImageError::NotStored("a".to_owned()));
        let answer = bpfd_proto::status::Answer::of(&status);
        assert_eq!(answer.message, "cannot verify `a\\u{1b}`");
        assert_eq!(answer.cause.as_deref(), Some("the image store has no `a`"));
    }
}
