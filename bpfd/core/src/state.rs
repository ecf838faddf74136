//! What was asked for: apps and links as rows, and the changes that make one state from another. The intent of bpfd, kept in its
//! database; the kernel's half is `kernel::Observed`.
//!
//! This file must never decide who may ask, nor what the kernel has.
//!
//! Long because a state and every change to it are read together, with their tests.

use std::collections::{BTreeMap, BTreeSet};

pub use bpfd_policy::caller::{Credentials, Owner, Reach};
use serde::{Deserialize, Serialize};

pub use ebpf::kind::ProgramKind;

use crate::cow::CowMap;
use crate::hook::{ChainId, ChainName, InterfaceName, OwnHook, Placement, Point, ProceedOn};
use crate::ident::{AppUid, Handle, LinkUid, RequestId};
use crate::kernel::{DispatcherVersion, LoadAs};
use crate::labels::Labels;
use crate::names::{AppName, Priority};
pub use crate::object_digest::ObjectDigest;
use crate::order;
pub use crate::programs::AppOrigin;
use crate::seat::Seat;

/// Where an app's bytes came from.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A verified image.
    Image {
        /// As asked for.
        reference: String,
        /// What it resolved to: `sha256:…` of the manifest.
        digest: String,
        /// Whose signatures counted; none where the policy allows unsigned images.
        signers: Vec<String>,
    },
    /// Bytes that a caller sent: to policy, a hash.
    Upload,
}

impl Source {
    /// Whose signatures counted.
    pub fn signers(&self) -> &[String] {
        match self {
            Self::Image { reference: _, digest: _, signers } => signers,
            Self::Upload => &[],
        }
    }
}

/// What made a link.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkOrigin {
    /// A request over the API.
    Request,
    /// A file of `programs.d`.
    File,
}

/// How long a link is wanted. It never outlives its app.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkLifetime {
    /// Until somebody detaches it: it is attached again after a reboot.
    UntilDetached,
    /// Until somebody detaches it, or the host is booted again.
    UntilReboot,
}

/// How long an app is wanted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AppLifetime {
    /// Until somebody unloads it: it is loaded again after a reboot. Rows of earlier versions mean this.
    #[default]
    UntilUnloaded,
    /// Until somebody unloads it, or the host is booted again.
    UntilReboot,
}

/// Whether something is there again after a reboot: what a request says, and what lifetimes mean.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Persist {
    /// A reboot ends it: the way out of a program that cut the network.
    #[default]
    No,
    /// It is loaded and attached again.
    Yes,
}

impl Persist {
    /// As it is in requests.
    pub fn of(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }

    /// How long an app is wanted.
    pub fn app(self) -> AppLifetime {
        match self {
            Self::No => AppLifetime::UntilReboot,
            Self::Yes => AppLifetime::UntilUnloaded,
        }
    }

    /// How long a link is wanted.
    pub fn link(self) -> LinkLifetime {
        match self {
            Self::No => LinkLifetime::UntilReboot,
            Self::Yes => LinkLifetime::UntilDetached,
        }
    }
}

impl From<AppLifetime> for Persist {
    fn from(lifetime: AppLifetime) -> Self {
        match lifetime {
            AppLifetime::UntilUnloaded => Self::Yes,
            AppLifetime::UntilReboot => Self::No,
        }
    }
}

impl From<LinkLifetime> for Persist {
    fn from(lifetime: LinkLifetime) -> Self {
        match lifetime {
            LinkLifetime::UntilDetached => Self::Yes,
            LinkLifetime::UntilReboot => Self::No,
        }
    }
}

/// What to do while a link's interface is absent.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenAbsent {
    /// Refuse the request.
    Fail,
    /// Keep the link as WAITING.
    Wait,
}

/// One function as the kernel loaded it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProgramFacts {
    /// The ELF symbol.
    pub function: String,
    /// Its ELF section, as written there.
    pub section: String,
    /// What it was loaded as.
    pub kind: ProgramKind,
    /// See [`Program::target`].
    pub target: Option<OwnHook>,
    /// See [`Program::tag`].
    pub tag: [u8; 8],
    /// See [`Program::load_time`].
    pub load_time: u64,
}

/// One loaded function of an app.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Program {
    /// Its small number.
    pub handle: Handle,
    /// The ELF symbol.
    pub function: String,
    /// Its ELF section, as written there.
    pub section: String,
    /// What it was loaded as.
    pub kind: ProgramKind,
    /// The one target that it was loaded for, if its kind fixes that when a program is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<OwnHook>,
    /// The kernel's hash of its instructions; orders equal priorities of equal names within this boot only: it differs
    /// between kernels.
    pub tag: [u8; 8],
    /// `bpf_prog_info.load_time`: nanoseconds of CLOCK_BOOTTIME.
    pub load_time: u64,
}

impl Program {
    /// A function that was loaded, with a number of its own.
    pub fn new(handle: Handle, facts: ProgramFacts) -> Self {
        let ProgramFacts { function, section, kind, target, tag, load_time } = facts;
        Self { handle, function, section, kind, target, tag, load_time }
    }

    /// What to load it as again.
    pub fn load_as(&self) -> LoadAs {
        self.target.clone().map_or(LoadAs::Any(self.kind), LoadAs::For)
    }
}

/// One map of an app, as its object declares it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Map {
    /// Its name in the object.
    pub name: String,
    /// Its type, as bpftool writes it; a number if that has no name.
    pub kind: String,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries at most.
    pub max_entries: u32,
    /// Whose it is too, if it was taken from another app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<Shared>,
}

/// Where a map was taken from.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Shared {
    /// The app that was named.
    pub app: AppUid,
    /// What it was called then.
    pub name: AppName,
    /// The app that made the map: not the one that was named, if that had taken it itself.
    pub origin: AppUid,
}

/// The value of a global that the caller set.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Setting {
    /// As written.
    pub text: String,
    /// As the object's type has it.
    pub bytes: Vec<u8>,
}

/// What an object says of one program that a request may leave out.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Advice {
    /// From the image's label, else the object's run config.
    pub priority: Option<Priority>,
    /// The same.
    pub proceed_on: Option<ProceedOn>,
    /// The target of an own hook: from the image's label, else what follows the `/` of the section's name.
    #[serde(alias = "tracepoint")]
    pub target: Option<String>,
}

impl Advice {
    /// This advice, and for what it leaves out the other's.
    pub fn or(self, other: Self) -> Self {
        Self {
            priority: self.priority.or(other.priority),
            proceed_on: self.proceed_on.or(other.proceed_on),
            target: self.target.or(other.target),
        }
    }
}

/// One load of one object.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct App {
    /// Its identity.
    pub uid: AppUid,
    /// Its small number.
    pub handle: Handle,
    /// Its unique name.
    pub name: AppName,
    /// Who loaded it.
    pub owner: Owner,
    /// What else the policy saw of who loaded it; `None` in rows of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Where the bytes came from.
    pub source: Source,
    /// The bytes, in the object store.
    pub object: ObjectDigest,
    /// How far it reaches.
    pub reach: Reach,
    /// Values of globals, by name: loading the same object again needs them.
    pub globals: BTreeMap<String, Setting>,
    /// Loaded functions, sorted by name.
    pub programs: Vec<Program>,
    /// Its maps, sorted by name.
    pub maps: Vec<Map>,
    /// What the image says of itself, or nothing.
    pub labels: BTreeMap<String, String>,
    /// What its caller calls it by, beside its name.
    pub user_labels: Labels,
    /// What the image says of its programs, by function.
    pub advice: BTreeMap<String, Advice>,
    /// How long it is wanted.
    #[serde(default)]
    pub lifetime: AppLifetime,
    /// What made it.
    #[serde(default)]
    pub origin: AppOrigin,
    /// Seconds since 1970 when it was loaded.
    pub created: u64,
    /// Counts changes of this app, from 1.
    pub generation: u64,
    /// The caller's idempotency key.
    pub request: Option<RequestId>,
}

impl App {
    /// The program of that function.
    pub fn program(&self, function: &str) -> Option<&Program> {
        self.programs.iter().find(|program| program.function == function)
    }

    /// The same, or what there is.
    pub fn known(&self, function: &str) -> Result<&Program, ChangeError> {
        self.program(function).ok_or_else(|| ChangeError::NoProgram {
            app: self.name.clone(),
            function: function.to_owned(),
            programs: self.programs.iter().map(|program| program.function.clone()).collect(),
        })
    }

    /// The kernel's digests and load times are those of programs loaded again.
    pub fn loaded_again(&mut self, programs: &[ProgramFacts]) {
        for program in &mut self.programs {
            if let Some(now) = programs.iter().find(|now| now.function == program.function) {
                program.tag = now.tag;
                program.load_time = now.load_time;
            }
        }
    }
}

/// One program on one hook.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Link {
    /// Its identity.
    pub uid: LinkUid,
    /// Its small number.
    pub handle: Handle,
    /// The app whose program it attaches.
    pub app: AppUid,
    /// Which program.
    pub function: String,
    /// Where it was asked for, and with which options.
    pub placement: Placement,
    /// The chain that it is in: none while it waits for its interface, and on own hooks. It means nothing after a boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<Seat>,
    /// Who attached it.
    pub owner: Owner,
    /// What else the policy saw of who attached it; `None` in rows of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// What made it.
    pub origin: LinkOrigin,
    /// How long it is wanted.
    pub lifetime: LinkLifetime,
    /// What to do while the interface is absent.
    pub when_absent: WhenAbsent,
    /// Seconds since 1970 when it was made.
    pub created: u64,
    /// Counts changes of this link, from 1.
    pub generation: u64,
    /// The caller's idempotency key.
    pub request: Option<RequestId>,
}

impl Link {
    /// What was asked for: the row without the chain that the link is in now.
    #[must_use]
    pub fn as_asked(&self) -> Self {
        Self { on: None, ..self.clone() }
    }

    /// Whether `record` is what was asked for.
    pub fn is_asked_as(&self, record: &Self) -> bool {
        let Self { uid, handle, app, function, placement, on: _, owner, origin, lifetime, when_absent, .. } = self;
        let Self { created, generation, request, credentials, .. } = self;
        record.on.is_none()
            && *credentials == record.credentials
            && (uid, handle, app, function, placement, owner, origin)
                == (
                    &record.uid,
                    &record.handle,
                    &record.app,
                    &record.function,
                    &record.placement,
                    &record.owner,
                    &record.origin,
                )
            && (lifetime, when_absent, created, generation, request)
                == (&record.lifetime, &record.when_absent, &record.created, &record.generation, &record.request)
    }

    /// The link at another place in its chain.
    #[must_use]
    pub fn moved(&self, priority: Option<Priority>, proceed_on: Option<ProceedOn>) -> Self {
        let mut moved = self.clone();
        if let Placement::Shared(place) = &mut moved.placement {
            place.priority = priority.unwrap_or(place.priority);
            place.proceed_on = proceed_on.unwrap_or(place.proceed_on);
        }
        moved
    }

    /// The chain that it is in.
    pub fn chain(&self) -> Option<ChainId> {
        self.on.as_ref().map(|seat| seat.chain)
    }
}

/// One wanted difference. Several make one transaction.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// A new app, its programs and maps made and held as file descriptors.
    Load(App),
    /// A new link.
    Attach(Link),
    /// Another place for a link in its chain.
    Update {
        /// Which.
        link: LinkUid,
        /// Its new priority.
        priority: Option<Priority>,
        /// Its new proceed-on set.
        proceed_on: Option<ProceedOn>,
    },
    /// The dispatcher of a chain is built again with this version of its configuration; no row differs.
    Rebuild {
        /// Which chain.
        chain: ChainId,
        /// Which version.
        version: DispatcherVersion,
    },
    /// The links of a chain come to where the policy's orders have them; nothing that was asked for differs.
    Reorder {
        /// Which chain.
        chain: ChainId,
    },
    /// An app and links of it are there after a reboot, or are not.
    Persist {
        /// Which app.
        app: AppUid,
        /// Which of its links.
        links: Vec<LinkUid>,
        /// Whether.
        persist: Persist,
    },
    /// A link goes.
    Detach(LinkUid),
    /// An app goes, its links with it.
    Unload(AppUid),
}

impl Change {
    /// The same by somebody of whom the policy saw this.
    #[must_use]
    pub fn by(mut self, credentials: &Credentials) -> Self {
        match &mut self {
            Self::Load(app) => app.credentials = Some(credentials.clone()),
            Self::Attach(link) => link.credentials = Some(credentials.clone()),
            Self::Update { .. }
            | Self::Persist { .. }
            | Self::Rebuild { .. }
            | Self::Reorder { .. }
            | Self::Detach(_)
            | Self::Unload(_) => {}
        }
        self
    }

    /// The highest handle that it gives away.
    pub fn highest_handle(&self) -> Option<Handle> {
        match self {
            Self::Load(app) => app.programs.iter().map(|program| program.handle).chain([app.handle]).max(),
            Self::Attach(link) => Some(link.handle),
            Self::Update { .. }
            | Self::Persist { .. }
            | Self::Rebuild { .. }
            | Self::Reorder { .. }
            | Self::Detach(_)
            | Self::Unload(_) => None,
        }
    }

    /// Whether a crash in the midst is finished forward: the caller asked for less, and less is safe to finish.
    pub fn removes(&self) -> bool {
        match self {
            Self::Load(_)
            | Self::Attach(_)
            | Self::Update { .. }
            | Self::Persist { .. }
            | Self::Rebuild { .. }
            | Self::Reorder { .. } => false,
            Self::Detach(_) | Self::Unload(_) => true,
        }
    }
}

/// Why a change does not fit the state.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChangeError {
    /// The name belongs to another app.
    #[error("an app named `{0}` exists")]
    NameTaken(AppName),
    /// No such app.
    #[error("no app `{0}`")]
    NoApp(String),
    /// No such program in the app.
    #[error("app `{app}` has no program `{function}`; it has `{}`", programs.join("`, `"))]
    NoProgram {
        /// The app.
        app: AppName,
        /// What was asked for.
        function: String,
        /// What it has: their functions.
        programs: Vec<String>,
    },
    /// No such link.
    #[error("no link `{0}`")]
    NoLink(String),
    /// Priority and proceed-on belong to chains.
    #[error("link `{0}` is not part of a chain: it has no priority or proceed-on")]
    NotInChain(String),
    /// The kernel runs a program once on an own hook (`bpf_prog_array_copy` of kernel/bpf/core.c for events,
    /// `__bpf_trampoline_link_prog` of kernel/bpf/trampoline.c for functions).
    #[error("`{function}` of app `{app}` is attached to `{hook}` already")]
    Attached {
        /// The app.
        app: AppName,
        /// The program.
        function: String,
        /// Where.
        hook: String,
    },
    /// A tracepoint program on an interface, or the like.
    #[error("`{function}` is a {kind} program: it cannot attach to `{hook}`")]
    WrongType {
        /// The program.
        function: String,
        /// Its type.
        kind: ProgramKind,
        /// Where it was asked to go.
        hook: String,
    },
}

/// Everything asked for, at one moment.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct State {
    /// By identity.
    pub apps: CowMap<AppUid, App>,
    /// By identity.
    pub links: CowMap<LinkUid, Link>,
}

impl State {
    /// The state after `changes`, all or none.
    pub fn after(&self, changes: &[Change]) -> Result<Self, ChangeError> {
        let mut next = self.clone();
        changes.iter().try_for_each(|change| next.apply(change))?;
        Ok(next)
    }

    fn apply(&mut self, change: &Change) -> Result<(), ChangeError> {
        match change {
            Change::Load(app) => {
                if self.app_named(&app.name).is_some() {
                    return Err(ChangeError::NameTaken(app.name.clone()));
                }
                self.apps.insert(app.uid, app.clone());
            }
            Change::Attach(link) => {
                let app = self.apps.get(&link.app).ok_or_else(|| ChangeError::NoApp(link.app.to_string()))?;
                let program = app.known(&link.function)?;
                if link.placement.kind() != program.kind {
                    return Err(ChangeError::WrongType {
                        function: link.function.clone(),
                        kind: program.kind,
                        hook: link.placement.to_string(),
                    });
                }
                let same = |other: &Link| other.app == link.app && other.function == link.function;
                let there = |other: &Link| same(other) && other.placement == link.placement;
                if link.placement.asked().is_none() && self.links.values().any(there) {
                    return Err(ChangeError::Attached {
                        app: app.name.clone(),
                        function: link.function.clone(),
                        hook: link.placement.to_string(),
                    });
                }
                self.links.insert(link.uid, link.clone());
            }
            Change::Update { link, priority: new_priority, proceed_on: new_set } => {
                let row = self.links.get_mut(link).ok_or_else(|| ChangeError::NoLink(link.to_string()))?;
                let Placement::Shared(place) = &mut row.placement else {
                    return Err(ChangeError::NotInChain(link.to_string()));
                };
                if let Some(priority) = new_priority {
                    (place.priority, place.effective) = (*priority, *priority);
                }
                place.proceed_on = new_set.unwrap_or(place.proceed_on);
                row.generation += 1;
            }
            Change::Rebuild { .. } | Change::Reorder { .. } => {}
            Change::Persist { app, links, persist } => {
                let row = self.apps.get_mut(app).ok_or_else(|| ChangeError::NoApp(app.to_string()))?;
                row.generation += u64::from(row.lifetime != persist.app());
                row.lifetime = persist.app();
                for link in links {
                    let row = self.links.get_mut(link).ok_or_else(|| ChangeError::NoLink(link.to_string()))?;
                    row.generation += u64::from(row.lifetime != persist.link());
                    row.lifetime = persist.link();
                }
            }
            Change::Detach(link) => {
                self.links.remove(link).ok_or_else(|| ChangeError::NoLink(link.to_string()))?;
            }
            Change::Unload(app) => {
                self.apps.remove(app).ok_or_else(|| ChangeError::NoApp(app.to_string()))?;
                self.links.retain(|_, link| link.app != *app);
            }
        }
        Ok(())
    }

    /// The highest handle that a row has.
    pub fn highest_handle(&self) -> Option<Handle> {
        let programs = |app: &App| app.programs.iter().map(|program| program.handle).max();
        let apps = self.apps.values().flat_map(|app| [Some(app.handle), programs(app)]).flatten();
        apps.chain(self.links.values().map(|link| link.handle)).max()
    }

    /// The app of that name.
    pub fn app_named(&self, name: &AppName) -> Option<&App> {
        self.apps.values().find(|app| app.name == *name)
    }

    /// `wanted` if it is free, else `wanted-2`, `wanted-3`, ….
    pub fn free_name(&self, wanted: &AppName) -> AppName {
        let taken = |name: &AppName| self.app_named(name).is_some();
        if !taken(wanted) {
            return wanted.clone();
        }
        (2..).map(|number| wanted.numbered(number)).find(|name| !taken(name)).unwrap_or_else(|| wanted.clone())
    }

    /// The state with another name for each app whose name reads as a uid or a number, as earlier versions allowed; and what each was
    /// called, and is called now.
    pub fn without_names_of_identities(&self) -> (Self, Vec<(AppName, AppName)>) {
        let mut next = self.clone();
        let mut renamed = Vec::new();
        for (uid, app) in self.apps.iter().filter(|(_, app)| app.name.reads_as_identity()) {
            let name = next.free_name(&app.name.prefixed());
            renamed.push((app.name.clone(), name.clone()));
            if let Some(app) = next.apps.get_mut(uid) {
                app.name = name;
                app.generation += 1;
            }
        }
        (next, renamed)
    }

    /// The state with fewer links.
    pub fn without_links(&self, gone: impl Fn(&Link) -> bool) -> Self {
        let mut fewer = self.clone();
        fewer.links.retain(|_, link| !gone(link));
        fewer
    }

    /// The links of an app.
    pub fn links_of(&self, app: AppUid) -> impl Iterator<Item = &Link> {
        self.links.values().filter(move |link| link.app == app)
    }

    /// Every chain that some link is in, each once.
    pub fn chains(&self) -> BTreeSet<ChainId> {
        self.links.values().filter_map(Link::chain).collect()
    }

    /// The chain that a name means among those that have links: of the interface that is called so now, else of the one that was
    /// asked for by this name.
    pub fn chain_called(&self, name: &ChainName) -> Option<ChainId> {
        let called = |link: &&Link| link.on.as_ref().is_some_and(|seat| seat.called == *name);
        let asked = |link: &&Link| link.on.is_some() && link.placement.asked() == Some(name);
        let links = || self.links.values();
        links().find(called).or_else(|| links().find(asked)).and_then(Link::chain)
    }

    /// The links that a name means, in their order: those of its chain, and those that wait for an interface of this name.
    pub fn links_called(&self, name: &ChainName) -> Vec<&Link> {
        let chain = self.chain_called(name);
        let mut links = chain.map(|chain| order::ordered(self, &chain)).unwrap_or_default();
        links.extend(self.links.values().filter(|link| link.on.is_none() && link.placement.asked() == Some(name)));
        links
    }

    /// The links on an interface, by hook and in their order.
    pub fn links_on(&self, interface: &InterfaceName) -> Vec<&Link> {
        Point::ALL.iter().flat_map(|point| self.links_called(&interface.chain(*point))).collect()
    }

    /// `app/function@hook`, the name of a link that people type.
    pub fn link_name(&self, link: &Link) -> String {
        let app = self.apps.get(&link.app).map_or_else(|| link.app.to_string(), |app| app.name.to_string());
        format!("{app}/{}@{}", link.function, link.placement)
    }

    /// The same by what its interface is called now, if that is something else.
    pub fn link_name_now(&self, link: &Link) -> Option<String> {
        let called = &link.on.as_ref()?.called;
        let app = self.apps.get(&link.app)?;
        (link.placement.asked() != Some(called)).then(|| format!("{}/{}@{called}", app.name, link.function))
    }
}
