//! What was made for a change before it is carried out, and what is still to be made: plans come and go while it is made, and whatever
//! of it the plan of now still needs is used.
//!
//! It must never make anything.

use std::collections::BTreeMap;

use bpfd_core::kernel::{Kernel, Need, StepError};
use bpfd_core::plan::Plan;

/// See the module.
pub struct Stock<K: Kernel>(Vec<(Need, Result<K::Made, StepError>)>);

impl<K: Kernel> Default for Stock<K> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Kernel> Stock<K> {
    /// Takes what was made for a need, or why it cannot be made: the step that needs it then fails with that.
    pub fn add(&mut self, need: Need, made: Result<K::Made, StepError>) {
        self.0.push((need, made));
    }

    /// A plan with all that it needs provided to the kernel, or what is to be made first.
    pub fn ready(&self, plan: Plan, kernel: &mut K) -> Result<Plan, Vec<Need>> {
        let mut names = BTreeMap::new();
        for need in plan.needs() {
            if let (Some((Need::Generation { generation: made, .. }, _)), Need::Generation { generation, .. }) =
                (self.find(&need), &need)
            {
                names.insert(*generation, *made);
            }
        }
        let plan = plan.renamed(&names);
        self.provide(&plan.needs(), kernel).map(|()| plan)
    }

    /// Provides these to the kernel, or says which of them are to be made first.
    pub fn provide(&self, needs: &[Need], kernel: &mut K) -> Result<(), Vec<Need>> {
        let missing: Vec<Need> = needs.iter().filter(|need| self.find(need).is_none()).cloned().collect();
        if !missing.is_empty() {
            return Err(missing);
        }
        for (need, made) in needs.iter().filter_map(|need| self.find(need)) {
            kernel.provide(need, made.clone());
        }
        Ok(())
    }

    /// Forgets the generations that a plan built: another plan that needs the same builds one of another name.
    pub fn used(&mut self, plan: &Plan) {
        let needs = plan.needs();
        self.0.retain(|(made, result)| {
            result.is_err() || !matches!(made, Need::Generation { .. }) || !needs.contains(made)
        });
    }

    fn find(&self, need: &Need) -> Option<&(Need, Result<K::Made, StepError>)> {
        // The last: what is newer was made of what is there now.
        self.0.iter().rev().find(|(made, _)| made.serves(need))
    }
}
