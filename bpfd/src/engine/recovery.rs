//! The decision about a state that was lost: what runs, or what the database had, is the intent from now on.
//!
//! It must never take it by itself.

use bpfd_core::adopt::Decision;
use bpfd_core::kernel::{Kernel, Scope};

use super::{Engine, EngineError, Pending, Progress};
use crate::repair::RepairError;

impl<K: Kernel> Engine<K> {
    /// Decides, and makes the kernel what was decided: what neither a row nor a decision keeps is swept. Nothing if nothing is to be
    /// decided. Gives what could not be had, in a sentence each. A crash after the decision was written is what a crash of a repair is.
    pub fn decide(
        &mut self,
        decision: Decision,
        pending: &mut Pending<K>,
    ) -> Result<Progress<Vec<String>, K>, EngineError> {
        if let Some(recovery) = &self.recovery {
            let after = recovery.after(decision, &self.state);
            self.store.decided(self.boot, &self.state, &after)?;
            self.state = after;
            self.recovery = None;
            self.unrepaired = true;
        }
        if !self.unrepaired {
            return Ok(Progress::Done(vec![]));
        }
        let repaired = self.repair(&mut pending.stock);
        self.acts.end();
        match repaired {
            Ok(repaired) => {
                self.show_now(&Scope::Everything(self.targets()));
                Ok(Progress::Done(repaired.failures.into_iter().map(|failure| failure.what).collect()))
            }
            Err(RepairError::Unmade(needs)) => Ok(self.makers(needs)),
            Err(error) => Err(error.into()),
        }
    }
}
