//! What maps hold: read and written on threads of their own, a page at a time, so that nobody waits for a long dump and no slow reader
//! keeps a thread. Types of maps come from the parse worker, and the last ones are kept.
//!
//! It must never decide whether a caller may, nor hold more of a map than one page.

mod failure;
mod streams;
mod walk;
mod watch;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bpfd_core::ident::AppUid;
use bpfd_core::maps::{Elements, MapUse, VALUE_MAX, ValueForm};
use bpfd_core::state::{App, Map, ObjectDigest};
use ebpf::map_types::MapTypes;

pub use self::failure::{ElementField, MapFailure};
pub use self::streams::{Claim, Live, Streams};
pub use self::walk::{DumpEnd, Page, Walk};
pub use self::watch::{Change, Changes, Watch};
use crate::engine::EngineError;
use crate::kernel::{AppMaps, OpenMap};
use crate::objects::Objects;
use crate::queue::{Queue, Work};
use crate::turns::Line;
use crate::worker::{Workers, parse};

/// Jobs of users but root at the same time. Each is one element or one page.
const AT_ONCE: usize = 2;
/// Maps whose types are kept: a description has at most a message of the worker, 1 MiB.
const KNOWN: usize = 16;

/// A map of an app, as the state has it.
#[derive(Clone, Debug)]
pub struct Target {
    /// The app.
    pub app: AppUid,
    /// `APP/MAP`, for people.
    pub name: String,
    /// The map's name.
    pub map: String,
    /// What can be done with it.
    pub usable: MapUse,
    /// Its kind.
    pub kind: String,
    /// The object that declares it.
    pub object: ObjectDigest,
}

impl Target {
    /// The app's name.
    pub fn app_name(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }

    /// A map of this app.
    pub fn of(app: &App, map: &Map) -> Self {
        Self {
            app: app.uid,
            name: format!("{}/{}", app.name, map.name),
            map: map.name.clone(),
            usable: MapUse::of(&map.name, &map.kind),
            kind: map.kind.clone(),
            object: app.object,
        }
    }
}

/// An open map, and how its elements are written as text.
#[derive(Debug)]
#[expect(missing_docs, reason = "see the types")]
pub struct Opened {
    pub map: OpenMap,
    pub elements: Elements,
}

/// See the module.
#[derive(Clone)]
pub struct Maps(Arc<Shared>);

struct Shared {
    queue: Queue<Work<()>>,
    pins: AppMaps,
    workers: Workers,
    objects: Objects,
    known: Mutex<Vec<(TypesOf, Arc<MapTypes>)>>,
    streams: Streams,
}

/// A map's place in an object, and the type of its records, if one was named.
type TypesOf = (ObjectDigest, String, Option<String>);

impl Maps {
    /// Starts the threads.
    pub fn start(pins: AppMaps, workers: Workers, objects: Objects) -> io::Result<Self> {
        let queue = Queue::with_threads("map", AT_ONCE, || ())?;
        let (known, streams) = (Mutex::default(), Streams::default());
        Ok(Self(Arc::new(Shared { queue, pins, workers, objects, known, streams })))
    }

    /// Who has streams, and who reads which buffer.
    pub fn streams(&self) -> &Streams {
        &self.0.streams
    }

    /// Where the maps are.
    pub fn pins(&self) -> &AppMaps {
        &self.0.pins
    }

    /// Does a piece of work on one of the threads, in its turn.
    pub async fn on_thread<T: Send + 'static>(
        &self,
        line: Line,
        work: impl FnOnce(&Self) -> Result<T, MapFailure> + Send + 'static,
    ) -> Result<T, MapFailure> {
        let maps = self.clone();
        let answer = self.0.queue.answer(line, move |()| work(&maps)).await.map_err(EngineError::from)?;
        answer.ok_or(MapFailure::Lost)?
    }

    /// Opens a map whose elements are read or written. On a thread of its own: it may read the object.
    pub fn open(&self, target: &Target, form: ValueForm) -> Result<Opened, MapFailure> {
        let map = self.0.pins.open(target.app, &target.map).map_err(MapFailure::open)?;
        if map.kind() != target.kind {
            return Err(MapFailure::Replaced);
        }
        if map.whole_value() > VALUE_MAX {
            return Err(MapFailure::TooLarge { bytes: map.whole_value() });
        }
        let types = match form {
            ValueForm::Typed => self.types(target, None)?,
            ValueForm::Hex => Arc::default(),
        };
        let elements = Elements {
            name: target.map.clone(),
            types: MapTypes::clone(&types),
            key_size: map.key_size(),
            value_size: map.value_size(),
            cpus: map.cpus(),
        };
        Ok(Opened { map, elements })
    }

    /// What an object says of a map of its own.
    pub fn types(&self, target: &Target, record: Option<&str>) -> Result<Arc<MapTypes>, MapFailure> {
        let Target { object, map, .. } = target;
        let of: TypesOf = (*object, map.clone(), record.map(str::to_owned));
        let known = || self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, types)) = known().iter().find(|(known, _)| *known == of) {
            return Ok(types.clone());
        }
        let elf = self.0.objects.read(object).map_err(MapFailure::Object)?;
        let types = Arc::new(parse::map_types(&self.0.workers, &elf, map, record)?);
        let mut known = known();
        if known.len() >= KNOWN {
            known.remove(0);
        }
        known.push((of, types.clone()));
        Ok(types)
    }

    /// The types of the keys and values of each map of an object, as C writes them.
    pub fn type_names(&self, object: &ObjectDigest) -> Result<BTreeMap<String, TypeNames>, MapFailure> {
        let elf = self.0.objects.read(object).map_err(MapFailure::Object)?;
        let object = parse::inspect(&self.0.workers, &elf)?;
        let names = |map: ebpf::maps::Map| (map.name.into(), TypeNames { key: map.key_type, value: map.value_type });
        Ok(object.maps.into_iter().map(names).collect())
    }
}

/// The types of a map as C writes them, where the object says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(missing_docs, reason = "see the type")]
pub struct TypeNames {
    pub key: Option<String>,
    pub value: Option<String>,
}
