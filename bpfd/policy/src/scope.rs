//! Which part of policy speaks about a reference: scope patterns, and the most specific of those that match.
//!
//! Four forms, most specific first: `HOST/REPO:TAG`, `HOST/REPO`, `HOST/NAMESPACE/**` (the longer the more specific),
//! `HOST`. There are no partial wildcards: one that matches half a name matches a name somebody else may register. Must
//! never look at anything but the reference and the patterns.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::reference::{
    MAX_REFERENCE, Reference, ReferenceError, Registry, check_characters, check_repository, check_tag, in_full,
};

/// What images an `[[image]]` section or a rule's `source` speaks about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    registry: Registry,
    extent: Extent,
}

/// How much of the registry; declared from the widest to the narrowest, which is how they are ordered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Extent {
    /// All of the registry.
    Registry,
    /// Every repository below `0/`, at any depth; not `0` itself.
    Below(String),
    /// One repository, every tag and digest.
    Repository(String),
    /// One tag of one repository.
    Tag(String, String),
}

/// Why a text is no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// Longer than any reference.
    #[error("a scope has {0} bytes; at most {MAX_REFERENCE} are allowed")]
    TooLong(usize),
    /// Something that no name has.
    #[error("not a scope")]
    Character(#[source] ReferenceError),
    /// `*` elsewhere than in a last component `**`.
    #[error("`{0}` has a `*`: the only wildcard is `/**` at the end, after a host or a namespace")]
    Wildcard(String),
    /// `@sha256:…`.
    #[error("`{0}` names a digest: write the repository, and `require = [{{ digest = [..] }}]`")]
    Digest(String),
    /// Host, repository or tag is malformed.
    #[error("`{text}` is not a scope")]
    Name {
        /// As written.
        text: String,
        /// What part of it is wrong.
        #[source]
        source: ReferenceError,
    },
}

impl Scope {
    /// True if the scope speaks about this reference. A tag that stands beside a digest was resolved by nobody, so it
    /// brings a reference into no tag's scope: otherwise a caller could choose the scope by writing any tag.
    #[must_use]
    pub fn matches(&self, reference: &Reference) -> bool {
        let tag = if reference.digest().is_some() { None } else { reference.tag() };
        self.registry == *reference.registry()
            && match &self.extent {
                Extent::Registry => true,
                Extent::Below(namespace) => {
                    reference.repository().strip_prefix(namespace.as_str()).is_some_and(|rest| rest.starts_with('/'))
                }
                Extent::Repository(repository) => reference.repository() == repository,
                Extent::Tag(repository, named) => reference.repository() == repository && tag == Some(named.as_str()),
            }
    }

    /// The narrowest scope of this form that holds the reference: its repository. What a hint suggests.
    #[must_use]
    pub fn of_repository(reference: &Reference) -> Self {
        Self { registry: reference.registry().clone(), extent: Extent::Repository(reference.repository().to_owned()) }
    }

    fn specificity(&self) -> (u8, usize) {
        match &self.extent {
            Extent::Registry => (0, 0),
            Extent::Below(namespace) => (1, namespace.len()),
            Extent::Repository(_) => (2, 0),
            Extent::Tag(..) => (3, 0),
        }
    }
}

/// The most specific scope that matches. Two different scopes that match one reference are never equally specific, so
/// where each scope occurs once the order of `scopes` plays no part.
pub fn most_specific<'a, T>(
    scopes: impl IntoIterator<Item = &'a T>,
    scope: impl Fn(&T) -> &Scope,
    reference: &Reference,
) -> Option<&'a T> {
    scopes.into_iter().filter(|item| scope(item).matches(reference)).max_by_key(|item| scope(item).specificity())
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.registry)?;
        match &self.extent {
            Extent::Registry => Ok(()),
            Extent::Below(namespace) => write!(f, "/{namespace}/**"),
            Extent::Repository(repository) => write!(f, "/{repository}"),
            Extent::Tag(repository, tag) => write!(f, "/{repository}:{tag}"),
        }
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    /// `HOST/**` is read as `HOST`: they mean the same.
    fn from_str(text: &str) -> Result<Self, ScopeError> {
        if text.len() > MAX_REFERENCE {
            return Err(ScopeError::TooLong(text.len()));
        }
        check_characters(text).map_err(ScopeError::Character)?;
        if text.contains('@') {
            return Err(ScopeError::Digest(text.to_owned()));
        }
        let (named, below) = text.strip_suffix("/**").map_or((text, false), |named| (named, true));
        if named.contains('*') {
            return Err(ScopeError::Wildcard(text.to_owned()));
        }
        let wrong = |source| ScopeError::Name { text: text.to_owned(), source };
        let (registry, path) = match named.split_once('/') {
            Some((registry, path)) => (registry, Some(path)),
            None => (named, None),
        };
        let registry: Registry = registry.parse().map_err(wrong)?;
        let extent = match (path, below) {
            (None, _) => Extent::Registry,
            (Some(namespace), true) => {
                check_repository(namespace).map_err(wrong)?;
                Extent::Below(namespace.to_owned())
            }
            (Some(path), false) => match path.split_once(':') {
                Some((repository, tag)) => {
                    check_repository(repository).and_then(|()| check_tag(tag)).map_err(wrong)?;
                    Extent::Tag(repository.to_owned(), tag.to_owned())
                }
                None => {
                    check_repository(path).map_err(wrong)?;
                    Extent::Repository(path.to_owned())
                }
            },
        };
        Ok(Self { registry, extent })
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parsed: Result<Self, _> = String::deserialize(deserializer)?.parse();
        parsed.map_err(|error| de::Error::custom(in_full(&error)))
    }
}
