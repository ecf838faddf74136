//! A member whose links wait in more network namespaces than are watched, so that nothing would be heard of the one that root waits for:
//! root's are watched first, and what is not watched is said.

use bpfd_client::proto::v1 as pb;
use bpfd_tests::example;

use crate::raw::waits_for;
use crate::world::Images;

#[test]
fn what_root_waits_for_is_watched_whatever_a_member_waits_for() {
    let images = Images::signed();
    let host = &images.host;
    host.bpfctl_as_member("load -q --image registry/team/app:1 --name mine").ok();
    let hook = |netns: String| pb::XdpHook { interface: "v0".to_owned(), netns: Some(netns) };
    waits_for(host, (0..257).map(|number| hook(format!("aa{number:03}")))).unwrap();
    // Said at once: by doctor, and of the link.
    let doctor = host.bpfctl("doctor").stdout;
    assert!(doctor.contains("1 network namespaces with links are not watched, since bpfd watches 256"), "{doctor}");
    let cause = |link: &str| host.bpfctl(&format!("get link {link} -o json")).ok();
    assert!(cause("mine/count@aa256:v0:xdp").contains("network namespace `aa256` is not watched (limit 256)"));
    assert!(!cause("mine/count@aa255:v0:xdp").contains("is not watched"));
    // What comes to root's namespace is heard, though a member's links were there first.
    let object = example("xdp-counter");
    host.bpfctl(&format!("load -q --path {object} --name fw xdp -i v0 --netns zz --when-present")).ok();
    host.shell("ip netns add zz; ip -n zz link add v0 type veth peer name v1");
    host.await_output("list links --interface v0 --netns zz", "ATTACHED").ok();
    host.shell("ip netns add aa000; ip -n aa000 link add v0 type veth peer name v1");
    host.await_output("list links --interface v0 --netns aa000", "ATTACHED").ok();
    // One less, and its place is another's.
    assert!(cause("mine/count@aa255:v0:xdp").contains("is not watched"));
    host.bpfctl_as_member("detach mine/count@aa001:v0:xdp").ok();
    assert!(!cause("mine/count@aa255:v0:xdp").contains("is not watched"));
}
