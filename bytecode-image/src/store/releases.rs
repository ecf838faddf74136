//! `releases.json`: the last release of each name that was let through, for `forbid_downgrade`.
//!
//! By repository and the name in the label. Written under the store's lock, replaced whole, like the index. Must never decide whether a
//! release is older: `bpfd_policy::downgrade` does.

use std::collections::BTreeMap;
use std::io;

use bpfd_policy::downgrade::Release;
use bpfd_policy::image::ImageRule;

use super::{INDEX_LIMIT, Store, StoreError};

const FILE: &str = "releases.json";

/// By repository (`HOST/REPOSITORY`), then by name; images without a name in their label are one.
type Releases = BTreeMap<String, BTreeMap<String, Release>>;

/// A release, with what it is one of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NamedRelease {
    /// `HOST/REPOSITORY`.
    pub repository: String,
    /// `name` of the label; empty if it has none.
    pub name: String,
    /// Which one it is.
    pub release: Release,
}

impl Store {
    /// The last release of a name that was let through.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn last_release(&self, repository: &str, name: &str) -> Result<Option<Release>, StoreError> {
        let mut releases = self.releases()?;
        Ok(releases.get_mut(repository).and_then(|names| names.remove(name)))
    }

    /// Remembers that a release was let through by a rule. A rule that forbids no downgrade remembers nothing new; but if something is
    /// remembered, this takes its place, so that an administrator can go back.
    ///
    /// # Errors
    /// [`StoreError`]; then what was remembered before is.
    pub fn let_through(&self, rule: &ImageRule, let_through: &NamedRelease) -> Result<(), StoreError> {
        let NamedRelease { repository, name, release } = let_through;
        let _lock = self.lock()?;
        let mut releases = self.releases()?;
        let last = releases.get(repository).and_then(|names| names.get(name));
        let remember = match (last, rule.forbid_downgrade) {
            (Some(last), _) if last == release => false,
            // Another load may have gone further meanwhile.
            (last, true) => release.may_follow(last).is_ok(),
            (last, false) => last.is_some(),
        };
        if !remember {
            return Ok(());
        }
        releases.entry(repository.clone()).or_default().insert(name.clone(), release.clone());
        let bytes = serde_json::to_vec(&releases).map_err(StoreError::Releases)?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > INDEX_LIMIT) {
            let why = io::Error::new(io::ErrorKind::FileTooLarge, "it would exceed its limit");
            return Err(self.failed("write `releases.json`", why));
        }
        self.replace(FILE, &bytes)
    }

    fn releases(&self) -> Result<Releases, StoreError> {
        match self.root.read(FILE, INDEX_LIMIT) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(StoreError::Releases),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Releases::new()),
            Err(source) => Err(self.failed("read `releases.json`", source)),
        }
    }
}
