//! Answers already given, for callers that repeat a request. What is kept of one is which rows it was about: it is made again from the
//! rows of now. It must never keep what a caller can make long.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bpfd_core::ident::RequestKey;
use bpfd_core::state::{App, Change, Link, Owner, State};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};

use super::statement::{row, run};
use super::{BUSY, StoreError, parse, text};

/// How long answers are kept.
const KEPT_SECONDS: i64 = 24 * 60 * 60;
/// How many bytes of them are kept of one user; then the oldest go. They are some four thousand answers.
const KEPT_BYTES: i64 = 4 << 20;
/// How often those that are too old are removed. Until then nobody is given them.
const SWEPT_SECONDS: i64 = 60 * 60;

/// What a request's key was used for before.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Earlier {
    /// For the same: that was its answer.
    Answered(Outcome),
    /// For something else.
    Another,
}

/// What an operation did: the rows that it made, or took away.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Outcome {
    /// Apps loaded or unloaded.
    pub apps: Vec<App>,
    /// Links made, moved or taken away.
    pub links: Vec<Link>,
}

impl Outcome {
    /// The rows that changes made or moved, as they are afterwards; what they took away, as it was.
    pub fn of(before: &State, after: &State, changes: &[Change]) -> Self {
        let mut outcome = Self::default();
        for change in changes {
            match change {
                Change::Load(app) => outcome.apps.extend(after.apps.get(&app.uid).cloned()),
                Change::Attach(link) => outcome.links.extend(after.links.get(&link.uid).cloned()),
                Change::Update { link, .. } => outcome.links.extend(after.links.get(link).cloned()),
                Change::Rebuild { .. } | Change::Reorder { .. } => {}
                Change::Persist { app, links, persist: _ } => {
                    outcome.apps.extend(after.apps.get(app).cloned());
                    outcome.links.extend(links.iter().filter_map(|link| after.links.get(link)).cloned());
                }
                Change::Detach(link) => outcome.links.extend(before.links.get(link).cloned()),
                Change::Unload(app) => {
                    let mut links: Vec<_> = before.links_of(*app).cloned().collect();
                    links.sort_by_key(|link| link.handle);
                    outcome.links.extend(links);
                    outcome.apps.extend(before.apps.get(app).cloned());
                }
            }
        }
        outcome
    }

    /// Without what is as long as an object or its caller makes it.
    fn kept(&self) -> Self {
        let app = |app: &App| App {
            globals: BTreeMap::new(),
            programs: vec![],
            maps: vec![],
            labels: BTreeMap::new(),
            user_labels: Default::default(),
            advice: BTreeMap::new(),
            ..app.clone()
        };
        Self { apps: self.apps.iter().map(app).collect(), links: self.links.clone() }
    }

    /// With the rows of now; of what is gone, what was kept.
    fn with_rows_of(self, state: &State) -> Self {
        let app = |app: App| state.apps.get(&app.uid).cloned().unwrap_or(app);
        let link = |link: Link| state.links.get(&link.uid).cloned().unwrap_or(link);
        Self { apps: self.apps.into_iter().map(app).collect(), links: self.links.into_iter().map(link).collect() }
    }
}

/// For readers on any thread: they have a connection of their own and never wait for a change.
#[derive(Debug)]
pub struct Answers(Mutex<Connection>);

impl Answers {
    /// Opens a database that [`Store::open`](super::Store::open) has made.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        db.busy_timeout(BUSY)?;
        Ok(Self(Mutex::new(db)))
    }

    /// What became of this owner's request of that key, if there was one. `state` is that of now.
    pub fn of(&self, key: RequestKey, owner: &Owner, state: &State) -> Result<Option<Earlier>, StoreError> {
        find(&self.0.lock().unwrap_or_else(PoisonError::into_inner), key, owner, state)
    }
}

pub(super) fn find(
    db: &Connection,
    key: RequestKey,
    owner: &Owner,
    state: &State,
) -> Result<Option<Earlier>, StoreError> {
    let RequestKey { id, asked } = key;
    let found: Option<(bool, String)> = row(
        db,
        "SELECT asked IN (?3, ''), body FROM answers
         WHERE request_id = ?1 AND owner = ?2 AND at >= unixepoch() - ?4",
        params![id.to_string(), owner.uid, asked.to_string(), KEPT_SECONDS],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
    .optional()?;
    let earlier = found.map(|(same, body)| match same {
        true => parse::<Outcome>("an answer", &body).map(|outcome| Earlier::Answered(outcome.with_rows_of(state))),
        false => Ok(Earlier::Another),
    });
    earlier.transpose()
}

/// What is known of the answers that are kept: one more is kept without reading all of them.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// At least how many bytes each user's have: more, where an answer was not committed or took another's place.
    bytes: BTreeMap<u32, i64>,
    /// Seconds since 1970 when old ones were last looked for.
    swept: Option<i64>,
}

/// One more answer; the oldest of this user go beyond what is kept, and now and then those that are too old.
pub(super) fn keep(
    tx: &Transaction<'_>,
    kept: &mut Kept,
    key: RequestKey,
    owner: u32,
    outcome: &Outcome,
) -> Result<(), StoreError> {
    let RequestKey { id, asked } = key;
    let now: i64 = row(tx, "SELECT unixepoch()", [], |row| row.get(0))?;
    if !kept.swept.is_some_and(|at| (at..at + SWEPT_SECONDS).contains(&now)) {
        run(tx, "DELETE FROM answers WHERE at < ?1 - ?2", [now, KEPT_SECONDS])?;
        *kept = Kept { bytes: BTreeMap::new(), swept: Some(now) };
    }
    let body = text(&outcome.kept())?;
    let added = i64::try_from(body.len()).unwrap_or(KEPT_BYTES);
    run(
        tx,
        "INSERT OR REPLACE INTO answers (request_id, owner, asked, at, body) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![id.to_string(), owner, asked.to_string(), now, body],
    )?;
    let bytes = match kept.bytes.remove(&owner) {
        Some(before) => before.saturating_add(added),
        None => row(tx, "SELECT sum(length(body)) FROM answers WHERE owner = ?1", [owner], |row| row.get(0))?,
    };
    if bytes <= KEPT_BYTES {
        kept.bytes.insert(owner, bytes);
        return Ok(());
    }
    run(
        tx,
        "DELETE FROM answers WHERE rowid IN (
           SELECT rowid FROM (
             SELECT rowid, sum(length(body)) OVER (ORDER BY rowid DESC) AS with_newer FROM answers WHERE owner = ?1)
           WHERE with_newer > ?2)",
        params![owner, KEPT_BYTES - KEPT_BYTES / 16],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use bpfd_core::ident::{AskedId, RequestId};
    use uuid::Uuid;

    use super::super::Store;
    use super::*;

    #[test]
    fn the_oldest_answers_of_a_user_go_when_there_are_too_many_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(&directory.path().join("state.db")).unwrap();
        let key = |number: u128| RequestKey {
            id: RequestId::from_bytes(number.to_be_bytes()),
            asked: AskedId(Uuid::from_u128(number)),
        };
        let [seven, eight] = [7, 8].map(|uid| Owner { uid, user: None });
        let tx = store.db.transaction().unwrap();
        let mut known = Kept::default();
        for number in 1..=10 {
            keep(&tx, &mut known, key(number), 7, &Outcome::default()).unwrap();
        }
        keep(&tx, &mut known, key(1), 8, &Outcome::default()).unwrap();
        // As an earlier version wrote them, whole.
        tx.execute("UPDATE answers SET body = printf('%*s', ?1, body) WHERE owner = 7", [KEPT_BYTES / 8]).unwrap();
        keep(&tx, &mut Kept::default(), key(11), 7, &Outcome::default()).unwrap();
        let kept = |number, owner: &Owner| find(&tx, key(number), owner, &State::default()).unwrap().is_some();
        let left: Vec<u128> = (1..=11).filter(|number| kept(*number, &seven)).collect();
        assert_eq!(left, [4, 5, 6, 7, 8, 9, 10, 11]);
        assert!(kept(1, &eight));
    }
}
