//! Refusals of one minute: few are written, the others are counted. Must never grow with the number of callers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// For how long refusals are counted together, and how many of them are written: of one caller, and of all. A whole day of them is less than
/// one file.
const WINDOW: Duration = Duration::from_secs(60);
const WRITTEN_OF_ONE: u64 = 10;
const WRITTEN_OF_ALL: u64 = 60;
/// Callers that are told apart in one window; the others are counted as one.
const CALLERS: usize = 256;

/// Refusals of this minute.
#[derive(Debug)]
pub(super) struct Denials {
    since: Instant,
    written: u64,
    /// By caller: how many were written, and how many were not.
    of: BTreeMap<String, (u64, u64)>,
}

impl Denials {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, written: 0, of: BTreeMap::new() }
    }

    /// Whether a refusal of now is to be written; else it is counted.
    pub(super) fn admits(&mut self, principal: &str) -> bool {
        let known = self.of.contains_key(principal) || self.of.len() < CALLERS;
        let (written, counted) = self.of.entry(if known { principal } else { "others" }.to_owned()).or_default();
        let admitted = *written < WRITTEN_OF_ONE && self.written < WRITTEN_OF_ALL;
        if admitted {
            *written += 1;
            self.written += 1;
        } else {
            *counted += 1;
        }
        admitted
    }

    /// Who was refused more often than was written, if the minute is over; then a new one begins.
    pub(super) fn over(&mut self, now: Instant) -> Vec<(String, u64)> {
        if now.duration_since(self.since) < WINDOW {
            return vec![];
        }
        let Self { of, .. } = std::mem::replace(self, Self::new(now));
        of.into_iter().filter(|(_, (_, counted))| *counted > 0).map(|(who, (_, counted))| (who, counted)).collect()
    }

    /// Lets the minute be over.
    #[cfg(test)]
    pub(super) fn age(&mut self) {
        self.since -= WINDOW;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_of_many_names_write_few_lines_together() {
        let now = Instant::now();
        let mut denials = Denials::new(now);
        let written = (0..100_000).filter(|number| denials.admits(&format!("uid {number}"))).count();
        assert_eq!(written, 60);
        assert_eq!(denials.over(now + WINDOW / 2), []);
        let counted = denials.over(now + WINDOW);
        assert_eq!(counted.len(), CALLERS - 60 + 1);
        assert_eq!(counted.iter().map(|(_, count)| count).sum::<u64>(), 100_000 - 60);
        // In the next minute there is room again.
        assert!(denials.admits("uid 1"));
    }
}
