//! Hooks on which the kernel runs several programs, one after the other, those of others among them: tc. Each link of ours is a
//! generation of its own. What keeps its place stays; what moves comes to its new place before it leaves the old one, so that no packet
//! passes it by.
//!
//! This file must never move or remove a program of somebody else.

use std::collections::{BTreeMap, BTreeSet};

use super::room::Room;
use super::{Built, Turn, View, clsact, tcx};
use crate::ident::{GenerationUid, LinkUid, Uids};
use crate::kernel::{ChainContent, ChainMode, Live, LiveGeneration, Member, ObservedChain, SequenceEntry, Spot};
use crate::order;
use crate::plan::PlanError;

/// What is wanted at one place.
struct Wanted {
    member: Member,
    /// What stays there, and whether that runs as it is wanted.
    stays: Option<(Ours, bool)>,
}

/// A generation of ours in the sequence.
#[derive(Clone, Copy)]
struct Ours {
    live: LiveGeneration,
    preference: Option<u16>,
}

pub(super) fn turns(view: View<'_>, uids: &mut dyn Uids) -> Vec<Turn> {
    let View { target, observed, id, chain: ObservedChain { live, mode, .. } } = view;
    let sequence: &[SequenceEntry] = match live {
        Live::Sequence(sequence) => sequence,
        Live::Empty | Live::Ours(_) | Live::Dispatcher(_) | Live::Foreign(_) => &[],
    };
    let ours: Vec<Ours> =
        sequence.iter().filter_map(|entry| Some(Ours { live: entry.ours()?, preference: entry.preference })).collect();
    let by_filter = matches!(mode, ChainMode::Clsact { .. });
    let in_form = |ours: &Ours| ours.preference.is_some() == by_filter;
    let members = |ours: &Ours| observed.members_of(ours.live.generation);
    let members: Vec<Vec<Member>> = ours.iter().map(members).collect();
    let runs =
        |at: usize, link: LinkUid| matches!(members.get(at).map(Vec::as_slice), Some([member]) if member.link == link);
    let as_wanted = |at: usize, wanted: &Member| {
        let is_moved = ours.get(at).is_some_and(|ours| observed.is_moved(ours.live.generation));
        !is_moved && members.get(at).is_some_and(|members| members.iter().all(|member| member.runs_as(wanted)))
    };

    // Where each runs now. After a crash in the midst of a move it may run twice: what is as wanted counts.
    let now = |member: &Member| {
        let mut found = (0..ours.len()).filter(|at| runs(*at, member.link) && ours.get(*at).is_some_and(in_form));
        let first = found.clone().next();
        found.find(|at| as_wanted(*at, member)).or(first)
    };
    let wanted = order::members(target, id);
    let places: Vec<Option<usize>> = wanted.iter().map(now).collect();
    let stay = longest_rising(&places);
    let with_places = wanted.into_iter().zip(&places).map(|(member, place)| {
        let place = place.filter(|place| stay.contains(place));
        let stays = place.and_then(|at| Some((*ours.get(at)?, as_wanted(at, &member))));
        Wanted { member, stays }
    });
    let mut wanted: Vec<Wanted> = with_places.collect();

    let taken: BTreeSet<u16> = sequence.iter().filter_map(|entry| entry.preference).collect();
    let mut spots = Vec::new();
    if by_filter {
        let preferences = preferences(&mut wanted, &taken);
        spots = preferences.into_iter().map(Spot::Preference).collect();
    }
    let staying: BTreeSet<GenerationUid> =
        wanted.iter().filter_map(|wanted| wanted.stays.map(|(ours, _)| ours.live.generation)).collect();

    let mut turns = Vec::new();
    let mut before = None;
    // What a generation that stays is called once the turns so far were taken.
    let mut renamed = BTreeMap::new();
    for (at, Wanted { member, stays }) in wanted.iter().enumerate() {
        let next = || wanted.iter().skip(at + 1).find_map(|next| next.stays).map(|(ours, _)| ours.live.generation);
        let mut build = || {
            let members = vec![member.clone()];
            let recipes = order::recipes(target, &members);
            let content = ChainContent::Fused { members, recipes, room: Room::All };
            Built { generation: GenerationUid(uids.fresh()), before: vec![], content }
        };
        let spot = |spot: fn(Option<GenerationUid>, Option<GenerationUid>) -> Spot| {
            spots.get(at).copied().unwrap_or_else(|| spot(before, next()))
        };
        let runs = match stays {
            Some((Ours { live, .. }, true)) => {
                turns.push(Turn::Keep { live: *live, ours: true });
                live.generation
            }
            Some((Ours { live, .. }, false)) => {
                let (with, at) = (build(), spot(|_, _| Spot::Whole));
                let generation = with.generation;
                renamed.insert(live.generation, generation);
                turns.push(Turn::Replace { live: *live, with, at });
                generation
            }
            None => {
                let (with, at) = (build(), spot(tcx::spot));
                let generation = with.generation;
                turns.push(Turn::Add { with, at });
                generation
            }
        };
        before = Some(runs);
    }

    // Taken back, the last one comes again first: its next neighbour is there by then.
    let called = |generation: GenerationUid| renamed.get(&generation).copied().unwrap_or(generation);
    for (at, Ours { live, preference }) in
        ours.iter().enumerate().filter(|(_, ours)| !staying.contains(&ours.live.generation))
    {
        let in_tcx = |ours: &&Ours| ours.preference.is_none();
        let next = ours.iter().skip(at + 1).find(in_tcx).map(|next| called(next.live.generation));
        let stays = |before: &&Ours| staying.contains(&before.live.generation);
        let before = ours.iter().take(at).rev().filter(in_tcx).find(stays).map(|before| called(before.live.generation));
        let at = match (preference, next, before) {
            (Some(preference), _, _) => Spot::Preference(*preference),
            (None, Some(next), _) => Spot::Before(next),
            (None, None, before) => tcx::spot(before, None),
        };
        turns.push(Turn::Remove { live: *live, at });
    }
    turns
}

/// The preferences of all that is wanted, in order. If there is no room between two, all of them move.
fn preferences(wanted: &mut [Wanted], taken: &BTreeSet<u16>) -> Vec<u16> {
    let fixed = |wanted: &Wanted| wanted.stays.and_then(|(ours, _)| ours.preference);
    let mut taken_now = taken.clone();
    let mut given: Vec<u16> = Vec::new();
    for at in 0..wanted.len() {
        let after = wanted.iter().skip(at).find_map(fixed);
        let preference = match wanted.get(at).and_then(fixed) {
            Some(preference) => Some(preference),
            None => clsact::between(given.last().copied(), after, &taken_now),
        };
        match preference {
            Some(preference) => {
                taken_now.insert(preference);
                given.push(preference);
            }
            None => {
                wanted.iter_mut().for_each(|wanted| wanted.stays = None);
                return clsact::spread(wanted.len(), taken);
            }
        }
    }
    given
}

/// The places that can stay as they are: the most that are in rising order.
fn longest_rising(places: &[Option<usize>]) -> BTreeSet<usize> {
    let places: Vec<usize> = places.iter().copied().flatten().collect();
    // The longest run that ends with each, and what is before it there.
    let mut best: Vec<(usize, Option<usize>)> = Vec::new();
    for (at, place) in places.iter().enumerate() {
        let lower =
            best.iter().enumerate().filter(|(before, _)| places.get(*before).is_some_and(|other| other < place));
        let before = lower.max_by_key(|(before, (length, _))| (*length, std::cmp::Reverse(*before)));
        best.insert(at, before.map_or((1, None), |(before, (length, _))| (length + 1, Some(before))));
    }
    let longest = best.iter().enumerate().max_by_key(|(at, (length, _))| (*length, std::cmp::Reverse(*at)));
    let mut at = longest.map(|(at, _)| at);
    let mut rising = BTreeSet::new();
    while let Some(found) = at {
        rising.extend(places.get(found));
        at = best.get(found).and_then(|(_, before)| *before);
    }
    rising
}

pub(super) fn refuse(View { target, observed: _, id, chain }: View<'_>) -> Result<(), PlanError> {
    let ObservedChain { name, live, mode, .. } = chain;
    let others = match (live, mode) {
        (Live::Sequence(sequence), ChainMode::Tcx) => {
            sequence.iter().filter(|entry| entry.preference.is_none() && entry.ours().is_none()).count()
        }
        _ => return Ok(()),
    };
    let programs = order::ordered(target, id).len() + others;
    match programs > tcx::ROOM {
        true => Err(PlanError::ChainFull { chain: name.clone(), programs, room: tcx::ROOM }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_can_keep_their_places() {
        let rising = |places: &[Option<usize>]| longest_rising(places).into_iter().collect::<Vec<_>>();
        assert_eq!(rising(&[]), [0; 0]);
        assert_eq!(rising(&[Some(0), Some(1), Some(2)]), [0, 1, 2]);
        assert_eq!(rising(&[Some(1), Some(2), Some(0)]), [1, 2], "the first moves to the end");
        assert_eq!(rising(&[Some(2), None, Some(0), Some(1)]), [0, 1], "the last moves to the front");
        assert_eq!(rising(&[Some(3), Some(1), Some(2), Some(0)]), [1, 2]);
    }
}
