//! Program arrays of several apps: each holds programs of its own object alone, whatever the objects call them, and nobody but root
//! reaches the pins by which one could be changed.

use std::collections::BTreeSet;

use bpfd_client::proto::v1 as pb;
use bpfd_tests::{Host, broken};
use serde_json::Value;

use crate::world::{Images, image_of};

/// The programs in an app's array `table`, by number.
fn entries(host: &Host, app: &str) -> BTreeSet<u64> {
    let shown = host.ask(async |daemon| daemon.app(pb::GetAppRequest { app: app.to_owned() }).await);
    let pin = shown.maps.iter().find(|map| map.name == "table").and_then(|map| map.pin_path.as_deref()).unwrap();
    let dumped: Value = serde_json::from_str(&host.shell(&format!("bpftool -j map dump pinned {pin}"))).unwrap();
    let number = |entry: &Value| {
        let bytes = entry["value"].as_array()?;
        bytes.iter().rev().try_fold(0, |number, byte| {
            let byte = u64::from_str_radix(byte.as_str()?.trim_start_matches("0x"), 16).ok()?;
            Some((number << 8) | byte)
        })
    };
    dumped.as_array().unwrap().iter().filter_map(number).collect()
}

#[test]
fn an_apps_program_array_leads_to_its_own_programs_alone() {
    let images = Images::signed();
    let host = &images.host;
    images.publish("team/tails", &image_of(&broken("tail_calls")));
    images.sign("team/tails", &images.key);
    host.bpfctl(&format!("load -q --path {} --name tails --program entry", broken("tail_calls"))).ok();
    let roots = entries(host, "tails");
    assert_eq!(roots.len(), 2);
    host.bpfctl_as_member("load -q --image registry/team/tails:1 --name its --program entry").ok();
    let its = entries(host, "its");
    assert_eq!((its.len(), its.intersection(&roots).count()), (2, 0));
    // By the pins anybody could change them.
    let pins = host.shell("ls -d /run/case/sys/fs/bpf/bpfd/v1/*/ | head -1").trim_end().to_owned();
    for user in [4711, 4712, 65534] {
        let look = format!("setpriv --reuid={user} --regid={user} --clear-groups ls {pins} 2>&1 || echo refused");
        assert!(host.shell(&look).contains("refused"), "{user}");
    }
    host.bpfctl_as_member("unload its").ok();
    assert_eq!(entries(host, "tails"), roots);
}
