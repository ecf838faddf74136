//! A walk over all elements of a map that may change meanwhile, a page at a time. It ends: of a hash map whose key at hand is gone, the
//! kernel begins anew, so as many keys are read as the map can hold and no more.

use std::time::{Duration, Instant};

use bpfd_core::maps::Shown;

use super::{MapFailure, Opened};

/// Elements of a page.
const ELEMENTS: usize = 1000;
/// Bytes of a page as text. One element may have more; a message has room for the largest.
const BYTES: usize = 64 << 10;
/// Time that a page takes at most: others wait for the thread.
const TIME: Duration = Duration::from_millis(50);
/// Keys beyond `max_entries`, which the kernel rounds up for some kinds.
const BEYOND: u64 = 4096;

/// How a walk ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DumpEnd {
    /// At the end of the map.
    Complete,
    /// At the caller's limit.
    Limit,
    /// After as many keys as the map can hold.
    Changed,
}

/// Some elements, as text.
#[derive(Debug, Default)]
pub struct Page {
    /// Key and value.
    pub elements: Vec<(String, String)>,
    /// `None`: there are more.
    pub end: Option<DumpEnd>,
}

/// See the module.
#[derive(Debug)]
pub struct Walk {
    opened: Opened,
    shown: Shown,
    /// How many elements the caller still wants.
    wanted: Option<u64>,
    keys: Keys,
}

impl Walk {
    /// Over this map.
    pub fn new(opened: Opened, shown: Shown, limit: Option<u64>) -> Self {
        let keys = Keys::new(&opened);
        Self { opened, shown, wanted: limit, keys }
    }

    /// The next elements.
    pub fn page(&mut self) -> Result<Page, MapFailure> {
        let mut page = Page::default();
        let (mut bytes, begun) = (0, Instant::now());
        while bytes < BYTES && page.elements.len() < ELEMENTS && begun.elapsed() < TIME {
            if self.wanted == Some(0) {
                page.end = Some(DumpEnd::Limit);
                return Ok(page);
            }
            let key = match self.keys.next(&self.opened)? {
                Next::Key(key) => key,
                Next::End(end) => {
                    page.end = Some(end);
                    return Ok(page);
                }
            };
            // Removed since its key was read, or the empty place of an array of maps.
            let Some(value) = self.opened.map.lookup(&key).map_err(MapFailure::reading)? else { continue };
            let elements = &self.opened.elements;
            let element = (elements.shown_key(&key, self.shown.form), elements.shown_value(&value, self.shown));
            bytes += element.0.len() + element.1.len();
            page.elements.push(element);
            self.wanted = self.wanted.map(|wanted| wanted.saturating_sub(1));
        }
        Ok(page)
    }
}

/// The keys of a map, one after the other.
#[derive(Debug)]
pub(super) struct Keys {
    last: Option<Vec<u8>>,
    left: u64,
}

pub(super) enum Next {
    Key(Vec<u8>),
    End(DumpEnd),
}

impl Keys {
    pub(super) fn new(opened: &Opened) -> Self {
        Self { last: None, left: u64::from(opened.map.max_entries()) + BEYOND }
    }

    pub(super) fn next(&mut self, opened: &Opened) -> Result<Next, MapFailure> {
        let next = opened.map.next_key(self.last.as_deref()).map_err(MapFailure::reading)?;
        let Some(key) = next else { return Ok(Next::End(DumpEnd::Complete)) };
        let Some(left) = self.left.checked_sub(1) else { return Ok(Next::End(DumpEnd::Changed)) };
        self.left = left;
        self.last = Some(key.clone());
        Ok(Next::Key(key))
    }
}
