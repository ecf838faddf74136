//! Which network namespaces are watched for interfaces that come and go, since not all can be. Pure; who listens is elsewhere.
//!
//! It must never let one user's links take the place of root's.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::{Netns, NetnsName};
use crate::state::{Link, State};

/// How many named namespaces are watched at a time: each takes a descriptor, and up to 256 KiB of the kernel's memory for events that
/// wait. Links in others are looked at with each change of theirs and at every start.
pub const WATCHED_MAX: usize = 256;

/// The named namespaces that links are asked for in, and those by which they are reached now.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Watched {
    /// Watched.
    pub names: BTreeSet<NetnsName>,
    /// Too many.
    pub beyond: BTreeSet<NetnsName>,
}

/// The named namespaces that a link is asked for in, and reached in now.
fn names(link: &Link) -> impl Iterator<Item = &NetnsName> {
    let called = link.on.as_ref().map(|seat| &seat.called);
    link.placement.asked().into_iter().chain(called).filter_map(|name| match &name.netns {
        Netns::Named(netns) => Some(netns),
        Netns::Host | Netns::Nameless(_) => None,
    })
}

/// Root's come first; the others' users take turns. Each user's are in the order in which they were asked for.
pub fn watched(state: &State) -> Watched {
    let mut links: Vec<_> = state.links.values().filter(|link| names(link).next().is_some()).collect();
    links.sort_by_key(|link| link.handle);
    let mut of_users: BTreeMap<u32, Vec<&NetnsName>> = BTreeMap::new();
    for link in links {
        of_users.entry(link.owner.uid).or_default().extend(names(link));
    }
    let mut turns: BTreeMap<&NetnsName, (bool, usize, u32)> = BTreeMap::new();
    for (uid, names) in &of_users {
        let mut seen = BTreeSet::new();
        let names = names.iter().filter(|name| seen.insert(**name));
        for (turn, name) in names.enumerate() {
            let turn = (*uid != 0, turn, *uid);
            turns.entry(name).and_modify(|first| *first = turn.min(*first)).or_insert(turn);
        }
    }
    let mut names: Vec<_> = turns.into_iter().collect();
    names.sort_by_key(|(_, turn)| *turn);
    let mut names = names.into_iter().map(|(name, _)| name.clone());
    Watched { names: names.by_ref().take(WATCHED_MAX).collect(), beyond: names.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hook::{ChainName, Place, Placement, Point, ProceedOn, XdpMode};
    use crate::ident::{AppUid, Handle, LinkUid};
    use crate::names::Priority;
    use crate::state::{Link, LinkLifetime, LinkOrigin, Owner, WhenAbsent};

    fn named(name: &str) -> NetnsName {
        name.parse().unwrap()
    }

    /// Links of these users in these namespaces, asked for in this order.
    fn state(links: impl Iterator<Item = (u32, String)>) -> State {
        let link = |(number, (uid, netns)): (u32, (u32, String))| {
            let (priority, proceed_on, mode) = (Priority::DEFAULT, ProceedOn::PASS, XdpMode::Auto);
            let asked =
                ChainName { netns: Netns::Named(named(&netns)), interface: "eth0".parse().unwrap(), point: Point::Xdp };
            let uuid = u128::from(number).to_be_bytes();
            let link = Link {
                uid: LinkUid::from_bytes(uuid),
                handle: Handle(number),
                app: AppUid::from_bytes([9; 16]),
                function: "pass".to_owned(),
                placement: Placement::Shared(Place {
                    asked,
                    priority,
                    effective: priority,
                    order: None,
                    proceed_on,
                    mode,
                }),
                on: None,
                owner: Owner { uid, user: None },
                credentials: None,
                origin: LinkOrigin::Request,
                lifetime: LinkLifetime::UntilDetached,
                when_absent: WhenAbsent::Wait,
                created: 0,
                generation: 1,
                request: None,
            };
            (link.uid, link)
        };
        State { links: (1..).zip(links).map(link).collect(), ..State::default() }
    }

    #[test]
    fn roots_come_first_however_many_a_member_has_and_whoever_was_first() {
        let members = (0..300).map(|number| (7, format!("a{number:03}")));
        let Watched { names, beyond } = watched(&state(members.chain([(0, "z".to_owned())])));
        assert_eq!((names.len(), beyond.len()), (WATCHED_MAX, 45));
        assert!(names.contains(&named("z")) && names.contains(&named("a254")) && beyond.contains(&named("a255")));
    }

    #[test]
    fn users_take_turns_and_a_name_of_two_is_watched_for_the_first_of_them() {
        let seven = (0..300).map(|number| (7, format!("a{number:03}")));
        let eight = (0..3).map(|number| (8, format!("b{number}")));
        let Watched { names, beyond } = watched(&state(seven.chain(eight).chain([(0, "a299".to_owned())])));
        assert!(["a299", "b0", "b1", "b2"].into_iter().all(|name| names.contains(&named(name))));
        assert_eq!((names.len(), beyond.len()), (WATCHED_MAX, 303 - WATCHED_MAX));
    }
}
