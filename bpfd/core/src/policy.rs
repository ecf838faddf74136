//! Who may: one decision function over facts, deny by default. The built-in policy holds where no policy file does.
//!
//! `Authorized` is the proof that a decision was made: its only maker is `authorize`, and every handler takes one. This file must
//! never look at a socket or a clock.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hook::Placement;
use crate::ident::AppUid;
use crate::names::Priority;
use crate::request::OwnerScope;
use crate::state::{App, Change, Link, Owner, Reach, State};

/// Who asks, as the kernel told when the connection was made.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Principal {
    /// Effective user id.
    pub uid: u32,
    /// Its name in the user database, if it has one.
    pub user: Option<String>,
    /// Names of all its groups.
    pub groups: Vec<String>,
    /// Process id, for the audit record only: it proves nothing.
    pub pid: u32,
}

impl Principal {
    /// As an owner of what it makes.
    pub fn owner(&self) -> Owner {
        Owner { uid: self.uid, user: self.user.clone() }
    }

    /// The daemon itself: start-up repair.
    pub fn daemon() -> Self {
        Self { uid: 0, user: Some("root".to_owned()), groups: vec![], pid: 0 }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.owner())
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Bring an image to this host.
    Pull,
    /// Load programs.
    Load,
    /// Attach a program.
    Attach,
    /// Move a link.
    Update,
    /// Take a link away.
    Detach,
    /// Take an app away.
    Unload,
    /// See what there is.
    List,
    /// Change who is trusted.
    Trust,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pull => "pull",
            Self::Load => "load",
            Self::Attach => "attach",
            Self::Update => "update",
            Self::Detach => "detach",
            Self::Unload => "unload",
            Self::List => "list",
            Self::Trust => "change trust",
        })
    }
}

/// What bytes are, to policy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SourceKind {
    /// An image that passed, or must pass, the `[[image]]` of its scope.
    Image,
    /// Bytes from the caller: a hash, whatever path they came from.
    Upload,
}

/// One thing asked, with the facts that the decision needs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Asked {
    /// What.
    pub verb: Verb,
    /// From where, for `Load`.
    pub source: Option<SourceKind>,
    /// The place in a chain, for `Attach` and `Update`, where it is known.
    pub priority: Option<Priority>,
    /// Who owns what it touches; `None` where it means nothing, or is the caller's to be.
    pub owner: Option<Owner>,
    /// What it touches, as people name it, as in ``app `a` ``.
    pub thing: Option<String>,
}

impl Asked {
    /// Only a verb.
    pub fn verb(verb: Verb) -> Self {
        Self { verb, source: None, priority: None, owner: None, thing: None }
    }

    /// A verb on an app, where there is one.
    pub fn app(verb: Verb, app: Option<&App>) -> Self {
        let thing = app.map(|app| format!("app `{}`", app.name));
        Self { owner: app.map(|app| app.owner.clone()), thing, ..Self::verb(verb) }
    }

    /// A verb on a link, where there is one.
    pub fn link(verb: Verb, state: &State, link: Option<&Link>) -> Self {
        let thing = link.map(|link| format!("link `{}`", state.link_name(link)));
        Self { owner: link.map(|link| link.owner.clone()), thing, ..Self::verb(verb) }
    }
}

/// A refusal: what is missing, and what would change it.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{principal} may not {verb}: {why}")]
pub struct Denied {
    /// Who.
    pub principal: String,
    /// What.
    pub verb: Verb,
    /// The dimension that did not match.
    pub why: String,
    /// What to do.
    pub hint: String,
}

/// The rules in force.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Policy;

/// The group whose members may use signed images, by the built-in policy.
pub const GROUP: &str = "bpfd";
/// The group whose members may look, by the built-in policy.
pub const VIEW_GROUP: &str = "bpfd-view";
/// The lowest priority of a group member: 0 to 99 are root's, so that root's programs run first.
pub const GROUP_PRIORITY_MIN: u32 = 100;

/// Whether `principal` may, by the rules. Root may all; members of `bpfd` may use images that pass and change what is theirs;
/// anybody else nothing.
pub fn decide(_policy: &Policy, principal: &Principal, asked: &Asked) -> Result<(), Denied> {
    let member = |group: &str| principal.groups.iter().any(|name| name == group);
    if principal.uid == 0 {
        return Ok(());
    }
    let deny = |why: String, hint: &str| {
        Err(Denied { principal: principal.to_string(), verb: asked.verb, why, hint: hint.to_owned() })
    };
    if !member(GROUP) {
        return match (asked.verb, member(VIEW_GROUP)) {
            (Verb::List, true) => Ok(()),
            _ => deny(
                format!("not root and not in group `{GROUP}`"),
                "ask as root, or have root add you to the group: `usermod -aG bpfd USER`",
            ),
        };
    }
    let thing = asked.thing.as_deref().unwrap_or("it");
    match asked.verb {
        Verb::List | Verb::Pull => Ok(()),
        Verb::Trust => deny("only root changes who is trusted".to_owned(), "ask as root"),
        Verb::Load => match asked.source {
            Some(SourceKind::Image) => Ok(()),
            Some(SourceKind::Upload) | None => deny(
                format!("members of group `{GROUP}` load images, not files"),
                "build and sign an image with `bpfctl image build` and `bpfctl image sign`, or load the file as root",
            ),
        },
        Verb::Attach => match &asked.owner {
            Some(owner) if owner.uid != principal.uid => {
                deny(format!("{thing} belongs to {owner}"), "load the image under a name of your own")
            }
            _ => in_band(asked, deny),
        },
        Verb::Update | Verb::Detach | Verb::Unload => match &asked.owner {
            Some(owner) if owner.uid != principal.uid => {
                deny(format!("{thing} belongs to {owner}"), "ask its owner, or root")
            }
            // What means nothing is not there, as anybody who may list can see: carrying out the request says so.
            Some(_) | None => in_band(asked, deny),
        },
    }
}

fn in_band(asked: &Asked, deny: impl Fn(String, &str) -> Result<(), Denied>) -> Result<(), Denied> {
    match asked.priority {
        Some(priority) if u32::from(priority) < GROUP_PRIORITY_MIN => deny(
            format!("priority {priority} is below {GROUP_PRIORITY_MIN}: those places are root's"),
            "ask for a priority from 100 to 1000",
        ),
        Some(_) | None => Ok(()),
    }
}

/// How far bytes may reach, by the built-in policy: content that root vouches for, by asking or by a trusted signature,
/// is verified with the daemon's capabilities; anything else without the kernel's own line, CAP_PERFMON.
pub fn reach(principal: &Principal, signed: bool) -> Reach {
    if principal.uid == 0 || signed { Reach::Kernel } else { Reach::Packet }
}

/// A request that may be carried out. Its maker is `authorize`.
#[derive(Clone, Debug)]
pub struct Authorized<R> {
    request: R,
    principal: Principal,
}

impl<R> Authorized<R> {
    /// What was asked.
    pub fn request(&self) -> &R {
        &self.request
    }

    /// Who asked.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Both, by value.
    pub fn into_parts(self) -> (R, Principal) {
        (self.request, self.principal)
    }
}

/// A request that says what it asks of which owner's things.
pub trait Ask {
    /// Each thing asked. Names that mean nothing in `state` ask for nothing here: carrying out the request reports them.
    fn asked(&self, state: &State) -> Vec<Asked>;

    /// Told how far `all` goes, where it says `all`.
    fn narrow(&mut self, _: OwnerScope) {}
}

/// How far `all` goes, said by this caller: as far as the rules let it take anything away.
fn owner_scope(_policy: &Policy, principal: &Principal) -> OwnerScope {
    if principal.uid == 0 { OwnerScope::Anyone } else { OwnerScope::Of(principal.uid) }
}

/// The decision over every part of a request; owners are read from `state`. What says `all` is narrowed to what the caller may.
pub fn authorize<R: Ask>(
    policy: &Policy,
    principal: Principal,
    state: &State,
    mut request: R,
) -> Result<Authorized<R>, Denied> {
    request.asked(state).iter().try_for_each(|asked| decide(policy, &principal, asked))?;
    request.narrow(owner_scope(policy, &principal));
    Ok(Authorized { request, principal })
}

/// The decision again, on what a request turned out to mean: names were resolved and priorities filled from labels since it was
/// authorised, and a name may have changed hands.
pub fn confirm(policy: &Policy, principal: &Principal, state: &State, changes: &[Change]) -> Result<(), Denied> {
    let of_link = |verb, link| Asked::link(verb, state, state.links.get(link));
    let of_app = |verb, app| Asked::app(verb, state.apps.get(app));
    let asked = changes.iter().filter_map(|change| match change {
        // What is loaded is the caller's own; its source was decided on before a byte was fetched.
        Change::Load(_) => None,
        Change::Attach(link) => {
            let priority = match &link.placement {
                Placement::Chain { priority, .. } => Some(*priority),
                Placement::Tracepoint(_) => None,
            };
            Some(Asked { priority, ..of_app(Verb::Attach, &link.app) })
        }
        Change::Update { link, priority, proceed_on: _ } => {
            Some(Asked { priority: *priority, ..of_link(Verb::Update, link) })
        }
        Change::Detach(link) => Some(of_link(Verb::Detach, link)),
        Change::Unload(app) => Some(of_app(Verb::Unload, app)),
    });
    asked.into_iter().try_for_each(|asked| decide(policy, principal, &asked))?;
    changes.iter().try_for_each(|change| match change {
        Change::Unload(app) => no_links_of_others(principal, state, *app),
        Change::Load(_) | Change::Attach(_) | Change::Update { .. } | Change::Detach(_) => Ok(()),
    })
}

/// An app in which somebody else has links is not its owner's to unload: they would go with it.
fn no_links_of_others(principal: &Principal, state: &State, app: AppUid) -> Result<(), Denied> {
    /// Names in one sentence.
    const SHOWN: usize = 4;
    let mut others: Vec<&Link> = state.links_of(app).filter(|link| link.owner.uid != principal.uid).collect();
    if principal.uid == 0 || others.is_empty() {
        return Ok(());
    }
    others.sort_by_key(|link| link.handle);
    let named = others.iter().take(SHOWN).map(|link| format!("`{}` of {}", state.link_name(link), link.owner));
    let more = if others.len() > SHOWN { ", …" } else { "" };
    let name = state.apps.get(&app).map_or_else(|| app.to_string(), |app| app.name.to_string());
    let named = named.collect::<Vec<_>>().join(", ");
    Err(Denied {
        principal: principal.to_string(),
        verb: Verb::Unload,
        why: format!("others have links in app `{name}`: {named}{more}"),
        hint: "ask their owners to detach them, or root to unload the app".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{UnloadRequest, UnloadWhich};

    fn principal(uid: u32, groups: &[&str]) -> Principal {
        Principal {
            uid,
            user: Some(format!("u{uid}")),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            pid: 1,
        }
    }

    fn owner(uid: u32) -> Option<Owner> {
        Some(Owner { uid, user: None })
    }

    fn asked(verb: Verb, source: Option<SourceKind>, priority: Option<u32>, owner: Option<Owner>) -> Asked {
        let priority = priority.map(|priority| Priority::try_from(priority).unwrap());
        Asked { source, priority, owner, ..Asked::verb(verb) }
    }

    #[test]
    fn the_built_in_rules_are_these() {
        let (root, member, viewer, other) = (
            principal(0, &[]),
            principal(1000, &["bpfd"]),
            principal(1001, &["bpfd-view"]),
            principal(1002, &["wheel"]),
        );
        let image = Some(SourceKind::Image);
        let upload = Some(SourceKind::Upload);
        // What is asked, then whether root, a member, a viewer and anybody else may.
        for (asked, may) in [
            (asked(Verb::List, None, None, None), [true, true, true, false]),
            (asked(Verb::Pull, None, None, None), [true, true, false, false]),
            (asked(Verb::Load, image, None, None), [true, true, false, false]),
            (asked(Verb::Load, upload, None, None), [true, false, false, false]),
            (asked(Verb::Attach, None, Some(99), None), [true, false, false, false]),
            (asked(Verb::Attach, None, Some(100), None), [true, true, false, false]),
            (asked(Verb::Attach, None, None, owner(0)), [true, false, false, false]),
            (asked(Verb::Attach, None, Some(100), owner(1000)), [true, true, false, false]),
            (asked(Verb::Update, None, Some(0), owner(1000)), [true, false, false, false]),
            (asked(Verb::Update, None, Some(1000), owner(1000)), [true, true, false, false]),
            (asked(Verb::Update, None, Some(1000), owner(0)), [true, false, false, false]),
            (asked(Verb::Detach, None, None, owner(0)), [true, false, false, false]),
            (asked(Verb::Detach, None, None, owner(1000)), [true, true, false, false]),
            (asked(Verb::Detach, None, None, None), [true, true, false, false]),
            (asked(Verb::Unload, None, None, None), [true, true, false, false]),
            (asked(Verb::Update, None, Some(99), None), [true, false, false, false]),
            (asked(Verb::Unload, None, None, owner(1001)), [true, false, false, false]),
            (asked(Verb::Trust, None, None, None), [true, false, false, false]),
        ] {
            let found = [&root, &member, &viewer, &other].map(|who| decide(&Policy, who, &asked).is_ok());
            assert_eq!(found, may, "{asked:?}");
        }
    }

    #[test]
    fn all_is_what_the_caller_may_take_away() {
        let unload = || UnloadRequest { which: UnloadWhich::All, owners: OwnerScope::default(), request: None };
        let reached = |who: Principal| {
            let authorized = authorize(&Policy, who, &State::default(), unload()).ok()?;
            let owners = authorized.request().owners;
            Some([0, 1000, 1001].map(|uid| owners.reaches(&Owner { uid, user: None })))
        };
        assert_eq!(reached(principal(0, &[])), Some([true, true, true]));
        assert_eq!(reached(principal(1000, &["bpfd"])), Some([false, true, false]));
        assert_eq!(reached(principal(1001, &["bpfd-view"])), None);
        assert_eq!(reached(principal(1002, &["wheel"])), None);
    }

    #[test]
    fn a_refusal_names_what_belongs_to_another_one() {
        let asked = Asked { thing: Some("app `a`".to_owned()), owner: owner(0), ..Asked::verb(Verb::Unload) };
        let denied = decide(&Policy, &principal(1000, &["bpfd"]), &asked).unwrap_err();
        assert_eq!(denied.why, "app `a` belongs to uid 0");
    }

    #[test]
    fn bytes_nobody_vouches_for_do_not_reach_the_kernel() {
        assert_eq!(reach(&principal(0, &[]), false), Reach::Kernel);
        assert_eq!(reach(&principal(1000, &["bpfd"]), true), Reach::Kernel);
        assert_eq!(reach(&principal(1000, &["bpfd"]), false), Reach::Packet);
    }
}
