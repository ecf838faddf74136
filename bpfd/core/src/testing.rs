//! Rows for tests of this crate. They must never be read outside of tests.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::hook::Placement;
use crate::ident::{AppUid, Handle, LinkUid};
use crate::labels::Labels;
use crate::state::{
    App, AppLifetime, AppOrigin, Link, LinkLifetime, LinkOrigin, ObjectDigest, Owner, Reach, Source, WhenAbsent,
};

/// An app of root's, uploaded, without programs.
pub(crate) fn app(number: u128) -> App {
    App {
        uid: AppUid(Uuid::from_u128(number)),
        handle: Handle(u32::try_from(number).unwrap()),
        name: format!("app{number}").parse().unwrap(),
        owner: Owner { uid: 0, user: Some("root".into()) },
        credentials: None,
        source: Source::Upload,
        object: ObjectDigest::from([7; 32]),
        reach: Reach::Kernel,
        globals: BTreeMap::new(),
        programs: vec![],
        maps: vec![],
        labels: BTreeMap::new(),
        user_labels: Labels::default(),
        advice: BTreeMap::new(),
        lifetime: AppLifetime::UntilUnloaded,
        origin: AppOrigin::Request,
        created: 1,
        generation: 1,
        request: None,
    }
}

/// A link of root's on `eth0`.
pub(crate) fn link(number: u128, app: u128) -> Link {
    let placement = r#"{"chain":{"key":{"netns":"host","interface":"eth0","point":"xdp"},"priority":50,"effective":50,"proceed_on":4,"mode":"auto"}}"#;
    Link {
        uid: LinkUid(Uuid::from_u128(number)),
        handle: Handle(u32::try_from(number).unwrap()),
        app: AppUid(Uuid::from_u128(app)),
        function: "count".into(),
        placement: serde_json::from_str::<Placement>(placement).unwrap(),
        on: None,
        owner: Owner { uid: 0, user: Some("root".into()) },
        credentials: None,
        origin: LinkOrigin::Request,
        lifetime: LinkLifetime::UntilDetached,
        when_absent: WhenAbsent::Wait,
        created: 1,
        generation: 1,
        request: None,
    }
}

/// The uid of `app_of` that number: a higher number has a lower one.
pub(crate) fn uid(number: u8) -> AppUid {
    AppUid(Uuid::from_u128(1000 - u128::from(number)))
}

/// An app called `app-NUMBER` of that owner's, with nothing in it.
pub(crate) fn app_of(number: u8, owner: u32) -> App {
    let (name, owner) = (format!("app-{number}").parse().unwrap(), Owner { uid: owner, user: None });
    App { uid: uid(number), name, owner, ..app(number.into()) }
}
