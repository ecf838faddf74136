//! What each request asks of whom, as the policy sees it. A new request says here which verbs it needs.
//!
//! This file must never decide.

use crate::policy::{Ask, Asked, SourceKind, Verb};
use crate::request::{
    AttachAsk, AttachRequest, Bytes, DetachRequest, DetachWhich, HookAsk, LoadRequest, UnloadRequest, UnloadWhich,
    UpdateRequest,
};
use crate::state::{Owner, State};

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

fn attach_asked(attach: &AttachAsk, owner: Option<Owner>) -> Asked {
    let priority = match &attach.hook {
        HookAsk::Xdp { priority, .. } => *priority,
        HookAsk::Tracepoint(_) => None,
    };
    Asked { priority, owner, ..Asked::verb(Verb::Attach) }
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
        let owner = self.app.resolve(state).ok().map(|app| app.owner.clone());
        vec![attach_asked(&self.attach, owner)]
    }
}

impl Ask for UpdateRequest {
    fn asked(&self, state: &State) -> Vec<Asked> {
        let owner = self.link.resolve(state).ok().map(|link| link.owner.clone());
        vec![Asked { priority: self.priority, owner, ..Asked::verb(Verb::Update) }]
    }
}

impl Ask for DetachRequest {
    fn asked(&self, state: &State) -> Vec<Asked> {
        let owners: Vec<Option<Owner>> = match &self.which {
            DetachWhich::Links(links) => {
                links.iter().map(|link| link.resolve(state).ok().map(|link| link.owner.clone())).collect()
            }
            DetachWhich::All(chain) => {
                let of_chain = state.links.values().filter(|link| link.placement.chain() == Some(chain));
                of_chain.map(|link| Some(link.owner.clone())).collect()
            }
        };
        owners.into_iter().map(|owner| Asked { owner, ..Asked::verb(Verb::Detach) }).collect()
    }
}

impl Ask for UnloadRequest {
    fn asked(&self, state: &State) -> Vec<Asked> {
        let owners: Vec<Option<Owner>> = match &self.which {
            UnloadWhich::Apps(apps) => {
                apps.iter().map(|app| app.resolve(state).ok().map(|app| app.owner.clone())).collect()
            }
            UnloadWhich::All => state.apps.values().map(|app| Some(app.owner.clone())).collect(),
        };
        owners.into_iter().map(|owner| Asked { owner, ..Asked::verb(Verb::Unload) }).collect()
    }
}
