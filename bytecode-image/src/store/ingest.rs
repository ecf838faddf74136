//! Parts on their way into the store: written, counted, not yet content nor on the disk: that is the commit's.
//!
//! The directory may be all that a process sees of the store: a fetch worker gets it as a descriptor. Must never name a
//! file after anything but a digest, this process and a count.

use std::{
    fmt,
    fs::File,
    io::{self, Write},
    os::fd::{BorrowedFd, OwnedFd},
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};

use super::dir::Dir;
use crate::digest::{Descriptor, Digest};

/// The directory that parts are written to.
#[derive(Debug)]
pub struct Ingest {
    dir: Dir,
    next: AtomicU64,
}

/// A part that is being written. Dropped before it has landed, it is removed.
#[derive(Debug)]
pub struct IngestFile<'a> {
    ingest: &'a Ingest,
    file: Option<File>,
    name: IngestName,
    descriptor: Descriptor,
}

/// A part that is whole, in `ingest/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landed {
    /// Its name there.
    pub file: IngestName,
    /// What it is, by whoever wrote it: the store hashes it again.
    pub descriptor: Descriptor,
}

/// A file's name in `ingest/`: `<64 hex digits>.<process>.<count>`. Parsed, since another process says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IngestName(String);

/// Not a name of a file in `ingest/`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a part in `ingest`")]
pub struct IngestNameError;

impl IngestName {
    fn new(digest: Digest, count: u64) -> Self {
        Self(format!("{}.{}.{count}", digest.hex(), std::process::id()))
    }

    /// The name, one path component.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IngestName {
    type Err = IngestNameError;

    fn from_str(text: &str) -> Result<Self, IngestNameError> {
        let mut parts = text.split('.');
        let hex = parts.next().is_some_and(|hex| format!("sha256:{hex}").parse::<Digest>().is_ok());
        let number = |part: Option<&str>| {
            part.is_some_and(|part| (1..=20).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let good = hex && number(parts.next()) && number(parts.next()) && parts.next().is_none();
        good.then(|| Self(text.to_owned())).ok_or(IngestNameError)
    }
}

impl TryFrom<String> for IngestName {
    type Error = IngestNameError;

    fn try_from(text: String) -> Result<Self, IngestNameError> {
        text.parse()
    }
}

impl From<IngestName> for String {
    fn from(name: IngestName) -> Self {
        name.0
    }
}

impl fmt::Display for IngestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Ingest {
    pub(super) fn new(dir: Dir) -> Self {
        Self { dir, next: AtomicU64::new(0) }
    }

    /// The directory that another process opened.
    #[must_use]
    pub fn from_fd(directory: OwnedFd) -> Self {
        Self::new(Dir::from_fd(directory))
    }

    /// The directory, to be given to another process.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Begins a part.
    ///
    /// # Errors
    /// What the file system says.
    pub fn begin(&self, descriptor: &Descriptor) -> io::Result<IngestFile<'_>> {
        loop {
            let name = IngestName::new(descriptor.digest, self.next.fetch_add(1, Ordering::Relaxed));
            match self.dir.create_new(name.as_str()) {
                Ok(file) => {
                    let descriptor = descriptor.clone();
                    return Ok(IngestFile { ingest: self, file: Some(file), name, descriptor });
                }
                // Left behind by an earlier process of the same number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes a part that is in memory.
    ///
    /// # Errors
    /// What the file system says.
    pub fn put(&self, descriptor: &Descriptor, bytes: &[u8]) -> io::Result<Landed> {
        let mut file = self.begin(descriptor)?;
        file.write_all(bytes)?;
        Ok(file.land())
    }

    /// Gives up a part that landed.
    pub(crate) fn remove(&self, part: &Landed) {
        // Nobody can be told here; what stays is cleared at the next start.
        let _cleared_later = self.dir.remove(part.file.as_str());
    }
}

impl IngestFile<'_> {
    /// Keeps it.
    #[must_use]
    pub fn land(mut self) -> Landed {
        self.file = None;
        Landed { file: self.name.clone(), descriptor: self.descriptor.clone() }
    }
}

impl Write for IngestFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.as_mut().map_or(Ok(0), |file| file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for IngestFile<'_> {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // Nobody can be told here; what stays is cleared at the next start.
            let _cleared_later = self.ingest.dir.remove(self.name.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_parts_are_names() {
        let name = IngestName::new(Digest::of(b"x"), 7);
        assert_eq!(name.as_str().parse(), Ok(name.clone()));
        let hex = Digest::of(b"x").hex();
        for other in [
            "",
            "..",
            "../index.json",
            "index.json.new",
            &hex,
            &format!("{hex}.1"),
            &format!("{hex}.1.2.3"),
            &format!("{hex}.1./x"),
            &format!("{hex}..1"),
        ] {
            assert_eq!(other.parse::<IngestName>(), Err(IngestNameError), "{other}");
        }
    }

    #[test]
    fn a_part_that_did_not_land_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let ingest = Ingest::new(Dir::create(dir.path()).unwrap());
        let descriptor = Descriptor::of("x/y", b"abc");
        let mut file = ingest.begin(&descriptor).unwrap();
        file.write_all(b"ab").unwrap();
        assert_eq!(ingest.dir.names().unwrap().len(), 1);
        drop(file);
        assert_eq!(ingest.dir.names().unwrap().len(), 0);
        let landed = ingest.put(&descriptor, b"abc").unwrap();
        assert_eq!(ingest.dir.names().unwrap(), [landed.file.as_str()]);
    }
}
