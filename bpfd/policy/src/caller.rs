//! Who may ask what: one decision over facts, deny by default. The rules are built in: no policy file can change them yet.
//!
//! Must never know how the daemon keeps apps and links: it puts its requests as questions ([`Asked`]).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Policy;

/// The group whose members may use images that pass.
pub const GROUP: &str = "bpfd";
/// The group whose members may look.
pub const VIEW_GROUP: &str = "bpfd-view";
/// The lowest priority of a group member: 0 to 99 are root's, so that root's programs run first.
pub const GROUP_PRIORITY_MIN: u32 = 100;

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
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner { uid: self.uid, user: self.user.clone() }
    }

    /// The daemon itself: start-up repair.
    #[must_use]
    pub fn daemon() -> Self {
        Self { uid: 0, user: Some("root".to_owned()), groups: vec![], pid: 0 }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.owner())
    }
}

/// Who owns an app and its links: names, not ids, outlive a reinstalled host.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Owner {
    /// The user id that asked.
    pub uid: u32,
    /// Its name when it asked, if it had one.
    pub user: Option<String>,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => f.write_str(user),
            None => write!(f, "uid {}", self.uid),
        }
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
    /// Have the maps of an app in another one.
    Share,
    /// See what there is.
    List,
    /// Change who is trusted.
    Trust,
    /// Decide about a state that was lost.
    Recover,
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
            Self::Share => "share a map",
            Self::List => "list",
            Self::Trust => "change trust",
            Self::Recover => "adopt or discard the state",
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
    /// The place in a chain, for `Attach` and `Update`, if it is known.
    pub priority: Option<u32>,
    /// Who owns what it touches; `None` if that does not exist, or is the caller's to be.
    pub owner: Option<Owner>,
    /// What it touches, as people name it, as in ``app `a` ``.
    pub thing: Option<String>,
}

impl Asked {
    /// Only a verb.
    #[must_use]
    pub fn verb(verb: Verb) -> Self {
        Self { verb, source: None, priority: None, owner: None, thing: None }
    }
}

/// A refusal: what is missing, and what would change it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
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

/// With which capabilities the verifier judges bytes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// With the daemon's own: for root and for bytes that somebody vetted.
    Kernel,
    /// Without CAP_PERFMON and CAP_SYS_ADMIN: packets and its own maps, nothing else.
    Packet,
}

/// How far `--all` goes. It narrows a request, and permits nothing: what it leaves over is decided on like any other.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OwnerScope {
    /// Whoever owns it.
    #[default]
    Anyone,
    /// What this user owns.
    Of(u32),
}

impl OwnerScope {
    /// Whether it reaches what `owner` owns.
    #[must_use]
    pub fn reaches(self, owner: &Owner) -> bool {
        match self {
            Self::Anyone => true,
            Self::Of(uid) => owner.uid == uid,
        }
    }
}

impl Policy {
    /// Whether `principal` may. Root may all; members of `bpfd` may use images that pass and change what is theirs; members of
    /// `bpfd-view` may look; anybody else nothing.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn decide(&self, principal: &Principal, asked: &Asked) -> Result<(), Denied> {
        let member = |group: &str| principal.groups.iter().any(|name| name == group);
        if principal.uid == 0 {
            return Ok(());
        }
        let deny = |why: String, hint: &str| Err(denied(principal, asked.verb, why, hint));
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
            Verb::Recover => deny("only root decides about a state that was lost".to_owned(), "ask as root"),
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
            Verb::Share => match &asked.owner {
                Some(owner) if owner.uid != principal.uid => {
                    deny(format!("{thing} belongs to {owner}"), "load an app of your own that makes the map")
                }
                Some(_) | None => Ok(()),
            },
            Verb::Update | Verb::Detach | Verb::Unload => match &asked.owner {
                Some(owner) if owner.uid != principal.uid => {
                    deny(format!("{thing} belongs to {owner}"), "ask its owner, or root")
                }
                // If it does not exist, carrying out the request says so: anybody who may list can see it.
                Some(_) | None => in_band(asked, deny),
            },
        }
    }

    /// How far bytes may reach: content that root vouches for, by asking or by signers whose signatures count, is verified with the
    /// daemon's capabilities; anything else without the kernel's own line, CAP_PERFMON.
    #[must_use]
    pub fn reach(&self, principal: &Principal, signers: &[String]) -> Reach {
        if principal.uid == 0 || !signers.is_empty() { Reach::Kernel } else { Reach::Packet }
    }

    /// Whether bytes that the verifier judged with `reach` may be loaded now, with these signers.
    ///
    /// # Errors
    /// [`Denied`], if this policy would have had them judged with less.
    pub fn confirm_reach(&self, principal: &Principal, reach: Reach, signers: &[String]) -> Result<(), Denied> {
        match (reach, self.reach(principal, signers)) {
            (Reach::Kernel, Reach::Packet) => Err(denied(
                principal,
                Verb::Load,
                "the policy changed during the load, and no signature counts any more".to_owned(),
                "load it again: it is then verified as an unsigned image",
            )),
            (Reach::Kernel, Reach::Kernel) | (Reach::Packet, Reach::Kernel | Reach::Packet) => Ok(()),
        }
    }

    /// How far `all` goes if `principal` says it: to whatever the rules let it take away.
    #[must_use]
    pub fn owner_scope(&self, principal: &Principal) -> OwnerScope {
        if principal.uid == 0 { OwnerScope::Anyone } else { OwnerScope::Of(principal.uid) }
    }
}

fn denied(principal: &Principal, verb: Verb, why: String, hint: &str) -> Denied {
    Denied { principal: principal.to_string(), verb, why, hint: hint.to_owned() }
}

fn in_band(asked: &Asked, deny: impl Fn(String, &str) -> Result<(), Denied>) -> Result<(), Denied> {
    match asked.priority {
        Some(priority) if priority < GROUP_PRIORITY_MIN => deny(
            format!("priority {priority} is below {GROUP_PRIORITY_MIN}: lower priorities are reserved for root"),
            "ask for a priority from 100 to 1000",
        ),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (asked(Verb::Recover, None, None, None), [true, false, false, false]),
        ] {
            let policy = Policy::default();
            let found = [&root, &member, &viewer, &other].map(|who| policy.decide(who, &asked).is_ok());
            assert_eq!(found, may, "{asked:?}");
        }
    }

    #[test]
    fn a_refusal_names_what_belongs_to_another_one() {
        let asked = Asked { thing: Some("app `a`".to_owned()), owner: owner(0), ..Asked::verb(Verb::Unload) };
        let denied = Policy::default().decide(&principal(1000, &["bpfd"]), &asked).unwrap_err();
        assert_eq!(denied.why, "app `a` belongs to uid 0");
    }

    #[test]
    fn unsigned_bytes_of_a_group_member_are_verified_without_the_daemons_capabilities() {
        let (policy, root, member) = (Policy::default(), principal(0, &[]), principal(1000, &["bpfd"]));
        let ci = ["ci".to_owned()];
        assert_eq!(policy.reach(&root, &[]), Reach::Kernel);
        assert_eq!(policy.reach(&member, &ci), Reach::Kernel);
        assert_eq!(policy.reach(&member, &[]), Reach::Packet);
        // And what was verified with them while a signature counted is not loaded when none does.
        assert!(policy.confirm_reach(&root, Reach::Kernel, &[]).is_ok());
        assert!(policy.confirm_reach(&member, Reach::Kernel, &ci).is_ok());
        assert!(policy.confirm_reach(&member, Reach::Packet, &[]).is_ok());
        assert!(policy.confirm_reach(&member, Reach::Kernel, &[]).is_err());
    }
}
