//! What the registry holds: blobs and manifests by digest, tags, uploads that are under way.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

use crate::{
    digest::{Descriptor, Digest},
    media,
};

/// Bytes of [`Content::put_zeros`] before compression.
const ZEROS: u64 = 200 << 20;

#[derive(Debug, Default)]
pub(super) struct Content {
    blobs: HashMap<Digest, Vec<u8>>,
    manifests: HashMap<(String, Digest), (String, Vec<u8>)>,
    tags: BTreeMap<(String, String), Digest>,
    referrers: HashMap<(String, String), Vec<Value>>,
    uploads: HashMap<u64, Vec<u8>>,
    next_upload: u64,
    /// Requests answered so far, by repository, for modes that count.
    pub(super) answered: HashMap<String, u32>,
}

impl Content {
    pub(super) fn put_blob(&mut self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        self.blobs.insert(digest, bytes);
        digest
    }

    pub(super) fn blob(&self, digest: Digest) -> Option<&Vec<u8>> {
        self.blobs.get(&digest)
    }

    /// Whether any manifest uses a blob as its configuration.
    pub(super) fn is_config(&self, digest: Digest) -> bool {
        let digest = digest.to_string();
        self.manifests.values().any(|(_, bytes)| {
            let manifest: Value = serde_json::from_slice(bytes).unwrap_or_default();
            manifest.pointer("/config/digest").and_then(Value::as_str) == Some(&digest)
        })
    }

    pub(super) fn put_manifest(&mut self, repo: &str, tag: Option<&str>, media_type: &str, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        let manifest: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if let Some(subject) = manifest.pointer("/subject/digest").and_then(Value::as_str) {
            let kind = manifest.get("artifactType").or(manifest.pointer("/config/mediaType"));
            let entry = json!({"mediaType": media_type, "digest": digest, "size": bytes.len(), "artifactType": kind, "annotations": manifest.get("annotations")});
            let listed = self.referrers.entry((repo.to_owned(), subject.to_owned())).or_default();
            listed.retain(|known| known.get("digest") != entry.get("digest"));
            listed.push(entry);
        }
        if let Some(tag) = tag {
            self.tags.insert((repo.to_owned(), tag.to_owned()), digest);
        }
        self.manifests.insert((repo.to_owned(), digest), (media_type.to_owned(), bytes));
        digest
    }

    /// By tag or by digest.
    pub(super) fn manifest(&self, repo: &str, name: &str) -> Option<(Digest, &(String, Vec<u8>))> {
        let digest = name.parse().ok().or_else(|| self.tag(repo, name))?;
        Some((digest, self.manifests.get(&(repo.to_owned(), digest))?))
    }

    pub(super) fn tag(&self, repo: &str, tag: &str) -> Option<Digest> {
        self.tags.get(&(repo.to_owned(), tag.to_owned())).copied()
    }

    pub(super) fn tags(&self, repo: &str) -> Vec<String> {
        self.tags.keys().filter(|(of, _)| of == repo).map(|(_, tag)| tag.clone()).collect()
    }

    pub(super) fn delete(&mut self, repo: &str, name: &str) {
        let digest = self.manifest(repo, name).map(|(digest, _)| digest);
        if let Some(digest) = digest {
            self.manifests.remove(&(repo.to_owned(), digest));
            self.tags.retain(|(of, _), named| of != repo || *named != digest);
        }
    }

    pub(super) fn referrers(&self, repo: &str, subject: &str) -> Vec<Value> {
        self.referrers.get(&(repo.to_owned(), subject.to_owned())).cloned().unwrap_or_default()
    }

    pub(super) fn begin_upload(&mut self) -> u64 {
        self.next_upload += 1;
        self.uploads.insert(self.next_upload, Vec::new());
        self.next_upload
    }

    pub(super) fn upload(&mut self, id: u64) -> Option<&mut Vec<u8>> {
        self.uploads.get_mut(&id)
    }

    pub(super) fn end_upload(&mut self, id: u64) -> Option<Vec<u8>> {
        self.uploads.remove(&id)
    }

    pub(super) fn put_zeros(&mut self, repo: &str) -> io::Result<Digest> {
        let mut header = tar::Header::new_ustar();
        header.set_path("zeros.bpf.o")?;
        header.set_size(ZEROS);
        header.set_mode(0o644);
        header.set_cksum();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(header.as_bytes())?;
        io::copy(&mut io::Read::take(io::repeat(0), ZEROS + 1024), &mut gzip)?;
        let layer = gzip.finish()?;
        let config =
            json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}})
                .to_string();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::MANIFEST,
            "config": Descriptor::of(media::CONFIG, config.as_bytes()),
            "layers": [Descriptor::of(media::LAYER_TAR_GZIP, &layer)],
        });
        self.put_blob(config.into_bytes());
        self.put_blob(layer);
        Ok(self.put_manifest(repo, Some("latest"), media::MANIFEST, manifest.to_string().into_bytes()))
    }
}
