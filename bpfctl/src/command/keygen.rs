//! `bpfctl keygen`: a pair of keys to sign images with. The private key never leaves this machine: nothing sends it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytecode_image::key::{Scheme, SigningKey};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::client::Session;
use crate::error::{Exit, Failure, Local, warn};
use crate::output::{Block, View};

/// Make a pair of keys to sign images with
#[derive(Debug, Args)]
#[command(after_help = "\
Writes the private key, readable by you alone, and the public key beside it with `.pub` at its end. An existing file is never \
overwritten, and a pair is written whole or not at all.

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
        // Both files are there before one is written: half a pair is of no use.
        let mut private_half = NewFile::create(&file, 0o600)?;
        let mut public_half = NewFile::create(&public_file, 0o644)?;
        private_half.write(private.reveal())?;
        public_half.write(&public.to_pem())?;
        private_half.keep();
        public_half.keep();
        session.printer.show(&Keys {
            private: file,
            public: public_file,
            fingerprint: public.fingerprint().to_string(),
        })?;
        Ok(Exit::Ok)
    }
}

/// A file that was not there before. Unless it is kept it is taken away again.
struct NewFile<'a> {
    path: &'a Path,
    file: File,
    fate: Fate,
}

#[derive(PartialEq, Eq)]
enum Fate {
    Goes,
    Stays,
}

impl<'a> NewFile<'a> {
    fn create(path: &'a Path, mode: u32) -> Result<Self, Failure> {
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => refused(path, Exit::Conflict)
                .cause("the file exists, and a key is never overwritten")
                .hint("give another name, or move the file away"),
            _ => refused(path, Exit::Other).cause(error.to_string()),
        })?;
        Ok(Self { path, file, fate: Fate::Goes })
    }

    fn write(&mut self, text: &str) -> Result<(), Failure> {
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_all());
        written.map_err(|error| refused(self.path, Exit::Other).cause(error.to_string()).into())
    }

    fn keep(mut self) {
        self.fate = Fate::Stays;
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if self.fate == Fate::Goes
            && let Err(error) = fs::remove_file(self.path)
        {
            warn(&format!("cannot take `{}` away again: {error}", self.path.display()), "");
        }
    }
}

fn refused(path: &Path, exit: Exit) -> Local {
    Local::new(exit, format!("cannot write the key `{}`", path.display()))
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
