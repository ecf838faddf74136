//! Maps that apps share: on request, by name; after a restart, an unload and a boot. That the caller must own the app is the policy's case.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the lints exempt test functions, not what they share"
)]

use bpfd_tests::{Host, broken, example};
use insta::assert_snapshot;

/// Loads the object whose map asks to be pinned by name.
fn load(host: &Host, name: &str, more: &str) -> String {
    let said = host.bpfctl(&format!("load --path {} --name {name}{more}", broken("pin_by_name")));
    assert_eq!(said.code, 0, "{said}");
    said.stderr
}

/// The kernel's number of a map of each app.
fn ids<const N: usize>(host: &Host, map: &str, apps: [&str; N]) -> [u64; N] {
    apps.map(|app| {
        let item = &host.items(&format!("get app {app}"))[0];
        let maps = item["maps"].as_array().unwrap();
        maps.iter().find(|found| found["name"] == map).unwrap()["kernelId"].as_u64().unwrap()
    })
}

/// As after a boot: nothing is pinned, and nothing runs.
fn boot(host: &mut Host) {
    host.kill();
    host.shell("ip link set uplink xdp off; rm -rf /run/case/sys/fs/bpf/bpfd /run/case/sys/fs/bpf/xdp");
    host.start();
    host.check();
}

#[test]
fn a_map_is_shared_on_request_and_not_because_it_asks_for_it() {
    let mut host = Host::new();
    assert_snapshot!(load(&host, "writer", " xdp -i uplink"), @"
    reading the object
    loading programs
    attaching
    warning: the object asks to share `packets` by name (LIBBPF_PIN_BY_NAME); this app has its own
    hint: `bpfctl load --map-from APP:packets` shares the map of another app
    ");
    assert_snapshot!(load(&host, "reader", " --map-from writer:packets"), @"
    reading the object
    loading programs
    ");
    load(&host, "apart", "");
    host.ping(5);
    assert_eq!(["writer", "reader", "apart"].map(|app| host.sum(app, "packets")), [5, 5, 0]);
    let [writer, reader] = ids(&host, "table", ["writer", "reader"]);
    assert_ne!(writer, reader, "only what was named is shared");
    assert!(host.bpfctl("get app reader").ok().contains("map packets of app writer\n"));
    // Both write to it, side by side, also by a daemon that opens it again.
    host.stop();
    host.start();
    host.bpfctl("attach reader xdp -i uplink").ok();
    host.ping(5);
    assert_eq!(["writer", "reader"].map(|app| host.sum(app, "packets")), [15, 15]);
}

#[test]
fn a_shared_map_lives_until_the_last_app_that_has_it_is_unloaded() {
    let mut host = Host::new();
    load(&host, "writer", " xdp -i uplink");
    load(&host, "first", " --map-from writer:packets xdp -i uplink");
    // What an app has from another, others have from it.
    load(&host, "second", " --map-from first:packets xdp -i uplink");
    let [writer, first, second] = ids(&host, "packets", ["writer", "first", "second"]);
    assert_eq!([first, second], [writer; 2]);
    boot(&mut host);
    let [writer, first, second] = ids(&host, "packets", ["writer", "first", "second"]);
    assert_eq!([first, second], [writer; 2]);
    host.bpfctl("unload writer").ok();
    host.ping(5);
    assert_eq!((ids(&host, "packets", ["first", "second"]), host.sum("first", "packets")), ([writer; 2], 10));
    // Whoever made it is gone: those that share it meet all the same.
    boot(&mut host);
    let [first, second] = ids(&host, "packets", ["first", "second"]);
    assert_eq!(first, second);
    host.ping(5);
    assert_eq!(host.sum("second", "packets"), 10);
}

#[test]
fn a_map_that_is_no_longer_the_one_that_is_shared_is_reported() {
    let host = Host::new();
    load(&host, "writer", "");
    load(&host, "reader", " --map-from writer:packets");
    load(&host, "other", "");
    let pin = |app: &str| {
        let item = &host.items(&format!("get app {app}"))[0];
        let map = item["maps"].as_array().unwrap().iter().find(|map| map["name"] == "packets").unwrap().clone();
        map["pinPath"].as_str().unwrap().to_owned()
    };
    let (reader, other) = (pin("reader"), pin("other"));
    assert_eq!(host.findings(), [""; 0]);
    let moved = format!("mv {reader} {reader}-away && bpftool map pin pinned {other} {reader}");
    host.shell(&moved);
    let found = host.findings();
    host.shell(&format!("rm {reader} && mv {reader}-away {reader}"));
    assert!(
        found.iter().any(|what| what.contains("map `packets` of `reader` is no longer the one that it shares")),
        "{found:?}"
    );
}

#[test]
fn what_cannot_be_shared_is_refused_with_its_reason() {
    let host = Host::new();
    load(&host, "writer", "");
    host.bpfctl(&format!("load --path {} --name counter", example("xdp-counter"))).ok();
    let cause = |code: i32, from: &str| {
        let said = host.refuses(code, &format!("load --path {} --map-from {from}", broken("pin_by_name")));
        said.lines().find_map(|line| line.strip_prefix("cause: ")).unwrap().to_owned()
    };
    assert_snapshot!(cause(3, "nobody"), @"no app `nobody`");
    assert_snapshot!(cause(3, "writer:packet"), @"the object has no map `packet`; it has `jumps`, `packets`, `table`");
    assert_snapshot!(cause(3, "writer:.bss"), @"the object has no map `.bss`; it has `jumps`, `packets`, `table`");
    assert_snapshot!(cause(3, "counter:table"), @"app `counter` has no map `table`; it has `packets`");
    assert_snapshot!(cause(8, "writer:jumps"), @"map `jumps` holds programs or maps that its own object puts into it: it cannot be shared");
    assert_snapshot!(cause(8, "counter:packets"), @"map `packets` of app `counter` is percpu_array of 1 entries, key of 4 bytes, value of 8 bytes; the object declares array of 1 entries, key of 4 bytes, value of 8 bytes");
    assert_snapshot!(cause(2, "writer:table --map-from writer:table"), @"map `table` is taken from two apps");
}
