//! The text of the policy files: `[[signer]]`, `[[image]]`, `[[rule]]` and `[[order]]`, read in one pass into a [`Policy`].
//!
//! Deny by default: an unknown key is an error with file, line and column, never a thing to skip. Must never read a file itself: texts and
//! keys come from the caller, who checks owner and mode.
//!
//! Long because each fault stands beside its words.

mod image;
mod order;
mod rule;
mod signer;

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::Deserializer;

use crate::age::NotAnAge;
use crate::builtin;
use crate::glob::BadGlob;
use crate::image::ImageRule;
use crate::name::{Name, NotAName};
use crate::order::{Contradiction, Place, Statement};
use crate::rule::Rule;
use crate::scope::{Scope, ScopeError};
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
    /// Not a name.
    #[error(transparent)]
    RuleId(NotAName),
    /// A name of the daemon's own.
    #[error("`{0}` is the name of a built-in rule: names with `builtin-` are taken")]
    BuiltInId(Name),
    /// Two rules of one name.
    #[error("there is a rule `{id}` already, in {other}")]
    RuleTwice {
        /// The name.
        id: Name,
        /// The file of the first.
        other: String,
    },
    /// A rule that lets in more than it says.
    #[error("rule `{id}` allows something and does not state `{key}`: write `{key}` as in `{example}`")]
    NotStated {
        /// The rule.
        id: Name,
        /// What is missing.
        key: &'static str,
        /// How it is written.
        example: &'static str,
    },
    /// Two orders of one name.
    #[error("there is an order `{id}` already, in {other}")]
    OrderTwice {
        /// The name.
        id: Name,
        /// The file of the first.
        other: String,
    },
    /// Not a name.
    #[error(transparent)]
    OrderId(NotAName),
    /// Neither an app, nor a label, nor a signer.
    #[error("an order has names of apps, labels as `KEY=VALUE`, and signers as `signer:NAME`")]
    OrderMember(#[source] NotAName),
    /// The same twice.
    #[error("`{0}` stands in the list already")]
    MemberTwice(String),
    /// It orders nothing.
    #[error("an `[[order]]` needs `first`, `last` or `before`")]
    OrdersNothing,
    /// More than anybody writes.
    #[error("{found} {what}; at most {limit} are read")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Orders that no chain can have.
    #[error("on `{}` this contradicts {}", .0.chain, contradicted(.0))]
    Orders(Box<Contradiction>),
    /// A condition beside verbs that it has nothing to do with.
    #[error("`{key}` says nothing about the verbs of this rule: it is about `{about}`")]
    SaysNothing {
        /// The condition.
        key: &'static str,
        /// The verbs.
        about: String,
    },
    /// A condition of rules that allow, in one that denies.
    #[error("`{0}` is for rules with `effect = \"allow\"`")]
    OnlyAllows(&'static str),
    /// A word that is none of the known ones.
    #[error("no {what} `{word}`; known are `{known}`")]
    UnknownWord {
        /// What it should be.
        what: &'static str,
        /// As written.
        word: String,
        /// Those there are.
        known: String,
    },
    /// A verb that is none alone.
    #[error("`other-owner` stands beside another verb, as in `verbs = [\"detach\", \"other-owner\"]`")]
    OtherAlone,
    /// `{}`
    #[error("an element of `who` states `user`, `group`, or one of them with `unit`")]
    WhoEmpty,
    /// Whoever may start a process in a unit would be meant.
    #[error("`unit` needs `user` or `group` beside it: anybody's process may be in a unit of that name")]
    UnitAlone,
    /// What no user and no group is called.
    #[error("`{0}` is not the name of a user or group: write the name, not the number")]
    Account(String),
    /// A pattern.
    #[error(transparent)]
    Glob(BadGlob),
    /// From more to less, or beyond all.
    #[error("priorities from {min} to {max}: they go from 0 to 1000, and `min` is at most `max`")]
    Band {
        /// As written.
        min: u32,
        /// As written.
        max: u32,
    },
    /// A scope of a rule.
    #[error("not a scope of images")]
    RuleScope(#[source] ScopeError),
    /// Not a hash.
    #[error(
        "`{0}` is not the hash of a file: write `sha256:` and 64 hexadecimal digits, or `files = \"any\"`; a path proves nothing"
    )]
    FileHash(String),
    /// Not an app.
    #[error("`map_from` has `own`, names of apps, and labels as `KEY=VALUE`")]
    MapOwner(#[source] NotAName),
    /// A quota that allows nothing.
    #[error("a quota of 0 calls keeps everybody out: leave the verbs out of the rule instead")]
    NoCalls,
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
        "a requirement is `{{ signed_by = [..] }}`, `{{ attested_by = [..], predicate = \"..\" }}` or `{{ digest = [..] }}`; two requirements are two elements"
    )]
    RequirementKind,
    /// A key of one kind of requirement, in another.
    #[error("`{key}` belongs to {to}")]
    Belongs {
        /// As written.
        key: &'static str,
        /// Where it may be.
        to: &'static str,
    },
    /// Everything that somebody ever states.
    #[error(
        "`attested_by` needs `predicate`, the type of what is attested, such as `https://slsa.dev/provenance/v1`: 1 to {MAX_PREDICATE} characters"
    )]
    Predicate,
    /// Not an age.
    #[error(transparent)]
    Age(NotAnAge),
    /// No signature has an age here.
    #[error("`max_signature_age` says nothing: the section requires no signature")]
    AgeOfNothing,
    /// A signature by a key alone has no time.
    #[error(
        "nothing says when `{0}` signed: write `log = \"require\"` into its `[[signer]]`, or leave `max_signature_age` out"
    )]
    AgeWithoutLog(String),
    /// What the root decides.
    #[error("`log` is for signers with a `key`: whether a `keyless` signer must use a log is decided by its root")]
    LogOfKeyless,
    /// A root that nothing is asked of.
    #[error("`root` beside `key` says whose transparency log counts: write `log = \"require\"` too")]
    RootWithoutLog,
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

/// Longest type of a predicate, in bytes.
const MAX_PREDICATE: usize = 512;

/// What is contradicted, with the place of each.
fn contradicted(found: &Contradiction) -> String {
    let Contradiction { chain: _, last, others } = found;
    let said = |it: &Statement| format!("{}, where {} runs before {}", it.place, it.earlier, it.later);
    let others: Vec<String> = others.iter().map(said).collect();
    format!("{}: here {} runs before {}", others.join(", and "), last.earlier, last.later)
}

impl PolicyFault {
    fn unknown_signer(name: &str, signers: &BTreeMap<Name, Signer>) -> Self {
        let known: Vec<&str> = signers.keys().map(Name::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Self::UnknownSigner { name: name.to_owned(), known }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    version: Spanned<i64>,
    #[serde(default)]
    signer: Vec<signer::SignerText>,
    #[serde(default)]
    image: Vec<Spanned<image::ImageText>>,
    #[serde(default)]
    rule: Vec<rule::RuleText>,
    #[serde(default)]
    order: Vec<order::OrderText>,
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
        let Place { file, line, column } = self.place(offset);
        PolicyError { file, line, column, fault }
    }

    fn place(&self, offset: usize) -> Place {
        let (line, column) = position(self.text, offset);
        Place { file: self.file.to_owned(), line, column }
    }

    fn parse(&self) -> Result<FileText, PolicyError> {
        if u64::try_from(self.text.len()).is_ok_and(|length| length > limits::CONFIG_FILE) {
            return Err(self.fault(0, PolicyFault::TooLong(self.text.len())));
        }
        let toml = |error: toml::de::Error| {
            let offset = error.span().map_or(0, |span| span.start);
            self.fault(offset, PolicyFault::Toml(error.message().to_owned()))
        };
        let file = Deserializer::parse(self.text).and_then(FileText::deserialize).map_err(toml)?;
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
                let rule = image::read(file, image, &signers)?;
                if images.iter().any(|other| other.scope == rule.scope) {
                    let offset = image.get_ref().scope().span().start;
                    return Err(file.fault(offset, PolicyFault::ScopeTwice(rule.scope)));
                }
                images.push(rule);
            }
        }
        let mut rules: Vec<Rule> = vec![];
        let mut places: BTreeMap<Name, &str> = BTreeMap::new();
        for (file, text) in &parsed {
            for text in &text.rule {
                let rule = text.read(file, &rule::Known { signers: &signers })?;
                if let Some(other) = places.insert(rule.id.clone(), file.file) {
                    let fault = PolicyFault::RuleTwice { id: rule.id, other: other.to_owned() };
                    return Err(file.fault(text.id().span().start, fault));
                }
                rules.push(rule);
            }
        }
        let rules = match rules.is_empty() {
            true => builtin::all(),
            false => std::iter::once(builtin::root()).chain(rules).collect(),
        };
        let orders = order::read(&parsed, &rule::Known { signers: &signers })?;
        Ok(Self {
            files: files.iter().map(|file| file.file.to_owned()).collect(),
            signers,
            images,
            rules: rules.into(),
            orders,
        })
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
