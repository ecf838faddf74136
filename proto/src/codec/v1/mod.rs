//! `bpfd.v1`: messages to typed requests, where every field is parsed, and rows, observations and reports to messages.
//!
//! Text that came from objects or peers goes out as it is: clients escape what they print. Must never touch the host: what a message
//! says of paths comes from the caller's [`Paths`].

mod chain;
pub mod hook;
mod image;
mod map;
mod pages;
mod report;
mod request;
mod row;
mod state;

use bpfd_core::ident::{AppUid, KernelId};

pub use self::chain::{chain, dispatcher_version};
pub use self::hook::shared::{interface_name, point, proceed_on, shown_proceed_on};
pub use self::image::section;
pub use self::map::{map_ref, map_use};
pub use self::pages::{Fitted, fitting, page_size, texts};
pub use self::report::{plan, progress, time, warnings};
pub use self::request::{label_selectors, pull_policy, request_id};
pub use self::row::{app, link, map};
pub use self::state::lost_state;

/// A field that does not parse.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{why}")]
pub struct BadField {
    /// Its path in the message.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

/// Paths on the daemon's host that messages carry.
pub trait Paths {
    /// The pin of an app's map.
    fn map_pin(&self, app: AppUid, map: &str) -> Option<String>;

    /// The pin that libxdp makes for the program in a slot of a dispatcher, if it is there.
    fn libxdp_pin(&self, ifindex: u32, dispatcher: KernelId, slot: u32) -> Option<String>;
}

fn bad(field: &'static str, why: impl ToString) -> BadField {
    BadField { field, why: why.to_string() }
}

fn parsed<T: std::str::FromStr<Err: ToString>>(field: &'static str, text: &str) -> Result<T, BadField> {
    text.parse().map_err(|error: T::Err| bad(field, error))
}

fn bounded<T>(field: &'static str, list: &[T], limit: usize) -> Result<(), BadField> {
    if list.len() > limit {
        Err(bad(field, format!("at most {limit} `{field}`; {} were sent", list.len())))
    } else {
        Ok(())
    }
}
