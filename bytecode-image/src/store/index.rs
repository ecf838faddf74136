//! `index.json`: names of images, and the signatures that belong to them.
//!
//! Keeps entries that it does not know, as other tools may have written them. Must never name the same thing twice.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    digest::{Descriptor, Digest},
    document::IndexEntry,
    media,
    reference::Reference,
};

/// The name of an entry (image-spec 1.1 `annotations.md`).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// On signatures: the manifest that they are over.
const SIGNATURES_OF: &str = "io.bpfd.signatures-of";

/// The text of `index.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Names {
    schema_version: u32,
    media_type: String,
    manifests: Vec<IndexEntry>,
}

/// A named image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// Its name.
    pub reference: Reference,
    /// Its manifest or index.
    pub image: Image,
}

/// A manifest or index that has a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Image {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
}

impl Default for Names {
    fn default() -> Self {
        Self { schema_version: 2, media_type: media::INDEX.to_owned(), manifests: Vec::new() }
    }
}

impl Names {
    pub(super) fn set(&mut self, name: &str, image: &Descriptor) {
        self.remove(name);
        self.manifests.push(entry(image, BTreeMap::from([(REF_NAME.to_owned(), name.to_owned())])));
    }

    pub(super) fn set_signatures(&mut self, name: &Reference, over: Digest, manifest: &Descriptor) {
        let name = name.to_string();
        self.remove(&name);
        let annotations = [(REF_NAME.to_owned(), name), (SIGNATURES_OF.to_owned(), over.to_string())];
        self.manifests.push(entry(manifest, BTreeMap::from(annotations)));
    }

    /// Whether there was such an entry.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let before = self.manifests.len();
        self.manifests.retain(|entry| entry.annotations.get(REF_NAME).is_none_or(|known| known != name));
        self.manifests.len() != before
    }

    /// By the whole name and nothing else.
    pub(super) fn exact(&self, name: &str) -> Option<Descriptor> {
        self.images().find(|(known, _)| *known == name).map(|(_, entry)| entry.descriptor.clone())
    }

    /// By the whole name; a reference with a digest is also found under any other name of its repository.
    pub(super) fn find(&self, reference: &Reference) -> Option<Descriptor> {
        let name = reference.to_string();
        let named = self.images().find(|(known, _)| **known == name).map(|(_, entry)| entry);
        let found = named.or_else(|| {
            let digest = reference.digest()?;
            self.images().find_map(|(known, entry)| {
                let known: Reference = known.parse().ok()?;
                (known.name() == reference.name() && entry.descriptor.digest == digest).then_some(entry)
            })
        });
        found.map(|entry| entry.descriptor.clone()).filter(|found| reference.digest().is_none_or(|d| d == found.digest))
    }

    pub(super) fn list(&self) -> Vec<Named> {
        let mut list: Vec<Named> = self
            .images()
            .filter_map(|(name, entry)| {
                let Descriptor { digest, media_type, size: _ } = entry.descriptor.clone();
                Some(Named { reference: name.parse().ok()?, image: Image { digest, media_type } })
            })
            .collect();
        list.sort();
        list
    }

    /// Signatures kept over a manifest of a repository.
    pub(super) fn signatures(&self, repository: &Reference, over: Digest) -> Option<Descriptor> {
        let name = repository.signatures(over).to_string();
        let found = self.manifests.iter().find(|entry| entry.annotations.get(REF_NAME) == Some(&name));
        found.map(|entry| entry.descriptor.clone())
    }

    /// Gives a repository the signatures that another one has.
    pub(super) fn copy_signatures(&mut self, from: &Reference, to: &Reference) {
        if from.name() == to.name() {
            return;
        }
        let of = |entry: &IndexEntry| entry.annotations.get(SIGNATURES_OF)?.parse::<Digest>().ok();
        let overs: BTreeSet<Digest> = self.manifests.iter().filter_map(of).collect();
        for over in overs {
            if let Some(manifest) = self.signatures(from, over) {
                self.set_signatures(&to.signatures(over), over, &manifest);
            }
        }
    }

    /// Drops signatures over anything else.
    pub(super) fn keep_signatures(&mut self, over: &BTreeSet<Digest>) {
        let kept = |entry: &IndexEntry| {
            let of = entry.annotations.get(SIGNATURES_OF).and_then(|of| of.parse::<Digest>().ok());
            of.is_none_or(|of| over.contains(&of))
        };
        self.manifests.retain(kept);
    }

    /// Everything that an entry points to, named or not.
    pub(super) fn roots(&self) -> impl Iterator<Item = Digest> {
        self.manifests.iter().map(|entry| entry.descriptor.digest)
    }

    fn images(&self) -> impl Iterator<Item = (&String, &IndexEntry)> {
        let images = self.manifests.iter().filter(|entry| !entry.annotations.contains_key(SIGNATURES_OF));
        images.filter_map(|entry| Some((entry.annotations.get(REF_NAME)?, entry)))
    }
}

fn entry(descriptor: &Descriptor, annotations: BTreeMap<String, String>) -> IndexEntry {
    IndexEntry { descriptor: descriptor.clone(), platform: None, artifact_type: None, annotations }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    fn image(name: &str) -> Descriptor {
        Descriptor::of(media::MANIFEST, name.as_bytes())
    }

    #[test]
    fn a_name_moves_to_the_image_it_was_last_set_to() {
        let mut names = Names::default();
        names.set("r.example/a:b", &image("old"));
        names.set("r.example/a:b", &image("new"));
        assert_eq!(names.find(&reference("r.example/a:b")), Some(image("new")));
        assert_eq!(names.list().len(), 1);
    }

    #[test]
    fn a_digest_is_found_under_any_name_of_its_own_repository() {
        let mut names = Names::default();
        names.set("r.example/a:b", &image("x"));
        let digest = image("x").digest;
        assert_eq!(names.find(&reference("r.example/a:b").by_digest(digest)), Some(image("x")));
        assert_eq!(names.find(&reference(&format!("r.example/a:other@{digest}"))), Some(image("x")));
        assert_eq!(names.find(&reference("r.example/other:b").by_digest(digest)), None);
        let other = image("y").digest;
        assert_eq!(names.find(&reference(&format!("r.example/a:b@{other}"))), None);
    }

    #[test]
    fn signatures_are_not_images() {
        let mut names = Names::default();
        let (a, over) = (reference("r.example/a:b"), image("x").digest);
        names.set(&a.to_string(), &image("x"));
        names.set_signatures(&a.signatures(over), over, &image("signatures"));
        assert_eq!(names.list().len(), 1);
        assert_eq!(names.signatures(&a, over), Some(image("signatures")));
        names.copy_signatures(&a, &reference("r.example/other:b"));
        assert_eq!(names.signatures(&reference("r.example/other:c"), over), Some(image("signatures")));
        names.keep_signatures(&BTreeSet::new());
        assert_eq!(names.signatures(&a, over), None);
        assert_eq!(names.list().len(), 1);
    }
}
