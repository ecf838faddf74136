//! The audit log: one JSON line for each decision that mutates and each effect, the intent on disk before the effect.
//!
//! It must never carry a secret: records are made of names, hashes and numbers only.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bpfd_core::ident::OpId;
use bpfd_core::kernel::Step;
use bpfd_core::policy::Denied;
use bpfd_core::state::Owner;
use serde::Serialize;

/// One line.
#[derive(Debug, Serialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record<'a> {
    /// An operation was allowed and begins.
    Begin {
        /// Its identity.
        operation: OpId,
        /// Who asked.
        owner: &'a Owner,
        /// What it will do, a line a step.
        plan: String,
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
    },
}

/// Where records go. The engine writes one before each effect and does nothing if it cannot.
pub trait AuditSink {
    /// Writes one record; it is on disk when this returns.
    fn write(&mut self, record: &Record<'_>) -> io::Result<()>;

    /// The record before a step.
    fn intent(&mut self, operation: OpId, step: &Step) -> io::Result<()> {
        self.write(&Record::Intent { operation, step: step.to_string() })
    }

    /// The record of a refusal.
    fn denied(&mut self, denied: &Denied) -> io::Result<()> {
        let Denied { principal, verb, why, hint: _ } = denied;
        self.write(&Record::Denied { principal, verb: verb.to_string(), why })
    }
}

/// `audit.jsonl`, appended to.
#[derive(Debug)]
pub struct AuditFile {
    file: File,
}

impl AuditFile {
    /// Opens or makes it, readable by root alone.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        Ok(Self { file })
    }
}

impl AuditSink for AuditFile {
    fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.file.sync_data()
    }
}
