//! Records: the rows of apps and links, kept beside their pins as well, so that what was asked for can be told from the kernel's half
//! alone. Owns their form, and which of them a plan writes and removes. It must never hold what is not in a row. Which chain a link is in
//! is not recorded: that means something within a boot only, and the kernel tells it.
//!
//! A record is the only value of a frozen array map: a header, all numbers little-endian, and the row as the database has it.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | magic `bpfdrec\0` |
//! | 8 | 2 | version, 4; 3 is read too |
//! | 10 | 2 | bytes of the header, 16 |
//! | 12 | 4 | bytes of the row |
//! | 16 | | the row: `{"app":…}` or `{"link":…}`, JSON |
//!
//! JSON, because the row has lists and texts of any length, and because what reads rows of earlier versions then reads records of
//! earlier versions: there is one form of a row. Only root can write where records are; they are parsed as hostile all the same: a
//! record has a size limit, and every name, label and number in it is parsed into the type that a request's would be.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ident::{AppUid, LinkUid};
use crate::kernel::{Observed, Step};
use crate::plan::Plan;
use crate::state::{App, Link, State};

/// Name of the map. The kernel shows it in `bpftool map`; nothing is looked up by it.
pub const RECORD_MAP_NAME: &str = "bpfd_record";
/// The longest record. The longest row is of an app with all the globals and labels that one message has room for: below 6 MiB.
pub const RECORD_MAX: usize = 8 << 20;

const MAGIC: [u8; 8] = *b"bpfdrec\0";
const VERSION: u16 = 4;
/// Rows that do not know a reboot: whatever they record is there after one.
const VERSION_BEFORE: u16 = 3;
const HEADER_SIZE: usize = 16;

/// One row of the state.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Row {
    /// Recorded as `v1/<app>/record`.
    App(App),
    /// Recorded as `v1/record/<link>`.
    Link(Link),
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(app) => write!(f, "app {}", app.uid),
            Self::Link(link) => write!(f, "link {}", link.uid),
        }
    }
}

/// A row that is longer than a record may be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{size} bytes are more than the {RECORD_MAX} of a record")]
pub struct TooLong {
    size: usize,
}

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error)]
pub enum BadRecord {
    /// They do not begin as a record does, or are longer than one.
    #[error("not a record")]
    NotARecord,
    /// Another version, whose meaning is not known.
    #[error("record has version {0}; this bpfd reads versions {VERSION_BEFORE} and {VERSION}")]
    Version(u16),
    /// The sizes contradict each other.
    #[error("record is damaged: its sizes do not fit its length")]
    Sizes,
    /// The row is none.
    #[error("record is damaged: its row cannot be read")]
    Row(#[from] serde_json::Error),
}

impl Row {
    /// The record's bytes, to be written at key 0.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        // Rows are plain data with string keys: they always have a JSON form.
        let body = serde_json::to_vec(self).unwrap_or_default();
        let size = HEADER_SIZE + body.len();
        let length = u32::try_from(body.len()).ok().filter(|_| size <= RECORD_MAX).ok_or(TooLong { size })?;
        let mut out = Vec::with_capacity(size);
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend([16, 0]);
        out.extend(length.to_le_bytes());
        out.extend(body);
        Ok(out)
    }

    /// The row that a map's value records. Any bytes may be given.
    pub fn decode(value: &[u8]) -> Result<Self, BadRecord> {
        let (header, body) = value.split_first_chunk::<HEADER_SIZE>().ok_or(BadRecord::NotARecord)?;
        let [magic @ .., v0, v1, h0, h1, l0, l1, l2, l3] = *header;
        if magic != MAGIC || value.len() > RECORD_MAX {
            return Err(BadRecord::NotARecord);
        }
        let version = u16::from_le_bytes([v0, v1]);
        if version != VERSION && version != VERSION_BEFORE {
            return Err(BadRecord::Version(version));
        }
        let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).ok();
        if usize::from(u16::from_le_bytes([h0, h1])) != HEADER_SIZE || length != Some(body.len()) {
            return Err(BadRecord::Sizes);
        }
        Ok(serde_json::from_slice(body)?)
    }

    /// The app, if the record is that app's.
    pub fn app(self, uid: AppUid) -> Option<App> {
        match self {
            Self::App(app) => Some(app).filter(|app| app.uid == uid),
            Self::Link(_) => None,
        }
    }

    /// The link, if the record is that link's.
    pub fn link(self, uid: LinkUid) -> Option<Link> {
        match self {
            Self::Link(link) => Some(link).filter(|link| link.uid == uid),
            Self::App(_) => None,
        }
    }
}

/// A plan with the steps that make the records what the rows of `state` say. They are the first after its commit point: a record
/// follows its row. An app whose pins are gone, and that the plan does not pin, has no place for a record.
pub fn with_records(plan: Plan, state: &State, observed: &Observed) -> Plan {
    with_records_of(plan, state, observed, state.links.values())
}

/// The same, of links those alone: the record of another row that is not what that says is the next repair's.
pub fn with_records_of<'a>(
    plan: Plan,
    state: &'a State,
    observed: &Observed,
    links: impl Iterator<Item = &'a Link>,
) -> Plan {
    let Plan { mut steps, committed } = plan;
    let pins = |app: &AppUid| steps.iter().any(|step| matches!(step, Step::PinApp(pinned) if pinned == app));
    let apps = state.apps.changed_since(&observed.recorded.apps);
    let apps = apps.filter(|(uid, _)| observed.apps.contains_key(uid) || pins(uid));
    let apps = apps.map(|(_, app)| Row::App(app.clone()));
    let recorded = |link: &&Link| observed.recorded.links.get(&link.uid).is_some_and(|it| link.is_asked_as(it));
    let links = links.filter(|link| !recorded(link)).map(|link| Row::Link(link.as_asked()));
    let unread = observed.unread_records.iter().filter(|link| !state.links.contains_key(link));
    let gone = observed.recorded.links.gone_from(&state.links).chain(unread);
    let gone = gone.filter(|link| !observed.spared.links.contains(link));
    let gone = gone.map(|link| Step::Unrecord(*link));
    let records: Vec<Step> = apps.chain(links).map(|row| Step::Record(Box::new(row))).chain(gone).collect();
    steps.splice(committed..committed, records);
    Plan { steps, committed }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::hook::Placement;
    use crate::ident::Handle;
    use crate::kernel::PinnedApp;
    use crate::labels::Labels;
    use crate::state::{
        AppLifetime, AppOrigin, LinkLifetime, LinkOrigin, ObjectDigest, Owner, Program, ProgramKind, Reach, Setting,
        Source, WhenAbsent,
    };

    fn owner() -> Owner {
        Owner { uid: 7, user: Some("cni".into()) }
    }

    fn app() -> App {
        App {
            uid: AppUid(Uuid::from_u128(1)),
            handle: Handle(3),
            name: "counter".parse().unwrap(),
            owner: owner(),
            credentials: None,
            source: Source::Image {
                reference: "reg.test/bpf/counter:1".into(),
                digest: format!("sha256:{}", "0".repeat(64)),
                signers: vec!["ci".into()],
            },
            object: ObjectDigest::from([3; 32]),
            reach: Reach::Packet,
            globals: BTreeMap::from([("limit".to_owned(), Setting { text: "\u{1b}7".into(), bytes: vec![7, 0] })]),
            programs: vec![Program {
                handle: Handle(4),
                function: "count".into(),
                section: "xdp".into(),
                kind: ProgramKind::Xdp,
                target: None,
                tag: [9; 8],
                load_time: u64::MAX,
            }],
            maps: vec![],
            labels: BTreeMap::new(),
            user_labels: Labels::default(),
            advice: BTreeMap::new(),
            lifetime: AppLifetime::UntilUnloaded,
            origin: AppOrigin::Request,
            created: 5,
            generation: 2,
            request: None,
        }
    }

    fn link(uid: u128) -> Link {
        let placement = r#"{"chain":{"key":{"netns":"far","interface":"eth0","point":"xdp"},"priority":50,"effective":40,"proceed_on":4,"mode":"native"}}"#;
        Link {
            uid: LinkUid(Uuid::from_u128(uid)),
            handle: Handle(5),
            app: AppUid(Uuid::from_u128(1)),
            function: "count".into(),
            placement: serde_json::from_str::<Placement>(placement).unwrap(),
            on: None,
            owner: owner(),
            credentials: None,
            origin: LinkOrigin::Request,
            lifetime: LinkLifetime::UntilDetached,
            when_absent: WhenAbsent::Wait,
            created: 6,
            generation: 1,
            request: None,
        }
    }

    #[test]
    fn a_row_is_read_as_it_was_recorded() {
        for row in [Row::App(app()), Row::Link(link(2))] {
            assert_eq!(Row::decode(&row.encode().unwrap()).unwrap(), row);
        }
    }

    #[test]
    fn the_layout_of_version_3_is_as_documented() {
        let body = r#"{"link":{"uid":"00000000-0000-0000-0000-000000000002","handle":5,"app":"00000000-0000-0000-0000-000000000001","function":"count","placement":{"chain":{"key":{"netns":"far","interface":"eth0","point":"xdp"},"priority":50,"effective":40,"proceed_on":4,"mode":"native"}},"owner":{"uid":7,"user":"cni"},"origin":"request","lifetime":"until-detached","when_absent":"wait","created":6,"generation":1,"request":null}}"#;
        let mut expected = b"bpfdrec\0\x04\0\x10\0".to_vec();
        expected.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        expected.extend(body.bytes());
        assert_eq!(String::from_utf8_lossy(&Row::Link(link(2)).encode().unwrap()), String::from_utf8_lossy(&expected));
    }

    #[test]
    fn a_record_of_another_thing_is_nobodys() {
        assert!(Row::App(app()).app(AppUid(Uuid::from_u128(9))).is_none());
        assert!(Row::App(app()).link(LinkUid(Uuid::from_u128(1))).is_none());
        assert!(Row::Link(link(2)).link(LinkUid(Uuid::from_u128(3))).is_none());
    }

    fn refused(change: impl Fn(&mut Vec<u8>)) -> String {
        let mut bytes = Row::Link(link(2)).encode().unwrap();
        change(&mut bytes);
        Row::decode(&bytes).unwrap_err().to_string()
    }

    #[test]
    fn damaged_records_are_refused() {
        let sizes = BadRecord::Sizes.to_string();
        assert_eq!(refused(|bytes| bytes.truncate(15)), "not a record");
        assert_eq!(refused(|bytes| bytes[0] = 0), "not a record");
        assert_eq!(refused(|bytes| bytes[8] = 5), BadRecord::Version(5).to_string());
        assert_eq!(refused(|bytes| bytes[10] = 17), sizes);
        assert_eq!(refused(|bytes| bytes[15] = 1), sizes);
        assert_eq!(refused(|bytes| bytes.push(b' ')), sizes);
        assert_eq!(refused(|bytes| bytes[16] = b'['), "record is damaged: its row cannot be read");
        assert_eq!(refused(|bytes| bytes.resize(RECORD_MAX + 1, 0)), "not a record");
        // An interface's name that no request may have.
        let text = String::from_utf8(Row::Link(link(2)).encode().unwrap().split_off(16)).unwrap();
        let text = text.replace("\"eth0\"", "\"../x\"");
        assert_eq!(
            refused(|bytes| {
                bytes.truncate(16);
                bytes.extend(text.bytes());
            }),
            "record is damaged: its row cannot be read"
        );
    }

    fn steps(state: &State, observed: &Observed) -> Vec<String> {
        let plan = with_records(Plan::default(), state, observed);
        assert_eq!(plan.committed, 0);
        plan.steps.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_row_without_its_record_is_recorded_and_a_record_without_its_row_is_removed() {
        let (app, link_2, link_3) = (app(), link(2), link(3));
        let state = State { apps: [(app.uid, app.clone())].into(), links: [(link_2.uid, link_2.clone())].into() };
        let mut observed = Observed::default();
        let (record_app, record_link) = (format!("record app {}", app.uid), format!("record link {}", link_2.uid));
        let alone = std::slice::from_ref(&record_link);
        assert_eq!(steps(&state, &observed), alone, "an app that is not pinned has no place for it");
        observed.apps.insert(app.uid, PinnedApp::default());
        assert_eq!(steps(&state, &observed), [record_app.clone(), record_link.clone()]);

        observed.recorded = state.clone();
        assert_eq!(steps(&state, &observed), Vec::<String>::new());
        observed.recorded.links.insert(link_3.uid, link_3.clone());
        observed.unread_records.insert(LinkUid(Uuid::from_u128(4)));
        let removed = |uid: u128| format!("remove the record of link {}", LinkUid(Uuid::from_u128(uid)));
        assert_eq!(steps(&state, &observed), [removed(3), removed(4)]);

        observed.recorded = state.clone();
        observed.unread_records.clear();
        let moved = Link { generation: 2, ..link_2.clone() };
        let moved = State { links: [(link_2.uid, moved)].into(), ..state };
        assert_eq!(steps(&moved, &observed), [record_link]);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_an_error_or_to_a_row_that_is_read_alike_again(
            noise in proptest::collection::vec(any::<u8>(), 0..64), at in 0_usize..600, with: u8, app_too: bool,
        ) {
            let _refused = Row::decode(&noise);
            let row = if app_too { Row::App(app()) } else { Row::Link(link(2)) };
            let mut bytes = row.encode().unwrap();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = with;
            }
            if let Ok(row) = Row::decode(&bytes) {
                prop_assert_eq!(Row::decode(&row.encode().unwrap()).unwrap(), row);
            }
        }
    }
}
