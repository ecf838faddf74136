//! Images in the daemon: pulled by the fetch worker, judged here by the policy of now, kept in the OCI layout.
//!
//! ```text
//! acquire ─ bring    does the store serve? else the worker pulls into ingest/, and what it wrote is taken in, hashed again
//!         ─ judge    always, from the store alone: selected image + kept signatures + policy → Verified    judge.rs
//!         ─ open     layer hashed, unpacked; the parse worker reads the object; the label agrees with it    judge.rs
//!         ─ Bytecode with what the label says                                                               words.rs
//! ```
//! One pull of a reference at a time. What the worker says is not believed: not the name, not the digests, not the verdict. Must
//! never give out bytes of an image that the policy of now refuses.

mod error;
mod judge;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError, Weak};
use std::time::{Duration, Instant, SystemTime};

use bpfd_core::policy::{Authorized, PullAsk};
use bpfd_core::request::{LoadRequest, PullPolicy};
use bpfd_core::state::{Advice, Source, State};
use bpfd_sys::worker::NOBODY;
use bytecode_image::digest::Digest;
use bytecode_image::fetch::{self as transfer, PullRequest, Pulled};
use bytecode_image::limits;
use bytecode_image::policy::ImagePolicy;
use bytecode_image::reference::Reference;
use bytecode_image::resolve::Platform;
use bytecode_image::scope::most_specific;
use bytecode_image::store::{Fetched, Named, Store, Sweep};
use bytecode_image::summary::{Summary, summary};
use bytecode_image::transport::Timeouts;
use bytecode_image::verify::Refusal;
use rustix::fs::{Gid, Uid};
use tokio::sync::Semaphore;

pub use self::error::ImageError;
use self::judge::{open, platform};
use crate::layout::Layout;
use crate::objects::Objects;
use crate::progress::{Phase, Progress, Report};
use crate::registries::RegistryFiles;
use crate::source::Bytecode;
use crate::trust::{Apply, Trust};
use crate::worker::fetch::{self, FailureKind, Step};
use crate::worker::{WorkerError, Workers};

/// Pulls that run at the same time: each is a process.
const AT_ONCE: usize = 4;
/// The whole of a pull or an acquisition: somebody waits for it.
const WHOLE: Duration = limits::DEADLINE;
/// What judging and unpacking may need after the registry has answered.
const AFTERWARDS: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct Images {
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
    /// Held while a reference is pulled and judged.
    pulling: Mutex<BTreeMap<Reference, Weak<tokio::sync::Mutex<()>>>>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    directory: PathBuf,
    workers: Workers,
    trust: Arc<Trust>,
    registries: RegistryFiles,
    objects: Objects,
    platform: Platform,
    timeouts: Timeouts,
    /// Read by pulls, written by whoever clears away what a worker left.
    ingest: RwLock<()>,
    /// What was found in images, by the digest of their manifest: a list need not unpack them each time.
    known: Mutex<BTreeMap<Digest, Digest>>,
}

/// An image of the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stored {
    /// Its name.
    pub reference: Reference,
    /// What the name was resolved to.
    pub digest: Digest,
    /// The manifest for this machine; `None` if it cannot be read.
    pub manifest: Option<Digest>,
    /// sha256 of the object; `None` if it cannot be read.
    pub object: Option<Digest>,
    /// Of index, manifest, configuration and layer.
    pub size: u64,
    /// When it came.
    pub pulled: Option<SystemTime>,
    /// Whose signatures count by the policy of now.
    pub signers: BTreeSet<String>,
}

/// An image that was looked into.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// The image.
    pub image: Stored,
    /// What is in it.
    pub summary: Summary,
    /// `linux/amd64`.
    pub platform: String,
    /// By function, what a load without options would do: the label's word, else the object's.
    pub advice: BTreeMap<String, Advice>,
}

/// What the policy of now says of a stored image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// Whether it may be loaded.
    pub trusted: bool,
    /// The digest that was judged.
    pub digest: Digest,
    /// The scope that decided, if one covers it and lets it through.
    pub scope: Option<String>,
    /// Whose signatures count.
    pub signers: BTreeSet<String>,
    /// A sentence for each thing that was looked at.
    pub findings: Vec<String>,
}

/// What is gone, or would go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Removed {
    /// Names.
    pub references: Vec<Reference>,
    /// Bytes of blobs that nothing else needed.
    pub freed: u64,
}

impl Images {
    /// Opens the store of a host, and makes it if there is none. Before anybody pulls: it clears away what a crash left.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn open(
        layout: &Layout,
        workers: Workers,
        trust: Arc<Trust>,
        registries: RegistryFiles,
        objects: Objects,
    ) -> Result<Self, ImageError> {
        let directory = layout.images();
        let store = Store::open(&directory)?;
        store.clear_ingest()?;
        // The worker is nobody. Only it gets this directory, by descriptor: the one above is root's alone.
        let nobody = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        rustix::fs::fchown(store.ingest()?.as_fd(), Some(nobody.0), Some(nobody.1))
            .map_err(|error| ImageError::Ingest(error.into()))?;
        let shared = Shared {
            store,
            directory,
            workers,
            trust,
            registries,
            objects,
            platform: platform(),
            timeouts: Timeouts { deadline: WHOLE - AFTERWARDS, ..Timeouts::default() },
            ingest: RwLock::default(),
            known: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared), permits: Arc::new(Semaphore::new(AT_ONCE)), pulling: Mutex::default() })
    }

    /// With other patience towards registries; the whole never takes longer than its own limit.
    #[must_use]
    pub fn patient(mut self, timeouts: Timeouts) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            let deadline = timeouts.deadline.min(WHOLE - AFTERWARDS);
            shared.timeouts = Timeouts { deadline, ..timeouts };
        }
        self
    }

    /// The object of an image, with the proof that it may be loaded, and warnings.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn acquire(
        &self,
        ask: &Authorized<LoadRequest>,
        reference: &str,
        pull: PullPolicy,
        report: &Report,
    ) -> Result<(Bytecode, Vec<String>), ImageError> {
        let reference: Reference = reference.parse()?;
        let (ask, told) = (ask.clone(), report.clone());
        let work = move |shared: &Shared, reference: &Reference, deadline| {
            let warning = shared.bring(reference, pull, deadline, &told)?;
            told(Progress::begin(Phase::Verify));
            let judged = shared.judge(reference)?;
            told(Progress::begin(Phase::Inspect));
            let opened = open(&shared.store, &shared.workers, &judged.selected)?;
            shared.remember(judged.selected.manifest().digest(), opened.digest());
            let object = shared.objects.put(&opened.object)?;
            let words = words::words(reference, &opened);
            let bytecode = Bytecode::verified(&ask, &judged.verified, object, opened.object, words);
            Ok((bytecode, warning.into_iter().collect()))
        };
        self.alone(reference, work).await
    }

    /// Brings an image into the store, if the policy lets it through, and looks whether it can be used.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn pull(
        &self,
        ask: &Authorized<PullAsk>,
        pull: PullPolicy,
        report: &Report,
    ) -> Result<(Stored, Vec<String>), ImageError> {
        let PullAsk(reference) = ask.request();
        let told = report.clone();
        let work = move |shared: &Shared, reference: &Reference, deadline| {
            let warning = shared.bring(reference, pull, deadline, &told)?;
            told(Progress::begin(Phase::Verify));
            let judged = shared.judge(reference)?;
            told(Progress::begin(Phase::Inspect));
            let opened = open(&shared.store, &shared.workers, &judged.selected)?;
            shared.remember(judged.selected.manifest().digest(), opened.digest());
            let named = shared.named(&reference.to_string())?;
            let stored = named.first().map(|named| shared.stored(named));
            let stored = stored.ok_or_else(|| ImageError::NotStored(reference.to_string()))?;
            Ok((stored, warning.into_iter().collect()))
        };
        self.alone(reference.parse()?, work).await
    }

    /// Images of the store by name: at most `limit` of those whose names come after `after`.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn list(&self, after: &str, limit: usize) -> Result<Vec<Stored>, ImageError> {
        let after = after.to_owned();
        self.blocking(move |shared| {
            let mut list: Vec<(String, Named)> =
                shared.store.list()?.into_iter().map(|named| (named.reference.to_string(), named)).collect();
            list.retain(|(name, _)| *name > after);
            list.sort();
            Ok(list.iter().take(limit).map(|(_, named)| shared.stored(named)).collect())
        })
        .await
    }

    /// What is in an image of the store, by reference or digest, whatever the policy says of it.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn inspect(&self, image: &str) -> Result<Inspected, ImageError> {
        let image = image.to_owned();
        self.blocking(move |shared| {
            let named = shared.one(&image)?;
            let selected = shared.store.selected(&named.reference, &shared.platform)?;
            let opened = open(&shared.store, &shared.workers, &selected)?;
            let size = opened.object.len();
            let summary = summary(opened.digest(), size, &opened.inspected, opened.labelled.as_ref());
            shared.remember(selected.manifest().digest(), opened.digest());
            let architecture = opened.architecture.as_ref().unwrap_or(&shared.platform.architecture);
            Ok(Inspected {
                image: shared.stored(&named),
                summary,
                platform: format!("linux/{architecture}"),
                advice: words::defaults(&opened),
            })
        })
        .await
    }

    /// What the policy of now says of an image of the store, by reference or digest.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn verify(&self, image: &str) -> Result<Verdict, ImageError> {
        let image = image.to_owned();
        self.blocking(move |shared| shared.verdict(&shared.one(&image)?.reference)).await
    }

    /// Takes images away, by reference or digest: all or none. One that an app came from stays.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn remove(&self, images: &[String], state: &State, apply: Apply) -> Result<Removed, ImageError> {
        let (images, state) = (images.to_vec(), state.clone());
        self.blocking(move |shared| shared.remove(&images, &state, apply)).await
    }

    /// Work on a reference that nobody else pulls meanwhile, within the whole time.
    async fn alone<T: Send + 'static>(
        &self,
        reference: Reference,
        work: impl FnOnce(&Shared, &Reference, Instant) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let deadline = Instant::now() + WHOLE;
        let lock = self.lock_of(&reference);
        let (permits, shared) = (self.permits.clone(), self.shared.clone());
        let whole = async move {
            let held = lock.lock_owned().await;
            let permit = permits.acquire_owned().await.map_err(|_closed| ImageError::Lost)?;
            // What is given up goes on in its thread until its own deadline, and keeps the lock until then.
            let working = tokio::task::spawn_blocking(move || {
                let done = work(&shared, &reference, deadline - AFTERWARDS);
                drop((held, permit));
                done
            });
            working.await.map_err(|_panicked| ImageError::Lost)?
        };
        tokio::time::timeout_at(deadline.into(), whole).await.unwrap_or(Err(ImageError::Timeout))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || work(&shared)).await.map_err(|_panicked| ImageError::Lost)?
    }

    fn lock_of(&self, reference: &Reference) -> Arc<tokio::sync::Mutex<()>> {
        let mut pulling = self.pulling.lock().unwrap_or_else(PoisonError::into_inner);
        pulling.retain(|_, lock| lock.strong_count() > 0);
        let known = pulling.get(reference).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let lock = Arc::default();
            pulling.insert(reference.clone(), Arc::downgrade(&lock));
            lock
        })
    }
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
    /// Sees to it that the store has the image, or says why not. Gives a warning if it may be old.
    fn bring(
        &self,
        reference: &Reference,
        pull: PullPolicy,
        deadline: Instant,
        report: &Report,
    ) -> Result<Option<String>, ImageError> {
        let have = match pull {
            PullPolicy::Never => return Ok(None),
            PullPolicy::Newer | PullPolicy::Always | PullPolicy::IfNotPresent => self.have(reference)?,
        };
        let cached = match (&have, pull, reference.digest()) {
            // A digest never comes to mean anything else.
            (Have::Good(_), _, Some(_)) | (Have::Good(_), PullPolicy::IfNotPresent, None) => return Ok(None),
            (Have::Good(digest), PullPolicy::Newer, None) => Some(*digest),
            // Signatures may have come since: everything is fetched again.
            (Have::Good(_) | Have::Refused(_) | Have::Nothing, _, _) => None,
        };
        report(Progress::begin(Phase::Resolve));
        match (self.fetch(reference, pull, cached, deadline, report), have) {
            (Err(ImageError::Fetch(failure)), Have::Refused(refusal)) if gone(failure.kind) => {
                tracing::info!(%reference, %failure, "the stored image is refused, and no other can be had");
                Err(ImageError::Refused(refusal))
            }
            (brought, _) => brought,
        }
    }

    fn have(&self, reference: &Reference) -> Result<Have, ImageError> {
        let Some(digest) = self.store.cached(reference, &self.platform)? else { return Ok(Have::Nothing) };
        match self.judge(reference) {
            Ok(_judged) => Ok(Have::Good(digest)),
            Err(ImageError::Refused(refusal)) => Ok(Have::Refused(refusal)),
            Err(error) => Err(error),
        }
    }

    fn fetch(
        &self,
        reference: &Reference,
        pull: PullPolicy,
        cached: Option<Digest>,
        deadline: Instant,
        report: &Report,
    ) -> Result<Option<String>, ImageError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeouts = Timeouts { deadline: self.timeouts.deadline.min(left), ..self.timeouts.clone() };
        let request = PullRequest {
            reference: reference.clone(),
            policy: transfer_policy(pull),
            cached,
            platform: self.platform.clone(),
            transport: self.registries.transport(reference, timeouts)?,
        };
        let brought = {
            let _pulling = self.ingest.read().unwrap_or_else(PoisonError::into_inner);
            self.ask_worker(request, deadline, report)
        };
        if brought.is_err() {
            self.clear_ingest();
        }
        brought
    }

    fn ask_worker(
        &self,
        request: PullRequest,
        deadline: Instant,
        report: &Report,
    ) -> Result<Option<String>, ImageError> {
        let ingest = self.store.ingest()?;
        let reference = request.reference.clone();
        let policy = applicable(&self.trust.policy().policy, &reference);
        let heard = |step| report(progress(step));
        let ended = fetch::pull(&self.workers, ingest.as_fd(), request, policy, deadline, heard);
        match ended.map_err(worker_error)?.outcome? {
            Pulled::Cached { digest: _, warning } => Ok(warning.map(|text| one_line(&text))),
            Pulled::Fetched(fetched) => self.take_in(&reference, &fetched).map(|()| None),
        }
    }

    /// Takes in what the worker wrote. Whatever it says, it is filed under the name that was asked for.
    fn take_in(&self, reference: &Reference, fetched: &Fetched) -> Result<(), ImageError> {
        if fetched.reference != *reference {
            return Err(ImageError::OtherName { asked: reference.clone(), brought: fetched.reference.clone() });
        }
        Ok(self.store.commit(fetched)?)
    }

    /// Removes what a failed pull may have left, if no other pull is at it; the next start does it else.
    fn clear_ingest(&self) {
        let cleared = match self.ingest.try_write() {
            Ok(_alone) => self.store.clear_ingest(),
            Err(TryLockError::Poisoned(_) | TryLockError::WouldBlock) => Ok(()),
        };
        cleared.unwrap_or_else(|error| tracing::warn!(%error, "parts of a failed pull are left"));
    }

    fn remember(&self, manifest: Digest, object: Digest) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(manifest, object);
    }

    fn stored(&self, named: &Named) -> Stored {
        let Named { reference, image } = named;
        let selected = self.store.selected(reference, &self.platform).ok();
        let judged = self.judge(reference).ok();
        let parts = selected.as_ref().map(|selected| {
            let index = selected.index().map_or(0, |index| index.descriptor().size);
            index + selected.manifest().descriptor().size + selected.config().size + selected.layer().size
        });
        let object = selected.as_ref().and_then(|selected| {
            let manifest = selected.manifest().digest();
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&manifest).copied();
            known.or_else(|| {
                let object = judge::object(&self.store, selected).ok().map(|unpacked| Digest::of(&unpacked.object))?;
                self.remember(manifest, object);
                Some(object)
            })
        });
        Stored {
            reference: reference.clone(),
            digest: image.digest,
            manifest: selected.map(|selected| selected.manifest().digest()),
            object,
            size: parts.unwrap_or_default(),
            pulled: self.written(image.digest),
            signers: judged.map(|judged| judged.verified.signers().clone()).unwrap_or_default(),
        }
    }

    /// When a blob came: its file is written once (image-layout.md: `blobs/<alg>/<encoded>`).
    fn written(&self, blob: Digest) -> Option<SystemTime> {
        let path: &Path = &self.directory;
        let metadata = std::fs::metadata(path.join("blobs/sha256").join(blob.hex()));
        metadata.and_then(|metadata| metadata.modified()).ok()
    }

    /// The names that a reference or a digest means.
    fn named(&self, image: &str) -> Result<Vec<Named>, ImageError> {
        let list = self.store.list()?;
        let found: Vec<Named> = match image.parse::<Digest>() {
            Ok(digest) => list.into_iter().filter(|named| named.image.digest == digest).collect(),
            Err(_no_digest) => {
                let reference: Reference = image.parse()?;
                let same = |named: &Named| {
                    named.reference == reference
                        || named.reference.name() == reference.name() && reference.digest() == Some(named.image.digest)
                };
                list.into_iter().filter(same).collect()
            }
        };
        if found.is_empty() { Err(ImageError::NotStored(bpfd_core::names::printable(image))) } else { Ok(found) }
    }

    fn one(&self, image: &str) -> Result<Named, ImageError> {
        let found = self.named(image)?.into_iter().next();
        found.ok_or_else(|| ImageError::NotStored(bpfd_core::names::printable(image)))
    }

    fn remove(&self, images: &[String], state: &State, apply: Apply) -> Result<Removed, ImageError> {
        let mut going: BTreeSet<Named> = BTreeSet::new();
        for image in images {
            going.extend(self.named(image)?);
        }
        for Named { reference, image } in &going {
            let users = users(state, reference, image.digest);
            if !users.is_empty() {
                return Err(ImageError::InUse { reference: reference.clone(), users });
            }
        }
        let freed = match apply {
            Apply::ValidateOnly => going.iter().map(|named| self.stored(named).size).sum(),
            Apply::Write => {
                for Named { reference, image: _ } in &going {
                    self.store.remove(reference)?;
                }
                let swept = self.store.collect(&BTreeSet::new(), Sweep::Delete);
                // The names are gone; a blob that is not is no reason to say that nothing happened.
                swept.map(|swept| swept.bytes).unwrap_or_else(|error| {
                    tracing::warn!(%error, "blobs of removed images are left");
                    0
                })
            }
        };
        Ok(Removed { references: going.into_iter().map(|named| named.reference).collect(), freed })
    }
}

/// Names of the apps that came from an image.
pub fn users(state: &State, reference: &Reference, digest: Digest) -> Vec<String> {
    let uses = |source: &Source| match source {
        Source::Upload => false,
        Source::Image { reference: from, digest: loaded, signers: _ } => {
            let repository = from.parse::<Reference>().map(|from| from.name());
            *loaded == digest.to_string() && repository.is_ok_and(|name| name == reference.name())
        }
    };
    state.apps.values().filter(|app| uses(&app.source)).map(|app| app.name.to_string()).collect()
}

/// The one rule that speaks about a reference: the worker need not know the others.
fn applicable(policy: &ImagePolicy, reference: &Reference) -> ImagePolicy {
    let rule = most_specific(&policy.images, |rule| &rule.scope, reference);
    ImagePolicy { images: rule.cloned().into_iter().collect() }
}

fn transfer_policy(pull: PullPolicy) -> transfer::PullPolicy {
    match pull {
        PullPolicy::Newer => transfer::PullPolicy::Newer,
        PullPolicy::Always => transfer::PullPolicy::Always,
        PullPolicy::IfNotPresent => transfer::PullPolicy::IfNotPresent,
        PullPolicy::Never => transfer::PullPolicy::Never,
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
fn gone(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::Unreachable | FailureKind::Timeout)
}

/// A line of the worker's words.
fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(500).collect()
}

fn worker_error(error: WorkerError) -> ImageError {
    match error {
        WorkerError::Call(bpfd_sys::worker::CallError::Deadline) => ImageError::Timeout,
        other => ImageError::Worker(other),
    }
}
