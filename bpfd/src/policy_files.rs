//! When the policy is to be read again: by a signal, because its files changed, or as somebody whom it names may be known by now. Must
//! never read it.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bpfd_policy::rule::AccountId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::{Errno, retry_on_intr};
use sd_notify::NotifyState;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;

use crate::causes::error_chain;
use crate::service::{Refused, Reread, Service};
use crate::systemd::tell_systemd;

/// After a change others may follow at once, as when a package is installed: they are waited for.
const TOGETHER: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// How often that is waited for in a row: who changes files all the time does not keep a policy from being read.
const ROUNDS: u32 = 10;
/// Between two attempts to find out who is meant by a name.
const FIRST: Duration = Duration::from_secs(1);
/// The longest of them.
const LONGEST: Duration = Duration::from_secs(60);
/// How long a name that no service knows is asked about again: services start after bpfd at a boot.
const BOOT: Duration = Duration::from_secs(300);

/// A word for each time that something in these directories changed. Those that are not there are waited for, if the one above them is.
pub fn watch(directories: &[PathBuf]) -> io::Result<mpsc::Receiver<()>> {
    let files = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let watched: Vec<PathBuf> = directories.to_vec();
    let (changed, changes) = mpsc::channel(1);
    follow(&files, &watched);
    thread::Builder::new().name("policy-files".to_owned()).spawn(move || {
        while !changed.is_closed() {
            if let Err(error) = heard(&files, None) {
                tracing::error!(%error, "the policy's files are no longer watched: `bpfctl policy reload` has them read");
                return;
            }
            // A directory may have come.
            follow(&files, &watched);
            for _ in 0..ROUNDS {
                if !matches!(heard(&files, Some(TOGETHER)), Ok(true)) {
                    break;
                }
            }
            follow(&files, &watched);
            // One word that waits is as good as two.
            if let Err(mpsc::error::TrySendError::Closed(())) = changed.try_send(()) {
                return;
            }
        }
    })?;
    Ok(changes)
}

/// Waits for something, and forgets what it was; `false` if nothing came in time.
fn heard(files: &impl AsFd, limit: Option<Timespec>) -> io::Result<bool> {
    let mut either = [PollFd::new(files, PollFlags::IN)];
    if retry_on_intr(|| poll(&mut either, limit.as_ref()))? == 0 {
        return Ok(false);
    }
    let mut buffer = [0; 4096];
    loop {
        match rustix::io::read(files, &mut buffer) {
            Ok(0) | Err(Errno::AGAIN) => return Ok(true),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Watches those of them that are there; to watch one again changes nothing.
fn follow(files: &impl AsFd, directories: &[PathBuf]) {
    let flags = WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::ATTRIB
        | WatchFlags::ONLYDIR;
    for directory in directories {
        let above = directory.parent().filter(|_| !directory.exists());
        for path in [Some(directory.as_path()), above].into_iter().flatten() {
            match inotify::add_watch(files, path, flags) {
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => tracing::warn!(%error, path = %path.display(), "cannot watch the policy's files"),
            }
        }
    }
}

/// Has the policy read again for each signal and each change, and after it what files of `programs.d` declare.
pub async fn read_again(service: Arc<Service>, mut reload: Signal, mut changes: mpsc::Receiver<()>) {
    loop {
        let reloaded = tokio::select! {
            Some(()) = reload.recv() => {
                match NotifyState::monotonic_usec_now() {
                    Ok(now) => tell_systemd(&[NotifyState::Reloading, now]),
                    Err(error) => tracing::warn!(%error, "cannot tell systemd of a reload"),
                }
                service.reload_policy_by_signal().await
            }
            Some(()) = changes.recv() => match service.reload_policy_by_change().await {
                Some(reloaded) => reloaded,
                None => continue,
            },
            else => return,
        };
        match reloaded {
            Ok(_) => tracing::info!("reloaded the policy"),
            Err(Refused::Failed(error)) => {
                tracing::error!(
                    error = error_chain(&error),
                    "cannot reload the policy; the previous policy stays in force"
                );
            }
            Err(error) => tracing::error!(error = error_chain(&error), "cannot reload the policy"),
        }
        // Images that are not stored yet are pulled.
        service.apply_programs(Reread::All).await;
        tell_systemd(&[NotifyState::Ready]);
    }
}

/// Looks names up again while somebody is unknown, less and less often.
pub async fn look_up_names(service: Arc<Service>) {
    let (mut pause, mut waited) = (FIRST, Duration::ZERO);
    let mut policy = service.trust.subscribe();
    loop {
        let accounts = policy.borrow_and_update().accounts();
        let lacks = |id: &AccountId| match id {
            AccountId::Unknown => true,
            AccountId::Absent => waited < BOOT,
            AccountId::Is(_) => false,
        };
        if !accounts.users.values().chain(accounts.groups.values()).any(lacks) {
            if policy.changed().await.is_err() {
                return;
            }
            (pause, waited) = (FIRST, Duration::ZERO);
            continue;
        }
        tokio::time::sleep(pause).await;
        (pause, waited) = ((pause * 2).min(LONGEST), waited + pause);
        service.look_up_names().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_heard_in_a_directory_that_came_later() {
        let dir = tempfile::tempdir().unwrap();
        let (etc, inside) = (dir.path().join("etc"), dir.path().join("etc/policy.d"));
        let mut changes = watch(&[etc.clone(), inside.clone()]).unwrap();
        let mut heard = async || tokio::time::timeout(Duration::from_secs(60), changes.recv()).await.unwrap().unwrap();
        std::fs::create_dir_all(&inside).unwrap();
        heard().await;
        std::fs::write(inside.join("a.toml"), "version = 1\n").unwrap();
        heard().await;
        std::fs::rename(inside.join("a.toml"), inside.join("b.toml")).unwrap();
        heard().await;
        std::fs::remove_file(inside.join("b.toml")).unwrap();
        heard().await;
    }
}
