//! Images in the daemon: pulled by the fetch worker, judged here by the policy of now, kept in the OCI layout.
//!
//! ```text
//! acquire ─ covered  only root may have a registry asked if no scope of the policy covers the reference
//!         ─ bring    does the store serve? else the worker pulls into ingest/, and what it wrote is taken in     bring.rs
//!         ─ judge    always, from the store alone: selected image + kept signatures + policy → Verified          judge.rs
//!         ─ open     layer hashed, unpacked; the parse worker reads the object; the label agrees with it         judge.rs
//!         ─ Acquired: the proof, the object's digest, what the label says                                        words.rs
//!         ─ Bytecode, made by `source` once there is room for its bytes                                          acquired.rs
//! ```
//! Long because each verb on images is a method here, with the places that it waits for.
//! One pull of a reference at a time. What the store serves waits for no pull. Must never give out bytes of an image that the policy of now refuses.

mod acquired;
mod archive;
mod bring;
mod damaged;
mod error;
mod judge;
mod places;
mod room;
mod shelf;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bpfd_core::ask::PullAsk;
use bpfd_core::ident::AppUid;
use bpfd_core::policy::{Authorized, Principal, Stage};
use bpfd_core::report::Warning;
use bpfd_core::request::{Apply, PullPolicy};
use bpfd_core::state::State;
use bpfd_policy::image::AgeCheck;
use bytecode_image::digest::Digest;
use bytecode_image::limits;
use bytecode_image::reference::Reference;
use bytecode_image::registries::Author;
use bytecode_image::resolve::Platform;
use bytecode_image::store::{Ended, Named, NamedRelease, Store, Sweep};
use bytecode_image::summary::summary;
use bytecode_image::transport::Timeouts;
use bytecode_image::verify;

pub use self::acquired::Acquired;
pub use self::archive::{ArchiveUpload, Exported};
use self::bring::{Ready, Terms};
use self::damaged::open_or_set_aside;
pub use self::error::ImageError;
use self::judge::{open, platform};
use self::places::{Number, Places};
pub use self::room::Needed;
pub use self::shelf::{Explain, Inspected, Removed, Stored, Verdict, users};
use crate::causes::error_chain;
use crate::layout::Layout;
use crate::objects::Objects;
use crate::progress::Report;
use crate::registries::RegistryFiles;
use crate::trust::Trust;
use crate::waiter::Waiter;
use crate::worker::Workers;

/// Pulls that run at the same time: each is a process, and a registry may let it wait.
const PULLS: Number = Number { root: 2, others: 4, each: 2 };
/// Looks into the store that run at the same time: each may hold an object and its layer, 32 MiB, and a process that reads it.
const LOOKS: Number = Number { root: 2, others: 2, each: 1 };
/// Archives that are written or read at the same time: each may be a file of 512 MiB, for as long as a client takes to send it.
const ARCHIVES: Number = Number { root: 1, others: 2, each: 1 };
/// The whole of a pull, an acquisition, an import or an export: somebody waits for it.
const WHOLE: Duration = limits::DEADLINE;
/// What judging and unpacking may need after the registry has answered.
const AFTERWARDS: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct Images {
    shared: Arc<Shared>,
    pulls: Places,
    looks: Places,
    archives: Places,
    /// Held while a reference is pulled and judged.
    pulling: Mutex<BTreeMap<Reference, Weak<tokio::sync::Mutex<()>>>>,
    damage: Option<String>,
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
    /// Whether images came since the size of the store was looked at.
    grown: AtomicBool,
    /// What was found in images, by the digest of their manifest: a list need not unpack them each time.
    known: Mutex<BTreeMap<Digest, Digest>>,
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
        let (store, damage) = open_or_set_aside(&directory)?;
        store.take_ingest()?;
        // Tags move, and what they named before is of no use to anybody: apps keep their objects elsewhere.
        if let Err(error) = store.collect(&BTreeSet::new(), Sweep::Delete) {
            tracing::warn!(%error, "cannot remove unreferenced blobs from the image store");
        }
        let shared = Shared {
            store,
            directory,
            workers,
            trust,
            registries,
            objects,
            platform: platform(),
            timeouts: timeouts(),
            grown: AtomicBool::new(false),
            known: Mutex::default(),
        };
        let (pulls, looks, archives) = (Places::new(PULLS), Places::new(LOOKS), Places::new(ARCHIVES));
        Ok(Self { shared: Arc::new(shared), pulls, looks, archives, pulling: Mutex::default(), damage })
    }

    /// What was wrong with the store that was found, if it was set aside.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
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

    /// The proof that an image may be loaded, its object among the objects, and warnings.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn acquire(
        &self,
        caller: &Principal,
        reference: &str,
        pull: PullPolicy,
        report: &Report,
        waiter: &Waiter,
    ) -> Result<(Acquired, Vec<Warning>), ImageError> {
        let reference: Reference = reference.parse()?;
        let author = self.shared.covered(caller, &reference)?;
        let work = |shared: &Shared, reference: &Reference, ready| {
            let Ready { judged, opened, warning } = ready;
            let object = shared.objects.put(&opened.object)?;
            let words = words::words(reference, &opened);
            let release = opened.release(reference, &judged.selected);
            Ok((Acquired::new(judged, object, words, release), warning.into_iter().collect()))
        };
        self.ready(caller.uid, reference, (pull, author), report, waiter, work).await
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
        waiter: &Waiter,
    ) -> Result<(Stored, Vec<Warning>), ImageError> {
        let PullAsk(reference) = ask.request();
        let reference: Reference = reference.parse()?;
        let (caller, author) = (ask.principal().clone(), self.shared.covered(ask.principal(), &reference)?);
        let work = move |shared: &Shared, reference: &Reference, ready| {
            let Ready { judged, opened, warning } = ready;
            shared.may_pull(&caller, reference, Some(judged.verified.signers().clone()), Stage::Last)?;
            shared.remember_release(reference, &opened.release(reference, &judged.selected));
            let named = shared.named(&reference.to_string())?;
            let stored = named.first().map(|named| shared.stored(named));
            let stored = stored.ok_or_else(|| ImageError::NotStored(reference.to_string()))?;
            Ok((stored, warning.into_iter().collect()))
        };
        self.ready(ask.principal().uid, reference, (pull, author), report, waiter, work).await
    }

    /// Images of the store by name: at most `limit` of those whose names come after `after`.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn list(&self, uid: u32, after: &str, limit: usize) -> Result<Vec<Stored>, ImageError> {
        let after = after.to_owned();
        self.blocking(uid, move |shared| {
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
    pub async fn inspect(&self, uid: u32, image: &str) -> Result<Inspected, ImageError> {
        let image = image.to_owned();
        self.blocking(uid, move |shared| {
            let named = shared.one(&image)?;
            let selected = shared.store.selected(&named.reference, &shared.platform)?;
            let opened = open(&shared.store, &shared.workers, &selected)?;
            let size = opened.object.len();
            let summary = summary(opened.digest, size, &opened.inspected, opened.labelled.as_ref());
            shared.remember(selected.manifest().digest(), opened.digest);
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
    pub async fn verify(&self, uid: u32, image: &str, explain: Explain) -> Result<Verdict, ImageError> {
        let image = image.to_owned();
        self.blocking(uid, move |shared| shared.verdict(&shared.one(&image)?.reference, explain)).await
    }

    /// Notes that an image is about to be loaded as this app: what comes later is compared with it once it is. Gives whether the end is to
    /// be told.
    ///
    /// # Errors
    /// [`ImageError::Store`]: then it is not to be loaded.
    pub async fn loading(
        &self,
        uid: u32,
        app: AppUid,
        reference: Reference,
        release: NamedRelease,
    ) -> Result<bool, ImageError> {
        self.blocking(uid, move |shared| {
            let policy = shared.trust.policy();
            let Some(rule) = policy.image_rule(&reference) else { return Ok(false) };
            Ok(shared.store.begin_load(rule, &app.to_string(), &release)?)
        })
        .await
    }

    /// Ends what [`Images::loading`] noted.
    pub async fn loaded(&self, uid: u32, app: AppUid, ended: Ended) {
        let remembered = self.blocking(uid, move |shared| Ok(shared.store.end_load(&app.to_string(), ended)?));
        if let Err(error) = remembered.await {
            tracing::error!(error = %error_chain(&error), "cannot remember the release of an image before the next start");
        }
    }

    /// Ends what an earlier run noted and did not end. Only for a start, once it is known which apps there are.
    pub fn settle_loads(&self, state: &State) {
        let is_loaded = |load: &str| load.parse::<AppUid>().is_ok_and(|uid| state.apps.contains_key(&uid));
        if let Err(error) = self.shared.store.settle_loads(is_loaded) {
            tracing::error!(error = %error_chain(&error), "cannot remember the releases of loads that a crash interrupted");
        }
    }

    /// Takes images away, by reference or digest: all or none. One that an app came from stays.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn remove(
        &self,
        caller: &Principal,
        images: &[String],
        state: &State,
        apply: Apply,
    ) -> Result<Removed, ImageError> {
        let (images, state, caller) = (images.to_vec(), state.clone(), caller.clone());
        self.blocking(caller.uid, move |shared| shared.remove(&caller, &images, &state, apply)).await
    }

    /// Takes away what nothing needs and a caller may take away.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn prune(&self, caller: &Principal, needed: Needed, apply: Apply) -> Result<Removed, ImageError> {
        let caller = caller.clone();
        self.blocking(caller.uid, move |shared| shared.prune(&caller, &needed, apply)).await
    }

    /// Whether images came since this was asked last.
    pub fn has_grown(&self) -> bool {
        self.shared.grown.swap(false, Ordering::Relaxed)
    }

    /// Takes away what was used longest ago and nothing needs, until the store is as small as it should be.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn keep_quota(&self, needed: Needed) -> Result<Removed, ImageError> {
        self.blocking(0, move |shared| shared.keep_quota(&needed)).await
    }

    /// The proof that an image of the store may be loaded, by its name or, if it has a digest, by that of another name of its repository.
    /// No registry is asked.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn stored(&self, reference: &Reference) -> Result<Acquired, ImageError> {
        let reference = reference.to_string();
        self.blocking(0, move |shared| {
            let named = shared.one(&reference)?;
            let silent: Report = Arc::new(|_| ());
            let Ready { judged, opened, warning: _ } =
                shared.usable(&named.reference, None, &silent, &Waiter::default(), AgeCheck::Skipped)?;
            let object = shared.objects.put(&opened.object)?;
            let words = words::words(&named.reference, &opened);
            let release = opened.release(&named.reference, &judged.selected);
            Ok(Acquired::new(judged, object, words, release))
        })
        .await
    }

    /// Why the policy of now refuses an image that an app came from. One that is not in the store any more passed when it was loaded, and
    /// what is loaded has the bytes that passed.
    pub fn refused(&self, reference: &str, digest: &str) -> Option<String> {
        let (reference, digest) = (reference.parse::<Reference>().ok()?, digest.parse::<Digest>().ok()?);
        let named = self.shared.named(&digest.to_string()).ok()?;
        let stored = named.into_iter().find(|named| named.reference.name() == reference.name())?;
        match self.shared.judge(&stored.reference, AgeCheck::Skipped) {
            Err(error @ ImageError::Refused(_)) => Some(error_chain(&error)),
            Ok(_) | Err(_) => None,
        }
    }

    /// Work on an image that may be loaded: from the store if that serves, else pulled, and nobody else pulls its reference meanwhile.
    /// All within the whole time, and while somebody waits for it.
    async fn ready<T: Send + 'static>(
        &self,
        uid: u32,
        reference: Reference,
        (pull, author): (PullPolicy, Author),
        report: &Report,
        waiter: &Waiter,
        work: impl FnOnce(&Shared, &Reference, Ready) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let deadline = Instant::now() + WHOLE;
        let (report, waits) = (report.clone(), waiter.clone());
        let whole = async move {
            let asked = reference.clone();
            if self.blocking(uid, move |shared| shared.serves(&asked, pull)).await? {
                return self
                    .blocking(uid, move |shared| {
                        let ready = shared.usable(&reference, None, &report, &waits, verify::now())?;
                        work(shared, &reference, ready)
                    })
                    .await;
            }
            let held = self.lock_of(&reference).lock_owned().await;
            let place = self.pulls.of(uid).await?;
            let shared = self.shared.clone();
            // What took too long goes on in its thread until its own deadline, and keeps the lock until then. What nobody waits for ends
            // with its worker.
            in_place((held, place), move || {
                let terms = Terms { pull, author, deadline: deadline - AFTERWARDS };
                let ready = shared.ready(&reference, terms, &report, &waits)?;
                work(&shared, &reference, ready)
            })
            .await
        };
        tokio::select! {
            done = tokio::time::timeout_at(deadline.into(), whole) => done.unwrap_or(Err(ImageError::Timeout)),
            why = waiter.given_up() => Err(why.into()),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        uid: u32,
        work: impl FnOnce(&Shared) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let (place, shared) = (self.looks.of(uid).await?, self.shared.clone());
        in_place(place, move || work(&shared)).await
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

impl Shared {
    /// Who wrote a reference, if the caller may have its registry asked: only root may, if no scope of the policy covers the reference. The
    /// refusal comes before a name is resolved or a packet is sent.
    fn covered(&self, caller: &Principal, reference: &Reference) -> Result<Author, ImageError> {
        if caller.uid == 0 {
            return Ok(Author::Trusted);
        }
        let policy = self.trust.policy();
        policy
            .image_rule(reference)
            .map(|_covers| Author::Other)
            .ok_or_else(|| ImageError::NotCovered(reference.clone()))
    }
}

/// How patient pulls are with registries.
fn timeouts() -> Timeouts {
    let usual = Timeouts { deadline: WHOLE - AFTERWARDS, ..Timeouts::default() };
    match crate::fail_points::bytes("registry-patience").map(Duration::from_millis) {
        Some(patience) => Timeouts { connect: patience, idle: patience, deadline: patience * 6 },
        None => usual,
    }
}

/// Work in a thread. A caller that leaves does not end it: it has its place until it is done.
async fn in_place<T: Send + 'static>(
    place: impl Send + 'static,
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let working = tokio::task::spawn_blocking(move || {
        let done = work();
        drop(place);
        done
    });
    working.await.map_err(|_panicked| ImageError::Lost)?
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_caller_that_left_gives_its_place_back_when_the_work_is_done() {
        let places = Places::new(Number { root: 1, others: 1, each: 1 });
        let ((begun, beginning), (end, ended)) = (mpsc::channel(), mpsc::channel::<()>());
        let place = places.of(7).await.unwrap();
        let look = tokio::spawn(in_place(place, move || {
            begun.send(()).unwrap();
            ended.recv().unwrap_or_default();
            Ok(())
        }));
        tokio::task::yield_now().await;
        beginning.recv().unwrap();
        look.abort();
        assert!(look.await.unwrap_err().is_cancelled());
        assert!(places.is_full());
        drop(end);
        drop(places.of(7).await.unwrap());
    }
}
