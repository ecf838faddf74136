//! Maps that a load takes from apps that are there (`--map-from`), instead of making its own. Decides which, and whose copy is opened when
//! an app is loaded again. It must never take a map that object and app describe differently, nor one whose entries an app owns.
//!
//! A shared map has a pin in each app that has it: it lives for as long as any of them, whichever is unloaded first.

use std::collections::BTreeMap;

pub use ebpf::names::MapName;

use crate::ident::AppUid;
use crate::request::AppRef;
use crate::state::{App, ChangeError, Map, Shared, State};

/// Most of `--map-from` in one request.
pub const MAP_FROM_MAX: usize = 64;

/// Whose maps to take.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MapFrom {
    /// Which app.
    pub app: AppRef,
    /// Which map; `None` = all that the object and the app both have by name, and that can be shared.
    pub map: Option<MapName>,
}

/// A map as an object declares it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Declared {
    /// As the app's row will have it.
    pub map: Map,
    /// Whether its entries are set by whoever loads it: programs for tail calls, or what the object puts into it.
    pub filled: bool,
}

/// Why a map cannot be taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ShareError {
    /// No such app.
    #[error(transparent)]
    App(#[from] ChangeError),
    /// The object declares no such map.
    #[error("the object has no map `{map}`{}", has(.candidates))]
    NotDeclared {
        /// As asked.
        map: String,
        /// What it declares.
        candidates: Vec<String>,
    },
    /// The app has no such map.
    #[error("app `{app}` has no map `{map}`{}", has(.candidates))]
    NoMap {
        /// The app.
        app: String,
        /// As asked.
        map: String,
        /// What it has.
        candidates: Vec<String>,
    },
    /// No map of one name.
    #[error("the object and app `{0}` have no map of the same name")]
    NothingInCommon(String),
    /// Two apps for one map.
    #[error("map `{0}` is taken from two apps")]
    Twice(String),
    /// The app's map is another one.
    #[error("map `{map}` of app `{app}` is {theirs}; the object declares {ours}")]
    Differs {
        /// The map.
        map: String,
        /// The app.
        app: String,
        /// What the app has.
        theirs: String,
        /// What the object wants.
        ours: String,
    },
    /// Its entries belong to one app.
    #[error("map `{0}` holds programs or maps that its own object puts into it: it cannot be shared")]
    Filled(String),
}

/// The first of the names that there are: how many, is the object's word.
fn has(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > SHOWN { ", …" } else { "" };
    if shown.is_empty() { String::new() } else { format!("; it has {}{more}", shown.join(", ")) }
}

fn shape(map: &Map) -> String {
    let Map { name: _, kind, key_size, value_size, max_entries, shared: _ } = map;
    format!("{kind} of {max_entries} entries, key of {key_size} bytes, value of {value_size} bytes")
}

/// Which maps a load takes, by name.
pub fn taken(state: &State, asks: &[MapFrom], declared: &[Declared]) -> Result<BTreeMap<String, Shared>, ShareError> {
    let mut taken = BTreeMap::new();
    for MapFrom { app, map } in asks {
        let app = app.resolve(state)?;
        let ours = |name: &str| declared.iter().find(|declared| declared.map.name == name);
        let both: Vec<(&Declared, &Map)> = match map.as_ref().map(MapName::as_str) {
            Some(name) => {
                let names = |maps: &mut dyn Iterator<Item = &Map>| maps.map(|map| map.name.clone()).collect();
                let (map, app_name) = (name.to_owned(), app.name.to_string());
                let our = ours(name).ok_or_else(|| ShareError::NotDeclared {
                    map: map.clone(),
                    candidates: names(&mut declared.iter().map(|declared| &declared.map)),
                })?;
                let their = app.maps.iter().find(|map| map.name == name);
                let their = their.ok_or_else(|| ShareError::NoMap {
                    app: app_name,
                    map,
                    candidates: names(&mut app.maps.iter().filter(|map| !map.name.starts_with('.'))),
                })?;
                vec![(our, their)]
            }
            None => {
                let both = app.maps.iter().filter_map(|their| Some((ours(&their.name)?, their)));
                both.filter(|(our, _)| !our.filled).collect()
            }
        };
        if both.is_empty() {
            return Err(ShareError::NothingInCommon(app.name.to_string()));
        }
        for (our, their) in both {
            let name = their.name.clone();
            if our.filled {
                return Err(ShareError::Filled(name));
            }
            let (theirs, ours) = (shape(their), shape(&our.map));
            if theirs != ours {
                return Err(ShareError::Differs { map: name, app: app.name.to_string(), theirs, ours });
            }
            let origin = their.shared.as_ref().map_or(app.uid, |shared| shared.origin);
            let shared = Shared { app: app.uid, name: app.name.clone(), origin };
            if taken.insert(name.clone(), shared).is_some() {
                return Err(ShareError::Twice(name));
            }
        }
    }
    Ok(taken)
}

/// Whose map is opened for an app that is loaded again: that of the app that made it, else of the oldest that shares it; `None` if that is
/// the app itself, which then makes it anew.
pub fn lender(state: &State, app: &App, map: &Map) -> Option<AppUid> {
    let origin = map.shared.as_ref()?.origin;
    let has = |other: &&App| {
        let same = other.maps.iter().find(|other| other.name == map.name);
        same.is_some_and(|same| same.shared.as_ref().map_or(other.uid == origin, |shared| shared.origin == origin))
    };
    let first = state.apps.values().filter(has).min_by_key(|other| (other.uid != origin, other.handle))?;
    (first.uid != app.uid).then_some(first.uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::uid;

    fn map(name: &str, shared: Option<Shared>) -> Map {
        Map { name: name.to_owned(), kind: "hash".to_owned(), key_size: 4, value_size: 8, max_entries: 16, shared }
    }

    fn app(number: u8, maps: Vec<Map>) -> App {
        App { maps, ..crate::testing::app_of(number, 0) }
    }

    fn from(app: u8, origin: u8) -> Option<Shared> {
        Some(Shared { app: uid(app), name: format!("app-{app}").parse().unwrap(), origin: uid(origin) })
    }

    fn state(apps: Vec<App>) -> State {
        State { apps: apps.into_iter().map(|app| (app.uid, app)).collect(), ..State::default() }
    }

    #[test]
    fn maps_of_one_name_and_shape_are_taken() {
        let state = state(vec![
            app(1, vec![map(".rodata", None), map("blocked", None), map("seen", None)]),
            app(2, vec![map("blocked", from(1, 1)), map("other", None)]),
        ]);
        let declared = |name: &str| Declared { map: map(name, None), filled: false };
        let large = Declared { map: Map { max_entries: 17, ..map("seen", None) }, filled: false };
        let check = |asks: &[(u8, Option<&str>)], declared: &[Declared], expected: Result<&[(&str, u8, u8)], &str>| {
            let ask = |(app, map): &(u8, Option<&str>)| MapFrom {
                app: format!("app-{app}").parse().unwrap(),
                map: map.map(|map| map.parse().unwrap()),
            };
            let asks: Vec<MapFrom> = asks.iter().map(ask).collect();
            let taken = taken(&state, &asks, declared).map_err(|error| error.to_string());
            let expected = expected.map_err(str::to_owned).map(|expected| {
                expected.iter().map(|(name, app, origin)| ((*name).to_owned(), from(*app, *origin).unwrap())).collect()
            });
            assert_eq!(taken, expected);
        };
        let (blocked, seen) = (declared("blocked"), declared("seen"));
        let ours = [blocked.clone(), seen.clone()];
        check(&[(1, Some("blocked"))], &ours, Ok(&[("blocked", 1, 1)]));
        check(&[(1, None)], &ours, Ok(&[("blocked", 1, 1), ("seen", 1, 1)]));
        // What was taken from an app that took it is still that of the first.
        check(&[(2, None)], &ours, Ok(&[("blocked", 2, 1)]));
        check(&[(2, None), (1, Some("blocked"))], &ours, Err("map `blocked` is taken from two apps"));
        check(&[(3, None)], &ours, Err("no app `app-3`"));
        check(&[(1, Some("x"))], &ours, Err("the object has no map `x`; it has `blocked`, `seen`"));
        check(&[(2, Some("seen"))], &ours, Err("app `app-2` has no map `seen`; it has `blocked`, `other`"));
        check(&[(1, None)], &[declared("else")], Err("the object and app `app-1` have no map of the same name"));
        let filled = Declared { filled: true, ..seen };
        // All that can be shared is asked for.
        check(&[(1, None)], &[blocked, filled.clone()], Ok(&[("blocked", 1, 1)]));
        check(
            &[(1, Some("seen"))],
            &[filled],
            Err("map `seen` holds programs or maps that its own object puts into it: it cannot be shared"),
        );
        let differs = "map `seen` of app `app-1` is hash of 16 entries, key of 4 bytes, value of 8 bytes; the object declares hash of 17 entries, key of 4 bytes, value of 8 bytes";
        check(&[(1, None)], &[large], Err(differs));
    }

    #[test]
    fn a_map_is_opened_of_whoever_made_it_else_of_the_oldest_that_shares_it() {
        let (first, second, third) = (
            app(1, vec![map("blocked", None)]),
            app(2, vec![map("blocked", from(1, 1))]),
            app(3, vec![map("blocked", from(2, 1))]),
        );
        let of = |state: &State, app: &App| lender(state, app, &app.maps[0]);
        let all = state(vec![first.clone(), second.clone(), third.clone()]);
        let lenders = [&first, &second, &third].map(|app| of(&all, app));
        assert_eq!(lenders, [None, Some(uid(1)), Some(uid(1))]);
        // The maker is gone, and another app has a map of that name.
        let left = state(vec![app(4, vec![map("blocked", None)]), second.clone(), third.clone()]);
        assert_eq!([&second, &third].map(|app| of(&left, app)), [None, Some(uid(2))]);
    }
}
