//! ImageService: pull, list, inspect, verify, tag, import, export, remove.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bpfd_proto::codec::v1::{self as codec, BadField};
use bpfd_proto::status::Refusal;
use bpfd_proto::v1 as pb;
use bytecode_image::limits;
use bytecode_image::reference::Reference;
use bytecode_image::summary::{GlobalSummary, MapSummary, ProgramSummary, Summary};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Streamed, apply, bad_field, fitting, page, principal, status, streamed};
use crate::images::{ImageError, Inspected, Removed, Stored, Verdict};
use crate::service::{Refused, Service, StoredImage};
use crate::waiter::Stopping;

/// Images of one removal, or of one archive.
const AT_ONCE: usize = 64;
/// The whole of an upload of an archive: who has the place of one keeps others out.
const RECEIVED: Duration = limits::DEADLINE;
/// Programs, maps and globals that an answer lists: a message has room for no more than a megabyte.
const GLOBALS: usize = 1024;

pub(in crate::rpc) struct ImageApi {
    pub(in crate::rpc) context: Arc<Service>,
    pub(in crate::rpc) stopping: Stopping,
}

#[tonic::async_trait]
impl pb::image_service_server::ImageService for ImageApi {
    type PullStream = Streamed<pb::PullResponse>;

    async fn pull(&self, request: Request<pb::PullRequest>) -> Result<Response<Self::PullStream>, Status> {
        use pb::pull_response::Event;
        let principal = principal(&request)?;
        let pb::PullRequest { request_id, reference, pull } = request.into_inner();
        codec::request_id(&request_id).map_err(bad_field)?;
        let policy = codec::pull_policy(pull).map_err(bad_field)?;
        let parsed: Reference =
            reference.parse().map_err(|error| status::image("pull", &reference, ImageError::from(error)))?;
        let service = self.context.clone();
        let event = |progress| pb::PullResponse { event: Some(Event::Progress(progress)) };
        Ok(streamed(self.stopping.clone(), event, |report, waiter| async move {
            let pulled = service.pull(principal, &parsed, policy, report, &waiter).await;
            let (stored, warnings) = pulled.map_err(refused("pull", &parsed.to_string()))?;
            let result = pb::PullResult { image: Some(image(stored)), warnings: codec::warnings(warnings) };
            Ok(pb::PullResponse { event: Some(Event::Result(result)) })
        }))
    }

    async fn list_images(
        &self,
        request: Request<pb::ListImagesRequest>,
    ) -> Result<Response<pb::ListImagesResponse>, Status> {
        let principal = principal(&request)?;
        let pb::ListImagesRequest { page_size, page_token } = request.into_inner();
        let listed = self.context.images(principal, page(page_size, page_token)?).await;
        let listed = listed.map_err(|error| status::refused(error, Refusal::from))?;
        let (images, next_page_token) = fitting(listed, |_, stored| image(stored));
        Ok(Response::new(pb::ListImagesResponse { images, next_page_token }))
    }

    async fn inspect_image(
        &self,
        request: Request<pb::InspectImageRequest>,
    ) -> Result<Response<pb::InspectImageResponse>, Status> {
        let principal = principal(&request)?;
        let pb::InspectImageRequest { image } = request.into_inner();
        let inspected = self.context.inspect_image(principal, &image).await;
        let (inspected, apps) = inspected.map_err(refused("inspect", &image))?;
        Ok(Response::new(inspection(inspected, apps)))
    }

    async fn verify_image(
        &self,
        request: Request<pb::VerifyImageRequest>,
    ) -> Result<Response<pb::VerifyImageResponse>, Status> {
        let principal = principal(&request)?;
        let pb::VerifyImageRequest { image, explain } = request.into_inner();
        let verdict = self.context.verify_image(principal, &image, explain).await.map_err(refused("verify", &image))?;
        let Verdict { trusted, digest, scope, signers, findings, sections } = verdict;
        Ok(Response::new(pb::VerifyImageResponse {
            trusted,
            scope: scope.unwrap_or_default(),
            signers: signers.into_iter().collect(),
            findings,
            digest: digest.to_string(),
            sections: sections.into_iter().map(codec::section).collect(),
        }))
    }

    async fn tag_image(&self, request: Request<pb::TagImageRequest>) -> Result<Response<pb::TagImageResponse>, Status> {
        let principal = principal(&request)?;
        let pb::TagImageRequest { request_id, image: source, name } = request.into_inner();
        codec::request_id(&request_id).map_err(bad_field)?;
        let name: Reference = name.parse().map_err(|error| status::image("tag", &source, ImageError::from(error)))?;
        let stored = self.context.tag_image(principal, source.clone(), name).await;
        Ok(Response::new(pb::TagImageResponse { image: Some(image(stored.map_err(refused("tag", &source))?)) }))
    }

    async fn import_images(
        &self,
        request: Request<Streaming<pb::ImportImagesRequest>>,
    ) -> Result<Response<pb::ImportImagesResponse>, Status> {
        use pb::import_images_request::Part;
        let principal = principal(&request)?;
        let mut parts = request.into_inner();
        let Some(Part::Start(pb::ImportStart { request_id, name })) =
            parts.message().await?.and_then(|first| first.part)
        else {
            return Err(bad_field(BadField { field: "start", why: "it is not in the first message".to_owned() }));
        };
        codec::request_id(&request_id).map_err(bad_field)?;
        let what = if name.is_empty() { "an archive".to_owned() } else { name.clone() };
        let failed = |error: ImageError| Status::from(status::image("import", &what, error));
        let name = (!name.is_empty()).then(|| name.parse::<Reference>()).transpose();
        let name = name.map_err(|error| failed(error.into()))?;
        let received = async {
            let begun = self.context.receive_archive(principal, name.as_ref()).await;
            let (ask, mut upload) = begun.map_err(refused("import", &what))?;
            while let Some(pb::ImportImagesRequest { part }) = parts.message().await? {
                match part {
                    // Empty chunks never reach the size limit, so an upload of them would never end.
                    Some(Part::Chunk(chunk)) if !chunk.is_empty() => upload.write(&chunk).map_err(failed)?,
                    _ => return Err(bad_field(BadField { field: "chunk", why: "it is empty or absent".to_owned() })),
                }
            }
            Ok((ask, upload))
        };
        let received =
            tokio::time::timeout(RECEIVED, received).await.unwrap_or_else(|_| Err(failed(ImageError::Timeout)));
        let (ask, upload) = received?;
        let stored = self.context.import_images(ask, upload, name).await.map_err(refused("import", &what))?;
        Ok(Response::new(pb::ImportImagesResponse { images: stored.into_iter().map(image).collect() }))
    }

    type ExportImagesStream =
        std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<pb::ExportImagesResponse, Status>> + Send + 'static>>;

    async fn export_images(
        &self,
        request: Request<pb::ExportImagesRequest>,
    ) -> Result<Response<Self::ExportImagesStream>, Status> {
        let principal = principal(&request)?;
        let pb::ExportImagesRequest { images } = request.into_inner();
        at_once(&images)?;
        let names = images.join("`, `");
        let exported = self.context.export_images(principal, images).await.map_err(refused("export", &names))?;
        let piece = move |piece: Result<Vec<u8>, ImageError>| match piece {
            Ok(chunk) => Ok(pb::ExportImagesResponse { chunk }),
            Err(error) => Err(status::image("export", &names, error).into()),
        };
        Ok(Response::new(Box::pin(ReceiverStream::new(exported).map(piece))))
    }

    async fn remove_images(
        &self,
        request: Request<pb::RemoveImagesRequest>,
    ) -> Result<Response<pb::RemoveImagesResponse>, Status> {
        let principal = principal(&request)?;
        let pb::RemoveImagesRequest { request_id, validate_only, images, unused } = request.into_inner();
        codec::request_id(&request_id).map_err(bad_field)?;
        if unused && !images.is_empty() {
            let why = "`unused` names them: leave `images` empty".to_owned();
            return Err(bad_field(BadField { field: "images", why }));
        }
        if unused {
            let removed = self.context.prune_images(principal, apply(validate_only)).await;
            let Removed { references, freed } = removed.map_err(refused("remove", "unused images"))?;
            let images = references.iter().map(ToString::to_string).collect();
            return Ok(Response::new(pb::RemoveImagesResponse { images: codec::texts(images), freed_bytes: freed }));
        }
        at_once(&images)?;
        let names = images.join("`, `");
        let removed = self.context.remove_images(principal, images, apply(validate_only)).await;
        let Removed { references, freed } = removed.map_err(refused("remove", &names))?;
        let images = references.iter().map(ToString::to_string).collect();
        Ok(Response::new(pb::RemoveImagesResponse { images, freed_bytes: freed }))
    }
}

/// Whether there are as many images as one request may name.
fn at_once(images: &[String]) -> Result<(), Status> {
    if (1..=AT_ONCE).contains(&images.len()) {
        return Ok(());
    }
    let why = format!("1 to {AT_ONCE} images; {} were sent", images.len());
    Err(bad_field(BadField { field: "images", why }))
}

/// What a caller sees of a verb on an image that was not carried out.
fn refused(verb: &str, image: &str) -> impl FnOnce(Refused<ImageError>) -> Status {
    move |error| status::refused(error, |error| status::image(verb, image, error)).into()
}

fn image(StoredImage { stored, apps }: StoredImage) -> pb::Image {
    let Stored { reference, digest, manifest, object, size, pulled, signers } = stored;
    let seconds = pulled.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_secs());
    pb::Image {
        apps: codec::texts(apps),
        reference: reference.to_string(),
        digest: digest.to_string(),
        manifest_digest: manifest.map(|manifest| manifest.to_string()).unwrap_or_default(),
        object_sha256: object.map(|object| object.hex()).unwrap_or_default(),
        size_bytes: size,
        pull_time: seconds.and_then(codec::time),
        trusted: signers.is_some(),
        signers: signers.into_iter().flatten().collect(),
    }
}

fn inspection(inspected: Inspected, apps: Vec<String>) -> pb::InspectImageResponse {
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
        image: Some(image(StoredImage { stored, apps })),
        name: name.unwrap_or_default(),
        version: version.unwrap_or_default(),
        license: kernel_license.or(license).unwrap_or_default(),
        platform,
        programs: programs.into_iter().map(program).collect(),
        maps: maps.into_iter().map(map).collect(),
        globals: globals.into_iter().take(GLOBALS).map(global).collect(),
    }
}
