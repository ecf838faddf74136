//! Credentials for registries: the file that docker and podman write, and the type that keeps a secret out of logs.
//!
//! Which file is read is the caller's choice, since it decides whose credentials are used: `bpfctl` reads the user's, the
//! daemon its own. Must never run a credential helper, look into an environment variable or a home directory, or print
//! what it holds. containers-auth.json(5) is the format.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Read},
    path::Path,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use crate::{limits, reference::Registry};

/// A value that `Debug` never shows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Hides a value.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value. Whoever calls this sends it to where it belongs, and nowhere else.
    pub fn reveal(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A user and a password (or access token) for one registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The user's name; never has a colon.
    pub user: String,
    /// The password.
    pub password: Secret<String>,
}

/// Credentials by registry, or by a prefix of its repositories.
///
/// Serialises with its secrets: for the pipe to the process that asks the registry, and for nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthFile {
    auths: BTreeMap<String, Credentials>,
}

/// Why an auth file cannot be used. Never quotes the file: what is wrong in it may be half of a password.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Cannot be opened or read.
    #[error("cannot read the auth file `{path}`")]
    Read {
        /// Its path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Longer than any that a tool wrote.
    #[error("an auth file has more than {} bytes", limits::CONFIG_FILE)]
    TooLong,
    /// Not JSON of the known form.
    #[error("an auth file is not JSON of the form {{\"auths\": {{..}}}}: line {line}, column {column}")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// `auth` is not base64 of `user:password`.
    #[error("the credentials for `{0}` in the auth file are not base64 of `user:password`")]
    Credentials(String),
}

#[derive(Deserialize)]
struct RawFile {
    #[serde(default)]
    auths: BTreeMap<String, RawEntry>,
}

/// `credsStore`, `credHelpers` and `identitytoken` are left alone: they need a helper or another protocol.
#[derive(Deserialize)]
struct RawEntry {
    auth: Option<String>,
}

impl AuthFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`AuthError`].
    pub fn read(path: &Path) -> Result<Self, AuthError> {
        let mut bytes = Vec::new();
        fs::File::open(path)
            .and_then(|file| file.take(limits::CONFIG_FILE + 1).read_to_end(&mut bytes))
            .map_err(|source| AuthError::Read { path: path.display().to_string(), source })?;
        Self::parse(&bytes)
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// [`AuthError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, AuthError> {
        if u64::try_from(bytes.len()).is_ok_and(|length| length > limits::CONFIG_FILE) {
            return Err(AuthError::TooLong);
        }
        let raw: RawFile = serde_json::from_slice(bytes)
            .map_err(|error| AuthError::Json { line: error.line(), column: error.column() })?;
        let mut auths = BTreeMap::new();
        for (key, RawEntry { auth }) in raw.auths {
            // An entry without `auth` says that a helper has the secret.
            if let Some(auth) = auth.filter(|auth| !auth.is_empty()) {
                let credentials = decode(&auth).ok_or_else(|| AuthError::Credentials(key.clone()))?;
                auths.insert(plain_key(&key), credentials);
            }
        }
        Ok(Self { auths })
    }

    /// The same credentials for one registry and all its repositories: a user who typed them.
    #[must_use]
    pub fn one(registry: &Registry, credentials: Credentials) -> Self {
        Self { auths: BTreeMap::from([(registry.to_string(), credentials)]) }
    }

    /// The credentials for a repository: the longest key that is the registry, or the registry and whole leading path
    /// components of the repository.
    #[must_use]
    pub fn lookup(&self, registry: &str, repository: &str) -> Option<&Credentials> {
        self.entry(registry, repository).map(|(_key, credentials)| credentials)
    }

    fn entry(&self, registry: &str, repository: &str) -> Option<(String, &Credentials)> {
        let mut key = format!("{registry}/{repository}");
        loop {
            if let Some(found) = self.auths.get(&key) {
                return Some((key, found));
            }
            key.truncate(key.rfind('/')?);
        }
    }

    /// The one entry that a repository is asked with at a host that has these names, the first that is known: what a worker is given.
    #[must_use]
    pub fn only_one(&self, names: &[String], repository: &str) -> Self {
        let found = names.iter().find_map(|name| self.entry(name, repository));
        Self { auths: found.map(|(key, credentials)| (key, credentials.clone())).into_iter().collect() }
    }
}

fn decode(auth: &str) -> Option<Credentials> {
    let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    // docker pads with NUL bytes in some versions (docker/cli `decodeAuth` trims them).
    let password = password.trim_end_matches('\0');
    (!user.is_empty()).then(|| Credentials { user: user.to_owned(), password: Secret::new(password.to_owned()) })
}

/// docker writes its own registry as a URL of the old API, and old versions wrote URLs for all.
fn plain_key(key: &str) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    match bare {
        Some(url) => {
            let host = url.split('/').next().unwrap_or(url);
            if host == "index.docker.io" { "docker.io".to_owned() } else { host.to_owned() }
        }
        None => key.trim_end_matches('/').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(entries: &[(&str, &str)]) -> AuthFile {
        let auths: BTreeMap<_, _> =
            entries.iter().map(|(key, auth)| (*key, serde_json::json!({"auth": STANDARD.encode(auth)}))).collect();
        AuthFile::parse(serde_json::json!({ "auths": auths }).to_string().as_bytes()).unwrap()
    }

    fn user<'a>(file: &'a AuthFile, registry: &str, repository: &str) -> Option<&'a str> {
        file.lookup(registry, repository).map(|credentials| credentials.user.as_str())
    }

    #[test]
    fn the_longest_key_of_whole_components_wins() {
        let file =
            file(&[("r.example:5000", "all:1"), ("r.example:5000/team", "team:2"), ("r.example:5000/team/x", "x:3")]);
        assert_eq!(user(&file, "r.example:5000", "team/x"), Some("x"));
        assert_eq!(user(&file, "r.example:5000", "team/xy"), Some("team"));
        assert_eq!(user(&file, "r.example:5000", "teams/x"), Some("all"));
        assert_eq!(user(&file, "r.example", "team/x"), None);
        assert_eq!(user(&file, "r.example:50001", "team/x"), None);
    }

    #[test]
    fn a_password_may_hold_colons_and_is_never_shown() {
        let file = file(&[("r.example", "me:a:b:c")]);
        let found = file.lookup("r.example", "x").unwrap();
        assert_eq!(found.password.reveal(), "a:b:c");
        assert_eq!(
            format!("{file:?}"),
            r#"AuthFile { auths: {"r.example": Credentials { user: "me", password: *** }} }"#
        );
    }

    #[test]
    fn dockers_old_urls_mean_their_host() {
        let file = file(&[("https://index.docker.io/v1/", "hub:1"), ("http://r.example:80/v2/", "old:2")]);
        assert_eq!(user(&file, "docker.io", "library/x"), Some("hub"));
        assert_eq!(user(&file, "r.example:80", "x"), Some("old"));
    }

    #[test]
    fn entries_of_helpers_are_left_out() {
        let file = AuthFile::parse(br#"{"auths":{"r.example":{}},"credsStore":"x","credHelpers":{"a":"b"}}"#).unwrap();
        assert_eq!(file, AuthFile::default());
    }

    #[test]
    fn a_bad_file_is_an_error_that_quotes_no_secret() {
        let error = AuthFile::parse(br#"{"auths":{"r.example":{"auth":"c2VjcmV0"}}}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the credentials for `r.example` in the auth file are not base64 of `user:password`"
        );
        let error = AuthFile::parse(b"{\n\"auths\": \"c2VjcmV0\"}").unwrap_err();
        assert!(matches!(error, AuthError::Json { line: 2, .. }), "{error:?}");
        assert!(matches!(AuthFile::read(Path::new("/nonexistent")), Err(AuthError::Read { .. })));
    }

    #[test]
    fn a_worker_is_given_one_entry() {
        let file =
            file(&[("a.example", "a:1"), ("a.example/x", "ax:1"), ("b.example", "b:1"), ("a.example.org", "c:1")]);
        let given = |names: &[&str], repository| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            file.only_one(&names, repository).auths.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(given(&["a.example"], "x/y"), ["a.example/x"]);
        assert_eq!(given(&["a.example"], "z"), ["a.example"]);
        assert_eq!(given(&["d.example", "b.example", "a.example"], "x"), ["b.example"]);
        assert_eq!(given(&["d.example"], "x"), Vec::<String>::new());
    }
}
