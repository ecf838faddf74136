//! `--wait` of `load` and `attach`: links are looked at until all of them are attached.

use std::time::Duration;

use bpfd_proto::v1 as pb;

use super::views::link_state;
use crate::client::Client;
use crate::error::{Exit, Failure, Local};

/// From one look to the next: as soon as a person notices, and nothing that a daemon does.
const PAUSE: Duration = Duration::from_millis(100);

/// The same links once they are attached, or an error if one of them will not be. `--timeout` ends the wait.
pub(super) async fn until_attached(client: &mut Client, mut links: Vec<pb::Link>) -> Result<Vec<pb::Link>, Failure> {
    while let Some(link) = links.iter().find(|link| link.state() != pb::LinkState::Attached) {
        if link.state() != pb::LinkState::Waiting {
            let failure = Local::new(Exit::Drift, format!("`{}` is {}", link.name, link_state(link.state())));
            return Err(failure.cause(link.cause.clone()).hint("`bpfctl doctor` says more").into());
        }
        tokio::time::sleep(PAUSE).await;
        for link in &mut links {
            *link = client.link(pb::GetLinkRequest { link: link.uid.clone() }).await?;
        }
    }
    Ok(links)
}
