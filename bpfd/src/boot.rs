//! Apps that are loaded again, after a reboot or because their pins are gone: whether the policy of now lets their owners have them, and
//! whether the file that made them still declares them.
//!
//! Owners are asked for by name, since ids may have changed hands, with the groups that they are in now; images by the signatures that
//! are stored with them.
//!
//! It must never ask anybody outside of the host.

use std::sync::Arc;

use bpfd_core::describe::{apps, describe};
use bpfd_core::ident::BootId;
use bpfd_core::policy::{Credentials, Principal};
use bpfd_core::programs::gone;
use bpfd_core::state::{Change, Owner, Source};
use bpfd_core::unauthorised::{Unauthorised, refused_again};
use bpfd_policy::Policy;
use tokio::sync::watch;

use crate::audit::{AuditSink, Kind, result};
use crate::images::Images;
use crate::programs::Programs;
use crate::repair::Judge;
use crate::rpc::principal_of;
use crate::store::{Store, StoreError};

/// The judge of a start.
pub fn judge(policy: watch::Receiver<Arc<Policy>>, images: Arc<Images>) -> Box<Judge> {
    Box::new(move |state, observed| {
        let policy = policy.borrow().clone();
        let mut refused: Unauthorised = refused_again(&policy, state, observed, &maker);
        let missing = state.apps.values().filter(|app| !observed.apps.contains_key(&app.uid));
        for app in missing {
            if let (Source::Image { reference, digest, signers: _ }, None) = (&app.source, refused.apps.get(&app.uid))
                && let Some(why) = images.refused(reference, digest)
            {
                refused.refuse(state, app.uid, &why);
            }
        }
        refused
    })
}

/// The owner as it is now. Root needs no user database, and a unit is what it was.
fn maker(owner: &Owner, credentials: Option<&Credentials>) -> Result<Principal, String> {
    if owner.uid == 0 {
        return Ok(Principal::maker(owner, credentials));
    }
    let principal = principal_of(owner).map_err(|error| format!("cannot read the user database: {error}"))?;
    let mut principal = principal.ok_or_else(|| format!("there is no user `{owner}`"))?;
    principal.credentials.unit = credentials.map(|known| known.unit.clone()).unwrap_or_default();
    Ok(principal)
}

/// Rows of apps that files made and do not declare any more go before they would be loaded again; not while an operation is to be ended
/// that may be about them, nor from a database that is not the one of the pins: then they go when the files are applied.
pub fn forget_undeclared(
    store: &mut Store,
    audit: &mut dyn AuditSink,
    boot: BootId,
    files: &Programs,
) -> Result<(), StoreError> {
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
    let changes: Vec<String> = describe(&state, &left, &unload)
        .into_iter()
        .map(|change| format!("{change}: no file declares it any more"))
        .collect();
    changes.iter().for_each(|change| tracing::info!("{change}"));
    let operation = audit.begin_own(Kind::Repair, &changes, &apps(&state, &left, &unload), None);
    let done = store.replace(boot, &state, &left);
    audit.ended(operation, &result(&done));
    done
}
