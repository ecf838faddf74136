//! The audit log: one JSON line for each decision that mutates and each effect, the intent on disk before the effect.
//!
//! Nobody can fill the disk with it: refusals beyond a number a minute are counted, not written, and the file is put aside when it is
//! full, the oldest going first. It must never carry a secret: records are made of names, hashes and numbers only.

mod denials;
mod file;

use std::io;

use bpfd_core::ident::OpId;
use bpfd_core::kernel::Step;
use bpfd_core::policy::Denied;
use bpfd_core::state::Owner;
use serde::Serialize;

pub use self::file::AuditFile;

/// One line, beside the time of its writing.
#[derive(Debug, Serialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record<'a> {
    /// An operation was allowed and begins.
    Begin {
        /// Its identity.
        operation: OpId,
        /// Who asked.
        owner: &'a Owner,
        /// What for, a sentence each: apps, links and images by name.
        changes: &'a [String],
        /// How, a line a step; nothing if no hook and no pin changes.
        #[serde(skip_serializing_if = "Option::is_none")]
        plan: Option<String>,
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
        /// Who.
        principal: &'a str,
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
        /// How many refusals have no record of their own.
        count: u64,
    },
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

    /// The record before a step.
    fn intent(&mut self, operation: OpId, step: &Step, full: WhenFull) -> io::Result<()> {
        self.write(&Record::Intent { operation, step: step.to_string() }, full)
    }

    /// The record after an operation. It is done, or not, whatever becomes of this.
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

fn record<'a>(denied: &'a Denied, image: Option<&'a DeniedImage>) -> Record<'a> {
    let Denied { principal, verb, why, hint: _, rules: _ } = denied;
    Record::Denied { principal, verb: verb.to_string(), why, image }
}
