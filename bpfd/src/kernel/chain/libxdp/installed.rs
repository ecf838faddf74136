//! The libxdp that is installed on this host: the version of the dispatchers that it makes, by the object that it loads.
//!
//! It must never fail a start: a host without libxdp has none.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ebpf::dispatcher::version_in_object;

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
    let file = File::open(path)?;
    let facts = file.metadata()?;
    if facts.uid() != 0 || facts.mode() & BY_OTHERS != 0 || !facts.is_file() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "others than root can write it"));
    }
    let mut object = Vec::new();
    file.take(LIMIT).read_to_end(&mut object)?;
    Ok(object)
}
