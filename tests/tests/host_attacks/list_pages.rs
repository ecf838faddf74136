//! A member who makes what is listed so large that no answer holds it: lists come in pages that fit, and nothing is kept beyond the limits
//! of the API.

use bpfd_client::proto::v1 as pb;
use bpfd_tests::broken;
use bytecode_image::build::BuiltImage;
use serde_json::{Value, json};

use crate::world::{Images, altered, image, image_of};

/// An object with a text of 200,000 bytes that a load may set.
fn with_long_text() -> BuiltImage {
    image_of(&broken("long_text"))
}

/// An image with as many labels as are kept of one, each as long as may be.
pub(crate) fn with_labels() -> BuiltImage {
    let mut config: Value = serde_json::from_slice(&image().config).unwrap();
    for number in 0..2000 {
        config["config"]["Labels"][format!("{number:0250}")] = json!("x".repeat(250));
    }
    altered(Some(config.to_string().into_bytes()), None)
}

#[test]
fn no_value_that_a_member_sets_makes_a_list_fail() {
    let images = Images::new();
    images.publish("open/long", &with_long_text());
    // As long as an argument of a command may be.
    let text = "A".repeat(120_000);
    let load = |number: usize| {
        let line = format!("load -q --image registry/open/long:1 --name n{number} --set note={text}");
        images.host.bpfctl_as_member(&line)
    };
    let loads: Vec<_> = (0..10).map(load).collect();
    images.host.bpfctl("list").ok();
    for load in loads {
        let said = load.refused(2).replace(&text, "TEXT");
        assert!(said.contains("a value has at most 1024 bytes; that of `note` has 120000"), "{said}");
    }
    let text = "A".repeat(1024);
    images.host.bpfctl_as_member(&format!("load -q --image registry/open/long:1 --set note={text}")).ok();
    assert_eq!(images.host.items("list apps")[0]["globals"][0]["value"], json!(text));
}

#[test]
fn a_list_of_any_length_is_read_in_pages_that_fit_a_message() {
    const APPS: usize = 64;
    let images = Images::new();
    images.publish("open/labels", &with_labels());
    for number in 0..APPS {
        let pull = if number == 0 { "newer" } else { "never" };
        let line = format!("load -q --image registry/open/labels:1 --pull {pull} --name n{number:02}");
        images.host.bpfctl_as_member(&line).ok();
    }
    // More than a message holds, were they all on one page.
    for size in [Some(1000), Some(7), None] {
        let request = pb::ListAppsRequest { page_size: size, ..Default::default() };
        let apps = images.host.ask(async |daemon| daemon.apps(request).await);
        let names: Vec<String> = apps.into_iter().map(|app| app.name).collect();
        assert_eq!(names, (0..APPS).map(|number| format!("n{number:02}")).collect::<Vec<_>>(), "{size:?}");
    }
    for size in [0, 1001] {
        let request = pb::ListAppsRequest { page_size: Some(size), ..Default::default() };
        let refused = images.host.try_ask(async |daemon| daemon.apps(request).await).unwrap_err();
        assert!(format!("{refused:?}").contains("page_size"), "{refused:?}");
    }
    images.host.bpfctl("list").ok();
    // All of them came from one image.
    images.host.bpfctl("image ls").ok();
    images.host.bpfctl("unload --all").ok();
}

#[test]
fn chains_come_in_pages_too() {
    let images = Images::signed();
    images.host.shell("ip link add second type veth peer name third");
    for interface in ["uplink", "second", "others"] {
        let line = format!("load -q --image registry/team/app:1 --name on-{interface} xdp -i {interface}");
        images.host.bpfctl(&line).ok();
    }
    for size in [1, 2, 1000] {
        let request = pb::ListChainsRequest { page_size: Some(size), ..Default::default() };
        let chains = images.host.ask(async |daemon| daemon.chains(request).await);
        let names: Vec<String> = chains.into_iter().map(|chain| chain.interface).collect();
        assert_eq!(names, ["others", "second", "uplink"], "{size}");
    }
}

#[test]
fn a_request_names_64_things_at_most() {
    let images = Images::signed();
    images.host.bpfctl("load -q --image registry/team/app:1 --name n0 xdp -i uplink").ok();
    // As bpfctl would not send them.
    let refused = |names: Vec<String>| {
        let target = Some(pb::unload_request::Target::Apps(pb::AppNames { names: names.clone() }));
        let unload = pb::UnloadRequest { target, ..Default::default() };
        let target = Some(pb::detach_request::Target::Links(pb::LinkNames { names }));
        let detach = pb::DetachRequest { target, ..Default::default() };
        let unload = images.host.try_ask(async |daemon| daemon.unload(unload).await).unwrap_err();
        let detach = images.host.try_ask(async |daemon| daemon.detach(detach).await).unwrap_err();
        format!("{unload:?} {detach:?}")
    };
    let said = refused((0..65).map(|number| format!("n{number}")).collect());
    assert!(said.contains("at most 64 `apps.names`; 65 were sent"), "{said}");
    assert!(said.contains("at most 64 `links.names`; 65 were sent"), "{said}");
    assert_eq!(refused(vec!["n0".to_owned(); 2]).matches("`n0` is given twice").count(), 2);
    assert!(refused(vec![]).contains("no `apps.names` given"));
    assert_eq!(images.host.items("list links").len(), 1);
}
