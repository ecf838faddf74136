//! The policy of a host: who may do what, and whose signatures count. One reader of the policy files, one decision.
//!
//! Pure: texts, keys and facts go in; a [`Policy`] or a decision comes out. It must never open a file, look at a socket or a clock,
//! check a signature, or know how the daemon keeps its state. Own `clippy.toml`, checked by `cargo xtask tidy`.

pub mod accounts;
pub mod age;
pub mod builtin;
pub mod caller;
mod conditions;
pub mod decide;
pub mod digest;
pub mod downgrade;
pub mod expect;
pub mod glob;
pub mod image;
pub mod key;
pub mod limits;
pub mod name;
pub mod order;
pub mod quota;
pub mod read;
pub mod reference;
pub mod refusal;
pub mod rule;
pub mod rules;
pub mod scope;
mod show;
pub mod signer;
pub mod words;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::image::ImageRule;
use crate::name::Name;
use crate::order::Order;
use crate::rules::Rules;
use crate::signer::Signer;

/// What holds on a host. The default is the built-in policy, which lets no image through.
///
/// Whoever holds one shares it whole, as an `Arc<Policy>`: a decision is made by one policy, never by halves of two.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Policy {
    /// The files it was read from, in their order.
    pub files: Vec<String>,
    /// Each `[[signer]]`.
    pub signers: BTreeMap<Name, Signer>,
    /// Each `[[image]]`; no two have the same scope.
    pub images: Vec<ImageRule>,
    /// Each `[[rule]]`, in the order of the files, after the built-in ones that hold.
    pub rules: Rules,
    /// Each `[[order]]`, in the order of the files. Policies that earlier versions kept have none.
    #[serde(default)]
    pub orders: Vec<Order>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { files: vec![], signers: BTreeMap::new(), images: vec![], rules: builtin::all().into(), orders: vec![] }
    }
}

/// Line and column of a byte offset, both from 1; the column counts characters.
#[must_use]
pub fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let column = before.chars().rev().take_while(|character| *character != '\n').count();
    (before.matches('\n').count() + 1, column + 1)
}
