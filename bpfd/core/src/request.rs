//! What callers ask, typed: a bad name never gets this far. References to apps and links are kept as they were written and
//! resolved against a state, because names mean something only there.
//!
//! This file must never decide whether the caller may.

use std::fmt;
use std::str::FromStr;

pub use bpfd_policy::caller::OwnerScope;
use serde::{Deserialize, Serialize};

use crate::hook::{ChainName, HookAsk, InterfaceName, ProceedOn};
use crate::ident::{AppUid, Handle, LinkUid, RequestKey};
use crate::kernel::DispatcherVersion;
use crate::labels::Labels;
use crate::names::{AppName, Priority, printable};
use crate::sharing::MapFrom;
use crate::state::{App, AppOrigin, ChangeError, Link, ObjectDigest, Persist, State, WhenAbsent};

/// Where the bytes of a load come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Bytes {
    /// An image, by reference.
    Image {
        /// As the caller wrote it; the image crate parses it.
        reference: String,
        /// Whether the registry is asked.
        pull: PullPolicy,
    },
    /// Bytes that the caller sent before.
    Uploaded {
        /// Their hash.
        object: ObjectDigest,
        /// The stem of the caller's file: a wish for the name, nothing else.
        stem: Option<String>,
    },
}

/// When to ask the registry.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullPolicy {
    /// Ask once; registry down = what is stored, with a warning.
    #[default]
    Newer,
    /// Ask, and fail if it does not answer.
    Always,
    /// Ask only for what is not stored.
    IfNotPresent,
    /// Never ask.
    Never,
}

/// Whether something is to be done, or only judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Apply {
    /// Do it.
    Write,
    /// Say what would happen.
    ValidateOnly,
}

/// Which programs of an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Select {
    /// `--section-name`: the exact section, then `xdp/<name>`, then the function.
    Section(String),
    /// `--program`: the function.
    Function(String),
}

/// One attachment as asked for; what is left out is filled from labels, run config and defaults.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AttachAsk {
    /// Where.
    pub hook: HookAsk,
    /// What to do if the interface is absent.
    pub when_absent: WhenAbsent,
}

/// Most links that one load makes.
pub const ATTACH_MAX: usize = 64;
/// Most `--set` values or selectors in one request.
pub const LIST_MAX: usize = 256;
/// Most names of apps or links in one request.
pub const NAMES_MAX: usize = 64;
/// Bytes of a global variable's name in a request: C compilers promise to tell 63 characters apart.
pub const GLOBAL_NAME_MAX: usize = 127;
/// Bytes of a value for a global variable: kept with the app, and in every list of apps.
pub const GLOBAL_VALUE_MAX: usize = 1024;

/// Load one object, and attach programs of it if asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LoadRequest {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its name; `None` = the label's, else the file's stem, numbered if taken.
    pub name: Option<AppName>,
    /// Which programs; empty = all that are not optional.
    pub select: Vec<Select>,
    /// `--set NAME=VALUE`, as written.
    pub globals: Vec<(String, String)>,
    /// `--map-from APP[:MAP]`.
    pub map_from: Vec<MapFrom>,
    /// `--label KEY=VALUE`.
    pub labels: Labels,
    /// Where to attach, and which function; `None` if only one fits.
    pub attach: Vec<(AttachAsk, Option<String>)>,
    /// Whether it, and its links, are there after a reboot.
    pub persist: Persist,
    /// What asks for it.
    pub origin: AppOrigin,
    /// Idempotency key.
    pub request: Option<RequestKey>,
}

/// Attach one program of a loaded app.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AttachRequest {
    /// Which app.
    pub app: AppRef,
    /// Which of its programs; `None` if only one fits.
    pub function: Option<String>,
    /// Where.
    pub attach: AttachAsk,
    /// Whether the link is there after a reboot; its app must be, too.
    pub persist: Persist,
    /// Idempotency key.
    pub request: Option<RequestKey>,
}

/// Whether an app is there after a reboot, its links with it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PersistRequest {
    /// Which app.
    pub app: AppRef,
    /// Whether.
    pub persist: Persist,
    /// Whose links go with it; authorising says it.
    pub owners: OwnerScope,
    /// Idempotency key.
    pub request: Option<RequestKey>,
}

/// Another place for a link.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UpdateRequest {
    /// Which link.
    pub link: LinkRef,
    /// The generation that the caller saw; another one = somebody else moved it since.
    pub generation: Option<u64>,
    /// Its new priority.
    pub priority: Option<Priority>,
    /// Its new set.
    pub proceed_on: Option<ProceedOn>,
    /// Idempotency key.
    pub request: Option<RequestKey>,
}

/// A dispatcher that is built again with another version of its configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RebuildRequest {
    /// Of which chain.
    pub chain: ChainName,
    /// Which version.
    pub version: DispatcherVersion,
}

/// Links that go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DetachRequest {
    /// Which.
    pub which: DetachWhich,
    /// How far `All` goes; authorising says it.
    pub owners: OwnerScope,
    /// Idempotency key.
    pub request: Option<RequestKey>,
}

/// Which links go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DetachWhich {
    /// These.
    Links(Vec<LinkRef>),
    /// All on an interface, as far as `owners` goes.
    All(InterfaceName),
}

/// Apps that go, their links with them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnloadRequest {
    /// Which.
    pub which: UnloadWhich,
    /// How far `All` goes; authorising says it.
    pub owners: OwnerScope,
    /// Idempotency key.
    pub request: Option<RequestKey>,
}

/// Which apps go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum UnloadWhich {
    /// These.
    Apps(Vec<AppRef>),
    /// All, as far as `owners` goes.
    All,
}

/// An app as people write it: its name, its uid (`uid:…`, or the UUID alone), or its handle (`#…`). No name reads as one of these.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AppRef {
    /// By name.
    Name(AppName),
    /// By identity.
    Uid(AppUid),
    /// By its small number.
    Handle(Handle),
}

/// A text that names no app.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is neither an app's name nor its uid")]
pub struct BadAppRef(String);

impl FromStr for AppRef {
    type Err = BadAppRef;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uid = |text: &str| text.parse().ok().map(Self::Uid);
        let read = match (text.strip_prefix("uid:"), text.strip_prefix('#')) {
            (Some(text), _) => uid(text),
            (None, Some(text)) => text.parse().ok().map(|number| Self::Handle(Handle(number))),
            (None, None) => uid(text).or_else(|| text.parse().ok().map(Self::Name)),
        };
        read.ok_or_else(|| BadAppRef(printable(text)))
    }
}

impl fmt::Display for AppRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name}"),
            Self::Uid(uid) => write!(f, "{uid}"),
            Self::Handle(Handle(number)) => write!(f, "#{number}"),
        }
    }
}

impl AppRef {
    /// The app that it means.
    pub fn resolve<'a>(&self, state: &'a State) -> Result<&'a App, ChangeError> {
        let found = match self {
            Self::Name(name) => state.app_named(name),
            Self::Uid(uid) => state.apps.get(uid),
            Self::Handle(handle) => state.apps.values().find(|app| app.handle == *handle),
        };
        found.ok_or_else(|| ChangeError::NoApp(self.to_string()))
    }
}

/// Longest text that names a link: app, function, namespace, interface and what is between.
const LINK_REF_MAX: usize = 1024;

/// A link as people write it: its name `app/function@hook`, by the interface's name as it was asked for or as it is now; its uid
/// (`uid:…`, or the UUID alone); its handle (`#…`, or the number alone); or so much of the name that one link fits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LinkRef(String);

/// A text that cannot name a link.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` cannot name a link")]
pub struct BadLinkRef(String);

impl FromStr for LinkRef {
    type Err = BadLinkRef;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = text.is_empty() || text.len() > LINK_REF_MAX || text.chars().any(char::is_control);
        if bad { Err(BadLinkRef(printable(text))) } else { Ok(Self(text.to_owned())) }
    }
}

impl fmt::Display for LinkRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text means no one link.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoOneLink {
    /// None fits.
    #[error("no link `{0}`")]
    None(String),
    /// Several fit.
    #[error("`{asked}` fits several links: {}", candidates.join(", "))]
    Several {
        /// As written.
        asked: String,
        /// Their names.
        candidates: Vec<String>,
    },
}

impl LinkRef {
    /// The link that it means: a uid, a handle, a whole name, or an app, an app/function or a hook that only one link has.
    pub fn resolve<'a>(&self, state: &'a State) -> Result<&'a Link, NoOneLink> {
        let text = self.0.as_str();
        // What says that it is an identity, or reads as one, is never looked for among names.
        let none = || NoOneLink::None(text.to_owned());
        let uid = text.strip_prefix("uid:").unwrap_or(text).parse::<LinkUid>();
        if uid.is_ok() || text.starts_with("uid:") {
            return uid.ok().and_then(|uid| state.links.get(&uid)).ok_or_else(none);
        }
        let handle = text.strip_prefix('#').unwrap_or(text).parse::<u32>();
        if handle.is_ok() || text.starts_with('#') {
            let of = |handle| state.links.values().find(|link| link.handle == Handle(handle));
            return handle.ok().and_then(of).ok_or_else(none);
        }
        // Of most links the app's name says that it is another one.
        let fits = |link: &&Link| {
            let app = state.apps.get(&link.app).map(|app| app.name.as_str());
            let Some(rest) = app.and_then(|app| text.strip_prefix(app)) else { return false };
            match rest.strip_prefix('/').and_then(|rest| rest.strip_prefix(link.function.as_str())) {
                None => rest.is_empty(),
                Some("") => true,
                Some(_) => state.link_name(link) == text || state.link_name_now(link).as_deref() == Some(text),
            }
        };
        let found: Vec<&Link> = state.links.values().filter(fits).collect();
        match found.as_slice() {
            [link] => Ok(link),
            [] => Err(NoOneLink::None(text.to_owned())),
            several => Err(NoOneLink::Several {
                asked: text.to_owned(),
                candidates: several.iter().map(|link| format!("{} ({})", state.link_name(link), link.uid)).collect(),
            }),
        }
    }
}
