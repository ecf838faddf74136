//! The text of the policy files: `[[signer]]` and `[[image]]`, read in one pass into a [`Policy`].
//!
//! Deny by default: an unknown key is an error with file, line and column, never a thing to skip, and so is a `[[rule]]`, which nobody
//! reads yet. Must never read a file itself: texts and keys come from the caller, who checks owner and mode.

mod signer;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, Deserializer};

use crate::digest::Digest;
use crate::image::{Identity, ImageRule, Requirement, Trust};
use crate::name::{Name, NotAName};
use crate::scope::Scope;
use crate::signer::{IdentitiesError, Signer};
use crate::{Policy, limits, position};

pub use self::signer::{KeyFault, Named};

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
    /// A rule that nobody reads would not hold.
    #[error("this version does not support `[[rule]]`")]
    Rule,
    /// Two signers of one name.
    #[error("there is a signer `{0}` already")]
    SignerTwice(Name),
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
        source: Box<dyn Error + Send + Sync>,
    },
    /// Neither a key nor an identity, or both.
    #[error("a signer has either `key` or `keyless`")]
    SignerKind,
    /// Nobody, or everybody.
    #[error(transparent)]
    Identities(IdentitiesError),
    /// The root's file cannot be read.
    #[error("cannot read the trusted root `{path}`")]
    RootFile {
        /// As written.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The root's file is no trusted root.
    #[error("`{path}` is not a trusted root")]
    Root {
        /// As written.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
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
    signer: Vec<signer::SignerText>,
    #[serde(default)]
    image: Vec<Spanned<ImageText>>,
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
        let toml = |error: toml::de::Error| {
            let offset = error.span().map_or(0, |span| span.start);
            self.fault(offset, PolicyFault::Toml(error.message().to_owned()))
        };
        let table = DeTable::parse(self.text).map_err(toml)?;
        if let Some((key, _)) = table.get_ref().iter().find(|(key, _)| key.get_ref() == "rule") {
            return Err(self.fault(key.span().start, PolicyFault::Rule));
        }
        let file = FileText::deserialize(Deserializer::from(table)).map_err(toml)?;
        match *file.version.get_ref() {
            1 => Ok(file),
            other => Err(self.fault(file.version.span().start, PolicyFault::Version(other))),
        }
    }
}

impl Policy {
    /// Reads all policy files as one: signers and scopes are shared among them.
    ///
    /// # Errors
    /// [`PolicyError`]: then nothing of the policy counts.
    pub fn read(files: &[PolicyText<'_>], mut named: impl Named) -> Result<Self, PolicyError> {
        let parsed = files.iter().map(|file| Ok((file, file.parse()?))).collect::<Result<Vec<_>, PolicyError>>()?;
        let mut signers = BTreeMap::new();
        for (file, text) in &parsed {
            for signer in &text.signer {
                let (name, read) = signer.read(file, &mut named)?;
                if signers.insert(name.clone(), read).is_some() {
                    return Err(file.fault(signer.name().span().start, PolicyFault::SignerTwice(name)));
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
        Ok(Self { files: files.iter().map(|file| file.file.to_owned()).collect(), signers, images })
    }
}

/// The text of a policy file that trusts one more signer for a scope: what `bpfctl trust add` writes into `policy.d`.
#[must_use]
pub fn trusting(signer: &Name, key: &Path, scope: &Scope) -> String {
    let quoted = |text: String| toml::Value::String(text).to_string();
    let (key, scope) = (quoted(key.display().to_string()), quoted(scope.to_string()));
    format!(
        "# Written by `bpfctl trust add`.\nversion = 1\n\n[[signer]]\nname = \"{signer}\"\nkey = {key}\n\n\
         [[image]]\nscope = {scope}\nrequire = [{{ signed_by = [\"{signer}\"] }}]\n"
    )
}

fn read_image(
    file: &PolicyText<'_>,
    image: &Spanned<ImageText>,
    signers: &BTreeMap<Name, Signer>,
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
    signers: &BTreeMap<Name, Signer>,
) -> Result<Requirement, PolicyError> {
    let here = |fault| file.fault(text.span().start, fault);
    let RequirementText { signed_by, threshold, identity, digest } = text.get_ref();
    match (signed_by, digest) {
        (Some(names), None) => {
            let mut chosen = BTreeMap::new();
            for name in names {
                let Some(key) = signers.get(name.get_ref().as_str()) else {
                    let known: Vec<&str> = signers.keys().map(Name::as_str).collect();
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
