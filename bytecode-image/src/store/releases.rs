//! `releases.json`: the last release of each name that was let through, for `forbid_downgrade`.
//!
//! By repository and the name in the label. Written under the store's lock, replaced whole, like the index. Must never decide whether a
//! release is older: `bpfd_policy::downgrade` does.
//!
//! A load is noted in `releases.begun.json` before anything is changed for it, and its release in `releases.json` once it is done, before it
//! is answered. What a crash left between the two is decided at the next start, by whether the app is there ([`Store::settle_loads`]): so a
//! load that failed leaves nothing, and one that was carried out is never forgotten.

use std::{collections::BTreeMap, io};

use bpfd_policy::{downgrade::Release, image::ImageRule};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{INDEX_LIMIT, Store, StoreError};

const FILE: &str = "releases.json";
const BEGUN: &str = "releases.begun.json";

/// By repository (`HOST/REPOSITORY`), then by name; images without a name in their label are one.
type Releases = BTreeMap<String, BTreeMap<String, Release>>;
/// By what the caller calls the load.
type Begun = BTreeMap<String, BegunLoad>;

/// A release, with what it is one of.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NamedRelease {
    /// `HOST/REPOSITORY`.
    pub repository: String,
    /// `name` of the label; empty if it has none.
    pub name: String,
    /// Which one it is.
    pub release: Release,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct BegunLoad {
    of: NamedRelease,
    forbid_downgrade: bool,
}

/// How a load ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// Its app is there.
    Loaded,
    /// It is not.
    Failed,
}

impl Store {
    /// The last release of a name that was let through.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn last_release(&self, repository: &str, name: &str) -> Result<Option<Release>, StoreError> {
        Ok(self.releases()?.get_mut(repository).and_then(|names| names.remove(name)))
    }

    /// Remembers that a release was let through by a rule. A rule that forbids no downgrade remembers nothing new; but if something is
    /// remembered, this takes its place, so that an administrator can go back.
    ///
    /// # Errors
    /// [`StoreError`]; then what was remembered before is.
    pub fn let_through(&self, rule: &ImageRule, let_through: &NamedRelease) -> Result<(), StoreError> {
        let load = BegunLoad { of: let_through.clone(), forbid_downgrade: rule.forbid_downgrade };
        // Most change nothing: they wait for nobody.
        if !load.is_news_to(&self.releases()?) {
            return Ok(());
        }
        let _lock = self.lock()?;
        self.remember(&load)
    }

    /// Notes that a load of a release begins, if its end will be something to remember. Gives whether it was noted, and is to be ended.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing is noted.
    pub fn begin_load(&self, rule: &ImageRule, load: &str, of: &NamedRelease) -> Result<bool, StoreError> {
        let begun = BegunLoad { of: of.clone(), forbid_downgrade: rule.forbid_downgrade };
        if !begun.is_news_to(&self.releases()?) {
            return Ok(false);
        }
        let _lock = self.lock()?;
        let mut loads: Begun = self.map(BEGUN)?;
        loads.insert(load.to_owned(), begun);
        self.write_map(BEGUN, &loads)?;
        Ok(true)
    }

    /// Ends a load that was noted.
    ///
    /// # Errors
    /// [`StoreError`]; then the next start ends it.
    pub fn end_load(&self, load: &str, ended: Ended) -> Result<(), StoreError> {
        self.settle_some(|name| (name == load).then_some(ended))
    }

    /// Ends every load that was noted, by whether its app is there. Only for a start, before anything is loaded.
    ///
    /// # Errors
    /// [`StoreError`]; then the next start ends what is left.
    pub fn settle_loads(&self, is_loaded: impl Fn(&str) -> bool) -> Result<(), StoreError> {
        self.settle_some(|load| Some(if is_loaded(load) { Ended::Loaded } else { Ended::Failed }))
    }

    fn settle_some(&self, ended: impl Fn(&str) -> Option<Ended>) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let loads: Begun = self.map(BEGUN)?;
        let (mut left, before) = (Begun::new(), loads.len());
        for (name, load) in loads {
            match ended(&name) {
                Some(Ended::Loaded) => self.remember(&load)?,
                Some(Ended::Failed) => {}
                None => drop(left.insert(name, load)),
            }
        }
        if left.len() == before { Ok(()) } else { self.write_map(BEGUN, &left) }
    }

    /// Under the lock.
    fn remember(&self, load: &BegunLoad) -> Result<(), StoreError> {
        let mut releases = self.releases()?;
        // Another load may have gone further meanwhile.
        if !load.is_news_to(&releases) {
            return Ok(());
        }
        let NamedRelease { repository, name, release } = &load.of;
        releases.entry(repository.clone()).or_default().insert(name.clone(), release.clone());
        self.write_map(FILE, &releases)
    }

    fn releases(&self) -> Result<Releases, StoreError> {
        self.map(FILE)
    }

    fn map<T: Default + DeserializeOwned>(&self, file: &'static str) -> Result<T, StoreError> {
        match self.root.read(file, INDEX_LIMIT) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| StoreError::Releases { file, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
            Err(source) => Err(self.failed(&format!("read `{file}`"), source)),
        }
    }

    fn write_map(&self, file: &'static str, map: &impl Serialize) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(map).map_err(|source| StoreError::Releases { file, source })?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > INDEX_LIMIT) {
            let why = io::Error::new(io::ErrorKind::FileTooLarge, "it would exceed its limit");
            return Err(self.failed(&format!("write `{file}`"), why));
        }
        self.replace(file, &bytes)
    }
}

impl BegunLoad {
    /// Whether there is something to remember of it.
    fn is_news_to(&self, releases: &Releases) -> bool {
        let Self { of: NamedRelease { repository, name, release }, forbid_downgrade } = self;
        let last = releases.get(repository).and_then(|names| names.get(name));
        match (last, forbid_downgrade) {
            (Some(last), _) if last == release => false,
            (last, true) => release.may_follow(last).is_ok(),
            (last, false) => last.is_some(),
        }
    }
}
