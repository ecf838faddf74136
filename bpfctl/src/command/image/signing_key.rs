//! The private key of `image sign` and `image attest`. The key and its password are read here and go nowhere.

use std::env;
use std::path::PathBuf;

use bytecode_image::auth::Secret;
use bytecode_image::key::{KeyError, SigningKey};
use clap::Args;

use crate::error::{Exit, Failure, Local, error_chain};
use crate::{files, password};

/// Where cosign finds the password, and so do scripts that were written for it.
const VARIABLE: &str = "COSIGN_PASSWORD";

/// Which key signs.
#[derive(Debug, Args)]
pub(super) struct KeyFile {
    /// Your private key, a PEM file; also one that cosign encrypted
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// A file with the password of an encrypted key [default: $COSIGN_PASSWORD, else you are asked]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl KeyFile {
    pub(super) fn read(self) -> Result<SigningKey, Failure> {
        let Self { key: file, password_file } = self;
        let refuse = || Local::new(Exit::Usage, format!("cannot use the key `{}`", file.display()));
        let text = files::key(&file)?;
        let key = match SigningKey::from_pem(&text) {
            Err(KeyError::NeedsPassword) => {
                SigningKey::from_encrypted_pem(&text, &key_password(password_file, &refuse)?)
            }
            plain => plain,
        };
        key.map_err(|error| refuse().cause(error_chain(&error)).into())
    }
}

fn key_password(file: Option<PathBuf>, refuse: &impl Fn() -> Local) -> Result<Secret<String>, Failure> {
    if let Some(file) = file {
        return Ok(Secret::new(password::line(files::key(&file)?)));
    }
    match env::var(VARIABLE) {
        Ok(password) => Ok(Secret::new(password)),
        Err(env::VarError::NotUnicode(_)) => Err(refuse().cause(format!("{VARIABLE} is not UTF-8")).into()),
        Err(env::VarError::NotPresent) => match password::typed() {
            Some(typed) => typed.map_err(|error| refuse().cause(error.to_string()).into()),
            None => Err(refuse()
                .cause("the private key is encrypted, and there is no terminal to ask for its password")
                .hint(format!("give --password-file, or set {VARIABLE}"))
                .into()),
        },
    }
}
