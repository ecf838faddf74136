//! Looks at the kernel for readers, beside the thread that changes it: what is pinned is read anew each time, since that thread alone
//! knows what it did. It must never change anything, nor be what a change is planned from.

use std::path::Path;
use std::sync::Arc;

use bpfd_core::hook::ChainKey;
use bpfd_core::kernel::{ChainMode, ForeignProgram, Live, ObserveError, Observed, PinnedTop, Scope};
use bpfd_core::names::Netns;
use bpfd_sys::bpf::{LinkId, ProgId};

use super::holders::holders;
use super::observe;
use super::pins::Pins;
use crate::worker::idlookup::IdLookup;
use crate::worker::netns::Namespaces;

/// See the module. Its workers are started by the thread that uses it first: let only one use it.
pub struct Reader {
    pub(super) pins: Arc<Pins>,
    pub(super) namespaces: Namespaces,
    pub(super) ids: IdLookup,
    pub(super) mode: ChainMode,
}

impl Reader {
    /// Every pin, and these chains.
    pub fn everything(&mut self, scope: &Scope) -> Result<Observed, ObserveError> {
        let Self { pins, namespaces, ids, mode } = self;
        observe::observe(pins, &mut None, namespaces, ids, mode, scope)
    }

    /// One chain as it is now, in what was observed before of the rest.
    pub fn chain(&mut self, chain: &ChainKey, before: &Observed) -> Result<Observed, ObserveError> {
        let Self { pins, namespaces, ids, mode } = self;
        let observe::Alone { mut seen, tops, exts, absent } = observe::alone(pins, namespaces, ids, mode, chain)?;
        if let Live::Foreign(foreign) = &mut seen.live {
            foreign.holders = held_by(foreign);
        }
        let running = seen.live.top();
        let live = |uid| if running == Some(uid) { Some(true) } else { before.tops.get(&uid).and_then(|top| top.live) };
        let tops =
            tops.into_iter().map(|(uid, (program, members))| (uid, PinnedTop { program, members, live: live(uid) }));
        let mut observed = Observed { tops: tops.collect(), exts, ..before.clone() };
        observed.chains.insert(chain.clone(), seen);
        if let Netns::Named(name) = &chain.netns {
            observed.absent_netns.remove(name);
        }
        observed.absent_netns.extend(absent);
        Ok(observed)
    }
}

/// Processes that hold a program of somebody else's, as `pid (command)`. Looks through /proc.
pub fn held_by(foreign: &ForeignProgram) -> Vec<String> {
    holders(Path::new("/proc"), ProgId(foreign.program.0), foreign.link.map(LinkId))
}
