//! The libxdp that is installed on this host: the version of the dispatchers that it makes, by the object that it loads.
//!
//! It must never fail a start: a host without libxdp has none.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ebpf::dispatcher::version_in_object;
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::causes::error_chain;

/// What libxdp looks for (`XDP_DISPATCHER_OBJ` of xdp-tools lib/libxdp).
const OBJECT: &str = "xdp-dispatcher.o";
/// Debian's of 1.3.1 has 10 KiB.
const LIMIT: u64 = 1 << 20;
/// Writable by others than its owner.
const BY_OTHERS: u32 = 0o022;

/// Where distributions put it; `LIBXDP_OBJECT_PATH` comes first, as with libxdp.
pub(crate) fn directories(named: Option<PathBuf>) -> Vec<PathBuf> {
    let triplet = format!("/usr/lib/{}-linux-gnu/bpf", std::env::consts::ARCH);
    let usual = ["/usr/local/lib/bpf", "/usr/local/lib64/bpf", &triplet, "/usr/lib64/bpf", "/usr/lib/bpf"];
    named.into_iter().chain(usual.into_iter().map(PathBuf::from)).collect()
}

/// The version of the first that is found.
pub(crate) fn version(directories: &[PathBuf]) -> Option<u32> {
    let paths = directories.iter().map(|directory| directory.join(OBJECT));
    paths.into_iter().find_map(|path| match read(&path) {
        Ok(object) => {
            let version = version_in_object(&object);
            if version.is_none() {
                tracing::warn!(path = %path.display(), "this is no dispatcher of libxdp's");
            }
            version
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), error = error_chain(&error), "cannot read libxdp's dispatcher");
            None
        }
    })
}

/// Only what root alone can write: it is parsed by a process that may do everything.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Not blocking: it may be a fifo.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(CWD, path, flags, Mode::empty())?);
    let facts = file.metadata()?;
    if !facts.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if facts.uid() != 0 || facts.mode() & BY_OTHERS != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "others than root can write it"));
    }
    let mut object = Vec::new();
    file.take(LIMIT).read_to_end(&mut object)?;
    Ok(object)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use rustix::fs::{FileType, mknodat};

    use super::*;

    #[test]
    fn a_fifo_is_no_dispatcher_and_nobody_waits_for_who_writes_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(OBJECT);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let (told, tells) = mpsc::channel();
        let asked = path.clone();
        std::thread::spawn(move || told.send(read(&asked).map_err(|error| error.to_string())).unwrap());
        assert_eq!(tells.recv_timeout(Duration::from_secs(60)).unwrap(), Err("it is no regular file".to_owned()));
        assert_eq!(version(&[directory.path().to_path_buf()]), None);
    }
}
