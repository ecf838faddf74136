//! What each request asks of whom, as the policy sees it. A new request says here which verbs it needs.
//!
//! This file must never decide.

use crate::adopt::Decision;
use crate::facts::{hook_asked, map_owner, on_app, on_chain, on_link, source_asked, whole};
use crate::policy::{Ask, Asked, SourceFacts, Verb};
use crate::request::{
    AppRef, AttachAsk, AttachRequest, DetachRequest, DetachWhich, LinkRef, LoadRequest, OwnerScope, PersistRequest,
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

/// Requests about what the maps of an app hold.
#[derive(Clone, Debug)]
pub struct MapAsk {
    /// Whose maps; `None`: anybody's, each to be asked about alone.
    pub app: Option<AppRef>,
    /// What is done with them.
    pub access: MapAccess,
}

/// What is done with a map.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MapAccess {
    /// Its elements are read.
    Read,
    /// Its elements are changed.
    Write,
    /// Its records are read, which takes them out of it.
    Consume,
}

impl Ask for MapAsk {
    fn asked(&self, state: &State) -> Vec<Asked> {
        let verbs: &[Verb] = match self.access {
            MapAccess::Read => &[Verb::MapRead],
            MapAccess::Write => &[Verb::MapWrite],
            MapAccess::Consume => &[Verb::MapRead, Verb::MapWrite],
        };
        let app = self.app.as_ref().and_then(|app| app.resolve(state).ok());
        verbs.iter().map(|verb| on_app(*verb, app)).collect()
    }
}

/// Requests that bring an image here.
#[derive(Clone, Debug)]
pub struct PullAsk(pub String);

impl Ask for PullAsk {
    fn asked(&self, _: &State) -> Vec<Asked> {
        vec![pull_of(&self.0)]
    }
}

/// Requests that take images away, by reference or digest.
#[derive(Clone, Debug)]
pub struct RemoveImagesAsk(pub Vec<String>);

impl Ask for RemoveImagesAsk {
    fn asked(&self, _: &State) -> Vec<Asked> {
        self.0.iter().map(|image| pull_of(image)).collect()
    }
}

/// Requests that give an image of the store another name.
#[derive(Clone, Debug)]
pub struct TagImageAsk {
    /// The image, by reference or digest.
    pub image: String,
    /// The name.
    pub name: String,
}

impl Ask for TagImageAsk {
    fn asked(&self, _: &State) -> Vec<Asked> {
        vec![pull_of(&self.image), pull_of(&self.name)]
    }
}

/// Requests that bring an archive of images; those that it names itself are asked for one by one.
#[derive(Clone, Debug)]
pub struct ImportImagesAsk(pub Option<String>);

impl Ask for ImportImagesAsk {
    fn asked(&self, _: &State) -> Vec<Asked> {
        vec![self.0.as_deref().map_or_else(|| Asked::verb(Verb::Pull), pull_of)]
    }
}

/// Requests that take images along, by reference or digest.
#[derive(Clone, Debug)]
pub struct ExportImagesAsk(pub Vec<String>);

impl Ask for ExportImagesAsk {
    fn asked(&self, _: &State) -> Vec<Asked> {
        self.0.iter().map(|image| pull_of(image)).collect()
    }
}

/// Requests that take away whatever nothing needs; what of it the caller may is asked image by image.
#[derive(Clone, Copy, Debug)]
pub struct PruneImagesAsk(pub ());

impl Ask for PruneImagesAsk {
    fn asked(&self, _: &State) -> Vec<Asked> {
        vec![Asked::verb(Verb::Pull)]
    }
}

fn pull_of(image: &str) -> Asked {
    Asked { source: Some(SourceFacts::named(image)), ..Asked::verb(Verb::Pull) }
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
        vec![Asked::load(SourceFacts::Upload { object: None })]
    }
}

fn attach_asked(attach: &AttachAsk, app: Option<&App>) -> Asked {
    let (kind, hook) = (Some(attach.hook.kind().to_string()), Some(hook_asked(&attach.hook)));
    Asked { kind, hook, ..on_app(Verb::Attach, app) }
}

impl Ask for LoadRequest {
    fn asked(&self, state: &State) -> Vec<Asked> {
        let source = source_asked(&self.bytes);
        let attach = self.attach.iter().map(|(attach, _)| {
            let source = Some(source.clone());
            Asked { source, ..attach_asked(attach, None) }
        });
        let lenders = self.map_from.iter().filter_map(|from| from.app.resolve(state).ok());
        let shares = lenders.map(|app| Asked { maps_of: vec![map_owner(app)], ..Asked::load(source.clone()) });
        std::iter::once(Asked::load(source.clone())).chain(attach).chain(shares).collect()
    }
}

impl Ask for AttachRequest {
    fn asked(&self, state: &State) -> Vec<Asked> {
        vec![attach_asked(&self.attach, self.app.resolve(state).ok())]
    }
}

impl Ask for UpdateRequest {
    fn asked(&self, state: &State) -> Vec<Asked> {
        let moved = self.link.resolve(state).ok().map(|link| link.moved(self.priority, self.proceed_on));
        on_link(Verb::Update, state, moved.as_ref(), None)
    }
}

impl Ask for RebuildRequest {
    fn asked(&self, state: &State) -> Vec<Asked> {
        match state.chain_called(&self.chain) {
            Some(chain) => on_chain(state, &chain, None),
            None => vec![Asked::verb(Verb::Update)],
        }
    }
}

impl Ask for PersistRequest {
    fn asked(&self, state: &State) -> Vec<Asked> {
        whole(Verb::Update, self.app.resolve(state).ok())
    }

    fn narrow(&mut self, owners: OwnerScope) {
        self.owners = owners;
    }
}

impl Ask for DetachRequest {
    fn asked(&self, state: &State) -> Vec<Asked> {
        match &self.which {
            DetachWhich::Links(links) => {
                let of_link = |link: &LinkRef| on_link(Verb::Detach, state, link.resolve(state).ok(), None);
                links.iter().flat_map(of_link).collect()
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
