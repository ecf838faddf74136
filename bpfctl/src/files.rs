//! Files that the command line names, read whole and never beyond a limit, and written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use bytecode_image::limits;

use crate::error::{Exit, Failure, Local};

/// A key as PEM has some hundred bytes; the API takes 16 KiB.
const KEY: u64 = 16 << 10;
/// A policy or description of an image, written by hand.
const TEXT: u64 = 1 << 20;

/// An ELF object: not empty, at most what the API and an image take.
pub(crate) fn object(path: &Path) -> Result<Vec<u8>, Failure> {
    let object = bytes(path, limits::OBJECT, "an object has at most 16 MiB")?;
    if object.is_empty() {
        return Err(refuse(path, Exit::Usage, "the file is empty").into());
    }
    Ok(object)
}

/// A key, as PEM.
pub(crate) fn key(path: &Path) -> Result<String, Failure> {
    text(path, KEY, "a key file has at most 16 KiB")
}

/// A policy or a description.
pub(crate) fn document(path: &Path) -> Result<String, Failure> {
    text(path, TEXT, "such a file has at most 1 MiB")
}

fn text(path: &Path, limit: u64, too_long: &str) -> Result<String, Failure> {
    String::from_utf8(bytes(path, limit, too_long)?)
        .map_err(|error| refuse(path, Exit::Usage, &error.utf8_error().to_string()).into())
}

fn bytes(path: &Path, limit: u64, too_long: &str) -> Result<Vec<u8>, Failure> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => refuse(path, Exit::NotFound, "there is no such file"),
        _ => refuse(path, Exit::Other, &error.to_string()),
    };
    let mut bytes = Vec::new();
    // One byte more than the limit tells a file that is too long from one that just fits.
    let read = File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if u64::try_from(read).is_ok_and(|read| read > limit) {
        return Err(refuse(path, Exit::Usage, too_long).into());
    }
    Ok(bytes)
}

/// Replaces a file, whole or not at all. Directories that are missing get the first mode, the file the second.
pub(crate) fn replace(file: &Path, text: &str, directory_mode: u32, mode: u32) -> io::Result<()> {
    // A link stays one.
    let file = fs::canonicalize(file).unwrap_or_else(|_absent| file.to_path_buf());
    let directory = file.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::DirBuilder::new().recursive(true).mode(directory_mode).create(directory)?;
    let new = file.with_extension(format!("new.{}", std::process::id()));
    let write = || {
        let mut new_file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        new_file.write_all(text.as_bytes())?;
        new_file.sync_all()?;
        fs::rename(&new, &file)
    };
    write().inspect_err(|_failed| fs::remove_file(&new).unwrap_or_default())
}

fn refuse(path: &Path, exit: Exit, cause: &str) -> Local {
    Local::new(exit, format!("cannot read `{}`", path.display())).cause(cause)
}
