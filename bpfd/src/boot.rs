//! Apps that are loaded again, after a reboot or because their pins are gone: whether the policy of now lets their owners have them, and
//! whether the file that made them still declares them.
//!
//! Owners are asked for by name, since ids may have changed hands; images by the signatures that are stored with them.
//!
//! It must never ask anybody outside of the host.

use std::sync::Arc;

use bpfd_core::ident::BootId;
use bpfd_core::policy::confirm;
use bpfd_core::programs::gone;
use bpfd_core::state::{App, Change, Source, State};
use bpfd_policy::Policy;
use tokio::sync::watch;

use crate::images::Images;
use crate::programs::Programs;
use crate::repair::Judge;
use crate::rpc::principal_of;
use crate::store::{Store, StoreError};

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

/// Rows of apps that files made and do not declare any more go before they would be loaded again; not while an operation is to be ended
/// that may be about them, nor from a database that is not the one of the pins: then they go when the files are applied.
pub fn forget_undeclared(store: &mut Store, boot: BootId, files: &Programs) -> Result<(), StoreError> {
    if store.open_operation()?.is_some() {
        return Ok(());
    }
    let state = store.state(boot)?;
    let made_by = state.apps.values().filter_map(|app| app.origin.file()).map(|origin| origin.file.as_str());
    let gone = gone(&state, &files.names(), &files.unread(made_by));
    if gone.is_empty() {
        return Ok(());
    }
    let unload: Vec<Change> = gone.into_iter().map(Change::Unload).collect();
    let left = state.after(&unload).unwrap_or_else(|_all_are_there| state.clone());
    for app in state.apps.values().filter(|app| !left.apps.contains_key(&app.uid)) {
        tracing::info!(app = %app.name, "no file declares it any more: it is unloaded");
    }
    store.replace(boot, &state, &left)
}
