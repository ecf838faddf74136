//! `bpfctl get`: everything about one app, link or image, and the log of a failed load.

use bpfd_proto::v1::{self as pb, app_source};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::image::Details;
use super::views::{self, Apps, or_dash, or_none};
use crate::args::word;
use crate::client::{Client, ClientError, Session};
use crate::error::{Exit, Failure, Local};
use crate::later::Later;
use crate::output::{Block, View, message};

/// Show everything about one thing
#[derive(Debug, Args)]
#[command(after_help = "\
Without a word for the kind, NAME is an app's name, else a link's, else an image's.

Examples:
  bpfctl get counter
  bpfctl get app counter
  bpfctl get app counter -o json | jq -r '.items[0].maps[].pinPath'
  bpfctl get link counter/pass@eth0:xdp
  bpfctl get image registry/foo:tag")]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Get {
    #[command(subcommand)]
    what: Option<Later<What>>,
    /// An app, a link or an image: the first that is called so
    #[arg(value_parser = word, required = true)]
    name: Option<String>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// An app: its source, programs, maps and links
    #[command(after_help = "\
Examples:
  bpfctl get app counter
  bpfctl get app counter -o json | jq -r '.items[0].maps[].pinPath'")]
    App {
        /// Its name or uid
        #[arg(value_parser = word)]
        name: String,
    },
    /// A link: its hook, place and state
    #[command(after_help = "\
Examples:
  bpfctl get link counter/pass@eth0:xdp
  bpfctl get link counter/pass@eth0:xdp -o json | jq -r '.items[0].state'")]
    Link {
        /// Its name or uid
        #[arg(value_parser = word)]
        name: String,
    },
    /// An image of the daemon's store: its programs, maps and globals
    #[command(after_help = "\
Examples:
  bpfctl get image registry/foo:tag
  bpfctl get image registry/foo:tag -o json | jq -r '.items[0].globals[].name'")]
    Image {
        /// Its reference or digest
        #[arg(value_parser = word)]
        name: String,
    },
    /// The verifier's log of a failed load
    #[command(after_help = "\
Examples:
  bpfctl get log 7f3a
  bpfctl get log 7f3a > verifier.log")]
    Log {
        /// As the error named it
        #[arg(value_parser = word)]
        id: String,
    },
}

impl Get {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let mut client = session.client().await?;
        let what = match (self.what, self.name) {
            (Some(Later(what)), _) => what,
            (None, name) => return Self::called(session, &mut client, name.unwrap_or_default()).await,
        };
        match what {
            What::App { name } => app(session, &mut client, name).await?,
            What::Link { name } => link(session, &mut client, name).await?,
            What::Image { name } => image(session, &mut client, name).await?,
            What::Log { id } => {
                let mut log = String::new();
                client.load_log(id, |piece| log.push_str(piece)).await?;
                let lines = log.lines().map(str::to_owned).collect();
                session.printer.show(&Log(lines))?;
            }
        }
        Ok(Exit::Ok)
    }
}

impl Get {
    /// Whatever has the name: an app, else a link, else an image of the store.
    async fn called(session: &Session, client: &mut Client, name: String) -> Result<Exit, Failure> {
        let absent = |error: &ClientError| matches!(error.exit(), Exit::NotFound | Exit::Usage);
        match app(session, client, name.clone()).await {
            Err(Failure::Daemon(error)) if absent(&error) => {}
            shown => return shown.map(|()| Exit::Ok),
        }
        match link(session, client, name.clone()).await {
            // A name that fits several links says so.
            Err(Failure::Daemon(error)) if error.exit() == Exit::NotFound => {}
            shown => return shown.map(|()| Exit::Ok),
        }
        match image(session, client, name.clone()).await {
            Err(Failure::Daemon(error)) if absent(&error) => Err(Local::new(
                Exit::NotFound,
                format!("no app, link or stored image `{name}`"),
            )
            .hint("`bpfctl list` shows apps and links, `bpfctl image ls` images; `bpfctl get log ID` prints a log")
            .into()),
            shown => shown.map(|()| Exit::Ok),
        }
    }
}

async fn app(session: &Session, client: &mut Client, name: String) -> Result<(), Failure> {
    let app = client.app(pb::GetAppRequest { app: name }).await?;
    let request = pb::ListLinksRequest { app: Some(app.uid.clone()), ..Default::default() };
    let links = client.links(request).await?;
    session.printer.show(&App { app, links })
}

async fn link(session: &Session, client: &mut Client, name: String) -> Result<(), Failure> {
    let link = client.link(pb::GetLinkRequest { link: name }).await?;
    session.printer.show(&Link(link))
}

async fn image(session: &Session, client: &mut Client, name: String) -> Result<(), Failure> {
    let image = client.inspect(pb::InspectImageRequest { image: name }).await?;
    session.printer.show(&Details(image))
}

struct App {
    app: pb::App,
    links: Vec<pb::Link>,
}

impl View for App {
    fn kind(&self) -> &'static str {
        "App"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(vec![message(&self.app)?])
    }

    fn names(&self) -> Vec<String> {
        vec![self.app.name.clone()]
    }

    fn text(&self) -> Vec<Block> {
        let app = &self.app;
        let mut facts = vec![
            ("name", app.name.clone()),
            ("uid", app.uid.clone()),
            ("state", with_cause(views::app_state(app.state()), &app.cause)),
            ("source", views::source(app.source.as_ref())),
        ];
        if let Some(source) = &app.source {
            if let Some(app_source::Source::Image(image)) = &source.source {
                facts.push(("digest", image.digest.clone()));
                facts.push(("signers", or_dash(&image.signers.join(", "))));
            }
            facts.push(("object", format!("sha256:{}", source.object_sha256)));
        }
        facts.push(("reach", views::lower(app.reach().as_str_name(), "REACH_")));
        facts.extend(app.owner.as_ref().map(|owner| ("owner", owner_text(owner))));
        facts.push(("persist", yes_or_no(app.persist)));
        if !app.program_file.is_empty() {
            facts.push(("file", app.program_file.clone()));
        }
        facts.extend(app.create_time.as_ref().map(|time| ("loaded", time.to_string())));
        facts.extend(
            app.globals.iter().map(|pb::GlobalSetting { name, value }| ("global", format!("{name} = {value}"))),
        );
        facts.extend(app.user_labels.iter().map(|(key, value)| ("label", format!("{key}={value}"))));
        let maps = app.maps.iter().map(|map| {
            let pb::Map { name, r#type, key_size, value_size, max_entries, kernel_id, pin_path, shared_from: _ } = map;
            vec![
                name.clone(),
                r#type.clone(),
                key_size.to_string(),
                value_size.to_string(),
                max_entries.to_string(),
                or_none(*kernel_id),
                or_none(pin_path.as_deref()),
            ]
        });
        let shared = app.maps.iter().filter_map(|map| Some((map, map.shared_from.as_ref()?)));
        facts.extend(shared.map(|(map, from)| ("shares", format!("map {} of app {}", map.name, from.app))));
        let programs = app.programs.iter().map(|program| {
            let pb::Program { function, section, r#type: _, kernel_id, tag, verified_instructions, handle: _ } =
                program;
            vec![
                function.clone(),
                section.clone(),
                views::program_type(program.r#type()),
                or_none(*kernel_id),
                or_dash(tag),
                or_none(*verified_instructions),
            ]
        });
        let mut blocks = vec![
            Block::Facts(facts),
            Block::Table(&["FUNCTION", "SECTION", "TYPE", "KERNEL-ID", "TAG", "INSNS"], programs.collect()),
            Block::Table(&["MAP", "TYPE", "KEY", "VALUE", "MAX", "KERNEL-ID", "PIN"], maps.collect()),
        ];
        if !self.links.is_empty() {
            blocks.extend(Apps { apps: vec![app.clone()], links: self.links.clone() }.text());
        }
        blocks
    }

    fn nothing(&self) -> &'static str {
        "no app"
    }
}

struct Link(pb::Link);

impl View for Link {
    fn kind(&self) -> &'static str {
        "Link"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(vec![message(&self.0)?])
    }

    fn names(&self) -> Vec<String> {
        vec![self.0.name.clone()]
    }

    fn text(&self) -> Vec<Block> {
        let link = &self.0;
        let mut facts = vec![
            ("name", link.name.clone()),
            ("uid", link.uid.clone()),
            ("state", with_cause(views::link_state(link.state()), &link.cause)),
            ("program", format!("{}/{}", link.app, link.function)),
            ("hook", views::place_of(link)),
            ("priority", priority(link)),
            ("proceed on", views::proceed_on(link.proceed_on.as_ref())),
            ("position", or_none(link.position)),
            ("xdp mode", views::lower(link.xdp_mode().as_str_name(), "XDP_MODE_")),
            ("kernel id", or_none(link.kernel_program_id)),
            ("owner", format!("uid {}", link.owner_uid)),
            ("persist", yes_or_no(link.persist)),
        ];
        facts.extend(link.create_time.as_ref().map(|time| ("attached", time.to_string())));
        vec![Block::Facts(facts)]
    }

    fn nothing(&self) -> &'static str {
        "no link"
    }
}

/// As asked for, and where an order of the policy has it.
fn priority(link: &pb::Link) -> String {
    match link.order.as_str() {
        "" => or_none(link.priority),
        order => {
            format!(
                "{}, by order `{order}`; {} was asked for",
                or_none(link.effective_priority),
                or_none(link.priority)
            )
        }
    }
}

struct Log(Vec<String>);

impl View for Log {
    fn kind(&self) -> &'static str {
        "LoadLogLine"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(self.0.iter().map(|line| Value::from(line.as_str())).collect())
    }

    fn names(&self) -> Vec<String> {
        self.0.clone()
    }

    fn text(&self) -> Vec<Block> {
        vec![Block::Lines(self.0.clone())]
    }

    fn nothing(&self) -> &'static str {
        "the log is empty"
    }
}

fn with_cause(state: String, cause: &str) -> String {
    if cause.is_empty() { state } else { format!("{state}: {cause}") }
}

fn yes_or_no(it_is: bool) -> String {
    if it_is { "yes" } else { "no" }.to_owned()
}

fn owner_text(owner: &pb::Owner) -> String {
    match &owner.user {
        Some(user) => format!("{user} (uid {})", owner.uid),
        None => format!("uid {}", owner.uid),
    }
}
