//! Clients that are not bpfctl, on a daemon's socket: the Go module's own tests, and the Rust crate.
#![expect(clippy::unwrap_used, reason = "a case's own set-up may fail the case")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bpfd_client::proto::reason::Exit;
use bpfd_client::proto::v1::{self as pb, load_request, unload_request};
use bpfd_client::{Client, ClientError, request_id};
use bpfd_tests::{Host, Output, broken, eventually, example};
use serde_json::Value;
use tokio::runtime::Runtime;

/// Below the daemon's root.
const SOCKET: &str = "/run/case/run/bpfd/bpfd.sock";

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn connect(host: &Host) -> Client {
    Client::connect(&host.path(SOCKET), Duration::from_secs(1)).await.unwrap()
}

/// Uploads an object and loads it, onto `uplink` if a priority is given.
async fn load(
    client: &mut Client,
    object: &str,
    name: &str,
    priority: Option<u32>,
) -> Result<pb::LoadResult, ClientError> {
    let uploaded = client.upload(&fs::read(object).unwrap()).await?;
    let attach = priority.map(|priority| pb::Attachment {
        hook: Some(pb::Hook {
            hook: Some(pb::hook::Hook::Xdp(pb::XdpHook { netns: None, interface: "uplink".to_owned() })),
        }),
        priority: Some(priority),
        ..Default::default()
    });
    let request = pb::LoadRequest {
        request_id: request_id(),
        name: Some(name.to_owned()),
        source: Some(load_request::Source::ObjectSha256(uploaded.sha256)),
        attach: attach.into_iter().collect(),
        ..Default::default()
    };
    client.load(request, |_| {}).await
}

#[test]
fn a_rust_client_uploads_loads_lists_and_unloads() {
    let host = Host::new();
    let runtime = runtime();
    let mut client = runtime.block_on(connect(&host));
    let loaded = runtime.block_on(load(&mut client, &example("xdp-counter"), "counter", Some(7))).unwrap();
    let app = loaded.app.unwrap();
    let [link] = loaded.links.as_slice() else { panic!("{:?}", loaded.links) };
    assert_eq!((link.name.as_str(), link.priority, link.position), ("counter/count@uplink:xdp", Some(7), Some(1)));
    host.ping(5);
    assert_eq!(host.counted("counter"), 5);

    runtime.block_on(async {
        let apps = client.apps(pb::ListAppsRequest::default()).await.unwrap();
        assert_eq!(apps, [client.app(pb::GetAppRequest { app: app.uid.clone() }).await.unwrap()]);
        assert_eq!((apps[0].uid.as_str(), apps[0].state()), (app.uid.as_str(), pb::AppState::Loaded));
        assert_eq!(client.links(pb::ListLinksRequest::default()).await.unwrap(), loaded.links);

        let request = pb::UnloadRequest {
            request_id: request_id(),
            validate_only: false,
            target: Some(unload_request::Target::Apps(pb::AppNames { names: vec!["counter".to_owned()] })),
        };
        let unloaded = client.unload(request.clone()).await.unwrap();
        assert_eq!((&unloaded.apps, &unloaded.links), (&vec!["counter".to_owned()], &vec![link.name.clone()]));
        assert_eq!(client.apps(pb::ListAppsRequest::default()).await.unwrap(), []);
        // The same request again is the same answer, not an app that is not there.
        assert_eq!(client.unload(request.clone()).await.unwrap(), unloaded);
        // Its id for something else is refused.
        let other = pb::UnloadRequest { target: Some(unload_request::Target::All(pb::AllApps {})), ..request };
        let refused = client.unload(other).await.unwrap_err();
        assert_eq!((refused.reason(), refused.exit()), (Some(pb::ErrorReason::RequestIdReused), Exit::Conflict));
    });
}

#[test]
fn a_refused_load_tells_a_rust_client_why_and_what_to_do() {
    let host = Host::new();
    runtime().block_on(async {
        let mut client = connect(&host).await;
        let object = example("xdp-counter");
        load(&mut client, &object, "taken", None).await.unwrap();
        let error = load(&mut client, &object, "taken", None).await.unwrap_err();
        assert_eq!((error.reason(), error.exit()), (Some(pb::ErrorReason::NameTaken), Exit::Conflict));
        let answer = error.answer();
        insta::assert_snapshot!(
            format!("{}\n{}\n{}", answer.message, answer.cause.as_deref().unwrap(), answer.hint.as_deref().unwrap()),
            @"
        cannot load `taken`
        an app named `taken` exists
        choose another `--name`, or omit it: bpfd then adds a number
        "
        );

        let error = load(&mut client, &broken("rejected"), "rejected", None).await.unwrap_err();
        assert_eq!((error.reason(), error.exit()), (Some(pb::ErrorReason::VerifierRejected), Exit::Verifier));
        let failure = error.answer().verifier.clone().unwrap();
        let mut log = String::new();
        client.load_log(failure.log_id, |piece| log.push_str(piece)).await.unwrap();
        let line = failure.message.split("; ").next().unwrap();
        assert!(
            line.starts_with("invalid access to packet") && log.contains(line),
            "{line:?} is not in the log:\n{log}"
        );
        let apps = client.apps(pb::ListAppsRequest::default()).await.unwrap();
        assert_eq!(apps.iter().map(|app| app.name.as_str()).collect::<Vec<_>>(), ["taken"]);
    });
}

/// Runs tests of the Go module on the host's daemon; `None` without Go.
fn go(host: &Host, tests: &str) -> Option<Output> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("proto/go");
    // Not in the case's network: Go's modules come over the host's, if they are not here yet.
    let done = Command::new("go")
        .args(["test", "-json", "-count=1", "-run", tests, "./..."])
        .current_dir(module)
        .env("BPFD_SOCKET", host.path(SOCKET))
        .output();
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        done => {
            let done = done.unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Some(Output {
                line: format!("go test -run {tests}"),
                code: done.status.code().unwrap(),
                stdout: text(&done.stdout),
                stderr: text(&done.stderr),
            })
        }
    }
}

/// All that ran passed: their names, in order.
#[track_caller]
fn passed(said: &Output) -> Vec<String> {
    assert_eq!(said.code, 0, "{said}");
    let word = |event: &Value, key: &str| event.get(key)?.as_str().map(str::to_owned);
    let outcomes: BTreeMap<String, String> = said
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter_map(|event| Some((word(&event, "Test")?, word(&event, "Action")?)))
        .filter(|(_, action)| ["pass", "fail", "skip"].contains(&action.as_str()))
        .collect();
    assert!(outcomes.values().all(|outcome| outcome == "pass"), "none is left out: {outcomes:?}");
    outcomes.into_keys().collect()
}

/// The files of the daemon's object store.
fn objects(host: &Host) -> BTreeSet<OsString> {
    let files = fs::read_dir(host.path("/run/case/var/lib/bpfd/objects")).unwrap();
    files.map(|file| file.unwrap().file_name()).collect()
}

#[test]
fn the_go_module_passes_its_tests_on_a_daemon() {
    let host = Host::new();
    host.bpfctl(&format!("load --path {} --name counter xdp -i uplink", example("xdp-counter"))).ok();
    let Some(said) = go(&host, ".") else {
        println!("skipped: needs Go, which is not on PATH");
        return;
    };
    let expected = [
        "TestADaemonAnswersAClientInGo",
        "TestADaemonListsItsServices",
        "TestADaemonSaysThatItIsHealthy",
        "TestAPieceOfAnUploadThatIsTooLargeIsRefused",
        "TestAnUploadInSmallPiecesIsKept",
    ];
    assert_eq!(passed(&said), expected);
}

#[test]
fn of_an_upload_with_a_piece_that_is_too_large_nothing_stays() {
    let host = Host::new();
    let before = objects(&host);
    let refused = "TestAPieceOfAnUploadThatIsTooLargeIsRefused";
    // No test has this name: it tells whether there is Go.
    if go(&host, "NoTest").is_none() {
        println!("skipped: needs Go, which is not on PATH");
        return;
    }
    assert_eq!(passed(&host.unchanged(|| go(&host, refused).unwrap())), [refused]);
    assert_eq!(eventually(|| objects(&host), |now| *now == before), before);
    // The control: in small pieces the same object stays.
    let kept = "TestAnUploadInSmallPiecesIsKept";
    assert_eq!(passed(&host.unchanged(|| go(&host, kept).unwrap())), [kept]);
    assert_eq!(objects(&host).difference(&before).count(), 1);
}
