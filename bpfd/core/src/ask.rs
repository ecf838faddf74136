//! What each request asks of whom, as the policy sees it. A new request says here which verbs it needs.
//!
//! This file must never decide.

use crate::adopt::Decision;
use crate::policy::{Ask, Asked, SourceKind, Verb, load_of, on_app, on_chain, on_link};
use crate::request::{
    AttachAsk, AttachRequest, Bytes, DetachRequest, DetachWhich, LoadRequest, OwnerScope, PersistRequest,
    RebuildRequest, UnloadRequest, UnloadWhich, UpdateRequest,
};
use crate::state::{App, State};

/// Requests that only look.
#[derive(Clone, Copy, Debug)]
pub struct Look<T>(pub T);

impl<T> Ask for Look<T> {
    fn asked(&self, _: &State) -> Vec<Asked> {
        vec![Asked::verb(Verb::List)]
    }
}

/// Requests that bring an image here, or take it away.
#[derive(Clone, Debug)]
pub struct PullAsk(pub String);

impl Ask for PullAsk {
    fn asked(&self, _: &State) -> Vec<Asked> {
        vec![Asked::verb(Verb::Pull)]
    }
}

/// Requests that change who is trusted.
#[derive(Clone, Debug)]
pub struct TrustAsk<T>(pub T);

impl<T> Ask for TrustAsk<T> {
    fn asked(&self, _: &State) -> Vec<Asked> {
        vec![Asked::verb(Verb::Trust)]
    }
}

/// The decision about a state that was lost.
#[derive(Clone, Copy, Debug)]
pub struct RecoverAsk(pub Decision);

impl Ask for RecoverAsk {
    fn asked(&self, _: &State) -> Vec<Asked> {
        vec![Asked::verb(Verb::Recover)]
    }
}

/// Bytes from the caller, to be loaded later.
#[derive(Clone, Copy, Debug)]
pub struct UploadAsk;

impl Ask for UploadAsk {
    fn asked(&self, _: &State) -> Vec<Asked> {
        vec![load_of(SourceKind::Upload)]
    }
}

fn attach_asked(attach: &AttachAsk, app: Option<&App>) -> Asked {
    Asked { priority: attach.hook.priority().map(u32::from), ..on_app(Verb::Attach, app) }
}

impl Ask for LoadRequest {
    fn asked(&self, state: &State) -> Vec<Asked> {
        let source = match &self.bytes {
            Bytes::Image { .. } => SourceKind::Image,
            Bytes::Uploaded { .. } => SourceKind::Upload,
        };
        std::iter::once(load_of(source))
            .chain(self.attach.iter().map(|(attach, _)| attach_asked(attach, None)))
            .chain(self.map_from.iter().map(|from| on_app(Verb::Share, from.app.resolve(state).ok())))
            .collect()
    }
}

impl Ask for AttachRequest {
    fn asked(&self, state: &State) -> Vec<Asked> {
        vec![attach_asked(&self.attach, self.app.resolve(state).ok())]
    }
}

impl Ask for UpdateRequest {
    fn asked(&self, state: &State) -> Vec<Asked> {
        let link = on_link(Verb::Update, state, self.link.resolve(state).ok());
        vec![Asked { priority: self.priority.map(u32::from), ..link }]
    }
}

impl Ask for RebuildRequest {
    fn asked(&self, state: &State) -> Vec<Asked> {
        match state.chain_called(&self.chain) {
            Some(chain) => on_chain(state, &chain),
            None => vec![Asked::verb(Verb::Update)],
        }
    }
}

impl Ask for PersistRequest {
    fn asked(&self, state: &State) -> Vec<Asked> {
        vec![on_app(Verb::Update, self.app.resolve(state).ok())]
    }

    fn narrow(&mut self, owners: OwnerScope) {
        self.owners = owners;
    }
}

impl Ask for DetachRequest {
    fn asked(&self, state: &State) -> Vec<Asked> {
        match &self.which {
            DetachWhich::Links(links) => {
                links.iter().map(|link| on_link(Verb::Detach, state, link.resolve(state).ok())).collect()
            }
            DetachWhich::All(_) => vec![Asked::verb(Verb::Detach)],
        }
    }

    fn narrow(&mut self, owners: OwnerScope) {
        self.owners = owners;
    }
}

impl Ask for UnloadRequest {
    fn asked(&self, state: &State) -> Vec<Asked> {
        match &self.which {
            UnloadWhich::Apps(apps) => apps.iter().map(|app| on_app(Verb::Unload, app.resolve(state).ok())).collect(),
            UnloadWhich::All => vec![Asked::verb(Verb::Unload)],
        }
    }

    fn narrow(&mut self, owners: OwnerScope) {
        self.owners = owners;
    }
}
