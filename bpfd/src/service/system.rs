//! Info and doctor: what this daemon is, and whether all is well.

use bpfd_core::ask::Look;
use bpfd_core::ordering::{disordered, unmet};
use bpfd_core::policy::{Denied, Principal};
use bpfd_core::report::Warning;
use bpfd_core::stamp::Relation;
use bpfd_core::state::State;
use bpfd_core::watched::WATCHED_MAX;
use bpfd_policy::rule::AccountId;

use super::{Service, host};
use crate::reads::ReadError;
use crate::repair::Failure;
use crate::reserve::is_used_up;
use crate::trust::Files;
use crate::turns::Line;

/// Broken invariants that one report lists: the report must stay of a bounded size.
const SHOWN: usize = 256;

/// What to do while the daemon is RECOVERED.
const DECIDE: &str = "`bpfctl state show` shows what differs; `bpfctl state adopt` keeps what runs, `bpfctl state discard` goes back to the database";

/// What to do about a full disk.
const FREE_SPACE: &str =
    "free some space there: until then nothing is loaded or attached; `bpfctl detach` and `bpfctl unload` go on";

/// What the daemon found when it started.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Seconds since 1970.
    pub time: u64,
    /// What keeps it from being READY, in a sentence each.
    pub causes: Vec<String>,
    /// What its repair could not have.
    pub failures: Vec<Failure>,
    /// How a change ended that a crash broke off.
    pub recovered: Option<&'static str>,
    /// The way chains are kept, and why.
    pub mode: String,
    /// Why.
    pub mode_cause: String,
}

/// What this daemon is.
#[derive(Clone, Debug)]
pub struct Info {
    /// How it started.
    pub start: Start,
    /// What is wrong with the files of the policy.
    pub bad_policy: Option<String>,
    /// How the database stood to the pins, while something is to be decided.
    pub recovered: Option<Relation>,
    /// The running kernel's release.
    pub kernel: String,
    /// What `--root` said.
    pub root: Option<String>,
    /// Where pins are.
    pub pins: String,
}

/// One thing that `doctor` looked at.
#[derive(Clone, Debug)]
pub struct Check {
    /// Which, for machines.
    pub id: String,
    /// How it is.
    pub condition: Condition,
    /// In a sentence.
    pub detail: String,
    /// What to do; may be empty.
    pub hint: &'static str,
}

/// How something is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Condition {
    /// As it should be.
    Good,
    /// Worth a look.
    Doubtful,
    /// Broken.
    Bad,
}

/// Why nothing was looked at.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// The policy.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The look.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Start {
    /// What keeps the daemon from being READY still: what was unloaded or detached meanwhile is missed by nobody.
    fn standing<'a>(&'a self, state: &'a State) -> impl Iterator<Item = &'a str> {
        let failures = self.failures.iter().filter(|failure| failure.stands(state));
        self.causes.iter().map(String::as_str).chain(failures.map(|failure| failure.what.as_str()))
    }
}

impl Service {
    /// What this daemon is.
    pub async fn info(&self, principal: Principal) -> Result<Info, Denied> {
        self.permit(principal, Look(())).await?;
        let mut start = self.start.clone();
        start.causes = self.start.standing(&self.snapshot().state).map(str::to_owned).collect();
        start.causes.extend(self.watching.failure().map(str::to_owned));
        start.causes.extend(self.programs.status().causes());
        Ok(Info {
            start,
            bad_policy: self.bad_policy(),
            recovered: self.snapshot().recovery.as_ref().map(|recovery| recovery.relation),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            root: self.layout.root.as_ref().map(|root| root.display().to_string()),
            pins: self.layout.pins().display().to_string(),
        })
    }

    /// Looks at everything that it knows how to look at.
    pub async fn doctor(&self, principal: Principal) -> Result<Vec<Check>, DoctorError> {
        let line = Line::User(principal.uid);
        self.permit(principal, Look(())).await?;
        let broken = self.reads.check(line).await?;
        let Start { mode, mode_cause, .. } = &self.start;
        let mut checks = vec![check("xdp-chain-mode", Condition::Good, format!("{mode}: {mode_cause}"), "")];
        checks.extend(self.start.standing(&self.snapshot().state).map(|cause| {
            check("start", Condition::Doubtful, cause.to_owned(), "correct this and restart bpfd; its log has details")
        }));
        checks.extend(self.programs.status().causes().into_iter().map(|cause| {
            check(
                "programs",
                Condition::Doubtful,
                cause,
                "`bpfctl programs check` reads the files; `systemctl reload bpfd` has them loaded",
            )
        }));
        if let Some(recovery) = &self.snapshot().recovery {
            let found = format!("RECOVERED: {}; what runs stays as it is", recovery.relation);
            checks.push(check("state", Condition::Bad, found, DECIDE));
        }
        for (directory, what) in [(&self.layout.lib, "state database"), (&self.layout.log, "audit log")] {
            if is_used_up(directory) {
                let found = format!("the file system of `{}`, with the {what}, is full", directory.display());
                checks.push(check("disk", Condition::Bad, found, FREE_SPACE));
            }
        }
        if let Some(failure) = self.watching.failure() {
            checks.push(check(
                "watch",
                Condition::Bad,
                failure.to_owned(),
                "restart bpfd: nothing is detached by that",
            ));
        }
        let bad = self.bad_policy();
        checks.extend(
            bad.map(|why| check("policy", Condition::Doubtful, why, "correct the file: bpfd reads it again by itself")),
        );
        let nameless = self.trust.policy().accounts();
        let unknown = |(name, id): (&String, &AccountId)| (*id == AccountId::Unknown).then(|| name.clone());
        let unknown: Vec<String> = nameless.users.iter().chain(&nameless.groups).filter_map(unknown).collect();
        if !unknown.is_empty() {
            checks.push(check(
                "policy-names",
                Condition::Doubtful,
                format!("no name service says who these are that rules name: {}", unknown.join(", ")),
                "`getent passwd NAME` and `getent group NAME` ask them; bpfd asks again by itself",
            ));
        }
        let refused = self.snapshot().unauthorised.clone();
        if !refused.is_empty() {
            let (apps, links) = (refused.apps.len(), refused.links.len());
            checks.push(check(
                "unauthorised",
                Condition::Doubtful,
                format!("the policy refuses {apps} apps and {links} links now; what runs of them stays as it is"),
                "`bpfctl policy enforce --dry-run` lists them, and without `--dry-run` takes them away",
            ));
        }
        let (policy, snapshot) = (self.trust.policy(), self.snapshot());
        let disordered = disordered(&policy.orders, &snapshot.state).len();
        if disordered > 0 {
            checks.push(check(
                "orders",
                Condition::Doubtful,
                format!("chains that are not ordered as the policy has it: {disordered}"),
                "`bpfctl policy reload` orders them; the log of bpfd says why it could not",
            ));
        }
        let chains = snapshot.state.chains();
        checks.extend(unmet(&policy.orders, &snapshot.state, chains).into_iter().take(SHOWN).filter_map(|warning| {
            let Warning::Unordered { order, earlier, later } = warning else { return None };
            let found = format!("order `{order}` cannot hold: it has `{earlier}` run before `{later}`, and an order before it the opposite");
            Some(check("orders", Condition::Doubtful, found, "correct the orders: `bpfctl policy show` shows them"))
        }));
        let unwatched = self.snapshot().unwatched.len();
        if unwatched > 0 {
            checks.push(check(
                "watch",
                Condition::Doubtful,
                format!("{unwatched} network namespaces with links are not watched, since bpfd watches {WATCHED_MAX}"),
                "detach links that wait for interfaces which never come: `bpfctl list` shows them",
            ));
        }
        if broken.is_empty() {
            checks.push(check(
                "invariants",
                Condition::Good,
                "database, pins and attached programs are consistent".to_owned(),
                "",
            ));
        }
        // K11 is what a repair would change.
        let hint = match broken.iter().any(|broken| broken.invariant == "K11") {
            true => "restart bpfd: start-up repairs what it can",
            false => "a restart changes nothing here: the finding says what differs",
        };
        let more = broken.len().saturating_sub(SHOWN);
        checks.extend(
            broken.into_iter().take(SHOWN).map(|broken| check(&broken.invariant, Condition::Bad, broken.what, hint)),
        );
        if more > 0 {
            checks.push(check("invariants", Condition::Bad, format!("and {more} more"), ""));
        }
        checks.extend(host::checks(&host::look(&self.layout)));
        let sysctl = std::fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled").unwrap_or_default();
        checks.push(match sysctl.trim() {
            "0" => check(
                "unprivileged-bpf",
                Condition::Doubtful,
                "any user may load BPF programs beside bpfd".to_owned(),
                "`sysctl -w kernel.unprivileged_bpf_disabled=1`",
            ),
            value => check("unprivileged-bpf", Condition::Good, format!("unprivileged_bpf_disabled is `{value}`"), ""),
        });
        Ok(checks)
    }
}

impl Service {
    /// In a sentence.
    fn bad_policy(&self) -> Option<String> {
        match self.trust.files() {
            Files::Good => None,
            Files::Bad { why, at_start: false } => Some(format!("{why}; the policy before it holds")),
            Files::Bad { why, at_start: true } => {
                Some(format!("{why}; the last good policy holds, and nothing is added"))
            }
        }
    }
}

pub(super) fn check(id: &str, condition: Condition, detail: String, hint: &'static str) -> Check {
    Check { id: id.to_owned(), condition, detail, hint }
}
