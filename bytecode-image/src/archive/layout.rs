//! An OCI image layout in an archive (image-spec 1.1 image-layout.md): what `skopeo copy … oci-archive:`, `podman save --format oci-archive`,
//! `docker save` since 25 and [`crate::store::Store::write_archive`] write.
//!
//! An entry is an image, or signatures over one. They are found as they are in a registry: under the tag `sha256-<hex>.sig`, in a list under the
//! tag `sha256-<hex>` (distribution-spec 1.1, "Referrers Tag Schema"), or because the manifest says what its subject is.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Archive, ArchiveError, Archived, Attached, members::Members, said};
use crate::{
    digest::{Descriptor, Digest},
    document::{ACCEPTED, IndexEntry, Manifest},
    limits, media,
};

pub(super) const MARK: &str = "oci-layout";
const INDEX: &str = "index.json";
/// Bytes of `oci-layout`: it has one line.
const MARK_LIMIT: u64 = 4096;

/// What an entry is by its name.
enum Tagged {
    Image,
    Signatures(Digest),
    Referrers(Digest),
    /// `.att`, `.sbom`: cosign's older forms of what is no signature.
    Other,
}

/// Reads the index of a layout and every manifest that it names.
pub(super) fn read(members: Members) -> Result<Archive, ArchiveError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Mark {
        image_layout_version: String,
    }
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<IndexEntry>,
    }
    let json = |name: &'static str| move |source| ArchiveError::Json { name: name.to_owned(), source };
    let mark: Mark = serde_json::from_slice(&members.bytes(MARK, MARK_LIMIT)?).map_err(json(MARK))?;
    if mark.image_layout_version != "1.0.0" {
        return Err(ArchiveError::Version(said(&mark.image_layout_version)));
    }
    let index: Index = serde_json::from_slice(&members.bytes(INDEX, limits::MANIFEST)?).map_err(json(INDEX))?;
    if index.manifests.len() > limits::ARCHIVE_MEMBERS {
        return Err(ArchiveError::Members);
    }
    let mut archive = Archive::of(members);
    let mut images: BTreeMap<Digest, Archived> = BTreeMap::new();
    let known = |entry: &IndexEntry| ACCEPTED.contains(&entry.descriptor.media_type.as_str());
    for entry in index.manifests.into_iter().filter(known) {
        let IndexEntry { descriptor, annotations, .. } = entry;
        let name =
            [media::ANNOTATION_IMAGE_NAME, media::ANNOTATION_REF_NAME].iter().find_map(|key| annotations.get(*key));
        match name.map_or(Tagged::Image, |name| tagged(name)) {
            Tagged::Other => {}
            Tagged::Signatures(over) => {
                let manifest = archive.document(&descriptor)?;
                archive.attached.push(Attached::Tagged { over, manifest });
            }
            Tagged::Referrers(over) => archive.referrers(over, &descriptor)?,
            Tagged::Image => {
                let document = archive.document(&descriptor)?;
                if let Manifest::Image(image) = document.parse()?
                    && let Some(subject) = image.subject
                {
                    archive.attached.push(Attached::Refers { over: subject.digest, manifest: document });
                    continue;
                }
                let image = images.entry(document.digest());
                image.or_insert_with(|| Archived { names: vec![], top: document }).names.extend(name.cloned());
            }
        }
    }
    archive.images = images.into_values().collect();
    Ok(archive)
}

fn tagged(name: &str) -> Tagged {
    let tag = name.rsplit_once(':').map_or(name, |(_, tag)| tag);
    let Some((hex, kind)) = tag.strip_prefix("sha256-").and_then(|rest| rest.split_at_checked(64)) else {
        return Tagged::Image;
    };
    match (format!("sha256:{hex}").parse(), kind) {
        (Ok(over), ".sig") => Tagged::Signatures(over),
        (Ok(over), "") => Tagged::Referrers(over),
        (Ok(_), _) => Tagged::Other,
        (Err(_no_digest), _) => Tagged::Image,
    }
}

impl Archive {
    /// The manifests of a list of what refers to a manifest.
    fn referrers(&mut self, over: Digest, list: &Descriptor) -> Result<(), ArchiveError> {
        let Manifest::Index(list) = self.document(list)?.parse()? else { return Ok(()) };
        let known = |entry: &&IndexEntry| ACCEPTED.contains(&entry.descriptor.media_type.as_str());
        for entry in list.manifests.iter().filter(known) {
            let manifest = self.document(&entry.descriptor)?;
            self.attached.push(Attached::Refers { over, manifest });
        }
        Ok(())
    }
}
