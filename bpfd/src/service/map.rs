//! Maps of apps: which there are, and their elements read and written. Every verb names one app and is decided on by who owns that; the
//! app is the one that the decision was about, whatever has its name afterwards.

use std::collections::BTreeMap;

use bpfd_core::ask::{Look, MapAccess, MapAsk};
use bpfd_core::maps::{CpuValues, DeleteElement, GetElement, MapRef, MapUse, UpdateElement, UpdateWhen, ValueForm};
use bpfd_core::policy::{Denied, Principal, authorize};
use bpfd_core::request::AppRef;
use bpfd_core::state::{App, ChangeError, Map, State};
use bpfd_sys::bpf::Update;
use ebpf::names::nearest;

use super::{GetAppError, Listed, Page, Refused, Service};
use crate::maps::{ElementField, MapFailure, Maps, Target, TypeNames};
use crate::turns::Line;

/// Bytes of a key that are on record when it is written or removed, as hexadecimal digits.
const RECORDED: usize = 64;

/// Why a map is not read or written.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The policy, or no such app.
    #[error(transparent)]
    App(#[from] GetAppError),
    /// No such map.
    #[error("app `{app}` has no map `{map}`")]
    NoMap {
        /// The app.
        app: String,
        /// As asked.
        map: String,
        /// The one that was probably meant.
        near: Option<String>,
        /// What there is.
        candidates: Vec<String>,
    },
    /// Maps of this kind have no such call.
    #[error("map `{map}` is of type {kind}")]
    WrongKind {
        /// The map.
        map: String,
        /// Its kind.
        kind: String,
        /// What can be done with it.
        usable: MapUse,
    },
    /// It was tried, or not begun.
    #[error(transparent)]
    Failed(#[from] Refused<MapFailure>),
}

impl From<Denied> for MapError {
    fn from(denied: Denied) -> Self {
        Self::App(denied.into())
    }
}

impl From<MapFailure> for MapError {
    fn from(failure: MapFailure) -> Self {
        Self::Failed(Refused::Failed(failure))
    }
}

/// A map that a caller may use, as far as it was decided.
#[derive(Clone, Debug)]
pub(super) struct Permitted {
    pub(super) principal: Principal,
    pub(super) access: MapAccess,
    pub(super) target: Target,
}

impl Permitted {
    pub(super) fn line(&self) -> Line {
        Line::User(self.principal.uid)
    }
}

/// A map in a list.
#[derive(Clone, Debug)]
pub struct ListedMap {
    /// Its app.
    pub app: App,
    /// The map.
    pub map: Map,
    /// Its types in C, if one app was asked for.
    pub types: TypeNames,
}

impl Service {
    /// Maps of one app, or of all whose maps the caller may read.
    pub async fn maps(
        &self,
        principal: Principal,
        app: Option<AppRef>,
        page: &Page,
    ) -> Result<Listed<ListedMap>, MapError> {
        let asked = app.map(|app| self.settled(app));
        let ask = MapAsk { app: asked, access: MapAccess::Read };
        let (MapAsk { app: asked, .. }, principal) = self.permit(principal, ask).await?.into_parts();
        let snapshot = self.snapshot();
        let state = &snapshot.state;
        let (apps, types) = match asked {
            Some(asked) => {
                let Ok(app) = asked.resolve(state) else { return Err(self.no_app(&principal, &asked, state)) };
                (vec![app], self.type_names(&principal, app).await?)
            }
            None => {
                let policy = self.trust.policy();
                let may = |app: &&App| {
                    let ask = MapAsk { app: Some(AppRef::Uid(app.uid)), access: MapAccess::Read };
                    authorize(&policy, principal.clone(), state, ask).is_ok()
                };
                (state.apps.values().filter(may).collect(), BTreeMap::new())
            }
        };
        let all = apps.into_iter().flat_map(|app| app.maps.iter().map(move |map| (app, map)));
        let mut all: Vec<(String, (&App, &Map))> =
            all.map(|(app, map)| (format!("{}/{}", app.name, map.name), (app, map))).collect();
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        let Listed { items, next, .. } = page.of(snapshot.clone(), all);
        let listed = |(app, map): (&App, &Map)| {
            let types = types.get(&map.name).cloned().unwrap_or_default();
            ListedMap { app: app.clone(), map: map.clone(), types }
        };
        let items = items.into_iter().map(|(place, found)| (place, listed(found))).collect();
        Ok(Listed { items, next, snapshot })
    }

    /// One element: key and value.
    pub async fn element(&self, principal: Principal, request: GetElement) -> Result<(String, String), MapError> {
        let GetElement { map, key, shown } = request;
        let permitted = self.permitted(principal, map, MapAccess::Read).await?;
        readable(&permitted.target)?;
        let (line, target) = (permitted.line(), permitted.target);
        let read = move |maps: &Maps| {
            let form = reading_key(&key, shown.form);
            let opened = maps.open(&target, form)?;
            let key = opened.elements.key(&key).map_err(MapFailure::bad(ElementField::Key))?;
            let value = opened.map.lookup(&key).map_err(MapFailure::reading)?.ok_or(MapFailure::Absent)?;
            Ok((opened.elements.shown_key(&key, shown.form), opened.elements.shown_value(&value, shown)))
        };
        Ok(self.maps.on_thread(line, read).await?)
    }

    /// Writes one element.
    pub async fn update_element(&self, principal: Principal, request: UpdateElement) -> Result<(), MapError> {
        let UpdateElement { map, key, value, when, cpus } = request;
        let permitted = self.permitted(principal, map, MapAccess::Write).await?;
        writable(&permitted.target)?;
        let (line, target) = (permitted.line(), permitted.target.clone());
        // What is wrong in the request is no change that was tried.
        let encode = move |maps: &Maps| {
            let opened = maps.open(&target, ValueForm::Typed)?;
            let bytes = opened.elements.key(&key).map_err(MapFailure::bad(ElementField::Key))?;
            let value = encode(&opened.elements, &value, cpus)?;
            Ok((opened.map, bytes, value))
        };
        let (open, key, value) = self.maps.on_thread(line, encode).await?;
        let update = match when {
            UpdateWhen::Any => Update::Any,
            UpdateWhen::Absent => Update::Create,
            UpdateWhen::Present => Update::Replace,
        };
        let change = format!("set the element {} of map `{}`", recorded_key(&key), permitted.target.name);
        self.written(permitted, change, move |kind| {
            open.update(&key, &value, update).map_err(|error| MapFailure::writing(kind, error))
        })
        .await
    }

    /// Removes one element.
    pub async fn delete_element(&self, principal: Principal, request: DeleteElement) -> Result<(), MapError> {
        let DeleteElement { map, key } = request;
        let permitted = self.permitted(principal, map, MapAccess::Write).await?;
        writable(&permitted.target)?;
        let (line, target) = (permitted.line(), permitted.target.clone());
        let encode = move |maps: &Maps| {
            let opened = maps.open(&target, ValueForm::Typed)?;
            let bytes = opened.elements.key(&key).map_err(MapFailure::bad(ElementField::Key))?;
            Ok((opened.map, bytes))
        };
        let (open, key) = self.maps.on_thread(line, encode).await?;
        let change = format!("remove the element {} of map `{}`", recorded_key(&key), permitted.target.name);
        self.written(permitted, change, move |kind| {
            match open.delete(&key).map_err(|error| MapFailure::removing(kind, error))? {
                true => Ok(()),
                false => Err(MapFailure::Absent),
            }
        })
        .await
    }

    /// Writes, with a record before and after.
    async fn written(
        &self,
        permitted: Permitted,
        change: String,
        write: impl FnOnce(&str) -> Result<(), MapFailure> + Send + 'static,
    ) -> Result<(), MapError> {
        let (maps, line) = (self.maps.clone(), permitted.line());
        let Permitted { principal, access: _, target } = permitted;
        let apps = vec![target.app_name().to_owned()];
        let work = async move { maps.on_thread(line, move |_| write(&target.kind)).await };
        Ok(self.recorded_of(principal.owner(), apps, vec![change], work).await?)
    }

    /// The decision about a map, and the map.
    pub(super) async fn permitted(
        &self,
        principal: Principal,
        map: MapRef,
        access: MapAccess,
    ) -> Result<Permitted, MapError> {
        let MapRef { app, map } = map;
        let ask = MapAsk { app: Some(self.settled(app.clone())), access };
        let (ask, principal) = self.permit(principal, ask).await?.into_parts();
        let asked = ask.app.unwrap_or(app);
        let snapshot = self.snapshot();
        let Ok(app) = asked.resolve(&snapshot.state) else {
            return Err(self.no_app(&principal, &asked, &snapshot.state));
        };
        let Some(found) = app.maps.iter().find(|found| found.name == map.as_str()) else {
            let candidates: Vec<String> = app.maps.iter().map(|map| map.name.clone()).collect();
            let near = nearest(map.as_str(), candidates.iter().map(String::as_str)).map(str::to_owned);
            return Err(MapError::NoMap { app: app.name.to_string(), map: map.to_string(), near, candidates });
        };
        Ok(Permitted { principal, access, target: Target::of(app, found) })
    }

    /// The decision again, for what goes on for long: the policy may be another one, the app another's, or gone.
    pub(super) async fn still(&self, permitted: &Permitted) -> Result<(), MapError> {
        let Permitted { principal, access, target } = permitted;
        let snapshot = self.snapshot();
        let asked = AppRef::Uid(target.app);
        if asked.resolve(&snapshot.state).is_err() {
            return Err(self.no_app(principal, &asked, &snapshot.state));
        }
        let ask = MapAsk { app: Some(asked), access: *access };
        Ok(self.permit(principal.clone(), ask).await.map(drop)?)
    }

    /// An app by its identity, if it is there: a name may change hands while it is decided who may.
    fn settled(&self, app: AppRef) -> AppRef {
        let found = app.resolve(&self.snapshot().state).map(|found| found.uid);
        found.map_or(app, AppRef::Uid)
    }

    /// Names of others' apps are told to those alone who may list them.
    fn no_app(&self, principal: &Principal, asked: &AppRef, state: &State) -> MapError {
        let asked = asked.to_string();
        let may_list = authorize(&self.trust.policy(), principal.clone(), state, Look(())).is_ok();
        match may_list {
            true => GetAppError::none(&asked, state).into(),
            false => GetAppError::None { error: ChangeError::NoApp(asked), near: None }.into(),
        }
    }

    async fn type_names(&self, principal: &Principal, app: &App) -> Result<BTreeMap<String, TypeNames>, MapError> {
        let object = app.object;
        let read = move |maps: &Maps| maps.type_names(&object);
        let names = self.maps.on_thread(Line::User(principal.uid), read).await;
        Ok(names?)
    }
}

/// A key in words is read by its type, however the value is shown; digits need none.
fn reading_key(key: &str, form: ValueForm) -> ValueForm {
    if key.starts_with("hex:") { form } else { ValueForm::Typed }
}

fn encode(elements: &bpfd_core::maps::Elements, value: &str, cpus: Option<CpuValues>) -> Result<Vec<u8>, MapFailure> {
    elements.value(value, cpus).map_err(MapFailure::bad(ElementField::Value))
}

/// A key in a record. Values may be secrets, and are not on record.
fn recorded_key(key: &[u8]) -> String {
    let digits: String = key.iter().take(RECORDED).map(|byte| format!("{byte:02x}")).collect();
    let more = if key.len() > RECORDED { "…" } else { "" };
    format!("hex:{digits}{more}")
}

/// Whether elements can be read.
pub(super) fn readable(target: &Target) -> Result<(), MapError> {
    match target.usable {
        MapUse::Elements | MapUse::ReadOnly => Ok(()),
        MapUse::Records | MapUse::Nothing => Err(wrong_kind(target)),
    }
}

/// Whether elements can be written.
fn writable(target: &Target) -> Result<(), MapError> {
    match target.usable {
        MapUse::Elements => Ok(()),
        MapUse::ReadOnly | MapUse::Records | MapUse::Nothing => Err(wrong_kind(target)),
    }
}

pub(super) fn wrong_kind(target: &Target) -> MapError {
    MapError::WrongKind { map: target.name.clone(), kind: target.kind.clone(), usable: target.usable }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_on_record_is_short() {
        assert_eq!(recorded_key(&[1, 0xab]), "hex:01ab");
        assert_eq!(recorded_key(&[7; 65]).len(), "hex:".len() + 128 + "…".len());
    }
}
