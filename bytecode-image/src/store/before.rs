//! What a name led to before it was moved, and the way back: for a commit that turns out to have been a mistake.
//!
//! What is put back was named before, with the signatures over it. Must never bring back a name that somebody else took
//! away meanwhile, or name what is no longer here.

use std::collections::BTreeSet;

use super::{Store, StoreError};
use crate::{
    digest::{Descriptor, Digest},
    reference::Reference,
};

/// What a name leads to, and the signatures over it. Its blobs stay only while a name or a lease reaches them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    image: Descriptor,
    /// What they are over, and their manifests.
    signatures: Vec<(Digest, Vec<Descriptor>)>,
}

impl Before {
    /// Leases that keep all of it.
    #[must_use]
    pub fn leases(&self) -> BTreeSet<Digest> {
        let signatures =
            self.signatures.iter().flat_map(|(_over, manifests)| manifests).map(|manifest| manifest.digest);
        signatures.chain([self.image.digest]).collect()
    }
}

impl Store {
    /// What exactly this name leads to now; `None` if there is no such name, or if what it leads to is damaged.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn before(&self, reference: &Reference) -> Result<Option<Before>, StoreError> {
        let names = self.read_names()?;
        let Some(image) = names.exact(&reference.to_string()) else { return Ok(None) };
        let reached = match self.reached([image.digest].into_iter()) {
            Ok(reached) => reached,
            Err(StoreError::Corrupt(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let over = |over: Digest| (over, names.signatures(reference, over));
        Ok(Some(Before { image, signatures: reached.into_iter().map(over).collect() }))
    }

    /// Lets a name lead to what it led to before. If that is gone, the name goes; if the name is gone, it stays gone.
    ///
    /// # Errors
    /// [`StoreError`]; then the names are as they are.
    pub fn put_back(&self, reference: &Reference, before: &Before) -> Result<(), StoreError> {
        let Before { image, signatures } = before;
        // A lease keeps what is looked at here until the lock is held.
        let whole = self.check_whole(image);
        let _lock = self.lock()?;
        let mut names = self.names()?;
        if !names.remove(&reference.to_string()) {
            return Ok(());
        }
        match whole {
            Ok(()) => {
                names.set(&reference.to_string(), image);
                for (over, manifests) in signatures {
                    names.set_signatures(reference, *over, manifests);
                }
            }
            Err(error @ StoreError::Io { .. }) => return Err(error),
            Err(_gone) => {}
        }
        self.drop_signatures(&mut names);
        self.write_names(&names)
    }
}
