//! The end of the chain, kept apart from the log: `/var/lib/bpfd/audit.head`. It names records that are on disk for certain, and no
//! others, so that a record that it names and the log does not have was removed.
//!
//! Written over in place after each sync of the log, and itself synced only when the log is rotated: after a crash of the host it may
//! be behind the log, never ahead. It must never be what keeps an operation from happening.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bpfd_core::audit::{Anchor, Head};
use rustix::fs::{Mode, OFlags};

use crate::reserve::is_full;

/// Bytes that are read of it: more than one has.
const LIMIT: u64 = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct AnchorFile {
    /// None if the disk was full when it was to be made.
    file: Option<File>,
    /// The first record that has not been rotated away.
    oldest: u64,
}

impl AnchorFile {
    /// Opens or makes it, and reads what it says; `None` if that is nothing.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Option<Anchor>)> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file: File = match rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)).map_err(io::Error::from) {
            Ok(file) => file.into(),
            Err(error) if is_full(&error) => {
                tracing::error!(path = %path.display(), %error, "records that are removed from the audit log will not be missed");
                return Ok((Self { file: None, oldest: 1 }, None));
            }
            Err(error) => return Err(error),
        };
        let mut text = String::new();
        (&file).take(LIMIT).read_to_string(&mut text)?;
        let anchor = match text.parse::<Anchor>() {
            Ok(anchor) => Some(anchor),
            Err(_) if text.is_empty() => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot read the end of the audit log's chain");
                None
            }
        };
        Ok((Self { file: Some(file), oldest: anchor.map_or(1, |anchor| anchor.oldest) }, anchor))
    }

    /// From now on this is the first record that is there.
    pub(super) fn keep_from(&mut self, oldest: u64) {
        self.oldest = oldest;
    }

    /// The log is on disk up to here.
    pub(super) fn write(&self, head: Head) {
        if let Err(error) = self.try_write(head) {
            tracing::error!(%error, "cannot write the end of the audit log's chain: what is removed there may not be missed");
        }
    }

    fn try_write(&self, head: Head) -> io::Result<()> {
        let text = Anchor { seq: head.seq, hash: head.hash, oldest: self.oldest }.text()?;
        self.file.as_ref().map_or(Ok(()), |file| file.write_all_at(text.as_bytes(), 0))
    }

    /// The same, and this is on disk too when it returns.
    pub(super) fn write_synced(&self, head: Head) -> io::Result<()> {
        self.try_write(head)?;
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }
}
