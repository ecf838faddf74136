//! Statements that every change makes: each connection compiles one once, which costs more than most take to run. It must never see a
//! statement that is made up of data.

use rusqlite::{Connection, Params, Result, Row};

/// Runs one; gives how many rows it changed.
pub(super) fn run(db: &Connection, statement: &'static str, params: impl Params) -> Result<usize> {
    db.prepare_cached(statement)?.execute(params)
}

/// Runs one that gives a row, and reads that.
pub(super) fn row<T>(
    db: &Connection,
    statement: &'static str,
    params: impl Params,
    read: impl FnOnce(&Row<'_>) -> Result<T>,
) -> Result<T> {
    db.prepare_cached(statement)?.query_row(params, read)
}
