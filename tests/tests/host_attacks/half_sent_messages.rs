//! Messages that are begun and not finished, on as many calls and connections as one may have: the daemon's memory does not grow with
//! them, others are served, and who may not ask is refused before it is read what for.

use std::fs;

use bpfd_tests::{Host, eventually};
use insta::assert_snapshot;

use crate::raw::{Raw, Sent, VIEWER, connect, run};

const LIST: &str = "/bpfd.v1.AppService/ListApps";
const MIB: u32 = 1 << 20;

fn host() -> Host {
    let mut host = Host::without_daemon();
    host.make_group();
    host.start();
    host
}

/// Half of a message on each of 32 calls on each of 16 connections of the viewer: what is still taken, when all is answered or sent.
async fn attack(host: &Host, path: &str, length: u32) -> (Vec<Raw>, Vec<crate::raw::Begun>, Vec<Option<String>>) {
    let mut connections = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..16 {
        let mut connection = Raw::greet(connect(host, VIEWER)).await;
        for _ in 0..32 {
            let call = connection.begin(path).await;
            let bytes = usize::try_from(length).unwrap() - 1;
            calls.push(tokio::task::spawn_local(call.send(length, bytes)));
        }
        connections.push(connection);
    }
    let (mut taken, mut answered) = (Vec::new(), Vec::new());
    for call in calls {
        match tokio::time::timeout(crate::raw::LIMIT, call).await.expect("all is sent or answered").unwrap() {
            Sent::Taken(call) => taken.push(call),
            Sent::Answered(status) => answered.push(status),
        }
    }
    (connections, taken, answered)
}

#[test]
fn half_sent_messages_do_not_fill_the_daemons_memory_and_keep_nobody_out() {
    let host = host();
    run(async {
        let (_connections, taken, answered) = attack(&host, LIST, MIB).await;
        // 16 MiB of one user.
        assert_eq!(taken.len(), 16);
        // RESOURCE_EXHAUSTED.
        assert!(answered.iter().all(|status| status.as_deref() == Some("8")), "{answered:?}");
        host.bpfctl("list").ok();
        host.bpfctl_as_member("list").ok();
        assert_snapshot!(host.bpfctl_as_viewer("list").refused(1), @"
        error: bpfd takes no more requests from you now
        cause: your requests that are under way have 16 MiB, the most that is held of one user
        hint: try again when some of them have ended
        ");
        // Who does not go on is not waited for: DEADLINE_EXCEEDED.
        for call in taken {
            assert_eq!(call.status().await.as_deref(), Some("4"));
        }
        host.bpfctl_as_viewer("list").ok();
    });
    assert!(host.peak() <= 128, "{} MiB at the peak", host.peak());
}

#[test]
fn every_service_has_the_same_limit_for_a_message() {
    let host = host();
    let paths = [
        LIST,
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/bpfd.v1.SystemService/GetInfo",
    ];
    for path in paths {
        run(async {
            let (_connections, taken, answered) = attack(&host, path, 2 * MIB).await;
            assert_eq!((taken.len(), answered.len()), (0, 512), "{path}");
        });
    }
    assert!(host.peak() <= 128, "{} MiB at the peak", host.peak());
}

#[test]
fn who_may_not_ask_is_refused_before_64_kib_of_it_are_read() {
    let host = host();
    let denials = || {
        let text = fs::read_to_string(host.path("/run/case/var/log/bpfd/audit.jsonl")).unwrap_or_default();
        text.lines().filter(|line| line.contains("\"denied\"") && line.contains("\"viewer\"")).count()
    };
    run(async {
        let mut connection = Raw::greet(connect(&host, VIEWER)).await;
        for (number, method) in
            ["AppService/Load", "AppService/Unload", "LinkService/Attach", "ImageService/Pull"].iter().enumerate()
        {
            // PERMISSION_DENIED, at the head of a message that never comes.
            let call = connection.begin(&format!("/bpfd.v1.{method}")).await;
            let status = match call.send((64 << 10) + 1, 0).await {
                Sent::Taken(call) => call.status().await,
                Sent::Answered(status) => status,
            };
            assert_eq!(status.as_deref(), Some("7"), "{method}");
            assert!(eventually(denials, |found| *found > number) > number, "{method} is not on record");
        }
        // What a viewer may ask is read to its end, however long.
        let call = connection.begin(LIST).await;
        assert!(matches!(call.send(MIB, 1 << 19).await, Sent::Taken(_)), "the control");
    });
}
