//! A directory by file descriptor: each name in it is one path component, and no symbolic link is followed.
//!
//! Must never take a name from outside the crate's own grammar of digests and fixed names.

use std::{
    ffi::OsStr,
    fs::{DirBuilder, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, MetadataExt},
        },
    },
    path::Path,
};

use rustix::fs::{
    AtFlags, FlockOperation, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, fchmod, fchown,
    flock, fsync, futimens, mkdirat, openat, renameat, syncfs, unlinkat,
};

/// Opening a file of the store: never through a link, never waiting for a pipe's other end.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);
const NEW: OFlags = OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::CLOEXEC);
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

#[derive(Debug)]
pub(super) struct Dir(OwnedFd);

/// One state of one file: another file, or the same one written to, has another (inode(7), ctime).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// What is on the disk when a file has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnDisk {
    /// The file.
    File,
    /// It, and every file and name of its file system that was written before (syncfs(2)).
    AllBefore,
}

impl Dir {
    /// Opens a directory for root alone, and makes it and its parents if needed.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let opened = File::open(path)?;
        if opened.metadata()?.is_dir() { Ok(Self(opened.into())) } else { Err(io::ErrorKind::NotADirectory.into()) }
    }

    pub(super) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// A directory in this one, made if needed.
    pub(super) fn subdir(&self, name: &str) -> io::Result<Self> {
        match mkdirat(&self.0, name, Mode::RWXU) {
            Ok(()) => fsync(&self.0)?,
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self(openat(&self.0, name, DIRECTORY, Mode::empty())?))
    }

    /// A new directory in this one, for one user and group; an error if the name is taken.
    pub(super) fn subdir_of(&self, name: &str, uid: Uid, gid: Gid) -> io::Result<Self> {
        mkdirat(&self.0, name, Mode::RWXU)?;
        let made = openat(&self.0, name, DIRECTORY, Mode::empty())?;
        fchown(&made, Some(uid), Some(gid))?;
        Ok(Self(made))
    }

    /// Gives the directory to whoever this process is, and to nobody else.
    pub(super) fn take(&self) -> io::Result<()> {
        fchown(&self.0, Some(rustix::process::geteuid()), Some(rustix::process::getegid()))?;
        Ok(fchmod(&self.0, Mode::RWXU)?)
    }

    /// A new file, for writing; an error if the name is taken.
    pub(super) fn create_new(&self, name: &str) -> io::Result<File> {
        Ok(openat(&self.0, name, NEW, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// A regular file, for reading.
    pub(super) fn open(&self, name: &str) -> io::Result<File> {
        let file: File = openat(&self.0, name, READ, Mode::empty())?.into();
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// Which file has a name now.
    pub(super) fn stamp(&self, name: &str) -> io::Result<Stamp> {
        let data = self.open(name)?.metadata()?;
        let changed = (data.ctime(), data.ctime_nsec());
        Ok(Stamp { inode: data.ino(), size: data.size(), changed })
    }

    /// A small file, whole.
    pub(super) fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(name)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length <= limit) {
            Ok(bytes)
        } else {
            Err(io::ErrorKind::FileTooLarge.into())
        }
    }

    /// A file with these bytes, on the disk when this returns, perhaps with more. One of that name is left of a crash, and goes; a file that
    /// could not be written whole goes too.
    pub(super) fn write_new(&self, name: &str, bytes: &[u8], on_disk: OnDisk) -> io::Result<()> {
        self.remove(name).or_else(super::none_there)?;
        let mut file = self.create_new(name)?;
        let written = file.write_all(bytes).and_then(|()| match on_disk {
            OnDisk::File => file.sync_all(),
            OnDisk::AllBefore => Ok(syncfs(&file)?),
        });
        if written.is_err() {
            self.remove(name)?;
        }
        written
    }

    pub(super) fn rename(&self, name: &str, to: &Self, new: &str) -> io::Result<()> {
        Ok(renameat(&self.0, name, &to.0, new)?)
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Brings every file of its file system to the disk that was written before (syncfs(2)).
    pub(super) fn sync_all_files(&self) -> io::Result<()> {
        Ok(syncfs(&self.0)?)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(fsync(&self.0)?)
    }

    /// Every name in it that is UTF-8; nothing of ours is anything else.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            names.extend(name.to_str().filter(|name| !matches!(*name, "." | "..")).map(str::to_owned));
        }
        Ok(names)
    }

    /// Says that a file is used now: its time of access, which reading need not change (mount(8), `relatime`).
    pub(super) fn touch(&self, name: &str) -> io::Result<()> {
        let time = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
        let times = Timestamps { last_access: time(UTIME_NOW), last_modification: time(UTIME_OMIT) };
        Ok(futimens(self.open(name)?, &times)?)
    }

    /// Waits for the exclusive lock on this directory; closing the descriptor gives it back.
    pub(super) fn lock(&self) -> io::Result<OwnedFd> {
        let own = openat(&self.0, ".", DIRECTORY, Mode::empty())?;
        flock(&own, FlockOperation::LockExclusive)?;
        Ok(own)
    }
}
