//! What was tried, for the first line of an error: `cannot attach ...`.

use bpfd_core::names::printable;
use bpfd_core::request::{
    AttachRequest, Bytes, DetachRequest, DetachWhich, LoadRequest, PersistRequest, UnloadRequest, UnloadWhich,
};
use bpfd_core::state::Persist;

pub(in crate::rpc::v1) fn loading(request: &LoadRequest) -> String {
    let named = request.name.as_ref().map(ToString::to_string);
    let source = match &request.bytes {
        Bytes::Image { reference, .. } => Some(printable(reference)),
        Bytes::Uploaded { stem, .. } => stem.as_deref().map(printable),
    };
    let named = named.or(source);
    named.map_or_else(|| "cannot load the object".to_owned(), |name| format!("cannot load `{name}`"))
}

pub(in crate::rpc::v1) fn attaching(request: &AttachRequest) -> String {
    format!("cannot attach `{}` to {}", request.app, request.attach.hook)
}

pub(in crate::rpc::v1) fn persisting(request: &PersistRequest) -> String {
    match request.persist {
        Persist::Yes => format!("cannot keep `{}` over a reboot", request.app),
        Persist::No => format!("cannot have a reboot end `{}`", request.app),
    }
}

pub(in crate::rpc::v1) fn detaching(request: &DetachRequest) -> String {
    match &request.which {
        DetachWhich::Links(links) => format!("cannot detach {}", list(links)),
        DetachWhich::All(interface) => format!("cannot detach all of `{}`", interface.interface),
    }
}

pub(in crate::rpc::v1) fn unloading(request: &UnloadRequest) -> String {
    match &request.which {
        UnloadWhich::Apps(apps) => format!("cannot unload {}", list(apps)),
        UnloadWhich::All => "cannot unload every app".to_owned(),
    }
}

fn list<T: std::fmt::Display>(things: &[T]) -> String {
    let things: Vec<String> = things.iter().map(|thing| format!("`{thing}`")).collect();
    things.join(", ")
}
