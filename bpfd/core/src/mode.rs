//! Which way chains are kept on this host: from what happened when a function of a program was replaced for a try.
//!
//! Only the kernel knows whether it allows that; a version number or a config file does not. This file must never try it itself.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::Chain;
use crate::hook::{ChainName, Point};
use crate::kernel::{ChainMode, DispatcherVersion};
use crate::names::IfName;

/// What became of the try: a dispatcher, and a program in the place of one of its functions (`BPF_PROG_TYPE_EXT`).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attempt {
    /// It was attached.
    Attached,
    /// The kernel refused.
    Refused {
        /// What it refused.
        at: Stage,
        /// Its errno, positive.
        errno: i32,
    },
}

/// A part of the try.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Loading the dispatcher, an XDP program with BTF.
    Dispatcher,
    /// Loading the program that replaces one of its functions.
    Replacement,
    /// Putting it in its place.
    Attach,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dispatcher => "loading a dispatcher",
            Self::Replacement => "loading a program that replaces a function (freplace)",
            Self::Attach => "attaching a program that replaces a function (freplace)",
        })
    }
}

/// The capabilities that the try needs, as capabilities(7) names them.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Capability {
    /// `CAP_BPF`.
    #[serde(rename = "CAP_BPF")]
    Bpf,
    /// `CAP_PERFMON`.
    #[serde(rename = "CAP_PERFMON")]
    Perfmon,
    /// `CAP_NET_ADMIN`.
    #[serde(rename = "CAP_NET_ADMIN")]
    NetAdmin,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bpf => "CAP_BPF",
            Self::Perfmon => "CAP_PERFMON",
            Self::NetAdmin => "CAP_NET_ADMIN",
        })
    }
}

/// Why no mode can be told.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ModeError {
    /// The refusal may be ours to mend: it says nothing about the kernel.
    #[error("cannot find out whether this kernel supports freplace, because bpfd lacks {}", list(.0))]
    Missing(Vec<Capability>),
    /// Plain XDP programs do not load either: no mode would work.
    #[error("cannot load XDP programs at all: errno {0}")]
    NoXdp(i32),
    /// The setting asks for what the kernel does not have.
    #[error("bpfd.toml asks for chain mode `libxdp`{}, which this kernel does not allow: {cause}", of(.interface))]
    Impossible {
        /// Of which interface, if not of all.
        interface: Option<IfName>,
        /// The kernel's word.
        cause: String,
    },
    /// The setting asks for tcx on a kernel without it.
    #[error("bpfd.toml asks for tc mode `tcx`, which needs Linux 6.6")]
    NoTcx,
}

fn of(interface: &Option<IfName>) -> String {
    interface.as_ref().map_or_else(String::new, |interface| format!(" for interface `{interface}`"))
}

/// What bpfd.toml says of the mode.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// libxdp's protocol where the kernel allows it, else fused.
    #[default]
    Auto,
    /// All links in one program, whatever the kernel allows.
    Fused,
    /// libxdp's protocol; where the kernel forbids it bpfd does not start.
    Libxdp,
}

impl Setting {
    /// The mode, given what the kernel allows.
    pub fn apply(self, decided: Result<ChainMode, ModeError>) -> Result<ChainMode, ModeError> {
        match (self, decided?) {
            (Self::Libxdp, ChainMode::Fused { cause }) => Err(ModeError::Impossible { interface: None, cause }),
            (Self::Fused, ChainMode::Libxdp) => Ok(ChainMode::Fused { cause: set_by_file() }),
            (Self::Auto | Self::Libxdp | Self::Fused, decided) => Ok(decided),
        }
    }
}

fn set_by_file() -> String {
    "set in bpfd.toml".to_owned()
}

/// What bpfd.toml says of the mode of chains of tc.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TcSetting {
    /// tcx where the kernel has it, else clsact.
    #[default]
    Auto,
    /// tcx; where the kernel does not have it bpfd does not start.
    Tcx,
    /// Filters of a clsact qdisc, whatever the kernel has.
    Clsact,
}

impl TcSetting {
    fn apply(self, has_tcx: bool) -> Result<ChainMode, ModeError> {
        match (self, has_tcx) {
            (Self::Tcx, false) => Err(ModeError::NoTcx),
            (Self::Auto | Self::Tcx, true) => Ok(ChainMode::Tcx),
            (Self::Auto, false) => {
                Ok(ChainMode::Clsact { cause: "this kernel has no tcx: it needs Linux 6.6".to_owned() })
            }
            (Self::Clsact, _) => Ok(ChainMode::Clsact { cause: set_by_file() }),
        }
    }
}

/// What bpfd.toml says of the version of new dispatchers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum VersionSetting {
    /// That of the installed libxdp, else 2.
    #[default]
    Auto,
    /// This one.
    Fixed(DispatcherVersion),
}

impl<'de> Deserialize<'de> for VersionSetting {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u8),
            Word(String),
        }
        let bad = || serde::de::Error::custom("expected \"auto\", 2 or 3");
        match Written::deserialize(deserializer).map_err(|_neither| bad())? {
            Written::Word(word) if word == "auto" => Ok(Self::Auto),
            Written::Word(_) => Err(bad()),
            Written::Number(number) => number.try_into().map(Self::Fixed).map_err(|_other| bad()),
        }
    }
}

impl VersionSetting {
    /// The version, given what the `xdp-dispatcher.o` of the installed libxdp has, if one is installed. A version that bpfd does not
    /// make is read as the nearest that it makes.
    pub fn apply(self, installed: Option<u32>) -> DispatcherVersion {
        match (self, installed) {
            (Self::Fixed(version), _) => version,
            (Self::Auto, Some(3..)) => DispatcherVersion::V3,
            (Self::Auto, Some(..3) | None) => DispatcherVersion::V2,
        }
    }
}

/// Which way each chain is kept: decided once, when the daemon starts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Modes {
    /// Of every XDP chain whose interface has none of its own.
    pub host: ChainMode,
    interfaces: BTreeMap<IfName, ChainMode>,
    tc: ChainMode,
    /// Whether the kernel has tcx, whatever is set.
    pub has_tcx: bool,
    /// Of dispatchers on interfaces that have none yet.
    pub new_dispatcher: DispatcherVersion,
}

impl Modes {
    /// What bpfd.toml says, given what the kernel allows.
    pub fn of(
        settings: &Chain,
        decided: &Result<ChainMode, ModeError>,
        has_tcx: bool,
        installed: Option<u32>,
    ) -> Result<Self, ModeError> {
        let of_one = |(name, setting): (&IfName, &Setting)| match setting.apply(decided.clone()) {
            Ok(mode) => Ok((name.clone(), mode)),
            Err(ModeError::Impossible { interface: _, cause }) => {
                Err(ModeError::Impossible { interface: Some(name.clone()), cause })
            }
            Err(error) => Err(error),
        };
        let host = settings.mode.apply(decided.clone())?;
        let interfaces = settings.interfaces.iter().map(of_one).collect::<Result<_, _>>()?;
        let new_dispatcher = settings.dispatcher_version.apply(installed);
        Ok(Self { host, interfaces, tc: settings.tc.apply(has_tcx)?, has_tcx, new_dispatcher })
    }

    /// The mode of the chain that is called so now.
    pub fn of_chain(&self, name: &ChainName) -> &ChainMode {
        match name.point {
            Point::Xdp => self.interfaces.get(&name.interface).unwrap_or(&self.host),
            Point::TcIngress | Point::TcEgress => &self.tc,
        }
    }
}

/// `EPERM`, `E2BIG`, `EACCES`, `ENOTSUPP` of include/uapi/asm-generic/errno-base.h and include/linux/errno.h.
const EPERM: i32 = 1;
const E2BIG: i32 = 7;
const EACCES: i32 = 13;
const ENOTSUPP: i32 = 524;

/// How chains are kept, and why. `missing` are the needed capabilities that the daemon does not have in effect: with one missing,
/// `EPERM` is no reason to change the mode, nor `EACCES`, the verifier's word for what CAP_PERFMON allows.
pub fn decide(attempt: Attempt, missing: &[Capability]) -> Result<ChainMode, ModeError> {
    let fused = |cause: String| Ok(ChainMode::Fused { cause });
    match attempt {
        Attempt::Attached => Ok(ChainMode::Libxdp),
        Attempt::Refused { errno: EPERM | EACCES, .. } if !missing.is_empty() => {
            Err(ModeError::Missing(missing.to_vec()))
        }
        Attempt::Refused { at: Stage::Dispatcher, errno } => Err(ModeError::NoXdp(errno)),
        Attempt::Refused { at, errno } => {
            // Up to the colon it is short enough for a line of a table.
            fused(match errno {
                EPERM => format!(
                    "this kernel does not allow freplace: {at} is refused, although bpfd has all required capabilities"
                ),
                E2BIG => format!("this kernel does not support freplace: {at} is refused"),
                ENOTSUPP => format!("this kernel has no BPF trampolines: {at} is refused"),
                other => format!("this kernel does not support freplace: {at} is refused, errno {other}"),
            })
        }
    }
}

fn list(missing: &[Capability]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Netns;

    #[test]
    fn an_interface_has_its_own_mode_or_the_hosts() {
        let settings = |own| Chain { interfaces: [("eth1".parse().unwrap(), own)].into(), ..Chain::default() };
        let chain = |name: &str, point| ChainName { netns: Netns::Host, interface: name.parse().unwrap(), point };
        let modes = Modes::of(&settings(Setting::Fused), &Ok(ChainMode::Libxdp), true, None).unwrap();
        assert_eq!(modes.of_chain(&chain("eth0", Point::Xdp)), &ChainMode::Libxdp);
        let set = ChainMode::Fused { cause: "set in bpfd.toml".to_owned() };
        assert_eq!(modes.of_chain(&chain("eth1", Point::Xdp)), &set);
        assert_eq!(modes.of_chain(&chain("eth1", Point::TcEgress)), &ChainMode::Tcx);
        let forbidden = Ok(ChainMode::Fused { cause: "no trampolines".to_owned() });
        let error = Modes::of(&settings(Setting::Libxdp), &forbidden, true, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "bpfd.toml asks for chain mode `libxdp` for interface `eth1`, which this kernel does not allow: no trampolines"
        );
    }

    #[test]
    fn a_new_dispatcher_has_the_version_of_the_installed_libxdp() {
        let version = |setting: VersionSetting, installed| setting.apply(installed).number();
        for (installed, expected) in [(None, 2), (Some(1), 2), (Some(2), 2), (Some(3), 3), (Some(4), 3)] {
            assert_eq!(version(VersionSetting::Auto, installed), expected, "{installed:?}");
        }
        assert_eq!(version(VersionSetting::Fixed(DispatcherVersion::V3), Some(2)), 3);
        assert_eq!(version(VersionSetting::Fixed(DispatcherVersion::V2), Some(3)), 2);
    }

    #[test]
    fn tcx_is_taken_where_the_kernel_has_it() {
        let mode = |setting: TcSetting, has_tcx| setting.apply(has_tcx).map(|mode| mode.to_string());
        let words = |word: &str| Ok(word.to_owned());
        assert_eq!(mode(TcSetting::Auto, true), words("tcx"));
        assert_eq!(mode(TcSetting::Auto, false), words("clsact"));
        assert_eq!(mode(TcSetting::Clsact, true), words("clsact"));
        assert_eq!(mode(TcSetting::Tcx, false), Err(ModeError::NoTcx));
    }

    fn cause(errno: i32, at: Stage) -> String {
        match decide(Attempt::Refused { at, errno }, &[]).unwrap() {
            ChainMode::Fused { cause } => cause,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_refusal_with_every_capability_is_the_kernels_word() {
        let replacement = "loading a program that replaces a function (freplace) is refused";
        let attach = "attaching a program that replaces a function (freplace) is refused";
        for (errno, at, expected) in [
            (
                EPERM,
                Stage::Replacement,
                format!(
                    "this kernel does not allow freplace: {replacement}, although bpfd has all required capabilities"
                ),
            ),
            (
                EPERM,
                Stage::Attach,
                format!("this kernel does not allow freplace: {attach}, although bpfd has all required capabilities"),
            ),
            (E2BIG, Stage::Replacement, format!("this kernel does not support freplace: {replacement}")),
            (ENOTSUPP, Stage::Attach, format!("this kernel has no BPF trampolines: {attach}")),
            (22, Stage::Attach, format!("this kernel does not support freplace: {attach}, errno 22")),
        ] {
            assert_eq!(cause(errno, at), expected);
        }
    }

    #[test]
    fn a_refusal_with_a_capability_missing_is_an_error_that_names_it() {
        for at in [Stage::Dispatcher, Stage::Replacement, Stage::Attach] {
            let missing = [Capability::Perfmon, Capability::NetAdmin];
            let refused = decide(Attempt::Refused { at, errno: EPERM }, &missing).unwrap_err();
            assert_eq!(refused, ModeError::Missing(missing.to_vec()));
            assert_eq!(decide(Attempt::Refused { at, errno: EACCES }, &missing), Err(refused.clone()));
            assert!(refused.to_string().ends_with("bpfd lacks CAP_PERFMON, CAP_NET_ADMIN"));
        }
    }

    #[test]
    fn other_refusals_do_not_blame_a_missing_capability() {
        let attempt = Attempt::Refused { at: Stage::Attach, errno: ENOTSUPP };
        assert!(decide(attempt, &[Capability::Perfmon]).is_ok());
    }

    #[test]
    fn a_host_without_xdp_has_no_mode() {
        assert_eq!(decide(Attempt::Refused { at: Stage::Dispatcher, errno: 22 }, &[]), Err(ModeError::NoXdp(22)));
        assert_eq!(decide(Attempt::Refused { at: Stage::Dispatcher, errno: EPERM }, &[]), Err(ModeError::NoXdp(EPERM)));
    }

    #[test]
    fn where_it_works_libxdps_protocol_is_kept() {
        assert_eq!(decide(Attempt::Attached, &[]), Ok(ChainMode::Libxdp));
    }

    #[test]
    fn unless_told_otherwise_the_kernel_decides() {
        let cannot = ChainMode::Fused { cause: "the kernel said no".to_owned() };
        assert_eq!(Setting::default(), Setting::Auto);
        assert_eq!(Setting::Auto.apply(Ok(ChainMode::Libxdp)), Ok(ChainMode::Libxdp));
        assert_eq!(Setting::Auto.apply(Ok(cannot.clone())), Ok(cannot));
    }

    #[test]
    fn a_setting_wins_unless_the_kernel_cannot() {
        let cannot = ChainMode::Fused { cause: "the kernel said no".to_owned() };
        assert_eq!(Setting::Libxdp.apply(Ok(ChainMode::Libxdp)), Ok(ChainMode::Libxdp));
        let Ok(ChainMode::Fused { cause }) = Setting::Fused.apply(Ok(ChainMode::Libxdp)) else { panic!("fused") };
        assert_eq!(cause, "set in bpfd.toml");
        assert_eq!(Setting::Fused.apply(Ok(cannot.clone())), Ok(cannot.clone()));
        let refused = Setting::Libxdp.apply(Ok(cannot)).unwrap_err();
        assert_eq!(refused, ModeError::Impossible { interface: None, cause: "the kernel said no".to_owned() });
    }
}
