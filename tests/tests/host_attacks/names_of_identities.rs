//! Apps that are called what another thing's uid or handle is: whoever names that thing must never get this app. And apps in which
//! others have links: who unloads one must not take those links away.

use std::fs;

use bpfd_tests::{Host, example};
use insta::assert_snapshot;
use rusqlite::Connection;

use crate::world::{Images, image};

const LIB: &str = "/run/case/var/lib/bpfd";

impl Images {
    /// Root's app `fw`, with one link on `uplink`: its uid, the link's uid and the link's handle.
    fn with_firewall() -> (Self, [String; 3]) {
        let images = Self::signed();
        let object = example("xdp-counter");
        images.host.bpfctl(&format!("load -q --path {object} --name fw xdp -i uplink --priority 10")).ok();
        let row = "SELECT apps.uid, links.uid, CAST(links.handle AS TEXT) FROM apps JOIN links ON links.app = apps.uid";
        let rows = in_copy(&images.host, |database| {
            database.query_row(row, [], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?])).unwrap()
        });
        (images, rows.0)
    }
}

/// Works on a copy of the database, and gives it: SQLite follows `/proc/PID/root` to where it seems to lead.
pub(crate) fn in_copy<T>(host: &Host, work: impl FnOnce(&Connection) -> T) -> (T, Vec<u8>) {
    let elsewhere = tempfile::tempdir().unwrap();
    for file in ["state.db", "state.db-wal"] {
        let from = host.path(&format!("{LIB}/{file}"));
        if from.exists() {
            fs::copy(from, elsewhere.path().join(file)).unwrap();
        }
    }
    let database = Connection::open(elsewhere.path().join("state.db")).unwrap();
    let done = work(&database);
    // The last connection to close writes the log back.
    database.close().unwrap();
    (done, fs::read(elsewhere.path().join("state.db")).unwrap())
}

#[test]
fn a_member_cannot_call_an_app_what_another_things_uid_or_handle_is() {
    let (images, names) = Images::with_firewall();
    for name in &names {
        let load = format!("load -q --image registry/team/app:1 --name {name} xdp -i uplink --priority 500");
        let said = images.host.unchanged(|| images.host.bpfctl_as_member(&load)).refused(2);
        assert!(said.contains("it reads as a uid or a number"), "{said}");
    }
    // An image's own name is a wish: it is changed.
    images.host.bpfctl_as_member("load -q --image registry/team/app:1 --name mine xdp -i uplink --priority 500").ok();
    let [app, link, handle] = &names;
    for fw in [link.clone(), format!("uid:{link}"), format!("#{handle}"), handle.clone()] {
        let shown = images.host.bpfctl(&format!("get link {fw}")).ok();
        assert!(shown.contains("fw/count@uplink:xdp"), "{fw}: {shown}");
    }
    images.host.bpfctl(&format!("unload uid:{app}")).ok();
    assert_eq!(images.host.items("list apps").len(), 1);
}

#[test]
fn an_app_that_an_earlier_version_let_be_called_so_gets_another_name() {
    let (mut images, [_, link, handle]) = Images::with_firewall();
    images.host.bpfctl_as_member("load -q --image registry/team/app:1 --name mine xdp -i uplink --priority 500").ok();
    for (old, new) in [(handle.as_str(), format!("app-{handle}")), (link.as_str(), format!("app-{link}"))] {
        images.host.stop();
        let rename = "UPDATE apps SET name = ?1, body = json_set(body, '$.name', ?1) WHERE name LIKE 'mine' OR name LIKE 'app-%'";
        let (renamed, database) = in_copy(&images.host, |database| database.execute(rename, [old]).unwrap());
        assert_eq!(renamed, 1);
        fs::write(images.host.path(&format!("{LIB}/state.db")), database).unwrap();
        images.host.shell(&format!("rm -f {LIB}/state.db-wal {LIB}/state.db-shm"));
        images.host.start();
        let told = format!("app `{old}` is now `{new}`: the old name reads as a uid or a number");
        assert!(images.host.log().contains(&told), "{told}{}", images.host.log());
        let shown = images.host.bpfctl(&format!("get link {old}")).ok();
        assert!(shown.contains("fw/count@uplink:xdp"), "{shown}");
        assert_eq!(images.host.items("list apps")[0]["name"], new.as_str());
    }
}

#[test]
fn an_app_in_which_root_has_a_link_is_not_its_owners_to_unload() {
    let images = Images::signed();
    images.publish("open/app", &image());
    let host: &Host = &images.host;
    host.bpfctl_as_member("load -q --image registry/team/app:1 --name shared").ok();
    host.bpfctl("attach shared/count xdp -i uplink --priority 10").ok();
    host.bpfctl_as_member("attach shared/count xdp -i lo --priority 500").ok();
    assert_snapshot!(host.unchanged(|| host.bpfctl_as_member("unload shared")).refused(4), @"
    error: member may not unload
    cause: others have links in app `shared`: `shared/count@uplink:xdp` of root
    hint: ask their owners to detach them, or root to unload the app
    ");
    host.bpfctl("detach shared/count@uplink:xdp").ok();
    host.bpfctl_as_member("unload shared").ok();
}
