//! A member who takes all there is: apps, links, memory of the kernel, descriptors of the daemon, room on its disk. What one user has is
//! limited, the refusal has the numbers, and what others have does not depend on it.

use std::fs;

use bpfd_client::proto::v1 as pb;
use bpfd_client::request_id;
use bpfd_tests::{Calls, Host, broken};
use insta::assert_snapshot;

use crate::names_of_identities::in_copy;
use crate::raw::waits_for;
use crate::world::{Images, image_of};

/// Waiting links of a member's app `mine`, on interfaces of such names.
fn wait_for(host: &Host, names: impl Iterator<Item = String> + Send) -> Result<(), String> {
    waits_for(host, names.map(|interface| pb::XdpHook { interface, netns: None }))
}

fn descriptors(host: &Host) -> usize {
    fs::read_dir(format!("/proc/{}/fd", host.pid())).unwrap().count()
}

fn sum(calls: &Calls) -> u64 {
    calls.values().sum()
}

#[test]
fn a_member_has_64_apps_and_no_descriptor_for_each_of_their_maps() {
    let images = Images::new();
    images.publish("open/many", &image_of(&broken("many_maps")));
    let load = |name: &str| {
        images
            .host
            .bpfctl_as_member(&format!("load -q --image registry/open/many:1 --pull if-not-present --name {name}"))
    };
    load("n0").ok();
    let before = descriptors(&images.host);
    (1..64).for_each(|number| drop(load(&format!("n{number}")).ok()));
    let after = descriptors(&images.host);
    assert!(after <= before + 256, "{before} descriptors with one app of 64 maps, {after} with 64");
    let one_more = images.host.unchanged(|| load("n64")).refused(1);
    assert_snapshot!(one_more, @"
    error: cannot load `n64`
    cause: a user has at most 64 apps: you have 64, and this request needs 1 more
    hint: unload or detach what you no longer need, or ask root to do this
    ");
    // Root's own do not count, nor does the member's quota stop root.
    images.host.bpfctl("load -q --image registry/open/many:1 --pull never --name root").ok();
    images.host.bpfctl_as_member("unload n0").ok();
    load("n64").ok();
    // A restart counts them from the rows.
    let Images { mut host, .. } = images;
    host.stop();
    host.start();
    let line = "load -q --image registry/open/many:1 --pull never --name n65";
    assert_eq!(host.bpfctl_as_member(line).refused(1), one_more.replace("n64", "n65"));
}

#[test]
fn maps_of_a_member_take_512_mib_of_the_kernels_memory_at_most() {
    let images = Images::new();
    images.publish("open/large", &image_of(&broken("large_map")));
    let line = |name: &str| format!("load -q --image registry/open/large:1 --name {name}");
    images.host.bpfctl_as_member(&line("one")).ok();
    // Refused before the kernel is asked for the map, and given back: it is not the reservations that refuse the third.
    let refused = || images.host.unchanged(|| images.host.bpfctl_as_member(&line("two"))).refused(1);
    let said = [refused(), refused(), refused()];
    assert!(said.iter().all(|one| *one == said[0]), "{said:?}");
    assert_snapshot!(said[0], @"
    error: cannot load `two`
    cause: a user has at most 536870912 bytes of maps: you have 315841024, and this request needs 315841024 more
    hint: unload or detach what you no longer need, or ask root to do this
    ");
    images.host.bpfctl(&line("root")).ok();
    images.host.bpfctl_as_member("unload one").ok();
    images.host.bpfctl_as_member(&line("two")).ok();
}

#[test]
fn a_member_has_512_links_and_what_others_wait_for_costs_an_attach_nothing() {
    const TRIES: usize = 3;
    let images = Images::signed();
    images.host.bpfctl_as_member("load -q --image registry/team/app:1 --name mine").ok();
    images.host.bpfctl("load -q --image registry/team/app:1 --name root").ok();
    let attach_and_detach = || {
        let counted = (0..TRIES).map(|_| {
            images.host.await_quiet();
            let calls = images.host.calls(|| drop(images.host.bpfctl("attach root xdp -i uplink").ok()));
            images.host.bpfctl("detach root/count@uplink:xdp").ok();
            calls
        });
        counted.min_by_key(sum).unwrap()
    };
    let alone = attach_and_detach();
    wait_for(&images.host, (0..512).map(|number| format!("w{number}"))).unwrap();
    let beside = attach_and_detach();
    assert!(sum(&beside) <= sum(&alone) + 40, "{alone:?}, beside 512 waiting links {beside:?}");
    let refused = wait_for(&images.host, ["w512".to_owned()].into_iter()).unwrap_err();
    assert!(
        refused.contains(
            "a user has at most 512 links, waiting ones included: you have 512, and this request needs 1 more"
        ),
        "{refused}"
    );
    images.host.bpfctl("attach root xdp -i root0 --when-present").ok();
    images.host.bpfctl_as_member("detach mine/count@w7:xdp").ok();
    wait_for(&images.host, ["w512".to_owned()].into_iter()).unwrap();
}

#[test]
fn what_a_member_has_written_down_is_limited() {
    let images = Images::new();
    images.publish("open/long", &image_of(&broken("long_text")));
    let load = |number: usize| {
        let line = format!("load -q --image registry/open/long:1 --pull if-not-present --name n{number} --set note=A");
        images.host.bpfctl_as_member(&line)
    };
    (0..20).for_each(|number| drop(load(number).ok()));
    assert_snapshot!(load(20).refused(1), @"
    error: cannot load `n20`
    cause: a user has at most 16777216 bytes of state: you have 16036240, and this request needs 801812 more
    hint: unload or detach what you no longer need, or ask root to do this
    ");
}

#[test]
fn what_is_kept_of_an_answer_does_not_grow_with_the_app() {
    let images = Images::new();
    images.publish("open/long", &image_of(&broken("long_text")));
    let load = |request_id: &str| {
        let source = pb::ImageSource { reference: "registry/open/long:1".to_owned(), ..Default::default() };
        let set = pb::GlobalSetting { name: "note".to_owned(), value: "A".repeat(1024) };
        pb::LoadRequest {
            request_id: request_id.to_owned(),
            source: Some(pb::load_request::Source::Image(source)),
            name: Some("long".to_owned()),
            globals: vec![set],
            ..Default::default()
        }
    };
    let id = request_id();
    let loaded = |id: &str| images.host.ask(async |daemon| daemon.load(load(id), |_| ()).await).app.unwrap();
    let app = loaded(&id);
    let row = |table: &str| {
        let longest = format!("SELECT max(length(body)) FROM {table}");
        in_copy(&images.host, |database| database.query_row(&longest, [], |row| row.get::<_, i64>(0)).unwrap()).0
    };
    assert!(row("apps") > 200_000, "the value as the object has it");
    assert!(row("answers") < 1024, "{}", row("answers"));
    // The same answer, from the rows.
    assert_eq!(loaded(&id), app);
    images.host.bpfctl("unload long").ok();
    let gone = loaded(&id);
    assert_eq!((gone.name, gone.uid), (app.name, app.uid));
    assert!(images.host.items("list apps").is_empty(), "nothing is loaded by an answer");
}
