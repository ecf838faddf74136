//! What a reboot ends: apps and links that were not asked to be there after one. Rows say in which boot they were written last; a row
//! of another boot whose lifetime is one boot is over.
//!
//! This file must never decide who may have an app loaded again: `policy` does.

use std::collections::BTreeSet;

use crate::adopt::RowUids;
use crate::ident::{AppUid, LinkUid};
use crate::state::{AppLifetime, Link, LinkLifetime, State};

/// What ended with a boot.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ended {
    /// Apps.
    pub apps: BTreeSet<AppUid>,
    /// Links, those of the apps too.
    pub links: BTreeSet<LinkUid>,
}

impl Ended {
    /// What of the state ended, given which rows were written last in an earlier boot.
    pub fn of(state: &State, earlier: &RowUids) -> Self {
        let apps = state.apps.values().filter(|app| app.lifetime == AppLifetime::UntilReboot);
        let apps: BTreeSet<AppUid> = apps.map(|app| app.uid).filter(|app| earlier.apps.contains(app)).collect();
        let over = |link: &Link| link.lifetime == LinkLifetime::UntilReboot && earlier.links.contains(&link.uid);
        let links = state.links.values().filter(|link| over(link) || apps.contains(&link.app));
        Self { links: links.map(|link| link.uid).collect(), apps }
    }

    /// The state without it.
    pub fn gone_from(&self, state: &State) -> State {
        let mut left = state.without_links(|link| self.links.contains(&link.uid));
        left.apps.retain(|app, _| !self.apps.contains(app));
        left
    }

    /// Whether nothing ended.
    pub fn is_empty(&self) -> bool {
        self.apps.is_empty() && self.links.is_empty()
    }

    /// What ended, for people: links of their apps are not told.
    pub fn told(&self, state: &State) -> Vec<String> {
        let apps = self.apps.iter().filter_map(|app| state.apps.get(app)).map(|app| format!("app `{}`", app.name));
        let links = self.links.iter().filter_map(|link| state.links.get(link));
        let links = links.filter(|link| !self.apps.contains(&link.app));
        let links = links.map(|link| format!("link `{}`", state.link_name(link)));
        apps.chain(links).map(|thing| format!("{thing} ended with the last boot: it is not persistent")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Persist;
    use crate::testing::{app, link};

    /// Two apps with two links each; the first of all is persistent.
    fn state() -> State {
        let mut state = State::default();
        for (number, persist) in [(1, Persist::Yes), (2, Persist::No)] {
            let row = app(number);
            state.apps.insert(row.uid, crate::state::App { lifetime: persist.app(), ..row });
            for (place, persist) in [(1, Persist::Yes), (2, Persist::No)] {
                let row = Link { lifetime: persist.link(), ..link(number * 10 + place, number) };
                state.links.insert(row.uid, row);
            }
        }
        state
    }

    fn ended(earlier: impl Fn(u128) -> bool) -> (Vec<u128>, Vec<u128>) {
        let state = state();
        let earlier = RowUids {
            apps: state.apps.keys().filter(|uid| earlier(uid.0.as_u128())).copied().collect(),
            links: state.links.keys().filter(|uid| earlier(uid.0.as_u128())).copied().collect(),
        };
        let Ended { apps, links } = Ended::of(&state, &earlier);
        (apps.iter().map(|uid| uid.0.as_u128()).collect(), links.iter().map(|uid| uid.0.as_u128()).collect())
    }

    #[test]
    fn a_reboot_ends_what_is_not_persistent_and_all_links_of_an_app_that_ended() {
        assert_eq!(ended(|_| true), (vec![2], vec![12, 21, 22]));
    }

    #[test]
    fn rows_of_this_boot_did_not_end() {
        assert_eq!(ended(|_| false), (vec![], vec![]));
        assert_eq!(ended(|uid| uid == 12), (vec![], vec![12]));
    }

    #[test]
    fn what_is_left_has_no_link_without_its_app() {
        let state = state();
        let earlier =
            RowUids { apps: state.apps.keys().copied().collect(), links: state.links.keys().copied().collect() };
        let left = Ended::of(&state, &earlier).gone_from(&state);
        assert_eq!((left.apps.len(), left.links.len()), (1, 1));
    }
}
