//! Labels that people give to apps when they load them, such as `team=edge`, to find them by. They are not the labels of an image:
//! those say what its author says. This file must never give a label a meaning.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::{printable, text_name};

/// Longest key: that of a name, so that a name fits wherever a key does.
pub const KEY_MAX: usize = 63;
/// Longest value in bytes: room for a URL or a commit, not for a document.
pub const VALUE_MAX: usize = 255;
/// Labels of one app: 32 of the longest are 10 KiB, so that a page of 50 apps fits a message of 1 MiB.
pub const LABELS_MAX: usize = 32;

text_name! {
    /// What a label says something about: `[a-z0-9]([a-z0-9._/-]{0,61}[a-z0-9])?`.
    LabelKey, BadLabel
}

text_name! {
    /// What it says: at most 255 bytes, none of them a control character. May be empty.
    LabelValue, BadLabel
}

/// Why a text is no label.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadLabel {
    /// A key that is empty, too long, or has other characters.
    #[error(
        "`{0}` is not a label's key: at most {KEY_MAX} of a-z, 0-9, `.`, `_`, `/` and `-`, with a letter or digit at both ends"
    )]
    Key(String),
    /// A value that is too long, or has control characters.
    #[error("`{0}` is not a label's value: at most {VALUE_MAX} bytes without control characters")]
    Value(String),
    /// A key that is given twice.
    #[error("label `{0}` is given twice")]
    Twice(LabelKey),
    /// Too many.
    #[error("an app has at most {LABELS_MAX} labels; {0} were given")]
    TooMany(usize),
}

impl FromStr for LabelKey {
    type Err = BadLabel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let good = |c: char| end(c) || matches!(c, '.' | '_' | '/' | '-');
        let whole = text.len() <= KEY_MAX && text.starts_with(end) && text.ends_with(end) && text.chars().all(good);
        if whole { Ok(Self(text.to_owned())) } else { Err(BadLabel::Key(printable(text))) }
    }
}

impl FromStr for LabelValue {
    type Err = BadLabel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = text.len() > VALUE_MAX || text.chars().any(char::is_control);
        if bad { Err(BadLabel::Value(printable(text))) } else { Ok(Self(text.to_owned())) }
    }
}

/// The labels of one app, at most [`LABELS_MAX`].
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Labels(BTreeMap<LabelKey, LabelValue>);

impl Labels {
    /// These, each key once.
    ///
    /// # Errors
    /// [`BadLabel::Twice`] and [`BadLabel::TooMany`].
    pub fn of(labels: impl IntoIterator<Item = (LabelKey, LabelValue)>) -> Result<Self, BadLabel> {
        let mut all = BTreeMap::new();
        for (key, value) in labels {
            match all.entry(key) {
                Entry::Occupied(taken) => return Err(BadLabel::Twice(taken.key().clone())),
                Entry::Vacant(free) => free.insert(value),
            };
        }
        if all.len() > LABELS_MAX { Err(BadLabel::TooMany(all.len())) } else { Ok(Self(all)) }
    }

    /// By key.
    pub fn iter(&self) -> impl Iterator<Item = (&LabelKey, &LabelValue)> {
        self.0.iter()
    }

    /// Whether all of `selectors` fit.
    pub fn fit(&self, selectors: &[LabelSelector]) -> bool {
        let fits = |LabelSelector { key, value }: &LabelSelector| {
            self.0.get(key).is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
        };
        selectors.iter().all(fits)
    }
}

/// `KEY=VALUE`: that label; `KEY`: one of that key, whatever its value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LabelSelector {
    /// Its key.
    pub key: LabelKey,
    /// Its value, if that counts.
    pub value: Option<LabelValue>,
}

impl FromStr for LabelSelector {
    type Err = BadLabel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((key, value)) => Ok(Self { key: key.parse()?, value: Some(value.parse()?) }),
            None => Ok(Self { key: text.parse()?, value: None }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_bounded() {
        for good in ["a", "9", "team", "example.org/team-name", "a_b", &"k".repeat(63)] {
            assert!(good.parse::<LabelKey>().is_ok(), "{good:?}");
        }
        for bad in ["", "Team", "-a", "a-", "a b", "a=b", "é", &"k".repeat(64)] {
            assert!(bad.parse::<LabelKey>().is_err(), "{bad:?}");
        }
        for good in ["", "x=y", "Zoë, on call", &"v".repeat(255)] {
            assert!(good.parse::<LabelValue>().is_ok(), "{good:?}");
        }
        for bad in ["a\nb", "\u{1b}[1m", &"v".repeat(256)] {
            assert!(bad.parse::<LabelValue>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_app_has_each_key_once_and_32_at_most() {
        let label = |number: usize| (format!("k{number}").parse().unwrap(), "v".parse().unwrap());
        assert!(Labels::of((0..LABELS_MAX).map(label)).is_ok());
        assert_eq!(Labels::of((0..=LABELS_MAX).map(label)), Err(BadLabel::TooMany(33)));
        assert_eq!(Labels::of([label(1), label(1)]), Err(BadLabel::Twice("k1".parse().unwrap())));
    }

    #[test]
    fn every_selector_must_fit() {
        let label = |key: &str, value: &str| (key.parse().unwrap(), value.parse().unwrap());
        let labels = Labels::of([label("team", "edge"), label("tier", "")]).unwrap();
        let fits = |texts: &[&str]| labels.fit(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>());
        assert!(fits(&[]) && fits(&["team"]) && fits(&["team=edge", "tier"]) && fits(&["tier="]));
        assert!(!fits(&["team=core"]) && !fits(&["team=edge", "zone"]) && !fits(&["team="]));
    }
}
