//! What refusals, dry runs and repeated requests tell: whoever may not do something hears the same whatever there is, on either socket.

use bpfd_client::proto::v1 as pb;
use bpfd_client::request_id;
use bpfd_tests::{broken, example};

use crate::fuzz::wire::requests;
use crate::raw::{MEMBER, ROOT, Raw, VIEWER, Who, as_member, connect, run};
use crate::world::Images;

/// PERMISSION_DENIED.
const DENIED: Option<&str> = Some("7");

/// Methods that only look; all others change something. What maps hold is for those alone whom a rule allows `map-read`.
fn looks(path: &str) -> bool {
    if path.contains("MapService") {
        return false;
    }
    let method = path.rsplit('/').next().unwrap();
    ["Get", "List", "Inspect", "Verify", "Doctor", "Check", "ServerReflection"]
        .iter()
        .any(|word| method.starts_with(word))
}

#[test]
fn who_may_only_look_is_denied_each_change_on_either_socket() {
    let images = Images::signed();
    let statuses = |who: Who| {
        run(async {
            let mut raw = Raw::greet(connect(&images.host, who)).await;
            let mut statuses = Vec::new();
            for (path, message) in requests() {
                statuses.push((path, raw.begin(path).await.ask(&message).await));
            }
            statuses
        })
    };
    // The group's own socket, and root's with the group to open it.
    let on_main = Who { group: 815, ..VIEWER };
    assert!(std::fs::metadata(images.host.path("/run/case/run/bpfd/bpfd.sock")).is_ok());
    for (path, status) in statuses(VIEWER) {
        assert_eq!(status.as_deref() == DENIED, !looks(path), "{path}: {status:?}");
    }
    // Whoever is of the group that changes may, by whichever socket: which one it was says nothing.
    let both = [statuses(Who { socket: "bpfd.sock", ..on_main }), statuses(MEMBER)];
    for ((path, one), (_, other)) in both[0].iter().zip(&both[1]) {
        assert_eq!(*one == Some("7".to_owned()), *other == Some("7".to_owned()), "{path}");
    }
    let root = [statuses(ROOT), statuses(Who { socket: "bpfd-ro.sock", ..ROOT })];
    assert!(root.iter().flatten().all(|(_, status)| status.as_deref() != DENIED), "{root:?}");
}

#[test]
fn a_refusal_of_a_viewer_does_not_depend_on_what_there_is() {
    let images = Images::signed();
    let host = &images.host;
    host.bpfctl("image pull -q registry/team/app:1").ok();
    host.bpfctl(&format!("load -q --path {} --name fw xdp -i uplink", example("xdp-counter"))).ok();
    let told = |line: &str| host.unchanged(|| host.bpfctl_as_viewer(line)).refused(4);
    for (there, absent) in [
        ("unload fw", "unload nosuch"),
        ("unload fw --dry-run", "unload nosuch --dry-run"),
        ("detach fw/count@uplink:xdp --dry-run", "detach fw/count@nosuch:xdp --dry-run"),
        ("update fw/count@uplink:xdp --priority 7 --dry-run", "update fw/count@nosuch:xdp --priority 7 --dry-run"),
        ("attach fw xdp -i uplink --dry-run", "attach nosuch xdp -i nosuch --dry-run"),
        ("load -q --image registry/team/app:1 --dry-run", "load -q --image registry/team/nosuch:1 --dry-run"),
        ("image pull -q registry/team/app:1", "image pull -q registry/team/nosuch:1"),
        ("image rm registry/team/app:1", "image rm registry/team/nosuch:1"),
    ] {
        assert_eq!(told(there), told(absent), "{there}");
    }
    let asked = images.registry.seen().len();
    told("load -q --image registry/team/app:1");
    assert_eq!(images.registry.seen().len(), asked, "nothing is asked of a registry for a viewer");
}

#[test]
fn a_dry_run_of_a_member_is_refused_as_the_run_is() {
    let images = Images::signed();
    let host = &images.host;
    host.bpfctl(&format!("load -q --path {} --name fw xdp -i uplink", example("xdp-counter"))).ok();
    for line in [
        "unload fw",
        "detach fw/count@uplink:xdp",
        "update fw/count@uplink:xdp --priority 500",
        "attach fw xdp -i uplink --priority 500",
        "load -q --image registry/team/app:1 --name m xdp -i uplink --priority 5",
        "load -q --image registry/none/app:1 --name m",
    ] {
        let refused = host.unchanged(|| host.bpfctl_as_member(line));
        let dry = host.unchanged(|| host.bpfctl_as_member(&format!("{line} --dry-run")));
        assert_ne!(refused.code, 0, "{line}");
        assert_eq!((dry.code, dry.stderr), (refused.code, refused.stderr), "{line}");
    }
}

#[test]
fn what_was_answered_or_logged_for_one_is_not_for_another() {
    let images = Images::signed();
    let host = &images.host;
    // A log of root's that a member knows the number of.
    let refused = host.bpfctl(&format!("load -q --path {} --name bad", broken("rejected")));
    let log = refused.stderr.split("get log ").nth(1).and_then(|rest| rest.split('`').next()).unwrap().to_owned();
    host.bpfctl(&format!("get log {log}")).ok();
    let told = |log: &str| host.bpfctl_as_member(&format!("get log {log}")).stderr.replace(log, "LOG");
    assert_eq!(told(&log), told("0f0f0f0f0f0f4f0f8f0f0f0f0f0f0f0f"));
    // A request of root's, repeated by a member, and by a viewer.
    let id = request_id();
    let load = |id: &str| pb::LoadRequest {
        request_id: id.to_owned(),
        name: Some("fw".to_owned()),
        source: Some(pb::load_request::Source::Image(pb::ImageSource {
            reference: "registry/team/app:1".to_owned(),
            ..Default::default()
        })),
        ..Default::default()
    };
    host.ask(async |daemon| daemon.load(load(&id), |_| ()).await);
    let before = host.items("list apps");
    let answer = as_member(host, async |client| client.load(load(&id), |_| ()).await);
    let answer = answer.map(|loaded| loaded.app.map(|app| app.owner)).unwrap_err();
    assert!(!answer.contains("\"fw\" }"), "{answer}");
    assert_eq!(host.items("list apps"), before);
}
