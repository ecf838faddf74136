//! Paths that only root, or the user that the daemon runs as, can change: each directory from `/` down, and the files that are read
//! at a start. Whoever may rename a directory on the way chooses what the daemon reads.
//!
//! ```text
//! /            root's, mode 755
//! ├── tmp      root's, sticky: passes on the way, since nobody can rename what is root's in it; not as the last
//! │   └── try  root's: passes
//! └── srv      a link: it belongs to root, and what it leads to is walked from the start
//! ```
//! Each step is taken from the descriptor of the directory before it, never following a link by itself, and what was opened is what is
//! looked at. Once all has passed, nobody else can change what the path means, so it may be used again by name. Must never create
//! anything below a directory that has not passed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, mkdirat, openat, readlinkat};
use rustix::io::Errno;

use crate::etc::{EtcError, EtcFault, owned};

/// Links on the way to one directory: as many as the kernel follows (`MAXSYMLINKS` of include/linux/namei.h).
const LINKS: usize = 40;
/// Who may write besides the owner, in a directory where nobody may touch what is another's.
const STICKY: u32 = 0o1000;

const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory that passed, all the way.
#[derive(Debug)]
pub struct OwnedDir {
    fd: OwnedFd,
    path: PathBuf,
}

/// What a link in the place of a file is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Links {
    /// Whoever reads the file would follow it: refused.
    Refused,
    /// Whoever reads the file refuses it.
    NotFollowed,
}

/// What to do about a directory that is not there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Absent {
    Fail,
    Make(Mode),
}

impl OwnedDir {
    /// Opens a directory.
    pub fn open(path: &Path) -> Result<Self, EtcError> {
        walk(path, Absent::Fail)
    }

    /// Opens a directory, and makes it, and those above it, if they are not there.
    pub fn make(path: &Path, mode: u32) -> Result<Self, EtcError> {
        walk(path, Absent::Make(Mode::from_raw_mode(mode)))
    }

    /// A file in it for reading, never through a link; `None` if there is none. What it is, the caller looks at.
    pub fn file(&self, name: &OsStr) -> io::Result<Option<File>> {
        // Not blocking: it may be a pipe.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// That those of these entries that are there are root's, too.
    pub fn check<'a>(&self, names: impl IntoIterator<Item = &'a OsStr>, links: Links) -> Result<(), EtcError> {
        names.into_iter().try_for_each(|name| {
            let checked = match openat(&self.fd, name, LOOK, Mode::empty()) {
                Ok(entry) => entry_owned(&entry, links),
                Err(Errno::NOENT) => Ok(()),
                Err(error) => Err(io::Error::from(error).into()),
            };
            checked.map_err(|fault| EtcError { path: self.path.join(name), fault })
        })
    }

    /// That all its entries are root's.
    pub fn check_all(&self) -> Result<(), EtcError> {
        let at = |error: io::Error| EtcError { path: self.path.clone(), fault: error.into() };
        let listed = openat(&self.fd, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let listed = listed.and_then(|fd| rustix::fs::Dir::read_from(&fd)).map_err(|error| at(error.into()))?;
        for entry in listed {
            let entry = entry.map_err(|error| at(error.into()))?;
            match entry.file_name().to_bytes() {
                b"." | b".." => {}
                name => self.check([OsStr::from_bytes(name)], Links::Refused)?,
            }
        }
        Ok(())
    }
}

/// That a directory is root's, or a link of root's to one, whoever may write above it: nobody else puts anything in it.
pub fn last(path: &Path) -> Result<(), EtcError> {
    let look = |flags| openat(rustix::fs::CWD, path, flags, Mode::empty()).map_err(io::Error::from);
    let found = || {
        let link = fstat(&look(LOOK)?).map_err(io::Error::from)?;
        let directory =
            fstat(&look(LOOK.difference(OFlags::NOFOLLOW) | OFlags::DIRECTORY)?).map_err(io::Error::from)?;
        if FileType::from_raw_mode(link.st_mode) == FileType::Symlink {
            owned(link.st_uid, 0)?;
        }
        owned(directory.st_uid, directory.st_mode)
    };
    found().map_err(|fault| EtcError { path: path.to_path_buf(), fault })
}

fn entry_owned(entry: &OwnedFd, links: Links) -> Result<(), EtcFault> {
    let found = fstat(entry).map_err(io::Error::from)?;
    match (FileType::from_raw_mode(found.st_mode), links) {
        (FileType::Symlink, Links::NotFollowed) => Ok(()),
        (FileType::Symlink, Links::Refused) => Err(EtcFault::NotAFile),
        (_, _) => owned(found.st_uid, found.st_mode),
    }
}

/// See the module.
fn walk(path: &Path, absent: Absent) -> Result<OwnedDir, EtcError> {
    let of_path = |error: io::Error| EtcError { path: path.to_path_buf(), fault: error.into() };
    let absolute = std::path::absolute(path).map_err(of_path)?;
    let mut ahead = steps(&absolute);
    let mut here = root().map_err(of_path)?;
    let mut shown = PathBuf::from("/");
    let mut links = 0;
    passes(&here, ahead.is_empty()).map_err(|fault| EtcError { path: shown.clone(), fault })?;
    while let Some(step) = ahead.pop() {
        let at = |fault: EtcFault| EtcError { path: shown.join(&step), fault };
        let next = enter(&here, &step, absent).map_err(|error| at(error.into()))?;
        let found = fstat(&next).map_err(|error| at(io::Error::from(error).into()))?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => {
                judge(&found, ahead.is_empty()).map_err(at)?;
                if step == ".." {
                    shown.pop();
                } else {
                    shown.push(&step);
                }
                here = next;
            }
            FileType::Symlink => {
                links += 1;
                if links > LINKS {
                    return Err(at(io::Error::from(Errno::LOOP).into()));
                }
                // A link has no mode; who made it, and the directory that it is in, say who can change it.
                owned(found.st_uid, 0).map_err(at)?;
                let target = readlinkat(&next, "", Vec::new()).map_err(|error| at(io::Error::from(error).into()))?;
                let target = PathBuf::from(OsStr::from_bytes(target.to_bytes()));
                if target.is_absolute() {
                    here = root().map_err(of_path)?;
                    shown = PathBuf::from("/");
                }
                let more = steps(&target);
                // It leads to `/`, or to where it is: what it leads to is the last.
                if more.is_empty() && ahead.is_empty() {
                    passes(&here, true).map_err(|fault| EtcError { path: shown.clone(), fault })?;
                }
                ahead.extend(more);
            }
            _ => return Err(at(io::Error::from(Errno::NOTDIR).into())),
        }
    }
    Ok(OwnedDir { fd: here, path: absolute })
}

/// The names on a way, the last first.
fn steps(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    });
    names.collect()
}

fn root() -> io::Result<OwnedFd> {
    Ok(openat(rustix::fs::CWD, "/", LOOK | OFlags::DIRECTORY, Mode::empty())?)
}

fn enter(here: &OwnedFd, step: &OsStr, absent: Absent) -> io::Result<OwnedFd> {
    match (openat(here, step, LOOK, Mode::empty()), absent) {
        (Err(Errno::NOENT), Absent::Make(mode)) => {
            // Whoever makes it first, it is looked at.
            match mkdirat(here, step, mode) {
                Ok(()) | Err(Errno::EXIST) => Ok(openat(here, step, LOOK, Mode::empty())?),
                Err(error) => Err(error.into()),
            }
        }
        (found, _) => Ok(found?),
    }
}

fn passes(directory: &OwnedFd, last: bool) -> Result<(), EtcFault> {
    judge(&fstat(directory).map_err(io::Error::from)?, last)
}

/// Whether nobody else can change which entries a directory has; on the way, whether nobody can change those that are root's.
fn judge(found: &Stat, last: bool) -> Result<(), EtcFault> {
    let sticky = found.st_mode & STICKY != 0 && found.st_uid == 0;
    let mode = if sticky && !last { 0 } else { found.st_mode };
    owned(found.st_uid, mode)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_directory_that_others_may_write_is_named_wherever_it_is_on_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let (above, below) = (dir.path().join("above"), dir.path().join("above/below"));
        OwnedDir::make(&below, 0o700).unwrap();
        OwnedDir::open(&below).unwrap();
        for bad in [0o770, 0o707, 0o777] {
            mode(&above, bad);
            let EtcError { path, fault } = OwnedDir::open(&below).unwrap_err();
            assert!(path == above && matches!(fault, EtcFault::Mode(found) if found == bad), "{path:?} {fault:?}");
            // Nothing is made below it.
            OwnedDir::make(&above.join("new"), 0o700).unwrap_err();
            assert!(!above.join("new").exists());
        }
    }

    #[test]
    fn the_last_may_not_be_sticky() {
        let error = OwnedDir::open(Path::new("/tmp")).unwrap_err();
        assert!(matches!(error.fault, EtcFault::Mode(0o1777)), "{error:?}");
        OwnedDir::open(tempfile::tempdir_in("/tmp").unwrap().path()).unwrap();
    }

    #[test]
    fn a_link_is_followed_where_each_part_of_it_passes() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        OwnedDir::make(&at("real/inside"), 0o700).unwrap();
        for (link, target) in [
            ("absolute", at("real").to_str().unwrap().to_owned()),
            ("relative", "real".to_owned()),
            ("up", "real/inside/..".to_owned()),
            ("round", "round".to_owned()),
            ("nowhere", "absent".to_owned()),
            ("open", "/tmp".to_owned()),
        ] {
            symlink(target, at(link)).unwrap();
        }
        for good in ["absolute", "relative", "up", "up/inside"] {
            OwnedDir::open(&at(good)).unwrap();
        }
        for bad in ["round", "nowhere", "open"] {
            OwnedDir::open(&at(bad)).unwrap_err();
        }
        mode(&at("real"), 0o777);
        for link in ["absolute", "relative", "up/inside"] {
            assert_eq!(OwnedDir::open(&at(link)).unwrap_err().path, at("real"), "{link}");
        }
    }

    #[test]
    fn a_directory_of_ones_own_may_be_below_one_of_others() {
        let dir = tempfile::tempdir().unwrap();
        let (own, link) = (dir.path().join("own"), dir.path().join("link"));
        std::fs::create_dir(&own).unwrap();
        symlink(&own, &link).unwrap();
        mode(dir.path(), 0o777);
        mode(&own, 0o700);
        last(&own).unwrap();
        last(&link).unwrap();
        mode(&own, 0o770);
        for path in [&own, &link] {
            assert!(matches!(last(path).unwrap_err().fault, EtcFault::Mode(0o770)));
        }
    }

    #[test]
    fn entries_are_looked_at_themselves() {
        let dir = tempfile::tempdir().unwrap();
        let owned = OwnedDir::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("state.db"), "").unwrap();
        symlink("state.db", dir.path().join("link")).unwrap();
        let check = |name: &str, links| owned.check([OsStr::new(name)], links);
        check("state.db", Links::Refused).unwrap();
        check("absent", Links::Refused).unwrap();
        check("link", Links::NotFollowed).unwrap();
        assert_eq!(check("link", Links::Refused).unwrap_err().path, dir.path().join("link"));
        mode(&dir.path().join("state.db"), 0o666);
        check("state.db", Links::Refused).unwrap_err();
        owned.check_all().unwrap_err();
    }
}
