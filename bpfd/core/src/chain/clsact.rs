//! clsact: the kernel runs the filters of a direction by preference, lower first (`tcf_classify` of net/sched/cls_api.c). Each program of
//! ours is a filter with a preference of its own, in a band that is bpfd's.
//!
//! This file must never give out a preference that somebody has.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// The preferences that bpfd gives out. Those that tc(8) gives out itself begin with 49152 and go down
/// (`TC_H_MAKE(0xC0000000U, 0U)` in `tc_new_tfilter` of net/sched/cls_api.c): far more filters than anybody has are between them.
const BAND: RangeInclusive<u16> = 20_000..=29_999;
/// From one to the next, where there is room: others find a place between them.
const APART: u16 = 100;

/// A preference between these two, which are ours, that nobody has; `None` if there is none.
pub(super) fn between(before: Option<u16>, after: Option<u16>, taken: &BTreeSet<u16>) -> Option<u16> {
    let (first, last) = (*BAND.start(), *BAND.end());
    let low = before.map_or(first, |before| before.saturating_add(1));
    let high = after.map_or(last, |after| after.saturating_sub(1));
    let ideal = match (before, after) {
        (None, None) => first + (last - first) / 2,
        (Some(before), None) => before.saturating_add(APART).min(last),
        (None, Some(after)) => after.saturating_sub(APART).max(first),
        (Some(before), Some(after)) => before + after.saturating_sub(before) / 2,
    };
    let free = |preference: &u16| BAND.contains(preference) && !taken.contains(preference);
    let up = (ideal.max(low)..=high).find(free);
    up.or_else(|| (low..ideal.min(high)).rev().find(free))
}

/// Preferences for so many in a row, that nobody has: spread over the band.
pub(super) fn spread(count: usize, taken: &BTreeSet<u16>) -> Vec<u16> {
    let step = usize::from(APART).min(BAND.len() / (count + 1)).max(1);
    let start = BAND.len().saturating_sub(step * count) / 2;
    let free: Vec<u16> = BAND.skip(start).filter(|preference| !taken.contains(preference)).collect();
    free.into_iter().step_by(step).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preference_is_between_its_neighbours_and_nobodys() {
        let none = BTreeSet::new();
        assert_eq!(between(None, None, &none), Some(24_999));
        assert_eq!(between(Some(24_999), None, &none), Some(25_099));
        assert_eq!(between(None, Some(24_999), &none), Some(24_899));
        assert_eq!(between(Some(100 + 20_000), Some(20_200), &none), Some(20_150));
        assert_eq!(between(Some(20_100), Some(20_102), &[20_101].into()), None);
        assert_eq!(between(Some(20_100), Some(20_104), &[20_102, 20_103].into()), Some(20_101));
        assert_eq!(between(Some(29_999), None, &none), None, "the band ends");
        assert_eq!(between(None, Some(20_000), &none), None);
        assert_eq!(between(Some(29_950), None, &[29_999].into()), Some(29_998));
    }

    #[test]
    fn a_spread_is_in_order_and_leaves_room() {
        for count in [0, 1, 5, 500] {
            let spread = spread(count, &[24_999, 25_000].into());
            assert_eq!(spread.len(), count);
            assert!(spread.is_sorted_by(|one, next| one < next), "{spread:?}");
            assert!(!spread.contains(&25_000));
        }
        let gap = spread(2, &BTreeSet::new());
        assert_eq!(gap, [24_900, 25_000]);
    }
}
