//! What `docker save`, `podman save` and `skopeo copy … docker-archive:` write (moby `image/tarexport`, containers/image
//! `docker/internal/tarfile`): `manifest.json` lists images by the files of their configuration and layers.
//!
//! It has no manifest as a registry has one, so one is made here, the same of the same files everywhere: canonical JSON, OCI's types, each
//! layer as it is in the archive. Its digest is the image's; no signature is over it unless somebody signed just that.

use std::collections::BTreeMap;
use std::io;

use serde::Deserialize;
use serde_json::json;

use super::{
    Archive, ArchiveError, Archived,
    members::{Members, Span},
};
use crate::{
    digest::{Descriptor, Digest, Hasher},
    document::Document,
    label::canonical,
    limits, media,
    store::HashedSink,
};

pub(super) const MARK: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: Option<RootFs>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

/// Reads the list of images, and makes a manifest of each.
pub(super) fn read(members: Members) -> Result<Archive, ArchiveError> {
    let json = |source| ArchiveError::Json { name: MARK.to_owned(), source };
    let items: Vec<Item> = serde_json::from_slice(&members.bytes(MARK, limits::MANIFEST)?).map_err(json)?;
    if items.len() > limits::ARCHIVE_IMAGES {
        return Err(ArchiveError::Images(items.len()));
    }
    let mut archive = Archive::of(members);
    let mut images: BTreeMap<Digest, Archived> = BTreeMap::new();
    for Item { config, repo_tags, layers } in items {
        let top = archive.manifest(&config, &layers)?;
        let image = images.entry(top.digest()).or_insert_with(|| Archived { names: vec![], top });
        image.names.extend(repo_tags.into_iter().flatten());
    }
    archive.images = images.into_values().collect();
    Ok(archive)
}

impl Archive {
    fn manifest(&mut self, config: &str, layers: &[String]) -> Result<Document, ArchiveError> {
        if layers.len() > limits::ENTRIES {
            return Err(ArchiveError::Layers(layers.len()));
        }
        let bytes = self.members.bytes(config, limits::CONFIG)?;
        let of_config = Descriptor::of(media::CONFIG, &bytes);
        is_called(config, of_config.digest)?;
        let json = |source| ArchiveError::Json { name: config.to_owned(), source };
        let parsed: Config = serde_json::from_slice(&bytes).map_err(json)?;
        let diff_ids = parsed.rootfs.map(|rootfs| rootfs.diff_ids).unwrap_or_default();
        if diff_ids.len() != layers.len() {
            return Err(ArchiveError::DiffIds { config: config.to_owned(), ids: diff_ids.len(), layers: layers.len() });
        }
        let mut of_layers = Vec::new();
        for (name, diff_id) in layers.iter().zip(&diff_ids) {
            let (span, layer) = self.layer(name)?;
            // Of a compressed layer it is the digest of something that is not here.
            if layer.media_type == media::LAYER_TAR && layer.digest.to_string() != *diff_id {
                return Err(ArchiveError::Digest { name: name.clone(), got: layer.digest });
            }
            self.blobs.insert(layer.digest, span);
            of_layers.push(layer);
        }
        self.blobs.insert(of_config.digest, self.members.find(config)?);
        let manifest = canonical(&json!({
            "config": of_config,
            "layers": of_layers,
            "mediaType": media::MANIFEST,
            "schemaVersion": 2,
        }));
        Ok(Document::new(media::MANIFEST, manifest?.into_bytes()))
    }

    /// A layer, by its bytes: the archive does not say how it is compressed.
    fn layer(&self, name: &str) -> Result<(Span, Descriptor), ArchiveError> {
        let span = self.members.find(name)?;
        if span.size > limits::LAYER {
            return Err(ArchiveError::TooLarge { name: name.to_owned(), size: span.size, limit: limits::LAYER });
        }
        let mut layer = Sniffed { begins: Vec::new(), hashed: HashedSink(Hasher::new()) };
        io::copy(&mut self.members.open(span), &mut layer).map_err(ArchiveError::Read)?;
        let Sniffed { begins, hashed } = layer;
        let media_type = match begins.as_slice() {
            [0x1f, 0x8b, ..] => media::LAYER_TAR_GZIP,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => media::LAYER_TAR_ZSTD,
            _ => media::LAYER_TAR,
        };
        Ok((span, Descriptor { media_type: media_type.to_owned(), digest: hashed.0.finish(), size: span.size }))
    }
}

/// A name that is made of a digest is made of this one.
fn is_called(name: &str, got: Digest) -> Result<(), ArchiveError> {
    let last = name.rsplit('/').next().unwrap_or(name);
    let hex = last.strip_suffix(".json").unwrap_or(last);
    match format!("sha256:{hex}").parse::<Digest>() {
        Ok(wanted) if wanted != got => Err(ArchiveError::Digest { name: name.to_owned(), got }),
        Ok(_) | Err(_) => Ok(()),
    }
}

struct Sniffed {
    begins: Vec<u8>,
    hashed: HashedSink,
}

impl io::Write for Sniffed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let more = 4_usize.saturating_sub(self.begins.len());
        self.begins.extend(bytes.iter().take(more));
        self.hashed.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
