//! Files of `/etc/bpfd/programs.d`: what they declare, how they are read and written, and the changes from what they made before to what
//! they declare now. spec/programs.md is the format for people.
//!
//! This file must never open a file, nor know where an image or an object is.

mod read;
mod reconcile;
mod write;

use std::fmt;
use std::str::FromStr;

use bpfd_policy::digest::Digest;
use bpfd_policy::reference::Reference;
use serde::{Deserialize, Serialize};

pub use self::read::{PROGRAMS_MAX, ProgramsError, read};
pub use self::reconcile::{Wanted, gone, reconcile};
pub use self::write::write;
use crate::hook::{ChainName, HookAsk, Point, ProceedOn, XdpMode};
use crate::labels::Labels;
use crate::names::{AppName, BadIfName, IfName, Netns, Priority};
use crate::object_digest::ObjectDigest;
use crate::request::{AttachAsk, Select};
use crate::state::WhenAbsent;

/// One file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ProgramsFile {
    /// Each `[[program]]`, in the order of the file.
    pub programs: Vec<Declared>,
}

/// One `[[program]]`: an app that is there after every boot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Declared {
    /// The line that it begins in, from 1.
    pub line: usize,
    /// Its name.
    pub name: AppName,
    /// Its bytes.
    pub source: DeclaredSource,
    /// Which programs; empty = all that are not optional.
    pub select: Vec<Select>,
    /// Values of global variables, as `--set` has them.
    pub globals: Vec<(String, String)>,
    /// As `--label` has them.
    pub labels: Labels,
    /// Whether `bpfd-critical.service` fails without it.
    pub critical: bool,
    /// Where it is attached.
    pub attach: Vec<DeclaredHook>,
}

/// Where the bytes of an app come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DeclaredSource {
    /// An image, by tag or digest.
    Image(Reference),
    /// An ELF object that the daemon opens: an absolute path without `.` and `..`.
    File(String),
}

impl DeclaredSource {
    /// The image, if it is one.
    pub fn image(&self) -> Option<&Reference> {
        match self {
            Self::Image(reference) => Some(reference),
            Self::File(_) => None,
        }
    }
}

impl fmt::Display for DeclaredSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(reference) => write!(f, "image {reference}"),
            Self::File(path) => write!(f, "file {path}"),
        }
    }
}

/// One `[[program.attach]]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeclaredHook {
    /// Which function; `None` if only one fits.
    pub function: Option<String>,
    /// Where.
    pub place: DeclaredPlace,
}

/// A hook, or the hooks of all interfaces that a pattern fits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DeclaredPlace {
    /// A shared hook.
    Shared {
        /// Which interfaces.
        interface: Pattern,
        /// Where they live.
        netns: Netns,
        /// Which of their hooks.
        point: Point,
        /// Where in the chain.
        priority: Option<Priority>,
        /// After which verdicts it goes on.
        proceed_on: Option<ProceedOn>,
        /// How the interface is driven.
        mode: XdpMode,
    },
    /// An own hook.
    Own(HookAsk),
}

/// What made an app.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AppOrigin {
    /// A request over the API. Rows of earlier versions mean this.
    #[default]
    Request,
    /// A file.
    File(FileOrigin),
}

impl AppOrigin {
    /// The file, if one made it.
    pub fn file(&self) -> Option<&FileOrigin> {
        match self {
            Self::Request => None,
            Self::File(origin) => Some(origin),
        }
    }
}

/// The file that made an app.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FileOrigin {
    /// Its name in `programs.d`.
    pub file: String,
    /// See [`Declared::critical`].
    pub critical: bool,
    /// A hash of all that the app was loaded from, beside its hooks: if it is another one, the app is loaded anew.
    pub content: ObjectDigest,
}

impl Declared {
    /// What made an app that was loaded from this, with bytes of this identity.
    pub fn origin(&self, file: &str, bytes: &str) -> FileOrigin {
        let content = format!("{}{bytes}", write::app(self));
        FileOrigin { file: file.to_owned(), critical: self.critical, content: Digest::of(content.as_bytes()).into() }
    }

    /// Its attachments on these interfaces of the daemon's own network namespace. What an exact name means may come later.
    pub fn attachments<'a>(
        &self,
        interfaces: impl IntoIterator<Item = &'a IfName> + Clone,
    ) -> Vec<(AttachAsk, Option<String>)> {
        let mut all = Vec::new();
        for DeclaredHook { function, place } in &self.attach {
            let mut push = |hook| all.push((AttachAsk { hook, when_absent: WhenAbsent::Wait }, function.clone()));
            match place {
                DeclaredPlace::Own(hook) => push(hook.clone()),
                DeclaredPlace::Shared { interface, netns, point, priority, proceed_on, mode } => {
                    let mut on = |interface: &IfName| {
                        push(HookAsk::Shared {
                            chain: ChainName { netns: netns.clone(), interface: interface.clone(), point: *point },
                            priority: *priority,
                            proceed_on: *proceed_on,
                            mode: *mode,
                        });
                    };
                    match interface {
                        Pattern::Exactly(name) => on(name),
                        Pattern::Like(_) => {
                            interfaces.clone().into_iter().filter(|name| interface.fits(name)).for_each(&mut on);
                        }
                    }
                }
            }
        }
        all
    }

    /// Whether interfaces that come later may be its.
    pub fn has_patterns(&self) -> bool {
        let like =
            |hook: &DeclaredHook| matches!(hook.place, DeclaredPlace::Shared { interface: Pattern::Like(_), .. });
        self.attach.iter().any(like)
    }
}

/// An interface's name, or many: `*` is any number of characters.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Pattern {
    /// This one.
    Exactly(IfName),
    /// All that fit.
    Like(String),
}

impl Pattern {
    /// Whether a name fits.
    pub fn fits(&self, name: &IfName) -> bool {
        match self {
            Self::Exactly(exactly) => exactly == name,
            Self::Like(pattern) => like(pattern, name.as_str()),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(name) => write!(f, "{name}"),
            Self::Like(pattern) => f.write_str(pattern),
        }
    }
}

impl FromStr for Pattern {
    type Err = BadIfName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text.contains('*') {
            return text.parse().map(Self::Exactly);
        }
        // Of what it fits, each character is one of a name.
        let rest = text.replace('*', "");
        if !rest.is_empty() {
            rest.parse::<IfName>()?;
        }
        Ok(Self::Like(text.to_owned()))
    }
}

/// The parts between the stars come one after another; the first and the last are at the ends.
fn like(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut left) = name.strip_prefix(first).and_then(|left| left.strip_suffix(last)) else { return false };
    middle.split('*').all(|part| match left.split_once(part) {
        Some((_, after)) => {
            left = after;
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_number_of_characters() {
        let fits = |pattern: &str, name: &str| pattern.parse::<Pattern>().unwrap().fits(&name.parse().unwrap());
        for (pattern, name) in
            [("eth*", "eth0"), ("eth*", "eth"), ("*", "lo"), ("en*s*", "enp0s31f6"), ("*0", "eth0"), ("e*h*0", "eth0")]
        {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("eth*", "et"), ("eth*", "veth0"), ("eth", "eth0"), ("*th*th", "eth"), ("a*a", "a")] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
        assert!("a/*".parse::<Pattern>().is_err() && "".parse::<Pattern>().is_err());
    }
}
