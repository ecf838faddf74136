//! Which objects a parse worker of this process made ready for which recipe. The same bytes and recipe come out the same again: the
//! kernel's types and configuration are read once. What another process accepted, an older bpfd perhaps, counts for nothing here.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use bpfd_core::kernel::Recipe;
use sha2::{Digest as _, Sha256};

/// More than a host has apps. Beyond it all of them are forgotten, which costs each one more rehearsal.
const KEPT: usize = 4096;

/// See the module. A recipe names its object by digest; whoever asks has read bytes of that digest.
#[derive(Clone, Debug, Default)]
pub(super) struct Passed(Arc<Mutex<HashSet<[u8; 32]>>>);

impl Passed {
    pub(super) fn has(&self, recipe: &Recipe) -> bool {
        key(recipe).is_some_and(|key| self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&key))
    }

    pub(super) fn note(&self, recipe: &Recipe) {
        let Some(key) = key(recipe) else { return };
        let mut passed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if passed.len() >= KEPT {
            passed.clear();
        }
        passed.insert(key);
    }
}

/// All of a recipe.
fn key(recipe: &Recipe) -> Option<[u8; 32]> {
    serde_json::to_vec(recipe).ok().map(|whole| Sha256::digest(whole).into())
}
