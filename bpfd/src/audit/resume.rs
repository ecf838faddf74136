//! Where the chain goes on at a start, and which operations had begun and not ended. Only the file that is written is read, unless the
//! daemon ended in the middle of a rotation. It must never write.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek as _};
use std::path::Path;

use bpfd_core::audit::{Head, LINE, Sealed};
use bpfd_core::ident::OpId;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;

use super::{Kind, Open};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Resume {
    /// The record that the next one follows.
    pub(super) head: Head,
    /// Whether there is any record with a hash.
    pub(super) is_chained: bool,
    /// Operations without an end.
    pub(super) open: Vec<Open>,
    /// Bytes of whole lines in the file that is written.
    pub(super) whole: u64,
}

/// What of a record is looked at.
#[derive(Deserialize)]
struct Brief<'a> {
    record: &'a str,
    operation: Option<OpId>,
    kind: Option<Kind>,
    open: Option<Vec<Open>>,
}

/// Looks at the files, the one that is written first, then from the newest that was put aside to the oldest. The chain goes on after the
/// anchor's record and those that follow it. If that is not there it goes on after it all the same, so that the gap stays one.
pub(super) fn resume(files: &[File], anchor: Option<Head>) -> io::Result<Resume> {
    let mut read = Vec::new();
    for file in files {
        read.push(file);
        if is_a_beginning(file)? {
            break;
        }
    }
    let mut resume = Resume { head: anchor.unwrap_or_default(), ..Resume::default() };
    let mut walk = Walk { at: anchor.unwrap_or_default(), anchor, met: false };
    for file in read.into_iter().rev() {
        resume.whole = 0;
        each_line(file, |line| {
            resume.whole += 1 + u64::try_from(line.len()).unwrap_or_default();
            if let Ok(sealed) = Sealed::read(line) {
                resume.is_chained = true;
                walk.take(sealed, line);
                resume.note(line);
            }
            true
        })?;
    }
    resume.head = walk.at;
    Ok(resume)
}

/// The number of the first record of a file; `None` if it has none with a hash.
pub(super) fn first(file: &File) -> io::Result<Option<u64>> {
    let mut first = None;
    each_line(file, |line| {
        first = Sealed::read(line).ok().map(|sealed| sealed.head.seq);
        first.is_none()
    })?;
    Ok(first)
}

/// Whether nothing before this file is needed: it says what was open, or it is the first with hashes.
fn is_a_beginning(file: &File) -> io::Result<bool> {
    let mut beginning = false;
    each_line(file, |line| {
        beginning = Sealed::read(line).map_or(true, |sealed| sealed.head.seq == 1)
            || serde_json::from_slice(line).is_ok_and(|brief: Brief<'_>| brief.record == "continued");
        false
    })?;
    Ok(beginning)
}

/// A file that was put aside. Somebody else may have put something in its place where others may write above the directory: a link is not
/// followed, nor is a pipe waited for. `None` if there is no file.
pub(super) fn kept_aside(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: File = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => file.into(),
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(file.metadata()?.is_file().then_some(file))
}

/// Each whole line of a file, without its end, for as long as more is wanted. One of more than [`LINE`] bytes is none.
fn each_line(mut file: &File, mut take: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    file.rewind()?;
    let (mut file, mut line) = (BufReader::new(file), Vec::new());
    while (&mut file).take(LINE).read_until(b'\n', &mut line)? > 0 {
        match line.strip_suffix(b"\n") {
            Some(whole) if take(whole) => line.clear(),
            Some(_) | None => break,
        }
    }
    Ok(())
}

/// The way along the chain.
struct Walk {
    at: Head,
    anchor: Option<Head>,
    met: bool,
}

impl Walk {
    fn take(&mut self, sealed: Sealed, line: &[u8]) {
        let goes_on = match self.anchor {
            // Whatever is last: there is nothing to hold it against.
            None => sealed.is_intact(line),
            Some(anchor) if sealed.head == anchor => {
                self.met = true;
                true
            }
            Some(_) => {
                let follows = sealed.follows(self.at) && sealed.is_intact(line);
                // The anchor's own record may be in the file before.
                self.met |= follows;
                follows && self.met
            }
        };
        if goes_on {
            self.at = sealed.head;
        }
    }
}

impl Resume {
    fn note(&mut self, line: &[u8]) {
        let Ok(Brief { record, operation, kind, open }) = serde_json::from_slice(line) else { return };
        match (record, operation, kind) {
            ("begin", Some(operation), Some(kind)) => self.open.push(Open { operation, kind }),
            ("end", Some(operation), _) => self.open.retain(|open| open.operation != operation),
            ("continued", ..) => self.open = open.unwrap_or_default(),
            _ => {}
        }
    }
}
