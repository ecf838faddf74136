//! Callers who do not wait for a registry that hangs: what they asked for ends with them. The daemon is one of them when it stops.
//! And callers who ask again.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use bpfd_client::proto::v1::{self as pb, load_request};
use bpfd_client::{Client, request_id};
use bpfd_tests::eventually;
use bytecode_image::testing::registry::Mode;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::registries::workers;
use crate::world::{Images, image};

/// Far less than the 55 seconds after which a pull that nobody ended fails, and more than a busy host needs.
const SOON: Duration = Duration::from_secs(20);

impl Images {
    fn fetches(&self) -> bool {
        workers(self.host.pid()).iter().any(|(kind, _)| kind == "fetch")
    }

    /// `bpfctl` that hears nothing from the registry.
    fn hanging(&self, line: &str) -> Child {
        let mut command = self.host.command("/run/bin/bpfctl");
        command.args(line.split(' ')).env("BPFD_SOCKET", "/run/case/run/bpfd/bpfd.sock");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // It has heard from the daemon.
        let mut heard = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut heard).unwrap();
        assert!(heard.contains("resolving"), "{line}: {heard}");
        assert!(eventually(|| self.fetches(), |fetches| *fetches), "{line}: nothing is fetched");
        child
    }

    /// That the work of who left at `left` is over, and that none of it comes later.
    #[track_caller]
    fn ended(&self, left: Instant) {
        assert!(!eventually(|| self.fetches(), |fetches| !fetches), "the fetch worker goes on");
        assert!(left.elapsed() < SOON, "{:?}", left.elapsed());
        // Nobody keeps the reference: the next caller has it at once, and is the only one who has.
        self.registry.behave("team/app", Mode::Honest);
        self.host.bpfctl("load -q --image registry/team/app:1 xdp -i uplink").ok();
        let apps = self.host.items("list apps");
        assert_eq!(apps.len(), 1, "{apps:?}");
        self.host.bpfctl("unload app").ok();
        self.host.bpfctl("image rm registry/team/app:1").ok();
        self.registry.behave("team/app", Mode::Stall);
    }

    fn results(&self) -> Vec<String> {
        self.records().iter().filter_map(|record| Some(record["result"].as_str()?.to_owned())).collect()
    }

    pub(crate) fn records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.host.path("/run/case/var/log/bpfd/audit.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn what_its_caller_gave_up_is_not_done() {
    let images = Images::signed();
    images.registry.behave("team/app", Mode::Stall);
    for line in ["load --image registry/team/app:1 xdp -i uplink", "image pull registry/team/app:1"] {
        // A caller with a limit of its own, and one who is killed.
        images.refused(10, || images.host.bpfctl(&format!("{line} --timeout 2")));
        images.ended(Instant::now());
        // Not Ctrl-C's: who starts the tests in the background has it ignored, by them too.
        for signal in [Signal::TERM, Signal::KILL] {
            let mut caller = images.hanging(line);
            kill_process(Pid::from_child(&caller), signal).unwrap();
            assert_eq!(caller.wait().unwrap().signal(), Some(signal.as_raw()));
            images.ended(Instant::now());
        }
    }
    let given_up = images.results().iter().filter(|result| *result == "the caller left").count();
    assert_eq!(given_up, 3, "of the pulls: {:?}", images.results());
}

#[test]
fn a_daemon_that_is_asked_to_stop_does_not_wait_for_a_registry() {
    for line in ["load --image registry/team/app:1 xdp -i uplink", "image pull registry/team/app:1"] {
        let mut images = Images::signed();
        images.registry.behave("team/app", Mode::Stall);
        let mut caller = images.hanging(line);
        let asked = Instant::now();
        images.host.stop();
        assert!(asked.elapsed() < SOON, "{line}: {:?}", asked.elapsed());
        assert_eq!(caller.wait().unwrap().code(), Some(7), "{line}: the daemon cannot be reached any more");
        images.host.start();
        assert!(images.host.items("list apps").is_empty(), "{line}");
    }
}

#[test]
fn a_load_that_was_carried_out_is_answered_again_without_its_registry() {
    let images = Images::new();
    images.publish("open/app", &image());
    let Images { host, registry, key: _ } = images;
    // The registry must be asked: nothing that the daemon has stored can serve.
    let source = pb::ImageSource { reference: "registry/open/app:1".to_owned(), pull: pb::PullPolicy::Always.into() };
    let request = pb::LoadRequest {
        request_id: request_id(),
        source: Some(load_request::Source::Image(source)),
        ..Default::default()
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let mut client =
            Client::connect(&host.path("/run/case/run/bpfd/bpfd.sock"), Duration::from_secs(1)).await.unwrap();
        let first = client.load(request.clone(), |_| {}).await.unwrap();
        drop(registry);
        let mut phases = Vec::new();
        let again = client.load(request.clone(), |told| phases.push(told.phase)).await.unwrap();
        assert_eq!((again.app, phases), (first.app, vec![]));
        let another = pb::LoadRequest { request_id: request_id(), ..request };
        let refused = client.load(another, |_| {}).await.unwrap_err();
        assert_eq!(refused.reason(), Some(pb::ErrorReason::RegistryUnreachable));
    });
    assert_eq!(host.items("list apps").len(), 1);
}
