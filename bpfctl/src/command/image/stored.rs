//! Images of the daemon's store: pull, ls, tag, rm, and how they look. The daemon fetches and judges; nothing here does.

use bpfd_proto::v1 as pb;
use bytecode_image::reference::Reference;
use clap::Args;
use indicatif::HumanBytes;
use serde_json::Value;

use crate::args::word;
use crate::client::{Session, request_id};
use crate::command::load;
use crate::command::views::{or_dash, or_none, short_digest};
use crate::error::{Exit, Failure};
use crate::listing::Listing;
use crate::output::{Block, View, message, messages, warnings};
use crate::progress::Progress;

/// Have the daemon fetch an image into its store
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bpfctl image pull registry/bpf/counter:1.2.0
  bpfctl image pull --pull always registry/bpf/counter:latest")]
pub(super) struct Pull {
    /// The image, with its registry's host
    reference: Reference,
    /// When to ask the registry [default: newer]
    #[arg(long, value_name = "WHEN", value_parser = load::pull_policy())]
    pull: Option<pb::PullPolicy>,
}

impl Pull {
    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self { reference, pull } = self;
        let request = pb::PullRequest {
            request_id: request_id(),
            reference: reference.to_string(),
            pull: pull.unwrap_or_default().into(),
        };
        let mut client = session.client().await?;
        let mut progress = Progress::new(session);
        let result = client.pull(request, |state| progress.state(&state)).await;
        drop(progress);
        let pb::PullResult { image, warnings: remarks } = result?;
        warnings(&remarks);
        session.printer.show(&Images(image.into_iter().collect()))?;
        Ok(Exit::Ok)
    }
}

/// List the images of the daemon's store
#[derive(Debug, Args)]
#[command(
    visible_alias = "list",
    after_help = "\
TRUSTED and SIGNERS are by the policy of now.

Examples:
  bpfctl image ls
  bpfctl image ls --sort -size
  bpfctl image ls --filter trusted=false -o name
  bpfctl image ls -o json | jq -r '.items[] | select(.trusted | not) | .reference'"
)]
pub(super) struct Ls {
    #[command(flatten)]
    listing: Listing,
}

impl Ls {
    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let selection = self.listing.of::<pb::Image>()?;
        let images = session.client().await?.images(pb::ListImagesRequest::default()).await?;
        session.printer.show(&Images(selection.apply(images)?))?;
        Ok(Exit::Ok)
    }
}

/// Give an image of the daemon's store one more name
#[derive(Debug, Args)]
#[command(after_help = "\
The image must pass the policy under the new name. Only root lets a name that exists lead to another image, or gives an unsigned image a \
name: no registry says that it is called so.

Examples:
  bpfctl image tag registry/bpf/counter:1.2.0 registry/bpf/counter:stable
  bpfctl image tag registry/bpf/counter:1.2.0 mirror.example/bpf/counter:1.2.0")]
pub(super) struct Tag {
    /// A reference or a digest
    #[arg(value_parser = word)]
    source: String,
    /// The name, with the registry's host
    target: Reference,
}

impl Tag {
    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let request =
            pb::TagImageRequest { request_id: request_id(), image: self.source, name: self.target.to_string() };
        let tagged = session.client().await?.tag_image(request).await?;
        session.printer.show(&Images(tagged.image.into_iter().collect()))?;
        Ok(Exit::Ok)
    }
}

/// Remove the images of the daemon's store that nothing needs
#[derive(Debug, Args)]
#[command(after_help = "\
An image is needed if an app came from it, or if a file of programs.d names it. Above 512 MiB the daemon itself removes what was used \
longest ago and nothing needs.

Examples:
  bpfctl image prune --dry-run
  bpfctl image prune")]
pub(super) struct Prune {
    /// Say what would go, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

impl Prune {
    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let request = pb::RemoveImagesRequest {
            request_id: request_id(),
            validate_only: self.dry_run,
            images: vec![],
            unused: true,
        };
        let removed = session.client().await?.remove_images(request).await?;
        let done = if self.dry_run { Done::Would } else { Done::Has };
        session.printer.show(&Removed(removed, done))?;
        Ok(Exit::Ok)
    }
}

/// Remove images from the daemon's store
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bpfctl image rm registry/bpf/counter:1.2.0
  bpfctl image rm $(bpfctl image ls -q)")]
pub(super) struct Rm {
    /// References or digests
    #[arg(value_parser = word, required = true, num_args = 1..=64)]
    image: Vec<String>,
}

impl Rm {
    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let request = pb::RemoveImagesRequest {
            request_id: request_id(),
            validate_only: false,
            images: self.image,
            unused: false,
        };
        let removed = session.client().await?.remove_images(request).await?;
        session.printer.show(&Removed(removed, Done::Has))?;
        Ok(Exit::Ok)
    }
}

pub(super) struct Images(pub(super) Vec<pb::Image>);

impl View for Images {
    fn kind(&self) -> &'static str {
        "Image"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        messages(&self.0)
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|image| image.reference.clone()).collect()
    }

    fn text(&self) -> Vec<Block> {
        let rows = self.0.iter().map(|image| {
            vec![
                image.reference.clone(),
                short_digest(&image.digest),
                HumanBytes(image.size_bytes).to_string(),
                if image.trusted { "yes" } else { "NO" }.to_owned(),
                or_dash(&image.signers.join(",")),
                or_dash(&image.apps.join(",")),
            ]
        });
        vec![Block::Table(&["IMAGE", "DIGEST", "SIZE", "TRUSTED", "SIGNERS", "APPS"], rows.collect())]
    }

    fn wide(&self) -> Vec<Block> {
        let rows = self.0.iter().map(|image| {
            vec![
                image.reference.clone(),
                image.digest.clone(),
                HumanBytes(image.size_bytes).to_string(),
                if image.trusted { "yes" } else { "NO" }.to_owned(),
                or_dash(&image.signers.join(",")),
                or_dash(&image.apps.join(",")),
                or_none(image.pull_time.as_ref()),
                format!("sha256:{}", image.object_sha256),
            ]
        });
        let columns = &["IMAGE", "DIGEST", "SIZE", "TRUSTED", "SIGNERS", "APPS", "PULLED", "OBJECT"];
        vec![Block::Table(columns, rows.collect())]
    }

    fn nothing(&self) -> &'static str {
        "no images"
    }
}

/// What was judged of an image.
pub(super) struct Verdict(pub(super) pb::VerifyImageResponse);

impl View for Verdict {
    fn kind(&self) -> &'static str {
        "VerifyImageResponse"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(vec![message(&self.0)?])
    }

    fn names(&self) -> Vec<String> {
        vec![self.0.digest.clone()]
    }

    fn text(&self) -> Vec<Block> {
        let pb::VerifyImageResponse { trusted, scope, signers, findings, digest, sections } = &self.0;
        let facts = vec![
            ("digest", digest.clone()),
            ("trusted", if *trusted { "yes" } else { "no" }.to_owned()),
            ("scope", or_dash(scope)),
            ("signers", or_dash(&signers.join(", "))),
        ];
        let rows = sections.iter().flat_map(|section| {
            let pb::ImageSection { scope, applies, why, requirements } = section;
            let decides = if *applies { "decides" } else { "-" };
            let requirements = requirements.iter().map(|row| {
                let holds = if row.holds { "holds" } else { "FAILS" };
                vec![String::new(), holds.to_owned(), row.requirement.clone(), row.why.clone()]
            });
            std::iter::once(vec![scope.clone(), decides.to_owned(), "-".to_owned(), why.clone()]).chain(requirements)
        });
        let mut blocks = vec![Block::Facts(facts), Block::Lines(findings.clone())];
        if !sections.is_empty() {
            blocks.push(Block::Table(&["SCOPE", "OUTCOME", "REQUIREMENT", "WHY"], rows.collect()));
        }
        blocks
    }

    fn nothing(&self) -> &'static str {
        "no verdict"
    }
}

struct Removed(pb::RemoveImagesResponse, Done);

/// Whether it is done.
enum Done {
    Has,
    Would,
}

impl View for Removed {
    fn kind(&self) -> &'static str {
        "RemoveImagesResponse"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(vec![message(&self.0)?])
    }

    fn names(&self) -> Vec<String> {
        self.0.images.clone()
    }

    fn text(&self) -> Vec<Block> {
        let (gone, room) = match self.1 {
            Done::Has => ("removed", "freed"),
            Done::Would => ("would remove", "would free at most"),
        };
        let removed = self.0.images.iter().map(|image| format!("{gone} {image}"));
        let freed = format!("{room} {}", HumanBytes(self.0.freed_bytes));
        vec![Block::Lines(removed.chain([freed]).collect())]
    }

    fn nothing(&self) -> &'static str {
        "nothing removed"
    }
}

/// What is in an image.
pub(in crate::command) struct Details(pub(in crate::command) pb::InspectImageResponse);

impl View for Details {
    fn kind(&self) -> &'static str {
        "InspectImageResponse"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        Ok(vec![message(&self.0)?])
    }

    fn names(&self) -> Vec<String> {
        self.0.image.iter().map(|image| image.reference.clone()).collect()
    }

    fn text(&self) -> Vec<Block> {
        let pb::InspectImageResponse { image, name, version, license, platform, programs, maps, globals } = &self.0;
        let mut facts = Vec::new();
        if let Some(image) = image {
            facts.push(("image", image.reference.clone()));
            facts.push(("digest", image.digest.clone()));
            facts.push(("object", format!("sha256:{}", image.object_sha256)));
            facts.push(("trusted", if image.trusted { "yes" } else { "NO" }.to_owned()));
            facts.push(("signers", or_dash(&image.signers.join(", "))));
        }
        facts.push(("name", or_dash(name)));
        facts.push(("version", or_dash(version)));
        facts.push(("license", or_dash(license)));
        facts.push(("platform", or_dash(platform)));
        let programs = programs.iter().map(|program| {
            let pb::ImageProgram { function, section, r#type, priority, proceed_on, optional, doc: _ } = program;
            vec![
                function.clone(),
                section.clone(),
                r#type.clone(),
                or_none(*priority),
                or_dash(&proceed_on.join(",")),
                if *optional { "optional" } else { "loaded" }.to_owned(),
            ]
        });
        let maps = maps.iter().map(|map| {
            let pb::ImageMap { name, r#type, key_size, value_size, max_entries } = map;
            vec![name.clone(), r#type.clone(), key_size.to_string(), value_size.to_string(), max_entries.to_string()]
        });
        let globals = globals.iter().map(|global| {
            let pb::ImageGlobal { name, r#type, read_only, doc } = global;
            vec![
                name.clone(),
                r#type.clone(),
                if *read_only { "constant" } else { "variable" }.to_owned(),
                or_dash(doc),
            ]
        });
        vec![
            Block::Facts(facts),
            Block::Table(&["FUNCTION", "SECTION", "TYPE", "PRIO", "PROCEED-ON", "DEFAULT"], programs.collect()),
            Block::Table(&["MAP", "TYPE", "KEY", "VALUE", "MAX"], maps.collect()),
            Block::Table(&["GLOBAL", "TYPE", "KIND", "DOC"], globals.collect()),
        ]
    }

    fn nothing(&self) -> &'static str {
        "no image"
    }
}
