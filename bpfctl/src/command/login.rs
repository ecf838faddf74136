//! `bpfctl login` and `logout`: one registry's user and password in an auth file, checked with the registry first.
//!
//! Must never take a password from the command line, which every user of the host can read, or print one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytecode_image::auth::{AuthError, AuthFile, Credentials, Secret, with_password, without};
use bytecode_image::reference::Registry;
use bytecode_image::registries::Author;
use bytecode_image::transport::{TransportConfig, Welcome, sign_in};
use clap::Args;
use serde_json::{Value, json};

use super::image::{Place, failed, registries};
use crate::client::Session;
use crate::credentials;
use crate::error::{Exit, Failure, Local, error_chain, warn};
use crate::files;
use crate::output::{Block, View};
use crate::password;

/// The file whose credentials the daemon uses.
const SYSTEM: &str = "/etc/bpfd/auth.json";

/// Which file the credentials are in.
#[derive(Debug, Args)]
struct File {
    /// The file, as podman and docker write it [default: $REGISTRY_AUTH_FILE, else podman's]
    #[arg(long, value_name = "FILE", conflicts_with = "system")]
    authfile: Option<PathBuf>,
    /// The daemon's file, /etc/bpfd/auth.json; root only
    #[arg(long)]
    system: bool,
}

/// Log in to a registry
#[derive(Debug, Args)]
#[command(after_help = "\
The registry is asked first whether it accepts the password. The password is then in the file, readable by you alone.

Examples:
  bpfctl login registry.example --username ci --password-stdin < token
  bpfctl login registry.example --username ci --system")]
pub(crate) struct Login {
    /// The registry, as HOST or HOST:PORT
    registry: Registry,
    /// The user there
    #[arg(short, long, value_name = "USER")]
    username: String,
    /// Read the password from standard input, not from the terminal
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    file: File,
    /// How to reach registries [default: ~/.config/bpfd/registries.toml, else /etc/bpfd/registries.toml]
    #[arg(long, value_name = "FILE")]
    registries: Option<PathBuf>,
}

/// Remove a registry's password
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bpfctl logout registry.example")]
pub(crate) struct Logout {
    /// The registry, as HOST or HOST:PORT
    registry: Registry,
    #[command(flatten)]
    file: File,
}

impl Login {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { registry, username, password_stdin, file, registries: given } = self;
        let message = format!("cannot log in to `{registry}`");
        let refuse = |cause: &str| Local::new(Exit::Usage, message.clone()).cause(cause);
        if username.is_empty() || username.contains(':') {
            return Err(refuse("the name of a user is not empty and has no colon").into());
        }
        let place = if file.system { Place::System } else { Place::Users };
        let registries = registries(given.as_ref(), place)?;
        let file = file.path(&message)?;
        let nobody = || refuse("there is no terminal to ask for the password").hint("give --password-stdin");
        let password = if password_stdin { password::piped() } else { password::typed().ok_or_else(nobody)? };
        let password = password.map_err(|error| refuse(&error.to_string()))?;
        if password.reveal().is_empty() {
            return Err(refuse("the password is empty").into());
        }
        let credentials = Credentials::Password { user: username.clone(), password: password.clone() };
        let auth = AuthFile::one(&registry, credentials);
        let config = TransportConfig { registries, auth, author: Author::Trusted, ..TransportConfig::default() };
        match sign_in(&config, &registry).await.map_err(|error| failed(&message, &error))? {
            Welcome::Accepted => {}
            Welcome::Everybody => {
                warn(&format!("`{registry}` does not ask who you are, and did not check the password"), "")
            }
        }
        change(&file, &message, |text| with_password(text, &registry, &username, &password).map(Some))?;
        session.printer.show(&Entry { done: "logged in to", registry, user: Some(username), file })?;
        Ok(Exit::Ok)
    }
}

impl Logout {
    pub(crate) fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { registry, file } = self;
        let message = format!("cannot log out of `{registry}`");
        let file = file.path(&message)?;
        if !change(&file, &message, |text| without(text, &registry))? {
            let cause = format!("`{}` has nothing for it", file.display());
            return Err(Local::new(Exit::NotFound, message).cause(cause).into());
        }
        session.printer.show(&Entry { done: "logged out of", registry, user: None, file })?;
        Ok(Exit::Ok)
    }
}

impl File {
    fn path(self, message: &str) -> Result<PathBuf, Failure> {
        let Self { authfile, system } = self;
        let path = if system { Some(PathBuf::from(SYSTEM)) } else { authfile.or_else(credentials::own_file) };
        let none = || Local::new(Exit::Usage, message).cause("no home directory is set").hint("give --authfile");
        path.ok_or_else(|| none().into())
    }
}

/// Replaces a file, whole or not at all; false, and nothing is written, if `edit` has no other text for it.
fn change(
    file: &Path,
    message: &str,
    edit: impl Fn(&str) -> Result<Option<Secret<String>>, AuthError>,
) -> Result<bool, Failure> {
    let failed = |error: &io::Error| Local::new(Exit::Other, message).cause(format!("`{}`: {error}", file.display()));
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read.map_err(|error| failed(&error))?,
    };
    let unusable = |error: AuthError| {
        Local::new(Exit::Usage, message).cause(format!("`{}`: {}", file.display(), error_chain(&error)))
    };
    let Some(text) = edit(&text).map_err(unusable)? else { return Ok(false) };
    // Everybody may look for registries.toml beside the daemon's file.
    let directory = if file == Path::new(SYSTEM) { 0o755 } else { 0o700 };
    files::replace(file, text.reveal(), directory, 0o600).map_err(|error| failed(&error))?;
    Ok(true)
}

struct Entry {
    done: &'static str,
    registry: Registry,
    user: Option<String>,
    file: PathBuf,
}

impl View for Entry {
    fn kind(&self) -> &'static str {
        "Credentials"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        let file = self.file.display().to_string();
        Ok(vec![json!({ "registry": self.registry.to_string(), "user": self.user, "file": file })])
    }

    fn names(&self) -> Vec<String> {
        vec![self.registry.to_string()]
    }

    fn text(&self) -> Vec<Block> {
        let Self { done, registry, user, file } = self;
        let user = user.as_ref().map(|user| format!(" as {user}")).unwrap_or_default();
        vec![Block::Lines(vec![format!("{done} {registry}{user} ({})", file.display())])]
    }

    fn nothing(&self) -> &'static str {
        "no registry"
    }
}
