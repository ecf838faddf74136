//! What each request asks of whom, as the policy sees it. A new request says here which verbs it needs.
//!
//! This file must never decide.

use crate::policy::{Ask, Asked, SourceKind, Verb};
use crate::request::{
    AttachAsk, AttachRequest, Bytes, DetachRequest, DetachWhich, HookAsk, LoadRequest, UnloadRequest, UnloadWhich,
    UpdateRequest, OwnerScope,
};
use crate::state::{App, State};

/// Requests that only look.
#[derive(Clone, Copy, Debug)]
pub struct Look;

impl Ask for Look {
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

/// Bytes from the caller, to be loaded later.
#[derive(Clone, Copy, Debug)]
pub struct UploadAsk;

impl Ask for UploadAsk {
    fn asked(&self, _: &State) -> Vec<Asked> {
        vec![Asked { source: Some(SourceKind::Upload), ..Asked::verb(Verb::Load) }]
    }
}

fn attach_asked(attach: &AttachAsk, app: Option<&App>) -> Asked {
    let priority = match &attach.hook {
        HookAsk::Xdp { priority, .. } => *priority,
        HookAsk::Tracepoint(_) => None,
    };
    Asked { priority, ..Asked::app(Verb::Attach, app) }
}

impl Ask for LoadRequest {
    fn asked(&self, _: &State) -> Vec<Asked> {
        let source = match &self.bytes {
            Bytes::Image { .. } => SourceKind::Image,
            Bytes::Uploaded { .. } => SourceKind::Upload,
        };
        let load = Asked { source: Some(source), ..Asked::verb(Verb::Load) };
        std::iter::once(load).chain(self.attach.iter().map(|(attach, _)| attach_asked(attach, None))).collect()
    }
}

impl Ask for AttachRequest {
    fn asked(&self, state: &State) -> Vec<Asked> {
        vec![attach_asked(&self.attach, self.app.resolve(state).ok())]
    }
}

impl Ask for UpdateRequest {
    fn asked(&self, state: &State) -> Vec<Asked> {
        let link = Asked::link(Verb::Update, state, self.link.resolve(state).ok());
        vec![Asked { priority: self.priority, ..link }]
    }
}

impl Ask for DetachRequest {
    fn asked(&self, state: &State) -> Vec<Asked> {
        match &self.which {
            DetachWhich::Links(links) => {
                links.iter().map(|link| Asked::link(Verb::Detach, state, link.resolve(state).ok())).collect()
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
            UnloadWhich::Apps(apps) => {
                apps.iter().map(|app| Asked::app(Verb::Unload, app.resolve(state).ok())).collect()
            }
            UnloadWhich::All => vec![Asked::verb(Verb::Unload)],
        }
    }

    fn narrow(&mut self, owners: OwnerScope) {
        self.owners = owners;
    }
}
