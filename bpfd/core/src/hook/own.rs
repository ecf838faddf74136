//! Own hooks: each link stands alone, as one or more kernel links. A kind is a file beside this one and a line in the registry.
//!
//! This file must never name a kind but in the registry.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::fentry::{Fentry, Fexit};
use super::kprobe::{Kprobe, Kretprobe};
use super::raw_tracepoint::RawTracepoint;
use super::tracepoint::Tracepoint;
use crate::names::printable;
use crate::state::ProgramKind;

/// What a kind of own hook says of itself. Its `Display` is its target, in the one form that `read` gives back.
pub trait Own: Sized + fmt::Display {
    /// The programs that attach to it.
    const KIND: ProgramKind;
    /// What a target is called in errors: `tracepoint`, `kernel function`.
    const NOUN: &'static str;
    /// How a target is written, for errors: `CATEGORY/EVENT, as in …`.
    const FORM: &'static str;
    /// Set if programs are loaded for one target and attach to no other: the kernel function that they are loaded for.
    const LOADED_FOR: Option<fn(&Self) -> &str> = None;

    /// The hook that a target names, as people, sections of objects and labels of images write it.
    fn read(text: &str) -> Option<Self>;

    /// How to find the targets that this kernel has.
    fn absent_hint(&self) -> String;
}

/// A text that names no hook of its kind.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadTarget {
    /// Not in the kind's form.
    #[error("`{text}` is not a {noun}: write {form}")]
    Form {
        /// As written.
        text: String,
        /// What it should name.
        noun: &'static str,
        /// How that is written.
        form: &'static str,
    },
    /// The kind's hooks belong to interfaces.
    #[error("{0} has no target: it attaches to an interface")]
    Shared(ProgramKind),
}

/// Reads a target of a kind that is known by its type.
pub(super) fn read<T: Own>(text: &str) -> Result<T, BadTarget> {
    T::read(text).ok_or_else(|| BadTarget::Form { text: printable(text), noun: T::NOUN, form: T::FORM })
}

/// A kind's text form for `FromStr` and serde, from its `Own::read` and `Display`.
macro_rules! target_text {
    ($name:ident) => {
        impl std::str::FromStr for $name {
            type Err = super::own::BadTarget;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                super::own::read(text)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(super) use target_text;

macro_rules! own_hooks {
    ($($kind:ident),* $(,)?) => {
        /// One own hook, of any kind.
        #[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
        #[serde(rename_all = "kebab-case")]
        #[expect(missing_docs, reason = "each kind's type says what it is")]
        pub enum OwnHook {
            $($kind($kind)),*
        }

        impl OwnHook {
            /// The hook that a target names, by the kind of the program.
            ///
            /// # Errors
            /// [`BadTarget`].
            pub fn parse(kind: ProgramKind, target: &str) -> Result<Self, BadTarget> {
                $(if kind == $kind::KIND {
                    return read(target).map(Self::$kind);
                })*
                Err(BadTarget::Shared(kind))
            }

            /// The kind of program that attaches here.
            pub fn kind(&self) -> ProgramKind {
                match self {
                    $(Self::$kind(_) => $kind::KIND),*
                }
            }

            /// What it is attached to, as one text: for policies, listings and the audit log.
            pub fn target(&self) -> String {
                match self {
                    $(Self::$kind(hook) => hook.to_string()),*
                }
            }

            /// What a target of its kind is called.
            pub fn noun(&self) -> &'static str {
                match self {
                    $(Self::$kind(_) => $kind::NOUN),*
                }
            }

            /// The kernel function that programs for it are loaded for, if its kind fixes the target then.
            pub fn loaded_for(&self) -> Option<&str> {
                match self {
                    $(Self::$kind(hook) => $kind::LOADED_FOR.map(|function| function(hook))),*
                }
            }

            /// How to find the targets that this kernel has.
            pub fn absent_hint(&self) -> String {
                match self {
                    $(Self::$kind(hook) => hook.absent_hint()),*
                }
            }
        }

        /// Whether programs of this kind are loaded for one target.
        pub fn is_fixed_at_load(kind: ProgramKind) -> bool {
            false $(|| kind == $kind::KIND && $kind::LOADED_FOR.is_some())*
        }

        /// How a target of this kind is written; `None` for a kind without targets.
        pub fn form(kind: ProgramKind) -> Option<&'static str> {
            $(if kind == $kind::KIND {
                return Some($kind::FORM);
            })*
            None
        }
    };
}

// The registry of own hooks: a new kind is a line here.
own_hooks! {
    Tracepoint,
    RawTracepoint,
    Kprobe,
    Kretprobe,
    Fentry,
    Fexit,
}

impl fmt::Display for OwnHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind(), self.target())
    }
}

impl FromStr for OwnHook {
    type Err = BadOwnHook;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadOwnHook(printable(text));
        let (kind, target) = text.split_once(':').ok_or_else(bad)?;
        let kind = kind.parse::<ProgramKind>().ok().ok_or_else(bad)?;
        Self::parse(kind, target).ok().ok_or_else(bad)
    }
}

/// A text that names no own hook.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a hook: write KIND:TARGET")]
pub struct BadOwnHook(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_stored_by_the_word_of_its_kind() {
        let hook: OwnHook = "tracepoint:sched/sched_switch".parse().unwrap();
        let stored = serde_json::to_string(&hook).unwrap();
        assert_eq!(stored, r#"{"tracepoint":"sched/sched_switch"}"#);
        assert_eq!(serde_json::from_str::<OwnHook>(&stored).unwrap(), hook);
        assert!(serde_json::from_str::<OwnHook>(r#"{"tracepoint":"../x"}"#).is_err());
    }

    #[test]
    fn every_kind_reads_back_what_it_shows() {
        let text = "tracepoint:sched/sched_switch";
        assert_eq!(text.parse::<OwnHook>().unwrap().to_string(), text);
    }

    #[test]
    fn a_shared_kind_has_no_target() {
        assert_eq!(OwnHook::parse(ProgramKind::Xdp, "eth0"), Err(BadTarget::Shared(ProgramKind::Xdp)));
    }
}
