//! A chain's own program: all members in one, with the frozen map in it that says which they are and for which interface.
//!
//! This file must never touch an interface.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd};

use bpfd_core::chain::room::Room;
use bpfd_core::hook::ChainId;
use bpfd_core::ident::{GenerationUid, KernelId};
use bpfd_core::kernel::{Member, StepError};
use bpfd_sys::bpf::{btf_load, prog_info};
use ebpf::chain_record::CHAIN_MAP_NAME;
use ebpf::fuse::{self, CannotFuse, Size, fuse};

use super::generation::{self, Built, entry, freeze};
use crate::causes::error_chain;
use crate::kernel::failed;
use crate::kernel::prepare::{Codes, TOO_LARGE, load};

/// Builds a generation: one program of all members, in order, with the record of them.
pub(crate) fn build(
    uid: GenerationUid,
    chain: ChainId,
    members: &[Member],
    room: Room,
    apps: &Codes,
) -> Result<Built, StepError> {
    let place = generation::place(uid, chain);
    let parts = members.iter().map(|member| part(member, apps)).collect::<Result<Vec<_>, StepError>>()?;
    room.takes(Size::of(&parts)).map_err(StepError::Kept)?;
    let fused = fuse(place, &parts).map_err(|error| cannot_fuse(&error, error.place_in(&parts), members))?;

    let record =
        freeze(CHAIN_MAP_NAME, fused.record()).map_err(failed(|| format!("make the record of generation {uid}")))?;
    let types = btf_load(fused.btf()).map_err(|error| StepError::Call {
        doing: format!("load the types of generation {uid}"),
        errno: error.error.to_string(),
    })?;
    let program =
        load(&fused.link(record.as_raw_fd()), Some(types.as_fd())).map_err(|error| about(error, &parts, members))?;
    let info = prog_info(program.as_fd()).map_err(failed(|| format!("read the program of generation {uid}")))?;
    room.takes_steps(info.verified_insns).map_err(StepError::Kept)?;
    Ok(Built { program, record, id: KernelId(info.id.0), chain })
}

fn part<'a>(member: &Member, apps: &'a Codes) -> Result<fuse::Member<'a>, StepError> {
    let Member { link: _, app, function, priority: _, effective: _, proceed_on: _ } = member;
    let missing = || StepError::Object { why: format!("it has no program `{function}`") };
    let program = apps.get(app).and_then(|code| code.programs.get(function)).ok_or_else(missing)?;
    Ok(fuse::Member { entry: entry(member), program })
}

/// What the verifier says of all members together: where it stopped is nobody's fault (`do_check` and `push_stack` of
/// kernel/bpf/verifier.c). Frames and stack are those of one member's calls.
const TOGETHER: [&str; 2] = [TOO_LARGE, "The sequence of"];

/// Names the member that the verifier rejects, by the instruction that it objects to; none if it objects to all of them together.
fn about(error: StepError, parts: &[fuse::Member<'_>], members: &[Member]) -> StepError {
    let StepError::Verifier { program, link: _, log, rejection } = error else { return error };
    let says = |words: &str| rejection.message.as_ref().is_some_and(|message| message.starts_with(words));
    let instruction = rejection.instruction.filter(|_| members.len() < 2 || !TOGETHER.iter().any(|words| says(words)));
    let place = instruction.and_then(|instruction| fuse::member_at(parts, instruction));
    let member = place.and_then(|place| members.get(place));
    let program = member.map_or(program, |member| member.function.clone());
    StepError::Verifier { program, link: member.map(|member| member.link), log, rejection }
}

/// Names the member that is in the way, at this place: its function, with its app where two members share the function's name.
fn cannot_fuse(error: &CannotFuse, place: Option<usize>, members: &[Member]) -> StepError {
    let why = error_chain(error);
    let Some(Member { link, app, function, .. }) = place.and_then(|place| members.get(place)) else {
        // Many members may have one name: it is said once.
        let names: BTreeSet<&str> = members.iter().map(|member| member.function.as_str()).collect();
        let all = names.into_iter().collect::<Vec<_>>().join("`, `");
        return StepError::CannotFuse { member: all, link: None, why };
    };
    let member = match members.iter().filter(|member| member.function == *function).count() {
        1 => function.clone(),
        _ => format!("{app}/{function}"),
    };
    StepError::CannotFuse { member, link: Some(*link), why }
}

#[cfg(test)]
mod tests {
    use bpfd_core::hook::ProceedOn;
    use bpfd_core::ident::{AppUid, LinkUid};
    use bpfd_core::names::Priority;

    use super::*;

    #[test]
    fn the_member_in_the_way_is_named_with_its_app_only_if_it_must_be() {
        let member = |app: u8, function: &str| Member {
            link: LinkUid::from_bytes([app; 16]),
            app: AppUid::from_bytes([app; 16]),
            function: function.to_owned(),
            priority: Priority::DEFAULT,
            effective: Priority::DEFAULT,
            proceed_on: ProceedOn::PASS,
        };
        let named =
            |place, members: &[Member]| match cannot_fuse(&CannotFuse::NotXdp { member: "f".into() }, place, members) {
                StepError::CannotFuse { member, link, .. } => (member, link.map(|link| link.bytes()[0])),
                other => panic!("{other}"),
            };
        assert_eq!(named(Some(0), &[member(1, "f"), member(2, "g")]), ("f".to_owned(), Some(1)));
        assert_eq!(
            named(Some(0), &[member(1, "f"), member(2, "f")]),
            ("01010101010101010101010101010101/f".to_owned(), Some(1))
        );
        let many: Vec<Member> = (0..63).map(|app| member(app, "count")).chain([member(63, "drop")]).collect();
        assert_eq!(named(None, &many), ("count`, `drop".to_owned(), None));
    }
}
