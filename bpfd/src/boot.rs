//! Apps that are loaded again, after a reboot or because their pins are gone: whether the policy of now lets their owners have them.
//! Owners are asked for by name, since ids may have changed hands; images by the signatures that are stored with them.
//!
//! It must never ask anybody outside of the host, nor change anything.

use std::sync::Arc;

use bpfd_core::policy::confirm;
use bpfd_core::state::{App, Change, Source, State};
use bpfd_policy::Policy;
use tokio::sync::watch;

use crate::images::Images;
use crate::repair::Judge;
use crate::rpc::principal_of;

/// The judge of a start.
pub fn judge(policy: watch::Receiver<Arc<Policy>>, images: Arc<Images>) -> Box<Judge> {
    Box::new(move |state, app| {
        let policy = policy.borrow().clone();
        judged(&policy, state, app)?;
        match &app.source {
            Source::Upload => Ok(()),
            Source::Image { reference, digest, signers: _ } => match images.refused(reference, digest) {
                Some(why) => Err(why),
                None => Ok(()),
            },
        }
    })
}

/// The owner of an app, and of each of its links, is asked for what made it.
fn judged(policy: &Policy, state: &State, app: &App) -> Result<(), String> {
    let load = std::iter::once((&app.owner, Change::Load(app.clone())));
    let links = state.links_of(app.uid).map(|link| (&link.owner, Change::Attach(link.clone())));
    for (owner, change) in load.chain(links) {
        if owner.uid == 0 {
            continue;
        }
        let principal = principal_of(owner).map_err(|error| format!("cannot read the user database: {error}"))?;
        let principal = principal.ok_or_else(|| format!("there is no user `{owner}`"))?;
        confirm(policy, &principal, state, &[change]).map_err(|denied| denied.to_string())?;
    }
    Ok(())
}
