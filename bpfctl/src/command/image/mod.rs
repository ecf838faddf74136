//! `bpfctl image`: images in registries, which the caller reads and writes with its own credentials, and images of the
//! daemon's store, which only the daemon touches.

mod archive;
mod attest;
mod build;
mod inspect;
mod labels;
mod lint;
mod push;
mod registry;
mod sign;
mod signing_key;
mod stored;
mod verify;
mod workshop;

use clap::{Args, Subcommand};

use crate::client::Session;
use crate::error::{Exit, Failure};
use crate::later::Later;

pub(super) use registry::{Place, failed, registries};
pub(super) use stored::Details;

/// Work with images
#[derive(Debug, Args)]
#[command(after_help = "\
`build`, `lint`, `labels`, `push`, `sign`, `attest`, `inspect` and `verify --key` need no daemon and no privilege, and use your own credentials. `pull`, \
`ls`, `tag`, `export`, `import`, `rm`, `prune` and `verify` without a key are done by the daemon, with its own.

Examples:
  bpfctl image build counter.o --tag registry/bpf/counter:1.2.0
  bpfctl image push registry/bpf/counter:1.2.0
  bpfctl image sign registry/bpf/counter:1.2.0 --key ci.key
  bpfctl image pull registry/bpf/counter:1.2.0")]
pub(crate) struct Image {
    #[command(subcommand)]
    verb: Later<ImageVerb>,
}

#[derive(Debug, Subcommand)]
enum ImageVerb {
    Build(build::Build),
    Lint(lint::Lint),
    Labels(labels::Labels),
    Push(push::Push),
    Sign(sign::Sign),
    Attest(attest::Attest),
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    Pull(stored::Pull),
    Ls(stored::Ls),
    Rm(stored::Rm),
    Prune(stored::Prune),
    Tag(stored::Tag),
    Export(archive::Export),
    Import(archive::Import),
}

impl Image {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        match self.verb.0 {
            ImageVerb::Build(verb) => verb.run(session),
            ImageVerb::Lint(verb) => verb.run(session),
            ImageVerb::Labels(verb) => verb.run(session),
            ImageVerb::Push(verb) => verb.run(session).await,
            ImageVerb::Sign(verb) => verb.run(session).await,
            ImageVerb::Attest(verb) => verb.run(session).await,
            ImageVerb::Inspect(verb) => verb.run(session).await,
            ImageVerb::Pull(verb) => verb.run(session).await,
            ImageVerb::Ls(verb) => verb.run(session).await,
            ImageVerb::Verify(verb) => verb.run(session).await,
            ImageVerb::Rm(verb) => verb.run(session).await,
            ImageVerb::Prune(verb) => verb.run(session).await,
            ImageVerb::Tag(verb) => verb.run(session).await,
            ImageVerb::Export(verb) => verb.run(session).await,
            ImageVerb::Import(verb) => verb.run(session).await,
        }
    }
}
