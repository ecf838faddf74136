//! Looks at the kernel for readers, beside the thread that changes it: what is pinned is read anew each time, since that thread alone
//! knows what it did. It must never change anything, nor be what a change is planned from.

use std::path::Path;
use std::sync::Arc;

use bpfd_core::kernel::{ForeignProgram, Live, ObserveError, Observed, Scope, Targets};
use bpfd_core::mode::Modes;
use bpfd_core::names::Netns;
use bpfd_sys::bpf::{LinkId, ProgId};

use super::holders::holders;
use super::observe::{self, Known};
use super::pins::Pins;
use super::seek::Heard;
use crate::worker::idlookup::IdLookup;
use crate::worker::netns::{Lookup, Namespaces};

/// See the module. Its workers are started by the thread that uses it first: let only one use it.
pub struct Reader {
    pub(super) pins: Arc<Pins>,
    pub(super) namespaces: Namespaces,
    pub(super) ids: IdLookup,
    pub(super) modes: Modes,
}

impl Reader {
    /// Every pin, and these chains.
    pub fn everything(&mut self, scope: &Scope) -> Result<Observed, ObserveError> {
        let Self { pins, namespaces, ids, modes } = self;
        observe::observe(pins, &mut None, namespaces, ids, modes, &mut Heard::default(), scope)
    }

    /// These chains alone as they are now, with those who hold what is not bpfd's there.
    pub fn chains(&mut self, targets: Targets, before: &Observed) -> Result<Observed, ObserveError> {
        let Self { pins, namespaces, ids, modes } = self;
        let mut known = Some(Known::of_chains(pins, before)?);
        let mut observed =
            observe::observe(pins, &mut known, namespaces, ids, modes, &mut Heard::default(), &Scope::Chains(targets))?;
        for chain in observed.chains.values_mut() {
            if let Live::Foreign(foreign) = &mut chain.live {
                foreign.holders = held_by(foreign);
            }
        }
        observed.barred.clone_from(&before.barred);
        Ok(observed)
    }

    /// The names of the interfaces of a network namespace; of the named network namespaces, if none is asked for.
    pub fn names(&mut self, netns: Option<&Netns>) -> Result<Vec<String>, ObserveError> {
        let names = match netns {
            Some(netns) => self.namespaces.look_up(netns).and_then(|found| match found {
                Lookup::Found(namespace) => Ok(namespace.route.links()?.into_iter().map(|row| row.name).collect()),
                Lookup::Absent | Lookup::NotANamespace => Ok(Vec::new()),
            }),
            None => self.namespaces.names().map(|names| names.iter().map(ToString::to_string).collect()),
        };
        names.map_err(observe::unseen("the names that were probably meant"))
    }
}

/// Processes that hold a program of somebody else's, as `pid (command)`. Looks through /proc.
pub fn held_by(foreign: &ForeignProgram) -> Vec<String> {
    holders(Path::new("/proc"), ProgId(foreign.program.0), foreign.link.map(LinkId))
}
