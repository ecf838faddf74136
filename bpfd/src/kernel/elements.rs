//! The pinned maps of apps, opened by the app's identity and the map's name, and their elements as bytes. What is not below an app's own
//! directory (the state map, records, dispatchers) cannot be reached here. It must never read a type, nor hold a map longer than asked.
//!
//! `aya`'s maps have keys and values of types that are known when bpfd is compiled; those of apps are not, so elements go by `bpfd-sys`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bpfd_core::ident::AppUid;
use bpfd_sys::bpf::{Map, MapInfo, Update, map_info};
use ebpf::maps::MapKind;

use super::pins::{AppPin, Pins};

/// Where apps' maps are.
#[derive(Clone)]
pub struct AppMaps {
    pins: Arc<Pins>,
}

/// A map, open.
#[derive(Debug)]
pub struct OpenMap {
    map: Map,
    info: MapInfo,
}

impl AppMaps {
    pub(super) fn new(pins: Arc<Pins>) -> Self {
        Self { pins }
    }

    /// A map of an app, as a descriptor.
    pub fn descriptor(&self, app: AppUid, map: &str) -> io::Result<OwnedFd> {
        let file = AppPin::Map(map.to_owned()).file_name().ok_or(io::ErrorKind::NotFound)?;
        self.pins.apps.subdir(&app.to_string())?.pinned(&file)
    }

    /// A map of an app.
    pub fn open(&self, app: AppUid, map: &str) -> io::Result<OpenMap> {
        let map = Map::from_fd(self.descriptor(app, map)?)?;
        Ok(OpenMap { info: map.info()?, map })
    }
}

/// The kernel's number of a map.
pub fn map_id(map: &OwnedFd) -> io::Result<u32> {
    Ok(map_info(map.as_fd())?.id.0)
}

impl OpenMap {
    /// Its kind, as bpftool writes it.
    pub fn kind(&self) -> String {
        MapKind(self.info.kind.0).to_string()
    }

    /// Bytes of a key.
    pub fn key_size(&self) -> u32 {
        self.info.key_size
    }

    /// Bytes of a value, of one CPU's if there are several.
    pub fn value_size(&self) -> u32 {
        self.info.value_size
    }

    /// How many values an element has, if each CPU has its own.
    pub fn cpus(&self) -> Option<usize> {
        self.map.cpus()
    }

    /// Bytes of an element's values, all together.
    pub fn whole_value(&self) -> usize {
        let one = usize::try_from(self.info.value_size).unwrap_or(usize::MAX);
        self.cpus().map_or(one, |cpus| one.next_multiple_of(8).saturating_mul(cpus))
    }

    /// How many elements it holds at most.
    pub fn max_entries(&self) -> u32 {
        self.info.max_entries
    }

    /// The value of a key, if it is there.
    pub fn lookup(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.map.lookup(key)
    }

    /// The key after this one, the first after none.
    pub fn next_key(&self, key: Option<&[u8]>) -> io::Result<Option<Vec<u8>>> {
        self.map.next_key(key)
    }

    /// Writes an element.
    pub fn update(&self, key: &[u8], value: &[u8], update: Update) -> io::Result<()> {
        self.map.update(key, value, update)
    }

    /// Removes an element; false if there was none.
    pub fn delete(&self, key: &[u8]) -> io::Result<bool> {
        self.map.delete(key)
    }
}
