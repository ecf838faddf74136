//! Start and stop, as a list: directories, bpffs, policy, kernel, engine, socket; then serve until told to stop. What is attached
//! stays attached: a stop never touches a hook.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bpfd_core::config::{Config, ConfigError};
use bpfd_core::ident::BootId;
use bpfd_core::kernel::ChainMode;
use bpfd_core::policy::{GROUP, VIEW_GROUP};
use bpfd_policy::accounts::Names;
use bpfd_sys::bpffs;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::audit::{AuditFile, Journal};
use crate::boot::{self, judge};
use crate::engine::{Engine, EngineHandle, StartError};
use crate::etc::{self, EtcError};
use crate::images::{ImageError, Images};
use crate::kernel::{HostKernel, OpenError, Paths};
use crate::layout::Layout;
use crate::load_log::LoadLogs;
use crate::maps::Maps;
use crate::objects::Objects;
use crate::owned::{self, Links, OwnedDir};
use crate::policy_files;
use crate::programs::Programs;
use crate::reads::Reads;
use crate::registries::{RegistryFiles, RegistryFilesError};
use crate::repair::{Recovered, Repaired, relate};
use crate::rpc::{self, ServeError};
use crate::service::{Loads, ProgramFiles, Reread, Service, Start};
use crate::store::{Answers, Store, StoreError};
use crate::systemd::{feed_watchdog, tell_systemd};
use crate::trust::{Trust, TrustError};
use crate::watch;
use crate::worker::identity::Identities;
use crate::worker::{Workers, names};

/// Why the daemon does not run. Nothing was changed on any hook.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A file or directory of its own.
    #[error("cannot {doing} `{}`", path.display())]
    Path {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A policy file.
    #[error("cannot read the policy")]
    Policy(#[from] TrustError),
    /// bpfd.toml cannot be read, or others could have written it.
    #[error(transparent)]
    Etc(#[from] EtcError),
    /// bpfd.toml says something that bpfd does not know.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// registries.toml or auth.json.
    #[error("cannot read the registries' configuration")]
    Registries(#[from] RegistryFilesError),
    /// What starts workers.
    #[error("cannot start the thread that starts workers")]
    Workers(#[source] io::Error),
    /// The image store.
    #[error("cannot open the image store")]
    Images(#[from] ImageError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel's side.
    #[error("cannot open the pins or probe the kernel")]
    Kernel(#[from] OpenError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] StartError),
    /// The boot id.
    #[error("/proc/sys/kernel/random/boot_id does not contain a UUID")]
    Boot(#[from] uuid::Error),
    /// Something else has the socket's path.
    #[error("`{}` exists and is not a socket", .0.display())]
    InTheWay(PathBuf),
    /// Another daemon answers there.
    #[error("another bpfd serves `{}`", .0.display())]
    Served(PathBuf),
    /// Signals, threads, the passed socket.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// Serving.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// How long threads that work on images may go on once nothing is served any more. What they leave is what a crash leaves: the image
/// store is changed by renames alone.
const THREADS: Duration = Duration::from_secs(3);

/// Names what a call on a path was for.
fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DaemonError {
    let path = path.to_path_buf();
    move |source| DaemonError::Path { doing, path, source }
}

/// The whole life of the daemon.
pub fn run(layout: &Layout) -> Result<(), DaemonError> {
    directories(layout)?;
    open_files();
    let mut causes = mount_bpffs(layout)?;
    OwnedDir::make(&layout.pins(), 0o700)?;
    let objects = Objects::open(&layout.objects()).map_err(at("open the object store", &layout.objects()))?;
    let settings = settings(layout)?;
    let identities = Identities::of_host(settings.workers.uid_base);
    let identities = identities.map_err(at("find whom workers run as in", Path::new("/etc/passwd")))?;
    let workers = Workers::with(identities).map_err(DaemonError::Workers)?;
    let services = workers.clone();
    let look_up = move |names: &Names| names::look_up(&services, names);
    let trust = Arc::new(Trust::open(layout, look_up)?);
    let mut store = Store::open(&layout.database())?;
    let this_boot = boot_id()?;
    let files = Programs::read(layout);

    let read = objects.clone();
    let paths = Paths { bpffs: layout.bpffs.clone(), ..Paths::default() };
    let named = paths.netns.clone();
    let mut kernel =
        HostKernel::open_in(&settings.chain, paths, workers.clone(), Arc::new(move |digest| read.read(digest)))?;
    // By now no other daemon has this log: its pins are locked.
    let journal = settings.audit.journal.then(|| Journal::at(&layout.journal())).transpose();
    let journal = journal.map_err(at("make a socket for", &layout.journal()))?;
    let audit = AuditFile::open(&layout.audit(), &layout.audit_head(), journal);
    let mut audit = audit.map_err(at("open the audit log", &layout.audit()))?;
    if !relate(&mut kernel, &store, this_boot).map_err(StartError::Repair)?.is_doubtful() {
        boot::forget_undeclared(&mut store, &mut audit, this_boot, &files)?;
    }
    let (loader, readers, maps) = (kernel.loader(), kernel.readers(), kernel.maps());
    let (mode, mode_cause) = match kernel.mode() {
        mode @ (ChainMode::Fused { cause } | ChainMode::Clsact { cause }) => (mode.to_string(), cause.clone()),
        mode @ (ChainMode::Libxdp | ChainMode::Tcx) => (mode.to_string(), String::new()),
    };
    let registries = RegistryFiles::open(layout)?;
    let images = Arc::new(Images::open(layout, workers.clone(), trust.clone(), registries, objects.clone())?);
    causes.extend(images.damage().map(str::to_owned));
    let (policy, judge) = (trust.subscribe(), judge(trust.subscribe(), images.clone()));
    let make = move || Engine::start(kernel, store, Box::new(audit), policy, this_boot, Box::new(Uuid::new_v4), judge);
    let (engine, repaired) = EngineHandle::spawn(make)?;
    let Repaired { relation, recovered, steps, failures, .. } = repaired;
    let snapshot = engine.snapshot();
    if let Some(recovery) = &snapshot.recovery {
        tracing::warn!(
            "RECOVERED: {}; nothing is removed until `bpfctl state adopt` or `bpfctl state discard`",
            recovery.relation
        );
    } else if relation.is_doubtful() {
        tracing::info!("{relation}; nothing differs");
    }
    let recovered = recovered.map(|how| match how {
        Recovered::Forward => "a change that a crash interrupted was carried out",
        Recovered::Back => "a change that a crash interrupted was undone",
    });
    recovered.iter().for_each(|how| tracing::info!("{how}"));
    steps.iter().for_each(|step| tracing::info!(%step, "repaired"));
    failures.iter().for_each(|failure| tracing::warn!(%failure, "not repaired"));

    images.settle_loads(&snapshot.state);
    let used = snapshot.objects().into_iter().chain(files.objects(layout)).collect();
    let swept = objects.sweep(&used).map_err(at("sweep the object store", &layout.objects()))?;
    tracing::debug!(swept, "removed unused objects");

    let reads = Reads::start(engine.clone(), readers).map_err(DaemonError::Runtime)?;
    let watching = watch::start(engine.clone(), workers.clone(), named).map_err(DaemonError::Runtime)?;

    let logs = Arc::new(LoadLogs::default());
    let (programs, reasons) = ProgramFiles::new();
    watch::interfaces(programs.again(), watching.clone()).map_err(DaemonError::Runtime)?;
    let service = Service {
        maps: Maps::start(maps, workers.clone(), objects.clone()).map_err(DaemonError::Runtime)?,
        answers: Answers::open(&layout.database())?,
        loads: Loads::start(workers.clone(), loader, logs.clone(), engine.clone(), layout.pins())
            .map_err(DaemonError::Runtime)?,
        workers,
        engine,
        reads,
        images,
        trust,
        ordering: tokio::sync::Mutex::default(),
        programs,
        objects,
        logs,
        watching,
        layout: layout.clone(),
        start: Start {
            time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            causes,
            failures,
            recovered,
            mode,
            mode_cause,
        },
    };
    let listeners = listen(layout)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(DaemonError::Runtime)?;
    let served = runtime.block_on(serve(Arc::new(service), listeners, reasons));
    runtime.shutdown_timeout(THREADS);
    served
}

async fn serve(
    service: Arc<Service>,
    listeners: Vec<UnixListener>,
    reasons: mpsc::Receiver<()>,
) -> Result<(), DaemonError> {
    let listeners = listeners.into_iter().map(tokio::net::UnixListener::from_std).collect::<Result<_, _>>();
    let listeners = listeners.map_err(DaemonError::Runtime)?;
    let listen = |kind| signal(kind).map_err(DaemonError::Runtime);
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let reload = listen(SignalKind::hangup())?;
    let changes = policy_files::watch(&service.trust.directories()).map_err(DaemonError::Runtime)?;
    tokio::spawn(policy_files::read_again(service.clone(), reload, changes));
    // On a worker thread: it reads files.
    let applying = service.clone();
    if tokio::spawn(async move { applying.apply_programs(Reread::All).await }).await.is_err() {
        tracing::error!("loading the programs of files ended unexpectedly");
    }
    tokio::spawn(service.clone().keep_patterns(reasons));
    tokio::spawn(service.clone().keep_pulling());
    if let Some(within) = sd_notify::watchdog_enabled() {
        tokio::spawn(feed_watchdog(service.clone(), within));
    }
    tokio::spawn(policy_files::look_up_names(service.clone()));
    tell_systemd(&[NotifyState::Ready]);
    tracing::info!("ready");
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tell_systemd(&[NotifyState::Stopping]);
        tracing::info!("stopping; attached programs stay attached");
    };
    Ok(rpc::serve(service, listeners, stop).await?)
}

/// `bpfd.toml`; absent, everything is as by default.
fn settings(layout: &Layout) -> Result<Config, DaemonError> {
    let path = layout.etc.join("bpfd.toml");
    let text = etc::read(&path)?.unwrap_or_default();
    Ok(Config::parse(&text, &path.display().to_string())?)
}

/// As many descriptors as the host allows: connections, watched namespaces and loads under way need some, and services start with 1024.
fn open_files() {
    let limit = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        Ok(()) => {
            let limit = limit.maximum.map_or_else(|| "none".to_owned(), |most| most.to_string());
            tracing::info!(limit, "raised the limit of open files to the hard limit");
        }
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}

/// Makes what is missing, and refuses to go on where somebody else could have written what is read from now on. The state is root's
/// alone; the socket's directory lets members of the group in.
fn directories(layout: &Layout) -> Result<(), DaemonError> {
    OwnedDir::make(&layout.run, 0o755)?;
    let state = OwnedDir::make(&layout.lib, 0o700)?;
    // With the files that SQLite keeps beside a database.
    state.check(
        ["state.db", "state.db-wal", "state.db-shm", "policy.good", "audit.head"].map(OsStr::new),
        Links::Refused,
    )?;
    OwnedDir::make(&layout.objects(), 0o700)?.check_all()?;
    images(&layout.images())?;
    // On many hosts a group may write beside it. It is read again for its own chain alone, and must lead nowhere else.
    DirBuilder::new().recursive(true).mode(0o700).create(&layout.log).map_err(at("make", &layout.log))?;
    Ok(owned::last(&layout.log)?)
}

/// The image store, as far as its names are believed: content is hashed each time that it is read. What is no store is set aside later.
fn images(path: &Path) -> Result<(), DaemonError> {
    for directory in [path.to_path_buf(), path.join("blobs"), path.join("blobs/sha256")] {
        match OwnedDir::open(&directory) {
            Ok(store) => store.check(["index.json", "oci-layout"].map(OsStr::new), Links::NotFollowed)?,
            Err(error) if error.is_absent() || error.is_no_directory() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A bpffs where pins go: the host's own, or one below `--root`. Gives what keeps the daemon from being READY.
fn mount_bpffs(layout: &Layout) -> Result<Vec<String>, DaemonError> {
    let dir = &layout.bpffs;
    // On a host it is there, and its last directory may be anybody's to write in: pins are in one of their own.
    let above = dir.parent().unwrap_or(dir);
    OwnedDir::make(above, 0o755)?;
    DirBuilder::new().recursive(true).create(dir).map_err(at("make", dir))?;
    if !bpffs::is_bpffs(dir).map_err(at("look at", dir))? {
        bpffs::mount(dir).map_err(at("mount a bpffs at", dir))?;
        tracing::info!(at = %dir.display(), "mounted a bpffs");
    }
    let differs =
        layout.root.is_none() && bpffs::device_of_host("/sys/fs/bpf").ok() != bpffs::device(dir).ok().map(Some);
    let cause = format!(
        "{} is not the host's bpffs: pins are lost when this mount namespace ends; run bpfd without `PrivateMounts=`",
        dir.display()
    );
    Ok(differs.then_some(cause).into_iter().collect())
}

fn boot_id() -> Result<BootId, DaemonError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(at("read", path))?;
    Ok(BootId(Uuid::parse_str(text.trim())?))
}

/// The sockets that systemd passed, else our own. Without a group `bpfd` only root may open the first, and without a group `bpfd-view`
/// there is no second. Which one a caller came by says nothing: who it is does.
fn listen(layout: &Layout) -> Result<Vec<UnixListener>, DaemonError> {
    let mut passed = listenfd::ListenFd::from_env();
    let mut listeners = Vec::new();
    for place in 0..passed.len() {
        listeners.extend(passed.take_unix_listener(place).map_err(DaemonError::Runtime)?);
    }
    if listeners.is_empty() {
        let path = layout.socket();
        make_way(&path)?;
        let group = group_id(GROUP)?;
        if group.is_none() {
            tracing::info!("group `{GROUP}` does not exist: only root can use the socket");
        }
        listeners.push(bind(&path, group)?);
        let path = layout.view_socket();
        make_way(&path)?;
        if let group @ Some(_) = group_id(VIEW_GROUP)? {
            listeners.push(bind(&path, group)?);
        }
    }
    for listener in &listeners {
        listener.set_nonblocking(true).map_err(DaemonError::Runtime)?;
    }
    Ok(listeners)
}

fn group_id(group: &str) -> Result<Option<u32>, DaemonError> {
    rpc::group_id(group).map_err(at("read", Path::new("/etc/group")))
}

/// Takes away the socket that a daemon left which is no more.
fn make_way(path: &Path) -> Result<(), DaemonError> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Err(DaemonError::InTheWay(path.to_owned())),
        Ok(_) if UnixStream::connect(path).is_ok() => Err(DaemonError::Served(path.to_owned())),
        Ok(_) => fs::remove_file(path).map_err(at("remove the old socket", path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(at("look at", path)(error)),
    }
}

/// A socket of root's, and of a group's if there is one.
fn bind(path: &Path, group: Option<u32>) -> Result<UnixListener, DaemonError> {
    // Between bind and chmod nobody but root gets in: the mask says so from the start.
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(mask);
    let listener = bound.map_err(at("listen on", path))?;
    if let Some(gid) = group {
        std::os::unix::fs::chown(path, None, Some(gid)).map_err(at("give to the group", path))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(at("open to the group", path))?;
    }
    Ok(listener)
}
