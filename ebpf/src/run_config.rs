//! `.xdp_run_config`: what an XDP object itself asks for in a chain. libxdp's rules (`xdp_parse_run_config` in `libxdp.c`):
//! a variable `_FUNCTION` whose struct members are `__uint(priority, N)` and `__uint(XDP_PASS, 0 or 1)` and the like.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::btf::{Btf, SectionVars, Type};
use crate::names::shown;

const SECTION: &str = ".xdp_run_config";

/// A return value of an XDP program (`enum xdp_action`, `include/uapi/linux/bpf.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum XdpAction {
    /// `XDP_ABORTED`, 0.
    Aborted,
    /// `XDP_DROP`, 1.
    Drop,
    /// `XDP_PASS`, 2.
    Pass,
    /// `XDP_TX`, 3.
    Tx,
    /// `XDP_REDIRECT`, 4.
    Redirect,
}

impl XdpAction {
    /// Every action, by its number.
    pub const ALL: [Self; 5] = [Self::Aborted, Self::Drop, Self::Pass, Self::Tx, Self::Redirect];

    /// The kernel's number.
    pub fn code(self) -> u32 {
        match self {
            Self::Aborted => 0,
            Self::Drop => 1,
            Self::Pass => 2,
            Self::Tx => 3,
            Self::Redirect => 4,
        }
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::Drop => "drop",
            Self::Pass => "pass",
            Self::Tx => "tx",
            Self::Redirect => "redirect",
        }
    }
}

impl fmt::Display for XdpAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no XDP action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("no XDP action `{0}`: aborted, drop, pass, tx or redirect")]
pub struct UnknownAction(pub String);

impl FromStr for XdpAction {
    type Err = UnknownAction;

    fn from_str(word: &str) -> Result<Self, UnknownAction> {
        Self::ALL.into_iter().find(|action| action.as_str() == word).ok_or_else(|| UnknownAction(word.to_owned()))
    }
}

/// What the object asks for; `None` where it is silent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunConfig {
    /// Lower runs first. Any `u32`: this is an object's wish, not yet one of bpfd's priorities.
    pub priority: Option<u32>,
    /// After which actions the next program runs. libxdp starts from {pass} and adds or removes what is named.
    pub proceed_on: Option<BTreeSet<XdpAction>>,
}

/// A run config that libxdp would refuse as well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum RunConfigError {
    /// Neither `priority` nor an action.
    #[error("run config of `{function}` has an unknown member `{member}`")]
    UnknownMember {
        /// The program.
        function: String,
        /// The member.
        member: String,
    },
    /// Not made by `__uint()`.
    #[error("run config of `{function}`: `{member}` is not a number made by __uint()")]
    NotANumber {
        /// The program.
        function: String,
        /// The member.
        member: String,
    },
    /// The variable is not a struct.
    #[error("run config of `{0}` is not a struct")]
    NotAStruct(String),
}

/// The run configs of an object, for [`read`].
pub(crate) fn variables<'a>(btf: &Btf<'a>) -> Option<SectionVars<'a>> {
    btf.section(SECTION)
}

/// Reads the run config of one function; the default if it has none.
pub(crate) fn read(btf: &Btf<'_>, of: SectionVars<'_>, function: &str) -> Result<RunConfig, RunConfigError> {
    let mut config = RunConfig::default();
    let Some(of) = variable(btf, of, function) else { return Ok(config) };
    let Some((_, Type::Struct { members, .. })) = btf.resolve(of) else {
        return Err(RunConfigError::NotAStruct(function.to_owned()));
    };
    for member in members.iter() {
        let name = btf.string(member.name);
        let named = || (function.to_owned(), shown(name));
        let action = name
            .strip_prefix("XDP_")
            .and_then(|word| XdpAction::ALL.into_iter().find(|action| action.as_str().to_ascii_uppercase() == word));
        if name != "priority" && action.is_none() {
            let (function, member) = named();
            return Err(RunConfigError::UnknownMember { function, member });
        }
        let Some(value) = btf.uint(member) else {
            let (function, member) = named();
            return Err(RunConfigError::NotANumber { function, member });
        };
        match action {
            None => config.priority = Some(value),
            Some(action) => {
                let set = config.proceed_on.get_or_insert_with(|| BTreeSet::from([XdpAction::Pass]));
                if value == 0 {
                    set.remove(&action)
                } else {
                    set.insert(action)
                };
            }
        }
    }
    Ok(config)
}

fn variable(btf: &Btf<'_>, of: SectionVars<'_>, function: &str) -> Option<u32> {
    of.iter().find_map(|entry| match btf.get(entry.var)? {
        Type::Variable { of } if btf.name(entry.var).strip_prefix('_') == Some(function) => Some(of),
        _ => None,
    })
}
