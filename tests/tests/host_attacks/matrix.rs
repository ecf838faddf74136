//! Twelve callers, each with the verbs of one rule, ask every method of the API about what is their own and about what is another's:
//! whoever lacks a verb is refused, and nobody else.

use std::collections::BTreeSet;

use bpfd_client::proto::{FILE_DESCRIPTOR_SET, v1 as pb};
use bpfd_tests::{Host, example};
use prost::Message;
use prost_types::FileDescriptorSet;

use crate::raw::{LIMIT, Raw, Who, connect, run};
use crate::world::ETC;

/// gRPC's number of `PERMISSION_DENIED`.
const DENIED: &str = "7";

const EVERYTHING: &[&str] =
    &["pull", "load", "attach", "update", "detach", "unload", "list", "map-read", "map-write", "other-owner"];

/// Callers, by what their rule allows. Root's own rule is built in.
const CALLERS: [(&str, &[&str]); 12] = [
    ("root", EVERYTHING),
    ("looks", &["list"]),
    ("pulls", &["pull"]),
    ("loads", &["load"]),
    ("attaches", &["attach"]),
    ("updates", &["update"]),
    ("detaches", &["detach"]),
    // What is unloaded takes its links along.
    ("unloads", &["unload", "detach"]),
    ("reads", &["map-read"]),
    ("writes", &["map-write"]),
    ("owns", EVERYTHING.split_at(9).0),
    ("manages", EVERYTHING),
];

/// The user id of a caller of the table.
fn uid(at: usize) -> u32 {
    if at == 0 { 0 } else { 4720 + u32::try_from(at).unwrap() }
}

/// Who is answered.
#[derive(Clone, Copy, Debug)]
enum Needs {
    /// Everybody.
    Nothing,
    /// Root, whatever rules say.
    Root,
    /// Whoever has these verbs.
    Verbs(&'static [&'static str]),
    /// The same, of what is the caller's own; of what is another's with `other-owner` beside them.
    OwnerAnd(&'static [&'static str]),
}

impl Needs {
    fn allow(self, verbs: &[&str], is_root: bool, is_own: bool) -> bool {
        let has = |wanted: &[&str]| wanted.iter().all(|verb| verbs.contains(verb));
        match self {
            Self::Nothing => true,
            Self::Root => is_root,
            Self::Verbs(wanted) => has(wanted),
            Self::OwnerAnd(wanted) => has(wanted) && (is_own || has(&["other-owner"])),
        }
    }
}

/// Every method with a message that is about this app, and changes nothing.
fn calls(app: &str) -> Vec<(&'static str, Vec<u8>, Needs)> {
    use Needs::{Nothing, OwnerAnd, Root, Verbs};
    let (app, link) = (app.to_owned(), format!("{app}/count@absent:xdp"));
    let (validate_only, key) = (true, "0".to_owned());
    // What is asked after the policy: no map is read for ever.
    let map = "none".to_owned();
    let image = "127.0.0.1:9/team/app:1".to_owned();
    let import = pb::import_images_request::Part::Start(pb::ImportStart { name: image.clone(), ..Default::default() });
    let hook = pb::hook::Hook::Xdp(pb::XdpHook { interface: "elsewhere".to_owned(), netns: None });
    let attachment = pb::Attachment {
        hook: Some(pb::Hook { hook: Some(hook) }),
        priority: Some(300),
        when_present: true,
        ..Default::default()
    };
    let links = pb::detach_request::Target::Links(pb::LinkNames { names: vec![link.clone()] });
    let apps = pb::unload_request::Target::Apps(pb::AppNames { names: vec![app.clone()] });
    let object = pb::load_request::Source::ObjectSha256("0".repeat(64));
    let list = Verbs(&["list"]);
    macro_rules! call {
        ($service:literal, $method:literal, $needs:expr, $message:expr) => {
            (concat!("/bpfd.v1.", $service, "/", $method), $message.encode_to_vec(), $needs)
        };
    }
    vec![
        call!("AppService", "UploadObject", Verbs(&["load"]), pb::UploadObjectRequest { chunk: b"no object".to_vec() }),
        call!(
            "AppService",
            "Load",
            Verbs(&["load"]),
            pb::LoadRequest { validate_only, source: Some(object), ..Default::default() }
        ),
        call!("AppService", "GetApp", list, pb::GetAppRequest { app: app.clone() }),
        call!("AppService", "ListApps", list, pb::ListAppsRequest::default()),
        call!(
            "AppService",
            "Unload",
            OwnerAnd(&["unload", "detach"]),
            pb::UnloadRequest { validate_only, target: Some(apps), ..Default::default() }
        ),
        call!(
            "AppService",
            "Persist",
            OwnerAnd(&["update"]),
            pb::PersistRequest { validate_only, app: app.clone(), persist: true, ..Default::default() }
        ),
        call!("AppService", "GetLoadLog", list, pb::GetLoadLogRequest { log_id: "0".repeat(32) }),
        call!(
            "LinkService",
            "Attach",
            OwnerAnd(&["attach"]),
            pb::AttachRequest { validate_only, app: app.clone(), attachment: Some(attachment), ..Default::default() }
        ),
        call!(
            "LinkService",
            "UpdateLink",
            OwnerAnd(&["update"]),
            pb::UpdateLinkRequest { validate_only, link: link.clone(), priority: Some(300), ..Default::default() }
        ),
        call!(
            "LinkService",
            "Detach",
            OwnerAnd(&["detach"]),
            pb::DetachRequest { validate_only, target: Some(links), ..Default::default() }
        ),
        call!("LinkService", "GetLink", list, pb::GetLinkRequest { link }),
        call!("LinkService", "ListLinks", list, pb::ListLinksRequest::default()),
        call!(
            "ChainService",
            "GetChain",
            list,
            pb::GetChainRequest { interface: "uplink".into(), ..Default::default() }
        ),
        call!("ChainService", "ListChains", list, pb::ListChainsRequest::default()),
        call!(
            "ChainService",
            "RebuildChain",
            Verbs(&["update"]),
            pb::RebuildChainRequest { validate_only, interface: "uplink".into(), dispatcher_version: 2, netns: None }
        ),
        call!(
            "MapService",
            "ListMaps",
            OwnerAnd(&["map-read"]),
            pb::ListMapsRequest { app: Some(app.clone()), ..Default::default() }
        ),
        call!(
            "MapService",
            "GetElement",
            OwnerAnd(&["map-read"]),
            pb::GetElementRequest { app: app.clone(), map: map.clone(), key: key.clone(), ..Default::default() }
        ),
        call!(
            "MapService",
            "DumpMap",
            OwnerAnd(&["map-read"]),
            pb::DumpMapRequest { app: app.clone(), map: map.clone(), ..Default::default() }
        ),
        call!(
            "MapService",
            "WatchMap",
            OwnerAnd(&["map-read"]),
            pb::WatchMapRequest { app: app.clone(), map: map.clone(), ..Default::default() }
        ),
        call!(
            "MapService",
            "UpdateElement",
            OwnerAnd(&["map-write"]),
            pb::UpdateElementRequest {
                app: app.clone(),
                map: map.clone(),
                key: key.clone(),
                value: "1".into(),
                ..Default::default()
            }
        ),
        call!(
            "MapService",
            "DeleteElement",
            OwnerAnd(&["map-write"]),
            pb::DeleteElementRequest { app: app.clone(), map: map.clone(), key }
        ),
        call!(
            "MapService",
            "ReadRecords",
            OwnerAnd(&["map-read", "map-write"]),
            pb::ReadRecordsRequest { app, map, ..Default::default() }
        ),
        call!(
            "ImageService",
            "Pull",
            Verbs(&["pull"]),
            pb::PullRequest { reference: image.clone(), pull: pb::PullPolicy::Never.into(), ..Default::default() }
        ),
        call!("ImageService", "ListImages", list, pb::ListImagesRequest::default()),
        call!("ImageService", "InspectImage", list, pb::InspectImageRequest { image: image.clone() }),
        call!("ImageService", "VerifyImage", list, pb::VerifyImageRequest { image: image.clone(), explain: false }),
        call!(
            "ImageService",
            "TagImage",
            Verbs(&["pull"]),
            pb::TagImageRequest { image: image.clone(), name: image.clone(), ..Default::default() }
        ),
        // Of no archive at all, which is none.
        call!("ImageService", "ImportImages", Verbs(&["pull"]), pb::ImportImagesRequest { part: Some(import) }),
        call!(
            "ImageService",
            "ExportImages",
            Verbs(&["pull"]),
            pb::ExportImagesRequest { images: vec![image.clone()] }
        ),
        call!(
            "ImageService",
            "RemoveImages",
            Verbs(&["pull"]),
            pb::RemoveImagesRequest { validate_only, images: vec![image], ..Default::default() }
        ),
        call!("PolicyService", "WhoAmI", Nothing, pb::WhoAmIRequest {}),
        call!("PolicyService", "CanI", Nothing, pb::CanIRequest { verb: "list".into(), ..Default::default() }),
        call!("PolicyService", "GetPolicy", Root, pb::GetPolicyRequest {}),
        call!("PolicyService", "EnforcePolicy", Root, pb::EnforcePolicyRequest { validate_only }),
        call!(
            "PolicyService",
            "AddTrust",
            Root,
            pb::AddTrustRequest {
                validate_only,
                name: "ci".into(),
                scope: "registry/team".into(),
                ..Default::default()
            }
        ),
        call!("PolicyService", "ReloadPolicy", Root, pb::ReloadPolicyRequest::default()),
        call!("SystemService", "GetInfo", list, pb::GetInfoRequest {}),
        call!("SystemService", "Doctor", list, pb::DoctorRequest {}),
        call!("SystemService", "GetState", list, pb::GetStateRequest {}),
        call!("SystemService", "AdoptState", Root, pb::AdoptStateRequest::default()),
        call!("SystemService", "DiscardState", Root, pb::DiscardStateRequest::default()),
        call!("SystemService", "ListProgramFiles", list, pb::ListProgramFilesRequest::default()),
        call!("SystemService", "ExportPrograms", list, pb::ExportProgramsRequest::default()),
    ]
}

/// The gRPC status of each call.
fn statuses(host: &Host, who: Who, calls: &[(&'static str, Vec<u8>, Needs)]) -> Vec<String> {
    let mut statuses = Vec::new();
    run(async {
        let mut raw = Raw::greet(connect(host, who)).await;
        for (path, message, _) in calls {
            let answer = tokio::time::timeout(LIMIT, raw.begin(path).await.ask(message)).await;
            statuses.push(answer.expect("an answer").expect("a status"));
        }
    });
    statuses
}

fn policy(rules: impl Iterator<Item = (String, Vec<&'static str>)>) -> String {
    let rule = |(user, verbs): (String, Vec<&str>)| {
        let places = match verbs.iter().any(|verb| ["load", "attach"].contains(verb)) {
            true => "programs = {}\ninterfaces = {}\nsource = { images = \"any\", files = \"any\" }\n",
            false => "",
        };
        format!(
            "[[rule]]\nid = \"{user}\"\neffect = \"allow\"\nwho = [{{ user = \"{user}\" }}]\nverbs = {verbs:?}\n{places}"
        )
    };
    let image = "[[image]]\nscope = \"127.0.0.1:9/team/**\"\nunsigned = \"allow\"\n";
    format!("version = 1\n{image}{}", rules.map(rule).collect::<String>())
}

#[test]
fn each_caller_is_answered_what_its_verbs_allow_about_its_own_and_about_what_is_anothers() {
    let mut host = Host::without_daemon();
    host.make_group();
    let users = || CALLERS.iter().enumerate().skip(1).map(|(at, (user, verbs))| (at, (*user).to_owned(), *verbs));
    for (at, user, _) in users() {
        host.shell(&format!("echo {user}:x:{0}:{0}::/:/bin/sh >>/etc/passwd", uid(at)));
    }
    host.shell(&format!("mkdir -p {ETC}"));
    let file = host.path(&format!("{ETC}/policy.toml"));
    std::fs::write(&file, policy(users().map(|(_, user, _)| (user, vec!["load", "attach"])))).unwrap();
    std::fs::copy(example("xdp-counter"), host.path("/run/counter.o")).unwrap();
    host.start();
    for (at, (user, _)) in CALLERS.iter().enumerate() {
        let load = format!("load --path /run/counter.o --name {user} xdp -i absent -p 200 --when-present");
        host.bpfctl_as(uid(at), uid(at), &[815], &load).ok();
    }
    std::fs::write(&file, policy(users().map(|(_, user, verbs)| (user, verbs.to_vec())))).unwrap();
    host.bpfctl("policy reload").ok();

    let known: BTreeSet<String> = calls("root").iter().map(|(path, ..)| (*path).to_owned()).collect();
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let services = set.file.iter().flat_map(|file| &file.service);
    let methods = services
        .flat_map(|service| service.method.iter().map(move |it| format!("/bpfd.v1.{}/{}", service.name(), it.name())));
    assert_eq!(known, methods.collect(), "each method has its line, and no other");

    let (mut allowed, mut denied, mut wrong) = (0, 0, Vec::new());
    for (at, (user, verbs)) in CALLERS.iter().enumerate() {
        let who = Who { uid: uid(at), group: 815, socket: "bpfd.sock" };
        let another = if at == 0 { "looks" } else { "root" };
        for (app, is_own) in [(*user, true), (another, false)] {
            let calls = calls(app);
            for ((path, _, needs), status) in calls.iter().zip(statuses(&host, who, &calls)) {
                let may = needs.allow(verbs, at == 0, is_own);
                *(if may { &mut allowed } else { &mut denied }) += 1;
                if may == (status == DENIED) {
                    wrong.push(format!("{user} {path} of `{app}`: {status}, {needs:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), allowed + denied, wrong.join("\n"));
    assert!(allowed > 200 && denied > 500, "{allowed} allowed, {denied} denied");
    // Nothing of it changed anything.
    assert_eq!(host.items("list links").len(), CALLERS.len());
}
