//! Pages of a list: as many items as the caller asks for, and no more than fit one message. What somebody put into a list must never
//! keep others from reading it.
//!
//! An item is made when its turn comes, so a page costs what is on it. Must never know what a list is of.

use bpfd_core::wire::BadField;
use bpfd_proto::MESSAGE_LIMIT;
use prost::Message;

/// Items of a page unless the caller asks for another number.
const USUAL: usize = 100;
/// Items of a page at most.
const MOST: u32 = 1000;
/// Bytes of a page's items: a message, less what stands around them and their lengths.
const BYTES: usize = MESSAGE_LIMIT - (64 << 10);
/// Bytes of the texts of one list in an answer that has several: names that are gone, lines of a plan, warnings.
const TEXTS: usize = 128 << 10;
/// Bytes that a field of a message takes beside its text.
const AROUND: usize = 6;

/// One page.
#[derive(Debug, Eq, PartialEq)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Where the next one begins; empty after the last.
    pub next: String,
}

/// How many items a page has at most.
///
/// # Errors
/// [`BadField`]: not 1 to 1000.
pub fn size(asked: Option<u32>) -> Result<usize, BadField> {
    let bad =
        |asked| BadField { field: "page_size", why: format!("a page has 1 to {MOST} items; {asked} were asked for") };
    match asked {
        None => Ok(USUAL),
        Some(asked @ 1..=MOST) => usize::try_from(asked).map_err(|_large| bad(asked)),
        Some(other) => Err(bad(other)),
    }
}

/// The first page of what is left: each item with its place in the list, by which the next page finds its beginning. Places ascend.
///
/// An item that alone does not fit is left out and said in the log: the rest of the list is worth more.
pub fn page<T: Message>(size: usize, rest: impl IntoIterator<Item = (String, impl FnOnce() -> T)>) -> Page<T> {
    let mut items = Vec::new();
    let mut left = BYTES;
    let mut last = String::new();
    for (place, make) in rest {
        if items.len() == size {
            return Page { items, next: last };
        }
        let item = make();
        let bytes = item.encoded_len() + AROUND;
        if bytes > BYTES {
            tracing::error!(place, bytes, "an item does not fit a message, and is left out of a list");
        } else if bytes > left {
            return Page { items, next: last };
        } else {
            left -= bytes;
            items.push(item);
        }
        last = place;
    }
    Page { items, next: String::new() }
}

/// As many texts as an answer has room for beside others; of the rest the last one says how many there are.
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
    fn a_page_ends_where_the_caller_or_the_message_ends() {
        let of = |size, lengths: &[usize]| {
            let Page { items, next } = page(size, list(lengths));
            (items.len(), next)
        };
        assert_eq!(of(2, &[1, 1]), (2, String::new()));
        assert_eq!(of(2, &[1, 1, 1]), (2, "001".to_owned()));
        assert_eq!(of(1000, &[BYTES / 2, BYTES / 3, BYTES / 3]), (2, "001".to_owned()));
        assert_eq!(of(1000, &[]), (0, String::new()));
        // What never fits stops nobody.
        assert_eq!(of(1000, &[1, BYTES, 1]), (2, String::new()));
        assert_eq!(of(1, &[BYTES, 1, 1]), (1, "001".to_owned()));
    }

    #[test]
    fn only_what_is_on_a_page_is_made() {
        let made = Cell::new(0);
        let list = (0..100).map(|place| {
            let made = &made;
            (format!("{place:03}"), move || {
                made.set(made.get() + 1);
                String::from("x")
            })
        });
        assert_eq!(page(3, list).next, "002");
        assert_eq!(made.get(), 3);
    }

    #[test]
    fn a_page_has_1_to_1000_items() {
        assert_eq!([None, Some(1), Some(1000)].map(|asked| size(asked).ok()), [Some(100), Some(1), Some(1000)]);
        assert!(size(Some(0)).is_err() && size(Some(1001)).is_err());
    }

    #[test]
    fn texts_that_do_not_fit_are_counted() {
        let long = "x".repeat(TEXTS / 3);
        assert_eq!(texts(vec![String::from("a"), long.clone()]).len(), 2);
        let cut = texts(vec![long; 9]);
        assert_eq!((cut.len(), cut.last().map(String::as_str)), (3, Some("and 7 more")));
    }
}
