//! Every method of the API, asked by callers whom no rule allows anything: none answers, but the one that tells callers of themselves.

use std::collections::BTreeMap;

use bpfd_client::proto::FILE_DESCRIPTOR_SET;
use bpfd_tests::Host;
use prost::Message;
use prost_types::FileDescriptorSet;

use crate::raw::{LIMIT, ROOT, Raw, Who, connect, run};
use crate::world::ETC;

/// A rule, so that the groups have no built-in ones, about somebody else.
const POLICY: &str =
    "version = 1\n[[rule]]\nid = \"other\"\neffect = \"allow\"\nwho = [{ user = \"other\" }]\nverbs = [\"list\"]\n";

/// Whom the daemon takes a caller for.
const OPEN: &str = "/bpfd.v1.PolicyService/WhoAmI";

/// gRPC's numbers of `OK` and `PERMISSION_DENIED`.
const OK: &str = "0";
const DENIED: &str = "7";

/// How each method answers an empty message, as a gRPC status.
fn answers(host: &Host, who: Who) -> BTreeMap<String, String> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut answers = BTreeMap::new();
    run(async {
        let mut raw = Raw::greet(connect(host, who)).await;
        for service in set.file.iter().flat_map(|file| &file.service) {
            for method in &service.method {
                let path = format!("/bpfd.v1.{}/{}", service.name(), method.name());
                let answer = tokio::time::timeout(LIMIT, raw.begin(&path).await.ask([])).await;
                answers.insert(path, answer.expect("an answer").expect("a status"));
            }
        }
    });
    answers
}

#[test]
fn no_method_is_open_to_somebody_whom_no_rule_allows_it() {
    let mut host = Host::without_daemon();
    host.make_group();
    host.shell(&format!("mkdir -p {ETC}; printf '{}' >{ETC}/policy.toml", POLICY.replace('\n', "\\n")));
    host.start();
    let of_root = answers(&host, ROOT);
    let answered = of_root.values().filter(|status| *status == OK).count();
    assert!(answered > 10, "the control: empty messages mean something to these methods: {of_root:?}");
    for (uid, group, socket) in [
        (4711, 815, "bpfd.sock"),
        (4712, 816, "bpfd-ro.sock"),
        (4713, 815, "bpfd.sock"),
        (4713, 816, "bpfd-ro.sock"),
        (65534, 815, "bpfd.sock"),
        (1, 816, "bpfd-ro.sock"),
    ] {
        for (path, status) in answers(&host, Who { uid, group, socket }) {
            match of_root[&path].as_str() {
                OK if path == OPEN => assert_eq!(status, OK, "{uid} {path}"),
                OK => assert_eq!(status, DENIED, "{uid} {path}"),
                // Refused before it is known what is asked for, or as what is not there is.
                _ => assert_ne!(status, OK, "{uid} {path}"),
            }
        }
    }
}
