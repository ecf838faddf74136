//! `bpfctl image attest`: a signed statement about an image beside it in its registry, as `cosign attest` makes it with a key. What the
//! statement says is the caller's.

use std::path::PathBuf;

use bytecode_image::digest::Digest;
use bytecode_image::reference::Reference;
use bytecode_image::sign::Stated;
use clap::Args;
use serde_json::{Value, json};

use super::registry::{self, Registry};
use super::sign::{Outcome, Signing};
use super::signing_key::KeyFile;
use crate::client::Session;
use crate::error::{Exit, Failure, Local};
use crate::files;
use crate::output::{Block, View};

/// Attest something about an image in its registry
#[derive(Debug, Args)]
#[command(after_help = "\
What the reference names now is attested, by digest: where it was built (--type https://slsa.dev/provenance/v1), what is in it \
(--type https://spdx.dev/Document), … The file is the predicate, as JSON. Policies ask for attestations by their type.

Examples:
  bpfctl image attest registry/bpf/counter:1.2.0 --key ci.key --type https://slsa.dev/provenance/v1 --predicate provenance.json")]
pub(super) struct Attest {
    /// The image
    reference: Reference,
    #[command(flatten)]
    key: KeyFile,
    /// The type of what is attested, a URI
    #[arg(long = "type", value_name = "TYPE", value_parser = predicate_type)]
    predicate_type: String,
    /// What is attested, as JSON
    #[arg(long, value_name = "FILE")]
    predicate: PathBuf,
    #[command(flatten)]
    registry: Registry,
}

/// A type as policies can name it. That of signatures would make a signature of it.
fn predicate_type(text: &str) -> Result<String, String> {
    let fits = (1..=512).contains(&text.len()) && !text.chars().any(|c| c.is_control() || c == ' ');
    match fits {
        true if text == Stated::signed().predicate_type => Err("that is a signature: `bpfctl image sign`".to_owned()),
        true => Ok(text.to_owned()),
        false => Err("it is a URI, such as `https://slsa.dev/provenance/v1`".to_owned()),
    }
}

impl Attest {
    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { reference, key, predicate_type, predicate, registry } = self;
        let message = format!("cannot attest anything about `{reference}`");
        let key = key.read()?;
        let text = files::document(&predicate)?;
        let predicate: Value = serde_json::from_str(&text).map_err(|error| {
            Local::new(Exit::Usage, format!("`{}` is not JSON", predicate.display())).cause(error.to_string())
        })?;
        let stated = Stated { predicate_type, predicate };
        let remote = registry.remote(session, &reference)?;
        let subject = registry::top(&remote).await?.descriptor().clone();
        let signing =
            Signing { remote: &remote, key: &key, reference: &reference, subject: &subject, message: &message };
        let outcome = signing.bundle(&stated).await?;
        let (digest, signer) = (subject.digest, key.public().fingerprint());
        session.printer.show(&Attested { reference, digest, signer, stated, outcome })?;
        Ok(Exit::Ok)
    }
}

struct Attested {
    reference: Reference,
    digest: Digest,
    signer: Digest,
    stated: Stated,
    outcome: Outcome,
}

impl View for Attested {
    fn kind(&self) -> &'static str {
        "Attestation"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(vec![json!({
            "reference": self.reference.to_string(),
            "digest": self.digest.to_string(),
            "key": self.signer.to_string(),
            "type": self.stated.predicate_type,
            "new": self.outcome == Outcome::Signed,
        })])
    }

    fn names(&self) -> Vec<String> {
        vec![self.digest.to_string()]
    }

    fn text(&self) -> Vec<Block> {
        let Self { reference, digest, signer, stated, outcome } = self;
        let predicate = &stated.predicate_type;
        let line = match outcome {
            Outcome::Signed => format!("attested {predicate} of {reference} {digest} with key {signer}"),
            Outcome::AlreadySigned => format!("key {signer} has attested this of {reference} {digest} before"),
        };
        vec![Block::Lines(vec![line])]
    }

    fn nothing(&self) -> &'static str {
        "nothing attested"
    }
}
