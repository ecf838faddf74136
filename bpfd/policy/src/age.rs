//! How old a signature may be: a number of hours or days. Must never look at a clock.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;
/// Longer than any certificate, log or key lives; below it no sum of seconds overflows.
const MAX: u64 = 100 * 366 * DAY;

/// A length of time, in seconds: `365d`, `36h`. Never zero.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Age(u64);

/// A text that is no age.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is not an age: write a number of hours or days, such as `36h` or `365d`, of at most 100 years")]
pub struct NotAnAge(String);

impl Age {
    /// How many seconds it is.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.0
    }
}

impl FromStr for Age {
    type Err = NotAnAge;

    fn from_str(text: &str) -> Result<Self, NotAnAge> {
        let unit = |suffix: &str, seconds: u64| {
            let digits = text.strip_suffix(suffix)?;
            let digits = digits.chars().all(|c| c.is_ascii_digit()).then_some(digits)?;
            digits.parse::<u64>().ok()?.checked_mul(seconds)
        };
        let seconds = unit("d", DAY).or_else(|| unit("h", HOUR)).filter(|seconds| (1..=MAX).contains(seconds));
        seconds.map(Self).ok_or_else(|| NotAnAge(text.to_owned()))
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            seconds if seconds % DAY == 0 => write!(f, "{}d", seconds / DAY),
            seconds => write!(f, "{}h", seconds / HOUR),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_they_are_written() {
        for (text, seconds) in [("365d", 365 * DAY), ("36h", 36 * HOUR), ("1h", HOUR), ("36600d", MAX)] {
            let age: Age = text.parse().unwrap();
            assert_eq!((age.seconds(), age.to_string().as_str()), (seconds, text));
        }
        assert_eq!("48h".parse::<Age>().unwrap().to_string(), "2d");
        for text in ["", "d", "0d", "365", "1.5d", "-1d", "+1d", " 1d", "1d ", "36601d", "1y", "99999999999999999999d"]
        {
            assert!(text.parse::<Age>().is_err(), "{text}");
        }
    }
}
