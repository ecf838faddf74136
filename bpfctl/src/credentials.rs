//! The caller's credentials for registries: the auth files of podman and docker, in their order, and the helpers that these name.
//!
//! Must never send any of it to the daemon, print a secret, or take two files for one registry: the first that knows it is right.

mod helper;

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytecode_image::auth::AuthFile;
use bytecode_image::reference::Reference;
use bytecode_image::registries::Registries;

use crate::error::{Exit, Failure, Local, error_chain};

/// A helper may ask its user for a passphrase.
const HELPER: Duration = Duration::from_secs(60);

/// What a repository and its mirrors are told, from the file that was given, or from the user's.
pub(crate) fn of(registries: &Registries, reference: &Reference, given: Option<&Path>) -> Result<AuthFile, Failure> {
    let files = match given {
        Some(path) => vec![path.to_path_buf()],
        None => usual_files().into_iter().filter(|path| path.is_file()).collect(),
    };
    let mut all = AuthFile::default();
    for endpoint in registries.endpoints(reference) {
        let names = registries.auth_names(reference, &endpoint);
        for path in &files {
            if let Some(mut found) = read(path)?.only_one(&names, reference.repository()) {
                found.ask_helper(&names, |name, server| helper::get(Path::new(&name.program()), server, HELPER));
                all = all.and(found);
                break;
            }
        }
    }
    Ok(all)
}

/// The file that a login writes: the first that is read.
pub(crate) fn own_file() -> Option<PathBuf> {
    usual_files().into_iter().next()
}

fn read(path: &Path) -> Result<AuthFile, Failure> {
    AuthFile::read(path).map_err(|error| {
        let message = format!("cannot read credentials from `{}`", path.display());
        Local::new(Exit::Usage, message).cause(error_chain(&error)).into()
    })
}

/// In the order of containers-auth.json(5); whoever names one file means that one.
fn usual_files() -> Vec<PathBuf> {
    if let Some(named) = variable("REGISTRY_AUTH_FILE") {
        return vec![named];
    }
    let runtime = variable("XDG_RUNTIME_DIR").map(|runtime| runtime.join("containers/auth.json"));
    let config = directory("XDG_CONFIG_HOME", ".config").map(|config| config.join("containers/auth.json"));
    let docker = variable("DOCKER_CONFIG").or_else(|| variable("HOME").map(|home| home.join(".docker")));
    let docker = docker.map(|docker| docker.join("config.json"));
    [runtime, config, docker].into_iter().flatten().collect()
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// A directory of the XDG base directory specification: its variable, else below the home directory.
pub(crate) fn directory(name: &str, below_home: &str) -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    set(name).or_else(|| set("HOME").map(|home| home.join(below_home)))
}
