//! A record as a line for people, or as it is in the log. It must never print what it was not given.

use serde_json::Value;

use super::filter::Filter;
use crate::error::Failure;
use crate::output::{Printer, printable};

/// See the module.
pub(super) struct Shown<'a> {
    printer: &'a Printer,
    with_plan: bool,
    header: bool,
}

impl<'a> Shown<'a> {
    pub(super) fn new(printer: &'a Printer, filter: &Filter) -> Self {
        Self { printer, with_plan: filter.is_of_one(), header: printer.has_headers() }
    }

    pub(super) fn print(&mut self, line: &[u8], record: &Value) -> Result<(), Failure> {
        let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
        if let Some(printed) = self.printer.record(line, record) {
            return printed;
        }
        if self.printer.is_names() {
            return match text("record") {
                "begin" => self.printer.raw(&format!("{}\n", printable(text("operation")))),
                _ => Ok(()),
            };
        }
        if std::mem::take(&mut self.header) {
            self.printer.raw(&row("TIME", "RECORD", "OPERATION", "WHAT"))?;
        }
        let operation = text("operation").get(..8).unwrap_or_default();
        self.printer.raw(&row(&seconds(text("time")), text("record"), operation, &what(record)))?;
        if self.with_plan {
            for step in text("plan").lines() {
                self.printer.raw(&row("", "", "", &format!("  {step}")))?;
            }
        }
        Ok(())
    }
}

fn row(time: &str, record: &str, operation: &str, what: &str) -> String {
    let cell = |text: &str, width: usize| format!("{:width$}  ", printable(text));
    let row = cell(time, 20) + &cell(record, 11) + &cell(operation, 9) + &printable(what);
    format!("{}\n", row.trim_end())
}

/// A time without the parts of its second.
fn seconds(time: &str) -> String {
    time.split_once('.').map_or_else(|| time.to_owned(), |(seconds, _)| format!("{seconds}Z"))
}

fn what(record: &Value) -> String {
    let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
    let count = record.get("count").and_then(Value::as_u64).unwrap_or_default();
    match text("record") {
        "begin" => {
            let changes = record.get("changes").and_then(Value::as_array).into_iter().flatten();
            let changes: Vec<&str> = changes.filter_map(Value::as_str).collect();
            let late = if record.get("late") == Some(&Value::Bool(true)) { " (written at the next start)" } else { "" };
            format!("{}: {}{late}", owner(record.get("owner")), changes.join("; "))
        }
        "intent" => text("step").to_owned(),
        "end" => text("result").to_owned(),
        "denied" => {
            let image = match text("image") {
                "" => String::new(),
                image => format!(" of `{image}`"),
            };
            format!("{} may not {}{image}: {}", text("principal"), text("verb"), text("why"))
        }
        "denied-more" => format!("{}: {count} further refusals", text("principal")),
        "lost" => format!("{count} records had no room on the disk"),
        "continued" => "a new file".to_owned(),
        "cut" => "the last line before was not complete and was taken away".to_owned(),
        "unanchored" => {
            "what bpfd keeps of the log's end was missing: records may be missing before this one".to_owned()
        }
        "damaged" => text("line").to_owned(),
        _ => String::new(),
    }
}

fn owner(owner: Option<&Value>) -> String {
    let user = owner.and_then(|owner| owner.get("user")).and_then(Value::as_str);
    let uid = owner.and_then(|owner| owner.get("uid")).and_then(Value::as_u64);
    user.map_or_else(|| format!("uid {}", uid.unwrap_or_default()), str::to_owned)
}
