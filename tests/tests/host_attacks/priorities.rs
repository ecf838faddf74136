//! A member who would run before root: by a priority of root's, by its image's wish, by being there first or by its name.

use bpfd_tests::{broken, example};

use crate::world::{Images, image_of};

#[test]
fn no_program_of_a_member_runs_before_one_of_roots_priorities() {
    let images = Images::signed();
    let host = &images.host;
    // Its object wants priority 10, and its name comes first.
    images.publish("open/wish", &image_of(&broken("run_config")));
    let load = "load -q --image registry/open/wish:1 --name aa --program chained";
    let refused = host.unchanged(|| host.bpfctl_as_member(&format!("{load} xdp -i uplink"))).refused(4);
    assert!(refused.contains("priority 10 is below 100"), "{refused}");
    for priority in [0, 99] {
        let line = format!("{load} xdp -i uplink --priority {priority}");
        assert!(host.unchanged(|| host.bpfctl_as_member(&line)).refused(4).contains("is below 100"), "{priority}");
    }
    host.bpfctl_as_member(&format!("{load} xdp -i uplink --priority 100")).ok();
    let update = host.unchanged(|| host.bpfctl_as_member("update aa/chained@uplink:xdp --priority 99"));
    assert!(update.refused(4).contains("priority 99 is below 100"));
    let object = example("xdp-counter");
    for (name, priority) in [("zz", 99), ("zy", 0)] {
        host.bpfctl(&format!("load -q --path {object} --name {name} xdp -i uplink --priority {priority}")).ok();
    }
    let apps = || -> Vec<String> {
        let shown = host.items("chain show uplink");
        let members = shown[0]["members"].as_array().unwrap();
        members.iter().map(|member| member["link"]["app"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(apps(), ["zy", "zz", "aa"]);
    // Root's own at a member's priority is one among equals: nobody is promised a place there.
    host.bpfctl("update zz/count@uplink:xdp --priority 200").ok();
    assert_eq!(apps(), ["zy", "aa", "zz"]);
}
