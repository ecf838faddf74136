//! Network namespaces: the worker enters one, opens a route socket there and hands it over, so that no thread of the daemon ever
//! changes its namespace. What the kernel does for the namespace of the calling thread alone, the tcx chains, it does there itself. The
//! socket belongs to the namespace it was opened in, for good, and keeps it alive: one for steps is held
//! no longer than a step takes, one for news no longer than the namespace has its name.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bpfd_core::hook::InterfaceId;
use bpfd_core::names::{Netns, NetnsName};
use bpfd_sys::bpf::{
    Direction, LinkId, Neighbour, Position, ProgId, TcxChain, TcxEntry, link_create_tcx, prog_query_tcx,
};
use bpfd_sys::caps::{self, Cap};
use bpfd_sys::channel::Channel;
use bpfd_sys::netlink::{LinkWatch, Route};
use bpfd_sys::netns;
use bpfd_sys::worker::{Identity, Limits, Spec, Stderr};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::numbers::{self, Became, Numbers};
use super::{Failure, Lasting, Workers, answer_calls};

pub(super) const KIND: &str = "netns";

/// Opening a socket takes microseconds; this ends a worker that hangs.
const LIMIT: Duration = Duration::from_secs(10);

/// A namespace that was looked up: its interfaces can be seen and changed.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// Its cookie, never used again over a boot.
    pub(crate) cookie: u64,
    /// Its interfaces.
    pub(crate) route: Route,
}

/// What a name of a namespace led to.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// It is there.
    Found(Namespace),
    /// No such name.
    Absent,
    /// The name is there and is no namespace: a file that was left behind, or a mount that this process does not see.
    NotANamespace,
}

/// The daemon's side.
#[derive(Debug)]
pub(crate) struct Namespaces {
    directory: PathBuf,
    worker: Lasting,
    numbers: Numbers,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Request {
    Own,
    Named {
        directory: PathBuf,
        name: NetnsName,
    },
    News {
        directory: PathBuf,
        name: NetnsName,
    },
    /// Give it a number in the daemon's own, if it has this cookie. Which has it then?
    Number {
        directory: PathBuf,
        name: NetnsName,
        cookie: u64,
    },
    /// Which number has it in this one?
    NumberIn {
        directory: PathBuf,
        seen_from: Netns,
        of: Netns,
    },
    Tcx {
        directory: PathBuf,
        netns: Netns,
        hook: TcxHook,
        work: TcxWork,
    },
}

/// A tc hook of an interface.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct TcxHook {
    netns_cookie: u64,
    index: u32,
    egress: bool,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum TcxWork {
    /// What is there?
    Look,
    /// The program of the request comes, if the chain is at this revision.
    Join { place: Beside, revision: u64 },
}

/// A place in a tcx chain, beside a link by its number.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Beside {
    /// After all.
    Last,
    /// Just before it.
    Before(u32),
    /// Just after it.
    After(u32),
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Found { cookie: u64 },
    Chain { revision: u64, entries: Vec<(u32, Option<u32>)> },
    Joined,
    Numbered { number: Option<u32> },
    Absent,
    NotANamespace,
    Failed(Failure),
}

impl Namespaces {
    /// Named ones are looked up in `directory`.
    pub(crate) fn new(workers: Workers, directory: PathBuf) -> Self {
        Self::knowing(workers, directory, Numbers::default())
    }

    /// The same, with what is known of their numbers.
    pub(crate) fn knowing(workers: Workers, directory: PathBuf, numbers: Numbers) -> Self {
        // A debug build's binary maps some hundred MB; nothing here depends on foreign bytes.
        let limits = Limits { address_space: 1 << 30, cpu_seconds: u64::MAX, open_files: 32, file_size: 0, wall: None };
        let spec = Spec { kind: KIND.to_owned(), limits, identity: Identity::Same, stderr: Stderr::Keep };
        Self { directory, worker: Lasting::new(workers, spec, LIMIT), numbers }
    }

    /// Looks one up.
    pub(crate) fn look_up(&mut self, netns: &Netns) -> io::Result<Lookup> {
        let request = match netns {
            Netns::Host => Request::Own,
            Netns::Named(name) => Request::Named { directory: self.directory.clone(), name: name.clone() },
            Netns::Nameless(_) => return Ok(Lookup::Absent),
        };
        let (answer, fds) = self.worker.call(&request).map_err(io::Error::other)?;
        match (answer, fds.into_iter().next()) {
            (Answer::Found { cookie }, Some(fd)) => Ok(Lookup::Found(Namespace { cookie, route: Route::from_fd(fd)? })),
            (Answer::Found { .. }, None) => Err(io::Error::other("the worker found a namespace and sent no socket")),
            (Answer::Absent, _) => Ok(Lookup::Absent),
            (Answer::NotANamespace, _) => Ok(Lookup::NotANamespace),
            (Answer::Failed(failure), _) => Err(failure.into()),
            (Answer::Chain { .. } | Answer::Joined | Answer::Numbered { .. }, _) => Err(other_question()),
        }
    }

    /// Gives one a number in the daemon's own namespace, so that it can be looked into when its name is gone. Asked for once.
    pub(crate) fn number(&mut self, name: &NetnsName, cookie: u64) -> io::Result<()> {
        if self.numbers.of(cookie).is_some() {
            return Ok(());
        }
        let request = Request::Number { directory: self.directory.clone(), name: name.clone(), cookie };
        match self.worker.call(&request).map_err(io::Error::other)?.0 {
            Answer::Numbered { number: Some(number) } => {
                self.numbers.learn(cookie, number);
                Ok(())
            }
            Answer::Numbered { number: None } | Answer::Absent | Answer::NotANamespace => Ok(()),
            Answer::Failed(failure) => Err(failure.into()),
            Answer::Found { .. } | Answer::Chain { .. } | Answer::Joined => Err(other_question()),
        }
    }

    /// The number that one has in the daemon's own, if it has one: asked for until it has.
    pub(crate) fn own_number(&mut self, of: &Netns, cookie: u64) -> io::Result<Option<u32>> {
        if let Some(number) = self.numbers.of(cookie) {
            return Ok(Some(number));
        }
        let number = self.number_in(&Netns::Host, of)?;
        if let Some(number) = number {
            self.numbers.learn(cookie, number);
        }
        Ok(number)
    }

    /// What became of one that no name leads to, by the numbers that there are in the daemon's own.
    pub(crate) fn became(&self, cookie: u64, there: &[u32]) -> Became {
        self.numbers.became(cookie, there)
    }

    /// The number that one has in another one, if it has one there, and both have their names.
    pub(crate) fn number_in(&mut self, seen_from: &Netns, of: &Netns) -> io::Result<Option<u32>> {
        let directory = self.directory.clone();
        let request = Request::NumberIn { directory, seen_from: seen_from.clone(), of: of.clone() };
        match self.worker.call(&request).map_err(io::Error::other)?.0 {
            Answer::Numbered { number } => Ok(number),
            Answer::Absent | Answer::NotANamespace => Ok(None),
            Answer::Failed(failure) => Err(failure.into()),
            Answer::Found { .. } | Answer::Chain { .. } | Answer::Joined => Err(other_question()),
        }
    }

    /// A subscription to what happens to the interfaces of a named one; `None` if no namespace has this name.
    pub(crate) fn news(&mut self, name: &NetnsName) -> io::Result<Option<LinkWatch>> {
        let request = Request::News { directory: self.directory.clone(), name: name.clone() };
        let (answer, fds) = self.worker.call(&request).map_err(io::Error::other)?;
        match (answer, fds.into_iter().next()) {
            (Answer::Found { .. }, Some(fd)) => {
                let watch = LinkWatch::from_fd(fd)?;
                watch.follow_filters()?;
                Ok(Some(watch))
            }
            (Answer::Found { .. }, None) => Err(io::Error::other("the worker found a namespace and sent no socket")),
            (Answer::Absent | Answer::NotANamespace, _) => Ok(None),
            (Answer::Failed(failure), _) => Err(failure.into()),
            (Answer::Chain { .. } | Answer::Joined | Answer::Numbered { .. }, _) => Err(other_question()),
        }
    }

    /// The tcx chain of an interface; `None` if no namespace with this cookie has the name, or the interface is gone.
    pub(crate) fn tcx_chain(
        &mut self,
        netns: &Netns,
        interface: InterfaceId,
        direction: Direction,
    ) -> io::Result<Option<TcxChain>> {
        let request = self.tcx((netns, interface, direction), TcxWork::Look);
        match self.worker.call(&request).map_err(io::Error::other)? {
            (Answer::Chain { revision, entries }, _) => {
                let entry =
                    |(program, link): (u32, Option<u32>)| TcxEntry { program: ProgId(program), link: link.map(LinkId) };
                Ok(Some(TcxChain { revision, entries: entries.into_iter().map(entry).collect() }))
            }
            (Answer::Absent | Answer::NotANamespace, _) => Ok(None),
            (Answer::Failed(failure), _) if failure.errno == Some(Errno::NODEV.raw_os_error()) => Ok(None),
            (Answer::Failed(failure), _) => Err(failure.into()),
            (Answer::Found { .. } | Answer::Joined | Answer::Numbered { .. }, _) => Err(other_question()),
        }
    }

    /// Puts a program into the tcx chain of an interface; gives the link that holds it there. `ESTALE` if the chain is not at this revision
    /// any more, `ENODEV` if the interface is gone.
    pub(crate) fn join_tcx(
        &mut self,
        hook: (&Netns, InterfaceId, Direction),
        program: BorrowedFd<'_>,
        place: Beside,
        revision: u64,
    ) -> io::Result<OwnedFd> {
        let request = self.tcx(hook, TcxWork::Join { place, revision });
        let (answer, fds) = self.worker.call_with(&request, &[program]).map_err(io::Error::other)?;
        match (answer, fds.into_iter().next()) {
            (Answer::Joined, Some(link)) => Ok(link),
            (Answer::Absent | Answer::NotANamespace, _) => Err(Errno::NODEV.into()),
            (Answer::Failed(failure), _) => Err(failure.into()),
            (Answer::Joined | Answer::Found { .. } | Answer::Chain { .. } | Answer::Numbered { .. }, _) => {
                Err(other_question())
            }
        }
    }

    fn tcx(&self, (netns, interface, direction): (&Netns, InterfaceId, Direction), work: TcxWork) -> Request {
        let InterfaceId { netns_cookie, index } = interface;
        let hook = TcxHook { netns_cookie, index, egress: direction == Direction::Egress };
        Request::Tcx { directory: self.directory.clone(), netns: netns.clone(), hook, work }
    }

    /// Every name there is. Files whose names cannot be one are left out: nobody can ask for them.
    pub(crate) fn names(&self) -> io::Result<Vec<NetnsName>> {
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let names = entries.map(|entry| Ok(entry?.file_name().to_str().and_then(|name| name.parse().ok())));
        names.filter_map(Result::transpose).collect()
    }
}

fn other_question() -> io::Error {
    io::Error::other("the worker answered another question")
}

/// The worker's side. It keeps what entering a namespace takes, and CAP_NET_ADMIN, because the kernel asks for it of whoever opened
/// the socket as well as of whoever uses it (`__netlink_ns_capable` of net/netlink/af_netlink.c).
pub(super) fn serve(channel: &Channel) -> Result<(), String> {
    caps::keep_only(&[Cap::SysAdmin, Cap::NetAdmin]).map_err(|error| error.to_string())?;
    answer_calls(channel, |request, fds| match found(&request, fds.first().map(AsFd::as_fd)) {
        Ok((answer, found)) => (answer, found.into_iter().collect()),
        Err(error) => (Answer::Failed(error.into()), Vec::new()),
    })
}

fn found(request: &Request, program: Option<BorrowedFd<'_>>) -> io::Result<(Answer, Option<OwnedFd>)> {
    let netns = match request {
        Request::Own | Request::Tcx { netns: Netns::Host, .. } | Request::NumberIn { of: Netns::Host, .. } => {
            netns::Netns::current()?
        }
        Request::NumberIn { of: Netns::Nameless(_), .. } => return Ok((Answer::Absent, None)),
        Request::Tcx { netns: Netns::Nameless(_), .. } => return Ok((Answer::Absent, None)),
        Request::Named { directory, name }
        | Request::Number { directory, name, .. }
        | Request::NumberIn { directory, of: Netns::Named(name), .. }
        | Request::News { directory, name }
        | Request::Tcx { directory, netns: Netns::Named(name), .. } => match open(directory, name) {
            Ok(netns) => netns,
            Err(Errno::NOENT) => return Ok((Answer::Absent, None)),
            Err(Errno::INVAL | Errno::NOTTY | Errno::LOOP | Errno::ISDIR) => return Ok((Answer::NotANamespace, None)),
            Err(error) => return Err(error.into()),
        },
    };
    let cookie =
        netns.cookie()?.ok_or_else(|| io::Error::other("needs Linux 5.14 for cookies of network namespaces"))?;
    let found = || Answer::Found { cookie };
    match request {
        Request::Own | Request::Named { .. } => Ok((found(), Some(netns.within(Route::open)??.into_fd()))),
        Request::News { .. } => Ok((found(), Some(netns.within(LinkWatch::open_short)??.into_fd()))),
        // Its name leads elsewhere by now.
        Request::Number { cookie: asked, .. } if *asked != cookie => Ok((Answer::Absent, None)),
        Request::Number { .. } => {
            let route = Route::open()?;
            route.give_number(netns.as_fd(), numbers::given(cookie))?;
            Ok((Answer::Numbered { number: route.number_of(netns.as_fd())? }, None))
        }
        Request::NumberIn { directory, seen_from, .. } => {
            let from = match seen_from {
                // It may have lost its name meanwhile.
                Netns::Named(name) => match open(directory, name) {
                    Ok(netns) => netns,
                    Err(_) => return Ok((Answer::Absent, None)),
                },
                Netns::Host | Netns::Nameless(_) => netns::Netns::current()?,
            };
            let number = from.within(Route::open)??.number_of(netns.as_fd())?;
            Ok((Answer::Numbered { number }, None))
        }
        // Its name leads elsewhere by now.
        Request::Tcx { hook, .. } if hook.netns_cookie != cookie => Ok((Answer::Absent, None)),
        Request::Tcx { hook, work, .. } => netns.within(|| tcx(*hook, *work, program))?,
    }
}

fn tcx(hook: TcxHook, work: TcxWork, program: Option<BorrowedFd<'_>>) -> io::Result<(Answer, Option<OwnedFd>)> {
    let TcxHook { netns_cookie: _, index, egress } = hook;
    let direction = if egress { Direction::Egress } else { Direction::Ingress };
    match work {
        TcxWork::Look => {
            let TcxChain { revision, entries } = prog_query_tcx(index, direction)?;
            let entry = |TcxEntry { program, link }: TcxEntry| (program.0, link.map(|link| link.0));
            Ok((Answer::Chain { revision, entries: entries.into_iter().map(entry).collect() }, None))
        }
        TcxWork::Join { place, revision } => {
            let place = match place {
                Beside::Last => Position::Last,
                Beside::Before(link) => Position::Before(Neighbour::LinkId(LinkId(link))),
                Beside::After(link) => Position::After(Neighbour::LinkId(LinkId(link))),
            };
            let program = program.ok_or_else(|| io::Error::other("no program to attach was sent"))?;
            let link = link_create_tcx(program, index, direction, place, Some(revision))?;
            Ok((Answer::Joined, Some(link)))
        }
    }
}

/// One component below a directory of the daemon's choice, never through a symbolic link.
fn open(directory: &Path, name: &NetnsName) -> Result<netns::Netns, Errno> {
    let directory =
        rustix::fs::openat(CWD, directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // Not blocking: the name may be a fifo.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name.as_str(), flags, Mode::empty()).map_err(|errno| match errno {
        // A namespace can be read by everybody (mode 0444, fs/nsfs.c); a file of `ip netns add` that leads to none yet, by nobody.
        Errno::ACCESS => Errno::INVAL,
        errno => errno,
    })?;
    netns::Netns::from_fd(file).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
