//! An image brought into the store, judged and opened: from the registry if the store does not serve, by the fetch worker.
//!
//! What the worker says is not believed: not the name, not the digests, not the verdict. Must never let a name lead to an image that
//! was fetched now before it is known to be usable.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bpfd_core::report::Warning;
use bpfd_core::request::PullPolicy;
use bpfd_policy::image::AgeCheck;
use bpfd_proto::v1::ErrorReason;
use bpfd_sys::worker::CallError;
use bytecode_image::digest::Digest;
use bytecode_image::fetch::{self as transfer, PullRequest, Pulled};
use bytecode_image::reference::Reference;
use bytecode_image::registries::{Author, VARIABLES};
use bytecode_image::store::{Apart, Fetched, Staged, StoreError, Sweep, Swept};
use bytecode_image::transport::Timeouts;
use bytecode_image::verify::{self, Refusal};

use super::judge::{Judged, Opened, open};
use super::{ImageError, Shared};
use crate::progress::{Phase, Progress, Report};
use crate::waiter::Waiter;
use crate::worker::WorkerError;
use crate::worker::fetch::{self, FetchFailure, Step};

/// An image that may be loaded.
pub(super) struct Ready {
    pub(super) judged: Judged,
    pub(super) opened: Opened,
    /// Why it may be old.
    pub(super) warning: Option<Warning>,
}

/// Where an image is.
enum Brought<'a> {
    /// In the store; perhaps with a warning.
    Stored(Option<Warning>),
    /// It came from the registry now, and no name leads to it yet; perhaps with a warning.
    Fetched(Staged<'a>, Option<Warning>),
}

/// How an image may be had.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// When to ask the registry.
    pub(super) pull: PullPolicy,
    /// Who wrote the reference.
    pub(super) author: Author,
    /// When the registry must have answered.
    pub(super) deadline: Instant,
}

/// What the store has for a reference, before anybody is asked.
enum Have {
    /// Whole, and good by the policy of now.
    Good(Digest),
    /// Whole, and refused.
    Refused(Box<Refusal>),
    /// Nothing, or damaged.
    Nothing,
}

impl Shared {
    /// The whole way to an image that may be loaded.
    pub(super) fn ready(
        &self,
        reference: &Reference,
        terms: Terms,
        report: &Report,
        waiter: &Waiter,
    ) -> Result<Ready, ImageError> {
        let (staged, warning) = match self.bring(reference, terms, report, waiter)? {
            Brought::Stored(warning) => return self.usable(reference, warning, report, waiter, verify::now()),
            Brought::Fetched(staged, warning) => (staged, warning),
        };
        waiter.wanted()?;
        report(Progress::begin(Phase::Verify));
        let selected = staged.selected(&self.platform)?;
        let signatures = staged.signatures(&selected)?;
        let verified = verify::decide(&self.trust.policy(), selected.subject(), &signatures, verify::now())?;
        let judged = Judged { selected, verified };
        report(Progress::begin(Phase::Inspect));
        let opened = open(&staged, &self.workers, &judged.selected)?;
        self.not_older(reference, &judged, &opened.release(reference, &judged.selected))?;
        self.take_in(vec![staged])?;
        self.remember(judged.selected.manifest().digest(), opened.digest);
        Ok(Ready { judged, opened, warning })
    }

    /// Whether nobody need be asked for an image: the store has it, or nobody is to be asked.
    pub(super) fn serves(&self, reference: &Reference, pull: PullPolicy) -> Result<bool, ImageError> {
        match (pull, reference.digest()) {
            (PullPolicy::Never, _) => Ok(true),
            // A digest never comes to mean anything else.
            (PullPolicy::IfNotPresent, _) | (PullPolicy::Newer | PullPolicy::Always, Some(_)) => {
                Ok(matches!(self.have(reference)?, Have::Good(_)))
            }
            (PullPolicy::Newer | PullPolicy::Always, None) => Ok(false),
        }
    }

    /// What the store has for a reference, judged and opened.
    pub(super) fn usable(
        &self,
        reference: &Reference,
        warning: Option<Warning>,
        report: &Report,
        waiter: &Waiter,
        ages: AgeCheck,
    ) -> Result<Ready, ImageError> {
        waiter.wanted()?;
        report(Progress::begin(Phase::Verify));
        let judged = self.judge(reference, ages)?;
        report(Progress::begin(Phase::Inspect));
        let opened = open(&self.store, &self.workers, &judged.selected)?;
        // What starts again is not newer than what ran before.
        if let AgeCheck::At(_) = ages {
            self.not_older(reference, &judged, &opened.release(reference, &judged.selected))?;
        }
        self.remember(judged.selected.manifest().digest(), opened.digest);
        self.store.used(judged.selected.digest());
        Ok(Ready { judged, opened, warning })
    }

    /// Sees to it that the store has the image, or says why not.
    fn bring(
        &self,
        reference: &Reference,
        terms: Terms,
        report: &Report,
        waiter: &Waiter,
    ) -> Result<Brought<'_>, ImageError> {
        // Another pull may have ended since this was asked first.
        if self.serves(reference, terms.pull)? {
            return Ok(Brought::Stored(None));
        }
        let have = self.have(reference)?;
        let cached = match (&have, terms.pull) {
            (Have::Good(digest), PullPolicy::Newer) => Some(*digest),
            // Signatures may have come since: everything is fetched again.
            (Have::Good(_) | Have::Refused(_) | Have::Nothing, _) => None,
        };
        report(Progress::begin(Phase::Resolve));
        match (self.fetch(reference, terms, cached, report, waiter), have) {
            (Err(ImageError::Fetch(failure)), Have::Refused(refusal)) if gone(failure.reason) => {
                tracing::info!(
                    %reference,
                    %failure,
                    "the policy refuses the stored image, and the registry has no other"
                );
                Err(ImageError::Refused(refusal))
            }
            (brought, _) => brought,
        }
    }

    fn have(&self, reference: &Reference) -> Result<Have, ImageError> {
        let Some(digest) = self.store.cached(reference, &self.platform)? else { return Ok(Have::Nothing) };
        match self.judge(reference, verify::now()) {
            Ok(_judged) => Ok(Have::Good(digest)),
            Err(ImageError::Refused(refusal)) => Ok(Have::Refused(refusal)),
            Err(error) => Err(error),
        }
    }

    fn fetch(
        &self,
        reference: &Reference,
        terms: Terms,
        cached: Option<Digest>,
        report: &Report,
        waiter: &Waiter,
    ) -> Result<Brought<'_>, ImageError> {
        let Terms { pull: _, author, deadline } = terms;
        let left = deadline.saturating_duration_since(Instant::now());
        let timeouts = Timeouts { deadline: self.timeouts.deadline.min(left), ..self.timeouts.clone() };
        let mut transports = self.registries.transports(reference, author, timeouts)?;
        let own = transports.pop();
        let request = |transport| PullRequest {
            reference: reference.clone(),
            cached,
            platform: self.platform.clone(),
            transport,
        };
        // Each endpoint is asked by a worker of its own, which has that endpoint's credentials and no others. The first that says
        // what the reference names is the only one.
        let mut elsewhere: Option<FetchFailure> = None;
        let mut silent: Option<Warning> = None;
        for mirror in transports {
            match self.ask_worker(request(mirror), deadline, report, waiter) {
                Ok(Brought::Stored(Some(warning))) => silent = Some(warning),
                Err(ImageError::Fetch(failure)) if !failure.resolved => {
                    tracing::info!(%reference, %failure, "a mirror did not provide the image");
                    let not_found = |known: &FetchFailure| known.reason == ErrorReason::RegistryNotFound;
                    elsewhere = elsewhere.filter(|known| !not_found(known)).or(Some(failure));
                }
                brought => return brought,
            }
        }
        match self.ask_worker(request(own.unwrap_or_default()), deadline, report, waiter) {
            // A mirror that could not be asked may have what its source has no more.
            Err(ImageError::Fetch(failure)) if failure.reason == ErrorReason::RegistryNotFound => {
                match (silent, elsewhere.filter(|other| other.reason != ErrorReason::RegistryNotFound)) {
                    (Some(warning), _) => Ok(Brought::Stored(Some(warning))),
                    (None, Some(other)) => Err(other.into()),
                    (None, None) => Err(failure.into()),
                }
            }
            brought => brought,
        }
    }

    fn ask_worker(
        &self,
        request: PullRequest,
        deadline: Instant,
        report: &Report,
        waiter: &Waiter,
    ) -> Result<Brought<'_>, ImageError> {
        waiter.wanted()?;
        let identity = self.workers.identity().map_err(ImageError::Ingest)?;
        let ingest = self.store.ingest_apart(identity.ids().uid(), identity.ids().gid())?;
        let reference = request.reference.clone();
        let direct = request.transport.registries.proxies().is_empty();
        let policy = self.trust.policy().about(&reference);
        let heard = |step| report(progress(step));
        let ended = fetch::pull(&self.workers, &identity, ingest.as_fd(), request, policy, deadline, heard, waiter);
        // A worker that was ended, for that reason.
        waiter.wanted()?;
        let set = |name: &&&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let variable = VARIABLES.iter().find(set).filter(|_| direct);
        let failed =
            |failure: FetchFailure| failure.with_variable(variable.copied()).with_files_in(self.registries.etc());
        match ended.map_err(worker_error)?.outcome.map_err(failed)? {
            Pulled::Cached { digest: _, warning } => {
                Ok(Brought::Stored(warning.map(|text| Warning::Unreachable(one_line(&text)))))
            }
            Pulled::Fetched { fetched, warning } => {
                let warning = warning.map(|text| Warning::Signatures(one_line(&text)));
                Ok(Brought::Fetched(self.stage(&ingest, &reference, &fetched)?, warning))
            }
        }
    }

    /// What the worker wrote, as files of the store's own. Whatever it says, it is filed under the name that was asked for.
    fn stage(&self, ingest: &Apart, reference: &Reference, fetched: &Fetched) -> Result<Staged<'_>, ImageError> {
        if fetched.reference != *reference {
            return Err(ImageError::OtherName { asked: reference.clone(), brought: fetched.reference.clone() });
        }
        Ok(self.store.stage_apart(ingest, fetched)?)
    }

    /// Lets names lead to images that are known to be usable: all or none.
    pub(super) fn take_in(&self, staged: Vec<Staged<'_>>) -> Result<(), ImageError> {
        self.grown.store(true, Ordering::Relaxed);
        // What was moved in before it failed has no name.
        Ok(self.store.commit_staged(staged).inspect_err(|_failed| self.sweep())?)
    }

    fn sweep(&self) {
        if let Err(error) = self.collect() {
            tracing::warn!(%error, "cannot remove unreferenced blobs from the image store");
        }
    }

    /// Removes blobs that nothing names.
    pub(super) fn collect(&self) -> Result<Swept, StoreError> {
        self.store.collect(&BTreeSet::new(), Sweep::Delete)
    }
}

fn progress(step: Step) -> Progress {
    let Step { phase, done, total } = step;
    let (phase, bytes) = match phase {
        transfer::Phase::Resolve | transfer::Phase::Manifest => (Phase::Resolve, false),
        transfer::Phase::Signatures | transfer::Phase::Verify => (Phase::Verify, false),
        transfer::Phase::Config | transfer::Phase::Layer => (Phase::Fetch, true),
    };
    Progress { phase, digest: None, done: bytes.then_some(done), total: total.filter(|_| bytes) }
}

/// Whether nobody said anything, neither yes nor no.
fn gone(reason: ErrorReason) -> bool {
    matches!(reason, ErrorReason::RegistryUnreachable | ErrorReason::Timeout)
}

/// A line of the worker's words.
fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(500).collect()
}

fn worker_error(error: WorkerError) -> ImageError {
    match error {
        WorkerError::Call(CallError::Deadline) => ImageError::Timeout,
        other => ImageError::Worker(other),
    }
}
