//! Dumps, watches and readers of records: what a caller takes at its own speed, piece by piece. Whether it still may is asked before each
//! piece. A stream that is dropped is over; nothing is read for a caller that does not take what it has.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bpfd_core::ask::MapAccess;
use bpfd_core::maps::{DumpMap, Elements, MapUse, RECORD_MAX, ReadRecords, ValueForm, WatchMap};
use bpfd_core::policy::Principal;
use ebpf::map_types::MapTypes;
use tokio::time::Instant;

use super::Service;
use super::map::{MapError, Permitted, readable, wrong_kind};
use super::record::Begun;
use crate::kernel::{Ready, RecordReader, map_id};
use crate::maps::{Change, Claim, ElementField, Live, MapFailure, Maps, Page, Walk, Watch};

/// Records of one piece.
const RECORDS: usize = 1000;
/// Bytes of the records of one piece, but for the last one.
const RECORD_BYTES: usize = 64 << 10;
/// How many times as long as a look took the next one waits.
const REST: u32 = 9;
/// How long a reader of records waits until it asks again whether it still may, and whether a program added some without a word
/// (`BPF_RB_NO_WAKEUP`).
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// All elements of a map.
pub struct Dump {
    permitted: Permitted,
    maps: Maps,
    /// `None`: it is over.
    walk: Option<Walk>,
    _live: Live,
}

/// What changes in a map.
pub struct Watching {
    permitted: Permitted,
    maps: Maps,
    watch: Option<Watch>,
    every: Duration,
    /// Time of a thread that the look took so far.
    spent: Duration,
    /// When the next look begins.
    due: Instant,
    _live: Live,
}

/// Records of a buffer.
pub struct Records {
    permitted: Permitted,
    maps: Maps,
    reader: Option<RecordReader>,
    ready: Arc<Ready>,
    elements: Arc<Elements>,
    form: ValueForm,
    more: bool,
    /// Its last record is written when it is dropped.
    _begun: Begun,
    _claim: Claim,
    _live: Live,
}

/// Some records.
#[derive(Debug, Default)]
pub struct Piece {
    /// Text, and bytes of the whole record.
    pub records: Vec<(String, usize)>,
    /// Records that the kernel dropped.
    pub lost: u64,
}

impl Service {
    /// Begins to read all elements.
    pub async fn dump_map(&self, principal: Principal, request: DumpMap) -> Result<Dump, MapError> {
        let DumpMap { map, shown, limit } = request;
        let permitted = self.permitted(principal, map, MapAccess::Read).await?;
        readable(&permitted.target)?;
        let live = self.maps.streams().begin(permitted.principal.uid)?;
        let target = permitted.target.clone();
        let open = move |maps: &Maps| Ok(Walk::new(maps.open(&target, shown.form)?, shown, limit));
        let walk = self.maps.on_thread(permitted.line(), open).await?;
        Ok(Dump { permitted, maps: self.maps.clone(), walk: Some(walk), _live: live })
    }

    /// Begins to look at elements again and again.
    pub async fn watch_map(&self, principal: Principal, request: WatchMap) -> Result<Watching, MapError> {
        let WatchMap { map, keys, shown, every } = request;
        let permitted = self.permitted(principal, map, MapAccess::Read).await?;
        readable(&permitted.target)?;
        let live = self.maps.streams().begin(permitted.principal.uid)?;
        let target = permitted.target.clone();
        let open = move |maps: &Maps| {
            let form = if keys.is_empty() { shown.form } else { ValueForm::Typed };
            let opened = maps.open(&target, form)?;
            let keys = keys.iter().map(|key| opened.elements.key(key)).collect::<Result<_, _>>();
            Ok(Watch::new(opened, shown, keys.map_err(MapFailure::bad(ElementField::Key))?))
        };
        let watch = self.maps.on_thread(permitted.line(), open).await?;
        let maps = self.maps.clone();
        let (spent, due) = (Duration::ZERO, Instant::now());
        Ok(Watching { permitted, maps, watch: Some(watch), every, spent, due, _live: live })
    }

    /// Begins to read records, which is on record: it takes them out of the buffer.
    pub async fn read_records(&self, principal: Principal, request: ReadRecords) -> Result<Records, MapError> {
        let ReadRecords { map, form, record_type } = request;
        let permitted = self.permitted(principal, map, MapAccess::Consume).await?;
        let target = permitted.target.clone();
        if target.usable != MapUse::Records {
            return Err(wrong_kind(&target));
        }
        let live = self.maps.streams().begin(permitted.principal.uid)?;
        let who = permitted.principal.to_string();
        let claim = move |maps: &Maps| {
            // The value of a perf event array is a descriptor, whatever its records are.
            let says = record_type.is_some() || target.kind != "perf_event_array";
            let types = match form {
                ValueForm::Typed if says => maps.types(&target, record_type.as_deref())?,
                ValueForm::Typed | ValueForm::Hex => Arc::default(),
            };
            let descriptor = maps.pins().descriptor(target.app, &target.map).map_err(MapFailure::open)?;
            let claim = maps.streams().claim(map_id(&descriptor).map_err(MapFailure::open)?, who)?;
            Ok((types, descriptor, claim))
        };
        let claimed = self.maps.on_thread(permitted.line(), claim).await?;
        let (types, descriptor, claim) = claimed;
        let name = permitted.target.name.clone();
        let apps = vec![permitted.target.app_name().to_owned()];
        let change = format!("read the records of map `{name}`");
        let begun = self.begin(permitted.principal.owner(), apps, vec![change]).await?;
        let open = move |_: &Maps| {
            let reader = RecordReader::open(descriptor)?;
            let ready = Arc::new(reader.ready()?);
            Ok((reader, ready))
        };
        let opened = self.maps.on_thread(permitted.line(), open).await;
        let (reader, ready) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                begun.failed(&error);
                return Err(error.into());
            }
        };
        let elements = Elements {
            name: permitted.target.map.clone(),
            types: MapTypes::clone(&types),
            key_size: 0,
            value_size: 0,
            cpus: None,
        };
        let (elements, maps) = (Arc::new(elements), self.maps.clone());
        let (_begun, _claim, _live) = (begun, claim, live);
        Ok(Records { permitted, maps, reader: Some(reader), ready, elements, form, more: true, _begun, _claim, _live })
    }
}

impl Dump {
    /// The next page; `None` after the last.
    pub async fn next(&mut self, service: &Service) -> Result<Option<Page>, MapError> {
        let Some(mut walk) = self.walk.take() else { return Ok(None) };
        service.still(&self.permitted).await?;
        let page = move |_: &Maps| walk.page().map(|page| (walk, page));
        let (walk, page) = self.maps.on_thread(self.permitted.line(), page).await?;
        self.walk = page.end.is_none().then_some(walk);
        Ok(Some(page))
    }
}

impl Watching {
    /// What changed, once something did; whether the look ends with it.
    pub async fn next(&mut self, service: &Service) -> Result<Option<(Vec<Change>, bool)>, MapError> {
        while let Some(mut watch) = self.watch.take() {
            tokio::time::sleep_until(self.due).await;
            service.still(&self.permitted).await?;
            let part = move |_: &Maps| {
                let begun = Instant::now();
                watch.part().map(|part| (watch, part, begun.elapsed()))
            };
            let part = self.maps.on_thread(self.permitted.line(), part).await?;
            let (watch, part, spent) = part;
            self.watch = Some(watch);
            self.spent += spent;
            if part.done {
                // However large the map and short the interval, one watch has a small part of a processor.
                self.due = Instant::now() + self.every.max(self.spent.saturating_mul(REST));
                self.spent = Duration::ZERO;
            }
            if !part.changes.is_empty() {
                return Ok(Some((part.changes, part.done)));
            }
        }
        Ok(None)
    }
}

impl Records {
    /// The next records, once there are some.
    pub async fn next(&mut self, service: &Service) -> Result<Option<Piece>, MapError> {
        while let Some(mut reader) = self.reader.take() {
            if !self.more {
                // Either a record or the time: what is there is looked at in both cases. Of a reader that leaves, a thread waits to the end.
                let ready = self.ready.clone();
                let waited = tokio::task::spawn_blocking(move || ready.wait(ASK_AGAIN)).await;
                waited.map_err(|_panicked| MapFailure::Lost)?;
            }
            service.still(&self.permitted).await?;
            let (elements, form) = (self.elements.clone(), self.form);
            let take = move |_: &Maps| {
                let piece = take(&mut reader, &elements, form);
                Ok((reader, piece))
            };
            let (reader, (piece, more)) = self.maps.on_thread(self.permitted.line(), take).await?;
            (self.reader, self.more) = (Some(reader), more);
            if !piece.records.is_empty() || piece.lost > 0 {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }
}

/// One piece of what a buffer has, and whether it may have more.
fn take(reader: &mut RecordReader, elements: &Elements, form: ValueForm) -> (Piece, bool) {
    let mut records = VecDeque::new();
    let mut bytes = 0;
    let taken = reader.take(|record| {
        let shown = record.get(..RECORD_MAX);
        let text = match shown {
            Some(first) if record.len() > RECORD_MAX => elements.shown_record(first, ValueForm::Hex),
            Some(_) | None => elements.shown_record(record, form),
        };
        bytes += text.len();
        records.push_back((text, record.len()));
        if records.len() >= RECORDS || bytes >= RECORD_BYTES {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    (Piece { records: records.into(), lost: taken.lost }, taken.more)
}
