//! Looks at a map again and again, and what changed from one look to the next. The kernel tells nobody of changes of a map: what comes and
//! goes between two looks is not seen. It keeps a digest of each value, and no value.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use bpfd_core::maps::{Shown, WATCH_ELEMENTS};

use super::walk::{Keys, Next};
use super::{MapFailure, Opened};

/// Bytes of one message as text, but for its last element.
const BYTES: usize = 64 << 10;
/// Time that a part of a look takes at most: others wait for the thread.
const TIME: Duration = Duration::from_millis(50);
/// Bytes of all keys that are kept.
const KEYS: usize = 512 << 10;

/// What became of an element.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// It is there, and was not seen before: key and value.
    Present(String, String),
    /// It has another value.
    Changed(String, String),
    /// It is gone.
    Gone(String),
}

/// A part of a look.
#[derive(Debug, Default)]
pub struct Changes {
    /// In the order of the map.
    pub changes: Vec<Change>,
    /// Whether the look is done.
    pub done: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Watch {
    opened: Opened,
    shown: Shown,
    /// These alone; `None`: all.
    only: Option<Vec<Vec<u8>>>,
    known: BTreeMap<Vec<u8>, Seen>,
    kept: usize,
    /// The look that is made, counted from 1.
    look: u64,
    now: Now,
    digests: RandomState,
}

/// Of an element.
#[derive(Clone, Copy, Debug)]
struct Seen {
    digest: u64,
    /// The last look that found it.
    look: u64,
}

/// How far a look is.
#[derive(Debug)]
enum Now {
    Listed(usize),
    Walking(Keys),
    /// All keys were read: those of earlier looks that were not among them are left.
    Missing(Vec<Vec<u8>>),
}

impl Watch {
    /// Of this map: these elements, or all.
    pub fn new(opened: Opened, shown: Shown, only: Vec<Vec<u8>>) -> Self {
        let only = (!only.is_empty()).then_some(only);
        let now = Self::begin(&opened, only.as_ref());
        let (known, digests) = (BTreeMap::new(), RandomState::new());
        Self { opened, shown, only, known, kept: 0, look: 1, now, digests }
    }

    fn begin(opened: &Opened, only: Option<&Vec<Vec<u8>>>) -> Now {
        if only.is_some() { Now::Listed(0) } else { Now::Walking(Keys::new(opened)) }
    }

    /// The next part of the look, or the first part of the next look.
    pub fn part(&mut self) -> Result<Changes, MapFailure> {
        let mut part = Changes::default();
        let (mut bytes, begun) = (0, Instant::now());
        while bytes < BYTES && begun.elapsed() < TIME {
            let Some(key) = self.next()? else {
                part.done = true;
                self.look += 1;
                self.now = Self::begin(&self.opened, self.only.as_ref());
                return Ok(part);
            };
            if let Some(change) = self.seen(key)? {
                bytes += match &change {
                    Change::Present(key, value) | Change::Changed(key, value) => key.len() + value.len(),
                    Change::Gone(key) => key.len(),
                };
                part.changes.push(change);
            }
        }
        Ok(part)
    }

    /// The next key of this look.
    fn next(&mut self) -> Result<Option<Vec<u8>>, MapFailure> {
        match &mut self.now {
            Now::Listed(at) => {
                let key = self.only.iter().flatten().nth(*at).cloned();
                *at += 1;
                Ok(key)
            }
            Now::Missing(left) => Ok(left.pop()),
            Now::Walking(keys) => match keys.next(&self.opened)? {
                Next::Key(key) => Ok(Some(key)),
                Next::End(_) => {
                    let missing = self.known.iter().filter(|(_, seen)| seen.look != self.look);
                    let mut missing: Vec<Vec<u8>> = missing.map(|(key, _)| key.clone()).collect();
                    let last = missing.pop();
                    self.now = Now::Missing(missing);
                    Ok(last)
                }
            },
        }
    }

    /// What is new of the element of this key.
    fn seen(&mut self, key: Vec<u8>) -> Result<Option<Change>, MapFailure> {
        let value = self.opened.map.lookup(&key).map_err(MapFailure::reading)?;
        let shown = |bytes: &[u8]| self.opened.elements.shown_key(bytes, self.shown.form);
        let Some(value) = value else {
            if self.known.remove(&key).is_none() {
                return Ok(None);
            }
            self.kept = self.kept.saturating_sub(key.len());
            return Ok(Some(Change::Gone(shown(&key))));
        };
        let now = Seen { digest: self.digests.hash_one(&value), look: self.look };
        let text = || self.opened.elements.shown_value(&value, self.shown);
        match self.known.get_mut(&key) {
            Some(before) if before.digest == now.digest => {
                before.look = now.look;
                Ok(None)
            }
            Some(before) => {
                *before = now;
                Ok(Some(Change::Changed(shown(&key), text())))
            }
            None => {
                let change = Change::Present(shown(&key), text());
                self.kept += key.len();
                if self.known.len() >= WATCH_ELEMENTS || self.kept > KEYS {
                    return Err(MapFailure::TooMany);
                }
                self.known.insert(key, now);
                Ok(Some(change))
            }
        }
    }
}
