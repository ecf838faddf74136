//! A user who looks at everything as often as it can: few of its calls are taken, the refusals of the others take their time, and root
//! waits for none of them.

use std::thread;
use std::time::{Duration, Instant};

use bpfd_client::proto::v1 as pb;
use bpfd_client::{Client, ClientError};
use bpfd_tests::Host;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

use crate::raw::{Door, VIEWER};

/// Calls at a time: four times as many as a user may have.
const CONNECTIONS: usize = 8;
const STREAMS: usize = 32;
/// The most that is taken of one user.
const TAKEN: usize = 64;
/// What a refusal waits for.
const PAUSE: Duration = Duration::from_secs(1);

#[test]
fn of_a_flood_of_calls_few_are_taken_and_root_is_served() {
    let mut host = Host::without_daemon();
    host.make_group();
    host.start();
    host.counter("r", 50, 1);
    let door = Door::of(&host);
    let flood = || -> Vec<(Result<(), ClientError>, Duration)> {
        let path = door.opened_as(VIEWER);
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let streams = LocalSet::new();
        let mut calls = Vec::new();
        for _ in 0..CONNECTIONS {
            let client = runtime.block_on(Client::connect(&path, Duration::ZERO)).unwrap();
            for _ in 0..STREAMS {
                let mut client = client.clone();
                calls.push(streams.spawn_local(async move {
                    let began = Instant::now();
                    let answer = client.doctor(pb::DoctorRequest {}).await;
                    (answer.map(drop), began.elapsed())
                }));
            }
        }
        runtime.block_on(streams);
        calls.into_iter().map(|call| runtime.block_on(call).unwrap()).collect()
    };
    let answers = thread::scope(|scope| {
        let flood = scope.spawn(flood);
        for _ in 0..5 {
            host.bpfctl("detach -q r/count@uplink:xdp").ok();
            host.bpfctl("attach -q r xdp -i uplink --priority 50").ok();
        }
        flood.join().unwrap()
    });
    let (taken, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(answer, _)| answer.is_ok());
    assert!((1..=TAKEN).contains(&taken.len()), "{} are taken", taken.len());
    for (answer, waited) in refused {
        let refusal = answer.unwrap_err();
        assert_eq!(refusal.reason(), Some(pb::ErrorReason::ResourceExhausted), "{refusal:?}");
        assert!(waited >= PAUSE, "refused after {waited:?}");
    }
}
