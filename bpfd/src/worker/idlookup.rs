//! Kernel objects by number, which takes CAP_SYS_ADMIN: the worker has it, and may do little else with it. bpfd's own objects are
//! always opened by their pins; this is for what others put on a hook.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use bpfd_sys::bpf::{
    AttachType, BtfId, LinkId, LinkInfo, LinkKind, MapId, ProgId, btf_by_id, link_by_id, link_ids, link_info,
    map_by_id, prog_by_id,
};
use bpfd_sys::channel::Channel;
use bpfd_sys::confine;
use bpfd_sys::worker::{Identity, Limits, Spec, Stderr};
use serde::{Deserialize, Serialize};

use super::{Failure, Lasting, Workers, answer_calls};
use crate::causes::error_chain;

pub(super) const KIND: &str = "idlookup";

/// A look-up takes microseconds, a walk over all links of a busy host milliseconds.
const LIMIT: Duration = Duration::from_secs(10);

/// The daemon's side.
#[derive(Debug)]
pub struct IdLookup(Lasting);

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Request {
    Program(u32),
    Map(u32),
    Link(u32),
    Btf(u32),
    XdpLink { program: u32 },
    Replacements { target: u32 },
}

/// A program in the place of a function of another one.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Replacement {
    /// The bpf_link that keeps it there.
    pub link: u32,
    /// The program.
    pub program: u32,
    /// The function: a type of the target's BTF.
    pub function: u32,
}

/// More than a dispatcher has functions are not listed.
const REPLACEMENTS: usize = 64;

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Found,
    Link(u32),
    Replacements(Vec<Replacement>),
    Absent,
    Failed(Failure),
}

impl IdLookup {
    /// Started with the first question.
    pub fn new(workers: Workers) -> Self {
        let limits = Limits { address_space: 1 << 30, cpu_seconds: u64::MAX, open_files: 32, file_size: 0, wall: None };
        let spec = Spec { kind: KIND.to_owned(), limits, identity: Identity::Same, stderr: Stderr::Keep };
        Self(Lasting::new(workers, spec, LIMIT))
    }

    /// The program of that number; `None` if there is none any more.
    pub fn program(&mut self, id: ProgId) -> io::Result<Option<OwnedFd>> {
        self.object(&Request::Program(id.0))
    }

    /// The map of that number.
    pub fn map(&mut self, id: MapId) -> io::Result<Option<OwnedFd>> {
        self.object(&Request::Map(id.0))
    }

    /// The link of that number.
    pub fn link(&mut self, id: LinkId) -> io::Result<Option<OwnedFd>> {
        self.object(&Request::Link(id.0))
    }

    /// The types of that number.
    pub fn btf(&mut self, id: BtfId) -> io::Result<Option<OwnedFd>> {
        self.object(&Request::Btf(id.0))
    }

    /// What stands in the place of functions of `target`. Empty before Linux 5.13, which does not tell.
    pub fn replacements(&mut self, target: ProgId) -> io::Result<Vec<Replacement>> {
        match self.0.call(&Request::Replacements { target: target.0 }).map_err(io::Error::other)? {
            (Answer::Replacements(found), _) => Ok(found),
            (Answer::Failed(failure), _) => Err(failure.into()),
            (Answer::Found | Answer::Link(_) | Answer::Absent, _) => Err(other_question()),
        }
    }

    /// The bpf_link that holds a program on an interface; `None` if netlink does, or nothing.
    pub fn xdp_link(&mut self, program: ProgId) -> io::Result<Option<LinkId>> {
        match self.0.call(&Request::XdpLink { program: program.0 }).map_err(io::Error::other)? {
            (Answer::Link(id), _) => Ok(Some(LinkId(id))),
            (Answer::Absent, _) => Ok(None),
            (Answer::Failed(failure), _) => Err(failure.into()),
            (Answer::Found | Answer::Replacements(_), _) => Err(other_question()),
        }
    }

    fn object(&mut self, request: &Request) -> io::Result<Option<OwnedFd>> {
        let (answer, fds) = self.0.call(request).map_err(io::Error::other)?;
        match (answer, fds.into_iter().next()) {
            (Answer::Found, Some(fd)) => Ok(Some(fd)),
            (Answer::Absent, _) => Ok(None),
            (Answer::Failed(failure), _) => Err(failure.into()),
            (Answer::Found | Answer::Link(_) | Answer::Replacements(_), _) => Err(other_question()),
        }
    }
}

fn other_question() -> io::Error {
    io::Error::other("the worker's answer is for another question")
}

/// The worker's side.
pub(super) fn serve(channel: &Channel) -> Result<(), String> {
    confine::idlookup().map_err(|error| error_chain(&error))?;
    answer_calls(channel, |request, _fds| {
        let found = match request {
            Request::Program(id) => prog_by_id(ProgId(id)).map(|fd| (Answer::Found, vec![fd])),
            Request::Map(id) => map_by_id(MapId(id)).map(|fd| (Answer::Found, vec![fd])),
            Request::Link(id) => link_by_id(LinkId(id)).map(|fd| (Answer::Found, vec![fd])),
            Request::Btf(id) => btf_by_id(BtfId(id)).map(|fd| (Answer::Found, vec![fd])),
            Request::XdpLink { program } => xdp_link(ProgId(program)),
            Request::Replacements { target } => replacements(target),
        };
        found.unwrap_or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => (Answer::Absent, Vec::new()),
            _ => (Answer::Failed(error.into()), Vec::new()),
        })
    })
}

fn xdp_link(program: ProgId) -> io::Result<(Answer, Vec<OwnedFd>)> {
    let holds = |info: &LinkInfo| info.prog_id == program && matches!(info.kind, LinkKind::Xdp { .. });
    let found = links().find(|info| info.as_ref().map_or(true, holds)).transpose()?;
    Ok((found.map_or(Answer::Absent, |info| Answer::Link(info.id.0)), Vec::new()))
}

fn replacements(target: u32) -> io::Result<(Answer, Vec<OwnedFd>)> {
    let mut found = Vec::new();
    for info in links() {
        let LinkInfo { id, prog_id, kind } = info?;
        match kind {
            LinkKind::Tracing { attach_type: AttachType::NONE, target_obj, target_btf } if target_obj == target => {
                found.push(Replacement { link: id.0, program: prog_id.0, function: target_btf.0 });
            }
            _ => {}
        }
        if found.len() >= REPLACEMENTS {
            break;
        }
    }
    Ok((Answer::Replacements(found), Vec::new()))
}

/// Every link of the host. One that goes away while it is looked at is passed over.
fn links() -> impl Iterator<Item = io::Result<LinkInfo>> {
    link_ids().filter_map(|id| match id.and_then(link_by_id) {
        Ok(link) => Some(link_info(link.as_fd())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(error)),
    })
}
