//! How often files are opened, by inotify(7): what a case shows to be read once, or not at all.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

/// Files that are watched, and those in directories that are.
#[derive(Debug)]
pub struct Opens(OwnedFd);

impl Opens {
    /// Of files and directories that are there.
    pub fn of(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let files = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        for path in paths {
            inotify::add_watch(&files, path, WatchFlags::OPEN).unwrap();
        }
        Self(files)
    }

    /// How often one of them was opened since the last time that this was asked.
    pub fn count(&self) -> usize {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.0, &mut buffer);
        let mut count = 0;
        let error = loop {
            match events.next() {
                // Not the directory itself.
                Ok(event) => count += usize::from(!event.events().contains(ReadFlags::ISDIR)),
                Err(error) => break error,
            }
        };
        assert_eq!(error, Errno::AGAIN);
        count
    }
}
