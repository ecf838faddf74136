//! `bpfctl image push`: an image of the caller's store to its registry, blobs first, the tag last.

use bytecode_image::digest::Descriptor;
use bytecode_image::document::{Document, ImageManifest, Manifest};
use bytecode_image::limits;
use bytecode_image::reference::Reference;
use bytecode_image::store::Store;
use bytecode_image::transport::{Place, Put, Remote};
use clap::Args;
use serde_json::{Value, json};

use super::registry::{self, Registry};
use super::workshop::{self, Workshop};
use crate::client::Session;
use crate::error::{Exit, Failure, Local, error_chain};
use crate::output::{Block, View};

/// Push an image of your own store to its registry
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bpfctl image push registry/bpf/counter:1.2.0")]
pub(super) struct Push {
    /// The image, as `image build` named it
    reference: Reference,
    #[command(flatten)]
    workshop: Workshop,
    #[command(flatten)]
    registry: Registry,
}

impl Push {
    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { reference, workshop, registry } = self;
        let store = workshop.open()?;
        let message = format!("cannot push `{reference}`");
        let stored = |error| workshop::failed(&message, &error);
        let top = store.find(&reference).and_then(|descriptor| store.document(&descriptor)).map_err(stored)?;
        let upload = Upload { store: &store, remote: registry.remote(session, &reference)?, message: &message };
        let mut sent = Sent { reference: reference.clone(), document: top, uploaded: 0, already_there: 0 };
        match upload.parse(&sent.document)? {
            Manifest::Image(image) => upload.blobs(&image, &mut sent).await?,
            Manifest::Index(index) => {
                for entry in index.manifests {
                    let child = store.document(&entry.descriptor).map_err(stored)?;
                    if let Manifest::Image(image) = upload.parse(&child)? {
                        upload.blobs(&image, &mut sent).await?;
                    }
                    upload.manifest(Place::Digest, &child).await?;
                }
            }
        }
        let place = reference.tag().map_or(Place::Digest, Place::Tag);
        upload.manifest(place, &sent.document).await?;
        session.printer.show(&sent)?;
        Ok(Exit::Ok)
    }
}

struct Upload<'a> {
    store: &'a Store,
    remote: Remote<'static>,
    message: &'a str,
}

impl Upload<'_> {
    fn parse(&self, document: &Document) -> Result<Manifest, Failure> {
        document.parse().map_err(|error| Local::new(Exit::Other, self.message).cause(error_chain(&error)).into())
    }

    async fn blobs(&self, image: &ImageManifest, sent: &mut Sent) -> Result<(), Failure> {
        self.blob(&image.config, limits::CONFIG, sent).await?;
        for layer in &image.layers {
            self.blob(&layer.descriptor, limits::LAYER, sent).await?;
        }
        Ok(())
    }

    async fn blob(&self, descriptor: &Descriptor, limit: u64, sent: &mut Sent) -> Result<(), Failure> {
        let bytes = self.store.read(descriptor, limit).map_err(|error| workshop::failed(self.message, &error))?;
        match self.remote.put_blob(&bytes).await.map_err(|error| registry::failed(self.message, &error))? {
            Put::Uploaded => sent.uploaded += 1,
            Put::AlreadyThere => sent.already_there += 1,
        }
        Ok(())
    }

    async fn manifest(&self, place: Place<'_>, document: &Document) -> Result<(), Failure> {
        self.remote.put_manifest(place, document).await.map_err(|error| registry::failed(self.message, &error))
    }
}

struct Sent {
    reference: Reference,
    document: Document,
    uploaded: u32,
    already_there: u32,
}

impl View for Sent {
    fn kind(&self) -> &'static str {
        "PushedImage"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(vec![json!({
            "reference": self.reference.to_string(),
            "digest": self.document.digest().to_string(),
            "blobsUploaded": self.uploaded,
            "blobsAlreadyThere": self.already_there,
        })])
    }

    fn names(&self) -> Vec<String> {
        vec![self.document.digest().to_string()]
    }

    fn text(&self) -> Vec<Block> {
        vec![Block::Lines(vec![format!(
            "pushed {} {} ({} blobs sent, {} there already)",
            self.reference,
            self.document.digest(),
            self.uploaded,
            self.already_there
        )])]
    }

    fn nothing(&self) -> &'static str {
        "nothing pushed"
    }
}
