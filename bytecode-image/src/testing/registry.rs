//! A registry in memory, honest or hostile by repository, that remembers what it was asked.
//!
//! Runs in a thread of its own on loopback until it is dropped. Speaks distribution-spec 1.1: pull, push (in one piece or
//! in chunks), ranges, referrers (unless switched off), Basic and Bearer authentication with its own token server. Must
//! never listen beyond loopback or write a file.

mod answer;
mod content;
mod mode;
mod serve;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use tokio::sync::oneshot;

use self::content::Content;
pub use self::mode::{Mode, ModeError};
use crate::digest::Digest;

/// How the registry behaves, all repositories alike.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it listens; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Whom it lets in.
    pub access: Access,
    /// Whether it has the referrers API.
    pub referrers: Referrers,
}

/// Whom the registry lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// Whoever sends this user and password.
    Basic(String, String),
    /// Whoever has a token from `/token`, which this user and password get.
    Bearer(String, String),
    /// Whoever has a token from `/token`, which this identity token gets by OAuth2's refresh grant, and nothing else.
    IdentityToken(String),
    /// Whoever has a token from `/token`, which everybody gets.
    AnonymousBearer,
}

/// Whether there is a referrers API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Referrers {
    /// As in distribution-spec 1.1.
    Listed,
    /// 404, as in registries before it.
    Absent,
}

impl Default for Options {
    fn default() -> Self {
        Self { listen: ([127, 0, 0, 1], 0).into(), access: Access::Open, referrers: Referrers::Listed }
    }
}

/// One request as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The verb.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `Authorization`.
    pub authorization: Option<String>,
    /// `Referer`.
    pub referer: Option<String>,
    /// `Range`.
    pub range: Option<String>,
}

/// A running registry; dropping it stops it.
#[derive(Debug)]
pub struct TestRegistry {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the handle and the requests share.
#[derive(Debug)]
struct Shared {
    options: Options,
    address: SocketAddr,
    content: Mutex<Content>,
    modes: Mutex<HashMap<String, Mode>>,
    seen: Mutex<Vec<Seen>>,
    sent: AtomicU64,
    /// Requests that have no answer yet, and the most there were.
    waiting: Mutex<(usize, usize)>,
}

impl Shared {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self, change: impl FnOnce(usize) -> usize) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.0 = change(waiting.0);
        waiting.1 = waiting.1.max(waiting.0);
    }

    fn mode(&self, repository: &str) -> Mode {
        let modes = self.modes.lock().unwrap_or_else(PoisonError::into_inner);
        modes.get(repository).cloned().unwrap_or_default()
    }
}

impl TestRegistry {
    /// Starts one.
    ///
    /// # Errors
    /// If the address is taken, or no thread can be made.
    pub fn start(options: Options) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(options.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            options,
            address,
            content: Mutex::default(),
            modes: Mutex::default(),
            seen: Mutex::default(),
            sent: AtomicU64::new(0),
            waiting: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("test-registry".to_owned()).spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    served = serve::serve(listener, serving) => drop(served),
                    _stop_or_handle_gone = stopped => {}
                }
            });
        })?;
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// An honest one on a free port, open to all.
    ///
    /// # Errors
    /// As [`TestRegistry::start`].
    pub fn honest() -> io::Result<Self> {
        Self::start(Options::default())
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `HOST:PORT`, as references write it.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The entry that lets a client speak plain HTTP to it.
    #[must_use]
    pub fn registries_toml(&self) -> String {
        format!("[[registry]]\nname = \"{}\"\nhttp = true\n", self.host())
    }

    /// Makes one repository behave differently from now on.
    pub fn behave(&self, repository: &str, mode: Mode) {
        let mut modes = self.shared.modes.lock().unwrap_or_else(PoisonError::into_inner);
        modes.insert(repository.to_owned(), mode);
    }

    /// Stores a blob, whoever may push.
    pub fn put_blob(&self, bytes: &[u8]) -> Digest {
        self.shared.content().put_blob(bytes.to_vec())
    }

    /// Stores a manifest or an index under a tag and its digest, whoever may push.
    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> Digest {
        self.shared.content().put_manifest(repository, Some(tag), media_type, bytes.to_vec())
    }

    /// Stores an image whose layer is 200 MiB of zeros in 200 KiB of gzip, under the tag `latest`.
    ///
    /// # Errors
    /// If compression fails.
    pub fn put_zeros(&self, repository: &str) -> io::Result<Digest> {
        self.shared.content().put_zeros(repository)
    }

    /// What a tag names now.
    #[must_use]
    pub fn tag(&self, repository: &str, tag: &str) -> Option<Digest> {
        self.shared.content().tag(repository, tag)
    }

    /// Everything that was asked so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen().clone()
    }

    /// How many requests waited for an answer at the same time, at most.
    #[must_use]
    pub fn most_at_once(&self) -> usize {
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Bytes of bodies that left for the client so far (handed to the connection; some may not have arrived).
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        // Dropped, the sender wakes the thread as well as a message would.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
