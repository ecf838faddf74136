//! Images of the store as an archive: an OCI image layout in a tar (image-spec 1.1 image-layout.md), with the signatures over them.
//!
//! The same images give the same bytes. A manifest of cosign's legacy form has the name that `cosign` looks for
//! (`REPOSITORY:sha256-<hex>.sig`), one of another form `REPOSITORY@DIGEST`; by these names `skopeo` copies them to a registry. Must never give
//! a byte that does not hash to its name.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use serde_json::{Value, json};

use super::{LAYOUT_VERSION, Named, Store, StoreError};
use crate::{
    build::append,
    digest::{Descriptor, Digest},
    document::{Document, ImageManifest, Manifest},
    media,
    reference::Reference,
    resolve::ResolveError,
};

/// What an archive is made of.
#[derive(Debug)]
pub struct Export {
    index: Vec<u8>,
    blobs: BTreeMap<Digest, Descriptor>,
}

/// Why an archive is not written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Whoever takes the bytes.
    #[error("cannot write the archive")]
    Write(#[from] io::Error),
}

impl Export {
    fn blob(&mut self, blob: &Descriptor) {
        self.blobs.insert(blob.digest, blob.clone());
    }

    fn image(&mut self, manifest: &Document, image: &ImageManifest) {
        self.blob(manifest.descriptor());
        self.blob(&image.config);
        image.layers.iter().for_each(|layer| self.blob(&layer.descriptor));
    }
}

impl Store {
    /// What an archive of these images holds. Of an index the images that are here: of a registry's only one was pulled.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn export(&self, images: &BTreeSet<Named>) -> Result<Export, StoreError> {
        let names = self.read_names()?;
        let mut export = Export { index: Vec::new(), blobs: BTreeMap::new() };
        let mut entries: BTreeMap<String, Value> = BTreeMap::new();
        for Named { reference, image } in images {
            let top = names.find(reference).filter(|top| top.digest == image.digest);
            let top = self.document(&top.ok_or_else(|| StoreError::NotFound(reference.clone()))?)?;
            let mut signable = vec![top.digest()];
            match top.parse()? {
                Manifest::Image(image) => export.image(&top, &image),
                Manifest::Index(index) => {
                    export.blob(top.descriptor());
                    for entry in index.manifests {
                        let manifest = match self.document(&entry.descriptor) {
                            Err(StoreError::Missing(_)) => continue,
                            manifest => manifest?,
                        };
                        export.image(&manifest, &self.one_image(&manifest)?);
                        signable.push(manifest.digest());
                    }
                }
            }
            entries.insert(reference.to_string(), entry(&top, reference));
            for over in signable {
                for descriptor in names.signatures(reference, over) {
                    let manifest = self.document(&descriptor)?;
                    let image = self.one_image(&manifest)?;
                    let legacy = image.layers.iter().all(|layer| layer.descriptor.media_type == media::SIMPLE_SIGNING);
                    let name = match legacy {
                        true => reference.signatures(over),
                        false => reference.by_digest(manifest.digest()),
                    };
                    export.image(&manifest, &image);
                    entries.insert(name.to_string(), entry(&manifest, &name));
                }
            }
        }
        let manifests: Vec<Value> = entries.into_values().collect();
        let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": manifests});
        export.index = serde_json::to_vec(&index).map_err(StoreError::Index)?;
        Ok(export)
    }

    /// Writes the archive, each blob hashed again before its first byte is written.
    ///
    /// # Errors
    /// [`ExportError`]; what was written so far is no archive.
    pub fn write_archive(&self, export: &Export, to: impl io::Write) -> Result<(), ExportError> {
        let Export { index, blobs } = export;
        let mut tar = tar::Builder::new(to);
        let layout = json!({"imageLayoutVersion": LAYOUT_VERSION}).to_string();
        append(&mut tar, "oci-layout", layout.as_bytes())?;
        append(&mut tar, "index.json", index)?;
        for (digest, blob) in blobs {
            append(&mut tar, &format!("blobs/sha256/{}", digest.hex()), &self.read(blob, blob.size)?)?;
        }
        Ok(tar.into_inner()?.flush()?)
    }

    fn one_image(&self, manifest: &Document) -> Result<ImageManifest, StoreError> {
        match manifest.parse()? {
            Manifest::Image(image) => Ok(image),
            Manifest::Index(_) => Err(ResolveError::Nested.into()),
        }
    }
}

fn entry(manifest: &Document, name: &Reference) -> Value {
    let Descriptor { media_type, digest, size } = manifest.descriptor();
    let annotations = json!({media::ANNOTATION_REF_NAME: name.to_string()});
    json!({"mediaType": media_type, "digest": digest, "size": size, "annotations": annotations})
}
