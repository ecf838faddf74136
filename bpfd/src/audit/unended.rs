//! Operations that a daemon had begun when it ended, and whose end nobody has written: each gets it at the next start, before anything
//! else happens. It must never guess: what cannot be known is said so.

use bpfd_core::ident::OpId;
use bpfd_core::stamp::Relation;

use super::{AuditSink, Kind, Open};

/// What the database says of changes.
#[derive(Clone, Copy, Debug)]
pub struct Journalled {
    /// The change that is in the journal: repair ends it.
    pub open: Option<OpId>,
    /// The one of the open ones that was committed last of all changes.
    pub committed: Option<OpId>,
    /// How the database stands to the pins.
    pub relation: Relation,
}

/// Writes an end for each operation without one, those apart that repair ends.
pub fn end_unended(audit: &mut dyn AuditSink, journalled: Journalled) {
    let open = audit.unended().to_vec();
    let last = open.iter().filter(|open| open.kind == Kind::Change).map(|open| open.operation).next_back();
    for Open { operation, kind } in open {
        if let Some(result) = result(operation, kind, last, journalled) {
            audit.ended(operation, result);
        }
    }
}

/// How an operation ended. The engine does one change at a time, and only a record that had no room on the disk lets an earlier change
/// have no end.
fn result(operation: OpId, kind: Kind, last: Option<OpId>, journalled: Journalled) -> Option<&'static str> {
    let Journalled { open, committed, relation } = journalled;
    match kind {
        Kind::Change if relation.is_doubtful() => Some("unknown: the daemon ended, and the state was lost"),
        Kind::Change if open == Some(operation) => None,
        Kind::Change if committed == Some(operation) => Some("done; the daemon ended before it could say so"),
        Kind::Change if last == Some(operation) => Some("undone; the daemon ended before it could say so"),
        Kind::Change => Some("unknown: the record of its end was lost"),
        Kind::Host => Some("unknown: the daemon ended during it"),
        Kind::Repair | Kind::Event => Some("not completed: the daemon ended during it; the next start repairs"),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn how_an_operation_ended_is_what_the_database_says() {
        let id = |number| OpId(Uuid::from_u128(number));
        let of = |operation, kind, open, committed, relation| {
            let journalled = Journalled { open, committed, relation };
            let result = result(operation, kind, Some(id(2)), journalled);
            result.map_or("-", |text| text.split([':', ';']).next().unwrap_or_default())
        };
        let matches = Relation::Matches;
        assert_eq!(of(id(2), Kind::Change, Some(id(2)), None, matches), "-");
        assert_eq!(of(id(2), Kind::Change, None, Some(id(2)), matches), "done");
        assert_eq!(of(id(2), Kind::Change, None, Some(id(1)), matches), "undone");
        assert_eq!(of(id(1), Kind::Change, None, Some(id(3)), matches), "unknown");
        assert_eq!(of(id(2), Kind::Change, None, Some(id(2)), Relation::Unreadable), "unknown");
        assert_eq!(of(id(2), Kind::Host, None, None, matches), "unknown");
        assert_eq!(of(id(2), Kind::Event, None, None, matches), "not completed");
    }
}
