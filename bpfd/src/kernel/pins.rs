//! The pin tree, and the names in it. Held open and locked for life: an open directory keeps the bpffs from being unmounted, which
//! would end every pinned link without a word, and the lock keeps a second bpfd away.
//!
//! ```text
//! <bpffs>/bpfd/v1/                 flock(2) for life
//!     <app uid>/map_<name>         every map of an app
//!     <app uid>/prog_<function>    every program of an app
//!     <app uid>/record             its row, in a frozen map
//!     <app uid>_tmp/               an app that is being pinned, or was when the process died
//!     top/<top uid>/prog           a generation of a chain: its program
//!     top/<top uid>/chain          its frozen record
//!     top/<top uid>_tmp/           as above
//!     top/<top uid>/link           the kernel link that holds it in a tcx chain
//!     top/<top uid>/link_<slot>    a dispatcher's: our own reference to the link of a program of ours in it
//!     clsact/<cookie>_<index>      an empty map: bpfd gave this interface its clsact qdisc
//!     ext/<link uid>/prog          a link's program as it goes into a dispatcher's slot
//!     ext/<link uid>/chain         its frozen record: of which link it is
//!     record/<link uid>            the row of a link, in a frozen map; `_tmp` behind it: one that is being replaced
//!     state                        which database the pins belong to, in a map
//!     link/<link uid>/<n>          the kernel links of an own hook's link; earlier versions: the one kernel link as `link/<link uid>`
//! ```
//! bpffs refuses names with a dot (`bpf_lookup` of kernel/bpf/inode.c: they are reserved), and map names have dots (`.rodata`).
//! A dot is written as `-`, which no map's and no function's name has (`ebpf::names`), so each file has one reading: `map_-rodata`
//! is `.rodata`. This file must never decide what goes: it removes what it is told to.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use bpfd_core::ident::{AppUid, GenerationUid, LinkUid, SlotUid};
use bpfd_core::kernel::StepError;
use bpfd_sys::bpffs::{Dir, DirLock};

use super::failed;

/// Bytes of a file name (`NAME_MAX` of include/uapi/linux/limits.h).
const NAME_MAX: usize = 255;
/// How long to wait for an earlier bpfd's lock. A child that it forked just before it died, and that has not run its own binary
/// yet, holds a copy for a moment.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const MAP: &str = "map_";
const PROGRAM: &str = "prog_";
const UNFINISHED: &str = "_tmp";

/// File of an app's record.
pub(crate) const APP_RECORD: &str = "record";
/// File of the state map.
pub(crate) const STATE: &str = "state";

/// File of a generation's program.
pub(crate) const CHAIN_PROGRAM: &str = "prog";
/// File of a generation's record.
pub(crate) const CHAIN_RECORD: &str = "chain";

/// File of the kernel link that holds a generation.
pub(crate) const CHAIN_LINK: &str = "link";

/// The open tree.
#[derive(Debug)]
pub(crate) struct Pins {
    pub(crate) apps: Dir,
    pub(crate) generations: Dir,
    pub(crate) links: Dir,
    pub(crate) copies: Dir,
    pub(crate) records: Dir,
    pub(crate) qdiscs: Dir,
    /// The bpffs itself: libxdp's directory is beside ours.
    pub(crate) bpffs: Dir,
    #[expect(dead_code, reason = "held for its lock")]
    lock: DirLock,
}

/// Why the tree cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PinsError {
    #[error("not a bpffs")]
    NotBpffs,
    #[error("another bpfd uses it")]
    Busy,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Pins {
    /// Opens the tree below a mounted bpffs, makes what is missing of it and takes its lock.
    pub(crate) fn open(bpffs: &Path) -> Result<Self, PinsError> {
        let root = Dir::open(bpffs)?;
        if !root.is_bpffs()? {
            return Err(PinsError::NotBpffs);
        }
        let apps = root.make_or_open("bpfd")?.make_or_open("v1")?;
        let lock = apps.lock(Instant::now() + LOCK_WAIT)?.ok_or(PinsError::Busy)?;
        let (generations, links) = (apps.make_or_open("top")?, apps.make_or_open("link")?);
        let (copies, records) = (apps.make_or_open("ext")?, apps.make_or_open("record")?);
        let qdiscs = apps.make_or_open("clsact")?;
        Ok(Self { apps, generations, links, copies, records, qdiscs, bpffs: root, lock })
    }

    /// Whole and half-made app directories. Names that are neither are not ours and are left alone.
    pub(crate) fn app_names(&self) -> io::Result<(Vec<AppUid>, Vec<AppUid>)> {
        split(&self.apps)
    }

    /// Whole and half-made generations.
    pub(crate) fn generation_names(&self) -> io::Result<(Vec<GenerationUid>, Vec<GenerationUid>)> {
        split(&self.generations)
    }

    /// Whole and half-made copies for slots.
    pub(crate) fn copy_names(&self) -> io::Result<(Vec<SlotUid>, Vec<SlotUid>)> {
        split(&self.copies)
    }

    /// Records of links, and those that were not finished.
    pub(crate) fn record_names(&self) -> io::Result<(Vec<LinkUid>, Vec<LinkUid>)> {
        split(&self.records)
    }

    /// Whole and half-made links of own hooks.
    pub(crate) fn link_names(&self) -> io::Result<(Vec<LinkUid>, Vec<LinkUid>)> {
        split(&self.links)
    }
}

/// Makes `parent/<name>` with what `fill` pins into it, whole or not at all. A half-made one of an earlier process goes first.
pub(crate) fn make_whole(
    parent: &Dir,
    name: &str,
    fill: impl FnOnce(&Dir) -> Result<(), StepError>,
) -> Result<(), StepError> {
    let doing = || format!("make the pin directory `{name}`");
    let unfinished = unfinished(name);
    remove_tree(parent, &unfinished).map_err(failed(doing))?;
    let made = parent.make(&unfinished).map_err(failed(doing))?;
    let whole = fill(&made).and_then(|()| parent.rename(&unfinished, parent, name).map_err(failed(doing)));
    match (whole, remove_tree(parent, &unfinished)) {
        (Ok(()), _nothing_left) => Ok(()),
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(left)) => {
            tracing::warn!(
                directory = unfinished,
                error = %left,
                "cannot remove an incomplete pin directory; the next repair removes it"
            );
            Err(error)
        }
    }
}

/// Pins `object` as `name`, in the place of what is there.
pub(crate) fn replace(dir: &Dir, name: &str, object: BorrowedFd<'_>) -> io::Result<()> {
    let unfinished = unfinished(name);
    match dir.pin(&unfinished, object) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            dir.unlink(&unfinished)?;
            dir.pin(&unfinished, object)?;
        }
        pinned => pinned?,
    }
    dir.rename(&unfinished, dir, name).or_else(|error| dir.unlink(&unfinished).and(Err(error)))
}

/// Removes what `replace` left when the process died.
pub(crate) fn remove_unreplaced(dir: &Dir, name: &str) -> io::Result<()> {
    dir.unlink(&unfinished(name)).or_else(absent_is_fine)
}

/// Removes a directory of pins, whole and half-made, if it is there. It is renamed first: a death in the midst leaves a half-made
/// one, never one that looks whole and is not.
pub(crate) fn remove_whole(parent: &Dir, name: &str) -> io::Result<()> {
    let unfinished = unfinished(name);
    remove_tree(parent, &unfinished)?;
    match parent.rename(name, parent, &unfinished) {
        Ok(()) => remove_tree(parent, &unfinished),
        Err(error) => absent_is_fine(error),
    }
}

/// Removes a half-made directory alone.
pub(crate) fn remove_unfinished(parent: &Dir, name: &str) -> io::Result<()> {
    remove_tree(parent, &unfinished(name))
}

/// Removes a directory and the pins in it; nothing if there is none.
pub(crate) fn remove_tree(parent: &Dir, name: &str) -> io::Result<()> {
    if !parent.exists(name)? {
        return Ok(());
    }
    let dir = parent.subdir(name)?;
    dir.names()?.iter().try_for_each(|name| dir.unlink(name))?;
    parent.remove_dir(name)
}

pub(crate) fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// What a file in an app's directory holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum AppPin {
    /// The map of that name.
    Map(String),
    /// The program of that function.
    Program(String),
}

impl AppPin {
    /// Its file name; `None` if a file name cannot be that long.
    pub(crate) fn file_name(&self) -> Option<String> {
        let (kind, name) = match self {
            Self::Map(name) => (MAP, name),
            Self::Program(function) => (PROGRAM, function),
        };
        Some(format!("{kind}{}", name.replace('.', "-"))).filter(|file| file.len() <= NAME_MAX)
    }

    /// What a file name says; `None` for one that bpfd does not write.
    pub(crate) fn read(file: &str) -> Option<Self> {
        let name = |encoded: &str| encoded.replace('-', ".");
        let known = |encoded: &&str| !encoded.is_empty() && !encoded.contains('.');
        let map = file.strip_prefix(MAP).filter(known).map(|encoded| Self::Map(name(encoded)));
        map.or_else(|| file.strip_prefix(PROGRAM).filter(known).map(|encoded| Self::Program(name(encoded))))
    }
}

/// Where a map of an app is pinned, below the pin root; `None` for a name that cannot be pinned.
pub(crate) fn map_path(pins: &Path, app: AppUid, map: &str) -> Option<PathBuf> {
    AppPin::Map(map.to_owned()).file_name().map(|file| pins.join(app.to_string()).join(file))
}

fn unfinished(name: &str) -> String {
    format!("{name}{UNFINISHED}")
}

fn split<T: FromStr + ToString>(dir: &Dir) -> io::Result<(Vec<T>, Vec<T>)> {
    let names = dir.names()?;
    let whole = names.iter().filter_map(|name| uid(name)).collect();
    let half = names.iter().filter_map(|name| uid(name.strip_suffix(UNFINISHED)?)).collect();
    Ok((whole, half))
}

/// The uid that a name is, in the one spelling that bpfd writes.
fn uid<T: FromStr + ToString>(name: &str) -> Option<T> {
    name.parse::<T>().ok().filter(|uid| uid.to_string() == name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_name_has_no_dot_and_reads_back() {
        for (pin, file) in [
            (AppPin::Map(".rodata".into()), "map_-rodata"),
            (AppPin::Map("packets".into()), "map_packets"),
            (AppPin::Map(".data.per_cpu".into()), "map_-data-per_cpu"),
            (AppPin::Program("count".into()), "prog_count"),
            (AppPin::Program("map_x".into()), "prog_map_x"),
            (AppPin::Program("f.isra.0".into()), "prog_f-isra-0"),
            (AppPin::Program("f$1".into()), "prog_f$1"),
        ] {
            assert_eq!(pin.file_name().unwrap(), file);
            assert_eq!(AppPin::read(file), Some(pin));
        }
    }

    #[test]
    fn a_name_that_no_file_can_have_is_told() {
        assert!(AppPin::Program("f".repeat(250)).file_name().is_some());
        assert_eq!(AppPin::Program("f".repeat(251)).file_name(), None);
    }

    #[test]
    fn files_that_bpfd_does_not_write_are_not_read() {
        for file in ["", "map_", "prog_", "link_x", "map", "map_a.b", "x", "prog-count"] {
            assert_eq!(AppPin::read(file), None, "{file:?}");
        }
    }

    #[test]
    fn a_directory_is_ours_only_in_our_spelling() {
        let ours = "67e5504410b1426f9247bb680e5fe0c8";
        assert_eq!(uid::<AppUid>(ours).unwrap().to_string(), ours);
        for other in ["67e55044-10b1-426f-9247-bb680e5fe0c8", "67E5504410B1426F9247BB680E5FE0C8", "top", "x_tmp"] {
            assert_eq!(uid::<AppUid>(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn two_names_never_share_a_file(a in "[A-Za-z0-9_.]{1,40}", b in "[A-Za-z0-9_.]{1,40}") {
            let (map, program) = (AppPin::Map(a.clone()), AppPin::Program(b.clone()));
            prop_assert_eq!(AppPin::read(&map.file_name().unwrap()), Some(map.clone()));
            prop_assert_ne!(map.file_name(), program.file_name());
            prop_assert_eq!(map.file_name() == AppPin::Map(b.clone()).file_name(), a == b);
        }
    }
}
