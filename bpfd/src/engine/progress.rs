//! How far a change or the settling of news got, and what it goes on with when the engine's thread has it again.
//!
//! It must never hold anything that is pinned.

use bpfd_core::ident::{AppUid, LinkUid};
use bpfd_core::kernel::{Kernel, Need, Scope, StepError, Targets};

use super::Stock;
use super::chains::{Chains, Held};
use crate::execute::{ExecuteError, RACES};
use crate::repair::Repaired;

/// How far something got.
pub enum Progress<T, K: Kernel> {
    /// To its end.
    Done(T),
    /// Not begun: other requests are about these chains.
    Wait(Targets),
    /// Not begun, or not ended: these are to be made first, by another thread.
    Make(Vec<(Need, K::Maker)>),
}

/// The same, before anybody asked how a need is made.
pub(super) enum Go<T> {
    Done(T),
    Wait(Targets),
    Make(Vec<Need>),
}

/// A change on its way.
pub struct Pending<K: Kernel> {
    /// What a load made before.
    pub(super) staged: Vec<(AppUid, K::Staged)>,
    /// What was made for it since.
    pub(super) stock: Stock<K>,
    /// The links that it makes.
    pub(super) links: Vec<LinkUid>,
    /// How often somebody else changed its hooks first.
    pub(super) races: u32,
    /// How often something was to be made for it.
    makes: u32,
    held: Option<Held>,
    /// How it ended, while what it left is being repaired.
    pub(super) stuck: Option<ExecuteError>,
}

/// News on their way.
pub struct Settling<K: Kernel> {
    /// What is looked at, once that is decided.
    pub(super) scope: Option<Scope>,
    pub(super) repaired: Repaired,
    pub(super) stock: Stock<K>,
    pub(super) races: u32,
    makes: usize,
}

impl<K: Kernel> Pending<K> {
    /// A change that was not begun. `staged` is what a load made before.
    pub fn new(staged: Vec<(AppUid, K::Staged)>) -> Self {
        Self { staged, stock: Stock::default(), links: vec![], races: 0, makes: 0, held: None, stuck: None }
    }

    /// Takes what was made.
    pub fn made(&mut self, need: Need, made: Result<K::Made, StepError>) {
        self.stock.add(need, made);
    }

    /// Takes the chains that it waited for.
    pub(super) fn hold(&mut self, held: Held) {
        self.held = Some(held);
    }

    /// The chains to wait for if it is about these, with those that it held: they are given back first.
    pub(super) fn lacks(&mut self, chains: &Chains, about: &Targets) -> Option<Targets> {
        match self.held.take() {
            Some(held) if about.is_within(held.targets()) => self.held = Some(held),
            Some(held) => return Some(held.targets().clone().and(about.clone())),
            None => self.held = chains.try_hold(about),
        }
        self.held.is_none().then(|| about.clone())
    }

    /// What is to be made for it; a race if it was made ten times, and something else was needed each time.
    pub(super) fn make(&mut self, needs: Vec<Need>, targets: &Targets) -> Result<Vec<Need>, ExecuteError> {
        self.makes += 1;
        match targets.names.first() {
            Some(chain) if self.makes > RACES => Err(ExecuteError::Step(StepError::Raced(chain.clone()))),
            Some(_) | None => Ok(needs),
        }
    }
}

impl<K: Kernel> Settling<K> {
    /// Whether something may be made once more: ten times, and once for each link that is left out.
    pub(super) fn may_make(&mut self) -> bool {
        self.makes += 1;
        self.makes <= self.repaired.barred.len() + usize::try_from(RACES).unwrap_or(usize::MAX)
    }

    /// Takes what was made.
    pub fn made(&mut self, need: Need, made: Result<K::Made, StepError>) {
        self.stock.add(need, made);
    }
}

impl<K: Kernel> Default for Settling<K> {
    fn default() -> Self {
        Self { scope: None, repaired: Repaired::default(), stock: Stock::default(), races: 0, makes: 0 }
    }
}
