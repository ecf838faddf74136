//! Which signatures an image needs: the `[[signer]]` and `[[image]]` sections of the policy files.
//!
//! Owns these two sections and their text; `[[rule]]` in the same files belongs to whoever decides who may do what, and is
//! passed over here. Deny by default: an empty policy lets no image through, an unknown key is an error with file, line and
//! column, never a thing to skip. Must never read a file itself: texts and keys come from the caller, who checks owner and
//! mode.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::IgnoredAny};
use toml::Spanned;

use crate::{
    digest::Digest,
    key::{KeyError, VerifyingKey},
    limits,
    metadata::position,
    name::{Name, NotAName},
    scope::Scope,
};

/// What images must bring along. The default lets none through.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePolicy {
    /// One for each scope; only the most specific one that matches a reference applies to it.
    pub images: Vec<ImageRule>,
}

/// One `[[image]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRule {
    /// The references it speaks about.
    pub scope: Scope,
    /// What they need.
    pub trust: Trust,
    /// Refuse a reference that has no digest.
    pub require_digest: bool,
}

/// What an image of a scope needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trust {
    /// `unsigned = "allow"`: nothing.
    Anything,
    /// `require`: all of these. Never empty.
    All(Vec<Requirement>),
}

/// One element of `require`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Requirement {
    /// `{ signed_by, threshold, identity }`
    Signed {
        /// Whose signatures count, by name. Never empty.
        signers: BTreeMap<String, VerifyingKey>,
        /// How many different keys must have signed; at least one, at most as many as there are.
        threshold: usize,
        /// What the name in the signature must say.
        identity: Identity,
    },
    /// `{ digest }`: the image is one of these.
    Digest(BTreeSet<Digest>),
}

/// What the name in a signature must say. A signature is over a name and a digest; one that another repository's image
/// earned must not pass here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// Registry and repository are those of the reference.
    #[default]
    Repository,
    /// Whatever it says: for mirrors, where images keep the signatures of their origin.
    Any,
}

/// A policy file that is refused, and with it the whole policy.
#[derive(Debug, thiserror::Error)]
#[error("policy is refused at {file}:{line}:{column}")]
pub struct PolicyError {
    /// The file's name, as the caller gave it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong there.
    #[source]
    pub fault: PolicyFault,
}

/// What is wrong in a policy file.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFault {
    /// Syntax, an unknown key, or a value of the wrong type.
    #[error("{0}")]
    Toml(String),
    /// A file that nobody writes by hand.
    #[error("the file has {0} bytes; at most {limit} are read", limit = limits::CONFIG_FILE)]
    TooLong(usize),
    /// Another grammar.
    #[error("version {0} is not known: this program reads version 1")]
    Version(i64),
    /// Not a name.
    #[error(transparent)]
    SignerName(NotAName),
    /// Two signers of one name.
    #[error("there is a signer `{0}` already")]
    SignerTwice(String),
    /// A path that depends on where the daemon was started.
    #[error("`{0}` is not an absolute path")]
    RelativeKey(PathBuf),
    /// The key file cannot be read.
    #[error("cannot read the key `{path}`")]
    KeyFile {
        /// As written.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The key file is no public key.
    #[error("`{path}` is not a public key")]
    Key {
        /// As written.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// Two sections for one scope.
    #[error("there is an `[[image]]` for the scope `{0}` already: write all requirements into one")]
    ScopeTwice(Scope),
    /// Neither a requirement nor a waiver.
    #[error("an `[[image]]` needs `require = [..]`, or `unsigned = \"allow\"` if anything may pass")]
    NothingRequired,
    /// A waiver that would make requirements void.
    #[error("`unsigned = \"allow\"` and `require` exclude each other")]
    Contradiction,
    /// `{}`, or both kinds in one.
    #[error(
        "a requirement is either `{{ signed_by = [..] }}` or `{{ digest = [..] }}`; two requirements are two elements"
    )]
    RequirementKind,
    /// `threshold` or `identity` beside `digest`.
    #[error("`threshold` and `identity` belong to `signed_by`")]
    NotOfDigest,
    /// An empty list can be fulfilled by nobody.
    #[error("`{0}` is empty")]
    EmptyList(&'static str),
    /// Named, but nowhere defined.
    #[error("there is no signer `{name}`; known are: {known}")]
    UnknownSigner {
        /// As written.
        name: String,
        /// The signers of all files.
        known: String,
    },
    /// Zero, or more than can sign.
    #[error("threshold {threshold} of {keys} different keys: it must be from 1 to {keys}")]
    Threshold {
        /// As written.
        threshold: usize,
        /// Different keys among the signers.
        keys: usize,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    version: Spanned<i64>,
    #[serde(default)]
    signer: Vec<SignerText>,
    #[serde(default)]
    image: Vec<Spanned<ImageText>>,
    #[serde(default, rename = "rule")]
    _rules_of_another_reader: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignerText {
    name: Spanned<String>,
    key: Spanned<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageText {
    scope: Spanned<Scope>,
    unsigned: Option<Unsigned>,
    require: Option<Spanned<Vec<Spanned<RequirementText>>>>,
    #[serde(default)]
    require_digest: bool,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Unsigned {
    Allow,
    Deny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequirementText {
    signed_by: Option<Vec<Spanned<String>>>,
    threshold: Option<usize>,
    identity: Option<Identity>,
    digest: Option<Vec<Digest>>,
}

/// The text of one policy file, and its name for messages.
#[derive(Debug, Clone, Copy)]
pub struct PolicyText<'a> {
    /// As a person would look for it.
    pub file: &'a str,
    /// The whole of it.
    pub text: &'a str,
}

impl PolicyText<'_> {
    fn fault(&self, offset: usize, fault: PolicyFault) -> PolicyError {
        let (line, column) = position(self.text, offset);
        PolicyError { file: self.file.to_owned(), line, column, fault }
    }

    fn parse(&self) -> Result<FileText, PolicyError> {
        if u64::try_from(self.text.len()).is_ok_and(|length| length > limits::CONFIG_FILE) {
            return Err(self.fault(0, PolicyFault::TooLong(self.text.len())));
        }
        let file: FileText = toml::from_str(self.text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            self.fault(offset, PolicyFault::Toml(error.message().to_owned()))
        })?;
        match *file.version.get_ref() {
            1 => Ok(file),
            other => Err(self.fault(file.version.span().start, PolicyFault::Version(other))),
        }
    }
}

impl ImagePolicy {
    /// Reads all policy files as one: signers and scopes are shared among them. `key` reads a public key's file.
    ///
    /// # Errors
    /// [`PolicyError`]: then nothing of the policy counts.
    pub fn parse(
        files: &[PolicyText<'_>],
        mut key: impl FnMut(&Path) -> io::Result<String>,
    ) -> Result<Self, PolicyError> {
        let parsed = files.iter().map(|file| Ok((file, file.parse()?))).collect::<Result<Vec<_>, PolicyError>>()?;
        let mut signers = BTreeMap::new();
        for (file, text) in &parsed {
            for signer in &text.signer {
                let (name, verifying) = read_signer(file, signer, &mut key)?;
                if signers.insert(name.clone(), verifying).is_some() {
                    return Err(file.fault(signer.name.span().start, PolicyFault::SignerTwice(name)));
                }
            }
        }
        let mut images: Vec<ImageRule> = Vec::new();
        for (file, text) in &parsed {
            for image in &text.image {
                let rule = read_image(file, image, &signers)?;
                if images.iter().any(|other| other.scope == rule.scope) {
                    let offset = image.get_ref().scope.span().start;
                    return Err(file.fault(offset, PolicyFault::ScopeTwice(rule.scope)));
                }
                images.push(rule);
            }
        }
        Ok(Self { images })
    }
}

/// The text of a policy file that trusts one more signer for a scope: what `bpfctl trust add` writes into `policy.d`.
#[must_use]
pub fn trusting(signer: &Name, key: &Path, scope: &Scope) -> String {
    let text = |value: String| toml::Value::String(value).to_string();
    format!(
        "version = 1\n\n[[signer]]\nname = {name}\nkey = {key}\n\n[[image]]\nscope = {scope}\nrequire = [{{ signed_by = [{name}] }}]\n",
        name = text(signer.to_string()),
        key = text(key.display().to_string()),
        scope = text(scope.to_string()),
    )
}

fn read_signer(
    file: &PolicyText<'_>,
    signer: &SignerText,
    key: &mut impl FnMut(&Path) -> io::Result<String>,
) -> Result<(String, VerifyingKey), PolicyError> {
    let name: Name = signer
        .name
        .get_ref()
        .parse()
        .map_err(|not_a_name| file.fault(signer.name.span().start, PolicyFault::SignerName(not_a_name)))?;
    let path = signer.key.get_ref();
    let at_key = |fault| file.fault(signer.key.span().start, fault);
    if !path.is_absolute() {
        return Err(at_key(PolicyFault::RelativeKey(path.clone())));
    }
    let pem = key(path).map_err(|source| at_key(PolicyFault::KeyFile { path: path.clone(), source }))?;
    let verifying = VerifyingKey::from_pem(&pem);
    let verifying = verifying.map_err(|source| at_key(PolicyFault::Key { path: path.clone(), source }))?;
    Ok((name.to_string(), verifying))
}

fn read_image(
    file: &PolicyText<'_>,
    image: &Spanned<ImageText>,
    signers: &BTreeMap<String, VerifyingKey>,
) -> Result<ImageRule, PolicyError> {
    let ImageText { scope, unsigned, require, require_digest } = image.get_ref();
    let trust = match (unsigned, require) {
        (Some(Unsigned::Allow), None) => Trust::Anything,
        (Some(Unsigned::Allow), Some(require)) => {
            return Err(file.fault(require.span().start, PolicyFault::Contradiction));
        }
        (None | Some(Unsigned::Deny), None) => return Err(file.fault(image.span().start, PolicyFault::NothingRequired)),
        (None | Some(Unsigned::Deny), Some(require)) => {
            if require.get_ref().is_empty() {
                return Err(file.fault(require.span().start, PolicyFault::EmptyList("require")));
            }
            let requirements = require.get_ref().iter().map(|text| read_requirement(file, text, signers));
            Trust::All(requirements.collect::<Result<_, _>>()?)
        }
    };
    Ok(ImageRule { scope: scope.get_ref().clone(), trust, require_digest: *require_digest })
}

fn read_requirement(
    file: &PolicyText<'_>,
    text: &Spanned<RequirementText>,
    signers: &BTreeMap<String, VerifyingKey>,
) -> Result<Requirement, PolicyError> {
    let here = |fault| file.fault(text.span().start, fault);
    let RequirementText { signed_by, threshold, identity, digest } = text.get_ref();
    match (signed_by, digest) {
        (Some(names), None) => {
            let mut chosen = BTreeMap::new();
            for name in names {
                let Some(key) = signers.get(name.get_ref()) else {
                    let known: Vec<&str> = signers.keys().map(String::as_str).collect();
                    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                    let fault = PolicyFault::UnknownSigner { name: name.get_ref().clone(), known };
                    return Err(file.fault(name.span().start, fault));
                };
                chosen.insert(name.get_ref().clone(), key.clone());
            }
            if chosen.is_empty() {
                return Err(here(PolicyFault::EmptyList("signed_by")));
            }
            let keys = chosen.values().collect::<BTreeSet<_>>().len();
            let threshold = threshold.unwrap_or(1);
            if !(1..=keys).contains(&threshold) {
                return Err(here(PolicyFault::Threshold { threshold, keys }));
            }
            Ok(Requirement::Signed { signers: chosen, threshold, identity: identity.unwrap_or_default() })
        }
        (None, Some(digests)) if digests.is_empty() => Err(here(PolicyFault::EmptyList("digest"))),
        (None, Some(_)) if threshold.is_some() || identity.is_some() => Err(here(PolicyFault::NotOfDigest)),
        (None, Some(digests)) => Ok(Requirement::Digest(digests.iter().copied().collect())),
        (None, None) | (Some(_), Some(_)) => Err(here(PolicyFault::RequirementKind)),
    }
}
