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

/// The name of an entry.
const REF_NAME: &str = media::ANNOTATION_REF_NAME;
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

    /// Lets these be the signatures that a repository has over a manifest, in place of all others.
    pub(super) fn set_signatures(&mut self, repository: &Reference, over: Digest, manifests: &[Descriptor]) {
        self.manifests.retain(|entry| !is_over(entry, repository, over));
        let annotate =
            |name: String| BTreeMap::from([(REF_NAME.to_owned(), name), (SIGNATURES_OF.to_owned(), over.to_string())]);
        // The first has the name of the legacy form's tag: programs before this one look for it, and for nothing else.
        let names = [repository.signatures(over)].into_iter();
        let others = manifests.iter().skip(1).map(|manifest| repository.by_digest(manifest.digest));
        for (manifest, name) in manifests.iter().zip(names.chain(others)) {
            self.manifests.push(entry(manifest, annotate(name.to_string())));
        }
    }

    /// Whether there was such an entry.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let before = self.manifests.len();
        self.manifests.retain(|entry| entry.annotations.get(REF_NAME).is_none_or(|known| known != name));
        self.manifests.len() != before
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
    pub(super) fn signatures(&self, repository: &Reference, over: Digest) -> Vec<Descriptor> {
        let found = self.manifests.iter().filter(|entry| is_over(entry, repository, over));
        found.map(|entry| entry.descriptor.clone()).collect()
    }

    /// Gives a repository the signatures that another one has.
    pub(super) fn copy_signatures(&mut self, from: &Reference, to: &Reference) {
        if from.name() == to.name() {
            return;
        }
        let overs: BTreeSet<Digest> = self.manifests.iter().filter_map(signed).collect();
        for over in overs {
            let manifests = self.signatures(from, over);
            if !manifests.is_empty() {
                self.set_signatures(to, over, &manifests);
            }
        }
    }

    /// Drops signatures over anything else.
    pub(super) fn keep_signatures(&mut self, over: &BTreeSet<Digest>) {
        self.manifests.retain(|entry| signed(entry).is_none_or(|of| over.contains(&of)));
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

/// What the signatures of an entry are over; `None` for an image.
fn signed(entry: &IndexEntry) -> Option<Digest> {
    entry.annotations.get(SIGNATURES_OF)?.parse().ok()
}

fn is_over(entry: &IndexEntry, repository: &Reference, over: Digest) -> bool {
    let named = || entry.annotations.get(REF_NAME)?.parse::<Reference>().ok();
    signed(entry) == Some(over) && named().is_some_and(|name| name.name() == repository.name())
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
        let both = [image("signatures"), image("bundle")];
        names.set_signatures(&a, over, &both);
        assert_eq!(names.list().len(), 1);
        assert_eq!(names.signatures(&a, over), both);
        names.copy_signatures(&a, &reference("r.example/other:b"));
        assert_eq!(names.signatures(&reference("r.example/other:c"), over), both);
        names.set_signatures(&a, over, &both[1..]);
        assert_eq!(names.signatures(&a, over), both[1..]);
        assert_eq!(names.find(&a.by_digest(both[1].digest)), None);
        names.keep_signatures(&BTreeSet::new());
        assert_eq!(names.signatures(&a, over), []);
        assert_eq!(names.list().len(), 1);
    }
}
