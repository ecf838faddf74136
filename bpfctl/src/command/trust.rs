//! `bpfctl trust`: whose signatures count. The key's text is sent; where it is kept is the daemon's business.

mod roots;

use std::path::{Path, PathBuf};

use bpfd_proto::v1 as pb;
use bytecode_image::key::VerifyingKey;
use bytecode_image::scope::Scope;
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::args::word;
use crate::client::{Session, request_id};
use crate::error::{Exit, Failure, Local};
use crate::files;
use crate::later::Later;
use crate::output::{Block, View, message};

/// Trust a key for a scope of images, or manage trusted roots
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bpfctl trust add ci --key ci.pub --scope 'registry/bpf/**'
  bpfctl trust import trusted_root.json --name public-good")]
pub(crate) struct Trust {
    #[command(subcommand)]
    verb: Later<TrustVerb>,
}

#[derive(Debug, Subcommand)]
enum TrustVerb {
    /// Accept images of a scope if this key signed them; root only
    #[command(after_help = "\
Examples:
  bpfctl trust add ci --key ci.pub --scope 'registry/bpf/**'
  bpfctl trust add counter --key counter.pub --scope registry/bpf/counter")]
    Add {
        /// What to call the signer
        #[arg(value_parser = word)]
        name: String,
        /// Its public key, a PEM file
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// What it signs for, such as registry/bpf/**
        #[arg(long)]
        scope: Scope,
    },
    Import(roots::Import),
    Ls(roots::Ls),
    Show(roots::Show),
    Rm(roots::Rm),
}

impl Trust {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let (name, key, scope) = match self.verb.0 {
            TrustVerb::Add { name, key, scope } => (name, key, scope),
            TrustVerb::Import(verb) => return verb.run(session),
            TrustVerb::Ls(verb) => return verb.run(session),
            TrustVerb::Show(verb) => return verb.run(session),
            TrustVerb::Rm(verb) => return verb.run(session),
        };
        let request = pb::AddTrustRequest {
            request_id: request_id(),
            validate_only: false,
            name: name.clone(),
            public_key: read_key(&key)?,
            scope: scope.to_string(),
        };
        let answer = session.client().await?.add_trust(request).await?;
        session.printer.show(&Added { name, answer })?;
        Ok(Exit::Ok)
    }
}

/// Reads a public key. Refused here if it does not parse: above all, a private key must never be sent.
fn read_key(path: &Path) -> Result<Vec<u8>, Failure> {
    let text = files::key(path)?;
    VerifyingKey::from_pem(&text).map_err(|error| {
        Local::new(Exit::Usage, format!("cannot use the key `{}`", path.display()))
            .cause(error.to_string())
            .hint("give the public key: `bpfctl keygen` writes it to the file that ends in `.pub`")
    })?;
    Ok(text.into_bytes())
}

struct Added {
    name: String,
    answer: pb::AddTrustResponse,
}

impl View for Added {
    fn kind(&self) -> &'static str {
        "AddTrustResponse"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(vec![message(&self.answer)?])
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }

    fn text(&self) -> Vec<Block> {
        let pb::AddTrustResponse { path, key_sha256 } = &self.answer;
        vec![Block::Lines(vec![format!("trusted {} (sha256:{key_sha256}) in {path}", self.name)])]
    }

    fn nothing(&self) -> &'static str {
        "nothing added"
    }
}
