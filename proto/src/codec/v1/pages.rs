//! What fits one message: pages of lists, and lists of texts in answers. What one caller puts into a list must never keep others from
//! reading it.
//!
//! A message is made when its turn comes, so a page costs what is on it. Must never know what a list contains.

use prost::Message;

use super::{BadField, bad};
use crate::MESSAGE_LIMIT;

/// Items of a page, unless the caller asks for another number.
const USUAL: usize = 100;
/// Items of a page at most.
const MOST: u32 = 1000;
/// Bytes of a page's items: the limit of a message, less room for the other fields and for headers.
const BYTES: usize = MESSAGE_LIMIT - (64 << 10);
/// Bytes of one list of texts in an answer, which may have several: names of what is gone, lines of a plan, findings.
const TEXTS: usize = 128 << 10;
/// Bytes that a field of a message takes beside its content: tag and length.
const AROUND: usize = 6;

/// The part of a page that fits one message.
#[derive(Debug, Eq, PartialEq)]
pub struct Fitted<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// What the next page begins after; empty on the last.
    pub next: String,
    /// The places of items that were left out because no message has room for them.
    pub oversized: Vec<String>,
}

/// How many items a page has at most.
///
/// # Errors
/// [`BadField`]: not 1 to 1000.
pub fn page_size(asked: Option<u32>) -> Result<usize, BadField> {
    let refused = |asked| bad("page_size", format!("a page has 1 to {MOST} items; {asked} were asked for"));
    match asked {
        None => Ok(USUAL),
        Some(asked @ 1..=MOST) => usize::try_from(asked).map_err(|_large| refused(asked)),
        Some(other) => Err(refused(other)),
    }
}

/// As much of a page as fits one message. Each item comes with its place in the list; places ascend. `next` is what the page after this one
/// begins after if all of it fits.
///
/// An item that alone does not fit is left out, so that callers can read the rest of the list.
pub fn fitting<T: Message>(page: impl IntoIterator<Item = (String, impl FnOnce() -> T)>, next: String) -> Fitted<T> {
    let mut fitted = Fitted { items: vec![], next, oversized: vec![] };
    let mut left = BYTES;
    let mut last = String::new();
    for (place, make) in page {
        let item = make();
        let bytes = item.encoded_len() + AROUND;
        if bytes > BYTES {
            fitted.oversized.push(place.clone());
        } else if bytes > left {
            return Fitted { next: last, ..fitted };
        } else {
            left -= bytes;
            fitted.items.push(item);
        }
        last = place;
    }
    fitted
}

/// As many texts as an answer has room for; then one more that says how many are left out.
pub fn texts(list: Vec<String>) -> Vec<String> {
    let mut left = TEXTS;
    let fit = list.iter().take_while(|text| {
        let bytes = text.len() + AROUND;
        let fits = bytes <= left;
        left = left.saturating_sub(bytes);
        fits
    });
    let fit = fit.count();
    let more = list.len() - fit;
    let said = (more > 0).then(|| format!("and {more} more"));
    list.into_iter().take(fit).chain(said).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A list of texts of these lengths, by their place.
    fn list(lengths: &[usize]) -> impl Iterator<Item = (String, impl FnOnce() -> String)> {
        lengths.iter().enumerate().map(|(place, length)| (format!("{place:03}"), move || "x".repeat(*length)))
    }

    #[test]
    fn a_page_ends_where_the_message_ends() {
        let check = |lengths: &[usize], items: usize, next: &str, oversized: &[&str]| {
            let fitted = fitting(list(lengths), "more".to_owned());
            assert_eq!((fitted.items.len(), fitted.next.as_str()), (items, next));
            assert_eq!(fitted.oversized, oversized);
        };
        check(&[], 0, "more", &[]);
        check(&[1, 1], 2, "more", &[]);
        check(&[BYTES / 2, BYTES / 3, BYTES / 3], 2, "001", &[]);
        // An item that never fits does not block the rest.
        check(&[1, BYTES, 1], 2, "more", &["001"]);
        check(&[BYTES, BYTES / 2, BYTES / 2 + 1], 1, "001", &["000"]);
    }

    #[test]
    fn what_comes_after_the_end_of_a_message_is_not_made() {
        let made = Cell::new(0);
        let list = (0..100).map(|place| {
            let made = &made;
            (format!("{place:03}"), move || {
                made.set(made.get() + 1);
                "x".repeat(BYTES / 3)
            })
        });
        assert_eq!(fitting(list, String::new()).next, "001");
        assert_eq!(made.get(), 3);
    }

    #[test]
    fn a_page_has_1_to_1000_items() {
        assert_eq!([None, Some(1), Some(1000)].map(|asked| page_size(asked).ok()), [Some(100), Some(1), Some(1000)]);
        assert!(page_size(Some(0)).is_err() && page_size(Some(1001)).is_err());
    }

    #[test]
    fn texts_that_do_not_fit_are_counted() {
        let long = "x".repeat(TEXTS / 3);
        assert_eq!(texts(vec![String::from("a"), long.clone()]).len(), 2);
        let cut = texts(vec![long; 9]);
        assert_eq!((cut.len(), cut.last().map(String::as_str)), (3, Some("and 7 more")));
    }
}
