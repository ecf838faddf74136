//! What the store has: how it is listed and named, and how it goes. Must never take away what an app came from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::SystemTime;

use bpfd_core::names::printable;
use bpfd_core::policy::{Principal, Stage};
use bpfd_core::request::Apply;
use bpfd_core::state::{Advice, Source, State};
use bpfd_policy::image::ScopeOutcome;
use bytecode_image::digest::Digest;
use bytecode_image::reference::Reference;
use bytecode_image::store::Named;
use bytecode_image::summary::Summary;
use bytecode_image::verify;

use super::{ImageError, Shared, judge};

/// An image of the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stored {
    /// Its name.
    pub reference: Reference,
    /// What the name was resolved to.
    pub digest: Digest,
    /// The manifest for this machine; `None` if it cannot be read.
    pub manifest: Option<Digest>,
    /// sha256 of the object; `None` if it cannot be read.
    pub object: Option<Digest>,
    /// Of index, manifest, configuration and layer.
    pub size: u64,
    /// When it came.
    pub pulled: Option<SystemTime>,
    /// Whose signatures count by the policy of now; `None` if it refuses the image.
    pub signers: Option<BTreeSet<String>>,
}

/// An image that was looked into.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// The image.
    pub image: Stored,
    /// What is in it.
    pub summary: Summary,
    /// `linux/amd64`.
    pub platform: String,
    /// By function, what a load without options would do: the label's word, else the object's.
    pub advice: BTreeMap<String, Advice>,
}

/// What the policy of now says of a stored image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// Whether it may be loaded.
    pub trusted: bool,
    /// The digest that was judged.
    pub digest: Digest,
    /// The scope that decided, if one covers it and lets it through.
    pub scope: Option<String>,
    /// Whose signatures count.
    pub signers: BTreeSet<String>,
    /// A sentence for each thing that was looked at.
    pub findings: Vec<String>,
    /// How each section of the policy fared, as far as it was asked for.
    pub sections: Vec<ScopeOutcome>,
}

/// How much of the policy a verdict tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Explain {
    /// The verdict alone.
    Verdict,
    /// Each section that speaks about the image.
    Matching,
    /// Each section.
    All,
}

/// What is gone, or would go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Removed {
    /// Names.
    pub references: Vec<Reference>,
    /// Bytes of blobs that nothing else needed.
    pub freed: u64,
}

/// Images whose object is remembered: more than `index.json` has room for names.
const KNOWN: usize = 16 << 10;

impl Shared {
    pub(super) fn remember(&self, manifest: Digest, object: Digest) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // What is forgotten is read again when it is listed.
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(manifest, object);
    }

    pub(super) fn stored(&self, named: &Named) -> Stored {
        let Named { reference, image } = named;
        let selected = self.store.selected(reference, &self.platform).ok();
        let judged = self.judge(reference, verify::now()).ok();
        let parts = selected.as_ref().map(|selected| {
            let index = selected.index().map_or(0, |index| index.descriptor().size);
            index
                + selected.manifest().descriptor().size
                + selected.config().size
                + selected.layer().map_or(0, |layer| layer.size)
        });
        let object = selected.as_ref().and_then(|selected| {
            let manifest = selected.manifest().digest();
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&manifest).copied();
            known.or_else(|| {
                let object = judge::object(&self.store, selected).ok().map(|unpacked| Digest::of(&unpacked.object))?;
                self.remember(manifest, object);
                Some(object)
            })
        });
        Stored {
            reference: reference.clone(),
            digest: image.digest,
            manifest: selected.map(|selected| selected.manifest().digest()),
            object,
            size: parts.unwrap_or_default(),
            pulled: self.written(image.digest),
            signers: judged.map(|judged| judged.verified.signers().clone()),
        }
    }

    /// When a blob came: its file is written once (image-layout.md: `blobs/<alg>/<encoded>`).
    fn written(&self, blob: Digest) -> Option<SystemTime> {
        let metadata = std::fs::metadata(self.directory.join("blobs/sha256").join(blob.hex()));
        metadata.and_then(|metadata| metadata.modified()).ok()
    }

    /// The names that a reference or a digest means.
    pub(super) fn named(&self, image: &str) -> Result<Vec<Named>, ImageError> {
        let list = self.store.list()?;
        let found: Vec<Named> = match image.parse::<Digest>() {
            Ok(digest) => list.into_iter().filter(|named| named.image.digest == digest).collect(),
            Err(_no_digest) => {
                let reference: Reference = image.parse()?;
                let same = |named: &Named| {
                    named.reference == reference
                        || named.reference.name() == reference.name() && reference.digest() == Some(named.image.digest)
                };
                list.into_iter().filter(same).collect()
            }
        };
        if found.is_empty() { Err(ImageError::NotStored(printable(image))) } else { Ok(found) }
    }

    pub(super) fn one(&self, image: &str) -> Result<Named, ImageError> {
        let found = self.named(image)?.into_iter().next();
        found.ok_or_else(|| ImageError::NotStored(printable(image)))
    }

    pub(super) fn remove(
        &self,
        caller: &Principal,
        images: &[String],
        state: &State,
        apply: Apply,
    ) -> Result<Removed, ImageError> {
        let mut going: BTreeSet<Named> = BTreeSet::new();
        for image in images {
            going.extend(self.named(image)?);
        }
        for Named { reference, image } in &going {
            // A digest may have been asked for, and names are what rules are about.
            self.may_pull(caller, reference, None, Stage::First)?;
            let users = users(state, reference, image.digest);
            if !users.is_empty() {
                return Err(ImageError::InUse { reference: reference.clone(), users });
            }
        }
        self.take_away(going, apply)
    }

    /// Images that nobody needs: their names go, and the blobs that nothing else names.
    pub(super) fn take_away(&self, going: BTreeSet<Named>, apply: Apply) -> Result<Removed, ImageError> {
        let freed = match apply {
            Apply::ValidateOnly => going.iter().map(|named| self.stored(named).size).sum(),
            Apply::Write => {
                for Named { reference, image: _ } in &going {
                    self.store.remove(reference)?;
                }
                let swept = self.collect();
                // The names are gone; a blob that is not is no reason to say that nothing happened.
                swept.map(|swept| swept.bytes).unwrap_or_else(|error| {
                    tracing::warn!(%error, "cannot remove the blobs of removed images from the image store");
                    0
                })
            }
        };
        Ok(Removed { references: going.into_iter().map(|named| named.reference).collect(), freed })
    }
}

/// Names of the apps that came from an image. One whose image cannot be read from its row may have come from any.
pub fn users(state: &State, reference: &Reference, digest: Digest) -> Vec<String> {
    let uses = |source: &Source| match source {
        Source::Upload => false,
        Source::Image { reference: from, digest: loaded, signers: _ } => {
            let is_from = from.parse::<Reference>().map_or(true, |from| from.name() == reference.name());
            is_from && loaded.parse::<Digest>().map_or(true, |loaded| loaded == digest)
        }
    };
    state.apps.values().filter(|app| uses(&app.source)).map(|app| app.name.to_string()).collect()
}
