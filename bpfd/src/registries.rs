//! Where registries are and what they are told of us: `registries.toml` and `auth.json` of the daemon, never a caller's.
//!
//! The second may come as a credential of systemd instead. Read anew for each pull, so that `podman login --authfile` needs no reload and no secret stays in memory; read once when the
//! daemon starts, so that a bad file stops it. Must never hand out credentials for another registry than the one that is asked.

use std::path::{Path, PathBuf};

use bytecode_image::auth::{AuthError, AuthFile};
use bytecode_image::reference::Reference;
use bytecode_image::registries::{Author, CertificateError, Endpoint, Registries, RegistriesError};
use bytecode_image::transport::{Timeouts, TransportConfig};

use crate::etc::{self, EtcError};
use crate::layout::Layout;

/// The name of the auth file, and of the credential that takes its place (systemd.exec(5), `LoadCredential=`).
const AUTH: &str = "auth.json";
/// Where systemd has put the credentials of a service.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// The two files.
#[derive(Clone, Debug)]
pub struct RegistryFiles {
    registries: PathBuf,
    auth: PathBuf,
    /// That systemd may have given: read in place of the auth file if it is there.
    credential: Option<PathBuf>,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryFilesError {
    /// It cannot be read, or others could have written it.
    #[error(transparent)]
    File(#[from] EtcError),
    /// `registries.toml`, with line and column.
    #[error(transparent)]
    Registries(#[from] RegistriesError),
    /// A file of certificate authorities.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// `auth.json`.
    #[error("`{}` is no auth file", .path.display())]
    Auth {
        /// Which.
        path: PathBuf,
        /// Why; quotes no secret.
        source: AuthError,
    },
}

impl RegistryFiles {
    /// Checks both once. Absent ones are empty.
    pub fn open(layout: &Layout) -> Result<Self, RegistryFilesError> {
        Self::open_with(layout, std::env::var_os(CREDENTIALS_DIRECTORY).map(PathBuf::from))
    }

    fn open_with(layout: &Layout, credentials: Option<PathBuf>) -> Result<Self, RegistryFilesError> {
        let credential = credentials.map(|directory| directory.join(AUTH));
        let files = Self { registries: layout.etc.join("registries.toml"), auth: layout.etc.join(AUTH), credential };
        files.registries()?;
        files.auth()?;
        Ok(files)
    }

    /// The directory that they are in.
    pub fn etc(&self) -> &Path {
        self.registries.parent().unwrap_or(Path::new("/"))
    }

    /// What a transport must know to ask for a reference at each endpoint, mirrors first, its registry itself last: the credentials for
    /// that repository there, and no others.
    pub fn transports(
        &self,
        reference: &Reference,
        author: Author,
        timeouts: Timeouts,
    ) -> Result<Vec<TransportConfig>, RegistryFilesError> {
        let (registries, auth) = (self.registries()?, self.auth()?);
        let endpoints = registries.endpoints(reference);
        let transport = |endpoint: Endpoint| {
            let names = registries.auth_names(reference, &endpoint);
            let auth = auth.only_one(&names, reference.repository()).unwrap_or_default();
            TransportConfig {
                registries: registries.clone(),
                auth,
                timeouts: timeouts.clone(),
                author,
                only: Some(endpoint),
            }
        };
        Ok(endpoints.into_iter().map(transport).collect())
    }

    fn registries(&self) -> Result<Registries, RegistryFilesError> {
        let text = etc::read(&self.registries)?.unwrap_or_default();
        let mut registries = Registries::parse(&text, &shown(&self.registries))?;
        registries.read_certificates(etc::named)?;
        Ok(registries)
    }

    fn auth(&self) -> Result<AuthFile, RegistryFilesError> {
        for path in self.credential.iter().chain([&self.auth]) {
            if let Some(text) = etc::read(path)? {
                let read = AuthFile::parse(text.as_bytes());
                return read.map_err(|source| RegistryFilesError::Auth { path: path.clone(), source });
            }
        }
        Ok(AuthFile::default())
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use bytecode_image::auth::Credentials;

    use super::*;

    fn files(registries: &str, auth: &str) -> (tempfile::TempDir, Result<RegistryFiles, RegistryFilesError>) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(Some(dir.path()));
        etc::replace(&layout.etc.join("registries.toml"), registries).unwrap();
        etc::replace(&layout.etc.join("auth.json"), auth).unwrap();
        let opened = RegistryFiles::open(&layout);
        (dir, opened)
    }

    #[test]
    fn each_endpoint_is_asked_with_its_own_credentials_alone() {
        // `me:one`, `me:two`, `me:three`, `me:four`.
        let auth = r#"{"auths": {"r.example": {"auth": "bWU6b25l"}, "other.example": {"auth": "bWU6dHdv"},
                       "10.0.0.9:5000": {"auth": "bWU6dGhyZWU="}, "m.example": {"auth": "bWU6Zm91cg=="},
                       "r.example/x": {"auth": "bWU6dHdv"}}}"#;
        let registries = "[[registry]]\nname = \"r.example\"\nendpoint = \"10.0.0.9:5000\"\nhttp = true\n\
                          mirrors = [{ endpoint = \"m.example\" }]\n";
        let (_dir, files) = files(registries, auth);
        let reference: Reference = "r.example/a:b".parse().unwrap();
        let transports = files.unwrap().transports(&reference, Author::Trusted, Timeouts::default()).unwrap();
        let names = ["r.example", "10.0.0.9:5000", "m.example", "other.example", "r.example/x"];
        let had = |config: &TransportConfig| names.map(|name| config.auth.lookup(name, "a").is_some());
        let asked: Vec<_> = transports.iter().map(|config| config.only.as_ref().unwrap().origin()).collect();
        assert_eq!(asked, ["https://m.example:443", "http://10.0.0.9:5000"]);
        assert_eq!(had(&transports[0]), [false, false, true, false, false]);
        assert_eq!(had(&transports[1]), [true, false, false, false, true], "by the first name that is known");
        assert!(
            transports[1]
                .auth
                .lookup("r.example", "x")
                .is_some_and(|found| *found == Credentials::password("me", "one"))
        );
    }

    #[test]
    fn credentials_without_a_port_leave_for_a_mirror_at_the_usual_port() {
        // `me:one`
        let auth = r#"{"auths": {"m.example": {"auth": "bWU6b25l"}, "n.example": {"auth": "bWU6b25l"}}}"#;
        let registries = "[[registry]]\nname = \"r.example\"\n\
                          mirrors = [{ endpoint = \"m.example\" }, { endpoint = \"n.example:5000\" }]\n";
        let (_dir, files) = files(registries, auth);
        let transports =
            files.unwrap().transports(&"r.example/a:b".parse().unwrap(), Author::Trusted, Timeouts::default()).unwrap();
        let has = |registry: &str| transports.iter().any(|config| config.auth.lookup(registry, "a").is_some());
        assert!(has("m.example") && !has("n.example"));
    }

    #[test]
    fn a_credential_of_systemd_takes_the_place_of_the_auth_file() {
        // `me:one`, `me:two`
        let (dir, _) = files("", r#"{"auths": {"r.example": {"auth": "bWU6b25l"}}}"#);
        let layout = Layout::new(Some(dir.path()));
        let credentials = dir.path().join("credentials");
        let had = || {
            let files = RegistryFiles::open_with(&layout, Some(credentials.clone()))?;
            let reference: Reference = "r.example/a:b".parse().unwrap();
            let transports = files.transports(&reference, Author::Trusted, Timeouts::default())?;
            Ok(transports[0].auth.lookup("r.example", "a").cloned())
        };
        let password = |password| Some(Credentials::password("me", password));
        let without: Result<_, RegistryFilesError> = had();
        assert_eq!(without.unwrap(), password("one"), "systemd gave none of that name");
        etc::replace(&credentials.join(AUTH), r#"{"auths": {"r.example": {"auth": "bWU6dHdv"}}}"#).unwrap();
        assert_eq!(had().unwrap(), password("two"));
        etc::replace(&credentials.join(AUTH), "{").unwrap();
        let said = had().unwrap_err().to_string();
        assert_eq!(said, format!("`{}` is no auth file", credentials.join(AUTH).display()));
    }

    #[test]
    fn a_bad_file_is_named_with_its_place() {
        let (dir, opened) = files("[[registry]]\nname = \"r.example\"\nhtpp = true\n", "{}");
        let said = opened.unwrap_err().to_string();
        let file = dir.path().join("etc/bpfd/registries.toml");
        assert!(said.starts_with(&format!("{}:3:1: unknown field `htpp`", file.display())), "{said}");
        let (_dir, opened) = files("", "{\"auths\": 1}");
        assert!(matches!(opened, Err(RegistryFilesError::Auth { .. })));
    }

    #[test]
    fn no_files_are_no_registries() {
        let dir = tempfile::tempdir().unwrap();
        assert!(RegistryFiles::open(&Layout::new(Some(dir.path()))).is_ok());
    }
}
