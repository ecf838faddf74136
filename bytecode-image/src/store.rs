//! The local image store: an OCI image layout (image-spec 1.1 `image-layout.md`) that survives crashes and full disks.
//!
//! ```text
//! DIR/                   0700
//! ├── oci-layout         {"imageLayoutVersion":"1.0.0"}
//! ├── index.json         one entry a name (`org.opencontainers.image.ref.name` = the whole reference), and one for each
//! │                      manifest of signatures (`HOST/REPOSITORY:sha256-<hex>.sig`, further ones `HOST/REPOSITORY@DIGEST`)
//! ├── releases.begun.json  releases of loads that may not have ended
//! ├── releases.json     the last release of each name, where the policy forbids downgrades
//! ├── blobs/sha256/<hex> manifests, configurations, layers, signatures, by digest
//! ├── ingest/            what is being written; never read as content
//! │   └── apart.N/       …by a process that is not trusted: its own directory, and it may write nowhere else
//! └── index.json.new     the next index, on its way: never where such a process may write
//! ```
//! `skopeo` reads it as `oci:DIR:REFERENCE`.
//!
//! **Writing**: into `ingest/`, and a syncfs before the lock is taken; rename into `blobs/`, then a new index beside the old one, and one
//! syncfs for all of it, which has little left to do; last the new index takes the place of the old one, with an fsync of the directory. So
//! a commit waits for the disk three times, however many parts an image has. A crash or a full disk at any point leaves the old index and,
//! at worst, files that nothing names.
//! **Locking**: whoever changes anything holds an exclusive `flock` on the directory itself (on an open file of its own,
//! so threads exclude each other too). Readers take no lock: `index.json` is replaced whole, blobs never change.
//! **Collection**: [`Store::collect`] removes blobs that neither a name nor a lease reaches, under the same lock; as
//! [`Store::commit_staged`] moves blobs in and names them under one lock, nothing half-committed can be collected. No directory is listed
//! under the lock: how long that takes depends on how much is in the store.
//! **Reading**: every byte is hashed again; the store's file system is not trusted to keep bytes as they were.
//!
//! Must never make a path of anything but a [`Digest`], follow a symbolic link, or say anything about trust.

mod apart;
mod collect;
mod dir;
mod export;
mod index;
mod ingest;
mod read;
mod releases;
mod staged;
mod usage;
mod whole;

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

pub(crate) use self::apart::Hashed;
pub use self::{
    apart::Apart,
    collect::{Sweep, Swept},
    export::{Export, ExportError},
    index::Named,
    ingest::{Ingest, IngestFile, IngestName, Landed},
    read::Blobs,
    releases::{Ended, NamedRelease},
    staged::Staged,
};
use self::{
    dir::{Dir, OnDisk, Stamp},
    index::Names,
};
use crate::{
    digest::{Descriptor, Digest, Hasher},
    document::DocumentError,
    limits,
    reference::Reference,
    resolve::ResolveError,
};

/// An image store in a directory.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    root: Dir,
    blobs: Dir,
    ingest: Dir,
    /// What `index.json` said, and which file that was.
    last_names: Mutex<Option<(Stamp, Arc<Names>)>>,
}

/// An image whose parts lie in `ingest/`: what a pull, a build or an import hands to [`Store::commit`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// The name it gets.
    pub reference: Reference,
    /// The manifest or index that the name is for.
    pub image: Descriptor,
    /// Every part that was written.
    pub landed: Vec<Landed>,
    /// Manifests of signatures, and what they are over.
    pub signatures: Vec<Signatures>,
}

/// A manifest of signatures beside an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signatures {
    /// The manifest that they are over.
    pub over: Digest,
    /// Their manifest.
    pub manifest: Descriptor,
}

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system.
    #[error("cannot {doing} in the image store `{}`", .store.display())]
    Io {
        /// The verb and what it was done to.
        doing: String,
        /// The store's directory.
        store: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory holds a layout of another version.
    #[error("`{}` is not an OCI image layout of version 1.0.0", .0.display())]
    NotALayout(PathBuf),
    /// Bytes are not what they were.
    #[error("blob `{0}` in the image store is damaged; pull the image again")]
    Corrupt(Digest),
    /// A blob that something names is not there.
    #[error("blob `{0}` is missing in the image store; pull the image again")]
    Missing(Digest),
    /// A blob is larger than its kind may be.
    #[error("blob `{digest}` has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Which.
        digest: Digest,
        /// By its descriptor.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// `index.json` cannot be read.
    #[error("the image store's index cannot be read")]
    Index(#[source] serde_json::Error),
    /// A file of releases cannot be read.
    #[error("`{file}` of the image store cannot be read; remove the file to forget which releases were here")]
    Releases {
        /// Which of them.
        file: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// No such name.
    #[error("the image store has no `{0}`")]
    NotFound(Reference),
    /// A stored manifest cannot be read.
    #[error("a manifest in the image store is refused")]
    Document(#[from] DocumentError),
    /// More parts than an image can have.
    #[error("an image of {0} parts was received; at most {limit} are taken in", limit = limits::PARTS)]
    Parts(usize),
    /// Nothing in the image is for this platform.
    #[error("a stored image cannot be used here")]
    Resolve(#[from] ResolveError),
    /// A part that was handed in is not what it says.
    #[error("what was received for `{wanted}` hashes to `{got}`")]
    NotWhatItSays {
        /// By its descriptor.
        wanted: Digest,
        /// By its bytes.
        got: Digest,
    },
}

/// Why no name more is written.
#[derive(Debug, thiserror::Error)]
#[error("the index would exceed {INDEX_LIMIT} bytes; remove images with `bpfctl image rm`")]
struct IndexFull;

/// Holds the store's lock until it is dropped.
#[derive(Debug)]
struct Lock(#[expect(dead_code, reason = "closing it unlocks")] OwnedFd);

impl Store {
    /// Opens a store, and makes it if there is none.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::NotALayout`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |doing: &'static str| {
            move |source| StoreError::Io { doing: doing.to_owned(), store: path.to_owned(), source }
        };
        let root = Dir::create(path).map_err(failed("open the directory"))?;
        let blobs = root.subdir("blobs").and_then(|blobs| blobs.subdir("sha256")).map_err(failed("make `blobs`"))?;
        let ingest = root.subdir("ingest").map_err(failed("make `ingest`"))?;
        let store = Self { path: path.to_owned(), root, blobs, ingest, last_names: Mutex::default() };
        let lock = store.lock()?;
        let version: serde_json::Value = match store.root.read("oci-layout", 4096) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let layout = serde_json::json!({"imageLayoutVersion": LAYOUT_VERSION});
                store.replace("oci-layout", layout.to_string().as_bytes())?;
                layout
            }
            Err(error) => return Err(failed("read `oci-layout`")(error)),
        };
        if version.get("imageLayoutVersion").and_then(serde_json::Value::as_str) != Some(LAYOUT_VERSION) {
            return Err(StoreError::NotALayout(path.to_owned()));
        }
        if store.names_if_any()?.is_none() {
            store.write_names(&Names::default())?;
        }
        drop(lock);
        Ok(store)
    }

    /// Where parts of a new image are written; may be given to another process as a file descriptor.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn ingest(&self) -> Result<Ingest, StoreError> {
        self.ingest.try_clone().map(Ingest::new).map_err(|source| self.failed("open `ingest`", source))
    }

    /// [`Store::stage`] and [`Store::commit_staged`] of one image.
    ///
    /// # Errors
    /// [`StoreError`]; then the names are as before.
    pub fn commit(&self, fetched: &Fetched) -> Result<(), StoreError> {
        self.commit_staged(vec![self.stage(fetched.clone())?])
    }

    /// A file without a name, for bytes that are no content yet: it is gone when it is closed.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn scratch(&self) -> Result<File, StoreError> {
        let mut number = 0_u64;
        loop {
            let name = format!("scratch.{number}");
            match self.ingest.create_new(&name) {
                Ok(file) => {
                    let gone = self.ingest.remove(&name);
                    return gone.map(|()| file).map_err(|source| self.failed("make a file in `ingest`", source));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(self.failed("make a file in `ingest`", error)),
            }
        }
    }

    /// Throws away parts that will not be committed.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn discard(&self, fetched: &Fetched) -> Result<(), StoreError> {
        fetched.landed.iter().try_for_each(|part| {
            let gone = self.ingest.remove(part.file.as_str());
            gone.or_else(none_there).map_err(|source| self.failed("clear `ingest`", source))
        })
    }

    /// What a name, or a digest of its repository, stands for.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::NotFound`] if there is nothing.
    pub fn find(&self, reference: &Reference) -> Result<Descriptor, StoreError> {
        self.read_names()?.find(reference).ok_or_else(|| StoreError::NotFound(reference.clone()))
    }

    /// All names, sorted.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn list(&self) -> Result<Vec<Named>, StoreError> {
        Ok(self.read_names()?.list())
    }

    /// Gives a stored image another name of the same or another repository.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if nothing has the old name.
    pub fn tag(&self, old: &Reference, new: &Reference) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let mut names = self.names()?;
        let image = names.find(old).ok_or_else(|| StoreError::NotFound(old.clone()))?;
        names.set(&new.to_string(), &image);
        names.copy_signatures(old, new);
        self.write_names(&names)
    }

    /// Forgets a name. Its blobs stay until [`Store::collect`].
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if nothing has this name.
    pub fn remove(&self, reference: &Reference) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let mut names = self.names()?;
        if !names.remove(&reference.to_string()) {
            return Err(StoreError::NotFound(reference.clone()));
        }
        // Signatures go with the last image that they are over.
        self.drop_signatures(&mut names);
        self.write_names(&names)
    }

    /// Drops signatures over what no name reaches. On a doubt all stay: a damaged manifest may be what reaches them, and
    /// must not stand in the way of the pull that mends it, or of its own removal.
    fn drop_signatures(&self, names: &mut Names) {
        match self.reached(names.list().iter().map(|named| named.image.digest)) {
            Ok(reached) => names.keep_signatures(&reached),
            Err(_doubt) => {}
        }
    }

    /// The names of now, to be changed.
    fn names(&self) -> Result<Names, StoreError> {
        self.read_names().map(Arc::unwrap_or_clone)
    }

    /// The names of now.
    fn read_names(&self) -> Result<Arc<Names>, StoreError> {
        Ok(self.names_if_any()?.unwrap_or_default())
    }

    /// Read anew if the file is another one than the last time: a list of a thousand images asks a thousand times.
    fn names_if_any(&self) -> Result<Option<Arc<Names>>, StoreError> {
        let failed = |source| self.failed("read `index.json`", source);
        let stamp = match self.root.stamp("index.json") {
            Ok(stamp) => stamp,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed(source)),
        };
        let mut last = self.last_names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, names)) = last.as_ref().filter(|(of, _)| *of == stamp) {
            return Ok(Some(Arc::clone(names)));
        }
        // One that took its place meanwhile is read instead, and once more the next time.
        let bytes = self.root.read("index.json", INDEX_LIMIT).map_err(failed)?;
        let names: Arc<Names> = serde_json::from_slice(&bytes).map(Arc::new).map_err(StoreError::Index)?;
        *last = Some((stamp, Arc::clone(&names)));
        Ok(Some(names))
    }

    fn write_names(&self, names: &Names) -> Result<(), StoreError> {
        self.write_index(names, OnDisk::File)
    }

    /// Never more than is read: what cannot be read any more cannot be mended either.
    fn write_index(&self, names: &Names, on_disk: OnDisk) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(names).map_err(StoreError::Index)?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > INDEX_LIMIT) {
            let full = io::Error::new(io::ErrorKind::FileTooLarge, IndexFull);
            return Err(self.failed("write `index.json`", full));
        }
        self.replace_when("index.json", &bytes, on_disk)
    }

    /// Replaces a file of the root, whole or not at all.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.replace_when(name, bytes, OnDisk::File)
    }

    /// The same once this much is on the disk.
    fn replace_when(&self, name: &str, bytes: &[u8], on_disk: OnDisk) -> Result<(), StoreError> {
        let replaced = self.root.write_new(&format!("{name}.new"), bytes, on_disk).and_then(|()| {
            self.root.rename(&format!("{name}.new"), &self.root, name)?;
            self.root.sync()
        });
        replaced.map_err(|source| self.failed(&format!("write `{name}`"), source))
    }

    fn lock(&self) -> Result<Lock, StoreError> {
        self.root.lock().map(Lock).map_err(|source| self.failed("take the lock", source))
    }

    fn failed(&self, doing: &str, source: io::Error) -> StoreError {
        StoreError::Io { doing: doing.to_owned(), store: self.path.clone(), source }
    }
}

/// image-layout.md: the one version there is.
const LAYOUT_VERSION: &str = "1.0.0";
/// Bytes of `index.json`, read and written: ten thousand names.
const INDEX_LIMIT: u64 = 8 << 20;

pub(crate) struct HashedSink(pub(crate) Hasher);

impl io::Write for HashedSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn none_there(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
