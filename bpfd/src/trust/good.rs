//! The last good policy on the disk, for a start with bad files: whole, with the keys that it named and the numbers of its names. Must
//! never be used while the files can be read.

use std::path::Path;

use bpfd_policy::Policy;
use serde::{Deserialize, Serialize};

use crate::causes::error_chain;
use crate::etc::{self, EtcError};

/// Another form has another number, and is not used.
const VERSION: u32 = 1;

#[derive(Deserialize)]
struct Kept {
    version: u32,
    policy: Policy,
}

#[derive(Serialize)]
struct Keeps<'a> {
    version: u32,
    policy: &'a Policy,
}

/// Why a kept policy is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum GoodError {
    /// The file, or others could have written it.
    #[error(transparent)]
    File(#[from] EtcError),
    /// What is in it.
    #[error("it is damaged")]
    Damaged(#[from] serde_json::Error),
}

/// What was kept, if anything.
pub(super) fn read(path: &Path) -> Result<Option<Policy>, GoodError> {
    let Some(text) = etc::read(path)? else { return Ok(None) };
    let Kept { version, policy } = serde_json::from_str(&text)?;
    Ok((version == VERSION).then_some(policy))
}

/// Keeps a policy in the place of `before`. Where that fails the policy holds all the same, and a start with bad files has an older one.
pub(super) fn keep(path: &Path, before: Option<&Policy>, policy: &Policy) {
    if before == Some(policy) && path.exists() {
        return;
    }
    let text = match serde_json::to_string(&Keeps { version: VERSION, policy }) {
        Ok(text) => text,
        Err(error) => return tracing::error!(%error, "cannot write down the policy"),
    };
    if let Err(error) = etc::replace(path, &text) {
        tracing::error!(error = error_chain(&error), "cannot keep the policy for a start with bad files");
    }
}
