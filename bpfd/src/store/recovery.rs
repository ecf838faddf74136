//! What is stored of a state that was lost: the adopted rows, what differed, and the decision. Each is one transaction, so that a crash
//! leaves all of it or nothing. This file must never decide what is adopted.

use bpfd_core::adopt::Recovery;
use bpfd_core::ident::{BootId, DatabaseUid};
use bpfd_core::stamp::Stamp;
use bpfd_core::state::State;
use rusqlite::{OptionalExtension, Transaction};

use super::{Store, StoreError, difference, parse, text, write_handle, write_stamp};

impl Store {
    /// What is to be decided since the state was lost.
    pub fn recovery(&self) -> Result<Option<Recovery>, StoreError> {
        let row: Option<String> = self.db.query_row("SELECT body FROM recovery", [], |row| row.get(0)).optional()?;
        row.map(|body| parse("what was recovered", &body)).transpose()
    }

    /// Adopts what runs, in one transaction: these are the rows, what differed is kept beside them, the journal of a database that was
    /// another one is forgotten, and this is a database of its own from now on: `uid`.
    pub fn adopt(
        &mut self,
        boot: BootId,
        before: &State,
        (after, recovery): (&State, &Recovery),
        uid: DatabaseUid,
    ) -> Result<(), StoreError> {
        let handle = [after.highest_handle(), recovery.highest_handle()].into_iter().flatten().max();
        let handle = self.handle.max(handle.unwrap_or(self.handle));
        let tx = self.db.transaction()?;
        rewrite(&tx, boot, before, after)?;
        tx.execute_batch("DELETE FROM operations; DELETE FROM recovery")?;
        if !recovery.is_empty() {
            tx.execute("INSERT INTO recovery (only, body) VALUES (1, ?1)", [text(recovery)?])?;
        }
        write_handle(&tx, handle)?;
        tx.execute("UPDATE identity SET uuid = ?1", [uid.bytes()])?;
        let stamp = write_stamp(&tx, Stamp { database: uid, ..self.stamp })?;
        tx.commit()?;
        (self.handle, self.stamp, self.undone) = (handle, stamp, None);
        Ok(())
    }

    /// It was decided: these are the rows, and nothing is left to decide.
    pub fn decided(&mut self, boot: BootId, before: &State, after: &State) -> Result<(), StoreError> {
        let tx = self.db.transaction()?;
        rewrite(&tx, boot, before, after)?;
        tx.execute("DELETE FROM recovery", [])?;
        let stamp = write_stamp(&tx, self.stamp)?;
        tx.commit()?;
        self.stamp = stamp;
        Ok(())
    }
}

/// The difference where rows may take each other's names and handles: all go before any comes.
fn rewrite(tx: &Transaction<'_>, boot: BootId, before: &State, after: &State) -> Result<(), StoreError> {
    difference::write(tx, boot, before, &State::default())?;
    difference::write(tx, boot, &State::default(), after)
}
