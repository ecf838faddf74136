//! Records of apps and links, and the stamp of the database, as maps beside the pins: written, seen, removed. What is in them is
//! `bpfd_core`'s. This file must never decide what is recorded.
//!
//! A record is replaced by rename, so that it is there whole at every moment.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;

use bpfd_core::ident::LinkUid;
use bpfd_core::kernel::StepError;
use bpfd_core::record::{RECORD_MAP_NAME, RECORD_MAX, Row};
use bpfd_core::stamp::{STAMP_SIZE, STATE_MAP_NAME, Stamp};
use bpfd_core::state::State;
use bpfd_sys::bpf::{F_RDONLY_PROG, Map, MapCreate, MapType, Update};
use bpfd_sys::bpffs::Dir;

use super::chain::generation::{freeze, present, value};
use super::failed;
use super::object::error_chain;
use super::pins::{self, APP_RECORD, Pins, STATE};

/// The records of a host.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// What they say.
    pub(crate) rows: State,
    /// Links with a record that cannot be read.
    pub(crate) unread: BTreeSet<LinkUid>,
}

impl Records {
    /// Follows a record that was written.
    pub(crate) fn write(&mut self, row: &Row) {
        match row {
            Row::App(app) => drop(self.rows.apps.insert(app.uid, app.clone())),
            Row::Link(link) => {
                self.unread.remove(&link.uid);
                self.rows.links.insert(link.uid, link.clone());
            }
        }
    }

    /// Follows a record that was removed.
    pub(crate) fn remove(&mut self, link: &LinkUid) {
        self.unread.remove(link);
        self.rows.links.remove(link);
    }
}

/// Writes the record of a row, in the place of the one before.
pub(crate) fn write(pins: &Pins, row: &Row) -> Result<(), StepError> {
    let doing = || format!("record {row}");
    let bytes = row.encode().map_err(|error| StepError::Object { why: error_chain(&error) })?;
    let map = freeze(RECORD_MAP_NAME, &bytes).map_err(failed(doing))?;
    let pinned = match row {
        Row::App(app) => {
            pins.apps.subdir(&app.uid.to_string()).and_then(|dir| pins::replace(&dir, APP_RECORD, map.as_fd()))
        }
        Row::Link(link) => pins::replace(&pins.records, &link.uid.to_string(), map.as_fd()),
    };
    pinned.map_err(failed(doing))
}

/// Removes the record of a link; nothing if there is none.
pub(crate) fn remove(pins: &Pins, link: LinkUid) -> Result<(), StepError> {
    let removed = pins.records.unlink(&link.to_string()).or_else(pins::absent_is_fine);
    removed.map_err(failed(|| format!("remove the record of link {link}")))
}

/// Removes what an earlier process was writing when it died.
pub(crate) fn sweep(pins: &Pins) -> io::Result<()> {
    let (_whole, half) = pins.record_names()?;
    half.into_iter().try_for_each(|link| pins::remove_unreplaced(&pins.records, &link.to_string()))?;
    let (apps, _half) = pins.app_names()?;
    apps.into_iter().try_for_each(|app| pins::remove_unreplaced(&pins.apps.subdir(&app.to_string())?, APP_RECORD))
}

/// Every record. One of an app that cannot be read is not there: it goes with the app, or is replaced.
pub(crate) fn observe(pins: &Pins) -> io::Result<Records> {
    let mut records = Records::default();
    for uid in pins.app_names()?.0 {
        let app = read(&pins.apps.subdir(&uid.to_string())?, APP_RECORD)?.and_then(|row| row.app(uid));
        records.rows.apps.extend(app.map(|app| (uid, app)));
    }
    for uid in pins.record_names()?.0 {
        match read(&pins.records, &uid.to_string())?.and_then(|row| row.link(uid)) {
            Some(link) => drop(records.rows.links.insert(uid, link)),
            None => drop(records.unread.insert(uid)),
        }
    }
    Ok(records)
}

fn read(dir: &Dir, name: &str) -> io::Result<Option<Row>> {
    let limit = u32::try_from(RECORD_MAX).map_err(io::Error::other)?;
    let value = value(dir, name, limit, |_| true)?;
    Ok(value.and_then(|value| Row::decode(&value).ok()))
}

/// The stamp that is pinned; `None` if none is. An error if something else is pinned there.
pub(crate) fn stamp(pins: &Pins) -> io::Result<Option<Stamp>> {
    let Some(fd) = present(pins.apps.pinned(STATE))? else { return Ok(None) };
    let value = Map::from_fd(fd)?.lookup(&[0; 4])?.unwrap_or_default();
    Stamp::decode(&value).map(Some).map_err(io::Error::other)
}

/// The state map that is pinned, with this stamp; another one takes the place of what cannot hold it.
pub(crate) fn open_stamp(pins: &Pins, stamp: Stamp) -> io::Result<Map> {
    let size = u32::try_from(STAMP_SIZE).map_err(io::Error::other)?;
    let there = present(pins.apps.pinned(STATE))?.and_then(|fd| Map::from_fd(fd).ok());
    if let Some(map) = there
        && write_stamp(&map, stamp).is_ok()
    {
        return Ok(map);
    }
    let shape = MapCreate::new(MapType::ARRAY, 4, size, 1);
    let map = Map::create(&MapCreate { name: STATE_MAP_NAME, flags: F_RDONLY_PROG, ..shape })?;
    write_stamp(&map, stamp)?;
    pins::replace(&pins.apps, STATE, map.as_fd())?;
    Ok(map)
}

/// One system call, which a death does not divide.
pub(crate) fn write_stamp(map: &Map, stamp: Stamp) -> io::Result<()> {
    map.update(&[0; 4], &stamp.encode(), Update::Any)
}
