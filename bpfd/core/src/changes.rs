//! From a request to the changes that it means: names resolved, gaps filled from label, run config and defaults. Pure: what the
//! object says and which identities are new come as arguments.
//!
//! Long because what each verb means is read together.
//!
//! This file must never ask whether the caller may: it takes what was authorised.

use crate::hook::{BadTarget, ChainName, HookAsk, OwnHook, Place, Placement, Point, ProceedOn};
use crate::ident::{AppUid, Handle, LinkUid, RequestId};
use crate::labels::Labels;
use crate::names::{AppName, Priority};
use crate::request::{
    AttachAsk, AttachRequest, DetachRequest, DetachWhich, NoOneLink, PersistRequest, RebuildRequest, UnloadRequest,
    UnloadWhich, UpdateRequest,
};
use crate::state::{
    Advice, App, AppLifetime, AppOrigin, Change, ChangeError, Link, LinkOrigin, Map, ObjectDigest, Owner, Persist,
    Program, ProgramFacts, ProgramKind, Reach, Setting, Source, State,
};
use std::collections::{BTreeMap, BTreeSet};

/// An app that was made and verified, and waits as file descriptors.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Loaded {
    /// Its identity.
    pub uid: AppUid,
    /// What the caller wants it to be called.
    pub name: Option<AppName>,
    /// What it is called if the caller does not say.
    pub default_name: AppName,
    /// Where the bytes came from.
    pub source: Source,
    /// Their hash.
    pub object: ObjectDigest,
    /// How far it reaches.
    pub reach: Reach,
    /// Globals that the caller set.
    pub globals: BTreeMap<String, Setting>,
    /// Its programs.
    pub programs: Vec<ProgramFacts>,
    /// Its maps.
    pub maps: Vec<Map>,
    /// What the image says of itself.
    pub labels: BTreeMap<String, String>,
    /// What the caller calls it by, beside its name.
    pub user_labels: Labels,
    /// What the object says, by function.
    pub advice: BTreeMap<String, Advice>,
    /// Where to attach, and which function.
    pub attach: Vec<(AttachAsk, String)>,
    /// Whether it, and its links, are there after a reboot.
    pub persist: Persist,
    /// What has it loaded.
    pub origin: AppOrigin,
    /// Idempotency key.
    pub request: Option<RequestId>,
}

/// Why a request means no change.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RequestError {
    /// It does not fit the state.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// A link's name means none, or several.
    #[error(transparent)]
    Link(#[from] NoOneLink),
    /// An app with several programs, and no word which.
    #[error("`{app}` has several {kind} programs: {}", candidates.join(", "))]
    WhichProgram {
        /// The app.
        app: AppName,
        /// The type that fits the hook.
        kind: ProgramKind,
        /// Their functions.
        candidates: Vec<String>,
    },
    /// An app without a program for the hook.
    #[error("`{app}` has no {kind} program")]
    NoProgram {
        /// The app.
        app: AppName,
        /// The type that the hook needs.
        kind: ProgramKind,
    },
    /// A program of an own hook whose section names no target, and the request does not either.
    #[error("the section of `{function}` names no {kind} to attach to")]
    NoTarget {
        /// The program.
        function: String,
        /// The kind of hook.
        kind: ProgramKind,
    },
    /// The section or the image's label names what is no target of the hook.
    #[error("the section or label of `{function}` names no hook")]
    Target {
        /// The program.
        function: String,
        /// Why.
        source: BadTarget,
    },
    /// A program of a kind whose target is fixed when it is loaded, and another target.
    #[error("the target of `{function}` was fixed when it was loaded: {} `{}`", .fixed.noun(), .fixed.target())]
    FixedTarget {
        /// The program.
        function: String,
        /// What it was loaded for.
        fixed: OwnHook,
    },
    /// Somebody else moved the link since the caller looked.
    #[error("link `{link}` has generation {now}, not the one in the request")]
    Generation {
        /// Which.
        link: String,
        /// Its generation.
        now: u64,
    },
    /// A proceed-on set that the hook cannot have.
    #[error("a program at {point} cannot go on after {{{set}}}{}", why_not(*.point))]
    ProceedOn {
        /// The hook.
        point: Point,
        /// What was asked for.
        set: ProceedOn,
    },
    /// No link of ours is on the hook.
    #[error("bpfd has no program on `{0}`")]
    NoChain(ChainName),
    /// A link that is to be there after a reboot, and an app that is not.
    #[error("app `{0}` is not persistent: a reboot unloads it, and its links go with it")]
    NotPersistent(AppName),
    /// An update of nothing.
    #[error("nothing to update: give a priority or a proceed-on set")]
    NothingToUpdate,
}

/// New identities for one request.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// For an app.
    pub app: Handle,
    /// For links, as many as the request makes.
    pub links: Vec<(LinkUid, Handle)>,
    /// The first of those for programs; they follow each other, and nobody else has them.
    pub programs: Handle,
    /// Seconds since 1970.
    pub now: u64,
}

/// The changes of a load.
pub fn load(state: &State, loaded: Loaded, owner: &Owner, fresh: &Fresh) -> Result<Vec<Change>, RequestError> {
    let Loaded {
        uid,
        name,
        default_name,
        source,
        object,
        reach,
        globals,
        programs,
        maps,
        labels,
        user_labels,
        advice,
        attach,
        persist,
        origin,
        request,
    } = loaded;
    let name = match name {
        Some(name) if state.app_named(&name).is_some() => return Err(ChangeError::NameTaken(name).into()),
        Some(name) => name,
        None => state.free_name(&default_name),
    };
    // Unloaded since the request was read: what was opened of it is no longer anybody's to lend.
    if let Some(gone) =
        maps.iter().filter_map(|map| map.shared.as_ref()).find(|from| !state.apps.contains_key(&from.app))
    {
        return Err(ChangeError::NoApp(gone.name.to_string()).into());
    }
    let programs = (fresh.programs.0..).zip(programs);
    let app = App {
        uid,
        handle: fresh.app,
        name,
        owner: owner.clone(),
        credentials: None,
        source,
        object,
        reach,
        globals,
        programs: programs.map(|(number, facts)| Program::new(Handle(number), facts)).collect(),
        maps,
        labels,
        user_labels,
        advice,
        lifetime: persist.app(),
        origin,
        created: fresh.now,
        generation: 1,
        request,
    };
    let links = attach.into_iter().zip(&fresh.links).map(|((ask, function), identity)| {
        let advice = app.advice.get(&function).cloned().unwrap_or_default();
        let link = link(&app, function, &ask, &advice, (owner, persist), *identity, fresh.now, request)?;
        let origin = if app.origin.file().is_some() { LinkOrigin::File } else { LinkOrigin::Request };
        Ok(Change::Attach(Link { origin, ..link }))
    });
    let links: Vec<Change> = links.collect::<Result<_, RequestError>>()?;
    Ok(std::iter::once(Change::Load(app)).chain(links).collect())
}

/// The change of an attach.
pub fn attach(state: &State, ask: &AttachRequest, owner: &Owner, fresh: &Fresh) -> Result<Vec<Change>, RequestError> {
    let app = ask.app.resolve(state)?;
    let kind = ask.attach.hook.kind();
    let function = match &ask.function {
        Some(function) => function.clone(),
        None => only_program(app, kind)?,
    };
    app.known(&function)?;
    if (ask.persist, app.lifetime) == (Persist::Yes, AppLifetime::UntilReboot) {
        return Err(RequestError::NotPersistent(app.name.clone()));
    }
    let advice = app.advice.get(&function).cloned().unwrap_or_default();
    let identities = fresh.links.iter().take(1);
    let request = ask.request.map(|key| key.id);
    identities
        .map(|identity| {
            let by = (owner, ask.persist);
            link(app, function.clone(), &ask.attach, &advice, by, *identity, fresh.now, request).map(Change::Attach)
        })
        .collect()
}

/// The change of an update.
pub fn update(state: &State, ask: &UpdateRequest) -> Result<Vec<Change>, RequestError> {
    let UpdateRequest { link, generation, priority, proceed_on, request: _ } = ask;
    if priority.is_none() && proceed_on.is_none() {
        return Err(RequestError::NothingToUpdate);
    }
    let row = link.resolve(state)?;
    if generation.is_some_and(|seen| seen != row.generation) {
        return Err(RequestError::Generation { link: state.link_name(row), now: row.generation });
    }
    if let (Some(set), Some(chain)) = (proceed_on, row.placement.asked()) {
        possible(chain.point, *set)?;
    }
    Ok(vec![Change::Update { link: row.uid, priority: *priority, proceed_on: *proceed_on }])
}

/// The change of a rebuild.
pub fn rebuild(state: &State, ask: &RebuildRequest) -> Result<Vec<Change>, RequestError> {
    let RebuildRequest { chain, version } = ask;
    let found = state.chain_called(chain).ok_or_else(|| RequestError::NoChain(chain.clone()))?;
    Ok(vec![Change::Rebuild { chain: found, version: *version }])
}

/// The change of a persist. Of the app's links, those go with it that `owners` reaches.
pub fn persist(state: &State, ask: &PersistRequest) -> Result<Vec<Change>, RequestError> {
    let PersistRequest { app, persist, owners, request: _ } = ask;
    let app = app.resolve(state)?;
    let mut links: Vec<&Link> = state.links_of(app.uid).filter(|link| owners.reaches(&link.owner)).collect();
    links.sort_by_key(|link| link.handle);
    let links = links.into_iter().map(|link| link.uid).collect();
    Ok(vec![Change::Persist { app: app.uid, links, persist: *persist }])
}

fn why_not(point: Point) -> &'static str {
    match point {
        Point::Xdp => ": these are verdicts of tc",
        Point::TcIngress | Point::TcEgress => ": the kernel runs the next one after `next` (TC_ACT_UNSPEC) alone",
    }
}

/// A set that programs of a hook can have: on tc hooks, only the kernel's own.
fn possible(point: Point, set: ProceedOn) -> Result<ProceedOn, RequestError> {
    let any = point == Point::Xdp && set.is_of(point);
    match any || set == ProceedOn::default_of(point) {
        true => Ok(set),
        false => Err(RequestError::ProceedOn { point, set }),
    }
}

/// The changes of a detach. A link named twice goes once; of an interface go those that `owners` reaches.
pub fn detach(state: &State, ask: &DetachRequest) -> Result<Vec<Change>, RequestError> {
    let links: Vec<LinkUid> = match &ask.which {
        DetachWhich::Links(links) => {
            links.iter().map(|link| link.resolve(state).map(|link| link.uid)).collect::<Result<_, _>>()?
        }
        DetachWhich::All(interface) => {
            let reached = state.links_on(interface).into_iter().filter(|link| ask.owners.reaches(&link.owner));
            reached.map(|link| link.uid).collect()
        }
    };
    Ok(once(links).map(Change::Detach).collect())
}

/// The links on an interface that a detach of all leaves, in their order: they are not the caller's.
pub fn links_left<'a>(state: &'a State, ask: &DetachRequest) -> Vec<&'a Link> {
    match &ask.which {
        DetachWhich::Links(_) => vec![],
        DetachWhich::All(interface) => {
            state.links_on(interface).into_iter().filter(|link| !ask.owners.reaches(&link.owner)).collect()
        }
    }
}

/// The changes of an unload. An app named twice goes once; of all go those that `owners` reaches.
pub fn unload(state: &State, ask: &UnloadRequest) -> Result<Vec<Change>, RequestError> {
    let apps: Vec<AppUid> = match &ask.which {
        UnloadWhich::Apps(apps) => {
            apps.iter().map(|app| app.resolve(state).map(|app| app.uid)).collect::<Result<_, _>>()?
        }
        UnloadWhich::All => {
            let mut apps: Vec<&App> = state.apps.values().filter(|app| ask.owners.reaches(&app.owner)).collect();
            apps.sort_by_key(|app| app.handle);
            apps.into_iter().map(|app| app.uid).collect()
        }
    };
    Ok(once(apps).map(Change::Unload).collect())
}

/// The apps that an unload of all leaves, by name: they are not the caller's.
pub fn apps_left<'a>(state: &'a State, ask: &UnloadRequest) -> Vec<&'a App> {
    let mut left: Vec<&App> = match &ask.which {
        UnloadWhich::Apps(_) => vec![],
        UnloadWhich::All => state.apps.values().filter(|app| !ask.owners.reaches(&app.owner)).collect(),
    };
    left.sort_by(|one, other| one.name.cmp(&other.name));
    left
}

/// Each item at its first place: an answer lists them as the caller did.
fn once<T: Copy + Ord>(items: Vec<T>) -> impl Iterator<Item = T> {
    let mut seen = BTreeSet::new();
    items.into_iter().filter(move |item| seen.insert(*item))
}

pub(crate) fn only_program(app: &App, kind: ProgramKind) -> Result<String, RequestError> {
    let fitting: Vec<&Program> = app.programs.iter().filter(|program| program.kind == kind).collect();
    match fitting.as_slice() {
        [program] => Ok(program.function.clone()),
        [] => Err(RequestError::NoProgram { app: app.name.clone(), kind }),
        several => Err(RequestError::WhichProgram {
            app: app.name.clone(),
            kind,
            candidates: several.iter().map(|program| program.function.clone()).collect(),
        }),
    }
}

pub(crate) fn link(
    app: &App,
    function: String,
    ask: &AttachAsk,
    advice: &Advice,
    (owner, persist): (&Owner, Persist),
    (uid, handle): (LinkUid, Handle),
    now: u64,
    request: Option<RequestId>,
) -> Result<Link, RequestError> {
    let fixed = app.program(&function).and_then(|program| program.target.as_ref());
    let placement = placement(&function, fixed, &ask.hook, advice)?;
    Ok(Link {
        uid,
        handle,
        app: app.uid,
        function,
        placement,
        on: None,
        owner: owner.clone(),
        credentials: None,
        origin: LinkOrigin::Request,
        lifetime: persist.link(),
        when_absent: ask.when_absent,
        created: now,
        generation: 1,
        request,
    })
}

/// A hook with its gaps filled: from what the program was loaded for, else the request, the label or run config, or the default.
pub fn placement(
    function: &str,
    fixed: Option<&OwnHook>,
    hook: &HookAsk,
    advice: &Advice,
) -> Result<Placement, RequestError> {
    match (hook, fixed) {
        (HookAsk::Own { kind, hook }, Some(fixed)) if fixed.kind() == *kind => match hook {
            Some(other) if other != fixed => {
                Err(RequestError::FixedTarget { function: function.to_owned(), fixed: fixed.clone() })
            }
            Some(_) | None => Ok(Placement::Own(fixed.clone())),
        },
        (hook, _) => asked(function, hook, advice),
    }
}

fn asked(function: &str, hook: &HookAsk, advice: &Advice) -> Result<Placement, RequestError> {
    match hook {
        HookAsk::Shared { chain, priority, proceed_on, mode } => {
            let priority = priority.or(advice.priority).unwrap_or(Priority::DEFAULT);
            let advised = advice.proceed_on.filter(|set| set.is_of(chain.point));
            let set = proceed_on.or(advised).unwrap_or_else(|| ProceedOn::default_of(chain.point));
            Ok(Placement::Shared(Place {
                asked: chain.clone(),
                priority,
                effective: priority,
                order: None,
                proceed_on: possible(chain.point, set)?,
                mode: *mode,
            }))
        }
        HookAsk::Own { kind: _, hook: Some(hook) } => Ok(Placement::Own(hook.clone())),
        HookAsk::Own { kind, hook: None } => {
            let function = || function.to_owned();
            let target = advice.target.as_deref();
            let target = target.ok_or_else(|| RequestError::NoTarget { function: function(), kind: *kind })?;
            let hook = OwnHook::parse(*kind, target);
            hook.map(Placement::Own).map_err(|source| RequestError::Target { function: function(), source })
        }
    }
}
