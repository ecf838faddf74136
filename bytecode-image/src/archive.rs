//! Images in a tar file: read as hostile bytes, and taken as a pull takes them from a registry.
//!
//! ```text
//! Archive::read ─ members    every header of the tar, nothing extracted                        archive/members.rs
//!               ─ layout     oci-archive: `index.json`; signatures beside images               archive/layout.rs
//!               ─ docker     docker-archive: `manifest.json`; a manifest is made of each image  archive/docker.rs
//! select        this platform's image          as `fetch::select`
//! signatures    absent = none; not all there = an error
//!     (the caller decides: → Verified)
//! take(&Verified)  configuration and layer, hashed as they are copied into `ingest/`
//! ```
//! Long because each way in which an archive may be wrong has an error of its own.
//! Must never write anything but parts of an image that was verified, nor give bytes that do not hash to what was asked for.

mod docker;
mod layout;
mod members;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
};

use self::members::{Members, Span};
use crate::{
    candidate::is_signatures,
    digest::{Descriptor, Digest, Hasher},
    document::{Document, DocumentError, ImageManifest, Layer, Manifest},
    fetch::{Parts, SignatureSet},
    label::CanonicalError,
    limits, media,
    reference::{Reference, ReferenceError},
    resolve::{Platform, ResolveError, Selected, choose},
    store::{Fetched, Hashed, Ingest, Landed, Signatures},
    verify::Verified,
};

/// An archive whose index was read.
#[derive(Debug)]
pub struct Archive {
    members: Members,
    images: Vec<Archived>,
    attached: Vec<Attached>,
    /// Files of a docker-archive by what they hash to; those of an oci-archive have their digest as their name.
    blobs: BTreeMap<Digest, Span>,
    /// Bytes of documents that were read.
    read: u64,
}

/// An image of an archive.
#[derive(Debug, Clone)]
pub struct Archived {
    /// Names that the archive gives it, which need not be references.
    pub names: Vec<String>,
    top: Document,
}

/// A manifest that may be one of signatures.
#[derive(Debug)]
enum Attached {
    /// It has the tag of cosign's legacy form.
    Tagged { over: Digest, manifest: Document },
    /// It says that it is about this manifest, or a list of referrers says so.
    Refers { over: Digest, manifest: Document },
}

/// Why nothing is taken from an archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file.
    #[error("the archive cannot be read")]
    Read(#[source] io::Error),
    /// More bytes than are taken.
    #[error("the archive has {0} bytes; at most {limit} are taken", limit = limits::ARCHIVE)]
    Length(u64),
    /// A whole archive that is compressed.
    #[error("the archive is compressed with {0}")]
    Compressed(&'static str),
    /// No tar, or a damaged one.
    #[error("the archive is not a well-formed tar")]
    Tar(#[source] io::Error),
    /// It ends too early.
    #[error("the archive is truncated: it ends within `{0}`")]
    Truncated(String),
    /// The two blocks of zeros are missing.
    #[error("the archive is truncated: its end mark is missing")]
    NoEnd,
    /// What other readers may see as more files.
    #[error("the archive has data behind its end")]
    Trailing,
    /// Too many members.
    #[error("the archive has more than {limit} members", limit = limits::ARCHIVE_MEMBERS)]
    Members,
    /// A header that would fill the memory.
    #[error("the archive has an extended header of {0} bytes; at most {limit} are read", limit = limits::TAR_HEADER)]
    Header(u64),
    /// Not `LENGTH KEY=VALUE`.
    #[error("the archive has an extended header that cannot be read")]
    Pax,
    /// Readers differ about these.
    #[error("the archive has a global header that changes names or sizes")]
    GlobalHeader,
    /// A name that leaves the archive, or is not text.
    #[error("a member of the archive has the path `{0}`: only relative paths without `..`, of printable characters")]
    Path(String),
    /// Twice the same name.
    #[error("the archive has `{0}` twice")]
    Duplicate(String),
    /// Two headers disagree.
    #[error("`{0}` has two sizes in the archive")]
    TwoSizes(String),
    /// A hard link.
    #[error("`{0}` of the archive is a hard link")]
    HardLink(String),
    /// A symbolic link that leads out.
    #[error("`{path}` of the archive is a symbolic link out of it, to `{target}`")]
    LinkOutside {
        /// Its name.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// A symbolic link in place of a file.
    #[error("`{0}` of the archive is a symbolic link, which is not followed")]
    Symlink(String),
    /// A directory in place of a file.
    #[error("`{0}` of the archive is a directory, not a file")]
    Directory(String),
    /// With holes.
    #[error("`{0}` of the archive is a sparse file")]
    Sparse(String),
    /// A device, a fifo, …
    #[error("`{path}` of the archive is of type `{kind}`, neither a file nor a directory")]
    EntryType {
        /// Its name.
        path: String,
        /// The tar type.
        kind: String,
    },
    /// Something else.
    #[error("it is no archive of images: it has neither `oci-layout` nor `manifest.json`")]
    Unknown,
    /// A later one.
    #[error("the archive is an OCI image layout of version `{0}`, not 1.0.0")]
    Version(String),
    /// A text in it.
    #[error("`{name}` of the archive cannot be read")]
    Json {
        /// Its name.
        name: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A manifest in it.
    #[error("a manifest of the archive is refused")]
    Document(#[from] DocumentError),
    /// A file that something names.
    #[error("the archive has no `{0}`, which one of its images needs")]
    Missing(String),
    /// Larger than its kind may be.
    #[error("`{name}` of the archive has {size} bytes; at most {limit} are allowed")]
    TooLarge {
        /// Its name.
        name: String,
        /// In bytes.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// Not the size that its descriptor says.
    #[error("`{name}` of the archive has {got} bytes, but its descriptor says {wanted}")]
    Size {
        /// Its name.
        name: String,
        /// By the descriptor.
        wanted: u64,
        /// By the tar.
        got: u64,
    },
    /// Not the bytes that its name or its configuration says.
    #[error("`{name}` of the archive hashes to `{got}`, which is not what the archive says of it")]
    Digest {
        /// Its name.
        name: String,
        /// By its bytes.
        got: Digest,
    },
    /// Documents that fill the memory.
    #[error("the manifests of the archive have more than {limit} bytes together", limit = limits::ARCHIVE_DOCUMENTS)]
    Documents,
    /// Too many.
    #[error("the archive has {0} images; at most {limit} are taken", limit = limits::ARCHIVE_IMAGES)]
    Images(usize),
    /// Too many.
    #[error("an image of the archive has {0} layers; at most {limit} are read", limit = limits::ENTRIES)]
    Layers(usize),
    /// The configuration does not go with the layers.
    #[error("`{config}` of the archive has {ids} `diff_ids` for {layers} layers")]
    DiffIds {
        /// Its name.
        config: String,
        /// How many there are.
        ids: usize,
        /// How many there should be.
        layers: usize,
    },
    /// None.
    #[error("the archive has no image")]
    NoImage,
    /// It is called something that is no reference.
    #[error("the archive names an image `{name}`, which is no reference")]
    Name {
        /// As written.
        name: String,
        /// Why.
        source: ReferenceError,
    },
    /// It is called nothing.
    #[error("the archive gives an image no name")]
    Unnamed,
    /// One name for several.
    #[error("the archive has {0} images, and one name was given")]
    OneName(usize),
    /// The same name for two.
    #[error("the archive gives two images the name `{0}`")]
    SameName(Reference),
    /// Nothing in it is for this platform, or it is no bytecode image.
    #[error("an image of the archive cannot be used here")]
    Resolve(#[from] ResolveError),
    /// In place of signatures.
    #[error("what the archive has as signatures over `{0}` is no manifest of signatures")]
    SignatureManifest(Digest),
    /// More than are looked at.
    #[error("an image of the archive has more than {limit} signatures", limit = limits::SIGNATURES)]
    TooManySignatures,
    /// All together.
    #[error("the images of the archive have more than {limit} bytes together", limit = limits::ARCHIVE)]
    Bytes,
    /// The proof is about something else.
    #[error("`{verified}` was verified, but `{selected}` was to be taken")]
    NotWhatWasVerified {
        /// By the proof.
        verified: Digest,
        /// What was selected.
        selected: Digest,
    },
    /// A manifest that cannot be written.
    #[error("no manifest can be made of an image of the archive")]
    Canonical(#[from] CanonicalError),
    /// Read, but not written.
    #[error("cannot write what is in the archive into the image store")]
    Ingest(#[source] io::Error),
}

impl Archive {
    /// Reads the headers of a tar file, and what images it names.
    ///
    /// # Errors
    /// Each malformed or hostile archive has its own [`ArchiveError`].
    pub fn read(file: File) -> Result<Self, ArchiveError> {
        let members = Members::read(file)?;
        // Docker since 25 writes both; the layout has the manifest that a registry would have.
        let archive = if members.has(layout::MARK) {
            layout::read(members)
        } else if members.has(docker::MARK) {
            docker::read(members)
        } else {
            Err(ArchiveError::Unknown)
        }?;
        let names = archive.images.iter().map(|image| image.names.len().max(1)).sum();
        match names {
            0 => Err(ArchiveError::NoImage),
            names if names > limits::ARCHIVE_IMAGES => Err(ArchiveError::Images(names)),
            _ => Ok(archive),
        }
    }

    fn of(members: Members) -> Self {
        Self { members, images: Vec::new(), attached: Vec::new(), blobs: BTreeMap::new(), read: 0 }
    }

    /// Each image with the references that it is to have: those that the archive gives it, or this one.
    ///
    /// # Errors
    /// [`ArchiveError::Name`], [`ArchiveError::Unnamed`], [`ArchiveError::OneName`], [`ArchiveError::SameName`].
    pub fn named(&self, name: Option<&Reference>) -> Result<Vec<(Archived, BTreeSet<Reference>)>, ArchiveError> {
        match (name, self.images.as_slice()) {
            (Some(name), [image]) => return Ok(vec![(image.clone(), BTreeSet::from([name.clone()]))]),
            (Some(_), images) => return Err(ArchiveError::OneName(images.len())),
            (None, _) => {}
        }
        let mut all = BTreeSet::new();
        let mut named = Vec::new();
        for image in &self.images {
            let parsed = |name: &String| name.parse().map_err(|source| ArchiveError::Name { name: said(name), source });
            let names: BTreeSet<Reference> = image.names.iter().map(parsed).collect::<Result<_, _>>()?;
            if names.is_empty() {
                return Err(ArchiveError::Unnamed);
            }
            if let Some(twice) = names.iter().find(|name| !all.insert((*name).clone())) {
                return Err(ArchiveError::SameName(twice.clone()));
            }
            named.push((image.clone(), names));
        }
        Ok(named)
    }

    /// The image for a platform, as a reference would name it.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn select(
        &mut self,
        image: &Archived,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Selected, ArchiveError> {
        let top = image.top.clone();
        Ok(match top.parse()? {
            Manifest::Image(_) => Selected::alone(reference, top)?,
            Manifest::Index(index) => {
                let entry = choose(&index, platform)?;
                let manifest = self.document(&entry.descriptor)?;
                Selected::of_index(reference, top, manifest)?
            }
        })
    }

    /// The signatures over an image's index and over the image itself.
    ///
    /// # Errors
    /// [`ArchiveError`]: what is there as signatures and cannot be read is never no signature.
    pub fn signatures(&self, selected: &Selected) -> Result<Vec<SignatureSet>, ArchiveError> {
        let (mut sets, mut count, mut seen) = (Vec::new(), 0, BTreeSet::new());
        for wanted in selected.signable() {
            for attached in &self.attached {
                let (over, manifest) = match attached {
                    Attached::Tagged { over, manifest } | Attached::Refers { over, manifest } => (*over, manifest),
                };
                if over != wanted || !seen.insert((over, manifest.digest())) {
                    continue;
                }
                let image = match (attached, manifest.parse()?) {
                    (_, Manifest::Image(image)) if is_signatures(&image, over) => image,
                    (Attached::Tagged { .. }, Manifest::Image(image)) if is_legacy(&image) => image,
                    (Attached::Tagged { .. }, _) => return Err(ArchiveError::SignatureManifest(over)),
                    // A manifest may refer to an image and be no signature.
                    (Attached::Refers { .. }, _) => continue,
                };
                count += image.layers.len();
                if count > limits::SIGNATURES {
                    return Err(ArchiveError::TooManySignatures);
                }
                sets.push(self.signature_set(over, manifest, image)?);
            }
        }
        Ok(sets)
    }

    fn signature_set(
        &self,
        over: Digest,
        manifest: &Document,
        image: ImageManifest,
    ) -> Result<SignatureSet, ArchiveError> {
        let payload = |layer: Layer| {
            let payload = self.blob(&layer.descriptor, limits::SIGNATURE)?;
            Ok((layer, payload))
        };
        let payloads: Result<Vec<_>, ArchiveError> = image.layers.into_iter().map(payload).collect();
        let config = match image.config == Descriptor::of(media::EMPTY, media::EMPTY_BYTES) {
            true => media::EMPTY_BYTES.to_vec(),
            false => self.blob(&image.config, limits::CONFIG)?,
        };
        Ok(SignatureSet::of(over, manifest.clone(), (image.config, config), payloads?))
    }

    /// Copies what was verified into `ingest/`; the store hashes it again.
    ///
    /// # Errors
    /// [`ArchiveError`]; then nothing of it is left in `ingest/`.
    pub fn take(
        &self,
        verified: &Verified,
        selected: &Selected,
        signatures: &[SignatureSet],
        ingest: &Ingest,
    ) -> Result<Fetched, ArchiveError> {
        if verified.digest() != selected.digest() {
            let (verified, selected) = (verified.digest(), selected.digest());
            return Err(ArchiveError::NotWhatWasVerified { verified, selected });
        }
        let mut parts = Parts::new(ingest);
        parts.keep(self.land(selected.config(), limits::CONFIG, ingest)?);
        parts.keep(self.land(selected.layer()?, limits::LAYER, ingest)?);
        for document in selected.index().into_iter().chain([selected.manifest()]) {
            parts.put(document.descriptor(), document.bytes()).map_err(ArchiveError::Ingest)?;
        }
        let mut kept = Vec::new();
        for set in signatures {
            for (descriptor, bytes) in set.parts() {
                parts.put(descriptor, bytes).map_err(ArchiveError::Ingest)?;
            }
            kept.push(Signatures { over: set.over(), manifest: set.manifest().descriptor().clone() });
        }
        let (reference, image) = (selected.reference().clone(), selected.top().descriptor().clone());
        Ok(Fetched { reference, image, landed: parts.done(), signatures: kept })
    }

    fn land(&self, wanted: &Descriptor, limit: u64, ingest: &Ingest) -> Result<Landed, ArchiveError> {
        let (name, span) = self.find(wanted, limit)?;
        let mut copy = Hashed::new(ingest.begin(wanted).map_err(ArchiveError::Ingest)?);
        io::copy(&mut self.members.open(span), &mut copy).map_err(ArchiveError::Ingest)?;
        let (file, hasher) = copy.into_parts();
        is(name, wanted.digest, hasher)?;
        Ok(file.land())
    }

    fn blob(&self, wanted: &Descriptor, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        let (name, span) = self.find(wanted, limit)?;
        let mut copy = Hashed::new(Vec::new());
        io::copy(&mut self.members.open(span), &mut copy).map_err(ArchiveError::Read)?;
        let (bytes, hasher) = copy.into_parts();
        is(name, wanted.digest, hasher)?;
        Ok(bytes)
    }

    /// A manifest or an index, within the limit of all of them.
    fn document(&mut self, wanted: &Descriptor) -> Result<Document, ArchiveError> {
        self.read = self.read.saturating_add(wanted.size);
        if self.read > limits::ARCHIVE_DOCUMENTS {
            return Err(ArchiveError::Documents);
        }
        Ok(Document::check(wanted, self.blob(wanted, limits::MANIFEST)?)?)
    }

    /// Where the bytes of a digest are, and what the file is called.
    fn find(&self, wanted: &Descriptor, limit: u64) -> Result<(String, Span), ArchiveError> {
        let Descriptor { media_type: _, digest, size } = wanted;
        let name = format!("blobs/sha256/{}", digest.hex());
        let span = match self.blobs.get(digest) {
            Some(span) => *span,
            None => self.members.find(&name)?,
        };
        match (span.size > limit, span.size == *size) {
            (true, _) => Err(ArchiveError::TooLarge { name, size: span.size, limit }),
            (false, false) => Err(ArchiveError::Size { name, wanted: *size, got: span.size }),
            (false, true) => Ok((name, span)),
        }
    }
}

fn is(name: String, wanted: Digest, hasher: Hasher) -> Result<(), ArchiveError> {
    let got = hasher.finish();
    if got == wanted { Ok(()) } else { Err(ArchiveError::Digest { name, got }) }
}

fn is_legacy(image: &ImageManifest) -> bool {
    image.layers.iter().all(|layer| layer.descriptor.media_type == media::SIMPLE_SIGNING)
}

/// A text of the archive as an error quotes it.
fn said(text: &str) -> String {
    text.chars().take(200).collect::<String>().escape_debug().to_string()
}
