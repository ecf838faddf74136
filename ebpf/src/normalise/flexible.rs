//! CO-RE accesses of elements of flexible arrays (`ctx->args[0]` of `unsigned long args[]`): the array gets a length.
//!
//! `aya_obj` 0.3 allows such an access only if the array is the last member of its struct, as libbpf does, but where it asks for the
//! member's place it takes the element's index (`btf/relocation.rs`, `AccessSpec::new`): nearly every such access is refused. An array
//! that is long enough is not asked. So each access gets types of its own: those on the way to the array, copied with the array's length
//! and the sizes that follow from it. Names and members stay, and these are what the kernel's types are matched by.
//!
//! Must never change a type that something else refers to.

use std::collections::BTreeMap;

use super::types::NewTypes;
use crate::btf::{Btf, Type};
use crate::bytes::{index, put, u32_at};

/// Bytes of copied types: an access costs less than a kilobyte, most often a tenth of it.
const MAX_COPIES: usize = 1 << 20;

/// Makes the copies, and lets the records of `core` (a table that [`super::types`] wrote) name them.
pub(super) fn lengthen(btf: &Btf<'_>, types: &mut NewTypes, core: &mut [u8]) {
    let most = types.bytes.len().saturating_add(MAX_COPIES);
    let mut copies = BTreeMap::new();
    let mut at = 4;
    while let Some(records) = u32_at(core, at + 4) {
        at += 8;
        for _ in 0..records {
            let (root, access) = (u32_at(core, at + 4).unwrap_or_default(), u32_at(core, at + 8).unwrap_or_default());
            let kind = u32_at(core, at + 12).unwrap_or(u32::MAX);
            if kind <= LAST_FIELD_KIND && types.bytes.len() < most {
                let copy = *copies.entry((root, access)).or_insert_with(|| copied(btf, types, root, access));
                copy.and_then(|root| put(core, at + 4, &root.to_le_bytes()));
            }
            at += crate::btf_ext::CORE_RECORD;
        }
    }
}

/// `BPF_CORE_FIELD_RSHIFT_U64`: the kinds up to it are about members.
const LAST_FIELD_KIND: u32 = 5;

/// The new root type of an access; `None` if no flexible array is on its way.
fn copied(btf: &Btf<'_>, types: &mut NewTypes, root: u32, access: u32) -> Option<u32> {
    let steps: Vec<u32> = btf.string(access).split(':').map_while(|step| step.parse().ok()).collect();
    // The first step is an index of the root itself: `0` but for pointers used as arrays.
    copy(btf, types, root, steps.get(1..)?, false).map(|(root, _)| root)
}

/// A copy of `id` in which the array that `steps` lead to is long enough, and its size in bytes. `last`: whether `id` is the type of its
/// struct's last member.
fn copy(btf: &Btf<'_>, types: &mut NewTypes, id: u32, steps: &[u32], last: bool) -> Option<(u32, u32)> {
    let bytes = btf.raw(id)?;
    let (step, rest) = steps.split_first()?;
    match btf.get(id)? {
        // Aliases use up no step: a circle of them leads nowhere.
        Type::Alias { of, .. } => {
            btf.resolve(id)?;
            let (of, size) = copy(btf, types, of, steps, last)?;
            Some((types.push(bytes, &[(8, of)]), size))
        }
        Type::Struct { size, members } | Type::Union { size, members } => {
            let (member, place) = members.placed().nth(index(*step))?;
            let last = members.placed().count() == index(*step) + 1;
            let (of, inner) = copy(btf, types, member.of, rest, last)?;
            let size = place.offset.div_ceil(8).checked_add(inner)?.max(size);
            // A struct's members follow its 12 bytes, 12 bytes each; the type is the second word.
            let member = 12 + 12 * index(*step) + 4;
            Some((types.push(bytes, &[(8, size), (member, of)]), size))
        }
        // The element's type, the index's and the length follow the 12 bytes.
        Type::Array { element, len: 0 } if last => {
            let len = step.checked_add(1)?;
            let size = btf.size(element)?.checked_mul(len)?;
            Some((types.push(bytes, &[(20, len)]), size))
        }
        Type::Array { element, len } => {
            let (element, size) = copy(btf, types, element, rest, false)?;
            Some((types.push(bytes, &[(12, element)]), size.checked_mul(len)?))
        }
        _ => None,
    }
}
