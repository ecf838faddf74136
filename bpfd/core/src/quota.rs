//! What a user has of the host, what a request adds to it, and whether that is within its quota. Counted from rows, so that a restart
//! changes nothing. Pure: how many CPUs there are is an argument.
//!
//! It must never know how a quota was decided.

use std::ops::Add;

use bpfd_policy::quota::Quota;

use crate::state::{App, Change, Link, Map, State};

/// What somebody has, or what a request adds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Apps.
    pub apps: u64,
    /// Links, wherever they are.
    pub links: u64,
    /// See [`memory`].
    pub map_bytes: u64,
    /// Of rows.
    pub state_bytes: u64,
}

/// What a quota limits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Resource {
    /// Apps.
    Apps,
    /// Links.
    Links,
    /// Bytes of maps.
    MapBytes,
    /// Bytes of rows.
    StateBytes,
}

impl Resource {
    fn noun(self) -> &'static str {
        match self {
            Self::Apps => "apps",
            Self::Links => "links, waiting ones included",
            Self::MapBytes => "bytes of maps",
            Self::StateBytes => "bytes of state",
        }
    }
}

/// A request for more than a user may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a user has at most {limit} {}: you have {used}, and this request needs {asked} more", resource.noun())]
pub struct OverQuota {
    /// Of what.
    pub resource: Resource,
    /// The most that there may be.
    pub limit: u64,
    /// What there is.
    pub used: u64,
    /// What the request adds.
    pub asked: u64,
}

impl Add for Usage {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self {
            apps: self.apps.saturating_add(more.apps),
            links: self.links.saturating_add(more.links),
            map_bytes: self.map_bytes.saturating_add(more.map_bytes),
            state_bytes: self.state_bytes.saturating_add(more.state_bytes),
        }
    }
}

impl Usage {
    /// What a user has.
    pub fn of_user(state: &State, uid: u32, cpus: u64) -> Self {
        let apps = state.apps.values().filter(|app| app.owner.uid == uid).map(|app| Self::of_app(app, cpus));
        let links = state.links.values().filter(|link| link.owner.uid == uid).map(Self::of_link);
        apps.chain(links).fold(Self::default(), Add::add)
    }

    /// What changes add. What they take away is not counted: it is there until they are done.
    pub fn of_changes(changes: &[Change], cpus: u64) -> Self {
        let added = changes.iter().map(|change| match change {
            Change::Load(app) => Self::of_app(app, cpus),
            Change::Attach(link) => Self::of_link(link),
            Change::Update { .. }
            | Change::Persist { .. }
            | Change::Rebuild { .. }
            | Change::Reorder { .. }
            | Change::Detach(_)
            | Change::Unload(_) => Self::default(),
        });
        added.fold(Self::default(), Add::add)
    }

    /// What an app takes that is to have these maps.
    pub fn of_maps(maps: &[Map], cpus: u64) -> Self {
        let map_bytes = maps.iter().map(|map| memory(map, cpus)).fold(0, u64::saturating_add);
        Self { apps: 1, map_bytes, ..Self::default() }
    }

    fn of_app(app: &App, cpus: u64) -> Self {
        Self { state_bytes: app_bytes(app), ..Self::of_maps(&app.maps, cpus) }
    }

    fn of_link(link: &Link) -> Self {
        Self { links: 1, state_bytes: ROW + bytes(link.function.len()), ..Self::default() }
    }

    /// Whether a user who has this may have `asked` beside it. What is not asked for is no reason to refuse, however much there is: a
    /// quota may be smaller than it was.
    pub fn may_add(self, asked: Self, quota: Quota) -> Result<(), OverQuota> {
        let within = |resource, limit, used: u64, asked: u64| match asked > 0 && used.saturating_add(asked) > limit {
            true => Err(OverQuota { resource, limit, used, asked }),
            false => Ok(()),
        };
        within(Resource::Apps, quota.apps, self.apps, asked.apps)?;
        within(Resource::Links, quota.links, self.links, asked.links)?;
        within(Resource::MapBytes, quota.map_bytes, self.map_bytes, asked.map_bytes)?;
        within(Resource::StateBytes, quota.state_bytes, self.state_bytes, asked.state_bytes)
    }
}

/// Bytes that the kernel takes for a map when it is full, from what its object declares: no less than `memlock` says (`*_mem_usage` of
/// kernel/bpf/{arraymap,hashtab,ringbuf,lpm_trie}.c), and for the small kinds more.
pub fn memory(map: &Map, cpus: u64) -> u64 {
    /// Of an element of a hash table or a trie, and its bucket.
    const ELEMENT: u64 = 96;
    /// Of a map without elements.
    const MAP: u64 = 1024;
    const PAGE: u64 = 4096;
    let padded = |size: u32| u64::from(size).next_multiple_of(8);
    let (key, value, entries) = (padded(map.key_size), padded(map.value_size), u64::from(map.max_entries));
    let element = match map.kind.as_str() {
        "array" => value,
        "percpu_array" => value.saturating_mul(cpus).saturating_add(8),
        // Their `max_entries` are bytes, and pages.
        "ringbuf" | "user_ringbuf" => 1,
        "arena" => PAGE,
        // One entry a CPU, whatever is asked for.
        "perf_event_array" => return ELEMENT.saturating_mul(cpus).saturating_add(MAP),
        kind => {
            let each = if kind.contains("percpu") { cpus } else { 1 };
            value.saturating_mul(each).saturating_add(key).saturating_add(ELEMENT)
        }
    };
    element.saturating_mul(entries).saturating_add(MAP)
}

/// What a row takes beside its texts of any length.
const ROW: u64 = 1024;

fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn app_bytes(app: &App) -> u64 {
    /// What is written of each program, map and piece of advice beside its name.
    const ITEM: usize = 256;
    let labels = app.labels.iter().map(|(key, value)| key.len() + value.len());
    let user_labels = app.user_labels.iter().map(|(key, value)| key.as_str().len() + value.as_str().len());
    // A byte of a value is a number of up to three digits and a comma.
    let globals = app.globals.iter().map(|(name, setting)| name.len() + setting.text.len() + 4 * setting.bytes.len());
    let programs = app.programs.iter().map(|program| ITEM + program.function.len() + program.section.len());
    let maps = app.maps.iter().map(|map| ITEM + map.name.len());
    let advice = app.advice.keys().map(|function| ITEM + function.len());
    let texts = labels.chain(user_labels).chain(globals).chain(programs).chain(maps).chain(advice);
    texts.map(bytes).fold(ROW, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quota = Quota { apps: 2, links: 3, map_bytes: 4096, state_bytes: 1 << 20 };

    fn map(kind: &str, key_size: u32, value_size: u32, max_entries: u32) -> Map {
        Map { name: "m".to_owned(), kind: kind.to_owned(), key_size, value_size, max_entries, shared: None }
    }

    #[test]
    fn exactly_the_limit_is_allowed_and_the_refusal_has_the_numbers() {
        let used = Usage { apps: 1, links: 3, ..Usage::default() };
        assert_eq!(used.may_add(Usage { apps: 1, ..Usage::default() }, QUOTA), Ok(()));
        let over = used.may_add(Usage { apps: 1, links: 1, ..Usage::default() }, QUOTA).unwrap_err();
        assert_eq!(
            over.to_string(),
            "a user has at most 3 links, waiting ones included: you have 3, and this request needs 1 more"
        );
    }

    #[test]
    fn who_has_too_much_already_may_do_what_adds_nothing() {
        let used = Usage { apps: 9, links: 9, map_bytes: u64::MAX, state_bytes: u64::MAX };
        assert_eq!(used.may_add(Usage::default(), QUOTA), Ok(()));
    }

    #[test]
    fn a_map_takes_what_its_kind_does() {
        assert_eq!(memory(&map("array", 4, 8, 1000), 4), 8000 + 1024);
        assert_eq!(memory(&map("percpu_array", 4, 5, 1000), 4), 1000 * (4 * 8 + 8) + 1024);
        assert_eq!(memory(&map("ringbuf", 0, 0, 1 << 20), 4), (1 << 20) + 1024);
        assert_eq!(memory(&map("arena", 0, 0, 10), 4), 40960 + 1024);
        assert_eq!(memory(&map("percpu_hash", 4, 8, 10), 2), 10 * (16 + 8 + 96) + 1024);
        assert_eq!(memory(&map("perf_event_array", 4, 4, u32::MAX), 2), 2 * 96 + 1024);
        assert_eq!(memory(&map("hash", u32::MAX, u32::MAX, u32::MAX), u64::MAX), u64::MAX, "no overflow");
    }
}
