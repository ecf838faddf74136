//! Whether the engine acts: what others see of the kernel meanwhile may be the half of a change.
//!
//! It must never be waited on: it tells afterwards whether something came between.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts beginnings and ends: odd while the engine acts.
#[derive(Debug, Default)]
pub struct Acts(AtomicU64);

impl Acts {
    /// From here on until [`Acts::end`] the kernel and the published state may differ.
    pub(super) fn begin(&self) {
        let count = self.0.load(Ordering::SeqCst);
        self.0.store(count | 1, Ordering::SeqCst);
    }

    /// They are the same again; nothing if nothing began.
    pub(super) fn end(&self) {
        let count = self.0.load(Ordering::SeqCst);
        self.0.store(count + (count & 1), Ordering::SeqCst);
    }

    /// The same number twice: nothing was done between. `None` while something is.
    pub fn steady(&self) -> Option<u64> {
        Some(self.0.load(Ordering::SeqCst)).filter(|count| count & 1 == 0)
    }
}
