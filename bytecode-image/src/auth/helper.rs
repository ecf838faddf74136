//! Programs that keep credentials: docker's credential helpers (docker-credential-helpers, "Development"), by name and by answer.
//!
//! Must never run one, nor quote what one said: it may be half of a password.

use std::{fmt, io, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Credentials, Secret};
use crate::limits;

/// What a helper prints, with a status that is not 0, about a registry that it does not know.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The user that stands for an identity token.
const TOKEN_USER: &str = "<token>";

/// The name of a helper: `NAME` of `docker-credential-NAME`. It is a part of a file's name and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HelperName(String);

/// Not the name of a helper. Does not quote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAHelper;

impl FromStr for HelperName {
    type Err = NotAHelper;

    fn from_str(name: &str) -> Result<Self, NotAHelper> {
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        (begins && name.len() <= 64 && name.chars().all(known)).then(|| Self(name.to_owned())).ok_or(NotAHelper)
    }
}

impl HelperName {
    /// The program's name, to be looked for in `PATH`.
    #[must_use]
    pub fn program(&self) -> String {
        format!("docker-credential-{}", self.0)
    }
}

/// A helper that has a registry's credentials, if it was not run or failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Helper {
    pub(super) name: HelperName,
    failure: Option<String>,
}

impl Helper {
    pub(super) fn new(name: HelperName) -> Self {
        Self { name, failure: None }
    }

    pub(super) fn failed(name: HelperName, error: &HelperError) -> Self {
        let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
        Self { name, failure: Some(format!("{error}{source}")) }
    }

    /// The program's name.
    #[must_use]
    pub fn program(&self) -> String {
        self.name.program()
    }

    /// Why there are no credentials.
    #[must_use]
    pub fn fault(&self) -> HelperFault {
        HelperFault(self.clone())
    }
}

/// Why a helper gave no credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelperFault(Helper);

impl fmt::Display for HelperFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Helper { name, failure } = &self.0;
        let program = name.program();
        match failure {
            Some(failure) => write!(f, "the credential helper `{program}` failed: {failure}"),
            None => write!(f, "the auth file leaves them to `{program}`, and bpfd runs no credential helpers"),
        }
    }
}

impl std::error::Error for HelperFault {}

/// How a helper failed.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// No such program, or its pipes broke.
    #[error("it cannot be run")]
    Run(#[source] io::Error),
    /// It was ended.
    #[error("it did not end in time")]
    Slow,
    /// It says that it failed.
    #[error("it ended with {0}")]
    Status(String),
    /// It said more than credentials have.
    #[error("its answer has more than {} bytes", limits::TOKEN)]
    TooLong,
    /// It said something else.
    #[error("its answer is not JSON with `Username` and `Secret`")]
    Answer,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: Secret<String>,
}

/// What a helper's standard output means; `failed` is its status, if that is not success.
///
/// # Errors
/// [`HelperError`].
pub fn said(output: &[u8], failed: Option<String>) -> Result<Option<Credentials>, HelperError> {
    if u64::try_from(output.len()).is_ok_and(|length| length > limits::TOKEN) {
        return Err(HelperError::TooLong);
    }
    match failed {
        Some(_) if output.trim_ascii() == NOT_FOUND.as_bytes() => return Ok(None),
        Some(status) => return Err(HelperError::Status(status)),
        None => {}
    }
    let Answer { username, secret } = serde_json::from_slice(output).map_err(|_quotes| HelperError::Answer)?;
    Ok(match username.as_str() {
        // Some helpers answer so about what they do not know.
        "" => None,
        TOKEN_USER => Some(Credentials::IdentityToken(secret)),
        _ if username.contains(':') => return Err(HelperError::Answer),
        _ => Some(Credentials::Password { user: username, password: secret }),
    })
}

/// A registry's name as helpers know it: docker files its own under the URL of its first API.
pub(super) fn server(registry: &str) -> &str {
    if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_credentials_a_token_nothing_or_an_error_without_its_words() {
        let ok = |text: &str| said(text.as_bytes(), None).unwrap();
        assert_eq!(
            ok(r#"{"ServerURL":"r","Username":"me","Secret":"s3cret"}"#),
            Some(Credentials::password("me", "s3cret"))
        );
        let token = Credentials::IdentityToken(Secret::new("s3cret".to_owned()));
        assert_eq!(ok(r#"{"Username":"<token>","Secret":"s3cret"}"#), Some(token));
        assert_eq!(ok(r#"{"Username":"","Secret":""}"#), None);
        let failed = |text: &str| said(text.as_bytes(), Some("exit status: 1".to_owned()));
        assert_eq!(failed("credentials not found in native keychain\n").unwrap(), None);
        for (outcome, expected) in [
            (failed("s3cret"), "it ended with exit status: 1"),
            (said(b"s3cret", None), "its answer is not JSON with `Username` and `Secret`"),
            (
                said(br#"{"Username":"a:b","Secret":"s3cret"}"#, None),
                "its answer is not JSON with `Username` and `Secret`",
            ),
            (said(&[b'x'; (64 << 10) + 1], None), "its answer has more than 65536 bytes"),
        ] {
            assert_eq!(outcome.unwrap_err().to_string(), expected);
        }
    }
}
