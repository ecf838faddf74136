//! From a layer's bytes to the one ELF object in it, in memory.
//!
//! Owns what a layer may be: a tar (plain, gzip or zstd) of regular files and directories with exactly one ELF file. Must
//! never write to disk, follow a name, or believe a length: every limit counts *decoded* bytes as they come, because the
//! usual mistake is to limit the encoded ones. The caller has already checked the digest of the bytes given here.

use std::{
    cell::{Cell, RefCell},
    io::{self, Read},
    path::{Component, Path},
};

use flate2::bufread::GzDecoder;
use ruzstd::decoding::{
    FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

use crate::{limits, media};

/// Decoded bytes of a whole layer: the object, and as much again for the files that may lie beside it.
const DECODED: u64 = 2 * limits::OBJECT;

/// Largest window of a zstd frame, in bytes: what RFC 8878 §3.1.1.1.2 asks every decoder to support. It is allocated.
const ZSTD_WINDOW: u64 = 8 << 20;

const ELF_MAGIC: &[u8] = b"\x7fELF";

/// The object that a layer carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Its path in the layer; for people only.
    pub path: String,
    /// The ELF file.
    pub object: Vec<u8>,
}

/// Why a layer gives no object.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The manifest calls it something that is no layer.
    #[error("layer media type `{0}` is not a tar, plain or compressed with gzip or zstd")]
    MediaType(String),
    /// Decodes to more than it may.
    #[error("decompression bomb: a layer of {encoded} bytes decodes to more than {allowed}")]
    Bomb {
        /// Bytes of the layer as stored.
        encoded: u64,
        /// Decoded bytes that it may have.
        allowed: u64,
    },
    /// The compressed stream ends early.
    #[error("layer is truncated: its compressed data ends early")]
    Truncated,
    /// The compressed stream is wrong.
    #[error("layer cannot be decompressed")]
    Corrupt(#[source] io::Error),
    /// More streams one behind the other than any builder makes: empty ones decode to nothing and cost as much to begin as full ones.
    #[error("layer has more than {limit} compressed streams one behind the other", limit = limits::STREAMS)]
    Streams,
    /// The tar is wrong.
    #[error("layer is not a well-formed tar")]
    Tar(#[source] io::Error),
    /// The tar ends within a file.
    #[error("tar ends within `{0}`")]
    TarTruncated(String),
    /// Bytes behind the tar's end, which other readers may see as more files.
    #[error("layer has data behind the end of its tar")]
    Trailing,
    /// Too many files.
    #[error("layer has more than {limit} tar entries", limit = limits::TAR_ENTRIES)]
    Entries,
    /// A name that leaves the layer, or is not text.
    #[error("tar entry has the path {0}: only relative paths without `..`, of printable characters")]
    Path(String),
    /// A symbolic or hard link.
    #[error("tar entry `{0}` is a symlink or hard link: a layer has only regular files and directories")]
    Link(String),
    /// A device, a fifo, a sparse file, …
    #[error("tar entry `{path}` is of type `{kind}`: a layer has only regular files and directories")]
    EntryType {
        /// Its path.
        path: String,
        /// The tar type.
        kind: String,
    },
    /// The ELF file is too large.
    #[error("object `{path}` has {size} bytes; at most {limit} are allowed", limit = limits::OBJECT)]
    ObjectTooLarge {
        /// Its path.
        path: String,
        /// Its size in bytes, as the tar says.
        size: u64,
    },
    /// More than one.
    #[error("layer has two ELF files, `{first}` and `{second}`: an image carries one object")]
    TwoElfFiles {
        /// Path of the first.
        first: String,
        /// Path of the second.
        second: String,
    },
    /// None.
    #[error("layer has no ELF file")]
    NoElf,
}

/// Finds the one object in a layer.
///
/// # Errors
/// Each malformed or hostile layer has its own [`UnpackError`].
pub fn object(media_type: &str, layer: &[u8]) -> Result<Unpacked, UnpackError> {
    let encoded = u64::try_from(layer.len()).unwrap_or(u64::MAX);
    let allowed = encoded.saturating_mul(limits::EXPANSION).clamp(limits::EXPANSION_FLOOR, DECODED);
    let fate = Fate::default();
    let decoder: Box<dyn Read + '_> = match media_type {
        media::LAYER_TAR | media::DOCKER_LAYER_TAR => Box::new(layer),
        media::LAYER_TAR_GZIP | media::DOCKER_LAYER_TAR_GZIP => Box::new(GzipMembers::new(layer)),
        media::LAYER_TAR_ZSTD | media::DOCKER_LAYER_TAR_ZSTD => Box::new(ZstdFrames::new(layer)),
        other => return Err(UnpackError::MediaType(other.to_owned())),
    };
    let found = only_elf(Decoded { decoder, left: allowed, fate: &fate });
    match (fate.bomb.get(), fate.broken.into_inner()) {
        (true, _) => Err(UnpackError::Bomb { encoded, allowed }),
        (false, Some(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(UnpackError::Truncated),
        (false, Some(error)) if error.get_ref().is_some_and(|error| error.is::<TooManyStreams>()) => {
            Err(UnpackError::Streams)
        }
        (false, Some(error)) => Err(UnpackError::Corrupt(error)),
        (false, None) => found,
    }
}

fn only_elf(decoded: Decoded<'_>) -> Result<Unpacked, UnpackError> {
    let mut archive = tar::Archive::new(decoded);
    let mut found: Option<Unpacked> = None;
    for (count, entry) in archive.entries().map_err(UnpackError::Tar)?.enumerate() {
        let entry = entry.map_err(UnpackError::Tar)?;
        if count >= limits::TAR_ENTRIES {
            return Err(UnpackError::Entries);
        }
        let Some(unpacked) = elf(entry)? else { continue };
        if let Some(first) = found {
            return Err(UnpackError::TwoElfFiles { first: first.path, second: unpacked.path });
        }
        found = Some(unpacked);
    }
    // To the end of the stream: a truncated one must not pass because the tar in it was complete.
    let mut rest = archive.into_inner();
    let mut buffer = [0_u8; 8192];
    loop {
        match rest.read(&mut buffer).map_err(UnpackError::Tar)? {
            0 => break,
            length if buffer.iter().take(length).all(|byte| *byte == 0) => {}
            _ => return Err(UnpackError::Trailing),
        }
    }
    found.ok_or(UnpackError::NoElf)
}

/// One entry: `None` if it is a directory or a file that is not ELF.
fn elf(mut entry: tar::Entry<'_, Decoded<'_>>) -> Result<Option<Unpacked>, UnpackError> {
    let path = entry_path(&entry)?;
    match entry.header().entry_type() {
        tar::EntryType::Directory => return Ok(None),
        tar::EntryType::Regular => {}
        tar::EntryType::Symlink | tar::EntryType::Link => return Err(UnpackError::Link(path)),
        kind => return Err(UnpackError::EntryType { path, kind: format!("{kind:?}") }),
    }
    let size = entry.size();
    let mut magic = Vec::new();
    entry.by_ref().take(4).read_to_end(&mut magic).map_err(UnpackError::Tar)?;
    if magic != ELF_MAGIC {
        return Ok(None);
    }
    if size > limits::OBJECT {
        return Err(UnpackError::ObjectTooLarge { path, size });
    }
    let mut object = magic;
    entry.read_to_end(&mut object).map_err(UnpackError::Tar)?;
    if u64::try_from(object.len()) != Ok(size) {
        return Err(UnpackError::TarTruncated(path));
    }
    Ok(Some(Unpacked { path, object }))
}

fn entry_path(entry: &tar::Entry<'_, Decoded<'_>>) -> Result<String, UnpackError> {
    let bytes = entry.path_bytes();
    let wrong = || UnpackError::Path(format!("{:?}", String::from_utf8_lossy(&bytes)));
    let path = std::str::from_utf8(&bytes).map_err(|_not| wrong())?;
    let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    let good = !path.is_empty() && !path.contains(char::is_control) && Path::new(path).components().all(inside);
    good.then(|| path.to_owned()).ok_or_else(wrong)
}

/// What happened below the tar reader, whose errors do not tell.
#[derive(Default)]
struct Fate {
    bomb: Cell<bool>,
    broken: RefCell<Option<io::Error>>,
}

/// A decoder that gives at most `left` bytes more.
struct Decoded<'a> {
    decoder: Box<dyn Read + 'a>,
    left: u64,
    fate: &'a Fate,
}

impl Read for Decoded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = match self.decoder.read(buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                self.fate.broken.replace(Some(error));
                return Err(io::Error::other("decoder failed"));
            }
        };
        match self.left.checked_sub(u64::try_from(length).unwrap_or(u64::MAX)) {
            Some(left) => self.left = left,
            None => {
                self.fate.bomb.set(true);
                return Err(io::Error::other("decoded side is too long"));
            }
        }
        Ok(length)
    }
}

/// How many compressed streams began.
#[derive(Debug, Default)]
struct Streams(usize);

/// One stream too many.
#[derive(Debug, thiserror::Error)]
#[error("too many compressed streams")]
struct TooManyStreams;

impl Streams {
    fn begin(&mut self) -> io::Result<()> {
        self.0 += 1;
        if self.0 > limits::STREAMS { Err(io::Error::other(TooManyStreams)) } else { Ok(()) }
    }
}

/// Gzip members one after the other (RFC 1952 §2.2).
struct GzipMembers<'a> {
    input: &'a [u8],
    member: Option<GzDecoder<&'a [u8]>>,
    streams: Streams,
}

impl<'a> GzipMembers<'a> {
    fn new(input: &'a [u8]) -> Self {
        Self { input, member: None, streams: Streams::default() }
    }
}

impl Read for GzipMembers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(mut member) = self.member.take() else {
                // Nothing at all is a member that ends early.
                if self.input.is_empty() && self.streams.0 > 0 {
                    return Ok(0);
                }
                self.streams.begin()?;
                self.member = Some(GzDecoder::new(self.input));
                continue;
            };
            let length = member.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                self.member = Some(member);
                return Ok(length);
            }
            self.input = member.into_inner();
        }
    }
}

/// Zstd frames one after the other, skippable ones (RFC 8878 §3.1.2; zstd:chunked writes them) left out.
struct ZstdFrames<'a> {
    input: &'a [u8],
    frame: Option<FrameDecoder>,
    streams: Streams,
}

impl<'a> ZstdFrames<'a> {
    fn new(input: &'a [u8]) -> Self {
        Self { input, frame: None, streams: Streams::default() }
    }

    /// Starts the next frame; `None` at the end of the input.
    fn next_frame(&mut self) -> io::Result<Option<FrameDecoder>> {
        while !self.input.is_empty() || self.streams.0 == 0 {
            self.streams.begin()?;
            let mut decoder = FrameDecoder::new();
            decoder.set_max_window_size(ZSTD_WINDOW);
            match decoder.init(&mut self.input) {
                Ok(()) => return Ok(Some(decoder)),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let rest = usize::try_from(length).ok().and_then(|length| self.input.get(length..));
                    self.input = rest.ok_or(io::ErrorKind::UnexpectedEof)?;
                }
                Err(error) => return Err(zstd_error(error, self.input)),
            }
        }
        Ok(None)
    }
}

impl Read for ZstdFrames<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(frame) = self.frame.as_mut() else {
                match self.next_frame()? {
                    Some(frame) => self.frame = Some(frame),
                    None => return Ok(0),
                }
                continue;
            };
            let length = Read::read(frame, buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            if frame.is_finished() {
                self.frame = None;
                continue;
            }
            let one = ruzstd::decoding::BlockDecodingStrategy::UptoBlocks(1);
            frame.decode_blocks(&mut self.input, one).map_err(|error| zstd_error(error, self.input))?;
        }
    }
}

/// A decoder that ran out of input met the end of a truncated layer.
fn zstd_error(error: FrameDecoderError, input: &[u8]) -> io::Error {
    if input.is_empty() { io::ErrorKind::UnexpectedEof.into() } else { io::Error::other(error) }
}
