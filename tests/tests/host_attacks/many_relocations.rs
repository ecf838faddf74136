//! A small object with many CO-RE relocations: whoever loads it again after a restart reads it once, and the kernel's types once, and
//! spends no more than it must.

use bpfd_tests::{Host, Opens, broken, example};

use crate::world::{Images, image_of};

#[test]
fn an_object_with_many_relocations_is_read_once() {
    let mut images = Images::new();
    images.publish("open/many", &image_of(&broken("many_relocations")));
    let host = &mut images.host;
    // A file of the case's own: others read the kernel's types meanwhile.
    host.stop();
    host.shell("cp /sys/kernel/btf/vmlinux /run/types; mount --bind /run/types /sys/kernel/btf/vmlinux");
    host.start();
    let types = Opens::of([host.path("/run/types")]);
    let load = |host: &Host, app: &str| {
        let line = format!("load -q --image registry/open/many:1 --name {app} xdp -i uplink --priority 500");
        host.bpfctl_as_member(&line).ok();
    };
    load(host, "one");
    assert_eq!(types.count(), 1, "it has relocations");
    let objects = Opens::of([host.path("/run/case/var/lib/bpfd/objects")]);
    host.stop();
    host.start();
    assert_eq!((objects.count(), types.count()), (0, 0), "what runs is not read again at a start");
    load(host, "two");
    for app in ["one", "two"] {
        host.bpfctl(&format!("persist {app}")).ok();
    }
    let _ = (objects.count(), types.count());
    host.reboot();
    host.start();
    let links = host.items("list links");
    assert!(links.iter().all(|link| link["state"] == "LINK_STATE_ATTACHED") && links.len() == 2, "{links:?}");
    assert_eq!((objects.count(), types.count()), (1, 1), "once for both apps");

    // What the daemon itself does grows with the object, not with the object times the kernel: then it is some hundred times as much. Its
    // time on a processor is the same on a busy machine.
    let many = host.processor_time();
    for app in ["one", "two"] {
        host.bpfctl(&format!("unload {app}")).ok();
        let object = example("xdp-pass");
        host.bpfctl(&format!("load -q --path {object} --name {app} --persist xdp -i uplink")).ok();
    }
    host.reboot();
    host.start();
    let few = host.processor_time();
    assert!(many < few * 20, "{many:?} with relocations, {few:?} without");
}
