//! From messages to typed requests: the door where every field is parsed.

use std::collections::{BTreeMap, BTreeSet};

use bpfd_core::ident::{AskedId, RequestId, RequestKey};
use bpfd_core::labels::{LABELS_MAX, LabelSelector, Labels};
use bpfd_core::names::printable;
use bpfd_core::request::{
    ATTACH_MAX, AttachAsk, AttachRequest, Bytes, DetachRequest, DetachWhich, GLOBAL_NAME_MAX, GLOBAL_VALUE_MAX,
    LIST_MAX, LoadRequest, NAMES_MAX, OwnerScope, PersistRequest, PullPolicy, Select, UnloadRequest, UnloadWhich,
    UpdateRequest,
};
use bpfd_core::sharing::{MAP_FROM_MAX, MapFrom};
use bpfd_core::state::{AppOrigin, Persist, WhenAbsent};
use prost::Message;
use sha2::{Digest, Sha256};
use uuid::Builder;

use super::hook;
use super::hook::shared::{asked_priority, asked_proceed_on, interface_name};
use super::{BadField, bad, bounded, parsed};
use crate::v1 as pb;

const USER_LABELS: &str = "user_labels";

/// Names of apps or links: 1 to [`NAMES_MAX`], each once.
fn names<T: std::str::FromStr<Err: ToString>>(field: &'static str, list: &[String]) -> Result<Vec<T>, BadField> {
    if list.is_empty() {
        return Err(bad(field, format!("no `{field}` given")));
    }
    bounded(field, list, NAMES_MAX)?;
    each_once(field, list.iter())?;
    list.iter().map(|name| parsed(field, name)).collect()
}

fn each_once<'a>(field: &'static str, list: impl Iterator<Item = &'a String>) -> Result<(), BadField> {
    let mut seen = BTreeSet::new();
    for name in list {
        if !seen.insert(name) {
            return Err(bad(field, format!("`{}` is given twice", printable(name))));
        }
    }
    Ok(())
}

/// Values for global variables.
fn globals(list: &[pb::GlobalSetting]) -> Result<Vec<(String, String)>, BadField> {
    const FIELD: &str = "globals";
    bounded(FIELD, list, LIST_MAX)?;
    each_once(FIELD, list.iter().map(|global| &global.name))?;
    let within = |pb::GlobalSetting { name, value }: &pb::GlobalSetting| {
        if name.len() > GLOBAL_NAME_MAX {
            return Err(bad(
                FIELD,
                format!("a name has at most {GLOBAL_NAME_MAX} bytes; `{}` has {}", printable(name), name.len()),
            ));
        }
        if value.len() > GLOBAL_VALUE_MAX {
            let name = printable(name);
            return Err(bad(
                FIELD,
                format!("a value has at most {GLOBAL_VALUE_MAX} bytes; that of `{name}` has {}", value.len()),
            ));
        }
        Ok((name.clone(), value.clone()))
    };
    list.iter().map(within).collect()
}

/// An empty key is no key.
pub fn request_id(text: &str) -> Result<Option<RequestId>, BadField> {
    if text.is_empty() { Ok(None) } else { parsed("request_id", text).map(Some) }
}

/// The key of a message, and what it asks for: `verb` and every field that this version knows.
fn request_key<M: Message>(verb: &str, id: &str, message: &M) -> Result<Option<RequestKey>, BadField> {
    let asked = || {
        let hash = Sha256::new().chain_update(verb).chain_update([0]).chain_update(message.encode_to_vec()).finalize();
        let (first, _) = hash.split_first_chunk().unwrap_or((&[0; 16], &[]));
        AskedId(Builder::from_custom_bytes(*first).into_uuid())
    };
    Ok(request_id(id)?.map(|id| RequestKey { id, asked: asked() }))
}

/// A pull policy; unset = newer.
pub fn pull_policy(number: i32) -> Result<PullPolicy, BadField> {
    match pb::PullPolicy::try_from(number) {
        Ok(pb::PullPolicy::Unspecified | pb::PullPolicy::Newer) => Ok(PullPolicy::Newer),
        Ok(pb::PullPolicy::Always) => Ok(PullPolicy::Always),
        Ok(pb::PullPolicy::IfNotPresent) => Ok(PullPolicy::IfNotPresent),
        Ok(pb::PullPolicy::Never) => Ok(PullPolicy::Never),
        Err(_) => Err(bad("pull", format!("{number} is no pull policy"))),
    }
}

fn labels(map: &BTreeMap<String, String>) -> Result<Labels, BadField> {
    let label = |(key, value): (&String, &String)| Ok((parsed(USER_LABELS, key)?, parsed(USER_LABELS, value)?));
    let labels: Vec<_> = map.iter().map(label).collect::<Result<_, _>>()?;
    Labels::of(labels).map_err(|error| bad(USER_LABELS, error))
}

/// Which user labels apps must have.
pub fn label_selectors(list: &[pb::LabelSelector]) -> Result<Vec<LabelSelector>, BadField> {
    bounded(USER_LABELS, list, LABELS_MAX)?;
    let selector = |pb::LabelSelector { key, value }: &pb::LabelSelector| {
        let value = value.as_deref().map(|value| parsed(USER_LABELS, value)).transpose()?;
        Ok(LabelSelector { key: parsed(USER_LABELS, key)?, value })
    };
    list.iter().map(selector).collect()
}

fn attachment(message: &pb::Attachment) -> Result<(AttachAsk, Option<String>), BadField> {
    let when_absent = if message.when_present { WhenAbsent::Wait } else { WhenAbsent::Fail };
    Ok((AttachAsk { hook: hook::asked(message)?, when_absent }, message.function.clone()))
}

impl TryFrom<&pb::LoadRequest> for LoadRequest {
    type Error = BadField;

    fn try_from(message: &pb::LoadRequest) -> Result<Self, BadField> {
        let pb::LoadRequest {
            request_id: key,
            validate_only: _,
            name,
            name_hint,
            source,
            programs,
            globals,
            attach,
            user_labels,
            persist,
            map_from,
        } = message;
        bounded("programs", programs, LIST_MAX)?;
        bounded("attach", attach, ATTACH_MAX)?;
        bounded("map_from", map_from, MAP_FROM_MAX)?;
        let map_from = map_from.iter().map(|pb::MapSource { app, map }| {
            let map = map.as_deref().map(|map| parsed("map_from", map)).transpose()?;
            Ok(MapFrom { app: parsed("map_from", app)?, map })
        });
        let bytes = match source {
            None => return Err(bad("source", "neither an image nor an object given")),
            Some(pb::load_request::Source::Image(pb::ImageSource { reference, pull })) => {
                Bytes::Image { reference: reference.clone(), pull: pull_policy(*pull)? }
            }
            Some(pb::load_request::Source::ObjectSha256(digest)) => {
                Bytes::Uploaded { object: parsed("object_sha256", digest)?, stem: name_hint.clone() }
            }
        };
        let select = programs.iter().map(|program| match &program.selector {
            Some(pb::program_selector::Selector::SectionName(section)) => Ok(Select::Section(section.clone())),
            Some(pb::program_selector::Selector::Function(function)) => Ok(Select::Function(function.clone())),
            None => Err(bad("programs", "a selector names neither a section nor a function")),
        });
        Ok(Self {
            bytes,
            name: name.as_deref().map(|name| parsed("name", name)).transpose()?,
            select: select.collect::<Result<_, _>>()?,
            globals: self::globals(globals)?,
            map_from: map_from.collect::<Result<_, _>>()?,
            labels: labels(user_labels)?,
            attach: attach.iter().map(attachment).collect::<Result<_, _>>()?,
            persist: Persist::of(*persist),
            origin: AppOrigin::Request,
            request: request_key("load", key, message)?,
        })
    }
}

impl TryFrom<&pb::AttachRequest> for AttachRequest {
    type Error = BadField;

    fn try_from(message: &pb::AttachRequest) -> Result<Self, BadField> {
        let pb::AttachRequest { request_id: key, validate_only: _, app, attachment: place, persist } = message;
        let place = place.as_ref().ok_or_else(|| bad("attachment", "no hook given"))?;
        let (attach, function) = attachment(place)?;
        let (app, persist) = (parsed("app", app)?, Persist::of(*persist));
        Ok(Self { app, function, attach, persist, request: request_key("attach", key, message)? })
    }
}

impl TryFrom<&pb::PersistRequest> for PersistRequest {
    type Error = BadField;

    fn try_from(message: &pb::PersistRequest) -> Result<Self, BadField> {
        let pb::PersistRequest { request_id: key, validate_only: _, app, persist } = message;
        Ok(Self {
            app: parsed("app", app)?,
            persist: Persist::of(*persist),
            owners: OwnerScope::default(),
            request: request_key("persist", key, message)?,
        })
    }
}

impl TryFrom<&pb::UpdateLinkRequest> for UpdateRequest {
    type Error = BadField;

    fn try_from(message: &pb::UpdateLinkRequest) -> Result<Self, BadField> {
        let pb::UpdateLinkRequest {
            request_id: key,
            validate_only: _,
            link,
            generation,
            priority: number,
            proceed_on: set,
        } = message;
        Ok(Self {
            link: parsed("link", link)?,
            generation: *generation,
            priority: asked_priority(*number)?,
            proceed_on: asked_proceed_on(set.as_ref())?,
            request: request_key("update", key, message)?,
        })
    }
}

impl TryFrom<&pb::DetachRequest> for DetachRequest {
    type Error = BadField;

    fn try_from(message: &pb::DetachRequest) -> Result<Self, BadField> {
        let pb::DetachRequest { request_id: key, validate_only: _, target } = message;
        let which = match target {
            None => return Err(bad("target", "neither links nor an interface given")),
            Some(pb::detach_request::Target::Links(pb::LinkNames { names: links })) => {
                DetachWhich::Links(names("links.names", links)?)
            }
            Some(pb::detach_request::Target::AllOn(pb::AllOnInterface { netns, interface })) => {
                DetachWhich::All(interface_name(netns.as_deref(), interface)?)
            }
        };
        Ok(Self { which, owners: OwnerScope::default(), request: request_key("detach", key, message)? })
    }
}

impl TryFrom<&pb::UnloadRequest> for UnloadRequest {
    type Error = BadField;

    fn try_from(message: &pb::UnloadRequest) -> Result<Self, BadField> {
        let pb::UnloadRequest { request_id: key, validate_only: _, target } = message;
        let which = match target {
            None => return Err(bad("target", "no app given")),
            Some(pb::unload_request::Target::Apps(pb::AppNames { names: apps })) => {
                UnloadWhich::Apps(names("apps.names", apps)?)
            }
            Some(pb::unload_request::Target::All(pb::AllApps {})) => UnloadWhich::All,
        };
        Ok(Self { which, owners: OwnerScope::default(), request: request_key("unload", key, message)? })
    }
}

#[cfg(test)]
mod tests {
    use bpfd_core::names::Priority;

    use super::*;

    fn load(edit: impl FnOnce(&mut pb::LoadRequest)) -> Result<LoadRequest, BadField> {
        let source = pb::load_request::Source::ObjectSha256("ab".repeat(32));
        let mut message = pb::LoadRequest { source: Some(source), ..Default::default() };
        edit(&mut message);
        LoadRequest::try_from(&message)
    }

    fn on_eth0() -> pb::Attachment {
        let xdp = pb::XdpHook { netns: None, interface: "eth0".into() };
        pb::Attachment { hook: Some(pb::Hook { hook: Some(pb::hook::Hook::Xdp(xdp)) }), ..Default::default() }
    }

    #[test]
    fn a_field_that_does_not_parse_is_named() {
        let check = |edit: fn(&mut pb::LoadRequest), field: &str| assert_eq!(load(edit).unwrap_err().field, field);
        check(|message| message.source = None, "source");
        check(|message| message.name = Some("A".into()), "name");
        check(|message| message.request_id = "x".into(), "request_id");
        check(|message| message.globals = vec![pb::GlobalSetting::default(); 257], "globals");
        check(|message| message.globals = vec![pb::GlobalSetting::default(); 2], "globals");
        let global = |name: usize, value: usize| pb::GlobalSetting { name: "n".repeat(name), value: "v".repeat(value) };
        assert_eq!(load(|message| message.globals = vec![global(128, 1)]).unwrap_err().field, "globals");
        assert_eq!(load(|message| message.globals = vec![global(1, 1025)]).unwrap_err().field, "globals");
        assert!(load(|message| message.globals = vec![global(127, 1024), global(126, 0)]).is_ok());
        check(|message| message.attach = vec![on_eth0(); 65], "attach");
        check(|message| message.user_labels = [("Team".into(), "a".into())].into(), "user_labels");
        check(|message| message.user_labels = [("team".into(), "a\n".into())].into(), "user_labels");
        check(
            |message| message.user_labels = (0..33).map(|n| (format!("k{n}"), String::new())).collect(),
            "user_labels",
        );
        check(|message| message.attach = vec![pb::Attachment::default()], "attachment.hook");
        check(|message| message.attach = vec![pb::Attachment { priority: Some(1001), ..on_eth0() }], "priority");
        check(|message| message.attach = vec![pb::Attachment { xdp_mode: 9, ..on_eth0() }], "attachment.xdp_mode");
    }

    #[test]
    fn names_are_1_to_64_each_once() {
        let check = |names: Vec<String>, good: bool| {
            let target = pb::unload_request::Target::Apps(pb::AppNames { names: names.clone() });
            let unload = pb::UnloadRequest { target: Some(target), ..Default::default() };
            assert_eq!(UnloadRequest::try_from(&unload).is_ok(), good, "{names:?}");
            let target = pb::detach_request::Target::Links(pb::LinkNames { names: names.clone() });
            let detach = pb::DetachRequest { target: Some(target), ..Default::default() };
            assert_eq!(DetachRequest::try_from(&detach).is_ok(), good, "{names:?}");
        };
        let numbered = |count: usize| (0..count).map(|number| format!("a{number}")).collect();
        check(numbered(0), false);
        check(numbered(1), true);
        check(numbered(64), true);
        check(numbered(65), false);
        check(vec!["a".to_owned(); 2], false);
    }

    #[test]
    fn a_key_goes_with_all_that_is_asked_for() {
        let id = "6a1f0a5e-7c4b-4b57-9d5e-0f2f2a3f4b5c";
        let named = |name: &str| load(|message| (message.request_id, message.name) = (id.into(), Some(name.into())));
        let key = |name: &str| named(name).unwrap().request.unwrap();
        assert_eq!(key("a"), key("a"));
        assert_eq!(key("a").id, key("b").id);
        assert_ne!(key("a").asked, key("b").asked);
        // Messages of two types may have the same bytes.
        let names = || vec!["a".to_owned()];
        let target = pb::unload_request::Target::Apps(pb::AppNames { names: names() });
        let unload = pb::UnloadRequest { request_id: id.into(), target: Some(target), ..Default::default() };
        let target = pb::detach_request::Target::Links(pb::LinkNames { names: names() });
        let detach = pb::DetachRequest { request_id: id.into(), target: Some(target), ..Default::default() };
        assert_eq!(unload.encode_to_vec(), detach.encode_to_vec());
        let asked = |key: Option<RequestKey>| key.unwrap().asked;
        let unload = asked(UnloadRequest::try_from(&unload).unwrap().request);
        assert_ne!(unload, asked(DetachRequest::try_from(&detach).unwrap().request));
    }

    #[test]
    fn priority_zero_is_not_no_priority() {
        let asked = |number| load(|message| message.attach = vec![pb::Attachment { priority: number, ..on_eth0() }]);
        let priority = |request: LoadRequest| request.attach[0].0.hook.priority();
        assert_eq!(priority(asked(Some(0)).unwrap()), Some(Priority::try_from(0).unwrap()));
        assert_eq!(priority(asked(None).unwrap()), None);
    }
}
