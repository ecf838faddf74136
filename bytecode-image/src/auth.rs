//! Credentials for registries: the file that docker and podman write, and the type that keeps a secret out of logs.
//!
//! Which file is read is the caller's choice, since it decides whose credentials are used: `bpfctl` reads the user's, the
//! daemon its own. So is whether helpers are run. Must never run one, look into an environment variable or a home directory, or
//! print what it holds. containers-auth.json(5) is the format.

mod edit;
mod helper;
mod secret;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::Path,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

pub use self::edit::{with_password, without};
pub use self::helper::{Helper, HelperError, HelperFault, HelperName, said};
pub use self::secret::Secret;
use crate::{limits, reference::Registry};

/// What one registry is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Credentials {
    /// A user's name, without a colon, and a password or access token.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: Secret<String>,
    },
    /// What a token server gives tokens for (`identitytoken`, an OAuth2 refresh token).
    IdentityToken(Secret<String>),
}

/// Credentials by registry, or by a prefix of its repositories, and the programs that keep others.
///
/// Serialises with its secrets: for the pipe to the process that asks the registry, and for nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthFile {
    auths: BTreeMap<String, Credentials>,
    /// By registry.
    helpers: BTreeMap<String, Helper>,
    /// For all other registries.
    store: Option<Helper>,
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
    /// Somebody logs in to a registry whose credentials a helper has: registry and program.
    #[error("the auth file leaves `{0}` to the credential helper `{1}`")]
    HasHelper(String, String),
    /// `credsStore` or `credHelpers` with the name of no program.
    #[error("a credential helper in the auth file has a name that is not letters, digits, `.`, `_` and `-`")]
    Helper,
}

impl AuthError {
    fn json(error: &serde_json::Error) -> Self {
        Self::Json { line: error.line(), column: error.column() }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawFile {
    auths: Option<BTreeMap<String, RawEntry>>,
    cred_helpers: Option<BTreeMap<String, String>>,
    creds_store: Option<String>,
}

/// An entry without either says that a helper has the secret.
#[derive(Deserialize)]
struct RawEntry {
    auth: Option<String>,
    identitytoken: Option<String>,
}

impl Credentials {
    /// A user and a password.
    #[must_use]
    pub fn password(user: &str, password: &str) -> Self {
        Self::Password { user: user.to_owned(), password: Secret::new(password.to_owned()) }
    }
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
        let raw: RawFile = serde_json::from_slice(bytes).map_err(|error| AuthError::json(&error))?;
        let helper = |name: &str| name.parse().map(Helper::new).map_err(|_quotes| AuthError::Helper);
        let (mut auths, mut helpers) = (BTreeMap::new(), BTreeMap::new());
        // Two keys can mean one registry: the one that is written as references are wins.
        let plain_last = |key: &String| plain_key(key) == *key;
        let mut entries: Vec<_> = raw.auths.unwrap_or_default().into_iter().collect();
        entries.sort_by_key(|(key, _)| plain_last(key));
        for (key, RawEntry { auth, identitytoken }) in entries {
            let credentials = match (given(identitytoken), given(auth)) {
                (Some(token), _) => Credentials::IdentityToken(Secret::new(token)),
                (None, Some(auth)) => decode(&auth).ok_or_else(|| AuthError::Credentials(key.clone()))?,
                (None, None) => continue,
            };
            auths.insert(plain_key(&key), credentials);
        }
        for (key, name) in raw.cred_helpers.unwrap_or_default() {
            helpers.insert(plain_key(&key), helper(&name)?);
        }
        let store = given(raw.creds_store).map(|name| helper(&name)).transpose()?;
        Ok(Self { auths, helpers, store })
    }

    /// The same credentials for one registry and all its repositories: a user who typed them.
    #[must_use]
    pub fn one(registry: &Registry, credentials: Credentials) -> Self {
        Self { auths: BTreeMap::from([(registry.to_string(), credentials)]), ..Self::default() }
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

    /// What is known about a repository at a host that has these names, by the first name that is known, and no more: what a worker is
    /// given. `None` if nothing is.
    #[must_use]
    pub fn only_one(&self, names: &[String], repository: &str) -> Option<Self> {
        let helper = names.iter().find_map(|name| Some((name.clone(), self.helpers.get(name)?.clone())));
        let found = names.iter().find_map(|name| self.entry(name, repository));
        let auths: BTreeMap<_, _> = found.map(|(key, credentials)| (key, credentials.clone())).into_iter().collect();
        let store = if auths.is_empty() { self.store.clone() } else { None };
        let only = Self { auths, helpers: helper.into_iter().collect(), store };
        (only != Self::default()).then_some(only)
    }

    /// Replaces the helper that has the credentials for one of these names, if one has, by what it says; in what [`AuthFile::only_one`]
    /// gave for the same names. `run` is given the helper and the registry's name there.
    pub fn ask_helper(
        &mut self,
        names: &[String],
        run: impl FnOnce(&HelperName, &str) -> Result<Option<Credentials>, HelperError>,
    ) {
        let (Some(first), Some(helper)) = (names.first(), self.helper(names)) else { return };
        let name = helper.name.clone();
        let key = names.iter().find(|name| self.helpers.contains_key(*name)).unwrap_or(first).clone();
        self.helpers.remove(&key);
        self.store = None;
        match run(&name, helper::server(&key)) {
            Ok(Some(credentials)) => self.auths = BTreeMap::from([(key, credentials)]),
            Ok(None) => {}
            Err(error) => drop(self.helpers.insert(key, Helper::failed(name, &error))),
        }
    }

    /// The helper that was to have the credentials for one of these names, and why it did not give any.
    #[must_use]
    pub fn helper(&self, names: &[String]) -> Option<&Helper> {
        names.iter().find_map(|name| self.helpers.get(name)).or(self.store.as_ref())
    }

    /// Both, with the entries of this one where they agree.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        let Self { auths, helpers, store } = other;
        self.auths = auths.into_iter().chain(self.auths).collect();
        self.helpers = helpers.into_iter().chain(self.helpers).collect();
        self.store = self.store.or(store);
        self
    }
}

/// What is empty is not there, for docker.
fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn decode(auth: &str) -> Option<Credentials> {
    let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    // docker pads with NUL bytes in some versions (docker/cli `decodeAuth` trims them).
    let password = password.trim_end_matches('\0');
    (!user.is_empty()).then(|| Credentials::password(user, password))
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
        file.lookup(registry, repository).map(|credentials| match credentials {
            Credentials::Password { user, .. } => user.as_str(),
            Credentials::IdentityToken(_) => "a token",
        })
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
        assert_eq!(file.lookup("r.example", "x"), Some(&Credentials::password("me", "a:b:c")));
        let shown =
            r#"AuthFile { auths: {"r.example": Password { user: "me", password: *** }}, helpers: {}, store: None }"#;
        assert_eq!(format!("{file:?}"), shown);
    }

    #[test]
    fn dockers_old_urls_mean_their_host() {
        let file = file(&[("https://index.docker.io/v1/", "hub:1"), ("http://r.example:80/v2/", "old:2")]);
        assert_eq!(user(&file, "docker.io", "library/x"), Some("hub"));
        assert_eq!(user(&file, "r.example:80", "x"), Some("old"));
    }

    #[test]
    fn of_two_keys_for_one_registry_the_plain_one_wins() {
        for key in ["https://r.example/v1/", "http://r.example", "r.example/"] {
            assert_eq!(user(&file(&[(key, "url:1"), ("r.example", "plain:2")]), "r.example", "x"), Some("plain"));
        }
    }

    #[test]
    fn an_identity_token_goes_before_the_password_beside_it() {
        let text =
            br#"{"auths":{"r.example":{"auth":"bWU6","identitytoken":"secret"},"s.example":{"identitytoken":""}}}"#;
        let file = AuthFile::parse(text).unwrap();
        let token = Credentials::IdentityToken(Secret::new("secret".to_owned()));
        assert_eq!(file.lookup("r.example", "x"), Some(&token));
        assert_eq!(file.lookup("s.example", "x"), None);
        assert!(!format!("{file:?}").contains("secret"));
    }

    /// What becomes of a host with these names in a file with helpers of each kind: what is asked of whom, and the user then.
    fn asked(names: &[&str]) -> (Option<String>, Option<String>) {
        let text = br#"{"auths":{"a.example":{"auth":"YTox"},"b.example":{"auth":"Yjox"},"d.example":{}},
            "credsStore":"rest","credHelpers":{"b.example":"own","https://index.docker.io/v1/":"hub"}}"#;
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut file = AuthFile::parse(text).unwrap().only_one(&names, "x").unwrap();
        let mut run = None;
        file.ask_helper(&names, |helper, server| {
            run = Some(format!("{} {server}", helper.program()));
            Ok(Some(Credentials::password("helped", "1")))
        });
        assert!(file.helper(&names).is_none());
        (run, names.iter().find_map(|name| user(&file, name, "x")).map(str::to_owned))
    }

    #[test]
    fn a_registrys_own_helper_goes_before_its_entry_and_the_store_after() {
        let helped = |run: &str| (Some(run.to_owned()), Some("helped".to_owned()));
        assert_eq!(asked(&["a.example"]), (None, Some("a".to_owned())));
        assert_eq!(asked(&["b.example"]), helped("docker-credential-own b.example"));
        assert_eq!(asked(&["b.example:443", "b.example"]), helped("docker-credential-own b.example"));
        assert_eq!(asked(&["c.example"]), helped("docker-credential-rest c.example"));
        assert_eq!(asked(&["d.example", "d.example:443"]), helped("docker-credential-rest d.example"));
        assert_eq!(asked(&["docker.io"]), helped("docker-credential-hub https://index.docker.io/v1/"));
    }

    #[test]
    fn a_helper_that_failed_or_was_not_run_is_remembered() {
        let names = ["r.example".to_owned()];
        let mut file = AuthFile::parse(br#"{"credHelpers":{"r.example":"x"}}"#).unwrap();
        let fault = |file: &AuthFile| file.helper(&names).unwrap().fault().to_string();
        assert_eq!(
            fault(&file),
            "the auth file leaves them to `docker-credential-x`, and bpfd runs no credential helpers"
        );
        file.ask_helper(&names, |_, _| Err(HelperError::Slow));
        assert_eq!(fault(&file), "the credential helper `docker-credential-x` failed: it did not end in time");
        for name in ["", "../x", "-x", "x y", "x;y", &"x".repeat(65)] {
            let text = serde_json::json!({"credHelpers": {"r.example": name}}).to_string();
            assert!(matches!(AuthFile::parse(text.as_bytes()), Err(AuthError::Helper)), "{name}");
        }
        for nothing in [r#"{"credsStore":""}"#, r#"{"auths":null,"credsStore":null,"credHelpers":null}"#] {
            assert_eq!(AuthFile::parse(nothing.as_bytes()).unwrap(), AuthFile::default());
        }
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
            file.only_one(&names, repository).unwrap_or_default().auths.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(given(&["a.example"], "x/y"), ["a.example/x"]);
        assert_eq!(given(&["a.example"], "z"), ["a.example"]);
        assert_eq!(given(&["d.example", "b.example", "a.example"], "x"), ["b.example"]);
        assert_eq!(given(&["d.example"], "x"), Vec::<String>::new());
    }
}
