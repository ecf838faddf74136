//! The database: intent, journal, answers already given. One file. The engine's thread owns the connection that writes; [`Answers`] is
//! another one, which reads.
//!
//! SQLite in WAL mode with `synchronous=FULL`: what was acknowledged is on disk (<https://www.sqlite.org/pragma.html>). Tables are
//! STRICT; identities and owners are columns, the rest of a row is JSON, so that `sqlite3` shows what bpfd knows. This file must
//! never touch the kernel.

mod answers;
mod committed;
mod difference;
mod migrate;
mod recovery;
mod statement;

use std::path::Path;
use std::time::Duration;

use bpfd_core::adopt::RowUids;
use bpfd_core::ident::{AppUid, BootId, DatabaseUid, Handle, LinkUid, OpId, RequestKey};
use bpfd_core::journal::Operation;
use bpfd_core::stamp::Stamp;
use bpfd_core::state::{App, Change, Link, Owner, State};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, ffi, params};
use serde::Serialize;

pub use self::answers::{Answers, Earlier, Outcome};
use self::migrate::{SCHEMA_VERSION, migrate};
use self::statement::run;
use crate::reserve::Reserve;

/// How long one connection waits for another, such as `sqlite3` in somebody's hands.
const BUSY: Duration = Duration::from_secs(5);
/// Pages of its log after which SQLite writes it to the database, once the disk was full.
const PAGES_WHEN_FULL: u32 = 16;

/// What to do about a database that cannot be read. What runs is recorded beside the pins.
const MOVE_AWAY: &str = "move `state.db` and `state.db-wal` away and start bpfd: it takes what runs into a new one";

/// The database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused; full disks arrive here.
    #[error("the state database failed")]
    Database(#[from] rusqlite::Error),
    /// A row that this version cannot read.
    #[error("the state database holds a row that cannot be read: {what}; {MOVE_AWAY}")]
    Row {
        /// Which.
        what: String,
        /// Why.
        source: serde_json::Error,
    },
    /// Written by a later bpfd.
    #[error("the state database has layout {found}, this version knows {SCHEMA_VERSION}: run the newer bpfd")]
    TooNew {
        /// Its `user_version`.
        found: i64,
    },
    /// It is not a database any more, or `PRAGMA quick_check` found damage.
    #[error("the state database is damaged: {0}; {MOVE_AWAY}")]
    Damaged(String),
    /// The disk is full, and this would add something.
    #[error(
        "the file system of the state database is full: nothing is added, and removals use the room that was kept for them"
    )]
    Full(#[source] std::io::Error),
}

impl StoreError {
    /// Whether there was no room. SQLite needs a file for its memory, too.
    fn is_full(&self) -> bool {
        match self {
            Self::Database(rusqlite::Error::SqliteFailure(error, _)) => {
                error.code == ErrorCode::DiskFull || error.extended_code == ffi::SQLITE_IOERR_SHMSIZE
            }
            Self::Database(_) | Self::Row { .. } | Self::TooNew { .. } | Self::Damaged(_) | Self::Full(_) => false,
        }
    }

    /// What SQLite says of bytes that are no database.
    fn or_damaged(self) -> Self {
        match self {
            Self::Database(rusqlite::Error::SqliteFailure(error, words))
                if matches!(error.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) =>
            {
                Self::Damaged(words.unwrap_or_else(|| error.to_string()))
            }
            other => other,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    db: Connection,
    /// An operation that did not happen, and that is in the journal all the same.
    undone: Option<OpId>,
    /// The highest small number that was given. Written with each operation that begins.
    handle: Handle,
    /// As of the last commit.
    stamp: Stamp,
    /// For what removes.
    reserve: Reserve,
    answers: answers::Kept,
}

impl Store {
    /// Opens or makes `state.db`. On a full disk it takes the room that is kept.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let reserve = Reserve::open(path.parent().unwrap_or(Path::new(".")));
        let opened = loop {
            match Self::connect(path) {
                Err(error) if error.is_full() && reserve.give() => {}
                opened => break opened,
            }
        };
        let (db, handle, stamp) = opened.map_err(StoreError::or_damaged)?;
        Ok(Self { db, undone: None, handle, stamp, reserve, answers: answers::Kept::default() })
    }

    fn connect(path: &Path) -> Result<(Connection, Handle, Stamp), StoreError> {
        let mut db = Connection::open(path)?;
        db.busy_timeout(BUSY)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.pragma_update(None, "foreign_keys", true)?;
        let check: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if check != "ok" {
            return Err(StoreError::Damaged(check));
        }
        migrate(&mut db)?;
        let (handle, stamp) = (last_handle(&db)?, stamp(&db)?);
        Ok((db, handle, stamp))
    }

    /// Writes, if need be into the room that is kept.
    fn with_reserve<T>(&mut self, write: impl Fn(&mut Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        loop {
            match write(self) {
                Err(error) if error.is_full() && self.reserve.give() => {
                    // From then on the log is written over, and grows no longer.
                    self.db.pragma_update(None, "wal_autocheckpoint", PAGES_WHEN_FULL)?;
                }
                other => return other,
            }
        }
    }

    /// Room must be kept before anything is added.
    fn keep_reserve(&mut self) -> Result<(), StoreError> {
        self.reserve.take().map_err(StoreError::Full)
    }

    /// Which database this is, and how many commits of the state it had.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Everything asked for. What a link was in is forgotten after another boot.
    pub fn state(&self, boot: BootId) -> Result<State, StoreError> {
        let mut apps = self.db.prepare("SELECT body FROM apps")?;
        let apps = apps.query_map([], |row| row.get::<_, String>(0))?.map(|body| {
            let app: App = parse("an app", &body?)?;
            Ok((app.uid, app))
        });
        let apps = apps.collect::<Result<_, StoreError>>()?;
        let mut links = self.db.prepare("SELECT body, boot_id = ?1 FROM links")?;
        let links =
            links.query_map([boot.0.to_string()], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?.map(|row| {
                let (body, of_this_boot) = row?;
                let link: Link = parse("a link", &body)?;
                Ok((link.uid, Link { on: link.on.filter(|_| of_this_boot), ..link }))
            });
        let links = links.collect::<Result<_, StoreError>>()?;
        Ok(State { apps, links })
    }

    /// The rows that were written last in another boot.
    pub fn of_other_boots(&self, boot: BootId) -> Result<RowUids, StoreError> {
        let mut rows = self.db.prepare(
            "SELECT 'app', uid FROM apps WHERE boot_id <> ?1 UNION ALL SELECT 'link', uid FROM links WHERE boot_id <> ?1",
        )?;
        let rows =
            rows.query_map([boot.0.to_string()], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
        let mut earlier = RowUids::default();
        for row in rows {
            let (table, uid) = row?;
            match table.as_str() {
                "app" => earlier.apps.extend(uid.parse::<AppUid>()),
                _ => earlier.links.extend(uid.parse::<LinkUid>()),
            }
        }
        Ok(earlier)
    }

    /// The operation that a crash broke off, if one was under way.
    pub fn open_operation(&self) -> Result<Option<Operation>, StoreError> {
        let row: Option<String> =
            self.db.query_row("SELECT body FROM operations ORDER BY seq LIMIT 1", [], |row| row.get(0)).optional()?;
        let Some(body) = row else { return Ok(None) };
        let operation: Operation = parse("an operation", &body)?;
        Ok(Some(operation))
    }

    /// Before the first effect. On a full disk nothing begins but what removes.
    pub fn begin(&mut self, operation: &Operation) -> Result<(), StoreError> {
        if operation.removes() {
            // Room may have come since.
            let _kept = self.keep_reserve();
            return self.with_reserve(|store| store.write_begin(operation));
        }
        self.keep_reserve()?;
        self.write_begin(operation)
    }

    fn write_begin(&mut self, operation: &Operation) -> Result<(), StoreError> {
        let tx = self.db.transaction()?;
        if let Some(undone) = self.undone {
            forget(&tx, undone)?;
        }
        let given = operation.changes.iter().filter_map(Change::highest_handle).max();
        self.handle = self.handle.max(given.unwrap_or(self.handle));
        write_handle(&tx, self.handle)?;
        run(
            &tx,
            "INSERT INTO operations (id, boot_id, request_id, owner, body) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                operation.id.to_string(),
                operation.boot.0.to_string(),
                operation.request.map(|key| key.id.to_string()),
                operation.owner.uid,
                text(operation)?,
            ],
        )?;
        tx.commit()?;
        self.undone = None;
        Ok(())
    }

    /// The commit point: the operation's changes are the state, and the operation is gone, in one transaction.
    pub fn commit(
        &mut self,
        operation: &Operation,
        before: &State,
        after: &State,
        outcome: &Outcome,
    ) -> Result<(), StoreError> {
        match operation.removes() {
            true => self.with_reserve(|store| store.write_commit(operation, before, after, outcome)),
            false => self.write_commit(operation, before, after, outcome),
        }
    }

    fn write_commit(
        &mut self,
        operation: &Operation,
        before: &State,
        after: &State,
        outcome: &Outcome,
    ) -> Result<(), StoreError> {
        let tx = self.db.transaction()?;
        difference::write(&tx, operation.boot, before, after)?;
        let stamp = write_stamp(&tx, self.stamp)?;
        if let Some(key) = operation.request {
            answers::keep(&tx, &mut self.answers, key, operation.owner.uid, outcome)?;
        }
        forget(&tx, operation.id)?;
        committed::keep(&tx, operation.id)?;
        tx.commit()?;
        self.stamp = stamp;
        Ok(())
    }

    /// The operation did not happen. Where that cannot be written, for want of room, the next one that begins writes it.
    pub fn abandon(&mut self, operation: OpId) -> Result<(), StoreError> {
        self.undone = Some(operation);
        let tx = self.db.transaction()?;
        forget(&tx, operation)?;
        tx.commit()?;
        self.undone = None;
        Ok(())
    }

    /// A state that repair changed: programs loaded again have other tags and load times.
    pub fn replace(&mut self, boot: BootId, before: &State, after: &State) -> Result<(), StoreError> {
        self.with_reserve(|store| {
            let tx = store.db.transaction()?;
            difference::write(&tx, boot, before, after)?;
            let stamp = write_stamp(&tx, store.stamp)?;
            tx.commit()?;
            store.stamp = stamp;
            Ok(())
        })
    }

    /// The next small number; none that an operation began with is given again, whatever is removed between.
    pub fn next_handle(&mut self) -> Handle {
        self.handle = self.handle.next();
        self.handle
    }

    /// The highest small number that was given.
    pub fn last_handle(&self) -> Handle {
        self.handle
    }

    /// Gives the numbers after this one back, those apart that an operation began with.
    pub fn give_back_handles(&mut self, last: Handle) {
        // If that cannot be read, nothing is given back.
        let begun = last_handle(&self.db).unwrap_or(self.handle);
        self.handle = last.max(begun);
    }

    /// What became of this owner's request of that key, if there was one. `state` is that of now.
    pub fn answer(&self, key: RequestKey, owner: &Owner, state: &State) -> Result<Option<Earlier>, StoreError> {
        answers::find(&self.db, key, owner, state)
    }
}

fn last_handle(db: &Connection) -> Result<Handle, StoreError> {
    let last = db.query_row("SELECT value FROM counters WHERE name = 'handle'", [], |row| row.get(0)).optional()?;
    Ok(Handle(last.unwrap_or_default()))
}

fn write_handle(tx: &Transaction<'_>, last: Handle) -> Result<(), StoreError> {
    run(tx, "INSERT OR REPLACE INTO counters (name, value) VALUES ('handle', ?1)", [last.0])?;
    Ok(())
}

fn stamp(db: &Connection) -> Result<Stamp, StoreError> {
    let row = db.query_row("SELECT uuid, commits FROM identity", [], |row| Ok((row.get(0)?, row.get(1)?)));
    let (uuid, commits): ([u8; 16], i64) = row?;
    Ok(Stamp { database: DatabaseUid::from_bytes(uuid), commits: u64::try_from(commits).unwrap_or_default() })
}

/// One more commit of the state.
fn write_stamp(tx: &Transaction<'_>, before: Stamp) -> Result<Stamp, StoreError> {
    run(tx, "UPDATE identity SET commits = commits + 1", [])?;
    Ok(Stamp { commits: before.commits.saturating_add(1), ..before })
}

fn forget(tx: &Transaction<'_>, operation: OpId) -> Result<(), StoreError> {
    run(tx, "DELETE FROM operations WHERE id = ?1", [operation.to_string()])?;
    Ok(())
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, body: &str) -> Result<T, StoreError> {
    serde_json::from_str(body).map_err(|source| StoreError::Row { what: what.to_owned(), source })
}

/// A row as it is stored.
fn text<T: Serialize>(row: &T) -> Result<String, StoreError> {
    serde_json::to_string(row).map_err(|source| StoreError::Row { what: "what is to be stored".to_owned(), source })
}
