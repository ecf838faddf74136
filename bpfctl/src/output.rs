//! Results on standard output: a table, names alone, JSON or YAML. One place, so that `-o`, `-q` and `--no-headers` mean the same
//! for every verb. Texts of others are printed without control characters: a program's name must not drive the terminal.

use std::io::Write as _;
use std::sync::LazyLock;

use bpfd_proto::v1 as pb;
use comfy_table::{ContentArrangement, Table, presets};
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::{Value, json};

use crate::args::Format;
use crate::error::{Exit, Failure, Local, note};

/// Prints results in the form that was asked for.
#[derive(Debug)]
pub(crate) struct Printer {
    form: Form,
    headers: Headers,
    remarks: Remarks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Table,
    Wide,
    Names,
    Json,
    Yaml,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Headers {
    Shown,
    Hidden,
}

/// What standard error says that is neither error nor warning: progress, and that there is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remarks {
    Shown,
    Hidden,
}

/// A result, in all forms.
pub(crate) trait View {
    /// What the items are, for JSON: `App`, `Link`, …
    fn kind(&self) -> &'static str;
    /// The API's messages.
    fn items(&self) -> Result<Vec<Value>, Failure>;
    /// Names, one an item, for `-q`.
    fn names(&self) -> Vec<String>;
    /// For people; empty if there is nothing to show.
    fn text(&self) -> Vec<Block>;
    /// For people who want to see more; [`View::text`] where there is no more to say.
    fn wide(&self) -> Vec<Block> {
        self.text()
    }
    /// What standard error says when there is no item.
    fn nothing(&self) -> &'static str;
    /// The steps of a dry run, for JSON.
    fn plan(&self) -> Option<&[String]> {
        None
    }
}

/// A part of a result for people.
#[derive(Debug)]
pub(crate) enum Block {
    /// Lines as they are.
    Lines(Vec<String>),
    /// Facts, one a line, the keys aligned.
    Facts(Vec<(&'static str, String)>),
    /// A table with its column names.
    Table(&'static [&'static str], Vec<Vec<String>>),
}

impl Printer {
    pub(crate) fn new(format: Format, quiet: bool, no_headers: bool) -> Self {
        let form = match format {
            Format::Json => Form::Json,
            Format::Yaml => Form::Yaml,
            Format::Name => Form::Names,
            Format::Table | Format::Wide if quiet => Form::Names,
            Format::Table => Form::Table,
            Format::Wide => Form::Wide,
        };
        Self {
            form,
            headers: if no_headers { Headers::Hidden } else { Headers::Shown },
            remarks: if quiet { Remarks::Hidden } else { Remarks::Shown },
        }
    }

    /// Whether nobody wants progress on standard error, in whatever form the result is.
    pub(crate) fn is_quiet(&self) -> bool {
        self.remarks == Remarks::Hidden
    }

    /// Whether names are the whole result.
    pub(crate) fn is_names(&self) -> bool {
        self.form == Form::Names
    }

    /// Whether programs read the result. What comes in pieces is written as JSON in both forms: JSON is YAML.
    pub(crate) fn is_for_programs(&self) -> bool {
        matches!(self.form, Form::Json | Form::Yaml)
    }

    /// What is before each of many documents.
    pub(crate) fn before_each(&self) -> &'static str {
        if self.form == Form::Yaml { "--- " } else { "" }
    }

    /// Prints one of many records, if they are for programs: those that come one by one have no document around them.
    pub(crate) fn record(&self, line: &[u8], record: &Value) -> Option<Result<(), Failure>> {
        match self.form {
            Form::Json => Some(self.raw(&format!("{}\n", String::from_utf8_lossy(line)))),
            Form::Yaml => Some(yaml(record).and_then(|text| self.raw(&format!("---\n{text}")))),
            Form::Table | Form::Wide | Form::Names => None,
        }
    }

    /// Whether tables have a first line.
    pub(crate) fn has_headers(&self) -> bool {
        self.headers == Headers::Shown
    }

    /// Prints a result.
    pub(crate) fn show(&self, view: &impl View) -> Result<(), Failure> {
        let text = match self.form {
            Form::Json => json(&document(view)?)?,
            Form::Yaml => yaml(&document(view)?)?,
            Form::Names => view.names().iter().map(|name| format!("{}\n", printable(name))).collect(),
            Form::Table => self.blocks(view.text()),
            Form::Wide => self.blocks(view.wide()),
        };
        if text.is_empty() && !self.is_quiet() {
            note(view.nothing());
        }
        self.raw(&text)
    }

    /// Prints a table, or the first part of one that comes in parts.
    pub(crate) fn rows(&self, columns: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
        self.raw(&if rows.is_empty() { String::new() } else { self.table(columns, rows) })
    }

    /// Prints a further part of a table.
    pub(crate) fn more_rows(&self, columns: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
        Self { headers: Headers::Hidden, ..*self }.rows(columns, rows)
    }

    /// Prints text that is its own form: a log, a man page.
    #[expect(clippy::unused_self, reason = "whoever prints holds the printer")]
    pub(crate) fn raw(&self, text: &str) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()?;
        Ok(())
    }

    fn blocks(&self, blocks: Vec<Block>) -> String {
        let blocks: Vec<String> =
            blocks.into_iter().map(|block| self.block(block)).filter(|text| !text.is_empty()).collect();
        blocks.join("\n")
    }

    fn block(&self, block: Block) -> String {
        match block {
            Block::Lines(lines) => lines.iter().map(|line| format!("{}\n", printable(line))).collect(),
            Block::Facts(facts) => {
                let width = facts.iter().map(|(key, _)| key.len() + 1).max().unwrap_or_default();
                let line =
                    |(key, value): &(&str, String)| format!("{:width$}  {}\n", format!("{key}:"), printable(value));
                facts.iter().map(line).collect()
            }
            Block::Table(_, rows) if rows.is_empty() => String::new(),
            Block::Table(columns, rows) => self.table(columns, rows),
        }
    }

    fn table(&self, columns: &[&str], rows: Vec<Vec<String>>) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if self.headers == Headers::Shown {
            table.set_header(columns.to_vec());
        }
        for row in rows {
            table.add_row(row.iter().map(|cell| printable(cell)));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

/// A result as programs read it; docs/cli.md says what of it stays as it is.
pub(crate) fn document(view: &impl View) -> Result<Value, Failure> {
    let mut document = json!({ "apiVersion": pb::App::PACKAGE, "kind": view.kind(), "items": view.items()? });
    if let (Some(plan), Some(fields)) = (view.plan(), document.as_object_mut()) {
        fields.insert("plan".to_owned(), json!(plan));
    }
    Ok(document)
}

pub(crate) fn json(document: &Value) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(document).map_err(|error| internal(&error.to_string()))?;
    Ok(text + "\n")
}

/// Each text is in one line, whatever is in it: no text of others can look like a line of the document.
fn yaml(document: &Value) -> Result<String, Failure> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(document, options).map_err(|error| internal(&error.to_string()))
}

/// Control characters but the tab as escapes, and what makes text look like another; everything else as it is.
pub(crate) fn printable(text: &str) -> String {
    let escape = |c: char| if misleads(c) { c.escape_default().collect() } else { String::from(c) };
    text.chars().map(escape).collect()
}

/// Characters that steer a terminal, and those that cannot be seen or turn the text around them (Unicode TR 36, "Bidirectional Text
/// Spoofing").
fn misleads(c: char) -> bool {
    let steers = c.is_control() && c != '\t';
    steers || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A message in proto3 JSON, with every field that has no presence of its own.
pub(crate) fn message<M: Message + Name>(message: &M) -> Result<Value, Failure> {
    let descriptor = descriptor::<M>().ok_or_else(|| internal(&format!("no descriptor of {}", M::full_name())))?;
    let bytes = message.encode_to_vec();
    let message = DynamicMessage::decode(descriptor, bytes.as_slice()).map_err(|error| internal(&error.to_string()))?;
    let options = SerializeOptions::new().skip_default_fields(false);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| internal(&error.to_string()))
}

/// What the API says of a message's fields.
pub(crate) fn descriptor<M: Name>() -> Option<MessageDescriptor> {
    static POOL: LazyLock<Option<DescriptorPool>> =
        LazyLock::new(|| DescriptorPool::decode(bpfd_proto::FILE_DESCRIPTOR_SET).ok());
    POOL.as_ref()?.get_message_by_name(&M::full_name())
}

/// [`message`] of each.
pub(crate) fn messages<M: Message + Name>(all: &[M]) -> Result<Vec<Value>, Failure> {
    all.iter().map(message).collect()
}

/// Warnings of an answer, on standard error.
pub(crate) fn warnings(warnings: &[pb::Warning]) {
    for pb::Warning { reason: _, message, hint } in warnings {
        crate::error::warn(message, hint);
    }
}

fn internal(cause: &str) -> Failure {
    Local::new(Exit::Other, "cannot print the answer").cause(cause).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_cannot_drive_the_terminal() {
        let printer = Printer::new(Format::Table, false, false);
        let text = printer.table(&["NAME"], vec![vec!["a\x1b[2Jb\n".into()]]);
        assert_eq!(text, "NAME\na\\u{1b}[2Jb\\n\n");
        assert_eq!(printable("a\u{202e}b\u{200b}\u{2028}\tä"), "a\\u{202e}b\\u{200b}\\u{2028}\tä");
    }

    #[test]
    fn a_text_in_yaml_is_a_text_in_one_line_for_every_reader() {
        for text in [
            "no",
            "on",
            "~",
            "null",
            "",
            "1e3",
            "0x10",
            "012",
            "12:30",
            "2026-01-01",
            "a: b",
            "- a",
            "a\nb: c",
            "\u{1b}[2J",
        ] {
            let yaml = yaml(&json!(text)).unwrap();
            assert!(yaml.starts_with(['"', '\'']), "{text:?}: {yaml:?}");
            assert!(!yaml.trim_end().contains(char::is_control), "{text:?}: {yaml:?}");
        }
        assert_eq!(yaml(&json!("eth0")).unwrap().trim_end(), "eth0");
    }

    #[test]
    fn json_has_unset_fields_only_where_absence_says_something() {
        let link = pb::Link { name: "a/b@lo:xdp".into(), priority: Some(0), ..Default::default() };
        let value = message(&link).unwrap();
        assert_eq!(value.get("priority"), Some(&json!(0)));
        assert_eq!(value.get("cause"), Some(&json!("")));
        assert_eq!(value.get("state"), Some(&json!("LINK_STATE_UNSPECIFIED")));
        assert_eq!(value.get("position"), None);
    }
}
