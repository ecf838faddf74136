//! libxdp's own directory: its lock, and the pins by which it and xdp-loader find the programs of a dispatcher
//! (`lib/libxdp/libxdp.c`: `get_bpffs_dir`, `xdp_lock_acquire`, `xdp_multiprog__pin`, `xdp_multiprog__unpin`).
//!
//! ```text
//! <bpffs>/xdp/                                        flock(2) while pins change
//!     dispatch-<ifindex>-<dispatcher id>/prog<i>-prog     the program of slot i
//!     dispatch-<ifindex>-<dispatcher id>/prog<i>-link     what keeps it there
//! ```
//! An interface's index means nothing in another network namespace, and this directory is shared by all: a directory is known by
//! its dispatcher's number alone. This file must never touch a directory but those it is told the number of, nor put anything else
//! into one: libxdp removes it by name and then expects it to be empty.

use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use bpfd_core::ident::KernelId;
use bpfd_core::kernel::StepError;
use bpfd_sys::bpffs::{Dir, DirLock};

use super::dispatcher::HeldSlot;
use crate::kernel::chain::generation::present_dir;
use crate::kernel::failed;
use crate::kernel::pins::remove_tree;

const DIRECTORY: &str = "xdp";

/// Peers hold the lock for milliseconds; one that holds it longer is stuck, and waiting would hold up every other change.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// How long a peer that took a dispatcher off may need for its pins: libxdp takes it off first, and then locks and removes them, and
/// fails if they are gone (`xdp_multiprog__detach`). Waited out only for pins that nobody removes.
const PEERS_TURN: Duration = Duration::from_millis(500);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(10);

/// The directory, locked until this is dropped or the process dies.
#[derive(Debug)]
pub(crate) struct Shared {
    dir: Dir,
    #[expect(dead_code, reason = "held for its lock")]
    lock: DirLock,
}

/// Locks the directory, which is made if there is none. iproute2 makes a link to `tc` of it where it comes first
/// (`bpf_gen_hierarchy` of iproute2's lib/bpf_legacy.c), and libxdp follows that.
pub(crate) fn lock(bpffs: &Dir) -> Result<Shared, StepError> {
    let doing = || "lock libxdp's directory `xdp` on the bpffs";
    let dir = bpffs.make_or_follow(DIRECTORY).map_err(failed(doing))?;
    let lock = dir.lock(Instant::now() + LOCK_WAIT).map_err(failed(doing))?;
    let busy = || StepError::Call { doing: doing().to_owned(), errno: "another process holds it".to_owned() };
    Ok(Shared { lock: lock.ok_or_else(busy)?, dir })
}

impl Shared {
    /// Pins the slots of a dispatcher, all or none.
    pub(crate) fn pin(&self, ifindex: u32, dispatcher: KernelId, slots: &[HeldSlot]) -> Result<(), StepError> {
        let name = format!("dispatch-{ifindex}-{dispatcher}");
        let pinned = self.fill(&name, slots);
        pinned.or_else(|error| {
            remove_tree(&self.dir, &name).and(Err(error)).map_err(failed(|| format!("pin the slots of `{name}`")))
        })
    }

    fn fill(&self, name: &str, slots: &[HeldSlot]) -> io::Result<()> {
        let dir = self.dir.make(name)?;
        slots.iter().try_for_each(|HeldSlot { index, program, link, ours: _ }| {
            dir.pin(&format!("prog{index}-prog"), program.as_fd())?;
            dir.pin(&format!("prog{index}-link"), link.as_fd())
        })
    }

    /// Removes the pins of a dispatcher; nothing if there are none.
    pub(crate) fn unpin(&self, dispatcher: KernelId) -> io::Result<()> {
        self.pins(dispatcher)?.iter().try_for_each(|name| remove_tree(&self.dir, name))
    }

    fn pins(&self, dispatcher: KernelId) -> io::Result<Vec<String>> {
        Ok(self.dir.names()?.into_iter().filter(|name| number(name) == Some(dispatcher)).collect())
    }
}

/// The pins of a dispatcher on an interface of that index, if there are any. They are read without the lock: what they hold is asked of
/// the kernel.
pub(crate) fn directory(bpffs: &Dir, ifindex: u32, dispatcher: KernelId) -> io::Result<Option<Dir>> {
    let shared = match bpffs.follow(DIRECTORY) {
        Ok(shared) => shared,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    present_dir(shared.subdir(&format!("dispatch-{ifindex}-{dispatcher}")))
}

/// Removes the pins of a dispatcher that nothing runs any more, under the lock, unless a peer is about to. A bpffs without libxdp's
/// directory has none.
pub(crate) fn forget(bpffs: &Dir, dispatcher: KernelId) -> Result<(), StepError> {
    let doing = || format!("remove libxdp's pins of dispatcher {dispatcher}");
    if !bpffs.exists(DIRECTORY).map_err(failed(doing))? {
        return Ok(());
    }
    let until = Instant::now() + PEERS_TURN;
    loop {
        let shared = lock(bpffs)?;
        match shared.pins(dispatcher).map_err(failed(doing))?.as_slice() {
            [] => return Ok(()),
            [_, ..] if Instant::now() >= until => return shared.unpin(dispatcher).map_err(failed(doing)),
            [_, ..] => drop(shared),
        }
        thread::sleep(LOOK);
    }
}

/// The dispatcher that a directory is of; `None` for a name that libxdp would not write.
fn number(name: &str) -> Option<KernelId> {
    let (ifindex, program) = name.strip_prefix("dispatch-")?.split_once('-')?;
    let number = |text: &str| text.parse::<u32>().ok().filter(|number| number.to_string() == text);
    number(ifindex).and(number(program)).map(KernelId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_known_by_its_dispatchers_number() {
        assert_eq!(number("dispatch-4-1234"), Some(KernelId(1234)));
        for other in
            ["dispatch-4", "dispatch-4-", "dispatch--4", "dispatch-4-01", "dispatch-4-1-1", "prog-test-link-1-7", "x"]
        {
            assert_eq!(number(other), None, "{other}");
        }
    }

    /// A directory like libxdp's, with the pins of dispatcher 7.
    fn with_pins() -> (tempfile::TempDir, Dir, std::path::PathBuf) {
        let scratch = tempfile::tempdir().unwrap();
        let pins = scratch.path().join("xdp/dispatch-2-7");
        std::fs::create_dir_all(&pins).unwrap();
        std::fs::write(pins.join("prog0-link"), "").unwrap();
        let dir = Dir::open(scratch.path()).unwrap();
        (scratch, dir, pins)
    }

    #[test]
    fn a_peer_that_took_a_dispatcher_off_removes_its_pins_itself() {
        let (_scratch, dir, pins) = with_pins();
        let begun = std::sync::Barrier::new(2);
        thread::scope(|scope| {
            let peer = scope.spawn(|| {
                begun.wait();
                // It has taken it off, and has yet to lock.
                thread::sleep(5 * LOOK);
                let shared = lock(&dir).unwrap();
                std::fs::remove_file(pins.join("prog0-link")).and_then(|()| std::fs::remove_dir(&pins)).unwrap();
                drop(shared);
            });
            begun.wait();
            forget(&dir, KernelId(7)).unwrap();
            peer.join().unwrap();
        });
        assert!(!pins.exists());
    }

    #[test]
    fn pins_that_nobody_removes_go() {
        let (_scratch, dir, pins) = with_pins();
        forget(&dir, KernelId(8)).unwrap();
        assert!(pins.exists(), "another's");
        forget(&dir, KernelId(7)).unwrap();
        assert!(!pins.exists());
    }

    #[test]
    fn the_directory_may_be_a_link_on_the_same_filesystem() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir(scratch.path().join("tc")).unwrap();
        std::os::unix::fs::symlink("tc", scratch.path().join("xdp")).unwrap();
        let dir = Dir::open(scratch.path()).unwrap();
        drop(lock(&dir).unwrap());
        std::fs::remove_file(scratch.path().join("xdp")).unwrap();
        std::os::unix::fs::symlink("/proc", scratch.path().join("xdp")).unwrap();
        assert!(lock(&dir).is_err(), "elsewhere");
    }
}
