//! `bpfctl image sign`: a signature beside an image in its registry, in cosign's form. The key is read here and goes nowhere.

use std::path::PathBuf;

use bytecode_image::digest::Digest;
use bytecode_image::document::Document;
use bytecode_image::key::SigningKey;
use bytecode_image::media;
use bytecode_image::reference::Reference;
use bytecode_image::sign::{self, SignatureManifest, Signed};
use bytecode_image::transport::{Place, Remote};
use clap::Args;
use serde_json::{Value, json};

use super::registry::{self, Registry};
use crate::client::Session;
use crate::error::{Exit, Failure, Local, error_chain};
use crate::files;
use crate::output::{Block, View};

/// How often a signature is put again that somebody else's push removed: registries have no lock.
const ATTEMPTS: usize = 3;

/// Sign an image in its registry
#[derive(Debug, Args)]
#[command(after_help = "\
What the tag names now is signed, by digest. `cosign verify --key` reads the signature too.

Examples:
  bpfctl keygen ci.key
  bpfctl image sign registry/bpf/counter:1.2.0 --key ci.key")]
pub(super) struct Sign {
    /// The image
    reference: Reference,
    /// Your private key, a PEM file
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    #[command(flatten)]
    registry: Registry,
}

impl Sign {
    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { reference, key: file, registry } = self;
        let message = format!("cannot sign `{reference}`");
        let key = SigningKey::from_pem(&files::key(&file)?).map_err(|error| {
            Local::new(Exit::Usage, format!("cannot use the key `{}`", file.display())).cause(error_chain(&error))
        })?;
        let remote = registry.remote(session, &reference)?;
        let digest = registry::top(&remote).await?.digest();
        let place = reference.signatures(digest);
        let tag = place.tag().unwrap_or_default();
        let mut outcome = Outcome::AlreadySigned;
        for _ in 0..ATTEMPTS {
            let existing = signatures(&remote, tag, &message).await?;
            let existing = existing.as_ref().map(Document::bytes);
            match sign::sign(&key, &reference, digest, existing)
                .map_err(|error| Local::new(Exit::Signature, message.clone()).cause(error_chain(&error)))?
            {
                Signed::AlreadySigned => {
                    let signer = key.public().fingerprint();
                    session.printer.show(&Made { reference, digest, signer, outcome })?;
                    return Ok(Exit::Ok);
                }
                // The next round reads the tag again: only a signature that is found there counts as made.
                Signed::Appended(made) => put(&remote, tag, &made, &message).await?,
            }
            outcome = Outcome::Signed;
        }
        Err(Local::new(Exit::Registry, message)
            .cause(format!("the signature was pushed {ATTEMPTS} times, and another client removed it each time"))
            .hint("another client pushes signatures of this image at the same time: try again")
            .into())
    }
}

async fn signatures(remote: &Remote<'_>, tag: &str, message: &str) -> Result<Option<Document>, Failure> {
    match remote.tagged(tag).await {
        Ok(document) => Ok(Some(document)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(registry::failed(message, &error)),
    }
}

async fn put(remote: &Remote<'_>, tag: &str, made: &SignatureManifest, message: &str) -> Result<(), Failure> {
    let failed = |error| registry::failed(message, &error);
    remote.put_blob(&made.payload).await.map_err(failed)?;
    remote.put_blob(&made.config).await.map_err(failed)?;
    let document = Document::new(media::MANIFEST, made.manifest.clone());
    remote.put_manifest(Place::Tag(tag), &document).await.map_err(failed)
}

enum Outcome {
    Signed,
    AlreadySigned,
}

struct Made {
    reference: Reference,
    digest: Digest,
    signer: Digest,
    outcome: Outcome,
}

impl View for Made {
    fn kind(&self) -> &'static str {
        "Signature"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(vec![json!({
            "reference": self.reference.to_string(),
            "digest": self.digest.to_string(),
            "key": self.signer.to_string(),
            "new": matches!(self.outcome, Outcome::Signed),
        })])
    }

    fn names(&self) -> Vec<String> {
        vec![self.digest.to_string()]
    }

    fn text(&self) -> Vec<Block> {
        let Self { reference, digest, signer, outcome } = self;
        let text = match outcome {
            Outcome::Signed => format!("signed {reference} {digest} with key {signer}"),
            Outcome::AlreadySigned => format!("key {signer} has signed {reference} {digest} before"),
        };
        vec![Block::Lines(vec![text])]
    }

    fn nothing(&self) -> &'static str {
        "nothing signed"
    }
}
