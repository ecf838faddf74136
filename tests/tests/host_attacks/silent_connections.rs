//! Connections on which nothing is said, as many as one may have: they end, make room, and lock nobody out. Who has none left is told.

use std::io::Read;
use std::time::{Duration, Instant};

use bpfd_tests::{Host, Output};
use insta::assert_snapshot;

use crate::raw::{Begun, LIMIT, ROOT, Raw, Sent, VIEWER, connect, run};

/// As many as one user may have.
const ALL: usize = 64;

fn host() -> Host {
    let mut host = Host::without_daemon();
    host.make_group();
    host.start();
    host
}

#[test]
fn silent_connections_lock_nobody_out_and_end() {
    let host = host();
    for who in [ROOT, VIEWER] {
        let mut silent: Vec<_> = (0..ALL).map(|_| connect(&host, who)).collect();
        // Each of these takes the place of one.
        for _ in 0..3 {
            host.bpfctl("list").ok();
            host.bpfctl_as_viewer("list").ok();
        }
        for stream in &mut silent {
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            // What the daemon says first may come before the end of it.
            let ended = stream.read_to_end(&mut Vec::new());
            assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
        }
    }
}

#[test]
fn who_has_a_call_under_way_on_each_connection_is_told_so() {
    let host = host();
    run(async {
        let mut busy = Vec::new();
        for _ in 0..ALL {
            busy.push(call_under_way(&host).await.expect("it is answered"));
        }
        // A call that the daemon has not read yet does not count: its connection makes room for a new one, and the next call is made on
        // another.
        let limit = Instant::now() + LIMIT;
        let output = loop {
            let output = host.bpfctl_as_viewer("list");
            if output.code == 1 || Instant::now() > limit {
                break output;
            }
            busy.extend(call_under_way(&host).await);
        };
        assert_snapshot!(output.refused(1), @"
        error: bpfd takes no more requests from you now
        cause: there are 64 connections of your user id, with calls under way on each
        hint: end some of them; `ss -xp` shows whose they are
        ");
        host.bpfctl("list").ok();
        host.bpfctl_as_member("list").ok();
        // One that ends makes room. What the daemon ended itself leaves none, so all that was begun ends.
        busy.clear();
        as_viewer_until(&host, 0).await.ok();
    });
}

/// A connection with a call on it that is not at its end; `None` if that was answered.
async fn call_under_way(host: &Host) -> Option<(Raw, Begun)> {
    let mut connection = Raw::try_greet(connect(host, VIEWER)).await?;
    match connection.try_begin("/bpfd.v1.AppService/ListApps").await?.send(9, 1).await {
        Sent::Taken(call) => Some((connection, call)),
        Sent::Answered(_) => None,
    }
}

/// Asks for the list until it ends with this code or the limit has come, and lets the connections of this thread go on meanwhile.
async fn as_viewer_until(host: &Host, code: i32) -> Output {
    let limit = Instant::now() + LIMIT;
    loop {
        let output = host.bpfctl_as_viewer("list");
        if output.code == code || Instant::now() > limit {
            return output;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
