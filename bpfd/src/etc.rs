//! Files below `/etc/bpfd`, and keys and certificates that they name: read only if nobody but root can have written them.
//!
//! Each directory on the way is looked at too ([`crate::owned`]). A file is opened without following a symbolic link in its last
//! component, so that what is checked is what is read. Must never read without a limit, nor look inside.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::owned::OwnedDir;

/// Bytes of one file: written by hand, a few KiB.
const LIMIT: u64 = bytecode_image::limits::CONFIG_FILE;
/// Who may write besides the owner makes a file anybody's.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A file or directory that is not used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use `{}`", .path.display())]
pub struct EtcError {
    /// Which.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub fault: EtcFault,
}

impl EtcError {
    /// There is no such file or directory.
    pub fn is_absent(&self) -> bool {
        matches!(&self.fault, EtcFault::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// There is something else in the place of a directory.
    pub fn is_no_directory(&self) -> bool {
        matches!(&self.fault, EtcFault::Io(error) if error.kind() == io::ErrorKind::NotADirectory)
    }
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum EtcFault {
    /// Opening, reading, writing.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not root's, nor the daemon's own.
    #[error("it belongs to uid {0}; it must belong to root: `chown root`")]
    Owner(u32),
    /// Others could have written it.
    #[error("its mode is {0:o}; only its owner may be allowed to write: `chmod go-w`")]
    Mode(u32),
    /// A device, a directory, …
    #[error("it is not a regular file")]
    NotAFile,
    /// Longer than anybody writes.
    #[error("it has more than {LIMIT} bytes")]
    TooLong,
    /// Not UTF-8.
    #[error("it is not UTF-8 text")]
    Text,
}

/// The text of a file; `None` if there is none.
pub fn read(path: &Path) -> Result<Option<String>, EtcError> {
    let at = |fault| EtcError { path: path.to_path_buf(), fault };
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(at(EtcFault::NotAFile));
    };
    let directory = match OwnedDir::open(directory) {
        Ok(directory) => directory,
        Err(error) if error.is_absent() => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(file) = directory.file(name).map_err(|error| at(error.into()))? else { return Ok(None) };
    checked(&file).map_err(at)?;
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(|error| at(error.into()))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > LIMIT) {
        return Err(at(EtcFault::TooLong));
    }
    String::from_utf8(bytes).map(Some).map_err(|_not| at(EtcFault::Text))
}

/// The text of a file that another one names: it must be there, and is read under the same rules.
pub fn named(path: &Path) -> io::Result<String> {
    let text = read(path).map_err(|EtcError { path: _, fault }| io::Error::other(fault))?;
    text.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The names of the files in a directory that end in `.toml` and are not hidden, sorted; none if it is not there.
pub fn toml_files(directory: &Path) -> Result<Vec<PathBuf>, EtcError> {
    let at = |fault: EtcFault| EtcError { path: directory.to_path_buf(), fault };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(at(error.into())),
    };
    OwnedDir::open(directory)?;
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| at(error.into()))?.file_name();
        let text = name.to_string_lossy();
        if text.ends_with(".toml") && !text.starts_with('.') {
            found.push(directory.join(&name));
        }
    }
    found.sort();
    Ok(found)
}

/// Puts a file in place, whole or not at all, readable by all and on the disk when this returns. Makes its directory if needed.
pub fn replace(path: &Path, text: &str) -> Result<(), EtcError> {
    let at = |error: io::Error| EtcError { path: path.to_path_buf(), fault: error.into() };
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(at(io::ErrorKind::InvalidInput.into()));
    };
    OwnedDir::make(directory, 0o755)?;
    let new = directory.join(format!(".{}.new", name.to_string_lossy()));
    let written = write(&new, text).and_then(|()| {
        std::fs::rename(&new, path)?;
        File::open(directory)?.sync_all()
    });
    written.map_err(at)
}

fn write(new: &Path, text: &str) -> io::Result<()> {
    match std::fs::remove_file(new) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file: File = rustix::fs::open(new, flags, Mode::from_raw_mode(0o644))?.into();
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn checked(file: &File) -> Result<(), EtcFault> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(EtcFault::NotAFile);
    }
    owned(metadata.uid(), metadata.mode())
}

/// Root's, or of whoever the daemon runs as: that user could change the daemon itself.
pub(crate) fn owned(uid: u32, mode: u32) -> Result<(), EtcFault> {
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return Err(EtcFault::Owner(uid));
    }
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(EtcFault::Mode(mode & 0o7777));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn only_plain_files_that_others_cannot_write_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        assert!(matches!(read(&path), Ok(None)));
        replace(&path, "version = 1\n").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), "version = 1\n");
        let link = dir.path().join("link.toml");
        symlink(&path, &link).unwrap();
        let fault = read(&link).unwrap_err().fault;
        assert!(matches!(&fault, EtcFault::Io(error) if error.raw_os_error() == Some(40)), "{fault:?}");
        for mode in [0o664, 0o646] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&path).unwrap_err().fault, EtcFault::Mode(found) if found == mode));
        }
        let directory = dir.path().join("directory");
        std::fs::create_dir(&directory).unwrap();
        assert!(matches!(read(&directory).unwrap_err().fault, EtcFault::NotAFile));
        // Anybody may put a file beside this one.
        assert!(matches!(read(dir.path()).unwrap_err().fault, EtcFault::Mode(0o1777)));
        let long = "#".repeat(usize::try_from(LIMIT).unwrap() + 1);
        replace(&path, &long).unwrap();
        assert!(matches!(read(&path).unwrap_err().fault, EtcFault::TooLong));
    }

    #[test]
    fn a_file_of_another_user_is_not_read() {
        assert!(matches!(owned(4711, 0o600), Err(EtcFault::Owner(4711))));
        assert!(owned(0, 0o644).is_ok());
    }

    #[test]
    fn hidden_files_are_no_policy() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.toml", "a.toml", ".c.toml", "d.toml.bak", "e"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let names = toml_files(dir.path()).unwrap();
        assert_eq!(names, [dir.path().join("a.toml"), dir.path().join("b.toml")]);
        assert_eq!(toml_files(&dir.path().join("none")).unwrap(), Vec::<PathBuf>::new());
    }
}
