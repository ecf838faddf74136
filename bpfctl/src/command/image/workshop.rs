//! The caller's own image store: where `build` puts images and `push` takes them from. An OCI layout that other tools read,
//! as in `skopeo copy oci:DIR:REFERENCE …`. Never the daemon's store.

use std::path::PathBuf;

use bytecode_image::store::{Store, StoreError};
use clap::Args;

use crate::credentials::directory;
use crate::error::{Exit, Failure, Local, error_chain};

/// Where the caller's images are.
#[derive(Debug, Args)]
pub(super) struct Workshop {
    /// An OCI layout of your own [default: ~/.local/share/bpfd/images]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

impl Workshop {
    /// Opens the store, made if it is not there.
    pub(super) fn open(self) -> Result<Store, Failure> {
        let default = || directory("XDG_DATA_HOME", ".local/share").map(|data| data.join("bpfd/images"));
        let path = self.store.or_else(default).ok_or_else(|| {
            Local::new(Exit::Usage, "no image store").cause("HOME is not set").hint("name a directory with --store")
        })?;
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| {
                Local::new(Exit::Other, format!("cannot make `{}`", parent.display())).cause(error.to_string())
            })?;
        }
        Store::open(&path).map_err(|error| failed("cannot open the image store", &error))
    }
}

/// A failure of the store.
pub(super) fn failed(message: &str, error: &StoreError) -> Failure {
    let exit = match error {
        StoreError::NotFound(_) => Exit::NotFound,
        StoreError::Corrupt(_) => Exit::Signature,
        _ => Exit::Other,
    };
    let local = Local::new(exit, message).cause(error_chain(error));
    match error {
        StoreError::NotFound(reference) => {
            local.hint(format!("`bpfctl image build … --tag {reference}` creates it")).into()
        }
        _ => local.into(),
    }
}
