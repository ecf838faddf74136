//! Apps as pin directories: made whole, seen, opened again, removed. What is in one is what the kernel has of an app; the rows of
//! the database are elsewhere. This file must never load anything.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bpfd_core::ident::{AppUid, KernelId};
use bpfd_core::kernel::{PinnedApp, StepError};
use bpfd_sys::bpf::{map_info, prog_info};
use bpfd_sys::bpffs::Dir;

use super::failed;
use super::pins::{self, AppPin, Pins};
use super::prepare::{AppCode, StagedApp};

/// Pins what was staged as `v1/<app>`, whole or not at all, and gives back what fusing needs of it.
pub(crate) fn pin(pins: &Pins, app: AppUid, staged: StagedApp) -> Result<Arc<AppCode>, StepError> {
    let StagedApp { programs, code } = staged;
    pins::make_whole(&pins.apps, &app.to_string(), |dir| {
        for (name, fd) in &code.maps {
            pin_one(dir, &AppPin::Map(name.clone()), fd)?;
        }
        for program in programs.iter() {
            pin_one(dir, &AppPin::Program(program.facts.function.clone()), &program.fd)?;
        }
        Ok(())
    })?;
    Ok(code)
}

fn pin_one(dir: &Dir, pin: &AppPin, object: &OwnedFd) -> Result<(), StepError> {
    let long = || StepError::Object { why: "it has a name too long for a file's".to_owned() };
    let file = pin.file_name().ok_or_else(long)?;
    dir.pin(&file, object.as_fd()).map_err(failed(|| format!("pin `{file}`")))
}

/// Removes an app's pins, half-made ones too; nothing if there are none.
pub(crate) fn unpin(pins: &Pins, app: AppUid) -> Result<(), StepError> {
    pins::remove_whole(&pins.apps, &app.to_string()).map_err(failed(|| format!("unpin app {app}")))
}

/// Every app that is pinned, and every one that is half-made.
pub(crate) fn observe(pins: &Pins) -> io::Result<(BTreeMap<AppUid, PinnedApp>, BTreeSet<AppUid>)> {
    let (whole, half) = pins.app_names()?;
    let whole = whole.into_iter().map(|app| Ok((app, read(pins, app)?))).collect::<io::Result<_>>()?;
    Ok((whole, half.into_iter().collect()))
}

/// A pin that does not hold what its name says is not there: the app's row then finds it missing.
pub(crate) fn read(pins: &Pins, app: AppUid) -> io::Result<PinnedApp> {
    let dir = pins.apps.subdir(&app.to_string())?;
    let mut pinned = PinnedApp::default();
    for file in dir.names()? {
        match AppPin::read(&file) {
            Some(AppPin::Map(name)) => {
                if let Ok(info) = map_info(dir.pinned(&file)?.as_fd()) {
                    pinned.maps.insert(name, KernelId(info.id.0));
                }
            }
            Some(AppPin::Program(function)) => {
                if let Ok(info) = prog_info(dir.pinned(&file)?.as_fd()) {
                    if info.verified_insns > 0 {
                        pinned.verified.insert(function.clone(), info.verified_insns);
                    }
                    pinned.programs.insert(function, KernelId(info.id.0));
                }
            }
            None => {}
        }
    }
    Ok(pinned)
}

/// The pinned maps of an app, opened.
pub(crate) fn maps(pins: &Pins, app: AppUid) -> io::Result<BTreeMap<String, OwnedFd>> {
    let dir = pins.apps.subdir(&app.to_string())?;
    let mut maps = BTreeMap::new();
    for file in dir.names()? {
        if let Some(AppPin::Map(name)) = AppPin::read(&file) {
            maps.insert(name, dir.pinned(&file)?);
        }
    }
    Ok(maps)
}

/// A pinned map of an app, opened.
pub(crate) fn map(pins: &Pins, app: AppUid, name: &str) -> io::Result<OwnedFd> {
    let file = AppPin::Map(name.to_owned()).file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    pins.apps.subdir(&app.to_string())?.pinned(&file)
}

/// A pinned program of an app, opened.
pub(crate) fn program(pins: &Pins, app: AppUid, function: &str) -> io::Result<OwnedFd> {
    let file = AppPin::Program(function.to_owned()).file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    pins.apps.subdir(&app.to_string())?.pinned(&file)
}
