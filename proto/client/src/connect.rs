//! Makes a gRPC channel over a unix socket, with an error that says what is wrong with the socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bpfd_proto::status::Refusal;
use bpfd_proto::v1::ErrorReason;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::ClientError;

/// Between two attempts: short beside the time in which a daemon starts.
const AGAIN: Duration = Duration::from_millis(20);

pub(crate) async fn channel(path: &Path, wait: Duration) -> Result<Channel, ClientError> {
    let first = first_stream(path, wait).await.map_err(|error| refusal(path, &error))?;
    // The stream that proved that somebody listens is the first connection; later ones are made anew.
    let mut first = Some(first);
    let path = path.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let first = first.take();
        let path = path.clone();
        async move { stream(first, path).await.map(TokioIo::new) }
    });
    // The name only fills the :authority header: a unix socket has none.
    let endpoint = Endpoint::from_static("http://bpfd");
    endpoint.connect_with_connector(connector).await.map_err(ClientError::transport)
}

async fn stream(first: Option<UnixStream>, path: PathBuf) -> io::Result<UnixStream> {
    match first {
        Some(stream) => Ok(stream),
        None => UnixStream::connect(path).await,
    }
}

async fn first_stream(path: &Path, wait: Duration) -> io::Result<UnixStream> {
    let deadline = Instant::now() + wait;
    loop {
        match UnixStream::connect(path).await {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
                    && Instant::now() < deadline =>
            {
                sleep(AGAIN).await;
            }
            result => return result,
        }
    }
}

fn refusal(path: &Path, error: &io::Error) -> ClientError {
    let what = format!("cannot reach bpfd at `{}`", path.display());
    let refusal = match error.kind() {
        io::ErrorKind::NotFound => Refusal::new(ErrorReason::DaemonUnreachable, what)
            .cause("there is no such socket")
            .hint("start the daemon with `systemctl start bpfd` or `sudo bpfd`, or name its socket with --socket"),
        io::ErrorKind::ConnectionRefused => Refusal::new(ErrorReason::DaemonUnreachable, what)
            .cause("the socket is there, but nobody listens")
            .hint("start the daemon with `systemctl start bpfd` or `sudo bpfd`"),
        io::ErrorKind::PermissionDenied => Refusal::new(ErrorReason::SocketDenied, what)
            .cause("you may not open the socket")
            .hint("run as root, or as a member of the group `bpfd`"),
        _ => Refusal::new(ErrorReason::DaemonUnreachable, what).cause(error.to_string()),
    };
    ClientError::from(refusal)
}
