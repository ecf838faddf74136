//! Room in the image store: what nothing needs, and what of it goes when the store is too large. Must never take away what an app came from
//! or what a file of programs.d names.

use std::collections::BTreeSet;

use bpfd_core::policy::{Principal, Stage};
use bpfd_core::request::Apply;
use bpfd_core::state::State;
use bytecode_image::reference::Reference;
use bytecode_image::store::Named;

use super::{ImageError, Removed, Shared, users};

/// Bytes of blobs above which images go that nothing needs: room for a hundred images of 5 MB, which is what a node with a dozen agents pulls in
/// a year of releases.
const QUOTA: u64 = 512 << 20;

/// What keeps images in the store.
#[derive(Clone, Debug)]
pub struct Needed {
    /// Apps, and what they came from.
    pub state: State,
    /// What files of programs.d name.
    pub files: Vec<Reference>,
    /// There is a file whose images are not known.
    pub all: bool,
}

impl Needed {
    fn has(&self, Named { reference, image }: &Named) -> bool {
        let names = |named: &Reference| {
            named == reference || named.name() == reference.name() && named.digest() == Some(image.digest)
        };
        self.all || self.files.iter().any(names) || !users(&self.state, reference, image.digest).is_empty()
    }
}

impl Shared {
    pub(super) fn prune(&self, caller: &Principal, needed: &Needed, apply: Apply) -> Result<Removed, ImageError> {
        let may = |named: &Named| self.may_pull(caller, &named.reference, None, Stage::First).is_ok();
        let going = self.store.list()?.into_iter().filter(|named| !needed.has(named) && may(named)).collect();
        self.take_away(going, apply)
    }

    pub(super) fn keep_quota(&self, needed: &Needed) -> Result<Removed, ImageError> {
        let (bytes, quota) = (self.store.bytes()?, crate::fail_points::bytes("image-quota").unwrap_or(QUOTA));
        let mut over = bytes.saturating_sub(quota);
        let mut going = BTreeSet::new();
        if over > 0 {
            let mut unneeded: Vec<Named> = self.store.list()?.into_iter().filter(|named| !needed.has(named)).collect();
            unneeded.sort_by_key(|named| self.store.last_used(named.image.digest));
            for named in unneeded {
                if over == 0 {
                    break;
                }
                // What another name needs as well does not go: then the next pull takes more.
                over = over.saturating_sub(self.stored(&named).size);
                going.insert(named);
            }
        }
        if going.is_empty() {
            return Ok(Removed { references: vec![], freed: 0 });
        }
        self.take_away(going, Apply::Write)
    }
}
