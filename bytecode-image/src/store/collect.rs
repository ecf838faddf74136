//! Collection: blobs that nothing reaches go.
//!
//! Reached is what `index.json` names, what a lease names (an app that runs from it), and what those manifests name in
//! turn. Must never remove on a doubt: a damaged manifest stops the collection.

use std::{collections::BTreeSet, io};

use super::{Store, StoreError, none_there};
use crate::{digest::Digest, limits};

/// Whether to remove or only to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// Tell what would go.
    Report,
    /// Remove it.
    Delete,
}

/// What goes, or would go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// Blobs, by digest.
    pub blobs: Vec<Digest>,
    /// Their bytes together.
    pub bytes: u64,
}

/// Digests in any manifest, without asking what kind it is.
#[derive(Debug, Default, serde::Deserialize)]
struct Mentions {
    #[serde(default)]
    manifests: Vec<Mention>,
    #[serde(default)]
    layers: Vec<Mention>,
    config: Option<Mention>,
}

#[derive(Debug, serde::Deserialize)]
struct Mention {
    digest: String,
}

impl Mention {
    fn digest(self) -> Option<Digest> {
        self.digest.parse().ok()
    }
}

impl Store {
    /// Removes blobs that neither a name nor a lease reaches.
    ///
    /// # Errors
    /// [`StoreError`]; then some may be gone already, none of them needed.
    pub fn collect(&self, leases: &BTreeSet<Digest>, sweep: Sweep) -> Result<Swept, StoreError> {
        // Before the lock: what comes later stays until the next collection.
        let found = self.sizes()?;
        let _lock = self.lock()?;
        let roots = self.read_names()?.roots().chain(leases.iter().copied()).collect::<Vec<_>>();
        let reached = self.reached(roots.into_iter())?;
        let mut swept = Swept::default();
        for (digest, size) in found.into_iter().filter(|(digest, _)| !reached.contains(digest)) {
            if sweep == Sweep::Delete {
                match self.blobs.remove(&digest.hex()) {
                    Ok(()) => {}
                    // By another collection.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(source) => return Err(self.failed("remove a blob", source)),
                }
            }
            swept.blobs.push(digest);
            swept.bytes += size;
        }
        swept.blobs.sort();
        Ok(swept)
    }

    /// Every blob and its size. A file that is no blob was put there by somebody: it is not ours to count or to remove.
    pub(super) fn sizes(&self) -> Result<Vec<(Digest, u64)>, StoreError> {
        let names = self.blobs.names().map_err(|source| self.failed("list `blobs`", source))?;
        let size = |name: String| {
            let digest: Digest = format!("sha256:{name}").parse().ok()?;
            // One that went meanwhile has no bytes.
            let length = self.blobs.open(&name).and_then(|file| file.metadata()).ok()?.len();
            Some((digest, length))
        };
        Ok(names.into_iter().filter_map(size).collect())
    }

    /// Removes what a crash left in `ingest/`. Only for a start, before anybody fetches.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn clear_ingest(&self) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let doing = |source| self.failed("clear `ingest`", source);
        let names = self.ingest.names().map_err(doing)?;
        names.iter().try_for_each(|name| self.clear(name).or_else(none_there).map_err(doing))
    }

    /// Everything that roots reach, themselves included. A root that is not here reaches nothing; one that is no manifest
    /// (a lease may be on a layer) reaches itself. Two levels, as images have: an index among the manifests of an index is
    /// reached, and what it names is not. So each blob is read once, whatever the documents say of each other.
    pub(super) fn reached(&self, roots: impl Iterator<Item = Digest>) -> Result<BTreeSet<Digest>, StoreError> {
        let roots: BTreeSet<Digest> = roots.collect();
        let mut reached = roots.clone();
        let mut images = BTreeSet::new();
        for root in &roots {
            let Mentions { manifests, layers, config } = self.mentions(*root)?;
            reached.extend(layers.into_iter().chain(config).filter_map(Mention::digest));
            images.extend(manifests.into_iter().filter_map(Mention::digest));
        }
        for image in images.difference(&roots) {
            let Mentions { manifests: _, layers, config } = self.mentions(*image)?;
            reached.extend(layers.into_iter().chain(config).filter_map(Mention::digest));
        }
        reached.extend(images);
        Ok(reached)
    }

    /// What a blob names; nothing if it is not here, or no manifest.
    fn mentions(&self, digest: Digest) -> Result<Mentions, StoreError> {
        let bytes = match self.raw(digest, limits::MANIFEST) {
            Ok(bytes) => bytes,
            Err(StoreError::Missing(_)) => return Ok(Mentions::default()),
            Err(error) => return Err(error),
        };
        // More than a manifest can have, or not the start of one: a layer.
        let manifest = u64::try_from(bytes.len()).is_ok_and(|length| length <= limits::MANIFEST);
        if !manifest || bytes.first() != Some(&b'{') {
            return Ok(Mentions::default());
        }
        if Digest::of(&bytes) != digest {
            return Err(StoreError::Corrupt(digest));
        }
        Ok(serde_json::from_slice(&bytes).unwrap_or_default())
    }
}
