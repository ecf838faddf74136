//! Refusals: some are written, the others are counted. Must never grow with the number of callers.
//!
//! A person who tries things is on record word by word; a program that is refused in a loop is a number. Whoever may ask at all could
//! else have the log rotated until nothing else is in it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How many refusals of one caller are written in a second.
const IN_A_SECOND: u64 = 10;
/// How many are written in an hour: of one caller, and of all. A whole day of them is less than two files.
const IN_AN_HOUR: u64 = 600;
const OF_ALL: u64 = 3600;
/// After how long what was counted is written.
const COUNTED: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// Callers that are told apart in an hour; the others are counted as one.
const CALLERS: usize = 256;

/// Refusals of this hour.
#[derive(Debug)]
pub(super) struct Denials {
    hour: Window,
    /// Since the counts were written last.
    counted: Instant,
    /// By user id; `None` for all who are not told apart.
    of: BTreeMap<Option<u32>, Caller>,
}

#[derive(Debug)]
struct Caller {
    name: String,
    second: Window,
    hour: u64,
    /// Not written, and not yet said.
    more: u64,
}

/// Refusals of one caller that have no record of their own.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct More {
    /// Who, or `others`.
    pub(super) principal: String,
    pub(super) uid: Option<u32>,
    pub(super) count: u64,
}

/// How many were written since.
#[derive(Debug)]
struct Window {
    since: Instant,
    written: u64,
}

impl Window {
    fn new(now: Instant) -> Self {
        Self { since: now, written: 0 }
    }

    /// Begins anew if it is over.
    fn turn(&mut self, now: Instant, length: Duration) -> bool {
        let over = now.duration_since(self.since) >= length;
        if over {
            *self = Self::new(now);
        }
        over
    }
}

impl Denials {
    pub(super) fn new(now: Instant) -> Self {
        Self { hour: Window::new(now), counted: now, of: BTreeMap::new() }
    }

    /// Whether a refusal of now is to be written; else it is counted.
    pub(super) fn admits(&mut self, uid: u32, principal: &str, now: Instant) -> bool {
        if self.hour.turn(now, HOUR) {
            self.of.retain(|_, caller| caller.more > 0);
            self.of.values_mut().for_each(|caller| caller.hour = 0);
        }
        let known = self.of.contains_key(&Some(uid)) || self.of.len() < CALLERS;
        let (key, name) = if known { (Some(uid), principal) } else { (None, "others") };
        let new = || Caller { name: name.to_owned(), second: Window::new(now), hour: 0, more: 0 };
        let caller = self.of.entry(key).or_insert_with(new);
        caller.second.turn(now, SECOND);
        let admitted = caller.second.written < IN_A_SECOND && caller.hour < IN_AN_HOUR && self.hour.written < OF_ALL;
        if admitted {
            caller.second.written += 1;
            caller.hour += 1;
            self.hour.written += 1;
        } else {
            caller.more += 1;
        }
        admitted
    }

    /// Who was refused more often than was written, once a minute.
    pub(super) fn over(&mut self, now: Instant) -> Vec<More> {
        if now.duration_since(self.counted) < COUNTED {
            return vec![];
        }
        self.counted = now;
        let counted = self.of.iter_mut().filter(|(_, caller)| caller.more > 0);
        let more = |(uid, caller): (&Option<u32>, &mut Caller)| More {
            principal: caller.name.clone(),
            uid: *uid,
            count: std::mem::take(&mut caller.more),
        };
        counted.map(more).collect()
    }

    /// Lets a minute be over.
    #[cfg(test)]
    pub(super) fn age(&mut self) {
        self.counted -= COUNTED;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn more(principal: &str, uid: Option<u32>, count: u64) -> More {
        More { principal: principal.to_owned(), uid, count }
    }

    #[test]
    fn ten_refusals_a_second_are_written_and_the_others_counted() {
        let now = Instant::now();
        let mut denials = Denials::new(now);
        let mut written = |now| (0..15).filter(|_| denials.admits(7, "mallory", now)).count();
        assert_eq!([written(now), written(now + SECOND / 2), written(now + SECOND)], [10, 0, 10]);
        assert_eq!(denials.over(now + SECOND), []);
        assert_eq!(denials.over(now + COUNTED), [more("mallory", Some(7), 25)]);
        // They are said once.
        assert_eq!(denials.over(now + COUNTED * 2), []);
    }

    #[test]
    fn who_is_refused_all_day_fills_no_file() {
        let now = Instant::now();
        let mut denials = Denials::new(now);
        let written = (0..24 * 3600).filter(|second| {
            let now = now + SECOND * *second;
            (0..11).filter(|_| denials.admits(7, "mallory", now)).count() > 0
        });
        assert_eq!(written.count(), 24 * 60);
    }

    #[test]
    fn strangers_of_many_names_write_few_lines_together() {
        let now = Instant::now();
        let mut denials = Denials::new(now);
        let written = (0..100_000).filter(|number| denials.admits(*number, "somebody", now)).count();
        // One of each that is told apart, and ten of the others.
        assert_eq!(written, CALLERS + 10);
        let counted = denials.over(now + COUNTED);
        assert_eq!(counted, [more("others", None, 100_000 - 266)]);
        // There is room again.
        assert!(denials.admits(1, "somebody", now + SECOND));
    }
}
