//! `bpfctl trust import|ls|show|rm`: trusted roots of sigstore, as files that the daemon's policy names. Written here by whoever may
//! write them, as `login --system` writes the daemon's credentials; the daemon reads them with its policy.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bpfd_policy::name::Name;
use bpfd_policy::read::KeyFault;
use bpfd_policy::signer::{RootName, TrustedRoot};
use bytecode_image::keyless::{built_in, policy_root};
use clap::Args;
use serde_json::{Value, json};

use crate::client::Session;
use crate::error::{Exit, Failure, Local, error_chain};
use crate::files;
use crate::output::{Block, View};

const RELOAD: &str = "the daemon reads it with its policy: `systemctl reload bpfd`";

/// Where roots are.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The directory of the daemon's roots
    #[arg(long, value_name = "DIR", default_value = "/etc/bpfd/trust")]
    directory: PathBuf,
}

/// Take over a trusted root of sigstore: whose certificates and logs count
#[derive(Debug, Args)]
#[command(after_help = "\
A root called public-good or github takes the place of the copy that is built in. A policy names any other by its path.

Examples:
  bpfctl trust import trusted_root.json --name public-good
  bpfctl trust import acme.json --name acme")]
pub(super) struct Import {
    /// A trusted_root.json
    file: PathBuf,
    /// What to call it
    #[arg(long, value_name = "NAME")]
    name: Name,
    #[command(flatten)]
    place: Place,
}

/// List trusted roots
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bpfctl trust ls")]
pub(super) struct Ls {
    #[command(flatten)]
    place: Place,
}

/// Print a trusted root
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bpfctl trust show public-good")]
pub(super) struct Show {
    /// Its name
    name: Name,
    #[command(flatten)]
    place: Place,
}

/// Remove a trusted root; the copies that are built in stay
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bpfctl trust rm acme")]
pub(super) struct Rm {
    /// Its name
    name: Name,
    #[command(flatten)]
    place: Place,
}

impl Import {
    pub(super) fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { file, name, place } = self;
        let message = format!("cannot import `{}`", file.display());
        let root = read(Ok(files::document(&file)?), &message)?;
        let path = place.of(&name);
        let written = files::replace(&path, root.json(), 0o755, 0o644);
        written.map_err(|error| Local::new(Exit::Other, message).cause(format!("`{}`: {error}", path.display())))?;
        session.printer.show(&Done { done: "imported", name, path })?;
        Ok(Exit::Ok)
    }
}

impl Ls {
    pub(super) fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { place: Place { directory } } = self;
        let message = format!("cannot list `{}`", directory.display());
        let failed = |error: io::Error| Local::new(Exit::Other, message.clone()).cause(error.to_string());
        let mut roots = Vec::new();
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            entries => Some(entries.map_err(failed)?),
        };
        for entry in entries.into_iter().flatten() {
            let path = entry.map_err(failed)?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            if let (Some(name), Some("json")) = (stem, path.extension().and_then(|end| end.to_str())) {
                let root = read(fs::read_to_string(&path), &format!("cannot use `{}`", path.display()))?;
                roots.push(Root { name, source: path.display().to_string(), root });
            }
        }
        for name in ["public-good", "github"] {
            if let (false, Ok(name)) = (roots.iter().any(|root| root.name.as_str() == name), name.parse()) {
                let root = built_in_root(&name, &message)?;
                roots.extend(root.map(|root| Root { name, source: "built in".to_owned(), root }));
            }
        }
        roots.sort_by(|a, b| a.name.cmp(&b.name));
        session.printer.show(&Roots(roots))?;
        Ok(Exit::Ok)
    }
}

impl Show {
    pub(super) fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { name, place } = self;
        let message = format!("cannot show the root `{name}`");
        let path = place.of(&name);
        let (source, root) = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let none =
                    || Local::new(Exit::NotFound, message.clone()).cause(format!("`{}`: no such root", path.display()));
                ("built in".to_owned(), built_in_root(&name, &message)?.ok_or_else(none)?)
            }
            text => (path.display().to_string(), read(text, &message)?),
        };
        session.printer.show(&Text(Root { name, source, root }))?;
        Ok(Exit::Ok)
    }
}

impl Rm {
    pub(super) fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { name, place } = self;
        let path = place.of(&name);
        fs::remove_file(&path).map_err(|error| {
            let exit = if error.kind() == io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Other };
            Local::new(exit, format!("cannot remove the root `{name}`")).cause(format!("`{}`: {error}", path.display()))
        })?;
        session.printer.show(&Done { done: "removed", name, path })?;
        Ok(Exit::Ok)
    }
}

impl Place {
    fn of(&self, name: &Name) -> PathBuf {
        self.directory.join(format!("{name}.json"))
    }
}

fn read(text: io::Result<String>, message: &str) -> Result<TrustedRoot, Failure> {
    policy_root(text).map_err(|fault| {
        let cause = match fault {
            KeyFault::File(error) => error.to_string(),
            KeyFault::NotAKey(error) => error_chain(error.as_ref()),
        };
        Local::new(Exit::Usage, message).cause(cause).into()
    })
}

fn built_in_root(name: &Name, message: &str) -> Result<Option<TrustedRoot>, Failure> {
    let copy = built_in(&RootName::from(Path::new(name.as_str()).to_path_buf()));
    copy.map(|(_, copy)| read(Ok(copy.to_owned()), message)).transpose()
}

struct Root {
    name: Name,
    source: String,
    root: TrustedRoot,
}

impl Root {
    /// How many of a kind it has.
    fn count(&self, kind: &str) -> usize {
        let root: Value = serde_json::from_str(self.root.json()).unwrap_or_default();
        root.get(kind).and_then(Value::as_array).map_or(0, Vec::len)
    }

    fn item(&self) -> Value {
        json!({
            "name": self.name.to_string(),
            "source": self.source,
            "digest": self.root.digest().to_string(),
            "certificateAuthorities": self.count("certificateAuthorities"),
            "transparencyLogs": self.count("tlogs"),
            "timestampAuthorities": self.count("timestampAuthorities"),
        })
    }
}

struct Roots(Vec<Root>);

impl View for Roots {
    fn kind(&self) -> &'static str {
        "TrustedRoot"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(self.0.iter().map(Root::item).collect())
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|root| root.name.to_string()).collect()
    }

    fn text(&self) -> Vec<Block> {
        let rows = self.0.iter().map(|root| {
            let count = |kind| root.count(kind).to_string();
            let counts = ["certificateAuthorities", "tlogs", "timestampAuthorities"].map(count);
            [root.name.to_string()].into_iter().chain(counts).chain([root.source.clone()]).collect()
        });
        vec![Block::Table(&["ROOT", "AUTHORITIES", "LOGS", "TIMESTAMPS", "SOURCE"], rows.collect())]
    }

    fn nothing(&self) -> &'static str {
        "no roots"
    }
}

struct Text(Root);

impl View for Text {
    fn kind(&self) -> &'static str {
        "TrustedRoot"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(vec![self.0.item()])
    }

    fn names(&self) -> Vec<String> {
        vec![self.0.name.to_string()]
    }

    fn text(&self) -> Vec<Block> {
        vec![Block::Lines(self.0.root.json().lines().map(str::to_owned).collect())]
    }

    fn nothing(&self) -> &'static str {
        "no root"
    }
}

struct Done {
    done: &'static str,
    name: Name,
    path: PathBuf,
}

impl View for Done {
    fn kind(&self) -> &'static str {
        "TrustedRoot"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(vec![json!({ "name": self.name.to_string(), "source": self.path.display().to_string() })])
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.to_string()]
    }

    fn text(&self) -> Vec<Block> {
        let Self { done, name, path } = self;
        vec![Block::Lines(vec![format!("{done} {name} ({}); {RELOAD}", path.display())])]
    }

    fn nothing(&self) -> &'static str {
        "no root"
    }
}
