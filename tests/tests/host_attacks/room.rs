//! A member who fills a chain so that root's program no longer fits: the rest of what its programs share is kept for priorities below 100.

use insta::assert_snapshot;

use crate::world::Images;

#[test]
fn a_member_cannot_fill_a_chain() {
    let images = Images::signed();
    let host = &images.host;
    let load = |number: usize| {
        let line = format!("load -q --image registry/team/app:1 --pull if-not-present --name m{number}");
        host.bpfctl_as_member(&format!("{line} xdp -i uplink --priority 500"))
    };
    let loaded = (0..64).take_while(|number| load(*number).code == 0).count();
    let refused = host.unchanged(|| load(loaded)).refused(8);
    match host.shares() {
        true => assert_snapshot!(refused, @"
        error: cannot load `m8`
        cause: `uplink`: the chain would have 9 XDP programs; 10 is the limit, and the last 2 are kept for links of priorities 0 to 99
        hint: detach another program of this interface, or ask root to attach this one at a priority below 100
        "),
        false => assert_snapshot!(refused, @"
        error: cannot load `m23`
        cause: the chain would have 49 maps; 64 is the limit, and the last 16 are kept for links of priorities 0 to 99
        hint: detach another program of this interface, or ask root to attach this one at a priority below 100
        "),
    }
    for name in ["fw", "fw2"] {
        host.bpfctl(&format!("load -q --image registry/team/app:1 --name {name} xdp -i uplink --priority 50")).ok();
    }
    let links = host.items("list links --interface uplink");
    assert!(links.iter().all(|link| link["state"] == "LINK_STATE_ATTACHED"), "{links:?}");
    assert_eq!(links.len(), loaded + 2);
}
