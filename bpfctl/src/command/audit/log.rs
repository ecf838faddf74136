//! The files of the log, read in the order in which they were written. It must never write one.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bpfd_core::audit::{Anchor, KEPT, LINE};
use clap::Args;

use crate::error::{Exit, Failure, Local};

const LOG: &str = "/var/log/bpfd";
const ANCHOR: &str = "/var/lib/bpfd/audit.head";
/// Bytes of an anchor's file: more than one has.
const ANCHOR_LIMIT: u64 = 4096;

/// Where the files are.
#[derive(Debug, Args)]
pub(super) struct Directory {
    /// Read the files in this directory, such as those of a copy [default: /var/log/bpfd]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Directory {
    fn path(&self) -> &Path {
        self.dir.as_deref().unwrap_or_else(|| Path::new(LOG))
    }
}

/// See the module.
pub(super) struct Log {
    /// The oldest first.
    files: Vec<Open>,
    path: PathBuf,
}

struct Open {
    name: String,
    reader: BufReader<File>,
    /// Lines that were read.
    number: u64,
    /// A line whose end was not there yet.
    begun: Vec<u8>,
}

/// A line of a file.
pub(super) struct Line<'a> {
    /// Without its end.
    pub(super) bytes: &'a [u8],
    pub(super) file: &'a str,
    /// From 1.
    pub(super) number: u64,
    /// Whether its end is there.
    pub(super) is_ended: bool,
    /// Whether it is in the file that the daemon writes.
    pub(super) is_written: bool,
}

impl Log {
    /// Opens all files, the one that is written first: a rotation meanwhile gives a file twice, and never leaves one out.
    pub(super) fn open(dir: &Directory) -> Result<Self, Failure> {
        let path = dir.path().join("audit.jsonl");
        let mut files = Vec::new();
        let mut seen = BTreeSet::new();
        let aside = (1..=KEPT).map(|number| path.with_added_extension(number.to_string()));
        for path in std::iter::once(path.clone()).chain(aside) {
            let Some(file) = opened(&path)? else { continue };
            let facts = file.metadata().map_err(|error| unreadable(&path, &error))?;
            if seen.insert((facts.dev(), facts.ino())) {
                files.push(Open::new(&path, file));
            }
        }
        files.reverse();
        Ok(Self { files, path })
    }

    /// The log, if there is any file of it.
    pub(super) fn found(self) -> Result<Self, Failure> {
        match self.files.is_empty() {
            false => Ok(self),
            true => Err(Local::new(Exit::NotFound, "no audit log")
                .cause(format!("there is no file `{}`", self.path.display()))
                .hint("bpfd makes it when it starts")
                .into()),
        }
    }

    /// Each line, a last one without its end too.
    pub(super) fn each(&mut self, mut take: impl FnMut(Line<'_>) -> Result<(), Failure>) -> Result<(), Failure> {
        let last = self.files.len();
        for (place, file) in (1..).zip(&mut self.files) {
            file.lines(place == last, &mut take)?;
        }
        Ok(())
    }

    /// Each whole line that was written since; of the next file too if this one was put aside.
    pub(super) fn each_new(&mut self, mut take: impl FnMut(Line<'_>) -> Result<(), Failure>) -> Result<(), Failure> {
        // Looked at before it is read: what was put aside after that has its last lines read next time.
        let written = opened(&self.path)?;
        let Some(file) = self.files.last_mut() else { return Ok(()) };
        let mut whole = |line: Line<'_>| if line.is_ended { take(line) } else { Ok(()) };
        file.lines(true, &mut whole)?;
        if let Some(written) = written
            && !is_same(file.reader.get_ref(), &written).map_err(|error| unreadable(&self.path, &error))?
        {
            let mut next = Open::new(&self.path, written);
            next.lines(true, &mut whole)?;
            self.files = vec![next];
        }
        Ok(())
    }
}

impl Open {
    fn new(path: &Path, file: File) -> Self {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self { name, reader: BufReader::new(file), number: 0, begun: Vec::new() }
    }

    fn lines(
        &mut self,
        is_written: bool,
        take: &mut impl FnMut(Line<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let Self { name, reader, number, begun } = self;
        loop {
            let room = LINE.saturating_sub(u64::try_from(begun.len()).unwrap_or(LINE));
            let read = reader.take(room).read_until(b'\n', begun);
            let read = read.map_err(|error| unreadable(Path::new(name), &error))?;
            let whole = begun.strip_suffix(b"\n");
            let is_ended = whole.is_some();
            if read == 0 && room == 0 {
                let cause = format!("line {} has more than {LINE} bytes", *number + 1);
                return Err(Local::new(Exit::Other, format!("cannot read `{name}`")).cause(cause).into());
            }
            let bytes = whole.unwrap_or(begun);
            if !bytes.is_empty() || is_ended {
                take(Line { bytes, file: name, number: *number + 1, is_ended, is_written })?;
            }
            if !is_ended {
                return Ok(());
            }
            *number += 1;
            begun.clear();
        }
    }
}

/// Where the daemon keeps the end of the log; `None` if there is no such file.
pub(super) fn anchor(dir: &Directory, named: Option<&Path>) -> Result<Option<Anchor>, Failure> {
    let path = match (named, &dir.dir) {
        (Some(named), _) => named.to_path_buf(),
        (None, Some(dir)) => dir.join("audit.head"),
        (None, None) => PathBuf::from(ANCHOR),
    };
    let Some(file) = opened(&path)? else {
        return match named {
            None => Ok(None),
            Some(_) => Err(unreadable(&path, &io::ErrorKind::NotFound.into())),
        };
    };
    let mut text = String::new();
    file.take(ANCHOR_LIMIT).read_to_string(&mut text).map_err(|error| unreadable(&path, &error))?;
    let anchor = text.parse().map_err(|error: bpfd_core::audit::BadAnchor| {
        Local::new(Exit::Drift, format!("`{}` is damaged", path.display()))
            .cause(error.to_string())
            .hint("`bpfctl audit verify --head HASH` checks the log against an end that was printed before")
    });
    Ok(Some(anchor?))
}

fn opened(path: &Path) -> Result<Option<File>, Failure> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn is_same(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    let exit = match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::Denied,
        io::ErrorKind::NotFound => Exit::NotFound,
        _ => Exit::Other,
    };
    let failure = Local::new(exit, format!("cannot read `{}`", path.display())).cause(error.to_string());
    if denied { failure.hint("only root may read the audit log").into() } else { failure.into() }
}
