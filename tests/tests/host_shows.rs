//! What `get`, `list` and `chain show` print, whole.

use bpfd_tests::{Host, broken, example};
use insta::assert_snapshot;

/// Two counters, b before a.
fn two() -> Host {
    let host = Host::new();
    let object = example("xdp-counter");
    for (name, priority) in [("a", 20), ("b", 10)] {
        let place = format!("xdp -i uplink --priority {priority}");
        host.bpfctl(&format!("load --path {object} --name {name} --set step=10 {place}")).ok();
    }
    host
}

#[test]
fn get_shows_everything_of_an_app_and_of_a_link() {
    let host = two();
    assert_snapshot!(host.bpfctl("get app b").ok(), @"
    name:     b
    uid:      UID
    state:    LOADED
    source:   upload `b`
    object:   sha256:SHA256
    reach:    kernel
    owner:    root (uid 0)
    persist:  no
    loaded:   TIME
    global:   step = 10

    FUNCTION  SECTION  TYPE  KERNEL-ID  TAG               INSNS
    count     xdp      xdp   ID         TAG-IN-16-DIGITS  COUNT

    MAP      TYPE          KEY  VALUE  MAX  KERNEL-ID  PIN
    .rodata  array         4    4      1    ID         /run/case/sys/fs/bpf/bpfd/v1/UID/map_-rodata
    packets  percpu_array  4    8      1    ID         /run/case/sys/fs/bpf/bpfd/v1/UID/map_packets

    PROGRAM  TYPE  HOOK        PRIO  POS  STATE
    b/count  xdp   uplink:xdp  10    1    ATTACHED
    ");
    assert_snapshot!(host.bpfctl("get link b/count@uplink:xdp").ok(), @"
    name:        b/count@uplink:xdp
    uid:         UID
    state:       ATTACHED
    program:     b/count
    hook:        uplink:xdp
    priority:    10
    proceed on:  pass
    position:    1
    xdp mode:    auto
    kernel id:   ID
    owner:       uid 0
    persist:     no
    attached:    TIME
    ");
    assert_snapshot!(host.bpfctl("get app b -o json").ok(), @r#"
    {
      "apiVersion": "bpfd.v1",
      "items": [
        {
          "cause": "",
          "createTime": "TIME",
          "generation": "1",
          "globals": [
            {
              "name": "step",
              "value": "10"
            }
          ],
          "handle": 4,
          "labels": {},
          "links": [
            "b/count@uplink:xdp"
          ],
          "maps": [
            {
              "kernelId": ID,
              "keySize": 4,
              "maxEntries": 1,
              "name": ".rodata",
              "pinPath": "/run/case/sys/fs/bpf/bpfd/v1/UID/map_-rodata",
              "type": "array",
              "valueSize": 4
            },
            {
              "kernelId": ID,
              "keySize": 4,
              "maxEntries": 1,
              "name": "packets",
              "pinPath": "/run/case/sys/fs/bpf/bpfd/v1/UID/map_packets",
              "type": "percpu_array",
              "valueSize": 8
            }
          ],
          "name": "b",
          "owner": {
            "uid": 0,
            "user": "root"
          },
          "persist": false,
          "programFile": "",
          "programs": [
            {
              "function": "count",
              "handle": 6,
              "kernelId": ID,
              "section": "xdp",
              "tag": "TAG-IN-16-DIGITS",
              "type": "PROGRAM_TYPE_XDP",
              "verifiedInstructions": COUNT
            }
          ],
          "reach": "REACH_KERNEL",
          "source": {
            "objectSha256": "SHA256",
            "upload": {
              "nameHint": "b"
            }
          },
          "state": "APP_STATE_LOADED",
          "uid": "UID",
          "userLabels": {}
        }
      ],
      "kind": "App"
    }
    "#);
    assert_snapshot!(host.bpfctl("get link b/count@uplink:xdp -o json").ok(), @r#"
    {
      "apiVersion": "bpfd.v1",
      "items": [
        {
          "app": "b",
          "appUid": "UID",
          "cause": "",
          "createTime": "TIME",
          "effectivePriority": 10,
          "function": "count",
          "generation": "1",
          "handle": 5,
          "hook": {
            "xdp": {
              "interface": "uplink"
            }
          },
          "kernelProgramId": ID,
          "name": "b/count@uplink:xdp",
          "nameNow": "",
          "order": "",
          "origin": "LINK_ORIGIN_REQUEST",
          "ownerUid": 0,
          "persist": false,
          "position": 1,
          "priority": 10,
          "proceedOn": {
            "tc": [],
            "xdp": [
              "XDP_ACTION_PASS"
            ]
          },
          "state": "LINK_STATE_ATTACHED",
          "uid": "UID",
          "xdpMode": "XDP_MODE_AUTO"
        }
      ],
      "kind": "Link"
    }
    "#);
}

#[test]
fn a_chain_as_json_has_its_members_in_order() {
    let host = two();
    assert_snapshot!(host.bpfctl("chain show uplink -o json").ok(), @r#"
    {
      "apiVersion": "bpfd.v1",
      "items": [
        {
          "findings": [],
          "hook": "CHAIN_HOOK_XDP",
          "ifindex": 2,
          "interface": "uplink",
          "kernelProgramId": ID,
          "members": [
            {
              "effectivePriority": 10,
              "kernelProgramId": ID,
              "link": {
                "app": "b",
                "appUid": "UID",
                "cause": "",
                "createTime": "TIME",
                "effectivePriority": 10,
                "function": "count",
                "generation": "1",
                "handle": 5,
                "hook": {
                  "xdp": {
                    "interface": "uplink"
                  }
                },
                "kernelProgramId": ID,
                "name": "b/count@uplink:xdp",
                "nameNow": "",
                "order": "",
                "origin": "LINK_ORIGIN_REQUEST",
                "ownerUid": 0,
                "persist": false,
                "position": 1,
                "priority": 10,
                "proceedOn": {
                  "tc": [],
                  "xdp": [
                    "XDP_ACTION_PASS"
                  ]
                },
                "state": "LINK_STATE_ATTACHED",
                "uid": "UID",
                "xdpMode": "XDP_MODE_AUTO"
              },
              "position": 1,
              "priority": 10,
              "proceedOn": {
                "tc": [],
                "xdp": [
                  "XDP_ACTION_PASS"
                ]
              },
              "tag": "TAG-IN-16-DIGITS"
            },
            {
              "effectivePriority": 20,
              "kernelProgramId": ID,
              "link": {
                "app": "a",
                "appUid": "UID",
                "cause": "",
                "createTime": "TIME",
                "effectivePriority": 20,
                "function": "count",
                "generation": "1",
                "handle": 2,
                "hook": {
                  "xdp": {
                    "interface": "uplink"
                  }
                },
                "kernelProgramId": ID,
                "name": "a/count@uplink:xdp",
                "nameNow": "",
                "order": "",
                "origin": "LINK_ORIGIN_REQUEST",
                "ownerUid": 0,
                "persist": false,
                "position": 2,
                "priority": 20,
                "proceedOn": {
                  "tc": [],
                  "xdp": [
                    "XDP_ACTION_PASS"
                  ]
                },
                "state": "LINK_STATE_ATTACHED",
                "uid": "UID",
                "xdpMode": "XDP_MODE_AUTO"
              },
              "position": 2,
              "priority": 20,
              "proceedOn": {
                "tc": [],
                "xdp": [
                  "XDP_ACTION_PASS"
                ]
              },
              "tag": "TAG-IN-16-DIGITS"
            }
          ],
          "mode": "CHAIN_MODE_FUSED",
          "modeCause": CAUSE,
          "shutOut": "",
          "xdpMode": "XDP_MODE_NATIVE"
        }
      ],
      "kind": "Chain"
    }
    "#);
}

#[test]
fn what_an_object_says_of_its_place_holds_unless_the_request_says_more() {
    let host = Host::new();
    // `chained` says priority 10, and PASS and DROP; `last` that no verdict goes on.
    let load = |program: &str, name: &str, more: &str| {
        let object = broken("run_config");
        host.bpfctl(&format!("load --path {object} --name {name} --program {program} xdp -i uplink{more}")).ok();
    };
    load("silent", "silent", "");
    load("last", "last", "");
    load("chained", "own", "");
    load("chained", "asked", " --priority 7");
    load("chained", "both", " --priority 8 --proceed-on aborted");
    assert_snapshot!(host.bpfctl("chain show uplink").ok(), @"
    chain:      uplink:xdp
    mode:       MODE
    xdp mode:   native
    kernel id:  ID

    POS  SLOT  PRIO  PROGRAM        PROCEED-ON  KERNEL-ID  OWNER  STATE
    1    -     7     asked/chained  drop,pass   ID         uid 0  ATTACHED
    2    -     8     both/chained   aborted     ID         uid 0  ATTACHED
    3    -     10    own/chained    drop,pass   ID         uid 0  ATTACHED
    4    -     50    last/last      none        ID         uid 0  ATTACHED
    5    -     50    silent/silent  pass        ID         uid 0  ATTACHED
    ");
}
