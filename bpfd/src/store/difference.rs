//! The rows of what a change made, changed and removed. It must never touch a row of anything else.

use bpfd_core::ident::BootId;
use bpfd_core::state::State;
use rusqlite::{Transaction, params};

use super::statement::run;
use super::{StoreError, text};

/// Part of the transaction that commits the change.
pub(super) fn write(tx: &Transaction<'_>, boot: BootId, before: &State, after: &State) -> Result<(), StoreError> {
    for uid in before.links.gone_from(&after.links) {
        run(tx, "DELETE FROM links WHERE uid = ?1", [uid.to_string()])?;
    }
    for uid in before.apps.gone_from(&after.apps) {
        run(tx, "DELETE FROM apps WHERE uid = ?1", [uid.to_string()])?;
    }
    for (uid, app) in after.apps.changed_since(&before.apps) {
        run(
            tx,
            "INSERT INTO apps (uid, name, owner, handle, generation, object, boot_id, request_id, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (uid) DO UPDATE SET name = excluded.name, generation = excluded.generation,
               boot_id = excluded.boot_id, body = excluded.body",
            params![
                uid.to_string(),
                app.name.as_str(),
                app.owner.uid,
                app.handle.0,
                i64::try_from(app.generation).unwrap_or(i64::MAX),
                app.object.to_string(),
                boot.0.to_string(),
                app.request.map(|request| request.to_string()),
                text(app)?,
            ],
        )?;
    }
    for (uid, link) in after.links.changed_since(&before.links) {
        run(
            tx,
            "INSERT INTO links (uid, app, function, hook, owner, handle, generation, boot_id, request_id, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT (uid) DO UPDATE SET generation = excluded.generation, boot_id = excluded.boot_id,
               body = excluded.body",
            params![
                uid.to_string(),
                link.app.to_string(),
                link.function,
                link.placement.to_string(),
                link.owner.uid,
                link.handle.0,
                i64::try_from(link.generation).unwrap_or(i64::MAX),
                boot.0.to_string(),
                link.request.map(|request| request.to_string()),
                text(link)?,
            ],
        )?;
    }
    Ok(())
}
