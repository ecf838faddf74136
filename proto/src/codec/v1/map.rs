//! MapService: requests parsed, answers made. Keys and values are only measured here: what they mean, the map's types say.

use std::time::Duration;

use bpfd_core::maps::{
    CpuForm, CpuValues, DeleteElement, DumpMap, GetElement, KEY_TEXT_MAX, MapRef, MapUse, ReadRecords, Shown,
    UpdateElement, UpdateWhen, VALUE_TEXT_MAX, ValueForm, WATCH_EVERY, WATCH_KEY_TEXT_MAX, WATCH_KEYS, WatchMap,
};
use bpfd_core::request::GLOBAL_NAME_MAX;

use super::{BadField, bad, bounded, parsed};
use crate::v1 as pb;

/// From one look at a watched map to the next, unless the caller says otherwise.
const EVERY: Duration = Duration::from_secs(1);

/// A map of an app.
///
/// # Errors
/// [`BadField`].
pub fn map_ref(app: &str, map: &str) -> Result<MapRef, BadField> {
    Ok(MapRef { app: parsed("app", app)?, map: parsed("map", map)? })
}

fn form(form: i32) -> Result<ValueForm, BadField> {
    match pb::ValueForm::try_from(form) {
        Ok(pb::ValueForm::Unspecified | pb::ValueForm::Typed) => Ok(ValueForm::Typed),
        Ok(pb::ValueForm::Hex) => Ok(ValueForm::Hex),
        Err(_) => Err(bad("form", format!("{form} is no form of values"))),
    }
}

fn shown(of_values: i32, per_cpu: i32) -> Result<Shown, BadField> {
    let cpus = match pb::PerCpu::try_from(per_cpu) {
        Ok(pb::PerCpu::Unspecified | pb::PerCpu::Sum) => CpuForm::Sum,
        Ok(pb::PerCpu::List) => CpuForm::List,
        Ok(pb::PerCpu::Each) | Err(_) => return Err(bad("per_cpu", "values that are read are added, or listed")),
    };
    Ok(Shown { form: form(of_values)?, cpus })
}

fn short(field: &'static str, text: &str, limit: usize) -> Result<String, BadField> {
    if text.len() > limit {
        return Err(bad(field, format!("it has at most {limit} bytes; {} were sent", text.len())));
    }
    Ok(text.to_owned())
}

fn key(text: &str) -> Result<String, BadField> {
    short("key", text, KEY_TEXT_MAX)
}

impl TryFrom<&pb::GetElementRequest> for GetElement {
    type Error = BadField;

    fn try_from(request: &pb::GetElementRequest) -> Result<Self, BadField> {
        let pb::GetElementRequest { app, map, key: text, form, per_cpu } = request;
        Ok(Self { map: map_ref(app, map)?, key: key(text)?, shown: shown(*form, *per_cpu)? })
    }
}

impl TryFrom<&pb::DumpMapRequest> for DumpMap {
    type Error = BadField;

    fn try_from(request: &pb::DumpMapRequest) -> Result<Self, BadField> {
        let pb::DumpMapRequest { app, map, form, per_cpu, limit } = request;
        Ok(Self { map: map_ref(app, map)?, shown: shown(*form, *per_cpu)?, limit: *limit })
    }
}

impl TryFrom<&pb::UpdateElementRequest> for UpdateElement {
    type Error = BadField;

    fn try_from(request: &pb::UpdateElementRequest) -> Result<Self, BadField> {
        let pb::UpdateElementRequest { app, map, key: text, value, when, per_cpu } = request;
        let cpus = match pb::PerCpu::try_from(*per_cpu) {
            Ok(pb::PerCpu::Unspecified) => None,
            Ok(pb::PerCpu::Each) => Some(CpuValues::Each),
            Ok(pb::PerCpu::List) => Some(CpuValues::List),
            Ok(pb::PerCpu::Sum) | Err(_) => {
                return Err(bad("per_cpu", "a value is written for each CPU, or as a list of all CPUs' values"));
            }
        };
        let when = match pb::UpdateWhen::try_from(*when) {
            Ok(pb::UpdateWhen::Unspecified) => UpdateWhen::Any,
            Ok(pb::UpdateWhen::Absent) => UpdateWhen::Absent,
            Ok(pb::UpdateWhen::Present) => UpdateWhen::Present,
            Err(_) => return Err(bad("when", format!("{when} is no condition"))),
        };
        let value = short("value", value, VALUE_TEXT_MAX)?;
        Ok(Self { map: map_ref(app, map)?, key: key(text)?, value, when, cpus })
    }
}

impl TryFrom<&pb::DeleteElementRequest> for DeleteElement {
    type Error = BadField;

    fn try_from(request: &pb::DeleteElementRequest) -> Result<Self, BadField> {
        let pb::DeleteElementRequest { app, map, key: text } = request;
        Ok(Self { map: map_ref(app, map)?, key: key(text)? })
    }
}

impl TryFrom<&pb::WatchMapRequest> for WatchMap {
    type Error = BadField;

    fn try_from(request: &pb::WatchMapRequest) -> Result<Self, BadField> {
        let pb::WatchMapRequest { app, map, keys, form, per_cpu, interval_ms } = request;
        bounded("keys", keys, WATCH_KEYS)?;
        let keys = keys.iter().map(|key| short("keys", key, WATCH_KEY_TEXT_MAX)).collect::<Result<_, _>>()?;
        let (least, most) = WATCH_EVERY;
        let every = interval_ms.map_or(EVERY, |interval| Duration::from_millis(interval.into()));
        if every < least || every > most {
            let (least, most) = (least.as_millis(), most.as_millis());
            return Err(bad("interval_ms", format!("an interval has {least} to {most} milliseconds")));
        }
        Ok(Self { map: map_ref(app, map)?, keys, shown: shown(*form, *per_cpu)?, every })
    }
}

impl TryFrom<&pb::ReadRecordsRequest> for ReadRecords {
    type Error = BadField;

    fn try_from(request: &pb::ReadRecordsRequest) -> Result<Self, BadField> {
        let pb::ReadRecordsRequest { app, map, form: of_values, record_type } = request;
        let record_type = Some(short("record_type", record_type, GLOBAL_NAME_MAX)?).filter(|name| !name.is_empty());
        Ok(Self { map: map_ref(app, map)?, form: form(*of_values)?, record_type })
    }
}

/// What can be done with a map.
pub fn map_use(map_use: MapUse) -> pb::MapUse {
    match map_use {
        MapUse::Elements => pb::MapUse::Elements,
        MapUse::ReadOnly => pb::MapUse::ReadOnly,
        MapUse::Records => pb::MapUse::Records,
        MapUse::Nothing => pb::MapUse::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_parsed_and_measured() {
        let field = |request: pb::UpdateElementRequest| UpdateElement::try_from(&request).map_err(|bad| bad.field);
        let request = pb::UpdateElementRequest { app: "a".into(), map: "m".into(), ..Default::default() };
        assert!(field(request.clone()).is_ok());
        assert_eq!(field(pb::UpdateElementRequest { map: "../a".into(), ..request.clone() }), Err("map"));
        assert_eq!(field(pb::UpdateElementRequest { app: String::new(), ..request.clone() }), Err("app"));
        let key = "k".repeat(KEY_TEXT_MAX + 1);
        assert_eq!(field(pb::UpdateElementRequest { key, ..request.clone() }), Err("key"));
        let value = "v".repeat(VALUE_TEXT_MAX + 1);
        assert_eq!(field(pb::UpdateElementRequest { value, ..request.clone() }), Err("value"));
        assert_eq!(field(pb::UpdateElementRequest { when: 9, ..request.clone() }), Err("when"));
        assert_eq!(field(pb::UpdateElementRequest { per_cpu: pb::PerCpu::Sum.into(), ..request }), Err("per_cpu"));
    }

    #[test]
    fn a_watch_is_neither_too_quick_nor_too_large() {
        let field = |request: pb::WatchMapRequest| WatchMap::try_from(&request).map_err(|bad| bad.field);
        let request = pb::WatchMapRequest { app: "a".into(), map: "m".into(), ..Default::default() };
        assert_eq!(field(request.clone()).map(|watch| watch.every), Ok(EVERY));
        assert_eq!(field(pb::WatchMapRequest { interval_ms: Some(99), ..request.clone() }), Err("interval_ms"));
        assert_eq!(field(pb::WatchMapRequest { interval_ms: Some(3_600_001), ..request.clone() }), Err("interval_ms"));
        let keys = vec!["1".to_owned(); WATCH_KEYS + 1];
        assert_eq!(field(pb::WatchMapRequest { keys, ..request.clone() }), Err("keys"));
        let keys = vec!["1".repeat(WATCH_KEY_TEXT_MAX + 1)];
        assert_eq!(field(pb::WatchMapRequest { keys, ..request }), Err("keys"));
    }
}
