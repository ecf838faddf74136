//! Hears from the kernel when interfaces come, go or change what they run, and has the engine look. It must never look or change
//! anything itself, and never waits on a clock.
//!
//! ```text
//! own namespace     one subscription, opened at the start
//! named ones        one subscription in each that bpfd has links in, opened by the netns worker
//! mount table       a name's namespace comes and goes with a mount (ip-netns(8)): poll(2) on mountinfo tells, see proc(5)
//! directory         the name itself comes before the mount and goes after it: inotify(7) tells
//! snapshots         which names bpfd has links in; whether any of these has lost its name
//! namespaces        one that has lost its name ends
//! ```
//! A socket inside hears of a namespace that has no number in ours (`NETLINK_LISTEN_ALL_NSID` does not), but keeps it alive: it is
//! closed as soon as the name is gone or leads elsewhere.
//!
//! Long because what is heard, and from which namespaces, is read together.

mod looks;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use bpfd_core::ident::KernelId;
use bpfd_core::names::{Netns, NetnsName};
use bpfd_core::watched::{WATCHED_MAX, watched};
use bpfd_sys::netlink::{LinkEvent, LinkWatch};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{AtFlags, CWD, statat};
use rustix::io::{Errno, retry_on_intr};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::causes::error_chain;
use crate::engine::{Changed, EngineHandle, News};
use crate::fail_points;
use crate::kernel::HostKernel;
use crate::worker::Workers;
use crate::worker::netns::Namespaces;
use looks::{Heard, look};

/// Whether events of interfaces are heard. Without them nothing is attached to what comes.
#[derive(Clone, Debug, Default)]
pub struct WatchHealth(Arc<OnceLock<String>>);

impl WatchHealth {
    /// Why they are not, in a sentence.
    pub fn failure(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    fn failed(&self, what: &str, why: &str) {
        let what = format!("interfaces are not watched any more{what}: {why}");
        tracing::error!("{what}; restart bpfd");
        // The first reason counts.
        let _earlier = self.0.set(what);
    }
}

/// Says so if the thread that has it panics.
struct UnlessPanic {
    health: WatchHealth,
    /// What is not watched then.
    what: &'static str,
}

impl Drop for UnlessPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.health.failed(self.what, "the thread that watched them panicked");
        }
    }
}

/// Starts listening; ends with the engine. Names of namespaces are files in `directory`.
pub fn start(engine: EngineHandle<HostKernel>, workers: Workers, directory: PathBuf) -> io::Result<WatchHealth> {
    let own = LinkWatch::open()?;
    own.follow_filters()?;
    own.follow_namespaces()?;
    let mounts = File::open("/proc/self/mountinfo")?;
    let alarm = Arc::new(Alarm(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?));
    let files = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let named = Named { directory, files, workers, listeners: BTreeMap::new(), beyond: 0 };
    let health = WatchHealth::default();
    let told = UnlessPanic { health: health.clone(), what: "" };
    thread::Builder::new().name("watch".to_owned()).spawn(move || {
        if let Err(error) = listen(own, named, &mounts, &alarm, &engine) {
            told.health.failed(told.what, &error.to_string());
        }
    })?;
    Ok(health)
}

/// Says each time that the daemon's own network namespace has other interfaces, or other names of them.
pub fn interfaces(tell: mpsc::Sender<()>, health: WatchHealth) -> io::Result<()> {
    let watch = LinkWatch::open()?;
    let told = UnlessPanic { health, what: " for patterns of programs.d" };
    thread::Builder::new().name("interfaces".to_owned()).spawn(move || {
        if let Err(error) = tell_of_interfaces(watch, &tell) {
            told.health.failed(told.what, &error.to_string());
        }
    })?;
    Ok(())
}

fn tell_of_interfaces(mut watch: LinkWatch, tell: &mpsc::Sender<()>) -> io::Result<()> {
    let mut known: BTreeMap<u32, String> = BTreeMap::new();
    loop {
        if fail_points::fails("interfaces-watch-fails") {
            return Err(io::Error::other("a test asked for it"));
        }
        let mut differs = false;
        while let Some(event) = watch.next_event()? {
            differs |= match event {
                LinkEvent::Changed(row) => known.insert(row.index, row.name.clone()) != Some(row.name),
                LinkEvent::Removed { index, name: _, to: _ } => {
                    known.remove(&index);
                    true
                }
                LinkEvent::Filters { .. } | LinkEvent::NamespaceEnded(_) | LinkEvent::NamespaceNumbered => false,
                LinkEvent::Lost => true,
            };
        }
        if differs {
            match tell.try_send(()) {
                // One that was not received yet will do.
                Ok(()) | Err(TrySendError::Full(())) => {}
                Err(TrySendError::Closed(())) => return Ok(()),
            }
        }
        retry_on_intr(|| poll(&mut [PollFd::new(&watch, PollFlags::IN)], None))?;
    }
}

fn listen(
    mut own: LinkWatch,
    mut named: Named,
    mounts: &File,
    alarm: &Arc<Alarm>,
    engine: &EngineHandle<HostKernel>,
) -> io::Result<()> {
    let waker = Waker::from(alarm.clone());
    let mut snapshots = engine.snapshots();
    let pending = Arc::new(Mutex::new(Heard::default()));
    // What came while the daemon started, nobody tells again.
    let mut news = News::everything();
    let (mut names_may_differ, mut names_changed) = (true, false);
    loop {
        if fail_points::fails("watch-fails") {
            return Err(io::Error::other("a test asked for it"));
        }
        // A new name may be that of a namespace without one.
        let has_nameless = snapshots.borrow().observed.is_anything_nameless();
        heard(&mut own, &Netns::Host, &mut news)?;
        named.heard(&mut news);
        news.everything |= has_nameless && names_changed;
        if std::mem::take(&mut names_may_differ) || names_changed {
            let wanted = watched(&snapshots.borrow_and_update().state);
            named.say_beyond(wanted.beyond.len());
            news.everything |= named.follow(wanted.names, has_nameless);
        }
        names_changed = false;
        look(engine, &pending, std::mem::take(&mut news));
        let changed = pin!(snapshots.changed());
        match changed.poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(Ok(())) => names_may_differ = true,
            Poll::Ready(Err(_engine_has_ended)) => return Ok(()),
            // From here on the next snapshot rings.
            Poll::Pending => names_changed = wait(&own, &named, has_nameless, mounts, alarm)?,
        }
    }
}

/// Until there is anything to read, the mount table changed, or a snapshot was published. Gives whether names of namespaces may lead
/// elsewhere now.
fn wait(own: &LinkWatch, named: &Named, has_nameless: bool, mounts: &File, alarm: &Alarm) -> io::Result<bool> {
    let mut fds = vec![PollFd::new(own, PollFlags::IN), PollFd::new(&alarm.0, PollFlags::IN)];
    let before_names = fds.len();
    // Hosts that run containers mount often: without named links that is no reason to wake up.
    let names_matter = has_nameless || !named.listeners.is_empty();
    if names_matter {
        fds.push(PollFd::new(mounts, PollFlags::PRI));
        fds.push(PollFd::new(&named.files, PollFlags::IN));
    }
    fds.extend(
        named.listeners.values().filter_map(EventListener::watch).map(|watch| PollFd::new(watch, PollFlags::IN)),
    );
    retry_on_intr(|| poll(&mut fds, None))?;
    let rang = |fd: &PollFd<'_>| !fd.revents().is_empty();
    let names = names_matter && fds.iter().skip(before_names).take(2).any(rang);
    drain(&alarm.0)?;
    drain(&named.files)?;
    Ok(names)
}

/// Reads what only had to end a wait.
fn drain(fd: &OwnedFd) -> io::Result<()> {
    // More than the longest event of inotify(7).
    match rustix::io::read(fd, &mut [0; 4096]) {
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Reads what was heard in a namespace.
fn heard(watch: &mut LinkWatch, netns: &Netns, news: &mut News) -> io::Result<()> {
    while let Some(event) = watch.next_event()? {
        match event {
            LinkEvent::Changed(row) => {
                let runs = row.xdp.program().map(|(_, program)| KernelId(program.0));
                news.heard(netns, Changed { index: row.index, name: row.name, runs: Some(runs), to: None });
            }
            LinkEvent::Removed { index, name, to } => {
                let to = to.map(|to| (to.namespace, to.index));
                news.heard(netns, Changed { index, name, runs: None, to });
            }
            LinkEvent::Filters { index } => news.heard_filters(netns, index),
            LinkEvent::NamespaceEnded(number) => news.heard_of_end(number),
            LinkEvent::NamespaceNumbered => news.numbered = true,
            LinkEvent::Lost => (news.everything, news.ends_lost) = (true, *netns == Netns::Host || news.ends_lost),
        }
    }
    Ok(())
}

/// The named namespaces that bpfd has links in.
#[derive(Debug)]
struct Named {
    directory: PathBuf,
    /// The notices of what happens to names in the directory.
    files: OwnedFd,
    workers: Workers,
    /// One for each name that is followed, whether or not there is a namespace.
    listeners: BTreeMap<NetnsName, EventListener>,
    /// How many names were too many when that was last told.
    beyond: usize,
}

/// What a name leads to, and what is heard from there.
#[derive(Debug)]
enum EventListener {
    /// No such name.
    Absent,
    /// A file, and no namespace: `ip netns add` makes the one before the other.
    NotANamespace(FileId),
    /// It is there.
    Listening(FileId, LinkWatch),
    /// It could not be looked at: tried again when anything changes.
    Failed,
}

/// Device and inode. Those of a namespace are not used again while it lives, and our socket keeps it alive.
type FileId = (u64, u64);

impl EventListener {
    fn watch(&self) -> Option<&LinkWatch> {
        match self {
            Self::Listening(_, watch) => Some(watch),
            Self::Absent | Self::NotANamespace(_) | Self::Failed => None,
        }
    }

    fn leads_to(&self, file: Option<FileId>) -> bool {
        match self {
            Self::Absent => file.is_none(),
            Self::NotANamespace(known) | Self::Listening(known, _) => file == Some(*known),
            Self::Failed => false,
        }
    }
}

impl Named {
    /// Reads what was heard in each of them.
    fn heard(&mut self, news: &mut News) {
        for (name, listener) in &mut self.listeners {
            let EventListener::Listening(_, watch) = listener else { continue };
            if let Err(error) = heard(watch, &Netns::Named(name.clone()), news) {
                tracing::warn!(netns = %name, %error, "cannot receive interface events of this network namespace");
                *listener = EventListener::Failed;
                news.everything = true;
            }
        }
    }

    /// Says how many names are too many, when that changes.
    fn say_beyond(&mut self, beyond: usize) {
        if beyond != std::mem::replace(&mut self.beyond, beyond) && beyond > 0 {
            tracing::warn!(
                beyond,
                limit = WATCHED_MAX,
                "too many network namespaces to watch: links in some are updated only with their next change or a start"
            );
        }
    }

    /// Follows these names to where they lead now, and no others; whether that is elsewhere than before.
    fn follow(&mut self, names: BTreeSet<NetnsName>, has_nameless: bool) -> bool {
        self.listeners.retain(|name, _| names.contains(name));
        if has_nameless || !names.is_empty() {
            self.follow_directory();
        }
        // It ends with this round: names change seldom.
        let mut namespaces = Namespaces::new(self.workers.clone(), self.directory.clone());
        let mut moved = false;
        for name in names {
            let file = self.file(&name);
            let before = self.listeners.remove(&name);
            let listener = match before {
                Some(listener) if file.as_ref().is_ok_and(|file| listener.leads_to(*file)) => listener,
                before => {
                    let failed_before = matches!(before, Some(EventListener::Failed));
                    let is_new = before.is_none();
                    // The old namespace is let go before anybody looks.
                    drop(before);
                    let listener = listen_at(&mut namespaces, &name, file).unwrap_or_else(|error| {
                        if !failed_before {
                            tracing::warn!(
                                netns = %name,
                                error = error_chain(&error),
                                "cannot receive interface events of this network namespace"
                            );
                        }
                        EventListener::Failed
                    });
                    moved |= match listener {
                        EventListener::Listening(..) | EventListener::NotANamespace(_) => true,
                        EventListener::Absent => !is_new,
                        EventListener::Failed => !failed_before,
                    };
                    listener
                }
            };
            self.listeners.insert(name, listener);
        }
        moved
    }

    /// Has the kernel tell of its names; asked again for the same directory, it changes nothing. Without a directory there is no
    /// name, and the first one comes with a mount.
    fn follow_directory(&self) {
        let events = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE | WatchFlags::ONLYDIR;
        match inotify::add_watch(&self.files, &self.directory, events) {
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => {
                tracing::warn!(
                    %error,
                    directory = %self.directory.display(),
                    "cannot watch the directory for new network namespaces"
                );
            }
        }
    }

    /// What a name is of now. It is not opened: it may be anything.
    fn file(&self, name: &NetnsName) -> io::Result<Option<FileId>> {
        match statat(CWD, self.directory.join(name.as_str()), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn listen_at(
    namespaces: &mut Namespaces,
    name: &NetnsName,
    file: io::Result<Option<FileId>>,
) -> io::Result<EventListener> {
    let Some(file) = file? else { return Ok(EventListener::Absent) };
    let watch = namespaces.news(name)?;
    Ok(watch.map_or(EventListener::NotANamespace(file), |watch| EventListener::Listening(file, watch)))
}

/// Ends the wait when a snapshot is published.
#[derive(Debug)]
struct Alarm(OwnedFd);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        // It fails only if it rings already, 2^64 - 2 times.
        let _rings = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(directory: PathBuf) -> Named {
        let files = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        // A worker would be this test's own program: whoever starts one fails.
        let workers = Workers::of(PathBuf::from("/nonexistent/bpfd"));
        Named { directory, files, workers, listeners: BTreeMap::new(), beyond: 0 }
    }

    fn numbered(count: usize) -> BTreeSet<NetnsName> {
        (0..count).map(|number| format!("n{number:04}").parse().unwrap()).collect()
    }

    #[test]
    fn the_names_that_are_wanted_are_followed_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let mut named = named(directory.path().to_owned());
        assert!(!named.follow(numbered(44), false), "none is there");
        assert!(named.listeners.keys().eq(&numbered(44)));
        assert!(!named.follow(BTreeSet::new(), false));
        assert_eq!(named.listeners.len(), 0);
    }

    #[test]
    fn a_name_that_cannot_be_looked_at_is_tried_again_and_moves_nothing_twice() {
        let directory = tempfile::tempdir().unwrap();
        let mut named = named(directory.path().to_owned());
        assert!(!named.follow(numbered(1), false), "absent");
        let file = directory.path().join("n0000");
        std::fs::write(&file, "").unwrap();
        assert!(named.follow(numbered(1), false), "it came");
        assert!(matches!(named.listeners.first_key_value(), Some((_, EventListener::Failed))));
        assert!(!named.follow(numbered(1), false), "no better");
        std::fs::remove_file(&file).unwrap();
        assert!(named.follow(numbered(1), false), "it went");
        assert!(matches!(named.listeners.first_key_value(), Some((_, EventListener::Absent))));
    }

    #[test]
    fn a_name_that_comes_or_goes_ends_the_wait() {
        let directory = tempfile::tempdir().unwrap();
        let mut named = named(directory.path().to_owned());
        named.follow(numbered(1), false);
        let rings = |named: &Named| {
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            let rings = poll(&mut [PollFd::new(&named.files, PollFlags::IN)], Some(&now)).unwrap() == 1;
            drain(&named.files).unwrap();
            rings
        };
        assert!(!rings(&named));
        std::fs::write(directory.path().join("n0000"), "").unwrap();
        assert!(rings(&named) && !rings(&named));
        std::fs::remove_file(directory.path().join("n0000")).unwrap();
        assert!(rings(&named) && !rings(&named));
    }
}
