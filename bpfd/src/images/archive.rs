//! Images into the store from an archive, out of it as one, and under other names.
//!
//! What comes in is judged as what a pull brings: the policy of now, the parse worker, the label. A registry vouches for none of it, so for
//! callers other than root somebody's signature must, and no name is moved. No name leads to any of it before all of it is known to be
//! usable; then all names do, in one step.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::time::Instant;

use bpfd_core::policy::{Principal, Stage};
use bytecode_image::archive::{Archive, ArchiveError};
use bytecode_image::candidate::Candidate;
use bytecode_image::fetch::SignatureSet;
use bytecode_image::limits;
use bytecode_image::reference::Reference;
use bytecode_image::store::{Export, ExportError, Named, NamedRelease, Staged};
use bytecode_image::verify::{self, Subject, Verified};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;

use super::judge::{Judged, Opened, open};
use super::places::Place;
use super::{ImageError, Images, Shared, Stored, WHOLE, in_place};

/// Bytes of a piece of an archive on its way out.
const PIECE: usize = 256 << 10;
/// Pieces that wait for a slow reader.
const PIECES: usize = 4;

/// An archive that is being received. Dropped, it is gone.
#[derive(Debug)]
pub struct ArchiveUpload {
    file: File,
    size: u64,
    place: Place,
}

impl ArchiveUpload {
    /// Takes the next piece.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn write(&mut self, piece: &[u8]) -> Result<(), ImageError> {
        self.size = self.size.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        if self.size > limits::ARCHIVE {
            return Err(ArchiveError::Length(self.size).into());
        }
        self.file.write_all(piece).map_err(|source| ImageError::Upload { source })
    }
}

/// An archive that is being written, piece by piece.
pub type Exported = mpsc::Receiver<Result<Vec<u8>, ImageError>>;

impl Images {
    /// Room for an archive. Its caller may have one at a time.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn upload(&self, uid: u32) -> Result<ArchiveUpload, ImageError> {
        let place = self.archives.of(uid).await?;
        Ok(ArchiveUpload { file: self.shared.store.scratch()?, size: 0, place })
    }

    /// Takes in every image of an archive, or none: by the names that the archive gives them, or its one image by this name.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn import(
        &self,
        caller: &Principal,
        upload: ArchiveUpload,
        name: Option<Reference>,
    ) -> Result<Vec<Stored>, ImageError> {
        let ArchiveUpload { file, size: _, place } = upload;
        let (caller, shared) = (caller.clone(), self.shared.clone());
        in_place(place, move || shared.import(&caller, file, name.as_ref())).await
    }

    /// Gives an image of the store, by reference or digest, one more name.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn tag(&self, caller: &Principal, image: String, name: Reference) -> Result<Stored, ImageError> {
        let caller = caller.clone();
        self.blocking(caller.uid, move |shared| shared.tag(&caller, &image, &name)).await
    }

    /// An archive of images of the store, by reference or digest.
    ///
    /// # Errors
    /// [`ImageError`]: nothing was sent.
    pub async fn export(&self, caller: &Principal, images: Vec<String>) -> Result<Exported, ImageError> {
        let (place, shared) = (self.archives.of(caller.uid).await?, self.shared.clone());
        let (caller, of_list) = (caller.clone(), shared.clone());
        let (place, export) =
            in_place((), move || of_list.exported(&caller, &images).map(|export| (place, export))).await?;
        let (pieces, exported) = mpsc::channel(PIECES);
        let deadline = Instant::now() + WHOLE;
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            let mut to = Pieces { pieces: pieces.clone(), piece: Vec::new(), deadline, runtime };
            let written = shared.store.write_archive(&export, &mut to);
            drop(place);
            match written {
                Ok(()) => {}
                Err(ExportError::Store(error)) => drop(pieces.blocking_send(Err(error.into()))),
                Err(ExportError::Write(error)) if error.kind() == io::ErrorKind::TimedOut => {
                    drop(pieces.try_send(Err(ImageError::Timeout)));
                }
                // Whoever asked has left.
                Err(ExportError::Write(error)) => tracing::info!(%error, "an export was not read to its end"),
            }
        });
        Ok(exported)
    }
}

impl Shared {
    fn import(&self, caller: &Principal, file: File, name: Option<&Reference>) -> Result<Vec<Stored>, ImageError> {
        let mut archive = Archive::read(file)?;
        let ingest = self.store.ingest()?;
        let (mut all, mut bytes): (Vec<Staged<'_>>, u64) = (Vec::new(), 0);
        let mut releases: Vec<(Reference, NamedRelease)> = Vec::new();
        for (image, names) in archive.named(name)? {
            let mut whole: Option<(Staged<'_>, Opened)> = None;
            for name in names {
                self.may_name(caller, &name)?;
                let selected = archive.select(&image, &name, &self.platform)?;
                let signatures = archive.signatures(&selected)?;
                let candidates: Vec<Candidate> = signatures.iter().flat_map(SignatureSet::candidates).collect();
                let verified = verify::decide(&self.trust.policy(), selected.subject(), &candidates, verify::now())?;
                self.is_vouched_for(caller, &verified)?;
                let judged = Judged { selected, verified };
                let (staged, opened) = match whole {
                    Some((mut staged, opened)) => {
                        staged.also(name.clone());
                        (staged, opened)
                    }
                    None => {
                        let fetched = archive.take(&judged.verified, &judged.selected, &signatures, &ingest)?;
                        let staged = self.store.stage(fetched)?;
                        bytes += staged.bytes();
                        if bytes > limits::ARCHIVE {
                            return Err(ArchiveError::Bytes.into());
                        }
                        let opened = open(&staged, &self.workers, &judged.selected)?;
                        (staged, opened)
                    }
                };
                let release = opened.release(&name, &judged.selected);
                self.not_older(&name, &judged, &release)?;
                self.remember(judged.selected.manifest().digest(), opened.digest);
                releases.push((name, release));
                whole = Some((staged, opened));
            }
            all.extend(whole.map(|(staged, _opened)| staged));
        }
        self.take_in(all)?;
        releases.iter().for_each(|(name, release)| self.remember_release(name, release));
        let names = releases.iter().map(|(name, _)| self.named(&name.to_string()));
        let named = names.collect::<Result<Vec<_>, _>>()?;
        Ok(named.iter().flat_map(|named| named.first()).map(|named| self.stored(named)).collect())
    }

    fn tag(&self, caller: &Principal, image: &str, name: &Reference) -> Result<Stored, ImageError> {
        let named = self.one(image)?;
        // A digest may have been asked for, and names are what rules are about.
        self.may_pull(caller, &named.reference, None, Stage::First)?;
        self.may_name(caller, name)?;
        let selected = self.store.selected(&named.reference, &self.platform)?;
        let signatures = self.store.signatures(&selected)?;
        let subject = Subject { reference: name, ..selected.subject() };
        let verified = verify::decide(&self.trust.policy(), subject, &signatures, verify::now())?;
        self.is_vouched_for(caller, &verified)?;
        let opened = open(&self.store, &self.workers, &selected)?;
        let judged = Judged { selected: selected.under(name), verified };
        let release = opened.release(name, &judged.selected);
        self.not_older(name, &judged, &release)?;
        // Whatever its name leads to by now, what was judged is what gets the new one.
        self.store.tag(&named.reference.by_digest(judged.selected.digest()), name)?;
        self.remember_release(name, &release);
        Ok(self.stored(&self.one(&name.to_string())?))
    }

    fn exported(&self, caller: &Principal, images: &[String]) -> Result<Export, ImageError> {
        let mut all: BTreeSet<Named> = BTreeSet::new();
        for image in images {
            all.extend(self.named(image)?);
        }
        all.iter().try_for_each(|named| self.may_pull(caller, &named.reference, None, Stage::First))?;
        Ok(self.store.export(&all)?)
    }

    /// Whether a caller may have such a name lead to what it brings.
    fn may_name(&self, caller: &Principal, name: &Reference) -> Result<(), ImageError> {
        self.covered(caller, name)?;
        self.may_pull(caller, name, None, Stage::First)
    }

    /// Whether what a caller brings may have its name, now that it is known who signed it: no registry says that it is what it is.
    fn is_vouched_for(&self, caller: &Principal, verified: &Verified) -> Result<(), ImageError> {
        let (name, signers) = (verified.reference(), verified.signers());
        if caller.uid != 0 {
            if signers.is_empty() {
                return Err(ImageError::NobodyVouches(name.clone()));
            }
            let leads_to = self.store.list()?.into_iter().find(|named| named.reference == *name);
            if let Some(other) = leads_to.filter(|named| named.image.digest != verified.digest()) {
                return Err(ImageError::MovesName { name: name.clone(), from: other.image.digest });
            }
        }
        self.may_pull(caller, name, Some(signers.clone()), Stage::Last)
    }
}

/// Sends what is written in pieces; a reader that left, or is too slow, ends the writing.
struct Pieces {
    pieces: mpsc::Sender<Result<Vec<u8>, ImageError>>,
    piece: Vec<u8>,
    deadline: Instant,
    runtime: Handle,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE.saturating_sub(self.piece.len()).min(bytes.len());
        self.piece.extend(bytes.iter().take(room));
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece);
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.runtime.block_on(self.pieces.send_timeout(Ok(piece), left)).map_err(|error| match error {
            SendTimeoutError::Timeout(_) => io::ErrorKind::TimedOut.into(),
            SendTimeoutError::Closed(_) => io::ErrorKind::BrokenPipe.into(),
        })
    }
}
