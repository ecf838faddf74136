//! `bpfctl map`: what the maps of apps hold, read, written and watched through the daemon. Keys and values are JSON by their C types; they
//! are printed as the daemon wrote them, since no number may become another one on the way.
//!
//! Long because each verb has its arguments, its examples and its form of output.

use bpfd_proto::v1 as pb;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::views::{lower, or_none};
use crate::args::word;
use crate::client::Session;
use crate::error::{Exit, Failure, Local, note, warn};
use crate::later::Later;
use crate::listing::Listing;
use crate::output::{Block, View, messages};

/// Read, write and watch maps
#[derive(Debug, Args)]
#[command(after_help = "\
Keys and values are JSON by their C types, or `hex:` and two digits a byte. `bpfctl map ls APP` shows the types.

Examples:
  bpfctl map ls counter
  bpfctl map dump counter/packets
  bpfctl map set firewall/blocked '{\"prefixlen\":24,\"addr\":[10,0,0,0]}' 1
  bpfctl map events tracer/events -o json")]
pub(crate) struct Map {
    #[command(subcommand)]
    verb: Later<MapVerb>,
}

/// A map of an app.
#[derive(Clone, Debug)]
struct Name {
    app: String,
    map: String,
}

fn name(text: &str) -> Result<Name, String> {
    match text.split_once('/') {
        Some((app, map)) if !app.is_empty() && !map.is_empty() => Ok(Name { app: app.into(), map: map.into() }),
        Some(_) | None => Err("write APP/MAP; `bpfctl map ls` shows maps".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
enum MapVerb {
    /// List maps, with their types and what can be done with them
    #[command(
        visible_alias = "list",
        after_help = "\
Examples:
  bpfctl map ls
  bpfctl map ls counter
  bpfctl map ls counter -o json | jq -r '.items[].keyType'"
    )]
    Ls {
        /// The app; with it, the C types of keys and values [default: all apps]
        #[arg(value_parser = word)]
        app: Option<String>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Print all elements
    #[command(
        long_about = "Print all elements\n\nA map may change while it is read: an element that is written meanwhile may be \
missing or old, and after a removal elements of a hash map may be printed twice.",
        after_help = "\
Examples:
  bpfctl map dump counter/packets
  bpfctl map dump counter/packets --per-cpu list
  bpfctl map dump firewall/.rodata
  bpfctl map dump flows/table -o json | jq '.items | length'"
    )]
    Dump {
        /// The map
        #[arg(value_parser = name, value_name = "APP/MAP")]
        map: Name,
        #[command(flatten)]
        shown: Shown,
        /// Stop after so many elements
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Print one element
    #[command(after_help = "\
Examples:
  bpfctl map get counter/packets 0
  bpfctl map get -q counter/packets 0
  bpfctl map get flows/table '{\"source\":167772161,\"port\":443}'")]
    Get {
        /// The map
        #[arg(value_parser = name, value_name = "APP/MAP")]
        map: Name,
        /// The element's key
        #[arg(allow_hyphen_values = true)]
        key: String,
        #[command(flatten)]
        shown: Shown,
    },
    /// Set an element, whether it is there or not
    #[command(
        long_about = "Set an element, whether it is there or not\n\nMembers of a struct that are left out become zero. The \
kernel copies the value while programs run: a value that is longer than a word may be seen half-written, unless the program takes a \
lock.",
        after_help = "\
Examples:
  bpfctl map set firewall/blocked '{\"prefixlen\":24,\"addr\":[10,0,0,0]}' 1
  bpfctl map set firewall/blocked hex:180000000a000000 1 --if-absent
  bpfctl map set counter/packets 0 0 --per-cpu each"
    )]
    Set {
        #[command(flatten)]
        write: Write,
        /// Fail if there is an element with this key
        #[arg(long)]
        if_absent: bool,
    },
    /// Set an element that is there
    #[command(after_help = "\
Examples:
  bpfctl map update firewall/limits 0 '{\"rate\":1000,\"burst\":50}'
  bpfctl map update counter/packets 0 [0,0] --per-cpu list")]
    Update {
        #[command(flatten)]
        write: Write,
    },
    /// Remove an element
    #[command(
        visible_alias = "rm",
        after_help = "\
Examples:
  bpfctl map delete firewall/blocked '{\"prefixlen\":24,\"addr\":[10,0,0,0]}'"
    )]
    Delete {
        /// The map
        #[arg(value_parser = name, value_name = "APP/MAP")]
        map: Name,
        /// The element's key
        #[arg(allow_hyphen_values = true)]
        key: String,
    },
    /// Print elements, and then each that changes
    #[command(
        long_about = "Print elements, and then each that changes\n\nThe kernel tells nobody of changes, so the map is read \
again and again: what comes and goes between two looks is not seen. With -o json, a line of JSON for each change.",
        after_help = "\
Examples:
  bpfctl map watch counter/packets
  bpfctl map watch counter/packets --key 0 --interval 200 --count 10
  bpfctl map watch flows/table -o json"
    )]
    Watch {
        /// The map, of at most 4096 elements unless keys are given
        #[arg(value_parser = name, value_name = "APP/MAP")]
        map: Name,
        /// Only this element (repeatable, at most 64)
        #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
        key: Vec<String>,
        /// Milliseconds from one look to the next, 100 to 3600000
        #[arg(long, value_name = "MS", default_value_t = 1000)]
        interval: u32,
        /// Stop after so many lines
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        #[command(flatten)]
        shown: Shown,
    },
    /// Print the records of a ring buffer or perf buffer as they come
    #[command(
        visible_alias = "records",
        long_about = "Print the records of a ring buffer or perf buffer as they come\n\nReading takes records out of the \
buffer: a program that reads it too gets those that are left, and a second `bpfctl map events` is refused. With -o json, a line \
of JSON for each record.",
        after_help = "\
Examples:
  bpfctl map events tracer/events
  bpfctl map events tracer/events --type event --count 5
  bpfctl map events tracer/events -o json"
    )]
    Events {
        /// The map
        #[arg(value_parser = name, value_name = "APP/MAP")]
        map: Name,
        /// The records' type in C [default: the `value` of a ring buffer's definition]
        #[arg(long, value_name = "NAME")]
        r#type: Option<String>,
        /// Print the bytes, whatever their type
        #[arg(long)]
        hex: bool,
        /// Stop after so many records
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
}

/// How elements are printed.
#[derive(Clone, Copy, Debug, Args)]
struct Shown {
    /// How the values of all CPUs are printed
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    per_cpu: CpuForm,
    /// Print the bytes, whatever their type
    #[arg(long)]
    hex: bool,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum CpuForm {
    /// Integers are added; what cannot be added is listed unless it is the same everywhere
    #[default]
    Sum,
    /// An array of all
    List,
}

/// What is written.
#[derive(Debug, Args)]
struct Write {
    /// The map
    #[arg(value_parser = name, value_name = "APP/MAP")]
    map: Name,
    /// The element's key
    #[arg(allow_hyphen_values = true)]
    key: String,
    /// Its value
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// For maps with a value for each CPU: what is written
    #[arg(long, value_enum, value_name = "WHAT")]
    per_cpu: Option<CpuValues>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CpuValues {
    /// The value, for each CPU
    Each,
    /// An array with the values of all CPUs
    List,
}

impl Map {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        match self.verb.0 {
            MapVerb::Ls { app, listing } => {
                let selection = listing.of::<pb::AppMap>()?;
                let request = pb::ListMapsRequest { app: app.clone(), ..Default::default() };
                let maps = selection.apply(session.client().await?.maps(request).await?)?;
                session.printer.show(&Maps { maps, typed: app.is_some() })?;
            }
            MapVerb::Dump { map, shown, limit } => dump(session, map, shown, limit).await?,
            MapVerb::Get { map: Name { app, map }, key, shown } => {
                let (form, per_cpu) = shown.fields();
                let request = pb::GetElementRequest { app, map, key, form, per_cpu };
                let element = session.client().await?.element(request).await?.element.unwrap_or_default();
                match (session.printer.is_for_programs(), session.printer.is_names()) {
                    (true, _) => Document::new(session).elements(&[element])?.end()?,
                    (false, true) => session.printer.raw(&format!("{}\n", element.value))?,
                    (false, false) => session.printer.rows(COLUMNS, vec![row(element)])?,
                }
            }
            MapVerb::Set { write, if_absent } => {
                let when = if if_absent { pb::UpdateWhen::Absent } else { pb::UpdateWhen::Unspecified };
                write.run(session, when).await?;
            }
            MapVerb::Update { write } => write.run(session, pb::UpdateWhen::Present).await?,
            MapVerb::Delete { map: Name { app, map }, key } => {
                session.client().await?.delete_element(pb::DeleteElementRequest { app, map, key }).await?;
            }
            MapVerb::Watch { map: Name { app, map }, key, interval, count, shown } => {
                let (form, per_cpu) = shown.fields();
                let request = pb::WatchMapRequest { app, map, keys: key, form, per_cpu, interval_ms: Some(interval) };
                watch(session, request, count).await?;
            }
            MapVerb::Events { map: Name { app, map }, r#type, hex, count } => {
                let record_type = r#type.unwrap_or_default();
                let request = pb::ReadRecordsRequest { app, map, form: form(hex), record_type };
                events(session, request, count).await?;
            }
        }
        Ok(Exit::Ok)
    }
}

fn form(hex: bool) -> i32 {
    if hex { pb::ValueForm::Hex } else { pb::ValueForm::Typed }.into()
}

impl Shown {
    fn fields(self) -> (i32, i32) {
        let per_cpu = match self.per_cpu {
            CpuForm::Sum => pb::PerCpu::Sum,
            CpuForm::List => pb::PerCpu::List,
        };
        (form(self.hex), per_cpu.into())
    }
}

impl Write {
    async fn run(self, session: &Session, when: pb::UpdateWhen) -> Result<(), Failure> {
        let Self { map: Name { app, map }, key, value, per_cpu } = self;
        let per_cpu = per_cpu.map_or(pb::PerCpu::Unspecified, |per_cpu| match per_cpu {
            CpuValues::Each => pb::PerCpu::Each,
            CpuValues::List => pb::PerCpu::List,
        });
        let request = pb::UpdateElementRequest { app, map, key, value, when: when.into(), per_cpu: per_cpu.into() };
        session.client().await?.update_element(request).await?;
        Ok(())
    }
}

const COLUMNS: &[&str] = &["KEY", "VALUE"];

fn row(element: pb::MapElement) -> Vec<String> {
    vec![element.key, element.value]
}

async fn dump(session: &Session, map: Name, shown: Shown, limit: Option<u64>) -> Result<(), Failure> {
    let Name { app, map } = map;
    let (form, per_cpu) = shown.fields();
    let request = pb::DumpMapRequest { app, map, form, per_cpu, limit };
    let printer = &session.printer;
    let mut document = printer.is_for_programs().then(|| Document::new(session));
    let (mut printed, mut end) = (0_usize, None);
    let mut client = session.client().await?;
    let mut written = Ok(());
    client
        .dump_map(request, |page| {
            end = page.end;
            let first = printed == 0;
            printed += page.elements.len();
            written = match (document.take(), printer.is_names()) {
                (Some(begun), _) => begun.elements(&page.elements).map(|begun| document = Some(begun)),
                (None, true) => {
                    printer.raw(&page.elements.iter().map(|element| format!("{}\n", element.key)).collect::<String>())
                }
                (None, false) => {
                    let rows = page.elements.into_iter().map(row).collect();
                    if first { printer.rows(COLUMNS, rows) } else { printer.more_rows(COLUMNS, rows) }
                }
            };
            written.is_ok()
        })
        .await?;
    written?;
    if let Some(document) = document {
        document.end()?;
    }
    match end.map(pb::DumpEnd::try_from) {
        Some(Ok(pb::DumpEnd::Complete)) if printed == 0 && !printer.is_quiet() => note("no elements"),
        Some(Ok(pb::DumpEnd::Complete)) => {}
        Some(Ok(pb::DumpEnd::Limit)) => {
            if !printer.is_quiet() {
                note(&format!("stopped after {printed} elements"));
            }
        }
        Some(Ok(pb::DumpEnd::Changed)) => {
            warn("the map changed while it was read: elements may be missing or printed twice", "dump it again");
        }
        Some(Ok(pb::DumpEnd::Unspecified) | Err(_)) | None => {
            return Err(Local::new(Exit::Other, "the dump is not complete")
                .cause("the daemon did not say its end")
                .into());
        }
    }
    Ok(())
}

async fn watch(session: &Session, request: pb::WatchMapRequest, count: Option<u64>) -> Result<(), Failure> {
    let printer = &session.printer;
    let (mut left, mut written) = (count, Ok(()));
    let mut client = session.client().await?;
    client
        .watch_map(request, |look| {
            let mut text = String::new();
            for change in look.changes {
                if left == Some(0) {
                    break;
                }
                left = left.map(|left| left.saturating_sub(1));
                let word = lower(change.kind().as_str_name(), "MAP_CHANGE_KIND_");
                let pb::MapElement { key, value } = change.element.unwrap_or_default();
                let before = printer.before_each();
                text.push_str(&match printer.is_for_programs() {
                    true if value.is_empty() => {
                        format!("{before}{{\"change\":\"{word}\",\"key\":{}}}\n", json(&key))
                    }
                    true => {
                        let (key, value) = (json(&key), json(&value));
                        format!("{before}{{\"change\":\"{word}\",\"key\":{key},\"value\":{value}}}\n")
                    }
                    false => format!("{}\n", printable_line(&format!("{word:7}  {key}  {value}"))),
                });
            }
            written = printer.raw(&text);
            written.is_ok() && left != Some(0)
        })
        .await?;
    written
}

async fn events(session: &Session, request: pb::ReadRecordsRequest, count: Option<u64>) -> Result<(), Failure> {
    let printer = &session.printer;
    let (mut left, mut written) = (count, Ok(()));
    let mut client = session.client().await?;
    client
        .read_records(request, |piece| {
            let mut text = String::new();
            for pb::MapRecord { value, size } in piece.records {
                if left == Some(0) {
                    break;
                }
                left = left.map(|left| left.saturating_sub(1));
                let before = printer.before_each();
                text.push_str(&match printer.is_for_programs() {
                    true => format!("{before}{{\"value\":{},\"size\":{size}}}\n", json(&value)),
                    false => format!("{}\n", printable_line(&value)),
                });
            }
            match (piece.lost, printer.is_for_programs()) {
                (0, _) => {}
                (lost, true) => text.push_str(&format!("{}{{\"lost\":{lost}}}\n", printer.before_each())),
                (lost, false) => warn(&format!("{lost} records were lost: nobody read them in time"), ""),
            }
            written = printer.raw(&text);
            written.is_ok() && left != Some(0)
        })
        .await?;
    written
}

fn printable_line(text: &str) -> String {
    crate::output::printable(text.trim_end())
}

/// JSON as the daemon wrote it; what is none, as a string.
fn json(text: &str) -> String {
    match serde_json::from_str::<Value>(text) {
        Ok(_) => text.to_owned(),
        Err(_no_json) => Value::String(text.to_owned()).to_string(),
    }
}

/// A list of elements in JSON that is printed as it comes.
struct Document<'a> {
    session: &'a Session,
    begun: bool,
}

impl<'a> Document<'a> {
    fn new(session: &'a Session) -> Self {
        Self { session, begun: false }
    }

    fn elements(mut self, elements: &[pb::MapElement]) -> Result<Self, Failure> {
        let mut text = String::new();
        for pb::MapElement { key, value } in elements {
            text.push_str(if self.begun { ",\n" } else { HEAD });
            text.push_str(&format!("    {{\"key\": {}, \"value\": {}}}", json(key), json(value)));
            self.begun = true;
        }
        self.session.printer.raw(&text)?;
        Ok(self)
    }

    fn end(self) -> Result<(), Failure> {
        let nothing = HEAD.trim_end();
        let end = if self.begun { "\n  ]\n}\n".to_owned() } else { format!("{nothing}]\n}}\n") };
        self.session.printer.raw(&end)
    }
}

/// As every result in JSON begins.
const HEAD: &str = "{\n  \"apiVersion\": \"bpfd.v1\",\n  \"kind\": \"MapElement\",\n  \"items\": [\n";

struct Maps {
    maps: Vec<pb::AppMap>,
    typed: bool,
}

impl View for Maps {
    fn kind(&self) -> &'static str {
        "AppMap"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        messages(&self.maps)
    }

    fn names(&self) -> Vec<String> {
        self.maps.iter().map(map_name).collect()
    }

    fn text(&self) -> Vec<Block> {
        let rows = self.maps.iter().map(|found| {
            let map = found.map.clone().unwrap_or_default();
            let mut row = vec![
                map_name(found),
                map.r#type,
                map.key_size.to_string(),
                map.value_size.to_string(),
                map.max_entries.to_string(),
                lower(found.r#use().as_str_name(), "MAP_USE_").replace('_', "-"),
            ];
            if self.typed {
                row.extend([or_none(found.key_type.as_ref()), or_none(found.value_type.as_ref())]);
            }
            row
        });
        let columns: &[&str] = match self.typed {
            true => &["MAP", "TYPE", "KEY", "VALUE", "MAX", "USE", "KEY-TYPE", "VALUE-TYPE"],
            false => &["MAP", "TYPE", "KEY", "VALUE", "MAX", "USE"],
        };
        vec![Block::Table(columns, rows.collect())]
    }

    fn nothing(&self) -> &'static str {
        "no maps"
    }
}

fn map_name(found: &pb::AppMap) -> String {
    format!("{}/{}", found.app, found.map.as_ref().map(|map| map.name.as_str()).unwrap_or_default())
}
