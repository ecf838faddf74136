//! What the engine does about news of the kernel: it looks at what they are about, and makes it what the state says.
//!
//! It must never change a chain whose interface stayed: what somebody else did there is reported.

use std::collections::BTreeSet;

use bpfd_core::chain::adoptions;
use bpfd_core::hook::ChainId;
use bpfd_core::ident::LinkUid;
use bpfd_core::kernel::{Kernel, Observed, Scope};
use bpfd_core::ordering::ordered;
use bpfd_core::seat::seated;
use bpfd_core::state::{Link, State};
use bpfd_core::unauthorised::held_back;

use super::news::chains;
use super::{Engine, News, Progress, Settling};
use crate::execute::Executor;
use crate::repair::{Attempt, RepairError, Repaired, settle};

impl<K: Kernel> Engine<K> {
    /// Something changed in the kernel: links whose interface came, or came back as another one, are attached; what ran on one that
    /// went is swept; a peer's dispatcher with programs of ours is held. What somebody else took off an interface that stayed is
    /// DRIFTED, and left alone. If it is not done, `settling` has what the next call goes on with.
    pub fn settle(&mut self, news: &News, settling: &mut Settling<K>) -> Result<Progress<Repaired, K>, RepairError> {
        let ends = news.ended.iter().copied().map(Some).chain(news.ends_lost.then_some(None));
        ends.for_each(|number| self.kernel.heard_of_end(number));
        let scope = match settling.scope.take() {
            Some(scope) => Some(scope),
            None if self.missed => Some(Scope::Everything(self.targets())),
            None => news.scope(&self.state, &self.published.borrow().observed, &self.settled),
        };
        for (interface, namespace, index) in news.moves(&self.published.borrow().observed) {
            self.kernel.heard_of_move(interface, namespace, index);
        }
        let Some(scope) = scope else { return Ok(Progress::Done(Repaired::default())) };
        self.missed = true;
        let settled = self.settle_all(scope.clone(), settling);
        self.acts.end();
        let progress = match settled {
            Ok(()) => Progress::Done(std::mem::take(&mut settling.repaired)),
            Err(RepairError::Unmade(needs)) if settling.may_make() => {
                settling.scope = Some(scope);
                self.makers(needs)
            }
            // The next news are a reason to look at everything.
            Err(RepairError::Unmade(_)) => {
                let mut repaired = std::mem::take(&mut settling.repaired);
                repaired
                    .failures
                    .push("the interfaces changed each time that programs were made for them".to_owned().into());
                return Ok(Progress::Done(repaired));
            }
            Err(error) => return Err(error),
        };
        self.missed = false;
        Ok(progress)
    }

    /// Looks and deals with it until there is nothing more to do, and publishes.
    fn settle_all(&mut self, mut scope: Scope, settling: &mut Settling<K>) -> Result<(), RepairError> {
        let seen = loop {
            let (attempt, seen) = self.settle_once(&scope, settling)?;
            if !attempt.again(&mut settling.races) {
                settling.repaired.failures.extend(attempt.failed);
                break seen;
            }
            scope = Scope::Everything(self.targets());
            tracing::info!(
                races = settling.races,
                "making a new plan: another process changed a hook, or a program cannot be part of its chain"
            );
        };
        self.barred.retain(|link, _| !settling.repaired.passing.contains(link));
        match seen {
            Some(seen) => self.show(&scope, seen),
            None => self.publish(&scope)?,
        }
        Ok(())
    }

    /// One observation, and what follows from it. Gives what was seen if it is still so.
    fn settle_once(
        &mut self,
        scope: &Scope,
        settling: &mut Settling<K>,
    ) -> Result<(Attempt, Option<Observed>), RepairError> {
        let Settling { repaired, stock, .. } = settling;
        let seen = self.kernel.observe(scope)?;
        let now = chains(&seen);
        let seated = self.seat(&seen);
        let (stayed, came) = seen.chains.clone().into_iter().partition(|(chain, _)| self.settled.contains(chain));
        let mut observed = Observed { chains: stayed, ..seen.clone() };
        let adoptions = adoptions(&observed);
        observed.chains = came;
        let here = |link: &LinkUid| seated.links.get(link).and_then(Link::chain);
        self.barred.retain(|link, _| here(link).is_some_and(|chain| !observed.chains.contains_key(&chain)));
        self.barred.extend(repaired.barred.clone());
        let came = |link: &LinkUid| here(link).is_some_and(|chain| observed.chains.contains_key(&chain));
        let held_back = held_back(&self.policy(), &seated, &seen, &self.unauthorised);
        self.barred.extend(held_back.into_iter().filter(|(link, _)| came(link)));
        observed = self.remembered(observed);
        self.acts.begin();
        let (kernel, store, audit) = (&mut self.kernel, &mut self.store, self.audit.as_mut());
        let mut executor = Executor { kernel, store, audit, stock: Some(stock) };
        let attempt = settle(&mut executor, adoptions, &seated, &observed, self.uids.as_mut(), repaired)?;
        self.barred.extend(repaired.barred.clone());
        // What came is to be dealt with until it was.
        if attempt.whole() {
            match scope {
                Scope::Everything(_) => self.settled = now,
                Scope::Chains(_) => self.settled.extend(now),
            }
        }
        let seen = Some(seen).filter(|_| attempt.idle());
        Ok((attempt, seen))
    }

    /// The state with its links in the chains that they are in by what was seen, written down. A link that joins a chain makes it one
    /// that is to be dealt with, as an interface that comes does.
    fn seat(&mut self, seen: &Observed) -> State {
        let mut seated = seated(&self.state, seen);
        let before = |uid: &LinkUid| self.state.links.get(uid).map(Link::chain);
        let joined = seated.links.iter().filter(|(uid, link)| before(uid) != Some(link.chain()));
        let joined: BTreeSet<ChainId> = joined.filter_map(|(_, link)| link.chain()).collect();
        seated = ordered(&self.policy().orders, &seated, |chain| joined.contains(chain));
        if seated != self.state {
            match self.store.replace(self.boot, &self.state, &seated) {
                Ok(()) => {
                    self.state.clone_from(&seated);
                    let (kernel, store, audit) = (&mut self.kernel, &mut self.store, self.audit.as_mut());
                    Executor { kernel, store, audit, stock: None }.stamp();
                }
                Err(error) => tracing::warn!(%error, "cannot write down which interfaces links are on; retried later"),
            }
        }
        let is_old = |chain: &ChainId| seen.missing.contains(chain) || seen.moved.contains_key(&chain.interface);
        self.settled.retain(|chain| !joined.contains(chain) && !is_old(chain));
        seated
    }
}
