//! An image store that cannot be read: set aside at a start, and reported, so that a host does not lose its daemon. It must never delete
//! the store of now.

use std::io;
use std::path::Path;

use bytecode_image::store::{Store, StoreError};

use super::ImageError;
use crate::causes::error_chain;

/// The store; if what is there cannot be read as one, it is moved away, and a new one is made. Everything in it can be pulled again, and
/// loaded apps have their objects elsewhere: it is no reason to leave a host without its daemon. Gives what was wrong.
pub(super) fn open_or_set_aside(directory: &Path) -> Result<(Store, Option<String>), ImageError> {
    let error = match Store::open(directory) {
        Ok(store) => return Ok((store, None)),
        Err(error) if is_damage(&error) => error,
        Err(error) => return Err(error.into()),
    };
    let aside = directory.with_extension("damaged");
    // One is kept: a store that is damaged again and again must not fill the disk.
    let removed = match std::fs::remove_dir_all(&aside) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => std::fs::remove_file(&aside),
        removed => removed,
    };
    match removed {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(ImageError::Ingest(error)),
    }
    std::fs::rename(directory, &aside).map_err(ImageError::Ingest)?;
    let damage = format!(
        "the image store was damaged ({}) and is now `{}`; pull what you need again, then remove it",
        error_chain(&error),
        aside.display()
    );
    tracing::error!("{damage}");
    Ok((Store::open(directory)?, Some(damage)))
}

/// Whether the store's own files are at fault, and not the disk or the rights on it.
fn is_damage(error: &StoreError) -> bool {
    match error {
        StoreError::Io { source, .. } => match source.kind() {
            io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::InvalidData
            | io::ErrorKind::AlreadyExists => true,
            _ => source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()),
        },
        StoreError::NotALayout(_)
        | StoreError::Corrupt(_)
        | StoreError::Missing(_)
        | StoreError::Parts(_)
        | StoreError::TooLarge { .. }
        | StoreError::Index(_)
        | StoreError::Releases { .. }
        | StoreError::NotFound(_)
        | StoreError::Document(_)
        | StoreError::Resolve(_)
        | StoreError::NotWhatItSays { .. } => true,
    }
}
