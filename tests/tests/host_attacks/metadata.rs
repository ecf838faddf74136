//! Headers of 64 KiB on as many calls as one may have: refused, at no cost to others.

use bpfd_tests::Host;

use crate::raw::{LIMIT, Raw, VIEWER, connect, run};

#[test]
fn headers_of_64_kib_are_refused_and_not_kept() {
    let mut host = Host::without_daemon();
    host.make_group();
    host.start();
    run(async {
        let mut calls = Vec::new();
        for _ in 0..32 {
            let mut raw = Raw::greet(connect(&host, VIEWER)).await;
            // One header, and many.
            for number in [1, 64] {
                let value = "x".repeat((64 << 10) / number);
                let headers = (0..number).map(|at| (format!("x-of-{at}"), value.clone()));
                if let Some(call) = raw.begin_with("/bpfd.v1.AppService/ListApps", headers).await {
                    calls.push(tokio::task::spawn_local(call.ask([])));
                }
            }
            // Beside them, on the same connection or, if that was ended, on another.
            drop(raw);
        }
        for call in calls {
            let status = tokio::time::timeout(LIMIT, call).await.expect("an answer or an end").unwrap();
            assert_ne!(status.as_deref(), Some("0"), "it was answered");
        }
    });
    host.bpfctl_as_viewer("list").ok();
    host.bpfctl("list").ok();
    assert!(host.peak() <= 128, "{} MiB at the peak", host.peak());
}

#[test]
fn headers_of_an_honest_size_are_read() {
    let mut host = Host::without_daemon();
    host.make_group();
    host.start();
    run(async {
        let mut raw = Raw::greet(connect(&host, VIEWER)).await;
        let headers = [("x-of".to_owned(), "x".repeat(8 << 10))].into_iter();
        let call = raw.begin_with("/bpfd.v1.AppService/ListApps", headers).await.unwrap();
        assert_eq!(call.ask([]).await.as_deref(), Some("0"));
    });
}
