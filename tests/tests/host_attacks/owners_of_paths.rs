//! What the daemon reads at a start, and every directory above it: where somebody else could have written it, there is no start, and the
//! path is named.

use bpfd_tests::Host;

/// Somebody.
const UID: u32 = 4711;

/// A start is refused with these words.
#[track_caller]
fn refused(host: &Host, why: &str) {
    let ended = host.spawn(&[]);
    assert!(ended.is_err_and(|status| status.code() == Some(1)), "it starts, and must not: {why}");
    let log = host.log();
    assert!(log.contains(&format!(" cannot use `{why}")), "{why}{log}");
}

#[test]
fn a_daemon_does_not_start_on_what_others_can_write() {
    let mut host = Host::new();
    host.bpfctl(&format!("load -q --path {} xdp -i uplink", bpfd_tests::example("xdp-counter"))).ok();
    host.stop();
    // Where each way leads, and what is wrong there: a directory above all, on the way, the last one, files, pins.
    for (path, change, why) in [
        ("", "chown 4711", "it belongs to uid 4711; it must belong to root: `chown root`"),
        ("", "chmod g+w", "its mode is 775; only its owner may be allowed to write: `chmod go-w`"),
        ("/var", "chmod o+w", "its mode is"),
        ("/var", "chown 4711", "it belongs to uid 4711"),
        ("/run/bpfd", "chown 4711", "it belongs to uid 4711"),
        ("/var/lib/bpfd", "chmod 1777", "its mode is 1777"),
        ("/var/lib/bpfd/state.db", "chmod g+w", "its mode is"),
        ("/var/lib/bpfd/state.db", "chown 4711", "it belongs to uid 4711"),
        ("/var/lib/bpfd/objects", "chown 4711", "it belongs to uid 4711"),
        ("/var/lib/bpfd/objects/*", "chmod g+w", "its mode is"),
        ("/var/lib/bpfd/images", "chown 4711", "it belongs to uid 4711"),
        ("/var/lib/bpfd/images/index.json", "chown 4711", "it belongs to uid 4711"),
        ("/var/lib/bpfd/images/blobs", "chmod g+w", "its mode is"),
        ("/sys/fs/bpf/bpfd", "chown 4711", "it belongs to uid 4711"),
    ] {
        let full = host.shell(&format!("ls -d /run/case{path}")).trim_end().to_owned();
        let before = host.shell(&format!("stat -c '%u %a' {full}"));
        let (owner, mode) = before.trim_end().split_once(' ').unwrap();
        host.shell(&format!("{change} {full}"));
        refused(&host, &format!("{full}`: {why}"));
        host.shell(&format!("chown {owner} {full}; chmod {mode} {full}"));
    }
    host.start();
}

#[test]
fn configuration_is_read_where_nobody_else_can_put_it() {
    let mut host = Host::without_daemon();
    host.shell(&format!(
        "mkdir -p /run/case/etc/bpfd/policy.d /run/theirs; chown {UID} /run/theirs; echo key >/run/theirs/ci.pub
         printf '%s\\n' 'version = 1' '[[signer]]' 'name = \"ci\"' 'key = \"/run/theirs/ci.pub\"' >/run/policy.toml"
    ));
    for (change, why) in [
        (
            "cp /run/policy.toml policy.toml",
            "policy.toml:4:7: cannot read the key `/run/theirs/ci.pub`: `/run/theirs`: it belongs to uid 4711",
        ),
        (
            "ln -s /run/theirs policy.d/../link; mv policy.d aside; mv link policy.d",
            "cannot use `/run/theirs`: it belongs to uid",
        ),
        ("echo >bpfd.toml; chmod o+w .", "cannot use `/run/case/etc/bpfd`: its mode is 757"),
        ("echo >registries.toml; chown 4711 /run/case/etc", "cannot use `/run/case/etc`: it belongs to uid 4711"),
    ] {
        host.shell(&format!("cp -a /run/case/etc /run/kept; cd /run/case/etc/bpfd; {change}"));
        let ended = host.spawn(&[]);
        assert!(ended.is_err_and(|status| status.code() == Some(1)), "it starts, and must not: {change}");
        assert!(host.log().contains(why), "{change}: {why}{}", host.log());
        host.shell("rm -r /run/case/etc; mv /run/kept /run/case/etc");
    }
    host.start();
}

#[test]
fn a_state_directory_behind_a_link_is_used_where_each_part_of_the_way_is_roots() {
    let mut host = Host::new();
    host.stop();
    host.shell("mkdir -p /run/elsewhere; mv /run/case/var/lib/bpfd /run/elsewhere/state; ln -s /run/elsewhere/state /run/case/var/lib/bpfd");
    host.start();
    host.stop();
    host.shell(&format!("chown {UID} /run/elsewhere"));
    refused(&host, "/run/elsewhere`: it belongs to uid 4711");
    // The link is somebody's, who may turn it.
    host.shell(&format!("chown 0 /run/elsewhere; chown -h {UID} /run/case/var/lib/bpfd"));
    refused(&host, "/run/case/var/lib/bpfd`: it belongs to uid 4711");
    // A file behind a link is refused whoever made it: its directory was not looked at.
    host.shell(
        "chown -h 0 /run/case/var/lib/bpfd; mv /run/elsewhere/state/state.db /run/db; ln -s /run/db /run/elsewhere/state/state.db",
    );
    refused(&host, "/run/case/var/lib/bpfd/state.db`: it is not a regular file");
    host.shell("mv /run/db /run/elsewhere/state/state.db");
    host.start();
}

#[test]
fn a_sticky_directory_of_roots_passes_on_the_way() {
    let mut host = Host::without_daemon();
    host.shell("chmod 1777 /run/case");
    host.start();
    host.stop();
    // Not one of somebody else's: who owns it may take away what is in it.
    host.shell(&format!("chown {UID} /run/case"));
    refused(&host, "/run/case`: it belongs to uid 4711");
    host.shell("chown 0 /run/case");
    // What is in it must be root's.
    host.shell(&format!("chown {UID} /run/case/var"));
    refused(&host, "/run/case/var`: it belongs to uid 4711");
    host.shell("chown 0 /run/case/var");
    host.start();
}

#[test]
fn nothing_is_made_below_what_somebody_else_owns() {
    let mut host = Host::without_daemon();
    host.shell(&format!("mkdir /run/theirs; chown {UID} /run/theirs; ln -s /run/theirs /run/case/var"));
    refused(&host, "/run/theirs`: it belongs to uid 4711");
    assert_eq!(host.shell("ls -A /run/theirs"), "");
    host.shell("rm /run/case/var");
    host.start();
}
