//! Advice on attaching a program: priority, direction, and after which verdicts the chain goes on. Owns the words for them;
//! must never decide anything, since policy and the request come first.

use std::{collections::BTreeSet, fmt};

use ebpf::run_config::XdpAction;
use serde::{Deserialize, Serialize};

/// How a program's author would attach it. Advice: policy and the request come first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attach {
    /// For tc.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// 0 to [`super::MAX_PRIORITY`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Verdicts after which the next program of the chain runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proceed_on: Option<BTreeSet<Action>>,
    /// For xdp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// For tracing: a function, `category:event`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Which way packets go, for tc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Received.
    Ingress,
    /// Sent.
    Egress,
}

/// Where XDP runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Wherever it can.
    Any,
    /// In the driver.
    Native,
    /// In the stack.
    Generic,
}

/// A verdict, in the words that bpfman uses. XDP's are those of `enum xdp_action` (include/uapi/linux/bpf.h), tc's those of
/// `TC_ACT_*` (include/uapi/linux/pkt_cls.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the kernel's own words")]
pub enum Action {
    Aborted,
    Drop,
    Pass,
    Tx,
    Redirect,
    Unspec,
    Ok,
    Reclassify,
    Shot,
    Pipe,
    Stolen,
    Queued,
    Repeat,
    Trap,
    /// Of an empty slot: the chain always goes on after it, so that it says nothing.
    DispatcherReturn,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The one list of words is serde's.
        self.serialize(f)
    }
}

impl Action {
    /// The XDP verdict of this word, if it is one.
    #[must_use]
    pub fn xdp(self) -> Option<XdpAction> {
        match self {
            Self::Aborted => Some(XdpAction::Aborted),
            Self::Drop => Some(XdpAction::Drop),
            Self::Pass => Some(XdpAction::Pass),
            Self::Tx => Some(XdpAction::Tx),
            Self::Redirect => Some(XdpAction::Redirect),
            Self::Unspec
            | Self::Ok
            | Self::Reclassify
            | Self::Shot
            | Self::Pipe
            | Self::Stolen
            | Self::Queued
            | Self::Repeat
            | Self::Trap
            | Self::DispatcherReturn => None,
        }
    }

    /// The number of this word for tc, if it is one of tc's.
    #[must_use]
    pub fn tc(self) -> Option<i32> {
        match self {
            Self::Unspec => Some(-1),
            Self::Ok => Some(0),
            Self::Reclassify => Some(1),
            Self::Shot => Some(2),
            Self::Pipe => Some(3),
            Self::Stolen => Some(4),
            Self::Queued => Some(5),
            Self::Repeat => Some(6),
            Self::Redirect => Some(7),
            Self::Trap => Some(8),
            Self::Aborted | Self::Drop | Self::Pass | Self::Tx | Self::DispatcherReturn => None,
        }
    }
}

impl Attach {
    /// The XDP verdicts of `proceedOn`; `None` if the label does not say.
    #[must_use]
    pub fn xdp_proceed_on(&self) -> Option<BTreeSet<XdpAction>> {
        self.proceed_on.as_ref().map(|actions| actions.iter().filter_map(|action| action.xdp()).collect())
    }

    /// The tc verdicts of `proceedOn` as the kernel's numbers; `None` if the label does not say.
    #[must_use]
    pub fn tc_proceed_on(&self) -> Option<BTreeSet<i32>> {
        self.proceed_on.as_ref().map(|actions| actions.iter().filter_map(|action| action.tc()).collect())
    }
}
