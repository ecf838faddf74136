//! The text of one file of `programs.d`, parsed into what it declares. An unknown key, or a value that means nothing, is an error with
//! file, line and column, and nothing of the file counts.
//!
//! This file must never look at anything but the text.

use std::collections::BTreeMap;
use std::ops::Range;
use std::str::FromStr;

use bpfd_policy::position;
use bpfd_policy::reference::in_full;
use serde::Deserialize;
use toml::Spanned;

use super::{Declared, DeclaredHook, DeclaredPlace, DeclaredSource, Pattern, ProgramsFile};
use crate::hook::own::form;
use crate::hook::{HookAsk, OwnHook, Point, ProceedOn, XdpMode};
use crate::labels::Labels;
use crate::names::{Netns, Priority, printable};
use crate::request::{ATTACH_MAX, GLOBAL_NAME_MAX, GLOBAL_VALUE_MAX, LIST_MAX, Select};
use crate::state::ProgramKind;

/// Programs of one file: of each an object of up to 16 MiB is read at a start.
pub const PROGRAMS_MAX: usize = 64;

/// A file that is not used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{file}:{line}:{column}: {what}")]
pub struct ProgramsError {
    /// Its path.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong, in a sentence.
    pub what: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    version: Spanned<i64>,
    #[serde(default)]
    program: Vec<Spanned<RawProgram>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProgram {
    name: Spanned<String>,
    image: Option<Spanned<String>>,
    file: Option<Spanned<String>>,
    #[serde(default)]
    programs: Vec<Spanned<String>>,
    #[serde(default)]
    sections: Vec<Spanned<String>>,
    #[serde(default)]
    globals: BTreeMap<Spanned<String>, Spanned<RawValue>>,
    #[serde(default)]
    labels: BTreeMap<Spanned<String>, Spanned<String>>,
    #[serde(default)]
    critical: bool,
    #[serde(default)]
    attach: Vec<Spanned<RawAttach>>,
}

/// What a global variable may be given.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a value is a text, a whole number or a boolean")]
enum RawValue {
    Text(String),
    Number(i64),
    Truth(bool),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAttach {
    hook: Spanned<String>,
    program: Option<Spanned<String>>,
    interface: Option<Spanned<String>>,
    netns: Option<Spanned<String>>,
    target: Option<Spanned<String>>,
    priority: Option<Spanned<i64>>,
    proceed_on: Option<Spanned<Vec<String>>>,
    mode: Option<Spanned<String>>,
}

/// What is wrong, and where.
struct Fault(Range<usize>, String);

/// Reads the text of `file`.
///
/// # Errors
/// [`ProgramsError`], the first that is found.
pub fn read(text: &str, file: &str) -> Result<ProgramsFile, ProgramsError> {
    let at = |Fault(span, what): Fault| {
        let (line, column) = position(text, span.start);
        ProgramsError { file: file.to_owned(), line, column, what }
    };
    let raw: RawFile = toml::from_str(text)
        .map_err(|error| at(Fault(error.span().unwrap_or_default(), error.message().to_owned())))?;
    if *raw.version.get_ref() != 1 {
        let what = format!("version {} is not known: this program reads version 1", raw.version.get_ref());
        return Err(at(Fault(raw.version.span(), what)));
    }
    if let Some(over) = raw.program.get(PROGRAMS_MAX) {
        return Err(at(Fault(over.span(), format!("a file has at most {PROGRAMS_MAX} programs"))));
    }
    let mut programs: Vec<Declared> = Vec::new();
    for program in raw.program {
        let (line, _) = position(text, program.span().start);
        let name = program.get_ref().name.span();
        let declared = declared(program, line).map_err(at)?;
        if programs.iter().any(|other| other.name == declared.name) {
            return Err(at(Fault(name, format!("there is a program `{}` already", declared.name))));
        }
        programs.push(declared);
    }
    Ok(ProgramsFile { programs })
}

fn fault<T>(span: Range<usize>, what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault(span, what.into()))
}

/// A text of a type.
fn parsed<T: FromStr<Err: std::error::Error + 'static>>(text: &Spanned<String>) -> Result<T, Fault> {
    text.get_ref().parse().map_err(|error| Fault(text.span(), in_full(&error)))
}

fn word(text: &Spanned<String>) -> Result<String, Fault> {
    let word = text.get_ref();
    if word.is_empty() || word.len() > GLOBAL_NAME_MAX || word.chars().any(char::is_control) {
        return fault(text.span(), format!("`{}` is not a name", printable(word)));
    }
    Ok(word.clone())
}

fn declared(program: Spanned<RawProgram>, line: usize) -> Result<Declared, Fault> {
    let span = program.span();
    let RawProgram { name, image, file, programs, sections, globals, labels, critical, attach } = program.into_inner();
    let source = match (&image, &file) {
        (Some(image), None) => DeclaredSource::Image(parsed(image)?),
        (None, Some(file)) => DeclaredSource::File(path(file)?),
        (Some(_), Some(file)) => return fault(file.span(), "a program has either an `image` or a `file`"),
        (None, None) => return fault(span, "a program needs an `image` or a `file`"),
    };
    if programs.len() + sections.len() > LIST_MAX || globals.len() > LIST_MAX {
        return fault(span, format!("a program has at most {LIST_MAX} selectors and {LIST_MAX} globals"));
    }
    if let Some(over) = attach.get(ATTACH_MAX) {
        return fault(over.span(), format!("a program has at most {ATTACH_MAX} attachments"));
    }
    let functions = programs.iter().map(|function| word(function).map(Select::Function));
    let sections = sections.iter().map(|section| word(section).map(Select::Section));
    let select = sections.chain(functions).collect::<Result<_, _>>()?;
    let pairs = labels.iter().map(|(key, value)| Ok((parsed(key)?, parsed(value)?)));
    let pairs: Vec<_> = pairs.collect::<Result<_, Fault>>()?;
    Ok(Declared {
        line,
        name: parsed(&name)?,
        source,
        select,
        globals: globals.into_iter().map(global).collect::<Result<_, _>>()?,
        labels: Labels::of(pairs).map_err(|error| Fault(span, error.to_string()))?,
        critical,
        attach: attach.into_iter().map(hook).collect::<Result<_, _>>()?,
    })
}

/// An absolute path that is walked as it is written.
fn path(file: &Spanned<String>) -> Result<String, Fault> {
    let text = file.get_ref();
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    match text.strip_prefix('/') {
        Some(rest) if rest.split('/').all(plain) && !text.chars().any(char::is_control) => Ok(text.clone()),
        _ => fault(file.span(), format!("`{}` is not an absolute path without `.` and `..`", printable(text))),
    }
}

fn global((name, value): (Spanned<String>, Spanned<RawValue>)) -> Result<(String, String), Fault> {
    let span = value.span();
    let text = match value.into_inner() {
        RawValue::Text(text) => text,
        RawValue::Number(number) => number.to_string(),
        RawValue::Truth(truth) => truth.to_string(),
    };
    if text.len() > GLOBAL_VALUE_MAX {
        return fault(span, format!("a value has at most {GLOBAL_VALUE_MAX} bytes; this one has {}", text.len()));
    }
    Ok((word(&name)?, text))
}

fn hook(attach: Spanned<RawAttach>) -> Result<DeclaredHook, Fault> {
    let span = attach.span();
    let RawAttach { hook, program, interface, netns, target, priority, proceed_on, mode } = attach.into_inner();
    let function = program.as_ref().map(word).transpose()?;
    let point = Point::ALL.iter().copied().find(|point| point.as_str() == hook.get_ref());
    let Some(point) = point else {
        let chain = [&interface, &netns, &mode].into_iter().flatten().map(Spanned::span);
        let chain = chain.chain(priority.map(|it| it.span())).chain(proceed_on.map(|it| it.span())).next();
        return Ok(DeclaredHook { function, place: DeclaredPlace::Own(own(&hook, target.as_ref(), chain)?) });
    };
    if let Some(target) = target {
        return fault(target.span(), format!("{point} has no `target`: it attaches to an `interface`"));
    }
    let Some(interface) = interface else {
        return fault(span, format!("{point} needs an `interface`"));
    };
    let (pattern, netns_span) = (parsed::<Pattern>(&interface)?, netns.as_ref().map(Spanned::span));
    let netns = netns.as_ref().map_or(Ok(Netns::Host), parsed)?;
    if let (Pattern::Like(_), Netns::Named(_), Some(span)) = (&pattern, &netns, netns_span) {
        return fault(span, "a pattern is about the daemon's own network namespace: write the interface's name");
    }
    if let (Some(mode), true) = (&mode, point != Point::Xdp) {
        return fault(mode.span(), format!("{point} has no `mode`"));
    }
    let priority = priority.map(|priority| {
        let number = u32::try_from(*priority.get_ref()).ok().and_then(|number| Priority::try_from(number).ok());
        number.ok_or_else(|| Fault(priority.span(), "a priority is a number from 0 to 1000".to_owned()))
    });
    let proceed_on = proceed_on.map(|set| {
        let span = set.span();
        let of_point = ProceedOn::from_names(set.get_ref().iter().map(String::as_str));
        let of_point = of_point.map_err(|error| Fault(span.clone(), error.to_string()))?;
        if of_point.is_of(point) { Ok(of_point) } else { fault(span, format!("these are no verdicts of {point}")) }
    });
    let mode = mode.as_ref().map_or(Ok(XdpMode::Auto), parsed)?;
    let (priority, proceed_on) = (priority.transpose()?, proceed_on.transpose()?);
    let place = DeclaredPlace::Shared { interface: pattern, netns, point, priority, proceed_on, mode };
    Ok(DeclaredHook { function, place })
}

/// An own hook. `chain` is where something is said that only hooks of interfaces have.
fn own(
    hook: &Spanned<String>,
    target: Option<&Spanned<String>>,
    chain: Option<Range<usize>>,
) -> Result<HookAsk, Fault> {
    let known = || {
        let points = Point::ALL.iter().map(|point| point.as_str().to_owned());
        let own = ProgramKind::ALL.iter().filter(|kind| form(**kind).is_some()).map(ToString::to_string);
        points.chain(own).collect::<Vec<_>>().join(", ")
    };
    let kind = hook.get_ref().parse::<ProgramKind>().ok().filter(|kind| form(*kind).is_some());
    let Some(kind) = kind else {
        return fault(
            hook.span(),
            format!("there is no hook `{}`: write one of {}", printable(hook.get_ref()), known()),
        );
    };
    if let Some(span) = chain {
        return fault(span, format!("{kind} is no hook of an interface: it has a `target`"));
    }
    let read = |target: &Spanned<String>| {
        OwnHook::parse(kind, target.get_ref()).map_err(|error| Fault(target.span(), error.to_string()))
    };
    Ok(HookAsk::Own { kind, hook: target.map(read).transpose()? })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn refused(text: &str) -> String {
        read(&format!("version = 1\n{text}"), "a.toml").unwrap_err().to_string()
    }

    const FULL: &str = r#"version = 1
[[program]]
name = "fw"
image = "registry.example/fw:1"
programs = ["pass"]
sections = ["xdp/drop"]
globals = { step = 10, on = true, name = "eth0" }
labels = { team = "edge" }
critical = true
[[program.attach]]
hook = "xdp"
interface = "eth*"
priority = 20
proceed_on = ["pass", "tx"]
mode = "generic"
program = "pass"
[[program.attach]]
hook = "tc-egress"
interface = "eth0"
netns = "blue"
[[program]]
name = "trace"
file = "/usr/lib/bpfd/trace.o"
[[program.attach]]
hook = "kprobe"
target = "do_unlinkat+0x4"
[[program.attach]]
hook = "tracepoint"
"#;

    #[test]
    fn a_file_is_read_whole() {
        insta::assert_debug_snapshot!(read(FULL, "a.toml").unwrap());
    }

    #[test]
    fn what_means_nothing_is_told_with_its_place() {
        let program = |more: &str| refused(&format!("[[program]]\nname = \"a\"\nfile = \"/a.o\"\n{more}"));
        let attach = |more: &str| program(&format!("[[program.attach]]\n{more}"));
        let all = [
            read("", "a.toml").unwrap_err().to_string(),
            read("version = 2\n", "a.toml").unwrap_err().to_string(),
            refused("[[programs]]\n"),
            refused("[[program]]\nname = \"a\"\n"),
            refused("[[program]]\nname = \"A\"\nfile = \"/a.o\"\n"),
            refused("[[program]]\nname = \"a\"\nfile = \"a.o\"\n"),
            refused("[[program]]\nname = \"a\"\nfile = \"/../a.o\"\n"),
            refused("[[program]]\nname = \"a\"\nimage = \"fw\"\n"),
            program("image = \"r.example/a\"\n"),
            program("[[program]]\nname = \"a\"\nfile = \"/b.o\"\n"),
            program("labels = { Team = \"x\" }\n"),
            program("globals = { x = 1.5 }\n"),
            attach("hook = \"xpd\"\n"),
            attach("hook = \"xdp\"\n"),
            attach("hook = \"xdp\"\ninterface = \"a/b\"\n"),
            attach("hook = \"xdp\"\ninterface = \"eth*\"\nnetns = \"blue\"\n"),
            attach("hook = \"xdp\"\ninterface = \"eth0\"\npriority = 1001\n"),
            attach("hook = \"xdp\"\ninterface = \"eth0\"\nproceed_on = [\"next\"]\n"),
            attach("hook = \"tc-ingress\"\ninterface = \"eth0\"\nmode = \"native\"\n"),
            attach("hook = \"xdp\"\ninterface = \"eth0\"\ntarget = \"x\"\n"),
            attach("hook = \"kprobe\"\ntarget = \"a b\"\n"),
            attach("hook = \"kprobe\"\ninterface = \"eth0\"\n"),
        ];
        insta::assert_snapshot!(all.join("\n"));
    }

    /// The names between backticks behind `expected`.
    fn expected(text: &str) -> BTreeSet<String> {
        let error = read(text, "a").unwrap_err().what;
        let (_, names) = error.split_once("expected").unwrap();
        names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_schema_has_the_keys_and_hooks_that_are_read() {
        let schema: serde_json::Value =
            serde_json::from_str(include_str!("../../../../spec/programs.schema.json")).unwrap();
        let keys = |part: &serde_json::Value| -> BTreeSet<String> {
            part["properties"].as_object().unwrap().keys().cloned().collect()
        };
        let parts = &schema["$defs"];
        assert_eq!(keys(&schema), expected("version = 1\nx = 1\n"));
        assert_eq!(keys(&parts["program"]), expected("version = 1\n[[program]]\nx = 1\n"));
        let of_hooks: BTreeSet<String> = keys(&parts["shared"]).union(&keys(&parts["own"])).cloned().collect();
        assert_eq!(of_hooks, expected("version = 1\n[[program]]\n[[program.attach]]\nx = 1\n"));
        let words = |part: &serde_json::Value| -> BTreeSet<String> {
            let words = part["properties"]["hook"]["enum"].as_array().unwrap();
            words.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
        };
        let points: BTreeSet<String> = Point::ALL.iter().map(ToString::to_string).collect();
        let own = ProgramKind::ALL.iter().filter(|kind| form(**kind).is_some());
        assert_eq!(words(&parts["shared"]), points);
        assert_eq!(words(&parts["own"]), own.map(ToString::to_string).collect());
    }
}
