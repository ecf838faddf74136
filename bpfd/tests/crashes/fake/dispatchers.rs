//! Dispatchers of the kernel in memory: what is in their slots, who holds it there, and libxdp's directory. As the real kernel
//! has it: a program leaves its slot, for good, when nothing holds its link any more; a dispatcher goes when nothing runs or holds it.
//!
//! Peers are here too: they do what libxdp does, by its directory alone. This file must never know which programs are bpfd's.

use std::collections::{BTreeMap, BTreeSet};

use bpfd_core::ident::KernelId;
use bpfd_core::kernel::SLOTS;

/// A program that can stand in a slot.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Loaded {
    /// Its function.
    pub(crate) name: String,
    /// The kernel's digest of its instructions.
    pub(crate) tag: [u8; 8],
    /// Nanoseconds since boot.
    pub(crate) load_time: u64,
    /// Its number.
    pub(crate) program: KernelId,
}

/// A slot as the configuration has it, and what is in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Filled {
    /// Its place.
    pub(crate) priority: u32,
    /// Verdicts after which the next one runs.
    pub(crate) actions: u32,
    /// Of the program.
    pub(crate) flags: u32,
    /// The program.
    pub(crate) loaded: Loaded,
    /// Whether its link is still there: without it the slot lets every packet through.
    pub(crate) linked: bool,
}

impl Filled {
    /// `cmp_xdp_programs` of xdp-tools lib/libxdp/libxdp.c, for loaded programs.
    pub(crate) fn place(&self) -> (u32, &str, [u8; 8], u64) {
        let Loaded { name, tag, load_time, program: _ } = &self.loaded;
        (self.priority, name, *tag, *load_time)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Dispatcher {
    pub(super) version: u8,
    pub(super) slots: Vec<Filled>,
}

/// What holds dispatchers and links, beside libxdp's directory.
#[derive(Debug, Default)]
pub(super) struct Holders {
    /// What interfaces run.
    pub(super) attached: BTreeSet<KernelId>,
    /// Dispatchers with all their links, by the daemon's descriptors.
    pub(super) whole: BTreeSet<KernelId>,
    /// Dispatchers with some of their links, by the daemon's pins.
    pub(super) pinned: Vec<(KernelId, BTreeSet<KernelId>)>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Dispatchers {
    pub(super) all: BTreeMap<KernelId, Dispatcher>,
    /// `<bpffs>/xdp/dispatch-*`, by dispatcher: pins of every slot's program and link.
    shared: BTreeSet<KernelId>,
}

impl Dispatchers {
    /// A program that something holds.
    pub(super) fn program(&self, id: KernelId) -> Option<&Loaded> {
        let mut slots = self.all.values().flat_map(|dispatcher| &dispatcher.slots);
        slots.find(|slot| slot.linked && slot.loaded.program == id).map(|slot| &slot.loaded)
    }

    /// Every program in a slot.
    pub(super) fn programs(&self) -> BTreeSet<KernelId> {
        let slots = self.all.values().flat_map(|dispatcher| &dispatcher.slots);
        slots.filter(|slot| slot.linked).map(|slot| slot.loaded.program).collect()
    }

    /// Makes the directory of a dispatcher; `false` if there is one.
    pub(super) fn share(&mut self, id: KernelId) -> bool {
        self.shared.insert(id)
    }

    /// Removes the directory of a dispatcher.
    pub(super) fn unshare(&mut self, id: KernelId) {
        self.shared.remove(&id);
    }

    /// Removes every directory.
    pub(super) fn clean(&mut self) {
        self.shared.clear();
    }

    /// Whether libxdp's directory has one for something that nothing runs: a later `xdp-loader` would stumble over it.
    pub(super) fn left_over(&self, attached: &BTreeSet<KernelId>) -> Vec<KernelId> {
        self.shared.difference(attached).copied().collect()
    }

    /// What nobody holds goes.
    pub(super) fn collect(&mut self, holders: &Holders) {
        let Holders { attached, whole, pinned } = holders;
        for (id, dispatcher) in &mut self.all {
            let all = whole.contains(id) || self.shared.contains(id);
            for slot in &mut dispatcher.slots {
                let by_pin =
                    pinned.iter().any(|(generation, links)| generation == id && links.contains(&slot.loaded.program));
                slot.linked &= all || by_pin;
            }
        }
        self.all.retain(|id, dispatcher| {
            let held =
                attached.contains(id) || whole.contains(id) || pinned.iter().any(|(generation, _)| generation == id);
            held || dispatcher.slots.iter().any(|slot| slot.linked)
        });
    }

    /// What a peer can change: libxdp finds every slot's program in its directory, or takes the dispatcher for a plain program.
    fn peers_view(&self, id: KernelId) -> Option<&Dispatcher> {
        let whole = |dispatcher: &&Dispatcher| dispatcher.slots.iter().all(|slot| slot.linked);
        self.all.get(&id).filter(|_| self.shared.contains(&id)).filter(whole)
    }

    /// A peer makes the first dispatcher of an interface, or another one in the place of `before` with one program more; `false` if
    /// it cannot.
    pub(super) fn peer_adds(&mut self, id: KernelId, before: Option<KernelId>, version: u8, slot: Filled) -> bool {
        let found = match before {
            None => Some(Dispatcher { version, slots: Vec::new() }),
            Some(before) => self.peers_view(before).cloned(),
        };
        let Some(mut dispatcher) = found.filter(|found| found.slots.len() < SLOTS) else { return false };
        dispatcher.slots.push(slot);
        self.peer_swaps(id, before, dispatcher);
        true
    }

    /// A peer makes another dispatcher without one program; `None` if it cannot, `Some(false)` if none would be left in it.
    pub(super) fn peer_removes(&mut self, id: KernelId, before: KernelId, program: KernelId) -> Option<bool> {
        let mut dispatcher = self.peers_view(before)?.clone();
        dispatcher.slots.retain(|slot| slot.loaded.program != program);
        let some = !dispatcher.slots.is_empty();
        match some {
            true => self.peer_swaps(id, Some(before), dispatcher),
            false => self.unshare(before),
        }
        Some(some)
    }

    fn peer_swaps(&mut self, id: KernelId, before: Option<KernelId>, mut dispatcher: Dispatcher) {
        dispatcher.slots.sort_by(|a, b| a.place().cmp(&b.place()));
        self.all.insert(id, dispatcher);
        self.shared.insert(id);
        if let Some(before) = before {
            self.shared.remove(&before);
        }
    }
}
