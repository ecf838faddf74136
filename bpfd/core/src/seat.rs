//! Which chain a link is in. It stays in the chain of the interface that it was attached to for as long as that interface lives,
//! whatever the interface is called by then; when the interface is gone, the name that was asked for decides again.
//!
//! This file must never look at an interface: it decides by what was observed.

use serde::{Deserialize, Serialize};

use crate::hook::{ChainId, ChainName};
use crate::kernel::Observed;
use crate::state::{Change, Link, State};

/// The chain that a link is in, and how its interface was called when that was last looked at.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Seat {
    /// The chain.
    pub chain: ChainId,
    /// The name of its interface: in the namespace by the name that was asked for, if that leads there still.
    pub called: ChainName,
}

/// The rule. What was not looked at stays as it was known.
pub fn seat(link: &Link, observed: &Observed) -> Option<Seat> {
    let asked = link.placement.asked()?;
    let before = link.on.as_ref().map(|seat| &seat.called);
    let at = |chain: ChainId| observed.called(chain, asked, before).map(|called| Seat { chain, called });
    let of_name = || observed.chain_of(asked).and_then(at);
    match &link.on {
        Some(seat) => match observed.now(seat.chain) {
            chain if observed.missing.contains(&chain) => of_name(),
            chain => at(chain).or_else(|| Some(Seat { chain, ..seat.clone() })),
        },
        // The kernel knows more than a row of an earlier version, or one that a crash left behind.
        None => observed.chain_running(link.uid).and_then(at).or_else(of_name),
    }
}

/// Whether what was observed may put a link elsewhere, or call its interface otherwise.
fn is_news(link: &Link, observed: &Observed) -> bool {
    link.on.as_ref().is_none_or(|Seat { chain, called: _ }| {
        let looked_at = observed.chains.contains_key(chain) || observed.missing.contains(chain);
        looked_at || observed.moved.contains_key(&chain.interface)
    })
}

/// A state whose links are in the chains that they are in by what was observed.
pub fn seated(state: &State, observed: &Observed) -> State {
    let mut seated = state.clone();
    for link in state.links.values().filter(|link| is_news(link, observed)) {
        let on = seat(link, observed);
        if on != link.on
            && let Some(link) = seated.links.get_mut(&link.uid)
        {
            link.on = on;
        }
    }
    seated
}

/// Changes whose new links are in the chains that they are for.
pub fn seated_changes(changes: &[Change], observed: &Observed) -> Vec<Change> {
    let mut seated = changes.to_vec();
    for change in &mut seated {
        if let Change::Attach(link) = change {
            link.on = seat(link, observed);
        }
    }
    seated
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::hook::{InterfaceId, Place, Placement, Point, ProceedOn, XdpMode};
    use crate::ident::{AppUid, GenerationUid, Handle, KernelId, LinkUid};
    use crate::kernel::{ChainMode, Live, LiveGeneration, Member, ObservedChain};
    use crate::names::{Netns, Priority};
    use crate::state::{LinkLifetime, LinkOrigin, Owner, WhenAbsent};

    const LINK: LinkUid = LinkUid(uuid::Uuid::from_u128(1));
    const APP: AppUid = AppUid(uuid::Uuid::from_u128(2));
    const TOP: GenerationUid = GenerationUid(uuid::Uuid::from_u128(3));

    fn chain(netns_cookie: u64, index: u32) -> ChainId {
        ChainId { interface: InterfaceId { netns_cookie, index }, point: Point::Xdp }
    }

    fn name(text: &str) -> ChainName {
        let (netns, interface) = match text.split_once(':') {
            Some((netns, interface)) => (netns.parse().unwrap(), interface),
            None => (Netns::Host, text),
        };
        ChainName { netns, interface: interface.parse().unwrap(), point: Point::Xdp }
    }

    fn link(asked: &str, on: Option<(ChainId, &str)>) -> Link {
        let (asked, priority, proceed_on, mode) = (name(asked), Priority::DEFAULT, ProceedOn::PASS, XdpMode::Auto);
        let effective = priority;
        Link {
            uid: LINK,
            handle: Handle(1),
            app: APP,
            function: "pass".to_owned(),
            placement: Placement::Shared(Place { asked, priority, effective, order: None, proceed_on, mode }),
            on: on.map(|(chain, called)| Seat { chain, called: name(called) }),
            owner: Owner { uid: 0, user: None },
            credentials: None,
            origin: LinkOrigin::Request,
            lifetime: LinkLifetime::UntilDetached,
            when_absent: WhenAbsent::Wait,
            created: 0,
            generation: 1,
            request: None,
        }
    }

    /// The daemon's own namespace has cookie 1; `names` were looked up there, `here` was looked at, `gone` looked for.
    fn observed(names: &[(&str, Option<u32>)], here: &[(u32, &str)], gone: &[ChainId]) -> Observed {
        let interface = |index| InterfaceId { netns_cookie: 1, index };
        let seen = |called: &str| ObservedChain {
            name: name(called),
            live: Live::Empty,
            driven: None,
            mode: ChainMode::Libxdp,
        };
        Observed {
            namespaces: [(Netns::Host, Some(1))].into(),
            interfaces: names.iter().map(|(text, index)| (name(text), index.map(interface))).collect(),
            chains: here.iter().map(|(index, called)| (chain(1, *index), seen(called))).collect(),
            missing: gone.iter().copied().collect(),
            ..Observed::default()
        }
    }

    #[test]
    fn a_link_stays_with_its_interface_while_that_lives_and_then_its_name_decides() {
        let old = chain(1, 5);
        let wan0 = [("eth0", None)];
        let newcomer = [("eth0", Some(9))];
        for (what, on, seen, expected) in [
            ("never attached, no interface", None, observed(&wan0, &[], &[]), None),
            ("never attached", None, observed(&newcomer, &[(9, "eth0")], &[]), Some((chain(1, 9), "eth0"))),
            ("renamed", Some(old), observed(&wan0, &[(5, "wan0")], &[]), Some((old, "wan0"))),
            ("a newcomer", Some(old), observed(&newcomer, &[(5, "wan0"), (9, "eth0")], &[]), Some((old, "wan0"))),
            ("gone", Some(old), observed(&wan0, &[], &[old]), None),
            ("made again", Some(old), observed(&newcomer, &[(9, "eth0")], &[old]), Some((chain(1, 9), "eth0"))),
            ("not looked at", Some(old), observed(&[], &[], &[]), Some((old, "eth0"))),
            ("only its name looked at", Some(old), observed(&newcomer, &[(9, "eth0")], &[]), Some((old, "eth0"))),
        ] {
            let found = seat(&link("eth0", on.map(|on| (on, "eth0"))), &seen);
            let expected = expected.map(|(chain, called)| Seat { chain, called: name(called) });
            assert_eq!(found, expected, "{what}");
        }
    }

    #[test]
    fn a_link_follows_its_interface_to_another_namespace_with_a_name_or_without() {
        let (old, new) = (chain(1, 5), chain(9, 7));
        let mut seen = observed(&[("eth0", Some(9))], &[(9, "eth0")], &[]);
        let mut moved = seen.chains[&chain(1, 9)].clone();
        for called in ["blue:v0", "netnsid/4:v0"] {
            moved.name = name(called);
            seen.chains.insert(new, moved.clone());
            seen.moved = [(old.interface, new.interface)].into();
            let found = seat(&link("eth0", Some((old, "eth0"))), &seen);
            assert_eq!(found, Some(Seat { chain: new, called: name(called) }), "whoever took its name");
        }
        // It is in no namespace that has a name: it is known by what it was.
        seen.moved.clear();
        seen.chains.insert(old, moved);
        let found = seat(&link("eth0", Some((old, "eth0"))), &seen);
        assert_eq!(found, Some(Seat { chain: old, called: name("netnsid/4:v0") }));
    }

    #[test]
    fn a_link_that_a_row_does_not_place_is_where_the_kernel_runs_it() {
        let mut seen = observed(&[("eth0", Some(9))], &[(5, "wan0"), (9, "eth0")], &[]);
        let (priority, proceed_on) = (Priority::DEFAULT, ProceedOn::PASS);
        let member =
            Member { link: LINK, app: APP, function: "pass".to_owned(), priority, effective: priority, proceed_on };
        seen.unpinned = BTreeMap::from([(TOP, vec![member])]);
        seen.chains.get_mut(&chain(1, 5)).unwrap().live =
            Live::Ours(LiveGeneration { program: KernelId(7), generation: TOP });
        assert_eq!(seat(&link("eth0", None), &seen).map(|seat| seat.chain), Some(chain(1, 5)));
    }

    #[test]
    fn an_interface_is_called_in_the_namespace_that_was_asked_for_if_that_leads_there() {
        let mut seen = observed(&[("blue:v0", Some(5)), ("cyan:v0", Some(5))], &[(5, "blue:v0")], &[]);
        seen.namespaces.insert("blue".parse().unwrap(), Some(1));
        seen.namespaces.insert("cyan".parse().unwrap(), Some(1));
        let called = |seen: &Observed, asked| seat(&link(asked, None), seen).map(|seat| (seat.chain, seat.called));
        assert_eq!(called(&seen, "cyan:v0"), Some((chain(1, 5), name("cyan:v0"))));
        assert_eq!(called(&seen, "blue:v0"), Some((chain(1, 5), name("blue:v0"))));
        let on = link("cyan:v0", Some((chain(1, 5), "cyan:v0")));
        seen.namespaces.remove(&"cyan".parse().unwrap());
        assert_eq!(seat(&on, &seen).map(|seat| seat.called), Some(name("cyan:v0")), "not looked at");
        seen.namespaces.insert("cyan".parse().unwrap(), None);
        assert_eq!(seat(&on, &seen).map(|seat| seat.called), Some(name("blue:v0")), "its name is gone");
    }

    #[test]
    fn a_row_of_an_earlier_version_is_in_no_chain_yet() {
        let mut row = serde_json::to_value(link("eth0", None)).unwrap();
        assert_eq!(row.get("on"), None, "rows of links that wait are as they were");
        assert_eq!(serde_json::from_value::<Link>(row.clone()).unwrap(), link("eth0", None));
        let on = link("eth0", Some((chain(1, 5), "wan0")));
        row = serde_json::to_value(&on).unwrap();
        assert_eq!(serde_json::from_value::<Link>(row).unwrap(), on);
    }
}
