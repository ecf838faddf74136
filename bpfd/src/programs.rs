//! `/etc/bpfd/programs.d`: its files, and the objects that they name. Both are opened only if nobody but root could have written them, an
//! object never through a link.
//!
//! This file must never decide what is loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bpfd_core::names::AppName;
use bpfd_core::programs::{self, Declared, DeclaredSource};
use bpfd_core::state::ObjectDigest;
use rustix::io::Errno;

use crate::causes::error_chain;
use crate::etc::{self, EtcError, EtcFault, owned};
use crate::layout::Layout;
use crate::objects::OBJECT_MAX;
use crate::owned::OwnedDir;

/// What a file is, without its bytes: who writes it changes this.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

/// The kernel stamps files by a clock that ticks at least this often: until then, a file may be written again and keep its stamp.
const TICK: Duration = Duration::from_millis(100);

impl Stamp {
    /// `None` if the file is not there, or was changed so lately that its stamp tells nothing.
    fn of(path: &Path) -> Option<Self> {
        let facts = fs::symlink_metadata(path).ok()?;
        let changed = Duration::new(facts.ctime().try_into().ok()?, facts.ctime_nsec().try_into().ok()?);
        let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + changed).ok()?;
        (age > TICK).then(|| Self {
            file: (facts.dev(), facts.ino()),
            size: facts.size(),
            written: (facts.mtime(), facts.mtime_nsec()),
            changed: (facts.ctime(), facts.ctime_nsec()),
        })
    }
}

/// What was read, so that it is not read again for each interface that comes.
#[derive(Debug, Default)]
pub struct Kept {
    programs: Option<(Vec<(PathBuf, Stamp)>, Programs)>,
    objects: BTreeMap<PathBuf, (Stamp, ObjectDigest)>,
}

impl Kept {
    /// Nothing is known.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// What the files say: read only if one was changed since.
    pub fn programs(&mut self, layout: &Layout) -> Programs {
        let stamps = || -> Option<Vec<(PathBuf, Stamp)>> {
            let files = etc::toml_files(&layout.programs()).ok()?;
            files.into_iter().map(|path| Stamp::of(&path).map(|stamp| (path, stamp))).collect()
        };
        // Before they are read: what is changed meanwhile differs next time.
        let now = stamps();
        if let (Some((then, programs)), Some(now)) = (&self.programs, &now)
            && then == now
        {
            return programs.clone();
        }
        let programs = Programs::read(layout);
        self.programs = now.map(|now| (now, programs.clone()));
        programs
    }

    /// The digest of an object that was read, if the file is as it was then.
    pub fn object(&self, path: &Path) -> Option<ObjectDigest> {
        let (then, digest) = self.objects.get(path)?;
        (Stamp::of(path).as_ref() == Some(then)).then_some(*digest)
    }

    /// Reads an object with `read`, and keeps its digest.
    ///
    /// # Errors
    /// That of `read`.
    pub fn read_object<E>(
        &mut self,
        path: &Path,
        read: impl FnOnce() -> Result<ObjectDigest, E>,
    ) -> Result<ObjectDigest, E> {
        let before = Stamp::of(path);
        self.objects.remove(path);
        let digest = read()?;
        if let Some(stamp) = before {
            self.objects.insert(path.to_path_buf(), (stamp, digest));
        }
        Ok(digest)
    }
}

/// What all files say.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    /// Each program with the name of its file, in the order of the files' names.
    pub declared: Vec<(String, Declared)>,
    /// Files that are not used, by name, and why.
    pub bad: BTreeMap<String, String>,
}

impl Programs {
    /// Reads all files. One that is bad counts as unread, and the others are read all the same.
    pub fn read(layout: &Layout) -> Self {
        let mut programs = Self::default();
        let files = match etc::toml_files(&layout.programs()) {
            Ok(files) => files,
            Err(error) => {
                programs.bad.insert(String::new(), error_chain(&error));
                return programs;
            }
        };
        for path in files {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match read(&path, &programs) {
                Ok(declared) => programs.declared.extend(declared.into_iter().map(|program| (name.clone(), program))),
                Err(why) => drop(programs.bad.insert(name, why)),
            }
        }
        programs
    }

    /// The programs of files that could be read.
    pub fn names(&self) -> BTreeSet<(String, AppName)> {
        self.declared.iter().map(|(file, program)| (file.clone(), program.name.clone())).collect()
    }

    /// The files that could not, and those that may be among them if the directory could not be read.
    pub fn unread<'a>(&self, files: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
        let all = self.bad.contains_key("");
        let known = files.into_iter().filter(|file| all || self.bad.contains_key(*file)).map(str::to_owned);
        known.collect()
    }

    /// Objects of bpfd's own store that are named: no app may use them yet.
    pub fn objects(&self, layout: &Layout) -> BTreeSet<ObjectDigest> {
        let in_store = |program: &Declared| match &program.source {
            DeclaredSource::File(path) => Path::new(path).strip_prefix(layout.objects()).ok()?.to_str()?.parse().ok(),
            DeclaredSource::Image(_) => None,
        };
        self.declared.iter().filter_map(|(_, program)| in_store(program)).collect()
    }
}

fn read(path: &Path, before: &Programs) -> Result<Vec<Declared>, String> {
    let text = etc::read(path).map_err(|error| error_chain(&error))?.unwrap_or_default();
    let file = path.display().to_string();
    let programs = programs::read(&text, &file).map_err(|error| error.to_string())?.programs;
    for program in &programs {
        if let Some((other, _)) = before.declared.iter().find(|(_, other)| other.name == program.name) {
            return Err(format!("{file}:{}:1: there is a program `{}` in {other} already", program.line, program.name));
        }
    }
    Ok(programs)
}

/// The bytes of an object that a file names.
///
/// # Errors
/// [`EtcError`].
pub fn object(path: &Path) -> Result<Vec<u8>, EtcError> {
    let at = |fault: EtcFault| EtcError { path: path.to_path_buf(), fault };
    let fails = |error: Errno| at(io::Error::from(error).into());
    let parent = path.parent().unwrap_or(path);
    let directory = OwnedDir::open(parent)?;
    // All of the way is root's, so nobody else makes a link of a part of it now. openat2(2) could refuse links by itself, but
    // `RestrictSUIDSGID=` of systemd.exec(5) takes it away.
    if fs::canonicalize(parent).map_err(|error| at(error.into()))? != parent {
        return Err(fails(Errno::LOOP));
    }
    let file = directory.file(path.file_name().unwrap_or_default()).map_err(|error| at(error.into()))?;
    let file = file.ok_or_else(|| fails(Errno::NOENT))?;
    bytes(file).map_err(at)
}

fn bytes(file: File) -> Result<Vec<u8>, EtcFault> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(EtcFault::NotAFile);
    }
    owned(metadata.uid(), metadata.mode())?;
    let mut bytes = Vec::new();
    file.take(OBJECT_MAX + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > OBJECT_MAX) {
        return Err(
            io::Error::new(io::ErrorKind::FileTooLarge, format!("an object has at most {OBJECT_MAX} bytes")).into()
        );
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits until the stamp of a file tells something.
    fn settled(path: &Path) {
        let limit = std::time::Instant::now() + Duration::from_secs(60);
        while Stamp::of(path).is_none() {
            assert!(std::time::Instant::now() < limit);
            std::thread::yield_now();
        }
    }

    #[test]
    fn an_object_is_read_again_only_if_its_file_was_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.bpf.o");
        let digest = |text: &str| ObjectDigest(bpfd_policy::digest::Digest::of(text.as_bytes()));
        fs::write(&path, "one").unwrap();
        let mut kept = Kept::default();
        settled(&path);
        kept.read_object(&path, || Ok::<_, ()>(digest("one"))).unwrap();
        assert_eq!(kept.object(&path), Some(digest("one")));
        // As long, and as old by what anybody may set.
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "two").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
        settled(&path);
        assert_eq!(kept.object(&path), None);
        kept.read_object(&path, || Err(())).unwrap_err();
        assert_eq!(kept.object(&path), None);
        kept.read_object(&path, || Ok::<_, ()>(digest("two"))).unwrap();
        assert_eq!(kept.object(&path), Some(digest("two")));
        fs::remove_file(&path).unwrap();
        assert_eq!(kept.object(&path), None);
    }
}
