//! `bpfctl image sign`: a signature beside an image in its registry, in cosign's forms. The key is read here and goes nowhere.

use bpfd_policy::image::Form;
use bytecode_image::digest::{Descriptor, Digest};
use bytecode_image::document::Document;
use bytecode_image::fetch::fetch_attached;
use bytecode_image::key::SigningKey;
use bytecode_image::media;
use bytecode_image::reference::Reference;
use bytecode_image::sign::{self, SignError, SignatureManifest, Signed, Stated};
use bytecode_image::transport::{Place, Remote};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::registry::{self, Registry, fetch_failed};
use super::signing_key::KeyFile;
use crate::client::Session;
use crate::error::{Exit, Failure, Local, error_chain};
use crate::output::{Block, View};

/// How often a signature is put again that somebody else's push removed: registries have no lock.
const ATTEMPTS: usize = 3;

/// Sign an image in its registry
#[derive(Debug, Args)]
#[command(after_help = "\
What the tag names now is signed, by digest. `cosign verify --key` reads both forms.

Examples:
  bpfctl keygen ci.key
  bpfctl image sign registry/bpf/counter:1.2.0 --key ci.key
  bpfctl image sign registry/bpf/counter:1.2.0 --key ci.key --format both
  bpfctl image sign registry/bpf/counter:1.2.0 --key cosign.key --password-file password")]
pub(super) struct Sign {
    /// The image
    reference: Reference,
    #[command(flatten)]
    key: KeyFile,
    /// How to write the signature
    #[arg(long, value_enum, default_value_t = Format::Legacy)]
    format: Format,
    #[command(flatten)]
    registry: Registry,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Format {
    /// As cosign before version 3, podman and skopeo read it
    Legacy,
    /// As a sigstore bundle, which cosign 3 reads
    Bundle,
    /// Both
    Both,
}

impl Sign {
    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { reference, key, format, registry } = self;
        let message = format!("cannot sign `{reference}`");
        let key = key.read()?;
        let remote = registry.remote(session, &reference)?;
        let subject = registry::top(&remote).await?.descriptor().clone();
        let signing =
            Signing { remote: &remote, key: &key, reference: &reference, subject: &subject, message: &message };
        let mut signed = Vec::new();
        if format != Format::Bundle {
            signed.push((Form::Legacy, signing.legacy().await?));
        }
        if format != Format::Legacy {
            signed.push((Form::Bundle, signing.bundle(&Stated::signed()).await?));
        }
        let (digest, signer) = (subject.digest, key.public().fingerprint());
        session.printer.show(&Made { reference, digest, signer, signed })?;
        Ok(Exit::Ok)
    }
}

/// A signature that is being made.
pub(super) struct Signing<'a> {
    pub(super) remote: &'a Remote<'a>,
    pub(super) key: &'a SigningKey,
    pub(super) reference: &'a Reference,
    /// What is signed.
    pub(super) subject: &'a Descriptor,
    pub(super) message: &'a str,
}

impl Signing<'_> {
    async fn legacy(&self) -> Result<Outcome, Failure> {
        let Self { remote, key, reference, subject, message } = self;
        let place = reference.signatures(subject.digest);
        let tag = place.tag().unwrap_or_default();
        let mut outcome = Outcome::AlreadySigned;
        for _ in 0..ATTEMPTS {
            let existing = tagged(remote, tag, message).await?;
            let existing = existing.as_ref().map(Document::bytes);
            match sign::sign(key, reference, subject.digest, existing).map_err(|error| self.refused(&error))? {
                Signed::AlreadySigned => return Ok(outcome),
                // The next round reads the tag again: only a signature that is found there counts as made.
                Signed::Appended(made) => put(remote, tag, &made, message).await?,
            }
            outcome = Outcome::Signed;
        }
        Err(self.removed_each_time())
    }

    pub(super) async fn bundle(&self, stated: &Stated) -> Result<Outcome, Failure> {
        let Self { remote, key, reference, subject, message } = self;
        let failed = |error| registry::failed(message, &error);
        let tag = subject.digest.to_string().replace(':', "-");
        let mut made: Option<Document> = None;
        // Each round asks again what is there: only a signature that is found counts as made.
        for _ in 0..=ATTEMPTS {
            let sets = fetch_attached(remote, subject.digest).await.map_err(|error| fetch_failed(message, &error))?;
            let ours = |candidate| sign::is_bundle_by(key, reference, subject.digest, stated, &candidate);
            if sets.iter().flat_map(|set| set.candidates()).any(ours) {
                return Ok(if made.is_some() { Outcome::Signed } else { Outcome::AlreadySigned });
            }
            match &made {
                None => {
                    let bundle = sign::attestation(key, reference, subject.digest, stated);
                    let bundle = bundle.map_err(|error| self.refused(&error))?;
                    let manifest = sign::referrer(subject, &bundle, stated);
                    remote.put_blob(&bundle).await.map_err(failed)?;
                    remote.put_blob(media::EMPTY_BYTES).await.map_err(failed)?;
                    remote.put_manifest(Place::Digest, &manifest).await.map_err(failed)?;
                    made = Some(manifest);
                }
                // The registry does not list it: the tag that stands in for the list is ours to write.
                Some(manifest) => {
                    let existing = tagged(remote, &tag, message).await?;
                    let index = sign::listed(existing.as_ref().map(Document::bytes), manifest);
                    let index = index.map_err(|error| self.refused(&error))?;
                    remote.put_manifest(Place::Tag(&tag), &index).await.map_err(failed)?;
                }
            }
        }
        Err(self.removed_each_time())
    }

    fn refused(&self, error: &SignError) -> Failure {
        Local::new(Exit::Signature, self.message).cause(error_chain(error)).into()
    }

    fn removed_each_time(&self) -> Failure {
        Local::new(Exit::Registry, self.message)
            .cause(format!("the signature was pushed {ATTEMPTS} times, and another client removed it each time"))
            .hint("another client pushes signatures of this image at the same time: try again")
            .into()
    }
}

async fn tagged(remote: &Remote<'_>, tag: &str, message: &str) -> Result<Option<Document>, Failure> {
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

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    Signed,
    AlreadySigned,
}

struct Made {
    reference: Reference,
    digest: Digest,
    signer: Digest,
    signed: Vec<(Form, Outcome)>,
}

impl View for Made {
    fn kind(&self) -> &'static str {
        "Signature"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        let item = |(form, outcome): &(Form, Outcome)| {
            json!({
                "reference": self.reference.to_string(),
                "digest": self.digest.to_string(),
                "key": self.signer.to_string(),
                "form": form.to_string(),
                "new": *outcome == Outcome::Signed,
            })
        };
        Ok(self.signed.iter().map(item).collect())
    }

    fn names(&self) -> Vec<String> {
        vec![self.digest.to_string()]
    }

    fn text(&self) -> Vec<Block> {
        let Self { reference, digest, signer, signed } = self;
        let line = |(form, outcome): &(Form, Outcome)| {
            let form = if *form == Form::Bundle { ", as a bundle" } else { "" };
            match outcome {
                Outcome::Signed => format!("signed {reference} {digest} with key {signer}{form}"),
                Outcome::AlreadySigned => format!("key {signer} has signed {reference} {digest} before{form}"),
            }
        };
        vec![Block::Lines(signed.iter().map(line).collect())]
    }

    fn nothing(&self) -> &'static str {
        "nothing signed"
    }
}
