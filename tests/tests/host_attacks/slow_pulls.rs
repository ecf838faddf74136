//! A member whose pulls never end, because its registry says nothing: it has two places, and neither root, nor another user, nor what
//! needs no registry waits for them.

use std::collections::BTreeSet;
use std::process::{Child, Stdio};

use bpfd_client::proto::v1 as pb;
use bpfd_tests::{eventually, example};
use bytecode_image::testing::registry::Mode;

use crate::world::{Images, image};

/// Pulls that a member has under way at once: more than there are places for all users.
const PULLS: usize = 12;

struct Pull(Child);

impl Drop for Pull {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn nobody_waits_for_a_members_slow_pulls() {
    let images = Images::signed();
    images.publish("open/other", &image());
    let slow = |number| format!("open/slow{number}");
    for number in 0..PULLS {
        images.publish(&slow(number), &image());
        images.registry.behave(&slow(number), Mode::Stall);
    }
    images.host.bpfctl("image pull -q registry/team/app:1").ok();
    let pull = |number| {
        let mut command = images.host.command("setpriv");
        command.args(["--reuid=4711", "--regid=4711", "--groups=815", "/run/bin/bpfctl", "image", "pull", "-q"]);
        command.arg(format!("registry/{}:1", slow(number))).env("BPFD_SOCKET", "/run/case/run/bpfd/bpfd.sock");
        Pull(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    };
    let pulls: Vec<Pull> = (0..PULLS).map(pull).collect();
    let asked = || -> BTreeSet<String> {
        let paths = images.registry.seen().into_iter().map(|seen| seen.path);
        paths
            .filter_map(|path| Some(path.split_once("/blobs/")?.0.to_owned()))
            .filter(|path| path.contains("slow"))
            .collect()
    };
    assert_eq!(eventually(asked, |asked| asked.len() == 2).len(), 2);
    // What needs no registry.
    images.host.bpfctl(&format!("load -q --path {}", example("xdp-counter"))).ok();
    images.host.bpfctl("load -q --image registry/team/app:1 --pull never --name stored").ok();
    let inspect = pb::InspectImageRequest { image: "registry/team/app:1".to_owned() };
    images.host.ask(async |daemon| daemon.inspect(inspect).await);
    images.host.bpfctl_as_member("load -q --image registry/team/app:1 --pull if-not-present --name its").ok();
    // Root's own places, and those that are left for others.
    images.host.bpfctl("load -q --image registry/team/app:1 --pull always --name pulled xdp -i uplink").ok();
    images.host.bpfctl_as(4713, 4713, &[815], "image pull -q registry/open/other:1").ok();
    assert_eq!(asked().len(), 2, "the others wait for their user's places");
    drop(pulls);
}
