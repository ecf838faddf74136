//! From the layouts that earlier versions wrote to the one of this version. It must never change what a row means.

use std::collections::BTreeMap;

use bpfd_core::ident::Handle;
use rusqlite::{Connection, Transaction, params};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{StoreError, last_handle, parse, text, write_handle};

/// The layout that this version writes, kept in `user_version`. A newer file is refused, an older one is migrated in place.
pub(super) const SCHEMA_VERSION: i64 = 6;
const SCHEMA: &str = include_str!("schema.sql");
/// From layout 1, which did not know what a request had asked for: an answer that it kept is one to anything of that key.
const FROM_1: &str = "ALTER TABLE answers ADD COLUMN asked TEXT NOT NULL DEFAULT '';
    UPDATE operations SET body = json_set(body, '$.request', json_object(
        'id', json_extract(body, '$.request'), 'asked', '00000000-0000-0000-0000-000000000000'))
    WHERE json_extract(body, '$.request') IS NOT NULL;";

/// From layout 3, which did not say which database it was.
const FROM_3: &str = "CREATE TABLE IF NOT EXISTS identity (
      only    INTEGER PRIMARY KEY CHECK (only = 1),
      uuid    BLOB NOT NULL,
      commits INTEGER NOT NULL
    ) STRICT;";

/// From layout 4, which could not be RECOVERED.
const FROM_4: &str = "CREATE TABLE IF NOT EXISTS recovery (
      only INTEGER PRIMARY KEY CHECK (only = 1),
      body TEXT NOT NULL
    ) STRICT;";

/// Brings an older file up to date, and makes a new one.
pub(super) fn migrate(db: &mut Connection) -> Result<(), StoreError> {
    let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let tx = db.transaction()?;
    match found {
        SCHEMA_VERSION => return Ok(()),
        0 => tx.execute_batch(SCHEMA)?,
        1 => {
            tx.execute_batch(FROM_1)?;
            from_2(&tx)?;
        }
        2 => from_2(&tx)?,
        // Layout 5 did not know a reboot: its rows say, as they stand, that all is there after one.
        3..=5 => {}
        found => return Err(StoreError::TooNew { found }),
    }
    tx.execute_batch(FROM_3)?;
    tx.execute_batch(FROM_4)?;
    let uuid = Uuid::new_v4().into_bytes();
    tx.execute("INSERT OR IGNORE INTO identity (only, uuid, commits) VALUES (1, ?1, 0)", [uuid])?;
    tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    Ok(tx.commit()?)
}

/// From layout 2, whose programs had no numbers and whose apps had no labels of their callers. An app's programs have the same numbers
/// wherever the app is written down.
fn from_2(tx: &Transaction<'_>) -> Result<(), StoreError> {
    type Apps = fn(&mut Value) -> Vec<&mut Value>;
    let tables: [(&str, Apps); 3] = [
        ("apps", |row| vec![row]),
        ("operations", |row| items(row, "changes").filter_map(|change| change.get_mut("load")).collect()),
        ("answers", |row| items(row, "apps").collect()),
    ];
    // Recovery never read the steps of an operation.
    tx.execute_batch("DROP TABLE IF EXISTS steps")?;
    let mut last = last_handle(tx)?;
    let mut given: BTreeMap<String, Handle> = BTreeMap::new();
    for (table, apps) in tables {
        let mut rows = tx.prepare(&format!("SELECT rowid, body FROM {table}"))?;
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let rows: Vec<(i64, String)> = rows.collect::<Result<_, _>>()?;
        for (rowid, body) in rows {
            let mut body: Value = parse("a row", &body)?;
            for app in apps(&mut body) {
                let uid = app.get("uid").map(Value::to_string).unwrap_or_default();
                for program in items(app, "programs").filter_map(Value::as_object_mut) {
                    let function = program.get("function").map(Value::to_string).unwrap_or_default();
                    let number = given.entry(uid.clone() + &function).or_insert_with(|| {
                        last = last.next();
                        last
                    });
                    program.insert("handle".to_owned(), number.0.into());
                }
                app.as_object_mut().and_then(|app| app.insert("user_labels".to_owned(), json!({})));
            }
            tx.execute(&format!("UPDATE {table} SET body = ?1 WHERE rowid = ?2"), params![text(&body)?, rowid])?;
        }
    }
    write_handle(tx, last)
}

fn items<'a>(row: &'a mut Value, list: &str) -> impl Iterator<Item = &'a mut Value> {
    row.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten()
}
