//! The page `docs/reference/api.md`: each call, message and value of the API with its comment in the `.proto` files.
//!
//! Must never have words about the API of its own: what a call or field means is said where it is defined.

use std::collections::HashMap;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};

use super::PACKAGE;

const HEAD: &str = "\
<!-- Made by `cargo xtask codegen` of proto/bpfd/v1/*.proto; never edit it. -->
# API

This page lists the gRPC API `bpfd.v1`, as `proto/bpfd/v1` defines it: the sockets are `/run/bpfd/bpfd.sock` and
`/run/bpfd/bpfd-ro.sock`. [Ship BPF with your agent](../agents.md) says how a program uses it, and [Errors](errors.md) what a refusal contains. Within
`bpfd.v1` fields, values and calls are added, never removed, renamed or given another type.
";

/// Numbers of the fields of descriptors, by which source locations name their parts.
const MESSAGES: i32 = 4;
const ENUMS: i32 = 5;
const SERVICES: i32 = 6;
const PARTS: i32 = 2;

pub(super) fn api(set: &FileDescriptorSet) -> String {
    let files: Vec<_> = set.file.iter().filter(|file| file.package() == PACKAGE).map(Commented::new).collect();
    let mut page = HEAD.to_owned();
    for file in &files {
        file.services(&mut page);
    }
    page.push_str("\n## Messages\n");
    for file in &files {
        for (message, index) in file.file.message_type.iter().zip(0..) {
            file.message(&mut page, message, index);
        }
    }
    page.push_str("\n## Values\n");
    for file in &files {
        // Those of errors have a page of their own.
        for (values, index) in file.file.enum_type.iter().zip(0..).filter(|(values, _)| values.name() != "ErrorReason")
        {
            file.values(&mut page, values, index);
        }
    }
    page
}

/// A file with its comments by the paths of what they belong to.
struct Commented<'a> {
    file: &'a FileDescriptorProto,
    comments: HashMap<Vec<i32>, &'a str>,
}

impl<'a> Commented<'a> {
    fn new(file: &'a FileDescriptorProto) -> Self {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        let comments = locations.filter_map(|at| Some((at.path.clone(), at.leading_comments.as_deref()?)));
        Self { file, comments: comments.collect() }
    }

    /// In one line.
    fn comment(&self, path: &[i32]) -> String {
        let text = self.comments.get(path).copied().unwrap_or_default();
        let words: Vec<&str> = text.split_whitespace().collect();
        words.join(" ").replace('|', "\\|").replace('<', "&lt;")
    }

    fn services(&self, page: &mut String) {
        for (service, index) in self.file.service.iter().zip(0..) {
            let comment = self.comment(&[SERVICES, index]);
            page.push_str(&format!(
                "\n## {}\n\n{comment}\n\n| call | request | answer | |\n|---|---|---|---|\n",
                service.name()
            ));
            for (method, number) in service.method.iter().zip(0..) {
                let stream = |streams: Option<bool>| if streams == Some(true) { "stream of " } else { "" };
                page.push_str(&format!(
                    "| `{}` | {}{} | {}{} | {} |\n",
                    method.name(),
                    stream(method.client_streaming),
                    reference(method.input_type()),
                    stream(method.server_streaming),
                    reference(method.output_type()),
                    self.comment(&[SERVICES, index, PARTS, number])
                ));
            }
        }
    }

    fn message(&self, page: &mut String, message: &DescriptorProto, index: i32) {
        page.push_str(&format!("\n### {}\n\n{}\n", message.name(), self.comment(&[MESSAGES, index])));
        if !message.field.is_empty() {
            page.push_str("\n| field | type | |\n|---|---|---|\n");
        }
        for (field, number) in message.field.iter().zip(0..) {
            let comment = self.comment(&[MESSAGES, index, PARTS, number]);
            page.push_str(&format!("| `{}` | {} | {comment} |\n", field.name(), kind(message, field)));
        }
    }

    fn values(&self, page: &mut String, values: &EnumDescriptorProto, index: i32) {
        let comment = self.comment(&[ENUMS, index]);
        page.push_str(&format!("\n### {}\n\n{comment}\n\n| value | |\n|---|---|\n", values.name()));
        for (value, number) in values.value.iter().zip(0..) {
            let comment = self.comment(&[ENUMS, index, PARTS, number]);
            page.push_str(&format!("| `{}` = {} | {comment} |\n", value.name(), value.number()));
        }
    }
}

/// A type of ours as a link, or another one by its name.
fn reference(name: &str) -> String {
    match name.strip_prefix(&format!(".{PACKAGE}.")) {
        Some("ErrorReason") => "[ErrorReason](errors.md)".to_owned(),
        Some(ours) => format!("[{ours}](#{})", ours.to_lowercase()),
        None => format!("`{}`", name.trim_start_matches('.')),
    }
}

fn kind(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let name = match field.r#type() {
        Type::Message | Type::Enum => {
            let last = field.type_name().rsplit('.').next().unwrap_or_default();
            match message.nested_type.iter().find(|entry| entry.name() == last) {
                // A map is a list of a message with a key and a value.
                Some(entry) => {
                    let parts: Vec<String> = entry.field.iter().map(|part| kind(entry, part)).collect();
                    return format!("map of {}", parts.join(" to "));
                }
                None => reference(field.type_name()),
            }
        }
        scalar => format!("`{}`", scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase()),
    };
    match field.label() {
        Label::Repeated => format!("list of {name}"),
        Label::Optional | Label::Required if field.proto3_optional() => format!("{name}, or unset"),
        Label::Optional | Label::Required => match field.oneof_index.and_then(|index| usize::try_from(index).ok()) {
            Some(index) => {
                let choice = message.oneof_decl.get(index).map(|choice| choice.name()).unwrap_or_default();
                format!("{name}, one of `{choice}`")
            }
            None => name,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_each_call_and_message_with_its_comment() {
        let root = crate::root().unwrap();
        let page = api(&super::super::compile(&root).unwrap());
        for line in [
            "\n## MapService\n",
            "| `Detach` | [DetachRequest](#detachrequest) | [DetachResponse](#detachresponse) | Removes links: all or none, one swap for each chain. |",
            "| `priority` | `uint32`, or unset | New priority, 0 to 1000. Unset: as it is. |",
            "| `LINK_STATE_ATTACHED` = 1 |",
        ] {
            assert!(page.contains(line), "{line}");
        }
        let without: Vec<&str> =
            page.lines().filter(|line| line.starts_with("| `") && line.ends_with("|  |")).collect();
        assert_eq!(without, Vec::<&str>::new(), "each has a comment");
    }
}
