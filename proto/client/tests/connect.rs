//! Connecting, and what a caller is told when it fails. No daemon is needed.

use std::path::Path;
use std::time::Duration;

use bpfd_client::proto::v1::{ErrorReason, GetInfoRequest};
use bpfd_client::{Client, ClientError};
use tokio::net::UnixListener;

const NO_WAIT: Duration = Duration::ZERO;
/// Far longer than anything here takes: it only ends a test that would hang.
const LONG: Duration = Duration::from_secs(30);

fn told(error: &ClientError) -> (Option<ErrorReason>, &str) {
    (error.reason(), error.answer().cause.as_deref().unwrap_or_default())
}

#[tokio::test]
async fn a_socket_that_is_not_there_is_said_to_be_missing() {
    let error = Client::connect(Path::new("/nonexistent/bpfd.sock"), NO_WAIT).await.unwrap_err();
    assert_eq!(told(&error), (Some(ErrorReason::DaemonUnreachable), "there is no such socket"));
    assert_eq!(error.to_string(), "cannot reach bpfd at `/nonexistent/bpfd.sock`");
}

#[tokio::test]
async fn a_socket_of_a_dead_daemon_is_said_to_have_no_listener() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    let error = Client::connect(&path, NO_WAIT).await.unwrap_err();
    assert_eq!(told(&error), (Some(ErrorReason::DaemonUnreachable), "the socket exists, but no process listens on it"));
}

#[tokio::test]
async fn a_socket_that_appears_while_we_wait_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let bind = async {
        // The first attempt has failed by the time this runs: join! polls in order.
        tokio::task::yield_now().await;
        UnixListener::bind(&path).unwrap()
    };
    let (client, _listener) = tokio::join!(Client::connect(&path, LONG), bind);
    client.unwrap();
}

#[tokio::test]
async fn a_connection_that_breaks_is_not_taken_for_an_answer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let hang_up = async {
        loop {
            drop(listener.accept().await.unwrap());
        }
    };
    let call = async {
        let mut client = Client::connect(&path, LONG).await?;
        client.info(GetInfoRequest {}).await.map(drop)
    };
    let error = tokio::select! {
        result = call => result.unwrap_err(),
        () = hang_up => unreachable!("it loops"),
    };
    assert_eq!(error.reason(), Some(ErrorReason::DaemonUnreachable));
}
