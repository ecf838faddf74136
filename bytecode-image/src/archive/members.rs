//! The members of a tar file: where each begins and how long it is. Nothing is extracted, no name is ever a path, and no link is followed.
//!
//! Two readers that differ about what an archive holds are an attack, so whatever they may differ about is refused: a name that is there
//! twice, sizes that do not agree, data behind the end. Must never read a header or a member into memory without a limit.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek},
    os::unix::fs::FileExt,
    path::{Component, Path},
};

use tar::EntryType;

use super::ArchiveError;
use crate::limits;

const BLOCK: u64 = 512;

/// See the module.
#[derive(Debug)]
pub(super) struct Members {
    file: File,
    by_name: BTreeMap<String, Member>,
}

#[derive(Debug, Clone, Copy)]
enum Member {
    File(Span),
    Directory,
    Symlink,
}

/// Where the bytes of a file are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    at: u64,
    pub(super) size: u64,
}

/// What extended headers say about the next member.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    is_sparse: bool,
}

impl Members {
    pub(super) fn read(mut file: File) -> Result<Self, ArchiveError> {
        let length = file.metadata().map_err(ArchiveError::Read)?.len();
        if length > limits::ARCHIVE {
            return Err(ArchiveError::Length(length));
        }
        not_compressed(&file)?;
        if !length.is_multiple_of(BLOCK) {
            return Err(ArchiveError::NoEnd);
        }
        file.rewind().map_err(ArchiveError::Read)?;
        let mut by_name = BTreeMap::new();
        let (mut end, mut extended, mut count) = (0, Extended::default(), 0);
        let mut archive = tar::Archive::new(&file);
        for entry in archive.entries_with_seek().map_err(ArchiveError::Tar)?.raw(true) {
            let mut entry = entry.map_err(ArchiveError::Tar)?;
            count += 1;
            if count > limits::ARCHIVE_MEMBERS {
                return Err(ArchiveError::Members);
            }
            let (at, size, kind) = (entry.raw_file_position(), entry.size(), entry.header().entry_type());
            let padded = size.checked_next_multiple_of(BLOCK).and_then(|padded| at.checked_add(padded));
            end = padded
                .filter(|end| *end <= length)
                .ok_or_else(|| ArchiveError::Truncated(shown(&entry.path_bytes())))?;
            match kind {
                EntryType::XHeader => {
                    extended.take_pax(&header(&mut entry)?)?;
                    continue;
                }
                EntryType::XGlobalHeader => {
                    let mut global = Extended::default();
                    global.take_pax(&header(&mut entry)?)?;
                    if global.says_something() {
                        return Err(ArchiveError::GlobalHeader);
                    }
                    continue;
                }
                EntryType::GNULongName => {
                    extended.path = Some(until_nul(header(&mut entry)?));
                    continue;
                }
                EntryType::GNULongLink => {
                    extended.target = Some(until_nul(header(&mut entry)?));
                    continue;
                }
                _ => {}
            }
            let said = std::mem::take(&mut extended);
            let name = inside(&said.path.unwrap_or_else(|| entry.path_bytes().into_owned()))?;
            if said.is_sparse || kind == EntryType::GNUSparse {
                return Err(ArchiveError::Sparse(name));
            }
            if said.size.is_some_and(|said| said != size) {
                return Err(ArchiveError::TwoSizes(name));
            }
            let member = match kind {
                EntryType::Regular | EntryType::Continuous => Member::File(Span { at, size }),
                EntryType::Directory => Member::Directory,
                EntryType::Symlink => {
                    let target = said.target.or_else(|| entry.link_name_bytes().map(|name| name.into_owned()));
                    stays_inside(&name, &target.unwrap_or_default())?;
                    Member::Symlink
                }
                EntryType::Link => return Err(ArchiveError::HardLink(name)),
                kind => return Err(ArchiveError::EntryType { path: name, kind: format!("{kind:?}") }),
            };
            let again = matches!((by_name.get(&name), member), (Some(Member::Directory), Member::Directory));
            if by_name.insert(name.clone(), member).is_some() && !again {
                return Err(ArchiveError::Duplicate(name));
            }
        }
        ends(&file, end, length)?;
        Ok(Self { file, by_name })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// A file of this name.
    pub(super) fn find(&self, name: &str) -> Result<Span, ArchiveError> {
        match self.by_name.get(name) {
            Some(Member::File(span)) => Ok(*span),
            Some(Member::Symlink) => Err(ArchiveError::Symlink(name.to_owned())),
            Some(Member::Directory) => Err(ArchiveError::Directory(name.to_owned())),
            None => Err(ArchiveError::Missing(shown(name.as_bytes()))),
        }
    }

    /// The bytes of a member, to be read one after the other.
    pub(super) fn open(&self, Span { at, size }: Span) -> impl Read + '_ {
        Section { file: &self.file, at, left: size }
    }

    /// A small file, whole.
    pub(super) fn bytes(&self, name: &str, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        let span = self.find(name)?;
        if span.size > limit {
            return Err(ArchiveError::TooLarge { name: name.to_owned(), size: span.size, limit });
        }
        let mut bytes = Vec::new();
        self.open(span).read_to_end(&mut bytes).map_err(ArchiveError::Read)?;
        Ok(bytes)
    }
}

struct Section<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..most).unwrap_or_default();
        let length = self.file.read_at(buffer, self.at)?;
        if length == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let read = u64::try_from(length).unwrap_or(u64::MAX);
        (self.at, self.left) = (self.at.saturating_add(read), self.left.saturating_sub(read));
        Ok(length)
    }
}

impl Extended {
    /// Records of `LENGTH KEY=VALUE\n` (POSIX pax, "pax Extended Header").
    fn take_pax(&mut self, mut records: &[u8]) -> Result<(), ArchiveError> {
        while !records.is_empty() {
            let (key, value, rest) = record(records).ok_or(ArchiveError::Pax)?;
            records = rest;
            match key {
                b"path" => self.path = Some(value.to_owned()),
                b"linkpath" => self.target = Some(value.to_owned()),
                b"size" => self.size = Some(number(value).ok_or(ArchiveError::Pax)?),
                key if key.starts_with(b"GNU.sparse.") => self.is_sparse = true,
                _ => {}
            }
        }
        Ok(())
    }

    fn says_something(&self) -> bool {
        let Self { path, target, size, is_sparse } = self;
        path.is_some() || target.is_some() || size.is_some() || *is_sparse
    }
}

fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = records.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(number(records.get(..blank)?)?).ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let pair = record.strip_suffix(b"\n")?.get(blank + 1..)?;
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    Some((pair.get(..equals)?, pair.get(equals + 1..)?, rest))
}

fn number(digits: &[u8]) -> Option<u64> {
    let decimal = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    decimal.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

/// The text of an extended header.
fn header(entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<u8>, ArchiveError> {
    let size = entry.size();
    if size > limits::TAR_HEADER {
        return Err(ArchiveError::Header(size));
    }
    let mut text = Vec::new();
    entry.read_to_end(&mut text).map_err(ArchiveError::Tar)?;
    Ok(text)
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
    text
}

/// A member's name without `./` and the `/` at the end.
fn inside(path: &[u8]) -> Result<String, ArchiveError> {
    let outside = || ArchiveError::Path(shown(path));
    let text = std::str::from_utf8(path).map_err(|_not| outside())?;
    if text.is_empty() || text.contains(char::is_control) {
        return Err(outside());
    }
    let mut parts = Vec::new();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str().ok_or_else(outside)?),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(outside()),
        }
    }
    Ok(parts.join("/"))
}

/// Whether a link's target is within the archive. It is not followed all the same.
fn stays_inside(name: &str, target: &[u8]) -> Result<(), ArchiveError> {
    let outside = || ArchiveError::LinkOutside { path: name.to_owned(), target: shown(target) };
    let mut depth = Path::new(name).components().count().saturating_sub(1);
    for part in Path::new(std::str::from_utf8(target).map_err(|_not| outside())?).components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => depth = depth.checked_sub(1).ok_or_else(outside)?,
            Component::RootDir | Component::Prefix(_) => return Err(outside()),
        }
    }
    Ok(())
}

/// Whether there is nothing but zeros from the last member on, and enough of them to say that this was the last.
fn ends(file: &File, end: u64, length: u64) -> Result<(), ArchiveError> {
    let left = length.saturating_sub(end);
    if left < BLOCK {
        return Err(ArchiveError::NoEnd);
    }
    let mut rest = Section { file, at: end, left };
    let mut buffer = [0; 8192];
    loop {
        match rest.read(&mut buffer).map_err(ArchiveError::Read)? {
            0 => return Ok(()),
            read if buffer.iter().take(read).all(|byte| *byte == 0) => {}
            _ => return Err(ArchiveError::Trailing),
        }
    }
}

fn not_compressed(file: &File) -> Result<(), ArchiveError> {
    let mut magic = Vec::new();
    Section { file, at: 0, left: 6 }.read_to_end(&mut magic).or_else(too_short).map_err(ArchiveError::Read)?;
    let kinds: [(&[u8], &str); 4] =
        [(b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz")];
    match kinds.iter().find(|(begins, _)| magic.starts_with(begins)) {
        Some((_, kind)) => Err(ArchiveError::Compressed(kind)),
        None => Ok(()),
    }
}

fn too_short(error: io::Error) -> io::Result<usize> {
    if error.kind() == io::ErrorKind::UnexpectedEof { Ok(0) } else { Err(error) }
}

/// A name as an error quotes it.
fn shown(name: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(name).chars().take(200).collect();
    text.escape_debug().to_string()
}
