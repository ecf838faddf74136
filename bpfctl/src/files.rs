//! Files that the command line names, read whole and never beyond a limit.

use std::fs::File;
use std::io::{self, Read as _};
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

fn refuse(path: &Path, exit: Exit, cause: &str) -> Local {
    Local::new(exit, format!("cannot read `{}`", path.display())).cause(cause)
}
