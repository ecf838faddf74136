//! `bpfctl keygen`: a pair of keys to sign images with. The private key never leaves this machine: nothing sends it.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytecode_image::key::{Scheme, SigningKey};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::client::Session;
use crate::error::{Exit, Failure, Local};
use crate::output::{Block, View};

/// Make a pair of keys to sign images with
#[derive(Debug, Args)]
#[command(after_help = "\
Writes the private key, readable by you alone, and the public key beside it with `.pub` at its end. An existing file is never \
overwritten.

Examples:
  bpfctl keygen ci.key
  bpfctl keygen ci.key --scheme ed25519")]
pub(crate) struct Keygen {
    /// Where to write the private key
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The kind of key
    #[arg(long, value_enum, default_value_t)]
    scheme: KeyScheme,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum KeyScheme {
    /// ECDSA on P-256, as cosign makes them
    #[default]
    P256,
    /// Ed25519
    Ed25519,
}

impl Keygen {
    pub(crate) fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { file, scheme } = self;
        let mut public_file = file.clone().into_os_string();
        public_file.push(".pub");
        let public_file = PathBuf::from(public_file);

        let failed = |cause: String| Local::new(Exit::Other, "cannot make a key").cause(cause);
        let key = SigningKey::generate(match scheme {
            KeyScheme::P256 => Scheme::P256,
            KeyScheme::Ed25519 => Scheme::Ed25519,
        })
        .map_err(|error| failed(error.to_string()))?;
        let private = key.to_pem().map_err(|error| failed(error.to_string()))?;
        let public = key.public();
        write_new(&file, private.reveal(), 0o600)?;
        write_new(&public_file, &public.to_pem(), 0o644)?;
        session.printer.show(&Keys {
            private: file,
            public: public_file,
            fingerprint: public.fingerprint().to_string(),
        })?;
        Ok(Exit::Ok)
    }
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| {
        let failure = |exit| Local::new(exit, format!("cannot write the key `{}`", path.display()));
        match error.kind() {
            io::ErrorKind::AlreadyExists => failure(Exit::Conflict)
                .cause("the file exists, and a key is never overwritten")
                .hint("give another name, or move the file away")
                .into(),
            _ => failure(Exit::Other).cause(error.to_string()).into(),
        }
    })
}

struct Keys {
    private: PathBuf,
    public: PathBuf,
    fingerprint: String,
}

impl View for Keys {
    fn kind(&self) -> &'static str {
        "KeyPair"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(vec![json!({
            "privateKey": self.private.display().to_string(),
            "publicKey": self.public.display().to_string(),
            "fingerprint": self.fingerprint,
        })])
    }

    fn names(&self) -> Vec<String> {
        vec![self.private.display().to_string(), self.public.display().to_string()]
    }

    fn text(&self) -> Vec<Block> {
        vec![Block::Facts(vec![
            ("private key", self.private.display().to_string()),
            ("public key", self.public.display().to_string()),
            ("fingerprint", self.fingerprint.clone()),
        ])]
    }

    fn nothing(&self) -> &'static str {
        "no key"
    }
}
