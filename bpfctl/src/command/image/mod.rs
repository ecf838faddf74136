//! `bpfctl image`: images in registries, which the caller reads and writes with its own credentials, and images of the
//! daemon's store, which only the daemon touches.

mod stored;

use clap::{Args, Subcommand};

use crate::client::Session;
use crate::error::{Exit, Failure};

pub(super) use stored::Details;

/// Work with images
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bpfctl image pull registry/foo:tag
  bpfctl image ls
  bpfctl image verify registry/foo:tag
  bpfctl image rm registry/foo:tag")]
pub(crate) struct Image {
    #[command(subcommand)]
    verb: ImageVerb,
}

#[derive(Debug, Subcommand)]
enum ImageVerb {
    Pull(stored::Pull),
    Ls(stored::Ls),
    Verify(stored::Verify),
    Rm(stored::Rm),
}

impl Image {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        match self.verb {
            ImageVerb::Pull(verb) => verb.run(session).await,
            ImageVerb::Ls(verb) => verb.run(session).await,
            ImageVerb::Verify(verb) => verb.run(session).await,
            ImageVerb::Rm(verb) => verb.run(session).await,
        }
    }
}
