//! Images that are in `ingest/`, whole and hashed, and that no name leads to: what is to be judged before it counts.
//!
//! Whoever decides reads them here; [`Store::commit_staged`] lets names lead to all of them or to none. Must never let anybody but the
//! owner of a [`Staged`] see it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Blobs, Fetched, Landed, Signatures, Store, StoreError, dir::OnDisk, read};
use crate::{
    candidate::Candidate,
    digest::{Descriptor, Digest},
    reference::Reference,
    resolve::{Platform, Selected},
};

/// An image that was checked. Dropped before it is committed, it leaves nothing.
#[derive(Debug)]
pub struct Staged<'a> {
    store: &'a Store,
    fetched: Fetched,
    /// Names beside the one that it was fetched by.
    also: BTreeSet<Reference>,
}

impl Staged<'_> {
    /// Gives it one more name.
    pub fn also(&mut self, name: Reference) {
        self.also.insert(name);
    }

    /// Every name that it is to have.
    pub fn names(&self) -> impl Iterator<Item = &Reference> {
        self.also.iter().chain([&self.fetched.reference])
    }

    /// The image for a platform.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn selected(&self, platform: &Platform) -> Result<Selected, StoreError> {
        read::selected(self, &self.fetched.reference, &self.fetched.image, platform)
    }

    /// The signatures that came with it, of the resolved manifest first.
    ///
    /// # Errors
    /// [`StoreError`]; none is not one.
    pub fn signatures(&self, selected: &Selected) -> Result<Vec<Candidate>, StoreError> {
        let of = |over: Digest| {
            let manifests = self.fetched.signatures.iter().filter(move |signatures| signatures.over == over);
            manifests.map(move |signatures| (over, signatures.manifest.clone()))
        };
        let manifests: Vec<(Digest, Descriptor)> = selected.signable().into_iter().flat_map(of).collect();
        read::candidates(self, &manifests)
    }

    /// Bytes of its parts.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.fetched.landed.iter().fold(0, |bytes, part| bytes.saturating_add(part.descriptor.size))
    }
}

impl Blobs for Staged<'_> {
    fn blob(&self, wanted: &Descriptor, limit: u64) -> Result<Vec<u8>, StoreError> {
        let part = self.fetched.landed.iter().find(|part| part.descriptor.digest == wanted.digest);
        match part {
            Some(part) => self.store.read_part(part, wanted, limit),
            None => self.store.read(wanted, limit),
        }
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        // Nobody can be told here; what stays is cleared at the next start.
        self.store.discard(&self.fetched).unwrap_or_default();
    }
}

impl Store {
    /// Hashes an image's parts and looks whether it is whole. Each part is hashed here, since whoever wrote it may be a process that reads
    /// hostile bytes.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of it is left.
    pub fn stage(&self, fetched: Fetched) -> Result<Staged<'_>, StoreError> {
        let staged = Staged { store: self, fetched, also: BTreeSet::new() };
        self.check_parts(&staged.fetched.landed)?;
        self.check_tree(&staged.fetched)?;
        Ok(staged)
    }

    /// The same of parts that this process hashed while it wrote them.
    pub(super) fn stage_own(&self, fetched: Fetched) -> Result<Staged<'_>, StoreError> {
        let staged = Staged { store: self, fetched, also: BTreeSet::new() };
        self.check_tree(&staged.fetched)?;
        Ok(staged)
    }

    /// Moves images in and names them: all or nothing that counts. Under the lock nothing of them is read any more.
    ///
    /// # Errors
    /// [`StoreError`]; then the names are as before.
    pub fn commit_staged(&self, mut staged: Vec<Staged<'_>>) -> Result<(), StoreError> {
        // Before the lock: on a busy disk this takes a while, and leaves little to wait for under it.
        self.ingest.sync_all_files().map_err(|source| self.failed("write what came", source))?;
        let _lock = self.lock()?;
        for staged in &mut staged {
            // What has left `ingest/` is not thrown away: its name there may be another writer's by now.
            while let Some(Landed { file, descriptor }) = staged.fetched.landed.last() {
                let moved = self.ingest.rename(file.as_str(), &self.blobs, &descriptor.digest.hex());
                moved.map_err(|source| self.failed("take in a blob", source))?;
                staged.fetched.landed.pop();
            }
        }
        let mut names = self.names()?;
        for staged in &staged {
            let mut by_manifest: BTreeMap<Digest, Vec<Descriptor>> = BTreeMap::new();
            for Signatures { over, manifest } in &staged.fetched.signatures {
                by_manifest.entry(*over).or_default().push(manifest.clone());
            }
            for name in staged.names() {
                names.set(&name.to_string(), &staged.fetched.image);
                for (over, manifests) in &by_manifest {
                    names.set_signatures(name, *over, manifests);
                }
            }
        }
        // Each image that a name led to before has left its own.
        self.drop_signatures(&mut names);
        self.write_index(&names, OnDisk::AllBefore)
    }
}
