//! The audit log: one JSON line for each decision that mutates and each effect, the intent on disk before the effect. Each line names
//! the hash of the one before it (`bpfd_core::audit`, `spec/audit.md`).
//!
//! Nobody can fill the disk with it: refusals beyond a number are counted, not written, and the file is put aside when it is
//! full, the oldest going first. It must never carry a secret: records are made of names, hashes and numbers only.

mod anchor;
mod denials;
mod file;
mod journal;
mod resume;
mod unended;

use std::error::Error;
use std::io;

use bpfd_core::ident::OpId;
use bpfd_core::kernel::Step;
use bpfd_core::policy::{Denied, Principal};
use bpfd_core::state::Owner;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::causes::error_chain;

pub use self::file::AuditFile;
pub use self::journal::Journal;
pub use self::unended::{Journalled, end_unended};

/// One line, beside the time of its writing.
#[derive(Debug, Serialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record<'a> {
    /// An operation was allowed and begins.
    Begin {
        /// Its identity.
        operation: OpId,
        /// What sort of operation it is.
        kind: Kind,
        /// Who asked; root for what the daemon does by itself.
        owner: &'a Owner,
        /// What for, a sentence each: apps, links and images by name.
        changes: &'a [String],
        /// The names of the apps that it is about.
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        apps: &'a [String],
        /// How, a line a step; nothing if no hook and no pin changes.
        #[serde(skip_serializing_if = "Option::is_none")]
        plan: Option<String>,
        /// Written at the next start: the daemon ended before it could write the record, and so before it did anything.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        late: bool,
    },
    /// A step is about to be taken.
    Intent {
        /// Of which operation.
        operation: OpId,
        /// What.
        step: String,
    },
    /// An operation ended.
    End {
        /// Its identity.
        operation: OpId,
        /// `done`, or why not.
        result: &'a str,
    },
    /// Somebody was refused.
    Denied {
        /// Who, by name.
        principal: &'a str,
        /// Who, by number.
        uid: u32,
        /// What.
        verb: String,
        /// Why.
        why: &'a str,
        /// The image that was refused, if it is one.
        #[serde(flatten)]
        image: Option<&'a DeniedImage>,
    },
    /// Records that had no room on the disk: of removals, which went on.
    Lost {
        /// How many.
        count: u64,
    },
    /// Somebody was refused more often than is written, in the minute before.
    DeniedMore {
        /// Who; `others` if too many were refused to tell them apart.
        principal: &'a str,
        /// By number, but of `others`.
        #[serde(skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        /// How many refusals have no record of their own.
        count: u64,
    },
    /// The first record of a file.
    Continued {
        /// Operations that had begun and not ended.
        open: &'a [Open],
    },
    /// The end of the file was no whole record at a start. It was never acknowledged.
    Cut {
        /// Bytes that were taken away.
        bytes: u64,
    },
    /// What the daemon keeps of the chain's end apart from it was not there at a start.
    Unanchored,
}

/// What sort of operation something is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A change of apps and links. It is in the journal while it is under way.
    Change,
    /// A change of trust, the policy, the image store or of what maps hold.
    Host,
    /// What a start, or the end of an interrupted change, mends.
    Repair,
    /// What an event about an interface, a filter or a network namespace led to.
    Event,
}

/// An operation that has begun and not ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Open {
    /// Its identity.
    pub operation: OpId,
    /// What sort of operation it is.
    pub kind: Kind,
}

/// An image that the policy refused.
#[derive(Debug, Serialize)]
pub struct DeniedImage {
    /// As it was asked for.
    #[serde(rename = "image")]
    pub reference: String,
    /// What it was resolved to; absent if no registry was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// What a full disk means for a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WhenFull {
    /// What it is about does not happen.
    Refuse,
    /// It goes into the room that is kept; when that is used up it is counted, and what it is about goes on.
    Count,
}

impl WhenFull {
    /// For an operation that only removes, or that may add.
    pub fn of(removes: bool) -> Self {
        if removes { Self::Count } else { Self::Refuse }
    }
}

/// Where records go. The engine writes one before each effect and does nothing if it cannot.
pub trait AuditSink {
    /// Writes one record; it is on disk when this returns, or counted.
    fn write(&mut self, record: &Record<'_>, full: WhenFull) -> io::Result<()>;

    /// Operations that have begun and not ended, by their records, in the order of these.
    fn unended(&self) -> &[Open];

    /// Whether an operation has begun and not ended.
    fn is_open(&self, operation: OpId) -> bool {
        self.unended().iter().any(|open| open.operation == operation)
    }

    /// The record before what nobody asks for now, about these apps. It goes into the room that is kept, and without it the work goes on
    /// all the same: what was asked for before must run.
    fn begin_own(&mut self, kind: Kind, changes: &[String], apps: &[String], plan: Option<String>) -> OpId {
        let (operation, owner) = (OpId(Uuid::new_v4()), Principal::daemon().owner());
        let begun = Record::Begin { operation, kind, owner: &owner, changes, apps, plan, late: false };
        if let Err(error) = self.write(&begun, WhenFull::Count) {
            tracing::error!(%error, "cannot record in the audit log what the daemon does by itself");
        }
        operation
    }

    /// The record before a step.
    fn intent(&mut self, operation: OpId, step: &Step, full: WhenFull) -> io::Result<()> {
        self.write(&Record::Intent { operation, step: step.to_string() }, full)
    }

    /// The record after an operation. It is done, or not, whatever becomes of this. One whose first record had no room has none either.
    fn ended(&mut self, operation: OpId, result: &str) {
        let written = self.write(&Record::End { operation, result }, WhenFull::Count);
        written.unwrap_or_else(|error| tracing::error!(%error, "cannot write an end record to the audit log"));
    }

    /// The record of a refusal.
    fn denied(&mut self, denied: &Denied) -> io::Result<()> {
        self.write(&record(denied, None), WhenFull::Refuse)
    }

    /// The record of a refused image.
    fn denied_image(&mut self, denied: &Denied, image: &DeniedImage) -> io::Result<()> {
        self.write(&record(denied, Some(image)), WhenFull::Refuse)
    }
}

/// How something ended, in words for its last record.
pub fn result<T, E: Error>(done: &Result<T, E>) -> String {
    done.as_ref().map_or_else(|error| error_chain(error), |_| "done".to_owned())
}

fn record<'a>(denied: &'a Denied, image: Option<&'a DeniedImage>) -> Record<'a> {
    let Denied { principal, uid, verb, why, hint: _, rules: _ } = denied;
    Record::Denied { principal, uid: *uid, verb: verb.to_string(), why, image }
}
