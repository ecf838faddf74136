//! Which operation was committed last: what a start says of one whose end is not on record. This file must never decide how it ended.

use bpfd_core::ident::OpId;
use rusqlite::{OptionalExtension, Transaction};

use super::statement::run;
use super::{Store, StoreError};

impl Store {
    /// Whether this operation is the last one that was committed.
    pub fn is_committed_last(&self, operation: OpId) -> Result<bool, StoreError> {
        let value = self.db.query_row("SELECT value FROM counters WHERE name = 'committed'", [], |row| row.get(0));
        Ok(value.optional()? == Some(mark(operation)))
    }

    /// An operation that did not happen, and that the next one to begin takes out of the journal.
    pub fn undone(&self) -> Option<OpId> {
        self.undone
    }
}

/// Part of the transaction that commits it.
pub(super) fn keep(tx: &Transaction<'_>, operation: OpId) -> Result<(), StoreError> {
    run(tx, "INSERT OR REPLACE INTO counters (name, value) VALUES ('committed', ?1)", [mark(operation)])?;
    Ok(())
}

/// What is stored of an operation that was committed: the random half of its identity.
fn mark(operation: OpId) -> i64 {
    let (_, low) = operation.0.as_u64_pair();
    low.cast_signed()
}
