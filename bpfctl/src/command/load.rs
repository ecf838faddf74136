//! `bpfctl load`: an object from a file or an image, attached at once if a hook is given. The file is read here and its bytes
//! are sent: a path would prove nothing to the daemon.

use std::path::PathBuf;
use std::str::FromStr;

use bpfd_core::labels::{LabelKey, LabelValue, Labels};
use bpfd_core::names::AppName;
use bpfd_core::request::AppRef;
use bpfd_core::sharing::MapName;
use bpfd_proto::v1::{self as pb, load_request, program_selector};
use bytecode_image::reference::Reference;
use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;

use super::views::{self, Apps};
use super::wait;
use crate::args::{Cli, DryRun, label, word};
use crate::client::{Client, Session, request_id};
use crate::error::{Exit, Failure};
use crate::files;
use crate::hook::{Examples, Hook, HookVerb};
use crate::output::warnings;
use crate::progress::Progress;

/// Load programs from a file or an image, and attach one at once
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = false,
    after_help = "\
Without a hook the programs are loaded only; `bpfctl attach` attaches them later. With a hook both happen or nothing does. \
Options may stand before or after the hook. With --dry-run an image is fetched and programs are verified as \
usual, but none is kept.

Examples:
  bpfctl load --path pass.o --section-name pass xdp -i eth0 --priority 50
  bpfctl load --image registry/foo:tag
  bpfctl load --image registry/foo:tag --name a --set sampling=100 xdp -i eth0
  bpfctl load --image registry/reader:1 --map-from writer:blocked xdp -i eth0
  bpfctl load --image registry/foo:tag --label team=edge --label canary=
  bpfctl load --image registry/foo:tag --persist xdp -i eth0
  bpfctl load --path trace.o tracepoint sched/sched_switch --dry-run"
)]
pub(crate) struct Load {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    dry: DryRun,
    #[command(subcommand)]
    hook: Option<Hook<What>>,
}

/// What to load. The same options are taken before and after the hook.
#[derive(Debug, Args)]
#[command(next_help_heading = "What to load")]
struct What {
    /// An ELF object file
    #[arg(long, value_name = "FILE")]
    path: Option<PathBuf>,
    /// An image, with its registry's host
    #[arg(long, value_name = "REFERENCE", conflicts_with = "path")]
    image: Option<Reference>,
    /// The app's name [default: the image's, else the file's, with -2, -3, … until it is free]
    #[arg(long)]
    name: Option<AppName>,
    /// Only this: the ELF section, else xdp/SECTION, else the function (repeatable)
    #[arg(long, value_name = "SECTION", value_parser = word)]
    section_name: Vec<String>,
    /// Only this function (repeatable)
    #[arg(long, value_name = "FUNCTION", value_parser = word)]
    program: Vec<String>,
    /// Give a global variable a value: a number, a word, numbers with commas, JSON for structs and arrays, or
    /// hex:BYTES (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<Setting>,
    /// Share a map of another app, or all that object and app have by the same name (repeatable). It lives until
    /// the last app that has it is unloaded
    #[arg(long, value_name = "APP[:MAP]")]
    map_from: Vec<MapFrom>,
    /// Give the app a label, for `bpfctl list --label` (repeatable)
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(LabelKey, LabelValue)>,
    /// When to ask the registry [default: newer]
    #[arg(long, value_name = "WHEN", value_parser = pull_policy())]
    pull: Option<pb::PullPolicy>,
    /// If the interface does not exist, attach when it appears
    #[arg(long)]
    when_present: bool,
    /// Wait until it is attached, also for an interface that does not exist yet. --timeout ends the wait, and app and link
    /// stay
    #[arg(long)]
    wait: bool,
    /// Load and attach it again after a reboot; without this, a reboot ends it
    #[arg(long)]
    persist: bool,
}

impl HookVerb for What {
    const EXAMPLES: Examples = Examples::Load;
}

/// When to ask the registry.
pub(super) fn pull_policy() -> impl TypedValueParser<Value = pb::PullPolicy> {
    let values = [
        ("newer", "Ask whether the tag moved; if the registry is down, take what is stored"),
        ("always", "Fetch, whatever is stored"),
        ("if-not-present", "Ask only for what is not stored"),
        ("never", "Never ask"),
    ];
    let parser = PossibleValuesParser::new(values.map(|(word, help)| PossibleValue::new(word).help(help)));
    let number = |word: String| word.to_ascii_uppercase().replace('-', "_");
    parser.try_map(move |word| {
        pb::PullPolicy::from_str_name(&format!("PULL_POLICY_{}", number(word))).ok_or("the API has no such policy")
    })
}

/// `NAME=VALUE` for a global variable. The value is read by the variable's type, which only the object knows.
#[derive(Debug, Clone)]
struct Setting(pb::GlobalSetting);

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                Ok(Self(pb::GlobalSetting { name: name.to_owned(), value: value.to_owned() }))
            }
            _ => Err("write NAME=VALUE".to_owned()),
        }
    }
}

/// `APP[:MAP]`: an app by name, `uid:UUID` or `#HANDLE`, and a map of it.
#[derive(Debug, Clone)]
struct MapFrom(pb::MapSource);

impl FromStr for MapFrom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uid = if text.starts_with("uid:") { "uid:".len() } else { 0 };
        let (_, rest) = text.split_at(uid);
        let (app, map) = match rest.find(':') {
            Some(at) => (text.get(..uid + at).unwrap_or_default(), text.get(uid + at + 1..)),
            None => (text, None),
        };
        let app: AppRef = app.parse().map_err(|error| format!("{error}: write APP or APP:MAP"))?;
        let map = map.map(|map| map.parse::<MapName>().map(|map| map.to_string())).transpose();
        Ok(Self(pb::MapSource { app: app.to_string(), map: map.map_err(|error| error.to_string())? }))
    }
}

/// Where the bytes come from.
enum Source {
    File(PathBuf),
    Image(Reference, Option<pb::PullPolicy>),
}

impl Load {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { what, dry, hook } = self;
        let (what, attach) = match hook {
            None if what.when_present || what.wait => {
                let option = if what.wait { "--wait" } else { "--when-present" };
                return Err(usage(
                    ErrorKind::MissingSubcommand,
                    &format!("{option} says when to attach, but no hook is given"),
                ));
            }
            None => (what, vec![]),
            Some(Hook { attachment, more }) => {
                let what = what.and(more)?;
                let attachment = pb::Attachment { when_present: what.when_present || what.wait, ..attachment };
                (what, vec![attachment])
            }
        };
        if what.wait && dry.dry_run {
            return Err(usage(ErrorKind::ArgumentConflict, "--wait waits for what --dry-run does not do"));
        }
        let (source, wait) = (what.source()?, what.wait);
        let labels = Labels::of(what.label.iter().cloned());
        let labels = labels.map_err(|error| usage(ErrorKind::ArgumentConflict, &error.to_string()))?;
        let object = match &source {
            Source::File(path) => Some(files::object(path)?),
            Source::Image(..) => None,
        };

        let mut client = session.client().await?;
        let (source, name_hint) = send(&mut client, source, object).await?;
        let what = what.request(source, name_hint, attach, &labels);
        let request = pb::LoadRequest { validate_only: dry.dry_run, ..what };
        let mut progress = Progress::new(session);
        let result = client.load(request, |state| progress.state(&state)).await;
        drop(progress);
        let mut result = result?;
        warnings(&result.warnings);
        if wait {
            result.links = wait::until_attached(&mut client, result.links).await?;
        }
        views::tell_orders(session, &result.links);
        let loaded = Apps { apps: result.app.into_iter().collect(), links: result.links };
        views::show(session, &dry, loaded, result.plan)?;
        Ok(Exit::Ok)
    }
}

async fn send(
    client: &mut Client,
    source: Source,
    object: Option<Vec<u8>>,
) -> Result<(load_request::Source, Option<String>), Failure> {
    match source {
        Source::File(path) => {
            let uploaded = client.upload(&object.unwrap_or_default()).await?;
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            Ok((load_request::Source::ObjectSha256(uploaded.sha256), stem))
        }
        Source::Image(reference, pull) => {
            let pull = pull.unwrap_or_default().into();
            let image = pb::ImageSource { reference: reference.to_string(), pull };
            Ok((load_request::Source::Image(image), None))
        }
    }
}

impl What {
    /// Both halves, from before and after the hook. What can be given once must be given once in both together.
    fn and(self, more: Self) -> Result<Self, Failure> {
        let Self {
            path,
            image,
            name,
            mut section_name,
            mut program,
            mut set,
            mut map_from,
            mut label,
            pull,
            when_present,
            wait,
            persist,
        } = self;
        section_name.extend(more.section_name);
        program.extend(more.program);
        set.extend(more.set);
        map_from.extend(more.map_from);
        label.extend(more.label);
        let what = Self {
            path: once("--path", path, more.path)?,
            image: once("--image", image, more.image)?,
            name: once("--name", name, more.name)?,
            section_name,
            program,
            set,
            map_from,
            label,
            pull: once("--pull", pull, more.pull)?,
            when_present: when_present || more.when_present,
            wait: wait || more.wait,
            persist: persist || more.persist,
        };
        if what.path.is_some() && what.image.is_some() {
            return Err(usage(ErrorKind::ArgumentConflict, "--path and --image cannot be used together"));
        }
        Ok(what)
    }

    fn source(&self) -> Result<Source, Failure> {
        match (&self.path, &self.image) {
            (Some(_), _) if self.pull.is_some() => {
                Err(usage(ErrorKind::ArgumentConflict, "--pull says when to ask a registry, but a file is given"))
            }
            (Some(path), _) => Ok(Source::File(path.clone())),
            (None, Some(image)) => Ok(Source::Image(image.clone(), self.pull)),
            (None, None) => Err(usage(ErrorKind::MissingRequiredArgument, "give --path FILE or --image REFERENCE")),
        }
    }

    fn request(
        self,
        source: load_request::Source,
        name_hint: Option<String>,
        attach: Vec<pb::Attachment>,
        labels: &Labels,
    ) -> pb::LoadRequest {
        let sections = self.section_name.into_iter().map(program_selector::Selector::SectionName);
        let functions = self.program.into_iter().map(program_selector::Selector::Function);
        pb::LoadRequest {
            request_id: request_id(),
            validate_only: false,
            name: self.name.map(String::from),
            name_hint,
            source: Some(source),
            programs: sections
                .chain(functions)
                .map(|selector| pb::ProgramSelector { selector: Some(selector) })
                .collect(),
            globals: self.set.into_iter().map(|Setting(setting)| setting).collect(),
            attach,
            persist: self.persist,
            map_from: self.map_from.into_iter().map(|MapFrom(source)| source).collect(),
            user_labels: labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        }
    }
}

fn once<T>(option: &str, before: Option<T>, after: Option<T>) -> Result<Option<T>, Failure> {
    match (before, after) {
        (Some(_), Some(_)) => {
            Err(usage(ErrorKind::ArgumentConflict, &format!("{option} is given before and after the hook")))
        }
        (before, after) => Ok(before.or(after)),
    }
}

fn usage(kind: ErrorKind, message: &str) -> Failure {
    Cli::error("load", kind, message).into()
}
