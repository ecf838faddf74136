//! What callers ask of the maps of apps, typed; what each kind of map allows; and how keys and values are read and written as text
//! (`spec/maps.md`). Must never decide whether the caller may, nor look at a map.

use std::time::Duration;

use ebpf::globals::{GlobalError, GlobalType, encode_as};
use ebpf::map_types::{MapTypes, Typed};
use ebpf::names::MapName;
use ebpf::values::{TEXT_MAX, decode, decode_list, decode_sum};
use serde_json::Value;

use crate::request::AppRef;

/// Bytes of a key as text. The kernel's keys have at most 512 bytes: room for names of members around each.
pub const KEY_TEXT_MAX: usize = 64 << 10;
/// Bytes of a value as text, in a request or an answer: two of them fit a message.
pub const VALUE_TEXT_MAX: usize = TEXT_MAX;
/// Bytes of a value, those of all CPUs together: as hexadecimal digits it is always short enough.
pub const VALUE_MAX: usize = 128 << 10;
/// Elements that are watched by name.
pub const WATCH_KEYS: usize = 64;
/// Bytes of the key of a watched element as text.
pub const WATCH_KEY_TEXT_MAX: usize = 4 << 10;
/// Elements of a map that is watched as a whole: each look reads them all.
pub const WATCH_ELEMENTS: usize = 4096;
/// The shortest time from one look at a map to the next, and the longest.
pub const WATCH_EVERY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3600));
/// Bytes of a record that are shown.
pub const RECORD_MAX: usize = 64 << 10;

/// A map of an app as people write it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MapRef {
    /// The app.
    pub app: AppRef,
    /// The map's name in its object.
    pub map: MapName,
}

/// How keys and values are shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ValueForm {
    /// By their types.
    Typed,
    /// By their bytes.
    Hex,
}

/// How the values of all CPUs are shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CpuForm {
    /// Added.
    Sum,
    /// One beside the other.
    List,
}

/// How elements are shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "see the types")]
pub struct Shown {
    pub form: ValueForm,
    pub cpus: CpuForm,
}

/// One element is read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GetElement {
    /// Of which map.
    pub map: MapRef,
    /// As written.
    pub key: String,
    /// How the value is shown.
    pub shown: Shown,
}

/// All elements are read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DumpMap {
    /// Of which map.
    pub map: MapRef,
    /// How they are shown.
    pub shown: Shown,
    /// How many at most; `None`: all.
    pub limit: Option<u64>,
}

/// What must be there before an element is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UpdateWhen {
    /// Anything.
    Any,
    /// No element of this key.
    Absent,
    /// An element of this key.
    Present,
}

/// Which CPUs get what is written, of a map with a value for each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CpuValues {
    /// All get the same value.
    Each,
    /// An array has the value of each.
    List,
}

/// One element is written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UpdateElement {
    /// Of which map.
    pub map: MapRef,
    /// As written.
    pub key: String,
    /// As written.
    pub value: String,
    /// On which condition.
    pub when: UpdateWhen,
    /// On which CPUs; `None`: not said.
    pub cpus: Option<CpuValues>,
}

/// One element is removed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeleteElement {
    /// Of which map.
    pub map: MapRef,
    /// As written.
    pub key: String,
}

/// Elements are looked at again and again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WatchMap {
    /// Of which map.
    pub map: MapRef,
    /// Which, as written; none: all.
    pub keys: Vec<String>,
    /// How they are shown.
    pub shown: Shown,
    /// From one look to the next.
    pub every: Duration,
}

/// Records are read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReadRecords {
    /// Of which map.
    pub map: MapRef,
    /// How they are shown.
    pub form: ValueForm,
    /// The name of their type; `None`: the map's definition says it.
    pub record_type: Option<String>,
}

/// What can be done with a map.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MapUse {
    /// Its elements are read and written.
    Elements,
    /// Its elements are read: programs' variables, and what refers to programs, maps and devices, which bpfd alone sets.
    ReadOnly,
    /// Its records are read.
    Records,
    /// Nothing: user space cannot read it, or its keys are descriptors.
    Nothing,
}

impl MapUse {
    /// Of a map of this name and kind, as bpftool writes that.
    #[must_use]
    pub fn of(name: &str, kind: &str) -> Self {
        match kind {
            // Data sections: no name of C begins so.
            "array" if name.starts_with('.') => Self::ReadOnly,
            "hash" | "array" | "percpu_hash" | "percpu_array" | "lru_hash" | "lru_percpu_hash" | "lpm_trie" => {
                Self::Elements
            }
            "prog_array" | "array_of_maps" | "hash_of_maps" | "devmap" | "devmap_hash" | "cpumap" | "stack_trace" => {
                Self::ReadOnly
            }
            "ringbuf" | "perf_event_array" => Self::Records,
            _ => Self::Nothing,
        }
    }
}

/// A map's elements, as text and back.
#[derive(Clone, Debug)]
pub struct Elements {
    /// The map's name.
    pub name: String,
    /// What its object says of it.
    pub types: MapTypes,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value of one CPU.
    pub value_size: u32,
    /// How many values an element has; `None` if all CPUs share one.
    pub cpus: Option<usize>,
}

/// Why a text is no key or value of a map.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadElement {
    /// It does not fit the type.
    #[error(transparent)]
    Value(#[from] GlobalError),
    /// A map with a value for each CPU, and nobody said whose this is.
    #[error("map `{0}` has a value for each CPU")]
    WhichCpus(String),
    /// The other way round.
    #[error("map `{0}` has one value for all CPUs")]
    NoCpus(String),
    /// No array.
    #[error("the values of all CPUs are a JSON array")]
    NoList,
    /// An array with more or fewer values.
    #[error("{found} values were given for {cpus} CPUs")]
    Cpus {
        /// In the array.
        found: usize,
        /// That the kernel keeps values for.
        cpus: usize,
    },
}

impl Elements {
    /// The bytes of a key.
    pub fn key(&self, text: &str) -> Result<Vec<u8>, BadElement> {
        let declaration = declaration(self.types.key.as_ref(), &format!("key of {}", self.name));
        Ok(encode_as(&declaration, fitting(self.types.key.as_ref(), self.key_size), self.key_size, text)?)
    }

    /// The bytes of a value, those of all CPUs in a row as the kernel takes them.
    pub fn value(&self, text: &str, cpus: Option<CpuValues>) -> Result<Vec<u8>, BadElement> {
        let one = |text: &str| {
            let declaration = declaration(self.types.value.as_ref(), &format!("value of {}", self.name));
            encode_as(&declaration, fitting(self.types.value.as_ref(), self.value_size), self.value_size, text)
        };
        match (self.cpus, cpus) {
            (None, None) => Ok(one(text)?),
            (None, Some(_)) => Err(BadElement::NoCpus(self.name.clone())),
            (Some(_), None) => Err(BadElement::WhichCpus(self.name.clone())),
            (Some(count), Some(CpuValues::Each)) => {
                let mut value = one(text)?;
                value.resize(self.stride(), 0);
                Ok(value.repeat(count))
            }
            (Some(count), Some(CpuValues::List)) => {
                let values: Vec<Value> = serde_json::from_str(text).map_err(|_no_array| BadElement::NoList)?;
                if values.len() != count {
                    return Err(BadElement::Cpus { found: values.len(), cpus: count });
                }
                let mut bytes = Vec::new();
                for value in values {
                    let mut value = one(&value.to_string())?;
                    value.resize(self.stride(), 0);
                    bytes.extend(value);
                }
                Ok(bytes)
            }
        }
    }

    /// A key as text.
    #[must_use]
    pub fn shown_key(&self, bytes: &[u8], form: ValueForm) -> String {
        decode(typed(self.types.key.as_ref(), form), bytes)
    }

    /// A value as text, those of all CPUs as asked.
    #[must_use]
    pub fn shown_value(&self, bytes: &[u8], shown: Shown) -> String {
        let Shown { form, cpus } = shown;
        let typed = typed(self.types.value.as_ref(), form);
        if self.cpus.is_none() {
            return decode(typed, bytes);
        }
        let size = usize::try_from(self.value_size).unwrap_or(usize::MAX);
        let values: Vec<&[u8]> =
            bytes.chunks(self.stride()).map(|value| value.get(..size).unwrap_or_default()).collect();
        match cpus {
            CpuForm::Sum => decode_sum(typed, &values),
            CpuForm::List => decode_list(typed, &values),
        }
    }

    /// A record as text: of one that is longer than its type, the bytes behind it are only what a buffer pads it with.
    #[must_use]
    pub fn shown_record(&self, bytes: &[u8], form: ValueForm) -> String {
        let typed = typed(self.types.value.as_ref(), form);
        let size = typed.map_or(bytes.len(), |(_, size)| usize::try_from(size).unwrap_or(usize::MAX));
        let padded = bytes.len().checked_sub(size).is_some_and(|rest| rest < 8);
        let record = if padded { bytes.get(..size).unwrap_or(bytes) } else { bytes };
        decode(typed, record)
    }

    /// From one CPU's value to the next (`round_up(map->value_size, 8)` of kernel/bpf/syscall.c).
    fn stride(&self) -> usize {
        usize::try_from(self.value_size).unwrap_or(usize::MAX).next_multiple_of(8).max(8)
    }
}

/// What errors call a key or value.
fn declaration(typed: Option<&Typed>, what: &str) -> String {
    match typed {
        Some(typed) => format!("{} {what}", typed.name),
        None => what.to_owned(),
    }
}

/// A type, if it is one of this size.
fn fitting(typed: Option<&Typed>, size: u32) -> Option<&GlobalType> {
    typed.filter(|typed| typed.size == size).map(|typed| &typed.ty)
}

fn typed(typed: Option<&Typed>, form: ValueForm) -> Option<(&GlobalType, u32)> {
    match form {
        ValueForm::Typed => typed.map(|typed| (&typed.ty, typed.size)),
        ValueForm::Hex => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const U32: GlobalType = GlobalType::Int { size: 4, signed: false };
    const SUM: Shown = Shown { form: ValueForm::Typed, cpus: CpuForm::Sum };
    const LIST: Shown = Shown { form: ValueForm::Typed, cpus: CpuForm::List };

    fn typed(ty: GlobalType, size: u32, name: &str) -> Option<Typed> {
        Some(Typed { ty, size, name: name.to_owned() })
    }

    fn counters() -> Elements {
        let types = MapTypes { key: typed(U32, 4, "u32"), value: typed(U32, 4, "u32") };
        Elements { name: "packets".to_owned(), types, key_size: 4, value_size: 4, cpus: Some(2) }
    }

    #[test]
    fn values_of_cpus_are_padded_and_each_is_found_again() {
        let bytes = counters().value("[1, 2]", Some(CpuValues::List)).unwrap();
        assert_eq!(bytes, [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(counters().shown_value(&bytes, SUM), "3");
        assert_eq!(counters().shown_value(&bytes, LIST), "[1,2]");
        let hex = Shown { form: ValueForm::Hex, cpus: CpuForm::List };
        assert_eq!(counters().shown_value(&bytes, hex), r#"["hex:01000000","hex:02000000"]"#);
        let each = counters().value("7", Some(CpuValues::Each)).unwrap();
        assert_eq!(counters().shown_value(&each, LIST), "[7,7]");
    }

    #[test]
    fn what_is_written_to_which_cpus_must_be_said() {
        let of = |text: &str, cpus| counters().value(text, cpus).map_err(|error| error.to_string());
        assert_eq!(of("1", None), Err("map `packets` has a value for each CPU".to_owned()));
        assert_eq!(of("1", Some(CpuValues::List)), Err("the values of all CPUs are a JSON array".to_owned()));
        assert_eq!(of("[1]", Some(CpuValues::List)), Err("1 values were given for 2 CPUs".to_owned()));
        let why = "`-1` is out of range for `u32 value of packets`: 0 to 4294967295";
        assert_eq!(of("[1, -1]", Some(CpuValues::List)), Err(why.to_owned()));
        let one = Elements { cpus: None, ..counters() };
        assert_eq!(one.value("1", None), Ok(vec![1, 0, 0, 0]));
        assert_eq!(one.value("1", Some(CpuValues::Each)), Err(BadElement::NoCpus("packets".to_owned())));
    }

    #[test]
    fn a_type_of_another_size_than_the_maps_says_nothing() {
        let other = Elements { key_size: 8, ..counters() };
        assert_eq!(other.shown_key(&[1; 8], ValueForm::Typed), "\"hex:0101010101010101\"");
        assert!(other.key("1").is_err());
        assert_eq!(other.key("hex:0101010101010101"), Ok(vec![1; 8]));
    }

    #[test]
    fn a_record_may_be_padded_and_no_shorter_than_its_type() {
        let records = Elements { cpus: None, ..counters() };
        let shown = |bytes: &[u8]| records.shown_record(bytes, ValueForm::Typed);
        assert_eq!(shown(&[5, 0, 0, 0]), "5");
        assert_eq!(shown(&[5, 0, 0, 0, 9, 9, 9, 9]), "5");
        assert_eq!(shown(&[5, 0]), "\"hex:0500\"");
        assert_eq!(shown(&[5; 12]), "\"hex:050505050505050505050505\"");
        assert_eq!(records.shown_record(&[5, 0, 0, 0], ValueForm::Hex), "\"hex:05000000\"");
    }

    #[test]
    fn bpfd_alone_sets_what_refers_to_programs_maps_and_devices() {
        for kind in ["prog_array", "array_of_maps", "hash_of_maps", "devmap", "devmap_hash", "cpumap"] {
            assert_eq!(MapUse::of("m", kind), MapUse::ReadOnly, "{kind}");
        }
        for kind in ["sockmap", "sockhash", "xskmap", "cgroup_array", "sk_storage", "arena", "queue", "777"] {
            assert_eq!(MapUse::of("m", kind), MapUse::Nothing, "{kind}");
        }
        assert_eq!(MapUse::of(".rodata", "array"), MapUse::ReadOnly);
        assert_eq!(MapUse::of("rodata", "array"), MapUse::Elements);
    }
}
