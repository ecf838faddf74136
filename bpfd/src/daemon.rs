//! Start and stop, as a list: directories, bpffs, policy, kernel, engine, socket; then serve until told to stop. What is attached
//! stays attached: a stop never touches a hook.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use bpfd_core::ident::BootId;
use bpfd_core::kernel::ChainMode;
use bpfd_core::policy::{GROUP, Policy};
use bpfd_sys::bpffs;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use crate::audit::AuditFile;
use crate::engine::{Engine, EngineHandle};
use crate::execute::Repaired;
use crate::images::Images;
use crate::kernel::{HostKernel, Paths};
use crate::layout::Layout;
use crate::load::Loads;
use crate::load_log::LoadLogs;
use crate::objects::Objects;
use crate::registries::RegistryFiles;
use crate::rpc::{self, Start};
use crate::store::Store;
use crate::trust::Trust;
use crate::worker::Workers;

/// The whole life of the daemon.
pub fn run(layout: &Layout) -> Result<()> {
    directories(layout)?;
    let mut causes = mount_bpffs(layout)?;
    let objects = Objects::open(&layout.objects()).context("cannot open the object store")?;
    let workers = Workers::default();
    let trust = Arc::new(Trust::open(layout).context("cannot read the policy")?);
    let store = Store::open(&layout.database()).context("cannot open the state database")?;
    let audit = AuditFile::open(&layout.audit()).context("cannot open the audit log")?;
    let boot = boot_id()?;

    let read = objects.clone();
    let paths = Paths { bpffs: layout.bpffs.clone(), ..Paths::default() };
    let kernel = HostKernel::open(paths, workers.clone(), Box::new(move |digest| read.read(digest)))
        .context("cannot open the kernel's side")?;
    let loader = kernel.loader();
    let (mode, mode_cause) = match kernel.mode() {
        ChainMode::Fused { cause } => ("fused".to_owned(), cause.clone()),
    };
    let make = move || Engine::start(kernel, store, Box::new(audit), boot, Box::new(Uuid::new_v4));
    let (engine, repaired) = EngineHandle::spawn(make)?;
    let Repaired { recovered, steps, failures } = repaired;
    if let Some(recovered) = recovered {
        tracing::info!(?recovered, "a broken-off operation was ended");
    }
    steps.iter().for_each(|step| tracing::info!(%step, "repaired"));
    failures.iter().for_each(|failure| tracing::warn!(%failure, "not repaired"));
    causes.extend(failures);

    let used = engine.snapshot().state.apps.values().map(|app| app.object).collect();
    let swept = objects.sweep(&used).context("cannot sweep the object store")?;
    tracing::debug!(swept, "objects that nothing uses");

    let registries = RegistryFiles::open(layout).context("cannot read the registries")?;
    let images = Images::open(layout, workers.clone(), trust.clone(), registries, objects.clone());
    let images = Arc::new(images.context("cannot open the image store")?);
    let context = rpc::Context {
        loads: Loads::new(engine.clone(), images.clone(), objects.clone(), workers, loader),
        engine,
        images,
        trust,
        objects,
        logs: Arc::new(LoadLogs::default()),
        policy: Policy,
        layout: layout.clone(),
        start: Start {
            time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            causes,
            mode,
            mode_cause,
        },
    };
    let listener = listen(layout)?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(serve(Arc::new(context), listener))
}

async fn serve(context: Arc<rpc::Context>, listener: UnixListener) -> Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut reload = signal(SignalKind::hangup())?;
    let trust = context.trust.clone();
    tokio::spawn(async move {
        while reload.recv().await.is_some() {
            match trust.reload() {
                Ok(_) => tracing::info!("policy read again"),
                Err(error) => tracing::error!("the old policy stays in force: {:#}", anyhow::Error::from(error)),
            }
        }
    });
    tell_systemd(&[sd_notify::NotifyState::Ready]);
    tracing::info!("ready");
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tell_systemd(&[sd_notify::NotifyState::Stopping]);
        tracing::info!("stopping; what is attached stays attached");
    };
    Ok(rpc::serve(context, listener, stop).await?)
}

fn tell_systemd(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell systemd");
    }
}

/// Makes what is missing. The state is root's alone; the socket's directory lets members of the group in.
fn directories(layout: &Layout) -> Result<()> {
    for (dir, mode) in [(&layout.run, 0o755), (&layout.lib, 0o700), (&layout.log, 0o700), (&layout.objects(), 0o700)] {
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(dir)
            .with_context(|| format!("cannot make {}", dir.display()))?;
    }
    Ok(())
}

/// A bpffs where pins go: the host's own, or one below `--root`. Gives what keeps the daemon from being READY.
fn mount_bpffs(layout: &Layout) -> Result<Vec<String>> {
    let at = &layout.bpffs;
    fs::create_dir_all(at).with_context(|| format!("cannot make {}", at.display()))?;
    if !bpffs::is_bpffs(at)? {
        bpffs::mount(at).with_context(|| format!("cannot mount a bpffs at {}", at.display()))?;
        tracing::info!(at = %at.display(), "mounted a bpffs");
    }
    let host = Path::new("/proc/1/root/sys/fs/bpf");
    let differs = layout.root.is_none() && bpffs::device(host).ok() != bpffs::device(at).ok();
    let cause = format!(
        "{} is not the host's bpffs: pins die with this mount namespace; run bpfd without PrivateMounts",
        at.display()
    );
    Ok(differs.then_some(cause).into_iter().collect())
}

fn boot_id() -> Result<BootId> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read the boot id")?;
    Ok(BootId(Uuid::parse_str(text.trim()).context("the boot id is no UUID")?))
}

/// The socket that systemd passed, else our own. Without a group `bpfd` only root may connect.
fn listen(layout: &Layout) -> Result<UnixListener> {
    let mut passed = listenfd::ListenFd::from_env();
    if let Some(listener) = passed.take_unix_listener(0).context("the socket passed to bpfd is not usable")? {
        return Ok(listener);
    }
    let path = layout.socket();
    match fs::symlink_metadata(&path) {
        Ok(found) if !found.file_type().is_socket() => bail!("{} is in the way", path.display()),
        Ok(_) if UnixStream::connect(&path).is_ok() => bail!("another bpfd serves {}", path.display()),
        Ok(_) => fs::remove_file(&path).with_context(|| format!("cannot remove the old {}", path.display()))?,
        Err(_) => {}
    }
    // Between bind and chmod nobody but root gets in: the mask says so from the start.
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()));
    rustix::process::umask(mask);
    let listener = listener?;
    match group(GROUP)? {
        Some(gid) => {
            std::os::unix::fs::chown(&path, None, Some(gid))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o660))?;
        }
        None => tracing::info!("no group `{GROUP}`: the socket is root's alone"),
    }
    Ok(listener)
}

fn group(name: &str) -> Result<Option<u32>> {
    let text = fs::read_to_string("/etc/group").unwrap_or_default();
    let line = text.lines().find(|line| line.split(':').next() == Some(name));
    let gid = line.and_then(|line| line.split(':').nth(2)).map(str::parse);
    gid.transpose().context("/etc/group does not parse")
}
